import dataclasses
import json
import os
import shutil
import types

import numpy as np
import pytest
from PIL import Image

from pot_jax.errors import UserError
from pot_jax.evaluation import run_report as report
from pot_jax.evaluation.metrics.overlap import PSNR_CEILING
from pot_jax.evaluation.metrics.overlap import metrics as measured
from pot_jax.media.files import write_json
from pot_jax.media.images import save_png, zoom_to_bytes
from pot_jax.runs.zoom import read_levels, read_zoom
from pot_jax.zoom import operators
from pot_jax.zoom.geometry import Geometry

GEOMETRY = Geometry(4, 2, 16, 24, ((2, -6), (-4, 0), (0, 5)))
STATES = ["before_render", "rendered", "delivered"]  # in the order in which they are made
TIMINGS = {"compile_seconds": 1.5, "seconds_per_step": 0.25}


def a_zoom():
    """What is measured of a `Zoom`."""
    raw = np.random.default_rng(0).uniform(-1, 1, (4, 16, 24, 3)).astype(np.float32)
    return types.SimpleNamespace(
        images=np.asarray(operators.render(raw, GEOMETRY)),
        before_render=raw,
        geometry=GEOMETRY,
        settings=types.SimpleNamespace(sampler=types.SimpleNamespace(kernel="mean")),
        timings=TIMINGS,
    )


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("run")
    zoom = a_zoom()
    pictures = zoom_to_bytes(zoom.images, GEOMETRY)
    record = {
        "config": {"sampler": {"kernel": "mean"}},
        "geometry": dataclasses.asdict(GEOMETRY),
    }
    (tmp_path / "config.json").write_text(json.dumps(record))
    np.savez(
        tmp_path / "stack.npz",
        images=zoom.images,
        images_before_render=zoom.before_render,
        latents=np.zeros((4, 4, 6, 4), np.float32),
    )
    for level, picture in enumerate(pictures):
        save_png(tmp_path / "levels" / f"level_{level:03d}.png", picture)
    values = measured(zoom.images, zoom.before_render, pictures, GEOMETRY, timings=TIMINGS)
    write_json(tmp_path / "metrics.json", values)
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
    assert report.evaluate(workdir) == json.loads((workdir / "metrics.json").read_text())


def test_evaluate_measures_the_delivered_files(workdir):
    save_png(workdir / "levels" / "level_001.png", np.zeros((16, 24, 3), np.uint8))
    pairs = report.evaluate(workdir)["overlap_psnr_db"]["delivered"]["pairs"]
    assert pairs[0] < 15
    assert pairs[1] < 15
    assert pairs[2] > 55


def test_evaluate_without_what_is_optional(workdir):
    np.savez(workdir / "stack.npz", images=a_zoom().images)
    (workdir / "metrics.json").unlink()
    metrics = report.evaluate(workdir)
    assert list(metrics["overlap_psnr_db"]) == ["rendered", "delivered"]
    assert "compile_seconds" not in metrics
    report.table(metrics)


def test_equal_pairs_and_one_level_are_valid_json():
    flat, geometry = np.zeros((2, 8, 8, 3), np.float32), Geometry(2, 2, 8, 8)
    metrics = measured(flat, None, zoom_to_bytes(flat, geometry), geometry)
    assert metrics["overlap_psnr_db"]["delivered"]["pairs"] == [PSNR_CEILING]
    single = Geometry(1, 2, 8, 8)
    metrics = measured(flat[:1], None, zoom_to_bytes(flat[:1], single), single)
    assert metrics["overlap_ssim"]["rendered"] == {"pairs": [], "minimum": None, "mean": None}
    json.dumps(metrics, allow_nan=False)
    assert report.table(metrics).splitlines() == ["1 levels of 8 x 8 pixels, zoom factor 2"]


def test_table(workdir):
    lines = report.table(report.evaluate(workdir)).splitlines()
    assert lines[0] == "4 levels of 16 x 24 pixels, zoom factor 2"
    assert len({len(line) for line in lines[2:-2]}) == 1  # columns in line
    assert [line.split()[0] for line in lines[3:8]] == ["0,", "1,", "2,", "minimum", "mean"]
    assert lines[-1] == "a step took 0.25 s"


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
