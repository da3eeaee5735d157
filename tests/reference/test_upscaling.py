"""Upscaling against StableDiffusionUpscalePipeline: same weights, tokens, small pictures, noise."""

import diffusers
import jax
import numpy as np
import pytest
import torch
from pairs import to_torch
from tiny_models import tiny_model, tiny_upscaler

import pot_jax
from pot_jax.config import RunSettings, UpscalerSettings
from pot_jax.diffusion.schedule import signal_and_noise
from pot_jax.models.vae import decode_latents
from pot_jax.parallel.mesh import device_mesh
from pot_jax.pipelines import upscale as upscaling
from pot_jax.pipelines.job import begin
from pot_jax.runs.zoom import Zoom
from pot_jax.weights.export import export
from pot_jax.weights.load import load
from pot_jax.zoom.geometry import Geometry

PROMPTS = ("star a", "st")
GEOMETRY = Geometry(2, 2, 16, 16)
# diffusers' own and torch's; a warning of a wrong scaling factor would change the model.
pytestmark = pytest.mark.filterwarnings("ignore", "error:.*scaling_factor")


def zoom_of(images):
    """A zoom that holds these pictures."""
    settings = RunSettings(prompts=PROMPTS, negative_prompt="zz")
    return Zoom(images, images, np.zeros(1), settings, GEOMETRY, "0", {}, {})


def prepare(upscaler, **given):
    settings = RunSettings(
        prompts=PROMPTS, negative_prompt="zz", upscaler=UpscalerSettings("x4", **given)
    )
    mesh = device_mesh(jax.devices()[:1])
    return upscaling.prepare(upscaler, settings, GEOMETRY, "0", mesh)


def theirs(folder):
    pipeline = diffusers.StableDiffusionUpscalePipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def psnr(a, b):
    return -10 * np.log10(np.mean((a - b) ** 2))


@pytest.mark.parametrize(
    ("prediction_type", "scale", "solver"),
    [("v_prediction", 5.0, "ddim"), ("epsilon", 1.0, "euler")],
)
def test_pictures_are_equal_to_60_db(tmp_path, monkeypatch, prediction_type, scale, solver):
    export(tiny_upscaler(tmp_path / "tokenizer", 1, prediction_type), tmp_path / "model")
    upscaler, pipeline = load(tmp_path / "model"), theirs(tmp_path / "model")
    if solver == "euler":
        pipeline.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    zoom = zoom_of(images)
    given = {"steps": 10, "guidance_scale": scale, "noise_level": 40, "solver": solver}
    prepared = prepare(upscaler, **given)
    job, key = upscaling.job_for(prepared, zoom)
    states = begin(job, key[None])

    # What ours drew, for theirs: the noise of the small pictures, and the first latents.
    alphas = pipeline.low_res_scheduler.alphas_cumprod[40].numpy()
    noised = np.asarray(job.weights["conditions"]["channels"])[:2]
    noise = (noised - np.sqrt(alphas) * images) / np.sqrt(1 - alphas)
    monkeypatch.setattr(
        "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_upscale.randn_tensor",
        lambda shape, **_: to_torch(noise),
    )
    expected = pipeline(
        list(PROMPTS),
        to_torch((images + 1) / 2),
        num_inference_steps=10,
        guidance_scale=scale,
        noise_level=40,
        negative_prompt=["zz", "zz"],
        latents=to_torch(np.asarray(states.latents[0]) / job.plan.init_scale),
        output_type="np",
    ).images
    large = pot_jax.upscale(zoom, upscaler, devices=jax.devices()[:1], **given)
    ours = (np.clip(large.before_render, -1, 1) + 1) / 2
    assert expected.shape == (2, 64, 64, 3)
    assert expected.std() > 0.05, "a picture, not a flat field"
    assert psnr(ours, expected) > 60  # measured: 123 and 133


def test_every_component_is_equal(tmp_path):
    export(tiny_upscaler(tmp_path / "tokenizer"), tmp_path / "model")
    upscaler, pipeline = load(tmp_path / "model"), theirs(tmp_path / "model")
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(2, 8, 8, 7)).astype(np.float32)
    states = rng.normal(size=(2, 8, 16)).astype(np.float32)
    levels, times = np.array([0, 350]), np.array([1, 999])
    prediction = pipeline.unet(
        to_torch(inputs),
        torch.from_numpy(times),
        torch.from_numpy(states),
        class_labels=torch.from_numpy(levels),
    ).sample
    ours = jax.jit(upscaler.unet.apply)(
        {"params": upscaler.params["unet"]}, inputs, times, states, class_labels=levels
    )
    close(ours, prediction)
    latents = inputs[..., :4]
    decoded = pipeline.vae.decode(to_torch(latents) / 0.08333).sample
    close(decode_latents(upscaler.autoencoder, upscaler.params["autoencoder"], latents), decoded)
    alpha, sigma = prepare(upscaler, noise_level=350).scales
    noised = pipeline.low_res_scheduler.add_noise(
        to_torch(latents), to_torch(inputs[..., 3:]), torch.tensor([350, 350])
    )
    close(alpha * latents + sigma * inputs[..., 3:], noised)


def close(ours, theirs, tolerance=1e-5):
    theirs = theirs.detach().numpy().transpose(0, 2, 3, 1)
    assert np.abs(np.asarray(ours) - theirs).max() < tolerance * np.abs(theirs).max()


def test_what_diffusers_saves_loads(tmp_path):
    export(tiny_upscaler(tmp_path / "tokenizer"), tmp_path / "model")
    pipeline = theirs(tmp_path / "model")
    assert pipeline.config.max_noise_level == 350
    pipeline.save_pretrained(tmp_path / "again")
    one, other = load(tmp_path / "model"), load(tmp_path / "again")
    assert (other.digest, other.pipeline) == (one.digest, one.pipeline)
    assert other.low_res.max_noise_level == 350
    assert other.autoencoder == one.autoencoder
    np.testing.assert_array_equal(
        signal_and_noise(other.low_res.schedule), signal_and_noise(one.low_res.schedule)
    )


def test_a_text_to_image_model_in_diffusers_is_still_one(tmp_path):
    export(tiny_model(tmp_path / "tokenizer"), tmp_path / "model")
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    pipeline.save_pretrained(tmp_path / "again")
    assert load(tmp_path / "again").pipeline == "StableDiffusionPipeline"
