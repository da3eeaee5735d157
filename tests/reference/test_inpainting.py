"""Inpainting against StableDiffusionInpaintPipeline: same weights, tokens, pictures, noise."""

import diffusers
import jax
import numpy as np
import pytest
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from pairs import to_torch
from tiny_models import tiny_inpainting_model

import pot_jax
from pot_jax.weights.export import export


def psnr(a, b):
    return -10 * np.log10(np.mean((a - b) ** 2))


@pytest.mark.filterwarnings("ignore")  # diffusers' and torch's own
@pytest.mark.parametrize("scale", [7.5, 1.0])
def test_pictures_are_equal_to_60_db(tmp_path, monkeypatch, scale):
    export(tiny_inpainting_model(tmp_path / "tokenizer"), tmp_path / "model")
    theirs = diffusers.StableDiffusionInpaintPipeline.from_pretrained(
        tmp_path / "model", safety_checker=None, requires_safety_checker=False
    )
    theirs.set_progress_bar_config(disable=True)
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    masks = rng.uniform(size=(2, 16, 16)).astype(np.float32)
    noise = rng.normal(size=(2, 8, 8, 4)).astype(np.float32)
    # Theirs draws the encoded picture from the encoder's Gaussian; ours takes its mean.
    monkeypatch.setattr(
        DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mean
    )
    prompts = ["star a", "st"]
    expected = theirs(
        prompts,
        image=to_torch((images + 1) / 2),
        mask_image=to_torch(masks[..., None]),
        height=16,
        width=16,
        strength=1.0,
        num_inference_steps=10,
        guidance_scale=scale,
        negative_prompt=["zz", "zz"],
        latents=to_torch(noise),
        output_type="np",
    ).images
    ours = pot_jax.inpaint(
        pot_jax.load(tmp_path / "model"),
        prompts,
        images,
        masks,
        negative_prompt="zz",
        steps=10,
        guidance_scale=scale,
        latents=noise,
        devices=jax.devices()[:1],
    )
    assert expected.std() > 0.05, "a picture, not a flat field"
    assert psnr((ours + 1) / 2, expected) > 60  # measured: 125 and 136
