"""The points of a sweep: products, names, mistakes, estimates; all of it without JAX."""

import json
import subprocess
import sys

import numpy as np
import pytest

from pot_jax import config
from pot_jax.checks import defaults
from pot_jax.config import RunSettings
from pot_jax.errors import UserError
from pot_jax.evaluation.points import (
    POINT,
    RESULT,
    estimates,
    finished,
    listed,
    operations,
    points,
    share,
)
from pot_jax.media.files import write_json

BASE = {**defaults(RunSettings), "model": "cosmos64", "prompts": ("a planet", "an island")}
COST = {"unet": 2.0, "decode": 3.0, "encode": 5.0, "tiny_decode": 0.3, "tiny_encode": 0.5}


def made(sweep, base=BASE, stated=(), **options):
    return points(base, stated, sweep, **options)


def test_a_sweep_is_the_product_of_its_axes_in_order():
    found = made({"sampler.blend": ["laplacian", "none"], "seed": [0, 1]})
    assert [point.name for point in found] == [
        "sampler.blend=laplacian,seed=0",
        "sampler.blend=laplacian,seed=1",
        "sampler.blend=none,seed=0",
        "sampler.blend=none,seed=1",
    ]
    assert [(p.settings.sampler.blend, p.settings.seed) for p in found][2] == ("none", 0)
    assert found[0].stated == {"blend"}


def test_named_overrides_lie_over_the_base_and_may_be_groups():
    scenes = {
        "wide": {"prompts": ["a", "b", "c"], "zoom": {"zoom_factor": 4}},
        "deep": {"prompts": ["d", "e"], "zoom.zoom_factor": 2, "sampler.steps": 7},
    }
    wide, deep = made({"scene": scenes})
    assert (wide.settings.prompts, wide.settings.zoom.zoom_factor) == (("a", "b", "c"), 4)
    assert (deep.settings.sampler.steps, deep.stated, wide.stated) == (7, {"steps"}, frozenset())
    assert (wide.name, wide.values) == ("scene=wide", {"scene": "wide"})


def test_a_list_of_sweeps_is_their_union_without_repetitions():
    found = made([{"seed": [0, 1]}, {"seed": [1, 2]}])
    assert [point.settings.seed for point in found] == [0, 1, 2]


def test_a_part_of_a_sweep_is_every_nth_scene():
    scenes = {f"s{i}": {"prompts": [f"prompt {i}"]} for i in range(8)}
    found = made({"scene": scenes, "seed": [0, 1]}, every=4)
    assert [point.values["scene"] for point in found] == ["s0", "s0", "s4", "s4"]


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"sampler.blur": [1]}, "unknown setting 'sampler.blur'"),
        (
            {"sampler.steps": [10, "many"]},
            "sampler.steps=many: sampler.steps: expected a whole number",
        ),
        ({"sampler.steps": 10}, "sampler.steps: expected a list of values"),
        ({"sampler.steps": []}, "sampler.steps: expected a list of values"),
        ({"variant": {"a": 3}}, "variant.a: expected overrides"),
        ({"variant": {"a": {"sampler.stepz": 3}}}, "unknown setting 'sampler.stepz'"),
        ({"kind": [1]}, "unknown setting 'kind'"),
        ([], "nothing to run"),
        ({}, "get_sweep(): expected axes by name"),
        ({"num_samples": [2]}, "num_samples: expected 1"),
        ({"prompts": [["a", " "]]}, "the prompt of level 1 is empty"),
        (
            {"sampler.steps": [4], "variant": {"a": {"sampler.steps": 3}}},
            "sampler.steps is set by two axes, sampler.steps and variant",
        ),
        (
            {"zoom": [None], "variant": {"a": {"zoom.zoom_factor": 3}}},
            "zoom.zoom_factor is set by two axes, another and variant",
        ),
        ({1: [2]}, "get_sweep(): expected axes by name"),
        ({"seed": [{1}]}, "sweep: seed: expected values that JSON can express"),
        ({"seed": {"a": {"seed": {2}}}}, "sweep: seed=a: seed: expected a whole number"),
        (
            {"zoom": [{"zoom_factor": 2}], "variant": {"a": {"zoom.zoom_factor": 3}}},
            "zoom.zoom_factor is set by two axes, zoom and variant",
        ),
        ({"variant": {"a b": {}, "a-b": {"seed": 1}}}, "two points would have the folder"),
        ({"variant": {"a" * 250: {}}}, "its name: expected at most 200 bytes"),
    ],
)
def test_a_mistake_is_named_before_anything_runs(sweep, message):
    with pytest.raises(UserError) as error:
        made(sweep)
    assert message in str(error.value)


def test_part_of_a_sweep_without_scenes_is_refused():
    with pytest.raises(UserError, match="--every: expected a sweep with an axis 'scene'"):
        made({"seed": [0, 1]}, every=2)


def test_values_may_be_numpys_and_paths(tmp_path):
    sweep = {"seed": np.arange(2), "photograph.path": [tmp_path / "a.png"]}
    with pytest.raises(UserError, match="expected a list of values"):
        made(sweep)
    found = made({**sweep, "seed": list(np.arange(2)), "sampler.blend_weight": [np.float64(0.5)]})
    assert [point.settings.seed for point in found] == [0, 1]
    assert found[0].settings.photograph.path == str(tmp_path / "a.png")
    assert [point.settings.seed for point in made({"seed": range(3)})] == [0, 1, 2]


def test_an_axis_cannot_lead_out_of_the_folder():
    (point,) = made({"../x": {"a/b": {}}})
    assert point.name == "..-x=a-b"


def test_a_point_of_an_earlier_version_is_the_same(tmp_path):
    (point,) = made({"seed": [0]})
    point.claim(tmp_path)
    record = json.loads((tmp_path / POINT).read_text())
    del record["settings"]["sampler"]["time_travel"]  # as if it were new
    write_json(tmp_path / POINT, record)
    point.claim(tmp_path)
    write_json(tmp_path / POINT, {**record, "settings": None})
    with pytest.raises(UserError, match="settings: expected a group of settings"):
        point.claim(tmp_path)


def test_a_folder_of_another_point_is_refused(tmp_path):
    (mine,) = made({"variant": {"a": {"sampler.steps": 4}}})
    (other,) = made({"variant": {"a": {"sampler.steps": 5}}})
    settings = {"sampler.steps": 4, "save_every": 1, "batch_rows": 2, "preview_every": 5}
    (slower,) = made({"variant": {"a": settings}})
    folder = tmp_path / mine.name
    mine.claim(folder)
    write_json(folder / RESULT, {"scores": {}})
    assert finished(mine, tmp_path) == finished(slower, tmp_path) == {"scores": {}}
    with pytest.raises(UserError, match=r"sampler.steps is 4 there, 5 here"):
        finished(other, tmp_path)


def test_what_a_point_costs_follows_its_settings():
    def of(**sampler):
        data = {**BASE, "sampler": {"steps": 10, "guidance_scale": 4.0, **sampler}}
        (point,) = points(data, set(data["sampler"]), {"seed": [0]})
        return operations(point, {**COST, "defaults": {}})

    agreed = 3 + 2 * 5  # decoded once, and encoded twice
    assert of(space="latent") == 2 * (10 * 2 * 2 + 3)
    assert of(space="latent", guidance_scale=1.0) == 2 * (10 * 2 + 3)
    assert of(space="pixel") == 2 * (10 * 2 * 2 + 10 * agreed + 3)
    assert of(space="pixel", pixel_every=3) == 2 * (10 * 2 * 2 + 4 * agreed + 3)
    half = of(space="pixel", agree_first=0.5, agree_every=3)  # 0 to 4, 6, 8, 9
    assert half == 2 * (10 * 2 * 2 + 8 * agreed + 3)
    both = of(space="pixel", agree_first=0.5, agree_every=3, pixel_every=2)  # 0, 2, 4, 6, 8
    assert both == 2 * (10 * 2 * 2 + 5 * agreed + 3)
    assert of(space="pixel", agreement_vae="tiny_vae") == pytest.approx(2 * (40 + 13 + 3))
    assert of(space="pixel", blend="gradient", gradient_steps=2) == 2 * (40 + 10 * 7 * 3 + 3)


def test_estimates_follow_the_pace_of_finished_points():
    few, many = made({"sampler.steps": [10, 40], "sampler.space": ["latent"]})
    assert list(estimates([many], [])) == [(None, None, None)]
    cost = {**COST, "seconds": 86.0, "defaults": {}, "peak_bytes": 7, "disk_bytes": 9}
    ((seconds, memory, disk),) = estimates([many], [(few, {"cost": cost})])
    assert (memory, disk) == (7, 9)
    # 86 operations take 86 seconds.
    assert seconds == pytest.approx(2 * (40 * 2 * 2 + 3))


def test_a_models_own_defaults_count_where_nothing_is_stated():
    stated, free = made({"variant": {"a": {"sampler.steps": 10}, "b": {"seed": 1}}})
    usual = {"steps": 5, "space": "latent"}
    cost = {**COST, "seconds": 1.0, "defaults": usual, "peak_bytes": 0, "disk_bytes": 0}
    ((seconds, *_),) = estimates([free], [(stated, {"cost": cost})])
    assert seconds == pytest.approx((5 * 2 * 2 + 3) / (10 * 2 * 2 + 3))


@pytest.mark.parametrize(
    ("shard", "environ", "begin"),
    [
        ("", {}, 0),
        ("1/4", {}, 0.25),
        ("1/4", {"SLURM_PROCID": "3", "SLURM_NTASKS": "4"}, 0.25),
        (None, {"SLURM_PROCID": "3", "SLURM_NTASKS": "4"}, 0.75),
        (
            None,
            {
                "SLURM_ARRAY_TASK_ID": "7",
                "SLURM_ARRAY_TASK_MIN": "5",
                "SLURM_ARRAY_TASK_COUNT": "4",
            },
            0.5,
        ),
        (None, {"JOB_COMPLETION_INDEX": "0"}, 0),
        (None, {"JOB_COMPLETION_INDEX": "2"}, 0.236068),
    ],
)
def test_where_a_worker_begins(shard, environ, begin):
    assert share(shard, environ) == pytest.approx(begin)


@pytest.mark.parametrize("shard", ["4/4", "1", "a/b", "-1/4", "1/0", "0/0"])
def test_a_shard_that_is_none(shard):
    with pytest.raises(UserError, match="--shard: expected i/n"):
        share(shard, {})


def test_the_list_says_what_is_known(tmp_path):
    todo = made({"seed": [0, 1, 2]})
    rows, total = listed(todo, tmp_path)
    assert [row.split()[:3] for row in rows] == [["to", "do", "?"]] * 3
    assert total == "3 points: 0 finished, 3 to do: ?"
    todo[1].claim(tmp_path / todo[1].name)
    cost = {**COST, "seconds": 3600, "defaults": {}, "peak_bytes": 2e9, "disk_bytes": 3e6}
    write_json(tmp_path / todo[1].name / RESULT, {"cost": cost})
    rows, total = listed(todo, tmp_path)
    assert rows[1].split() == ["finished", "3.6e+03", "s", "2", "GB", "3", "MB", "seed=1"]
    assert total == "3 points: 1 finished, 2 to do: 2 hours and 6 MB"
    assert json.loads((tmp_path / "seed=1" / POINT).read_text())["values"] == {"seed": 1}


def test_listing_imports_no_jax():
    code = "import pot_jax.evaluation.points, sys; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_config_without_a_sweep_is_refused(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def get_config():\n    return {}\n")
    with pytest.raises(UserError, match=r"defines no get_sweep\(\)"):
        config.read_sweep(str(path))
    path = tmp_path / "mine.json"
    path.write_text("{}")
    with pytest.raises(UserError, match="expected a .py file"):
        config.read_sweep(str(path))
