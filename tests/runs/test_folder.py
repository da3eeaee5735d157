"""A finished run is checked, not believed; a zoom whose saving failed is completed."""

import dataclasses
import io
import json
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_models import tiny_model

from pot_jax.config import MovieSettings, RunSettings, SamplerSettings
from pot_jax.errors import UserError
from pot_jax.pipelines import zoom as pipeline
from pot_jax.runs import folder as folders
from pot_jax.runs import zoom as zooms
from pot_jax.runs.folder import remake_movie

SETTINGS = RunSettings(
    prompts=("a", "star"),
    sampler=SamplerSettings(steps=2, space="latent"),
    movie=MovieSettings(fps=2, size=16),
)
SAMPLES = {1: [""], 2: ["stack_000", "stack_001"]}


@pytest.fixture(scope="module")
def prepare(tmp_path_factory):
    model = tiny_model(tmp_path_factory.mktemp("tokenizer"))
    devices = jax.devices()[:1]
    return lambda settings: pipeline.prepare(model, settings, devices=devices)


@pytest.fixture(scope="module")
def finished(prepare, tmp_path_factory):
    """A finished run of so many samples, by their number."""
    path, made = tmp_path_factory.mktemp("runs"), {}
    for samples in SAMPLES:
        settings = dataclasses.replace(SETTINGS, num_samples=samples)
        pipeline.sample_run(prepare(settings), path / str(samples))
        made[samples] = path / str(samples)
    return made


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


DAMAGE = {
    "deleted": pathlib.Path.unlink,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "empty": lambda path: path.write_bytes(b""),
    "another": lambda path: path.write_bytes(b"something else"),
    "flipped": flip,
}
MENDED = ("levels/level_001.png", "contact_sheet.png", "zoom.html", "zoom.mp4", "metrics.json")


@pytest.fixture
def steps(monkeypatch):
    """The steps that a run has done when it starts to sample; empty if it does not."""
    seen, real = [], pipeline.run

    def watched(job, states, **keywords):
        seen.append(int(states.step))
        return real(job, states, **keywords)

    monkeypatch.setattr(pipeline, "run", watched)
    return seen


def same_but_for_timings(found, wanted):
    assert found.keys() == wanted.keys()
    for name in wanted:
        if not name.endswith(("config.json", "metrics.json")):
            assert found[name] == wanted[name], name


@pytest.mark.parametrize("samples", SAMPLES)
def test_a_whole_run_is_left_alone(prepare, finished, samples, tmp_path, steps):
    run = shutil.copytree(finished[samples], tmp_path / "run")
    settings = dataclasses.replace(SETTINGS, num_samples=samples)
    assert pipeline.sample_run(prepare(settings), run) is None
    assert contents(run) == contents(finished[samples])
    assert not steps


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", MENDED)
def test_what_can_be_made_from_the_arrays_is_not_sampled_again(
    prepare, finished, tmp_path, steps, name, damage
):
    if (name, damage) == ("metrics.json", "flipped"):
        pytest.skip("a flipped digit is JSON still; nothing is made from the figures")
    run = shutil.copytree(finished[1], tmp_path / "run")
    DAMAGE[damage](run / name)
    (zoom,) = pipeline.sample_run(prepare(SETTINGS), run)
    assert zoom.images.shape == (2, 16, 16, 3)
    same_but_for_timings(contents(run), contents(finished[1]))
    assert pipeline.sample_run(prepare(SETTINGS), run) is None, "complete again"
    assert not steps


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("samples", SAMPLES)
def test_without_the_arrays_it_is_sampled_again(
    prepare, finished, tmp_path, steps, samples, damage
):
    run = shutil.copytree(finished[samples], tmp_path / "run")
    DAMAGE[damage](run / SAMPLES[samples][-1] / "stack.npz")
    settings = dataclasses.replace(SETTINGS, num_samples=samples)
    assert len(pipeline.sample_run(prepare(settings), run)) == samples
    same_but_for_timings(contents(run), contents(finished[samples]))
    assert steps == [0]


@pytest.mark.parametrize("samples", SAMPLES)
@pytest.mark.parametrize("metadata", ["all", "none"])
def test_other_movie_settings_make_the_movie_and_the_recipes_that_say_it(
    prepare, finished, tmp_path, steps, samples, metadata, monkeypatch
):
    run = shutil.copytree(finished[samples], tmp_path / "run")
    settings = dataclasses.replace(SETTINGS, num_samples=samples, metadata=metadata)
    pipeline.sample_run(prepare(settings), run)
    before = contents(run)
    if metadata == "none":
        monkeypatch.setattr(zooms.pictures, "save_png", lambda *a, **k: pytest.fail("a picture"))
    settings = dataclasses.replace(settings, movie=dataclasses.replace(SETTINGS.movie, fps=4))
    assert len(pipeline.sample_run(prepare(settings), run)) == samples
    after = contents(run)
    for sample in SAMPLES[samples]:
        name = str(pathlib.Path(sample, "zoom.mp4"))
        assert after[name] != before[name]
        picture = str(pathlib.Path(sample, "levels", "level_001.png"))
        old, new = (Image.open(io.BytesIO(of[picture])) for of in (before, after))
        assert old.tobytes() == new.tobytes()
        said = {"fps": 4} if metadata == "all" else {}
        found = json.loads(new.text.get("pot_jax", "{}")).get("config", {}).get("movie", {})
        assert said.items() <= found.items()
        assert bool(found) == bool(said)
        assert json.loads((run / sample / "config.json").read_text())["config"]["movie"]["fps"] == 4
    record = json.loads((run / "config.json").read_text())
    assert record["config"]["movie"]["fps"] == 4
    assert record["code"] == json.loads((finished[samples] / "config.json").read_text())["code"]
    assert pipeline.sample_run(prepare(settings), run) is None
    assert not steps


def test_a_kill_while_files_are_made_again_leaves_nothing_that_is_believed(
    prepare, finished, tmp_path, monkeypatch
):
    run = shutil.copytree(finished[1], tmp_path / "run")
    movie = dataclasses.replace(SETTINGS.movie, fps=4)
    settings = dataclasses.replace(SETTINGS, movie=movie)

    def killed(*arguments, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(zooms, "write_movie", killed)
        with pytest.raises(KeyboardInterrupt):
            pipeline.sample_run(prepare(settings), run)
    assert len(pipeline.sample_run(prepare(settings), run)) == 1
    assert contents(run)["zoom.mp4"] != contents(finished[1])["zoom.mp4"]


@pytest.mark.parametrize("files", [None, [1, 2]], ids=["none", "list"])
def test_a_run_from_before_digests_is_believed_what_it_has(
    prepare, finished, tmp_path, steps, files
):
    run = shutil.copytree(finished[1], tmp_path / "run")
    record = json.loads((run / "config.json").read_text())
    del record["files"]
    record |= {"files": files} if files else {}
    (run / "config.json").write_text(json.dumps(record))
    assert pipeline.sample_run(prepare(SETTINGS), run) is None
    (run / "contact_sheet.png").unlink()
    assert len(pipeline.sample_run(prepare(SETTINGS), run)) == 1
    same_but_for_timings(contents(run), contents(finished[1]))
    assert not steps


def test_a_movie_made_again_in_place_is_recorded(prepare, finished, tmp_path):
    run = shutil.copytree(finished[1], tmp_path / "run")
    movie = dataclasses.replace(SETTINGS.movie, direction="out")
    remake_movie(run, movie)
    settings = dataclasses.replace(SETTINGS, movie=movie)
    assert pipeline.sample_run(prepare(settings), run) is None
    assert len(pipeline.sample_run(prepare(SETTINGS), run)) == 1
    same_but_for_timings(contents(run), contents(finished[1]))


def test_a_folder_in_use_is_refused(prepare, tmp_path):
    with folders.held(tmp_path / "run"), pytest.raises(UserError, match="is in use by process"):
        pipeline.sample_run(prepare(SETTINGS), tmp_path / "run")


@pytest.mark.parametrize("step", ["write_movie", "_write_arrays"])
def test_a_zoom_whose_saving_failed_is_saved_again(prepare, tmp_path, monkeypatch, step):
    (zoom,) = pipeline.sample_run(prepare(SETTINGS))

    def full(*arguments, **named):
        raise UserError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(zooms, step, full)
        with pytest.raises(UserError, match="the disk is full"):
            zoom.save(tmp_path / "saved")
    other = dataclasses.replace(zoom, identity={**zoom.identity, "weights": "other"})
    with pytest.raises(UserError, match="holds another zoom"):
        other.save(tmp_path / "saved")
    zoom.save(tmp_path / "saved")
    with np.load(tmp_path / "saved" / "stack.npz") as arrays:
        np.testing.assert_array_equal(arrays["images"], zoom.images)
    with pytest.raises(UserError, match="not an empty folder"):
        zoom.save(tmp_path / "saved")


def test_render_makes_a_replaced_picture_again(finished, tmp_path):
    run = shutil.copytree(finished[1], tmp_path / "run")
    picture = run / "levels" / "level_001.png"
    Image.new("RGB", (16, 16), "red").save(picture)
    with pytest.raises(UserError, match="is not the picture that the run wrote"):
        zooms.read_shown(run)
    remake_movie(run, SETTINGS.movie)
    assert picture.read_bytes() == (finished[1] / "levels" / "level_001.png").read_bytes()


def shown_by(page):
    """The zooms that a page shows, as its script reads them."""
    text = page if isinstance(page, str) else page.read_text()
    found = re.search('<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found[1])["zooms"]


@pytest.mark.parametrize("files", ["as they are", None, ["zoom.html"]], ids=str)
def test_the_page_of_a_run_is_written_again(prepare, finished, tmp_path, files):
    run = shutil.copytree(finished[1], tmp_path / "run")
    page = run / "zoom.html"
    if files != "as they are":  # a record of an earlier version, or a damaged one
        record = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps(record | {"files": files}))
    page.unlink()
    folders.write_view(page, [run])
    assert page.read_bytes() == (finished[1] / "zoom.html").read_bytes()
    assert pipeline.sample_run(prepare(SETTINGS), run) is None, "complete"


def test_runs_side_by_side_are_named_by_their_folders_alone(finished, tmp_path):
    runs = [shutil.copytree(finished[1], tmp_path / place / "mine") for place in ("qyx", "other")]
    page = tmp_path / "both.html"
    folders.write_view(page, [*runs, finished[2]])
    names = [zoom["name"] for zoom in shown_by(page)]
    assert names == ["mine", "mine (2)", "2 stack_000", "2 stack_001"]
    assert "qyx" not in page.read_text()
    with pytest.raises(UserError, match="is the page of another run"):
        folders.write_view(runs[0] / "zoom.html", [runs[1]])


def test_a_notebook_shows_zooms_side_by_side(finished):
    zoom = zooms.read_zoom(finished[1])
    assert [one["name"] for one in shown_by(zooms.show(zoom).html)] == [""]
    both = shown_by(zooms.show([zoom, zoom]).html)
    assert [one["name"] for one in both] == ["0", "1"]
    assert both[0]["prompts"] == [*SETTINGS.prompts]
    for wrong in (None, [], [zoom, "x"]):
        with pytest.raises(UserError, match="zooms: expected a Zoom, or a list of them"):
            zooms.show(wrong)
