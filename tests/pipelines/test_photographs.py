"""Photographs through the pipeline: padded ones, several, and what a run is known by."""

import json

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_models import tiny_model

import pot_jax
from pot_jax import config
from pot_jax.config import LevelPhotographSettings, PhotographSettings, RunSettings, SamplerSettings
from pot_jax.errors import UserError
from pot_jax.evaluation.evaluate import evaluate_zoom
from pot_jax.media.images import read_photograph
from pot_jax.media.pixels import from_bytes
from pot_jax.pipelines import zoom as pipeline
from pot_jax.pipelines.grounding import continued_by_edges
from pot_jax.runs.record import digest

FAST = {"steps": 2, "space": "latent", "devices": jax.devices()[:1]}
# Few colours near grey: an untrained decoder's levels can agree with them inside [-1, 1].
RNG = np.random.default_rng(0)
WIDE = RNG.integers(100, 156, (12, 24, 3), np.uint8)
DEEP = RNG.integers(100, 156, (24, 24, 3), np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("photographs")
    Image.fromarray(WIDE).save(place / "wide.png")
    Image.fromarray(DEEP).save(place / "deep.png")
    return place


@pytest.fixture(scope="module")
def run(model, folder):
    """A run of a padded photograph of level 0 and one of level 1, from files, and its folder."""
    given = {0: folder / "wide.png", 1: str(folder / "deep.png")}
    photos = {"photograph": given, "photograph_fit": "pad", "workdir": folder / "run"}
    return pot_jax.sample(model, ["a", "star"], **photos, **FAST), folder / "run"


def test_each_level_meets_its_photograph_where_it_has_pixels(run, folder):
    zoom, _ = run
    wide, deep = (read_photograph(folder / f"{n}.png", 16, 16, "pad") for n in ("wide", "deep"))
    assert np.isnan(wide[:4]).all()
    assert np.isnan(wide[12:]).all()
    assert not np.isnan(wide[4:12]).any()
    np.testing.assert_allclose(zoom.images[1], deep, atol=1e-5)
    window = deep.reshape(8, 2, 8, 2, 3).mean((1, 3))  # the deeper one prevails
    np.testing.assert_allclose(zoom.images[0][4:12, 4:12], window, atol=1e-5)
    sides = np.s_[4:12, [0, 1, 2, 3, 12, 13, 14, 15]]
    np.testing.assert_allclose(zoom.images[0][sides], wide[sides], atol=1e-5)
    edges = continued_by_edges(wide)
    assert np.abs(zoom.images[0][:4] - edges[:4]).mean() > 0.1  # free, not the padding


def test_photographs_that_contradict_each_other_are_told(run):
    (line,) = [note for note in run[0].notices if "photograph" in note]
    assert line.startswith(
        "the photograph of level 0 differs from a deeper one of the same place ("
    )
    assert line.endswith(" dB PSNR), which prevails there")


def test_the_record_repeats_the_run_and_fidelity_is_measured(run, folder):
    zoom, place = run
    data = config.read(str(place / "config.json"))
    assert [one["level"] for one in data["photographs"]] == [0, 1]
    assert data["photograph"] == {"path": "", "level": 0, "method": "project", "fit": "pad"}
    values = evaluate_zoom(zoom)
    (wide, _), (deep,) = values["details"]["photograph_psnr_db"]
    assert deep > 50  # rounded to bytes
    assert values["scores"]["photograph_psnr_db"] == wide < 40  # its middle is the deeper one's
    (folder / "deep.png").rename(folder / "moved.png")
    assert "photograph_psnr_db" not in evaluate_zoom(zoom)["scores"]
    (folder / "moved.png").rename(folder / "deep.png")


def identity(model, **settings):
    chosen = RunSettings(prompts=("a", "star"), sampler=SamplerSettings(steps=2), **settings)
    return pipeline.prepare(model, chosen, devices=jax.devices()[:1]).identity.get("photograph")


def test_a_photograph_is_known_by_what_it_ties(model, folder):
    path = str(folder / "deep.png")
    known = digest([digest(read_photograph(path, 16, 16)), 1, "project"])  # as ever
    one = PhotographSettings(path=path, level=1)
    assert identity(model, photograph=one) == known
    assert identity(model, photographs=(LevelPhotographSettings(path, 1),)) == known
    square = PhotographSettings(path=path, level=1, fit="pad")  # which pads nothing
    assert identity(model, photograph=square) == known
    wide = str(folder / "wide.png")
    fits = [PhotographSettings(path=wide, fit=fit) for fit in ("crop", "pad")]
    assert len({known, *(identity(model, photograph=fit) for fit in fits)}) == 3
    assert identity(model) is None


def test_a_users_search_for_nan_stays_out(model, folder):
    padded = PhotographSettings(path=str(folder / "wide.png"), fit="pad")
    with jax.debug_nans(True):
        assert identity(model, photograph=padded) is not None


def test_arrays_by_level_cannot_be_repeated_without_them(model, tmp_path):
    given = {1: from_bytes(DEEP[:16, :16])}
    zoom = pot_jax.sample(model, ["a", "star"], photograph=given, workdir=tmp_path / "run", **FAST)
    np.testing.assert_allclose(zoom.images[1], given[1], atol=1e-5)
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["config"]["photographs"] == [{"path": "", "level": 1}]
    with pytest.raises(UserError, match="the run used a photograph given as an array"):
        config.read(str(tmp_path / "run" / "config.json"))
