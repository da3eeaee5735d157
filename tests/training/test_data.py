import dataclasses
import functools
import itertools
import json

import numpy as np
import pytest

from pot_jax.errors import UserError
from pot_jax.media.pixels import from_bytes, to_bytes
from pot_jax.training import data
from pot_jax.training.data import batch_indices, draw_views, render_views
from pot_jax.training.settings import DataSettings

CONFIG = DataSettings(pictures=20, size=8, held_out=4, deepest=3.5, workers=2, phrasings=1)


def flat(seed: int, scale: float, size: int) -> np.ndarray:
    """A picture that shows its own view: (seed, scale, 0)."""
    return flat_in_colour(0.0, seed, scale, size)


def flat_in_colour(blue: float, seed: int, scale: float, size: int) -> np.ndarray:
    row = np.array([seed % 100 / 50 - 1, scale / 2 - 1, blue], np.float32)
    return np.broadcast_to(row, (size, size, 3))


def test_views_cover_the_scales_evenly_with_a_world_each():
    views = draw_views(dataclasses.replace(CONFIG, pictures=1000), seed=3)
    counts, _ = np.histogram(views.scales, bins=10, range=(0, CONFIG.deepest))
    assert counts.min() >= 99  # one jittered view a thousandth of the range
    assert len(set(views.seeds)) == 1000
    half, _ = np.histogram(views.scales[:500], bins=10, range=(0, CONFIG.deepest))
    assert half.min() > 25  # shuffled: the first half covers them too
    assert not set(views.seeds) & set(draw_views(CONFIG, seed=4).seeds)


def test_rendered_pictures_are_in_the_views_order(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "SHARD", 6)
    pictures = render_views(tmp_path, CONFIG, 0, flat)
    views = draw_views(CONFIG, 0)
    expected = np.stack(
        [to_bytes(flat(s, scale, 8)) for s, scale in zip(views.seeds, views.scales)]
    )
    np.testing.assert_array_equal(pictures, expected)
    assert pictures.dtype == np.uint8


def test_an_interrupted_rendering_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "SHARD", 10)
    whole = render_views(tmp_path, CONFIG, 0, flat)
    (tmp_path / "shard_00001.npy").unlink()
    kept = (tmp_path / "shard_00000.npy").stat().st_mtime_ns
    calls = []
    again = render_views(tmp_path, CONFIG, 0, flat, lambda done, total: calls.append((done, total)))
    np.testing.assert_array_equal(again, whole)
    assert calls == [(10, 20), (20, 20)]
    assert (tmp_path / "shard_00000.npy").stat().st_mtime_ns == kept


def test_a_folder_of_other_renders_is_refused(tmp_path):
    render_views(tmp_path, CONFIG, 0, flat)
    with pytest.raises(UserError, match="another set of renders .*seed is 0 there, 1 here"):
        render_views(tmp_path, CONFIG, 1, flat)


def test_renders_whose_record_names_a_moved_painter_are_still_these(tmp_path):
    whole = render_views(tmp_path, CONFIG, 0, flat)
    record = json.loads((tmp_path / "views.json").read_text())
    record["picture"] = "pot_jax.training.worlds.world.picture"
    (tmp_path / "views.json").write_text(json.dumps(record))
    np.testing.assert_array_equal(render_views(tmp_path, CONFIG, 0, flat), whole)


def test_a_kill_while_the_record_is_written_leaves_the_folder_free(tmp_path):
    (tmp_path / ".views.0123.json").write_text("{")
    assert len(render_views(tmp_path, CONFIG, 0, flat)) == CONFIG.pictures
    (tmp_path / "views.json").rename(tmp_path / "other.json")
    with pytest.raises(UserError, match="renders: .* holds other files and no set of renders"):
        render_views(tmp_path, CONFIG, 0, flat)


def test_renders_of_a_world_that_has_changed_since_are_refused(tmp_path, monkeypatch):
    """Captions are made by today's code: they would describe pictures that are not there."""
    render_views(tmp_path, CONFIG, 0, flat)
    repainted = functools.partial(flat_in_colour, 0.25)
    with pytest.raises(UserError, match="first_pictures"):
        render_views(tmp_path, CONFIG, 0, repainted)


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


def test_prefetch_loads_every_step_in_order():
    assert list(itertools.islice(data.prefetch(lambda step: step * 10, 3), 4)) == [30, 40, 50, 60]


def test_prefetch_passes_an_error_on():
    def load(step):
        if step == 2:
            raise ValueError("no such batch")
        return step

    batches = data.prefetch(load, 0)
    with pytest.raises(ValueError, match="no such batch"):
        list(itertools.islice(batches, 3))


@pytest.mark.parametrize(
    "change", [{"held_out": 20}, {"size": 4}, {"deepest": 0.0}, {"workers": 0}]
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(UserError, match=next(iter(change))):
        dataclasses.replace(CONFIG, **change)
