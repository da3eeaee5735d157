"""A zoom enlarged by an upscaler of a few thousand random parameters."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from tiny_models import tiny_model, tiny_upscaler

import pot_jax
from pot_jax import main
from pot_jax.config import UpscalerSettings
from pot_jax.diffusion.schedule import signal_and_noise
from pot_jax.errors import UserError
from pot_jax.evaluation.metrics.overlap import overlap_psnr
from pot_jax.media.images import read_picture, zoom_to_bytes
from pot_jax.media.pixels import from_bytes
from pot_jax.parallel.mesh import device_mesh
from pot_jax.pipelines import upscale as upscaling
from pot_jax.pipelines.job import begin
from pot_jax.weights.export import export
from pot_jax.weights.load import load
from pot_jax.zoom.geometry import Geometry
from pot_jax.zoom.operators import downsample

PROMPTS = ["a", "star", "st"]
STEPS = {"steps": 3, "guidance_scale": 3.0}


def one_device():
    return jax.devices()[:1]


@pytest.fixture(scope="module")
def upscaler(tmp_path_factory):
    return tiny_upscaler(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def small(model):
    return pot_jax.sample(
        model, PROMPTS, placement=((4, -4), (0, 0)), steps=2, space="latent", devices=one_device()
    )


@pytest.fixture(scope="module")
def large(small, upscaler):
    return pot_jax.upscale(small, upscaler, devices=one_device(), **STEPS)


def test_enlarged_levels_agree(small, large):
    assert large.images.shape == (3, 64, 64, 3)
    assert large.geometry == Geometry(3, 2, 64, 64, ((16, -16), (0, 0)))
    assert np.abs(large.images).max() <= 1
    assert large.images.std() > 0.05
    assert overlap_psnr(large.before_render, large.geometry).max() < 60
    assert overlap_psnr(large.images, large.geometry).min() > 100
    rounded = from_bytes(zoom_to_bytes(large.images, large.geometry))
    assert overlap_psnr(rounded, large.geometry).min() >= 55


def test_the_small_zooms_rescaled_guidance_is_not_the_upscalers(small, large, upscaler):
    sampler = dataclasses.replace(small.settings.sampler, guidance_rescale=0.7)
    rescaled = dataclasses.replace(
        small, settings=dataclasses.replace(small.settings, sampler=sampler)
    )
    again = pot_jax.upscale(rescaled, upscaler, devices=one_device(), **STEPS)
    np.testing.assert_array_equal(again.images, large.images)


def test_what_the_enlarged_zoom_says_of_itself(small, large, upscaler):
    assert large.latents is small.latents
    assert large.settings.upscaler == UpscalerSettings("tiny_upscaler", solver="ddim", **STEPS)
    assert dataclasses.replace(large.settings, upscaler=UpscalerSettings()) == small.settings
    assert large.weights_digest not in (small.weights_digest, upscaler.digest)
    assert large.timings["upscaling_seconds"] > 0


def test_levels_that_see_the_same_place_see_the_same_noise(small, upscaler):
    settings = dataclasses.replace(small.settings, upscaler=UpscalerSettings("u", **STEPS))
    mesh = device_mesh(devices=one_device())
    prepared = upscaling.prepare(upscaler, settings, small.geometry, "0", mesh)
    job, key = upscaling.job_for(prepared, small)
    states = begin(job, key[None])
    noised = np.asarray(job.weights["conditions"]["channels"])
    np.testing.assert_array_equal(noised[:3], noised[3:])
    alpha, sigma = signal_and_noise(upscaler.low_res.schedule)
    noise = (noised[:3] - alpha[20] * small.images) / sigma[20]
    for grid in (noise, np.asarray(states.latents[0])):
        assert abs(grid.std() - 1) < 0.1
        for i, (y, x) in enumerate(small.geometry.corners):
            window = grid[i, y : y + 8, x : x + 8]
            np.testing.assert_allclose(2 * downsample(grid[i + 1], 2), window, atol=1e-4)


def test_how_many_rows_go_at_once_changes_nothing(small, large, upscaler):
    split = pot_jax.upscale(small, upscaler, rows=1, devices=jax.devices()[:2], **STEPS)
    np.testing.assert_allclose(split.images, large.images, atol=1e-4)


def test_independent_levels_stay_independent(small, upscaler):
    def enlarged(prompts):
        sampler = dataclasses.replace(small.settings.sampler, blend="none")
        settings = dataclasses.replace(small.settings, sampler=sampler, prompts=prompts)
        zoom = dataclasses.replace(small, settings=settings)
        return pot_jax.upscale(zoom, upscaler, steps=1, devices=one_device()).images

    one, other = enlarged(("a", "st", "star")), enlarged(("a", "st", "t r"))
    np.testing.assert_array_equal(one[:2], other[:2])
    assert np.abs(one[2] - other[2]).max() > 1e-3


def test_an_own_blend_is_not_replaced_in_silence(model, upscaler):
    def alone(images, geometry, *, weight, kernel):
        return images

    zoom = pot_jax.sample(
        model, PROMPTS, steps=1, space="latent", blend=alone, devices=one_device()
    )
    with pytest.raises(UserError, match="was sampled with .*alone as its blend; pass it as blend="):
        pot_jax.upscale(zoom, upscaler, devices=one_device(), **STEPS)
    given = pot_jax.upscale(zoom, upscaler, blend="none", steps=1, devices=one_device())
    assert given.images.shape == (3, 64, 64, 3)


def test_an_upscaler_is_written_in_diffusers_layout(upscaler, tmp_path):
    export(upscaler, tmp_path / "x4")
    index = json.loads((tmp_path / "x4" / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionUpscalePipeline"
    assert index["low_res_scheduler"] == ["diffusers", "DDPMScheduler"]


def test_a_silent_autoencoder_is_scaled_as_upscalers_are(upscaler, tmp_path):
    export(upscaler, tmp_path / "x4")
    file = tmp_path / "x4" / "vae" / "config.json"
    config = json.loads(file.read_text())
    del config["scaling_factor"]
    file.write_text(json.dumps(config))
    assert load(tmp_path / "x4").autoencoder.config.scaling_factor == 0.08333


def test_the_command_leaves_enlarged_outputs(model, upscaler, tmp_path, monkeypatch, capsys):
    devices = one_device()
    monkeypatch.setattr("jax.devices", lambda *a: devices)
    export(model, tmp_path / "tiny")
    export(upscaler, tmp_path / "x4")
    command = ["pot-jax", "sample", "a", "star", f"--model={tmp_path / 'tiny'}", "--steps=2"]
    command += [f"--upscaler={tmp_path / 'x4'}", "--config.upscaler.steps=2", "--space=latent"]
    command += ["--config.movie.fps=2", "--config.movie.size=16", f"--workdir={tmp_path / 'run'}"]
    assert main.main(command) == 0
    run = tmp_path / "run"
    assert json.loads((run / "config.json").read_text())["geometry"]["height"] == 64
    with np.load(run / "stack.npz") as stack:
        assert stack["images"].shape == stack["images_before_render"].shape == (2, 64, 64, 3)
    assert read_picture(run / "levels" / "level_001.png").shape == (64, 64, 3)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["height"] == 64
    assert metrics["overlap_psnr_db"]["delivered"]["minimum"] >= 55
    assert metrics["upscaling_seconds"] > 0
    assert main.main(["pot-jax", "evaluate", f"--workdir={run}"]) == 0
    assert "upscaling_seconds" in capsys.readouterr().out
    assert main.main(command) == 0
    assert "already complete" in capsys.readouterr().out
    assert main.main([*command, "--config.upscaler.noise_level=30"]) == 2
    assert "upscaler.noise_level is 20 there, 30 here" in capsys.readouterr().err


def test_mistakes_are_one_line(model, upscaler, small, large):
    def message(call, *arguments, **named):
        with pytest.raises(UserError) as raised:
            call(*arguments, **named)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    assert "expected 0 to 350, got 351" in message(
        pot_jax.upscale, small, upscaler, noise_level=351
    )
    assert "is for text-to-image" in message(pot_jax.upscale, small, model)
    assert "is for upscaling" in message(pot_jax.sample, upscaler, PROMPTS)
    assert "has already been upscaled; pass the one from" in message(
        pot_jax.upscale, large, upscaler
    )
    assert "unknown setting 'path'" in message(pot_jax.upscale, small, upscaler, path="x")
    assert "upscaler.rows: expected at least 1" in message(UpscalerSettings, rows=0)
    assert pot_jax.enlarge is pot_jax.upscale, "the name that it had"


@pytest.mark.parametrize("highest", [1000, -1, "many"])
def test_a_noise_level_beyond_the_schedule_is_refused(upscaler, tmp_path, highest):
    export(upscaler, tmp_path / "x4")
    file = tmp_path / "x4" / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"max_noise_level": highest}))
    with pytest.raises(UserError, match="max_noise_level: expected 0 to 999.* got "):
        load(tmp_path / "x4")
