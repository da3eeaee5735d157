"""What is seen of a run while it works: previews, TensorBoard, a profile; and no bit changes."""

import dataclasses
import glob
import gzip
import json
import struct

import jax
import numpy as np
import pytest
from tiny_models import tiny_model

from pot_jax.config import MovieSettings, RunSettings, SamplerSettings
from pot_jax.media.images import contact_sheet, read_picture
from pot_jax.pipelines import zoom as pipeline
from pot_jax.pipelines.watching import tensorboard

SETTINGS = RunSettings(
    prompts=("a", "star"),
    sampler=SamplerSettings(steps=12, space="latent"),
    movie=MovieSettings(fps=2, size=16),
)
PREVIEWED = dataclasses.replace(SETTINGS, preview_every=6)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tokenizer"))


def prepared(model, settings=SETTINGS):
    return pipeline.prepare(model, settings, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def usual(model):
    return pipeline.sample_run(prepared(model))[0]


def test_a_preview_is_what_would_be_delivered_and_changes_no_bit(model, usual, tmp_path):
    sheets, pictures = [], []

    def watch(seen):
        pictures.append(seen.pictures())
        path = tmp_path / "preview.png"
        sheets.append(read_picture(path) if path.exists() else None)
        if path.exists():
            path.unlink()

    run = prepared(model, PREVIEWED)
    (zoom,) = pipeline.sample_run(run, tmp_path, callback=watch)
    assert zoom.images.tobytes() == usual.images.tobytes()
    assert [picture.shape for picture in pictures] == 3 * [(1, 2, 16, 16, 3)]
    # A callback comes before the preview of its chunk: none after step 5, one after step 10.
    assert [sheet is not None for sheet in sheets] == [False, False, True]
    np.testing.assert_array_equal(sheets[2], contact_sheet(pictures[1][0]))
    # The last clean estimates are nearly the final latents.
    error = pictures[2][0].astype(int) - zoom.delivered
    assert np.abs(error).mean() < np.abs(pictures[0][0].astype(int) - zoom.delivered).mean()
    assert not (tmp_path / "preview.png").exists()
    assert not list(tmp_path.glob(".pot_jax-*"))


def test_a_killed_runs_preview_goes_when_the_run_is_complete(model, usual, tmp_path):
    def stop(seen):
        if seen.steps[-1] == 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.sample_run(prepared(model, PREVIEWED), tmp_path, callback=stop)
    assert (tmp_path / "preview.png").exists()
    (zoom,) = pipeline.sample_run(prepared(model), tmp_path)  # and may be resumed without
    assert zoom.images.tobytes() == usual.images.tobytes()
    assert not (tmp_path / "preview.png").exists()


def test_a_profile_shows_the_steps_and_can_be_read(model, usual, tmp_path):
    run = prepared(model)
    run = dataclasses.replace(run, job=dataclasses.replace(run.job, profile_dir=str(tmp_path)))
    (zoom,) = pipeline.sample_run(run)
    assert zoom.images.tobytes() == usual.images.tobytes()
    (path,) = glob.glob(f"{tmp_path}/plugins/profile/*/*.trace.json.gz")
    with gzip.open(path) as file:
        names = [event.get("name", "") for event in json.load(file)["traceEvents"]]
    assert sum("chunks" in name for name in names) >= 3  # of 5, 5 and 2 steps
    assert not any("backend_compile" in name for name in names)


def test_tensorboard_has_every_step(model, usual, tmp_path):
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    told = []
    with tensorboard(str(tmp_path / "log"), 6) as log:
        assert not (tmp_path / "log").exists()  # not before there is something to log
        both = lambda seen: (log(seen), told.extend(seen.disagreement[:, 0].tolist()))  # noqa: E731
        (zoom,) = pipeline.sample_run(prepared(model), callback=both)
    assert zoom.images.tobytes() == usual.images.tobytes()
    (path,) = (tmp_path / "log").iterdir()
    data, values = path.read_bytes(), []
    while data:  # TFRecords: the length, its checksum, the event, its checksum
        (size,) = struct.unpack("<Q", data[:8])
        event, data = event_pb2.Event.FromString(data[12 : 12 + size]), data[16 + size :]
        values += [(event.step, value) for value in event.summary.value]
    curve = {step: v.simple_value for step, v in values if v.tag == "disagreement"}
    np.testing.assert_allclose([curve[step] for step in range(1, 13)], told, rtol=1e-6)
    times = {step: v.simple_value for step, v in values if v.tag == "seconds_per_step"}
    assert set(times) == {5, 10, 12}
    assert min(times.values()) > 0
    sizes = {step: (v.image.height, v.image.width) for step, v in values if v.tag == "preview"}
    page = contact_sheet(np.zeros((2, 16, 16, 3), np.uint8)).shape[:2]
    assert sizes == {10: page, 12: page}
