"""Runs in object stores: claims, saved states, and all that a run writes and reads."""

import dataclasses
import json
import os
import time
from datetime import timedelta

import jax
import jax.numpy as jnp
import numpy as np
import object_stores
import pytest
from contention import most_at_once
from tiny_models import tiny_model

from pot_jax.config import MovieSettings, RunSettings, SamplerSettings
from pot_jax.errors import Unreachable, UserError
from pot_jax.evaluation.evaluate import evaluate
from pot_jax.media.files import located
from pot_jax.pipelines import zoom as pipeline
from pot_jax.runs import claims
from pot_jax.runs.checkpoints import Checkpoints
from pot_jax.runs.claims import InUse, check_held, held
from pot_jax.runs.folder import remake_movie, write_view
from pot_jax.runs.zoom import read_zoom

RUN = "s3://bucket/run"
CLAIM = ".pot_jax-claim.json"
ELSEWHERE = {"name": "other", "host": ["pid:[1]", "another boot"], "token": "theirs"}


@pytest.fixture
def store(monkeypatch):
    return object_stores.install(monkeypatch)


def names(folder=RUN):
    return [str(path)[len(folder) + 1 :] for path in located(folder).rglob("*")]


# Claims. -----------------------------------------------------------------------------------------


def claimed(store, age=0.0, **changes):
    """A claim as a process left it that differs from this one in `changes`, and how old."""
    path = located(RUN) / CLAIM
    path.write_bytes(
        json.dumps(claims._process(os.getpid()) | {"token": "mine"} | changes).encode()
    )
    store.store[store._strip_protocol(str(path))].modified -= timedelta(seconds=age)
    return path


def test_a_folder_is_held_by_one(store):
    with held(RUN):
        assert names() == [CLAIM]
        with pytest.raises(InUse, match=rf"{RUN} is in use by process {os.getpid()} on"):
            check_held(RUN)
        with pytest.raises(InUse), held(RUN):
            pass
    assert names() == []


@pytest.mark.parametrize(
    ("changes", "age", "is_held"),
    [
        ({}, 1e6, True),  # asleep, not ended
        ({"start": "1"}, 0, False),  # its number now belongs to this process
        (ELSEWHERE, claims.STALE - 5, True),
        (ELSEWHERE, claims.STALE + 5, False),
    ],
)
def test_when_a_claim_counts(store, changes, age, is_held):
    path = claimed(store, age, **changes)
    if is_held:
        with pytest.raises(InUse, match="is in use by"), held(RUN):
            pass
        assert names() == [CLAIM]
        return
    path.with_name(".pot_jax-1a2b").write_bytes(b"a killed process's")
    with held(RUN):
        assert json.loads(path.read_text())["token"] not in ("mine", "theirs")
        assert names() == [CLAIM]
    assert names() == []


def test_a_claim_that_cannot_be_read_is_not_taken_for_stale(store, monkeypatch):
    path = claimed(store, claims.STALE + 5, **ELSEWHERE)
    path.with_name(".pot_jax-beat-theirs").write_bytes(b"{}")  # just now: it is alive
    reads = iter([False, True])  # the second fails, which looks for the heartbeat's name

    def cat_file(*given, **how):
        if next(reads, False):
            raise PermissionError("a moment's trouble")
        return type(store).cat_file(store, *given, **how)

    monkeypatch.setattr(store, "cat_file", cat_file)
    with pytest.raises(Unreachable, match="a moment's trouble"), held(RUN):
        pass
    assert CLAIM in names()
    with pytest.raises(InUse, match="is in use by"), held(RUN):
        pass


def test_the_heartbeat_counts_and_the_claim_stays_as_it_was(store, monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.02)
    monkeypatch.setattr(claims, "_process", lambda pid: {"pid": pid, "host": ["", ""], "start": ""})
    with held(RUN):
        made = (located(RUN) / CLAIM).stat().st_mtime
        deadline = time.monotonic() + 10
        while len(names()) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        store.store["/bucket/run/" + CLAIM].modified -= timedelta(seconds=1e6)
        with pytest.raises(InUse):
            check_held(RUN)
        assert (located(RUN) / CLAIM).stat().st_mtime == pytest.approx(made - 1e6)
    time.sleep(0.1)
    assert CLAIM not in names()


@pytest.mark.parametrize("stale", [False, True])
def test_a_folder_goes_to_one_of_many(store, stale):
    if stale:
        claimed(store, start="1")
    assert most_at_once(RUN) == 1
    with held(RUN):  # nothing is left that would keep others out
        pass


def test_nobody_removes_the_claim_of_a_successor(store, monkeypatch):
    path = claimed(store, claims.STALE + 5, **ELSEWHERE)

    def overtaken(folder, flag):  # between the look at the stale claim and its removal
        path.unlink()
        path.write_bytes(b'{"token": "new"}')
        return True

    monkeypatch.setattr(claims, "check_held", overtaken)
    claims._remove_stale(path, "--workdir")
    assert path.read_text() == '{"token": "new"}'
    assert names() == [CLAIM]


def test_without_conditional_writes_a_stale_claim_stays(monkeypatch):
    store = object_stores.install(monkeypatch, knows_conditions=False)
    with held(RUN), pytest.raises(InUse, match="is in use by"), held(RUN):
        pass
    assert names() == []
    claimed(store, 1e6, **ELSEWHERE)
    with pytest.raises(InUse, match=rf"delete {RUN}/{CLAIM}") as caught, held(RUN):
        pass
    assert "\n" not in str(caught.value)
    assert names() == [CLAIM]


def test_one_that_takes_over_and_ends_is_named(store):
    path = claimed(store, claims.STALE + 5, **ELSEWHERE)
    path.with_name(".pot_jax-over-theirs").write_bytes(b"killed here")
    with pytest.raises(InUse, match=rf"delete .* and {RUN}/.pot_jax-over-theirs"), held(RUN):
        pass


# Saved states. -----------------------------------------------------------------------------------


@pytest.fixture
def state():
    return {"latents": jnp.arange(600.0).reshape(20, 30), "step": jnp.int32(3)}


def test_states_come_back_bit_for_bit(store, state):
    states = Checkpoints(f"{RUN}/state")
    assert states.restore(state) is None
    for step in (1, 2, 3):
        states.save(step, jax.tree.map(lambda x, n=step: x + n, state), {"seconds": step})
    assert sorted(states.steps()) == [2, 3]
    step, found, facts = Checkpoints(f"{RUN}/state").restore(jax.tree.map(jnp.zeros_like, state))
    assert (step, facts) == (3, {"seconds": 3})
    jax.tree.map(np.testing.assert_array_equal, found, jax.tree.map(lambda x: x + 3, state))


def test_a_step_is_there_once_all_of_it_is(store, state, monkeypatch):
    states, left = Checkpoints(f"{RUN}/state"), [5]
    states.save(1, state, {})
    real = type(store).put_file

    def cut(*given, **how):  # the connection, after so many files
        left[0] -= 1
        if not left[0]:
            raise ConnectionResetError("reset")
        return real(*given, **how)

    monkeypatch.setattr(type(store), "put_file", cut)
    with pytest.raises(UserError, match="step 2: .*reset.* resumes from step 1"):
        states.save(2, state, {})
    monkeypatch.setattr(type(store), "put_file", real)
    assert states.steps() == [1]
    assert Checkpoints(f"{RUN}/state").restore(state)[0] == 1
    states.save(2, state, {})
    assert Checkpoints(f"{RUN}/state").restore(state)[0] == 2


def test_a_damaged_step_is_passed_over(store, state, caplog):
    states = Checkpoints(f"{RUN}/state")
    for step in (1, 2):
        states.save(step, state, {})
    victim = max((located(f"{RUN}/state/2")).rglob("*"), key=lambda path: path.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(bytes(data))
    states = Checkpoints(f"{RUN}/state")
    assert states.restore(state)[0] == 1
    assert "step 2" in caplog.text
    states.save(2, state, {})
    assert Checkpoints(f"{RUN}/state").restore(state)[0] == 2


def test_a_store_that_does_not_answer_is_no_damage(store, state, monkeypatch):
    states = Checkpoints(f"{RUN}/state")
    for step in (1, 2):
        states.save(step, state, {})

    def fail(*given, **how):
        raise ConnectionResetError("reset")

    monkeypatch.setattr(type(store), "cat_file", fail)
    with pytest.raises(Unreachable):
        states.restore(state)


# Runs. -------------------------------------------------------------------------------------------

SETTINGS = RunSettings(
    prompts=("a", "star"),
    sampler=SamplerSettings(steps=7, space="latent"),
    movie=MovieSettings(fps=2, size=16),
    save_every=1,
    preview_every=5,
)


@pytest.fixture(scope="module")
def prepare(tmp_path_factory):
    model = tiny_model(tmp_path_factory.mktemp("tokenizer"))
    return lambda settings=SETTINGS: pipeline.prepare(model, settings, devices=jax.devices()[:1])


def local(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name in wanted:
        if not name.endswith(("config.json", "metrics.json")):  # which have times
            assert found[name] == wanted[name], name


@pytest.mark.parametrize("url", ["s3://bucket/a/run", "gs://bucket/run"])
@pytest.mark.parametrize("samples", [1, 2])
def test_a_run_is_that_of_a_disk(store, prepare, tmp_path, monkeypatch, url, samples):
    """Sampled, stopped and resumed, whole, mended, shown again and measured."""
    monkeypatch.chdir(tmp_path)
    prepared = prepare(dataclasses.replace(SETTINGS, num_samples=samples))
    pipeline.sample_run(prepared, tmp_path / "run")
    wanted, seen = local(tmp_path / "run"), []

    def stop(watched):
        seen.append(int(watched.steps[-1]))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.sample_run(prepared, url, callback=stop)
    assert any(name.startswith("state/5/") for name in names(url)) or seen == [4]
    pipeline.sample_run(prepared, url)

    def found():
        return {name: (located(url) / name).read_bytes() for name in names(url)}

    same(found(), wanted)
    before = found()
    assert pipeline.sample_run(prepared, url) is None
    assert found() == before
    sample = located(url) / ("stack_001" if samples == 2 else "")
    (sample / "levels" / "level_001.png").unlink()
    (sample / "zoom.mp4").write_bytes(b"damaged")
    assert len(pipeline.sample_run(prepared, url)) == samples
    same(found(), wanted)
    np.testing.assert_array_equal(read_zoom(sample).images, read_zoom(str(sample)).images)
    remake_movie(str(sample), MovieSettings(fps=3, size=16))
    assert (
        found()[str(sample / "zoom.mp4")[len(url) + 1 :]]
        != wanted["zoom.mp4" if samples == 1 else "stack_001/zoom.mp4"]
    )
    write_view(f"{sample}/zoom.html", [str(sample)]) if samples == 1 else None
    write_view(tmp_path / "page.html", [url, str(tmp_path / "run")])
    scores = [
        evaluate(place)["scores"]
        for place in (sample, tmp_path / "run" / sample.name if samples == 2 else tmp_path / "run")
    ]
    times = {"seconds_per_step", "peak_bytes"}
    assert {n: x for n, x in scores[0].items() if n not in times} == {
        n: x for n, x in scores[1].items() if n not in times
    }
    # Nothing was taken for a path of this machine.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "run"]
    assert not os.path.exists(f"/{url[:2]}")
