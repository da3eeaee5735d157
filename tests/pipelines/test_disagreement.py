"""What a run measures on its way: its disagreement at every step, and its peak of memory."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from tiny_models import tiny_model

from pot_jax.config import SIZES, MovieSettings, RunSettings, SamplerSettings
from pot_jax.parallel import memory
from pot_jax.pipelines import zoom as pipeline
from pot_jax.runs.folder import SavedStates
from pot_jax.runs.record import digest
from pot_jax.runs.zoom import read_zoom

SETTINGS = RunSettings(
    prompts=("a", "star"),
    num_samples=2,
    save_every=5,
    record_disagreement=True,
    sampler=SamplerSettings(steps=12, space="latent"),
    movie=MovieSettings(fps=2, size=16),
)
SILENT = dataclasses.replace(SETTINGS, record_disagreement=False)


@pytest.fixture(scope="module")
def prepare(tmp_path_factory):
    model = tiny_model(tmp_path_factory.mktemp("tokenizer"))
    return lambda settings: pipeline.prepare(model, settings, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def whole(prepare):
    """An unbroken run's zooms, and what its callback was told, [12, 2]."""
    seen = []
    zooms = pipeline.sample_run(prepare(SETTINGS), callback=lambda w: seen.append(w.disagreement))
    return zooms, np.concatenate(seen)


def curves(folder):
    files = [folder / f"stack_00{index}" / "metrics.json" for index in (0, 1)]
    return [json.loads(file.read_text()).get("disagreement") for file in files]


def killed(prepared, folder, monkeypatch, at):
    saved = SavedStates.save

    def save(self, states, done, **last):
        saved(self, states, done, **last)
        if done == at:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SavedStates, "save", save)
        with pytest.raises(KeyboardInterrupt):
            pipeline.sample_run(prepared, folder)


def test_every_step_of_every_sample_is_recorded(whole):
    zooms, told = whole
    assert told.shape == (12, 2)
    for index, zoom in enumerate(zooms):
        np.testing.assert_array_equal(np.float32(zoom.timings["disagreement"]), told[:, index])
    assert (told > 0).all()
    assert (told[:, 0] != told[:, 1]).all()


def test_a_killed_run_goes_on_with_its_curve(prepare, whole, tmp_path, monkeypatch):
    killed(prepare(SETTINGS), tmp_path, monkeypatch, at=10)
    pipeline.sample_run(prepare(SETTINGS), tmp_path)
    assert curves(tmp_path) == [zoom.timings["disagreement"] for zoom in whole[0]]
    again = read_zoom(tmp_path / "stack_001")
    assert again.timings["disagreement"] == whole[0][1].timings["disagreement"]


def test_steps_that_were_not_recorded_are_empty(prepare, whole, tmp_path, monkeypatch):
    killed(prepare(SILENT), tmp_path, monkeypatch, at=5)
    pipeline.sample_run(prepare(SETTINGS), tmp_path)
    for curve, zoom in zip(curves(tmp_path), whole[0]):
        assert curve == [None] * 5 + zoom.timings["disagreement"][5:]


def test_it_is_free_when_not_asked_for_and_no_part_of_what_a_run_is(prepare, whole, tmp_path):
    prepared = prepare(SILENT)
    assert prepared.identity == prepare(SETTINGS).identity
    compiled = []
    real = type(prepared.job.program).compiled

    def watch(self, **calls):
        compiled.extend(calls)
        return real(self, **calls)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(prepared.job.program), "compiled", watch)
        zooms = pipeline.sample_run(prepared, tmp_path)
    assert "chunk" in compiled
    assert "watched_chunk" not in compiled
    assert curves(tmp_path) == [None, None]
    for one, other in zip(zooms, whole[0]):
        np.testing.assert_array_equal(one.images, other.images)


def test_newer_settings_leave_the_identity_of_older_runs_alone(prepare):
    """Their records have no such settings: the digest is that of the others."""
    sampler = dataclasses.asdict(prepare(SETTINGS).settings.sampler)
    newer = ["agreement_vae", "noise", "time_travel", "method", "strip", "agree_first", *SIZES]
    for name in [
        *newer,
        "agree_every",
        "blend_release",
        "own_colour",
        "timestep_spacing",
        "sigmas",
    ]:
        del sampler[name]
    assert prepare(SETTINGS).identity["sampler"] == digest(sampler)
    for other in ({"noise": "blurred"}, {"time_travel": 2}, {"method": "outpainting"}):
        settings = dataclasses.replace(
            SETTINGS, sampler=dataclasses.replace(SETTINGS.sampler, **other)
        )
        assert prepare(settings).identity["sampler"] != digest(sampler)


def test_the_peak_of_memory_is_in_the_metrics(prepare, tmp_path):
    one = dataclasses.replace(SILENT, num_samples=1)
    (zoom,) = pipeline.sample_run(prepare(one), tmp_path)
    said = json.loads((tmp_path / "metrics.json").read_text())["peak_bytes"]
    assert said == zoom.timings["peak_bytes"] <= memory.peak_bytes(jax.devices()[0])
    assert said > 100e6, "JAX alone takes more"


def test_the_peak_grows_with_what_is_used_and_does_not_shrink():
    before = memory.peak_bytes(jax.devices()[0])
    size = before + 50_000_000 - memory.psutil.Process().memory_info().rss
    filled = np.ones(size, np.uint8)
    after = memory.peak_bytes(jax.devices()[0])
    assert before + 40_000_000 < after < before + 100_000_000
    del filled
    assert memory.peak_bytes(jax.devices()[0]) >= after


def test_a_device_that_counts_its_memory_is_asked():
    class Device:
        platform = "gpu"

        def memory_stats(self):
            return {"peak_bytes_in_use": 123, "bytes_in_use": 7}

    assert memory.peak_bytes(Device()) == 123
