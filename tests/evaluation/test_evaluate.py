import dataclasses
import json
import os
import shutil
from functools import partial

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict
from PIL import Image
from tiny_models import tiny_model
from zooms import CHAINS, constant, noise, world

from pot_jax import main
from pot_jax.config import PhotographSettings, RunSettings, SamplerSettings, ZoomSettings
from pot_jax.diffusion.sampler import keys_of
from pot_jax.errors import UserError
from pot_jax.evaluation import evaluate as report
from pot_jax.evaluation.metrics import world as classifier
from pot_jax.evaluation.metrics.overlap import PSNR_CEILING
from pot_jax.evaluation.metrics.overlap import metrics as measured
from pot_jax.evaluation.metrics.references import statistics
from pot_jax.media.files import file_digest, write_json
from pot_jax.media.images import read_photograph, save_png, zoom_to_bytes
from pot_jax.models.classifier import Classifier
from pot_jax.pipelines import zoom as pipeline
from pot_jax.pipelines.job import begin
from pot_jax.runs.record import digest
from pot_jax.runs.zoom import Zoom, read_levels, read_zoom
from pot_jax.world.captions import answers, labels, scene_prompts
from pot_jax.zoom import operators
from pot_jax.zoom.geometry import Geometry

GEOMETRY = Geometry(4, 2, 16, 24, ((2, -6), (-4, 0), (0, 4)))
STATES = ["before_render", "rendered", "delivered"]  # in the order in which they are made
TIMINGS = {"compile_seconds": 1.5, "seconds_per_step": 0.25}


def a_zoom(**settings):
    """A zoom of noise."""
    raw = np.random.default_rng(0).uniform(-1, 1, (4, 16, 24, 3)).astype(np.float32)
    return Zoom(
        images=np.asarray(operators.render(raw, GEOMETRY)),
        before_render=raw,
        latents=np.zeros((4, 8, 12, 4), np.float32),
        settings=RunSettings(prompts=("a", "b", "c", "d"), **settings),
        geometry=GEOMETRY,
        weights_digest="c0ffee",
        timings=TIMINGS,
        identity={"model": "c0ffee"},
    )


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("run")
    zoom = a_zoom()
    pictures = zoom_to_bytes(zoom.images, GEOMETRY)
    write_json(tmp_path / "config.json", zoom.record.to_json())
    arrays = {"images": zoom.images, "images_before_render": zoom.before_render}
    np.savez(tmp_path / "stack.npz", latents=zoom.latents, **arrays)
    for level, picture in enumerate(pictures):
        save_png(tmp_path / "levels" / f"level_{level:03d}.png", picture)
    write_json(tmp_path / "metrics.json", zoom.measured(pictures))
    return tmp_path


@pytest.fixture
def workdir(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / "copy")


def test_metrics_file(workdir):
    metrics = json.loads((workdir / "metrics.json").read_text())
    psnr = metrics["overlap_psnr_db"]
    assert list(psnr) == list(metrics["overlap_ssim"]) == STATES
    for values in psnr.values():
        assert len(values["pairs"]) == 3
        assert values["minimum"] == min(values["pairs"])
        assert values["mean"] == pytest.approx(np.mean(values["pairs"]), abs=1e-3)
    assert psnr["before_render"]["mean"] < 15
    assert psnr["rendered"]["minimum"] > 130
    assert 55 < psnr["delivered"]["minimum"] < 65
    assert metrics["overlap_ssim"]["delivered"]["minimum"] > 0.999
    assert (metrics["compile_seconds"], metrics["seconds_per_step"]) == (1.5, 0.25)
    assert (metrics["levels"], metrics["zoom_factor"]) == (4, 2)


def test_evaluate_finds_the_same(workdir):
    values, metrics = report.evaluate(workdir), json.loads((workdir / "metrics.json").read_text())
    assert values["details"]["overlap"] == {n: v for n, v in metrics.items() if n not in TIMINGS}
    assert values["scores"]["overlap_psnr_db"] == metrics["overlap_psnr_db"]["delivered"]["mean"]
    assert values["scores"]["seconds_per_step"] == TIMINGS["seconds_per_step"]
    before = metrics["overlap_psnr_db"]["before_render"]["mean"]
    assert values["scores"]["overlap_before_render_db"] == before
    assert values == json.loads(json.dumps(values, allow_nan=False))
    in_memory = report.evaluate_zoom(read_zoom(workdir))
    assert in_memory == values


def test_evaluate_measures_the_delivered_files(workdir):
    save_png(workdir / "levels" / "level_001.png", np.zeros((16, 24, 3), np.uint8))
    pairs = report.evaluate(workdir)["details"]["overlap"]["overlap_psnr_db"]["delivered"]["pairs"]
    assert pairs[0] < 15
    assert pairs[1] < 15
    assert pairs[2] > 55


def test_evaluate_without_what_is_optional(workdir):
    np.savez(workdir / "stack.npz", images=a_zoom().images)
    (workdir / "metrics.json").unlink()
    values = report.evaluate(workdir)
    assert list(values["details"]["overlap"]["overlap_psnr_db"]) == ["rendered", "delivered"]
    assert not {"compile_seconds", "noise_variance"} & set(values["scores"])
    report.table(values)


def test_what_a_later_run_says_of_itself(workdir):
    said = json.loads((workdir / "metrics.json").read_text())
    more = {"peak_bytes": 123456, "disagreement": [0.5, 0.25, 0.125]}
    write_json(workdir / "metrics.json", said | more)
    values = report.evaluate(workdir)
    assert values["scores"]["peak_bytes"] == 123456
    assert values["scores"]["disagreement"] == 0.125
    assert values["details"]["disagreement"] == more["disagreement"]


def test_equal_pairs_and_one_level_are_valid_json():
    flat, geometry = np.zeros((2, 8, 8, 3), np.float32), Geometry(2, 2, 8, 8)
    metrics = measured(flat, None, zoom_to_bytes(flat, geometry), geometry)
    assert metrics["overlap_psnr_db"]["delivered"]["pairs"] == [PSNR_CEILING]
    single = Geometry(1, 2, 8, 8)
    metrics = measured(flat[:1], None, zoom_to_bytes(flat[:1], single), single)
    assert metrics["overlap_ssim"]["rendered"] == {"pairs": [], "minimum": None, "mean": None}
    for g in (geometry, single):
        values = report.measure(constant(g), g, ["a"] * g.levels)
        json.dumps(values, allow_nan=False)
    assert values["scores"] == {}
    assert report.table(values).splitlines() == ["1 levels of 8 x 8 pixels, zoom factor 2"]


def test_table(workdir):
    lines = report.table(report.evaluate(workdir)).splitlines()
    assert lines[0] == "4 levels of 16 x 24 pixels, zoom factor 2"
    assert [line.split()[:2] for line in lines[2:5]] == [["0,", "1"], ["1,", "2"], ["2,", "3"]]
    assert len({len(line) for line in lines[1:5]}) == 1  # columns in line
    assert "seconds_per_step            0.25" in lines


def test_scores_of_every_kind():
    """Golden values: noise of default_rng(0) over 4 levels of 64 pixels."""
    g = Geometry(4, 2, 64, 64)
    values = report.measure(noise(g), g, ["a"] * 4, clip=lambda pictures, prompts: {"clip": 3})
    assert list(values) == ["scores", "details", "statistics", "prompts_sha256"]
    names = ["overlap_psnr_db", "overlap_ssim", "seam_excess", "repetition", "cut_edges"]
    names += ["smoothness", "clip"]
    assert list(values["scores"]) == names
    by_distance = values["details"]["overlap_by_distance"]
    assert {k: len(pairs["ssim"]) for k, pairs in by_distance.items()} == {"2": 2}  # 16 pixels
    assert values["statistics"] == statistics(noise(g), g)
    assert len(values["details"]["seam_excess"]) == 3
    more = report.measure(noise(g), g, ["a"] * 4, references=[statistics(noise(g, 1), g)])
    new = set(more["scores"]) - set(names)
    steps = {"colour_step_ring", "colour_step_sides"}
    assert new == {*steps, "colour_drag", "detail_outside", "detail_deepest"}
    dark = [np.uint8(noise(g, seed) // 8) for seed in range(2)]
    more = report.measure(dark[0], g, ["a"] * 4, references=[statistics(dark[1], g)])
    assert more["scores"]["dots"] == pytest.approx(1, abs=0.2)


# Of the world. ----------------------------------------------------------------------------------


@pytest.fixture
def seer(tmp_path, monkeypatch):
    """A classifier with random weights in the place of the shipped one."""
    classes, _ = labels(answers(list(enumerate(np.linspace(0.1, 19.9, 400).tolist()))))
    module = Classifier(tuple((head, len(words)) for head, words in classes.items()))
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32))
    draws = np.random.default_rng(0)
    arrays = {
        name: np.float16(draws.normal(0, 0.1, x.shape))
        for name, x in flatten_dict(shapes["params"], sep="/").items()
    }
    path = tmp_path / "classifier.safetensors"
    safetensors.numpy.save_file(arrays, path, {"classes": json.dumps(classes)})
    look = partial(classifier.look, path=path, sha256=file_digest(path))
    monkeypatch.setattr(classifier, "CLASSIFIER", path)
    monkeypatch.setattr(classifier, "look", look)
    return look


def test_prompts_of_the_world_are_checked(seer):
    pictures, g = world(*CHAINS[4], levels=4), Geometry(4, 2, 64, 64)
    prompts = scene_prompts(4, CHAINS[4][0], start=CHAINS[4][1])
    values = report.measure(pictures, g, prompts)
    seen = seer(pictures)[1]
    shown = values["details"]["world"]
    assert [one["concept"]["seen"] for one in shown] == [one["concept"] for one in seen]
    assert shown[0]["concept"]["named"] == "forest"
    right = [[one["named"] == one["seen"] for one in level.values()] for level in shown]
    assert values["scores"]["concept"] == np.mean([level[0] for level in right])
    assert values["scores"]["attribute"] == np.mean(sum((level[1:] for level in right), []))
    assert values["scores"]["all"] == np.mean([all(level) for level in right])


@pytest.mark.parametrize(
    ("geometry", "prompts"),
    [
        (Geometry(4, 2, 64, 64), [*scene_prompts(3, 15, start=12), "a photograph of a cat"]),
        (Geometry(4, 2, 64, 128), scene_prompts(4, 15, start=12)),
        (Geometry(4, 2, 32, 32), scene_prompts(4, 15, start=12)),
    ],
)
def test_what_the_classifier_cannot_judge_is_left_out(seer, geometry, prompts):
    values = report.measure(noise(geometry), geometry, prompts)
    assert "concept" not in values["scores"]
    assert "world" not in values["details"]


# What only a run knows. -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize(
    ("sampler", "variance", "shared"),
    [
        ({}, 1, 1),
        ({"initial_noise": "per_level"}, 1, 0),
        ({"blend": "none"}, 1, 0),
        ({"noise": "blurred"}, 0.5, None),
        ({"noise": "per_level"}, 1, 0),
        ({"method": "super_resolution"}, 1, 1),
    ],
    ids=str,
)
def test_the_first_noise_is_drawn_again(model, sampler, variance, shared):
    settings = RunSettings(
        prompts=("a", "b", "c"),
        seed=7,
        zoom=ZoomSettings(placement=((8, -8), (0, 8)), height=32, width=32),
        sampler=SamplerSettings(**sampler),
    )
    prepared = pipeline.prepare(model, settings)
    states = begin(prepared.job, keys_of(np.uint32([7])))
    first = np.asarray(states.latents[0]) / prepared.job.plan.init_scale
    zoom = dataclasses.replace(
        a_zoom(),
        images=np.zeros((3, 32, 32, 3), np.float32),
        before_render=None,
        latents=np.zeros_like(first),
        settings=prepared.settings,
        geometry=prepared.geometry,
    )
    again, geometry = report._first_noise(zoom)
    np.testing.assert_allclose(again, first, atol=3e-7)  # compiled there, and not here
    assert geometry.scaled(32 // geometry.height) == prepared.geometry
    scores = report.evaluate_zoom(zoom)["scores"]
    # 512 values in the windows of 8 x 8 latents, 4 channels: sigma 0.06 and 0.04.
    assert scores["noise_variance"] == pytest.approx(variance, abs=0.3)
    if shared is not None:
        assert scores["noise_shared_correlation"] == pytest.approx(shared, abs=0.2)
    given = dataclasses.replace(zoom, identity={"given latents": "c0ffee"})
    assert report._first_noise(given) is None


def test_fidelity_to_the_photograph(tmp_path):
    path = tmp_path / "photograph.png"
    save_png(path, noise(Geometry(1, 2, 32, 32))[0])
    pixels = read_photograph(path, 16, 24)
    zoom = a_zoom(photograph=PhotographSettings(path=str(path), level=1))
    images = np.array(zoom.images)
    images[1] = pixels
    known = {"photograph": digest([digest(pixels), 1, "project"])}
    zoom = dataclasses.replace(zoom, images=images, identity=known)
    values = report.evaluate_zoom(zoom)
    assert values["scores"]["photograph_psnr_db"] > 50  # rounded, with its child's rounding errors
    assert len(values["details"]["photograph_psnr_db"]) == 3
    save_png(path, noise(Geometry(1, 2, 32, 32), 1)[0])  # another picture by now
    assert "photograph_psnr_db" not in report.evaluate_zoom(zoom)["scores"]
    path.unlink()
    assert "photograph_psnr_db" not in report.evaluate_zoom(zoom)["scores"]


# Other methods, and references. -----------------------------------------------------------------


def a_folder(path, levels, /, **said):
    for level, picture in enumerate(levels):
        save_png(path / f"level_{level}.png", picture)
    prompts = [f"prompt {level}" for level in range(len(levels))]
    write_json(path / "zoom.json", {"prompts": prompts, "zoom_factor": 2, **said})
    return path


def test_pictures_of_another_method(tmp_path):
    g = Geometry(3, 2, 24, 40, ((-6, 4), (3, -10)))
    said = {"method": "theirs", "seed": 0, "labels": {"steps": 50}, "seconds_per_step": 2.5}
    said |= {"placement": [[-6, 4], [3, -10]], "scene": "forest"}
    values = report.evaluate(a_folder(tmp_path / "zoom", noise(g), **said))
    expected = report.measure(noise(g), g, ["a"] * 3)
    assert values["scores"] == {**expected["scores"], "seconds_per_step": 2.5}
    assert values["statistics"] == expected["statistics"]
    about = values["details"].pop("about")
    assert about == {n: said[n] for n in ("method", "scene", "seed", "labels")}
    assert values["details"] == expected["details"]


def test_a_loop_is_measured_at_its_joint(tmp_path):
    g = Geometry(3, 2, 16, 16, loop=True)
    values = report.evaluate(a_folder(tmp_path, noise(g), loop=True))
    assert values["scores"] == report.measure(noise(g), g, ["a"] * 3)["scores"]
    assert len(values["details"]["seam_excess"]) == 3  # windows, the joint's among them
    assert "\n  2, 0  " in report.table(values)


def test_pictures_can_be_named(tmp_path):
    g = Geometry(3, 2, 16, 16)
    names = ["level_2.png", "level_1.png", "level_0.png"]
    folder = a_folder(tmp_path, noise(g), pictures=names, placement=[[0, 0], [0, 0]])
    save_png(folder / "sheet.png", noise(g)[0])  # another picture beside them
    values = report.evaluate(folder)
    assert values["statistics"] == statistics(noise(g)[::-1], g)


def changed(**said):
    def damage(folder):
        data = json.loads((folder / "zoom.json").read_text()) | said
        write_json(folder / "zoom.json", {n: v for n, v in data.items() if v is not None})

    return damage


def small_picture(folder):
    save_png(folder / "level_1.png", np.zeros((8, 16, 3), np.uint8))


BAD_FOLDERS = {
    "pictures: expected 3, one for each prompt, got ..level_0.png., .level_2": lambda f: (
        f / "level_1.png"
    ).unlink(),
    "level_1.png: expected 16 x 16 pixels, as level_0.png has, got '8 x 16": small_picture,
    "level_1.png is not a picture of a known kind": lambda f: (f / "level_1.png").write_text("x"),
    "level_1.png cannot be read": lambda f: cut(f / "level_1.png"),
    "no picture at .*level_7.png": changed(pictures=["level_0.png", "level_7.png", "level_2.png"]),
    "unknown setting 'prompt'; known: prompts, zoom_factor": changed(prompt="a"),
    "setting prompts is missing": changed(prompts=None),
    "setting zoom_factor is missing": changed(zoom_factor=None),
    "prompts: expected a list": changed(prompts="a"),
    r"prompts\[1\]: expected a string": changed(prompts=["a", 1, "b"]),
    "prompts: the prompt of level 1 is empty": changed(prompts=["a", " ", "b"]),
    "prompts: expected at least one": changed(prompts=[]),
    "zoom_factor: expected 2 or more, got 1": changed(zoom_factor=1),
    "zoom_factor: expected a whole number, got 2.5": changed(zoom_factor=2.5),
    "zoom_factor 3 must divide the height": changed(zoom_factor=3),
    r"placement\[0\]: expected 2 values": changed(placement=[[1], [2]]),
    "offsets: expected 2 pairs for 3 levels": changed(placement=[[1, 1]]),
    "outside its 16 x 16 pixels": changed(placement=[[9, 0], [0, 0]]),
    "loop: expected true or false": changed(loop="yes"),
    "offsets: expected 3 pairs for 3 levels, one for each in a loop": changed(
        loop=True, placement=[[1, 1]] * 2
    ),
    "seed: expected a whole number or null": changed(seed="one"),
    "seconds_per_step: expected a number or null": changed(seconds_per_step="fast"),
    "labels: expected a group of settings or null": changed(labels=[1]),
    "is not complete JSON": lambda f: cut(f / "zoom.json"),
    "expected a JSON object": lambda f: (f / "zoom.json").write_text("[]"),
}


@pytest.mark.parametrize("message", BAD_FOLDERS)
def test_a_bad_folder_is_one_line(tmp_path, message):
    folder = a_folder(tmp_path, noise(Geometry(3, 2, 16, 16)))
    BAD_FOLDERS[message](folder)
    with pytest.raises(UserError, match=message) as caught:
        report.evaluate(folder)
    assert "zoom.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_references_may_be_one_or_several(tmp_path):
    g = Geometry(3, 2, 16, 16)
    ours = a_folder(tmp_path / "ours", noise(g))
    others = [a_folder(tmp_path / "refs" / str(n), noise(g, n)) for n in (1, 2)]
    kept = [statistics(noise(g, n), g) for n in (1, 2)]
    (tmp_path / "refs" / "notes").mkdir()
    several = report.evaluate(ours, references=tmp_path / "refs")
    assert several == report.evaluate(ours) | {
        "scores": report.measure(noise(g), g, "abc", references=kept)["scores"]
    }
    one = report.evaluate(ours, references=others[0])["scores"]
    assert one["colour_drag"] != several["scores"]["colour_drag"]


def test_references_can_be_runs(workdir, tmp_path):
    samples = tmp_path / "samples"
    for name in ("stack_000", "stack_001"):
        shutil.copytree(workdir, samples / name)
    shutil.copy(workdir / "config.json", samples)
    with pytest.raises(UserError, match="expected a run with blend none, got 'laplacian'"):
        report.evaluate(workdir, references=samples)
    for name in ("stack_000", "stack_001"):
        record = json.loads((samples / name / "config.json").read_text())
        record["config"]["sampler"]["blend"] = "none"
        (samples / name / "config.json").write_text(json.dumps(record))
    found = report.evaluate(workdir, references=samples)["scores"]
    assert found["detail_outside"] == 1
    one = report.evaluate(workdir, references=samples / "stack_000")["scores"]
    assert one == found
    with pytest.raises(UserError, match="besides the zoom's own"):
        report.evaluate(workdir, references=workdir)


def test_references_of_something_else_are_one_line(tmp_path):
    g = Geometry(3, 2, 16, 16)
    ours = a_folder(tmp_path / "ours", noise(g))
    bad = {
        "the prompt of level 1: expected the zoom's, 'prompt 1', got 'another": a_folder(
            tmp_path / "prompts", noise(g), prompts=["prompt 0", "another", "prompt 2"]
        ),
        "references: .*expected Geometry": a_folder(
            tmp_path / "sizes", noise(Geometry(3, 2, 32, 32))
        ),
        "references: .*sizes2: expected Geometry": a_folder(
            tmp_path / "sizes2", noise(Geometry(2, 2, 16, 16))
        ),
        "references: expected a run, a folder with a zoom.json, or several": tmp_path / "absent",
    }
    for message, folder in bad.items():
        with pytest.raises(UserError, match=message) as caught:
            report.evaluate(ours, references=folder)
        assert "\n" not in str(caught.value)


def test_the_command_writes_what_it_prints(tmp_path, capsys, monkeypatch):
    g = Geometry(3, 2, 16, 16)
    ours, other = (a_folder(tmp_path / str(n), noise(g, n)) for n in (0, 1))
    command = ["pot-jax", "evaluate", f"--workdir={ours}", f"--references={other}"]
    assert main.main(command) == 0
    values = json.loads((ours / "evaluation.json").read_text())
    assert values == report.evaluate(ours, references=other)
    shown = capsys.readouterr().out
    assert report.table(values) in shown
    (ours / "evaluation.json").unlink()

    def full(path, value):
        raise UserError(f"cannot write {path}: the disk is read-only")

    monkeypatch.setattr("pot_jax.media.files.write_json", full)
    assert main.main(command) == 0
    out, err = capsys.readouterr()
    assert out == shown
    assert "note: cannot write" in err


def test_read_zoom(workdir):
    zoom = read_zoom(workdir)
    assert (zoom.geometry, zoom.timings) == (GEOMETRY, TIMINGS)
    assert zoom.settings.sampler.kernel == "mean"
    np.testing.assert_array_equal(zoom.images, a_zoom().images)
    assert read_levels(workdir, GEOMETRY).dtype == np.uint8


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0x10
    path.write_bytes(data)


def geometry_with(**changes):
    def damage(path):
        record = json.loads(path.read_text())
        path.write_text(json.dumps(record | {"geometry": dataclasses.asdict(GEOMETRY) | changes}))

    return damage


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("config.json", os.remove, "no run at .*config.json"),
        ("config.json", cut, "config.json is not complete JSON \\(it may be truncated"),
        ("config.json", lambda p: p.write_text("[]"), "contains a list; expected a JSON object"),
        ("config.json", lambda p: p.write_text("{}"), "it contains no settings"),
        ("config.json", lambda p: p.write_text('{"config": {}}'), "expected a geometry with"),
        ("config.json", geometry_with(height=20), "stack.npz: images has shape"),
        ("config.json", geometry_with(height=17), "config.json: .*17"),
        ("config.json", geometry_with(levels="4"), "config.json: levels: expected a whole"),
        ("config.json", geometry_with(offsets=[3]), "config.json: offsets: expected pairs"),
        ("stack.npz", os.remove, "no stack.npz in .*has it finished"),
        ("stack.npz", cut, "stack.npz cannot be read \\(it may be truncated"),
        ("stack.npz", flip, "stack.npz cannot be read"),
        ("stack.npz", lambda p: p.write_bytes(b""), "stack.npz cannot be read"),
        ("stack.npz", lambda p: p.write_text("<html>"), "stack.npz cannot be read"),
        ("stack.npz", lambda p: np.savez(p, latents=0), "no array named images"),
        ("stack.npz", lambda p: np.savez(p, images=np.array([{}])), "cannot be read"),
        (
            "stack.npz",
            lambda p: np.savez(p, images=np.full((4, 16, 24, 3), np.nan, np.float32)),
            "images must be finite float32; it is float32 or holds NaN",
        ),
        ("levels/level_002.png", os.remove, r"no picture at .*level_002\.png"),
        ("levels/level_003.png", cut, r"level_003\.png cannot be read \(it may be truncated"),
        ("levels/level_001.png", lambda p: Image.new("L", (24, 8)).save(p), "is 8 x 24 pixels"),
        ("metrics.json", cut, "metrics.json is not complete JSON"),
    ],
)
def test_damage_is_one_line(workdir, name, damage, message):
    damage(workdir / name)
    with pytest.raises(UserError, match=message) as caught:
        report.evaluate(workdir)
    assert "\n" not in str(caught.value)


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match="there is no such folder"):
        report.evaluate(tmp_path / "absent")


def test_a_run_of_several_stacks_names_them(workdir):
    (workdir / "stack.npz").unlink()
    for name in ("stack_000", "stack_001"):
        (workdir / name).mkdir()
    with pytest.raises(UserError, match="give one of its samples: stack_000, stack_001"):
        report.evaluate(workdir)
