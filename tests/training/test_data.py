import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from pot_jax.errors import UserError
from pot_jax.media.pixels import from_bytes, to_bytes
from pot_jax.runs import claims, interrupts
from pot_jax.runs.claims import held
from pot_jax.training import data
from pot_jax.training.data import (
    batch_indices,
    describe_views,
    draw_views,
    finished,
    render_views,
    worker_processes,
)
from pot_jax.training.settings import DataSettings
from pot_jax.world import captions

CONFIG = DataSettings(pictures=20, size=8, held_out=4, deepest=3.5, workers=2, phrasings=1)


def flat(seed: int, scale: float, size: int) -> np.ndarray:
    """A picture that shows its own view: (seed, scale, 0)."""
    return flat_in_colour(0.0, seed, scale, size)


def flat_in_colour(blue: float, seed: int, scale: float, size: int) -> np.ndarray:
    row = np.array([seed % 100 / 50 - 1, scale / 2 - 1, blue], np.float32)
    return np.broadcast_to(row, (size, size, 3))


@pytest.fixture(scope="module", autouse=True)
def processes():
    with worker_processes(1) as started:
        yield started


@pytest.fixture
def rendered(processes):
    def render(folder, settings, seed, picture, progress=lambda done, total: None):
        renders = render_views(folder, settings, seed, picture, processes, progress)
        pictures = renders.read(0, settings.pictures)
        while (folder / claims._CLAIM).exists():  # it is let go a moment after the last picture
            time.sleep(0.001)
        return pictures

    return render


def test_views_cover_the_scales_evenly_with_a_world_each():
    views = draw_views(dataclasses.replace(CONFIG, pictures=1000), seed=3)
    seeds, scales = zip(*views)
    counts, _ = np.histogram(scales, bins=10, range=(0, CONFIG.deepest))
    assert counts.min() >= 99  # one jittered view a thousandth of the range
    assert len(set(seeds)) == 1000
    half, _ = np.histogram(scales[:500], bins=10, range=(0, CONFIG.deepest))
    assert half.min() > 25  # shuffled: the first half covers them too
    assert not set(seeds) & {seed for seed, _ in draw_views(CONFIG, seed=4)}


def test_rendered_pictures_are_in_the_views_order(tmp_path, monkeypatch, rendered):
    monkeypatch.setattr(data, "SHARD", 6)
    pictures = rendered(tmp_path, CONFIG, 0, flat)
    views = draw_views(CONFIG, 0)
    expected = np.stack([to_bytes(flat(*view, 8)) for view in views])
    np.testing.assert_array_equal(pictures, expected)
    assert pictures.dtype == np.uint8


def test_an_interrupted_rendering_goes_on_where_it_stopped(tmp_path, monkeypatch, rendered):
    monkeypatch.setattr(data, "SHARD", 10)
    whole = rendered(tmp_path, CONFIG, 0, flat)
    (tmp_path / "shard_00001.npy").unlink()
    kept = (tmp_path / "shard_00000.npy").stat().st_mtime_ns
    calls = []
    again = rendered(
        tmp_path, CONFIG, 0, flat, progress=lambda done, total: calls.append((done, total))
    )
    np.testing.assert_array_equal(again, whole)
    assert calls == [(10, 20), (20, 20)]
    assert (tmp_path / "shard_00000.npy").stat().st_mtime_ns == kept


@pytest.mark.parametrize(
    ("changes", "seed", "words"),
    [
        ({}, 1, "seed is 0 there, 1 here"),
        ({"size": 16}, 0, "size is 8 there, 16 here"),
        ({"pictures": 21}, 0, "pictures is 20 there, 21 here"),
        ({"pictures": 19}, 0, "pictures is 20 there, 19 here"),
        ({"deepest": 3.0}, 0, "deepest is 3.5 there, 3.0 here"),
    ],
)
def test_a_folder_of_other_renders_is_refused(changes, seed, words, tmp_path, rendered):
    rendered(tmp_path, CONFIG, 0, flat)
    kept = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=f"renders: .*another set of renders .*{words}") as caught:
        rendered(tmp_path, dataclasses.replace(CONFIG, **changes), seed, flat)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == kept


def test_renders_whose_record_names_a_moved_painter_are_still_these(tmp_path, rendered):
    whole = rendered(tmp_path, CONFIG, 0, flat)
    record = json.loads((tmp_path / "views.json").read_text())
    record |= {"picture": "pot_jax.training.worlds.world.picture", "first_pictures": "0123"}
    (tmp_path / "views.json").write_text(json.dumps(record))
    np.testing.assert_array_equal(rendered(tmp_path, CONFIG, 0, flat), whole)


def test_a_kill_while_the_record_is_written_leaves_the_folder_free(tmp_path, rendered):
    (tmp_path / ".views.0123.json").write_text("{")
    assert len(rendered(tmp_path, CONFIG, 0, flat)) == CONFIG.pictures
    (tmp_path / "views.json").rename(tmp_path / "other.json")
    with pytest.raises(UserError, match="renders: .* holds other files and no set of renders"):
        rendered(tmp_path, CONFIG, 0, flat)


def test_renders_of_a_world_that_has_changed_since_are_refused(tmp_path, monkeypatch, rendered):
    """Captions are made by today's code: they would describe pictures that are not there."""
    rendered(tmp_path, CONFIG, 0, flat)
    repainted = functools.partial(flat_in_colour, 0.25)
    kept = (tmp_path / "shard_00000.npy").read_bytes()
    with pytest.raises(UserError, match="renders: .* of another world"):
        rendered(tmp_path, CONFIG, 0, repainted)
    assert (tmp_path / "shard_00000.npy").read_bytes() == kept


@pytest.mark.parametrize(
    ("pictures", "words"),
    [
        (np.zeros((20, 16, 16, 3), np.uint8), "uint8 .20, 16, 16, 3., expected uint8 .20, 8, 8, 3"),
        (np.zeros((19, 8, 8, 3), np.uint8), "expected uint8 .20, 8, 8, 3"),
        (np.zeros((20, 8, 8, 3), np.float32), "float32 .*expected uint8"),
        (b"", "cannot be read"),
        (b"\x93NUMPY", "cannot be read"),
    ],
)
def test_a_shard_that_is_not_what_it_should_be_is_refused(tmp_path, pictures, words, rendered):
    rendered(tmp_path, CONFIG, 0, flat)
    shard = tmp_path / "shard_00000.npy"
    shard.write_bytes(pictures) if isinstance(pictures, bytes) else np.save(shard, pictures)
    left = shard.read_bytes()
    with pytest.raises(UserError, match=words) as caught:
        rendered(tmp_path, CONFIG, 0, flat)
    assert "\n" not in str(caught.value)
    assert str(shard) in str(caught.value)
    assert shard.read_bytes() == left


@pytest.mark.parametrize(("first", "end"), [(0, 20), (3, 5), (5, 6), (4, 13), (19, 20), (7, 7)])
def test_any_part_of_the_pictures_can_be_read(tmp_path, monkeypatch, processes, first, end):
    monkeypatch.setattr(data, "SHARD", 6)
    renders = render_views(tmp_path, CONFIG, 0, flat, processes)
    part = renders.read(first, end)
    np.testing.assert_array_equal(part, renders.read(0, 20)[first:end])


def test_a_read_waits_for_its_own_pictures_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "SHARD", 5)
    with worker_processes(1) as processes, interrupts.at_once():
        renders = render_views(tmp_path, CONFIG, 0, slow_after_the_first, processes)
        assert len(renders.read(16, 20)) == 4  # held out: rendered first, of shard 3
        assert len(renders.read(0, 5)) == 5
        assert not (tmp_path / "shard_00002.npy").exists()
        with pytest.raises(UserError, match="renders: .* in use by process"):
            check_held_by_others(tmp_path)
        threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGTERM]).start()
        with pytest.raises(interrupts.Stopped):
            renders.read(5, 10)


def check_held_by_others(folder):
    with held(folder, "renders"):
        pass


def slow_after_the_first(seed: int, scale: float, size: int) -> np.ndarray:
    views = draw_views(CONFIG, 0)
    if seed not in {s for s, _ in views[:5] + views[15:]}:
        time.sleep(10)
    return flat(seed, scale, size)


def test_a_process_that_is_killed_is_one_clear_line():
    with worker_processes(1) as processes:
        job = processes.submit(os._exit, 1)
        with pytest.raises(UserError, match="was killed, .*fewer data.workers"):
            finished(job)


def test_processes_end_with_a_parent_that_was_killed():
    code = (
        "import os, sys; from pot_jax.training.data import finished, worker_processes\n"
        "if __name__ == '__main__':\n"
        "    with worker_processes(1) as processes:\n"
        "        print(finished(processes.submit(os.getpid)), flush=True); os._exit(9)"
    )
    # The pipe ends when the last process that can write to it has ended.
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=60)
    assert done.returncode == 9
    assert int(done.stdout) > 0


def test_every_view_is_described_in_order(monkeypatch, processes):
    monkeypatch.setattr(data, "SHARD", 6)
    settings = dataclasses.replace(CONFIG, phrasings=3)
    parts = [finished(job) for job in describe_views(settings, 0, processes)]
    views = draw_views(settings, 0)[:16]
    expected = [[captions.caption(*view, i) for view in views] for i in range(3)]
    found = [[texts[n] for texts, chosen, _ in parts for n in chosen[i]] for i in range(3)]
    assert found == expected
    assert [a["concept"] for *_, answers in parts for a in answers] == [
        captions.concept(scale) for _, scale in views
    ]


def test_bytes_round_trip():
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_bytes(from_bytes(every)), every)
    np.testing.assert_array_equal(to_bytes(np.array([-2.0, 2.0])), [0, 255])


def test_every_pass_sees_each_example_once():
    taken = np.concatenate([batch_indices(0, step, 6, 15) for step in range(5)])  # two passes
    assert sorted(taken[:15]) == sorted(taken[15:]) == list(range(15))
    assert list(taken[:15]) != list(taken[15:])


def test_a_batch_depends_on_seed_and_step_only():
    np.testing.assert_array_equal(batch_indices(1, 9, 4, 15), batch_indices(1, 9, 4, 15))
    assert list(batch_indices(1, 0, 15, 15)) != list(batch_indices(2, 0, 15, 15))


@pytest.mark.parametrize(
    "change", [{"held_out": 20}, {"size": 4}, {"deepest": 0.0}, {"workers": 0}]
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(UserError, match=next(iter(change))):
        dataclasses.replace(CONFIG, **change)
