"""Levels that are held, byte by byte: in every space, and by `--extend` and `--revise`."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from blends import BY_GRADIENT
from tiny_models import tiny_model, tiny_upscaler
from zooms import noise, pasted

import pot_jax
from pot_jax import main
from pot_jax.config import (
    LevelPhotographSettings,
    PhotographSettings,
    RunSettings,
    SamplerSettings,
    ZoomSettings,
)
from pot_jax.errors import UserError
from pot_jax.evaluation.metrics.overlap import overlap_psnr
from pot_jax.media.pixels import from_bytes
from pot_jax.pipelines import zoom as pipeline
from pot_jax.pipelines.continued import continued
from pot_jax.runs.record import digest
from pot_jax.runs.zoom import Zoom, read_levels, read_record, read_zoom
from pot_jax.zoom.geometry import Geometry

PROMPTS = ["a", "star", "st", "t"]
LEAST = 50  # dB between 8-bit neighbours; an ordinary zoom has 57 and more


def one_device():
    return jax.devices()[:1]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tokenizer"))


def sampled(model, prompts=PROMPTS, **given):
    given = {"steps": 2, "devices": one_device(), **given}
    return pot_jax.sample(model, prompts, **given)


@pytest.fixture(scope="module")
def known():
    """The delivered levels of some zoom, which agree."""
    geometry = Geometry(4, 2, 16, 16)
    return pasted(noise(geometry), geometry)


def overlaps(zoom):
    return overlap_psnr(from_bytes(zoom.delivered), zoom.geometry)


@pytest.mark.parametrize(
    "sampler",
    [
        {},
        BY_GRADIENT,
        {"pixel_every": 2, "solver": "dpmpp_2m"},
        {"space": "latent", "solver": "euler_ancestral"},
    ],
)
def test_held_levels_keep_their_bytes_and_others_fit_them(model, known, sampler):
    held = {0: known[0], 2: known[2]}
    new = sampled(model, held=held, **sampler)
    for level in held:
        np.testing.assert_array_equal(new.delivered[level], known[level])
        assert np.abs(new.delivered[level + 1] - 1.0 * known[level + 1]).max() > 20
    assert overlaps(new).min() > LEAST
    assert np.abs(new.images).max() <= 1


def test_any_zoom_factor_and_placement(model):
    placement = ((2, -4), (-6, 10), (4, 0))
    geometry = Geometry(4, 3, 24, 48, placement)
    known = pasted(noise(geometry), geometry)
    where = {"zoom_factor": 3, "height": 24, "width": 48, "placement": placement}
    new = sampled(model, held={1: known[1], 2: known[2]}, **where)
    np.testing.assert_array_equal(new.delivered[1:3], known[1:3])
    assert overlaps(new).min() > LEAST


def test_steps_see_what_is_held(model, known):
    """In a step, and not only at delivery: the held level's latents end as its own."""
    held, settings = {0: known[0]}, RunSettings(prompts=tuple(PROMPTS))
    weights = pipeline.prepare(model, settings, held=held, devices=one_device()).job.weights
    near, far = (
        np.abs(sampled(model, held=held, space=space).latents[0] - weights["held_latents"][0])
        for space in ("latent", "delivery")
    )
    assert near.mean() < 0.1 * far.mean()


def test_which_levels_are_held_is_a_number(model, known):
    settings = RunSettings(prompts=tuple(PROMPTS))
    recipes = [
        pipeline.prepare(model, settings, held={i: known[i]}, devices=one_device()).recipe
        for i in (0, 3)
    ]
    assert recipes[0] == recipes[1]


def test_a_record_says_what_is_held_and_other_bytes_are_another_run(model, known, tmp_path):
    given = {"held": {1: known[1]}, "workdir": tmp_path / "run"}
    first = sampled(model, **given)
    assert read_record(tmp_path / "run").settings.held == ((1, digest(known[1])),)
    np.testing.assert_array_equal(read_levels(tmp_path / "run", first.geometry)[1], known[1])
    again = sampled(model, **given, progress=lambda *steps: pytest.fail("it ran"))
    np.testing.assert_array_equal(again.delivered, first.delivered)
    (tmp_path / "run" / "levels" / "level_001.png").unlink()  # mended from the arrays
    mended = sampled(model, **given)
    np.testing.assert_array_equal(read_levels(tmp_path / "run", mended.geometry)[1], known[1])
    with pytest.raises(UserError, match="holds another run"):
        sampled(model, held={1: 255 - known[1]}, workdir=tmp_path / "run")
    with pytest.raises(UserError, match="holds another run"):
        sampled(model, workdir=tmp_path / "run")


def test_a_killed_run_resumes_to_the_same_bytes(model, known, tmp_path):
    sampler = SamplerSettings(steps=7)
    settings = RunSettings(prompts=tuple(PROMPTS), save_every=5, sampler=sampler)
    held = {0: known[0], 3: known[3]}
    prepared = pipeline.prepare(model, settings, held=held, devices=one_device())
    (whole,) = pipeline.sample_run(prepared, tmp_path / "whole")

    def kill(done, total):
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.sample_run(prepared, tmp_path / "killed", progress=kill)
    steps = []
    pipeline.sample_run(prepared, tmp_path / "killed", progress=lambda done, _: steps.append(done))
    assert steps[0] == 5
    assert read_zoom(tmp_path / "killed").images.tobytes() == whole.images.tobytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"held": {}}, "held: expected some of the levels 0 to 3, not all, got []"),
        ({"held": {4: 0}}, "not all, got [4]"),
        ({"held": {-1: 0}}, "not all, got [-1]"),
        ({"held": {"a": 0}}, "held: expected a whole number, got 'a'"),
        ({"held": [0]}, "held: expected a Mapping, got [0]"),
        (
            {"held": {1: np.zeros((8, 8, 3), np.uint8)}},
            "held[1]: expected a picture of (16, 16, 3)",
        ),
        ({"held": {1: np.full((16, 16, 3), 2.0)}}, "held[1]: expected bytes (uint8) or floats in"),
        ({"held": {1: "no.png"}}, "no picture at no.png"),
        ({"held": dict.fromkeys(range(4), np.zeros((16, 16, 3), np.uint8))}, "not all, got"),
        ({"held": {1: 0}, "photograph": np.zeros((16, 16, 3))}, "photograph: expected none with"),
        ({"held": {1: 0}, "method": "outpainting"}, "held: expected none with sampler.method outp"),
    ],
)
def test_a_mistake_is_one_line(model, arguments, message):
    with pytest.raises(UserError) as raised:
        sampled(model, **arguments)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_held_levels_are_not_upscaled(model, known, tmp_path):
    new = sampled(model, held={1: known[1]})
    with pytest.raises(UserError, match="upscaler: expected none with held levels"):
        pot_jax.upscale(new, tiny_upscaler(tmp_path), steps=1)


# The command line, with a model that draws. ------------------------------------------------------


@pytest.fixture(autouse=True, scope="module")
def commands_take_one_device():
    devices = jax.devices()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jax.devices", lambda *a: devices[:1])
        yield devices


def run(*arguments):
    assert main.main(["pot-jax", "sample", *map(str, arguments), "--compilation_cache=none"]) == 0


def tree(path):
    files = sorted(file for file in pathlib.Path(path).rglob("*") if file.is_file())
    return {file.relative_to(path): (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


def levels(folder):
    zoom = read_zoom(folder)
    return read_levels(folder, zoom.geometry)


def figures(folder):
    known = json.loads((folder / "metrics.json").read_text())["overlap_psnr_db"]
    return known["delivered"]["pairs"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    movie = ["--config.movie.fps=2", "--config.movie.size=16"]
    run("a star", "a blue planet", "--model=cosmos64", "--steps=2", *movie, f"--workdir={folder}")
    return folder


def test_extend_and_revise(finished, tmp_path, capsys):
    deep, wide, again = (tmp_path / name for name in ("deep", "wide", "again"))
    before, known = tree(finished), levels(finished)
    run("a beach", "--extend", finished, "--side=deep", f"--workdir={deep}")
    run("a galaxy", f"--extend={finished}", "--side=wide", f"--workdir={wide}")
    assert tree(finished) == before
    np.testing.assert_array_equal(levels(deep)[:2], known)
    np.testing.assert_array_equal(levels(wide)[1:], known)
    # A run that holds levels can be continued like any other.
    made = tree(deep)
    revise = ["a red planet", f"--revise={deep}", "--levels=1", "--seed=3", f"--workdir={again}"]
    run(*revise)
    assert tree(deep) == made
    np.testing.assert_array_equal(levels(again)[[0, 2]], levels(deep)[[0, 2]])
    changed = np.abs(levels(again)[1] - 1.0 * levels(deep)[1]).mean()
    assert changed > 0.3, "drawn again, between two held levels"  # measured: 0.7
    texts = {
        deep: ("a star", "a blue planet", "a beach"),
        wide: ("a galaxy", "a star", "a blue planet"),
        again: ("a star", "a red planet", "a beach"),
    }
    for folder, prompts in texts.items():
        record = read_record(folder)
        assert min(figures(folder)) > LEAST, figures(folder)
        assert record.settings.prompts == prompts
        assert record.settings.sampler.steps == 2
        assert len(record.settings.held) == 2
        assert str(finished) not in (folder / "config.json").read_text()
    made = tree(again)
    run(*revise)
    assert "already complete" in capsys.readouterr().out
    assert tree(again) == made
    # Its record alone cannot repeat it.
    given = [f"--config={again / 'config.json'}", f"--workdir={tmp_path / 'repeated'}"]
    assert main.main(["pot-jax", "sample", *given]) == 2
    assert "held: the run holds levels of another" in capsys.readouterr().err


def test_another_model_is_refused(finished, tmp_path, capsys):
    given = ["a", f"--extend={finished}", "--side=deep", f"--workdir={tmp_path / 'new'}"]
    assert main.main(["pot-jax", "sample", *given, "--model=cosmos128"]) == 2
    said = capsys.readouterr().err
    assert "--model: expected cosmos64, which made the run (other networks), got cosmos128" in said
    other = shutil.copytree(finished, tmp_path / "other")
    record = json.loads((other / "config.json").read_text())
    record["identity"]["weights"] = "c0ffee"
    (other / "config.json").write_text(json.dumps(record))
    given[1] = f"--extend={other}"
    assert main.main(["pot-jax", "sample", *given]) == 2
    assert "which made the run (other weights)" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def saved(folder, **settings):
    """A run of three off-centre levels, saved and not sampled."""
    geometry = Geometry(3, 2, 16, 16, ((2, -2), (0, 4)))
    images = from_bytes(pasted(noise(geometry), geometry))
    placed = ZoomSettings(placement=geometry.offsets)
    settings = RunSettings(prompts=("a", "b", "c"), zoom=placed, **settings)
    Zoom(images, None, None, settings, geometry, "c0ffee", {}, {"model": "c0ffee"}).save(folder)
    return settings


def test_where_the_levels_of_a_continued_run_lie(tmp_path):
    photograph = PhotographSettings(path="photo.png", level=2)
    run = saved(tmp_path / "run", photograph=photograph)
    known = levels(tmp_path / "run")

    def after(prompts, way, how, settings=run):
        settings, held, record = continued(settings, tmp_path / "run", prompts, way, how)
        assert record.settings == run
        return settings, held

    new, held = after(["d", "e"], "extend", "deep")
    assert new.prompts == ("a", "b", "c", "d", "e")
    assert new.zoom.placement == ((2, -2), (0, 4), (0, 0), (0, 0))
    assert new.photograph == PhotographSettings()  # level 2 shows it already
    assert [*held] == [0, 1, 2]
    new, held = after(["d", "e"], "extend", "wide")
    assert new.prompts == ("d", "e", "a", "b", "c")
    assert new.zoom.placement == ((0, 0), (0, 0), (2, -2), (0, 4))
    assert [*held] == [2, 3, 4]
    np.testing.assert_array_equal(held[2], known[0])
    placed = dataclasses.replace(run, zoom=ZoomSettings(placement=((4, 4), (2, -2), (0, 4))))
    new, held = after(["d"], "extend", "wide", placed)
    assert new.zoom == dataclasses.replace(placed.zoom, height=16, width=16)
    with pytest.raises(UserError, match="expected 3 pairs, and those of"):
        after(["d"], "extend", "deep", placed)
    new, held = after(["d", "e"], "revise", "2,0")
    assert new.prompts == ("e", "b", "d")
    assert new.photograph == photograph
    assert [*held] == [1]
    assert after([], "revise", "1")[0].prompts == run.prompts
    several = tuple(LevelPhotographSettings(f"{level}.png", level) for level in (0, 2))
    run = saved(tmp_path / "several", photographs=several)
    for way, how, kept in (("extend", "wide", ()), ("revise", "1", ()), ("revise", "2", several)):
        new, _, _ = continued(run, tmp_path / "several", ["d"], way, how)
        assert new.photographs == kept  # a level that is not held has to meet its own
