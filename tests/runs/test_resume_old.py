"""Runs that were killed under format 1 resume: the folders in format_1 were saved at 078b138.

ddim       two levels in pixel space, 5 of 10 steps
dpmpp_2m   two samples of two levels in latents, 5 of 10 steps: a solver with a history
expected   the delivered pictures of the same runs, unbroken, by the same commit
"""

import importlib
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from pot_jax import main
from pot_jax.media.images import read_picture

FORMAT_1 = pathlib.Path(__file__).parent / "format_1"
SAMPLES = {"ddim": {"": "ddim"}, "dpmpp_2m": {f"stack_00{k}": f"dpmpp_2m_{k}" for k in (0, 1)}}


def again(folder):
    # By its record: the model's own defaults are others by now.
    return ["pot-jax", "sample", f"--config={folder / 'config.json'}", f"--workdir={folder}"]


def pictures(folder):
    return {path.name: read_picture(path).astype(int) for path in folder.glob("level_*.png")}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_run_of_format_1_resumes(name, tmp_path, monkeypatch):
    devices = jax.devices()[:1]
    monkeypatch.setattr("jax.devices", lambda *a: devices)
    steps = []
    real = importlib.import_module("pot_jax.pipelines.zoom").run

    def watched(job, states, **keywords):
        steps.append(int(states.step))
        return real(job, states, **keywords)

    monkeypatch.setattr("pot_jax.pipelines.zoom.run", watched)
    for copy in ("one", "other"):
        folder = shutil.copytree(FORMAT_1 / name, tmp_path / copy)
        assert main.main(again(folder)) == 0
        record = json.loads((folder / "config.json").read_text())
        assert record["format"] == 2
        assert record["identity"]["weights"] == record["weights_sha256"]
    assert steps == [5, 5]
    for sample, expected in SAMPLES[name].items():
        wanted = pictures(FORMAT_1 / "expected" / expected)
        one, other = (pictures(tmp_path / copy / sample / "levels") for copy in ("one", "other"))
        assert len(wanted) == 2
        for level, picture in wanted.items():
            # Numbers that were constants of the program are arguments now.
            assert np.abs(one[level] - picture).max() <= 1
            np.testing.assert_array_equal(one[level], other[level])


def test_another_run_of_format_1_is_told_apart(tmp_path, capsys):
    folder = shutil.copytree(FORMAT_1 / "ddim", tmp_path / "run")
    assert main.main([*again(folder), "--guidance_scale=5"]) == 2
    assert "sampler.guidance_scale is 4.0 there, 5.0 here" in capsys.readouterr().err
