"""The whole pipeline against diffusers' own: same weights, tokens, noise, 20 DDIM steps."""

import diffusers
import jax
import numpy as np
import pytest
import torch
from tiny_models import TINY_VAE, tiny_model

import pot_jax
from pot_jax.models.vae import decode_latents
from pot_jax.weights.export import export
from pot_jax.weights.load import SHIPPED

PROMPT = "star a"


def their_picture(folder, prompt, noise, **arguments):
    """[H, W, 3] in [0, 1] by StableDiffusionPipeline, in float32, from unit noise [h, w, c]."""
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
        folder, safety_checker=None, requires_safety_checker=False, torch_dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    latents = torch.from_numpy(noise.transpose(2, 0, 1)[None].copy())
    return pipeline(prompt, latents=latents, output_type="np", **arguments).images[0]


def psnr(a, b):
    return -10 * np.log10(np.mean((a - b) ** 2))


@pytest.mark.filterwarnings("ignore")  # diffusers' and torch's own
def test_a_folder_with_a_tiny_autoencoder(tmp_path):
    own = {"agreement_vae": "tiny_vae"}
    model = tiny_model(tmp_path / "tokenizer", tiny_vae=TINY_VAE, sampler=own)
    export(model, tmp_path / "model")
    noise = np.asarray(jax.random.normal(jax.random.key(0), (8, 8, 4)))
    their_picture(tmp_path / "model", PROMPT, noise, num_inference_steps=1)
    tiny = diffusers.AutoencoderTiny.from_pretrained(tmp_path / "model" / "tiny_vae")
    latents = torch.from_numpy(noise.transpose(2, 0, 1)[None].copy())
    with torch.no_grad():
        theirs = tiny.decode(latents).sample[0].numpy().transpose(1, 2, 0)
    ours = decode_latents(model.tiny_vae, model.params["tiny_vae"], noise[None])[0]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)  # float32: sums in another order


@pytest.mark.filterwarnings("ignore")  # diffusers' and torch's own
@pytest.mark.parametrize(("seed", "rescale"), [(0, 0.0), (1, 0.0), (1, 0.7)])
def test_pictures_are_equal_to_60_db(tmp_path, seed, rescale):
    model = tiny_model(tmp_path / "tokenizer", seed)
    export(model, tmp_path / "model")
    noise = np.asarray(jax.random.normal(jax.random.key(seed), (8, 8, 4)))
    theirs = their_picture(
        tmp_path / "model",
        PROMPT,
        noise,
        num_inference_steps=20,
        guidance_scale=7.5,
        guidance_rescale=rescale,
    )
    zoom = pot_jax.sample(
        pot_jax.load(tmp_path / "model"),
        [PROMPT],
        steps=20,
        guidance_scale=7.5,
        guidance_rescale=rescale,
        solver="ddim",
        space="latent",
        latents=noise[None],
    )
    ours = (zoom.images[0] + 1) / 2
    assert theirs.std() > 0.05, "a picture, not a flat field"
    assert psnr(ours, theirs) > 60


@pytest.mark.filterwarnings("ignore")
def test_the_shipped_model_gives_the_same_picture_in_diffusers():
    model = pot_jax.load("cosmos64")
    g = model.unet.config
    noise = np.asarray(
        jax.random.normal(jax.random.key(3), (g.sample_size, g.sample_size, g.in_channels))
    )
    prompt = "a blue planet up close"
    theirs = their_picture(
        SHIPPED["cosmos64"], prompt, noise, num_inference_steps=20, guidance_scale=4.0
    )
    zoom = pot_jax.sample(
        model,
        [prompt],
        steps=20,
        guidance_scale=4.0,
        solver="ddim",
        space="latent",
        latents=noise[None],
    )
    # The weights are float16 on disk; both compute in float32.
    assert psnr((zoom.images[0] + 1) / 2, theirs) > 60
