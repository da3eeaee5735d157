"""A latent consistency model against LatentConsistencyModelPipeline: weights, tokens, all noise."""

from functools import partial

import diffusers
import jax
import numpy as np
import pytest
import torch
from pairs import to_torch
from tiny_models import tiny_consistency_model

import pot_jax
from pot_jax.config import RunSettings, SamplerSettings
from pot_jax.diffusion.sampler import keys_of
from pot_jax.pipelines import zoom as pipeline
from pot_jax.pipelines.conditions import guidance_embedding
from pot_jax.pipelines.job import begin
from pot_jax.weights.export import export
from pot_jax.zoom.geometry import Geometry
from pot_jax.zoom.operators import shared_noise

PROMPT = "star a"
pytestmark = pytest.mark.filterwarnings("ignore")  # diffusers' and torch's own


def psnr(a, b):
    return -10 * np.log10(np.mean((a - b) ** 2))


def test_the_guidance_embedding_is_theirs():
    embed = diffusers.LatentConsistencyModelPipeline.get_guidance_scale_embedding
    for width in (256, 33):
        scales = np.array([1.0, 2.5, 8.5], np.float32)
        expected = embed(None, torch.from_numpy(scales - 1), embedding_dim=width).numpy()
        # The angles go to 7500, where float32 holds them to 5e-4.
        np.testing.assert_allclose(guidance_embedding(scales, width), expected, atol=1e-3)


@pytest.mark.parametrize(("steps", "scale"), [(4, 8.5), (7, 1.0)])
def test_pictures_are_equal_to_60_db(tmp_path, monkeypatch, steps, scale):
    export(tiny_consistency_model(tmp_path / "tokenizer"), tmp_path / "model")
    model = pot_jax.load(tmp_path / "model")
    sampler = SamplerSettings("lcm", steps, guidance_scale=scale, space="latent")
    settings = RunSettings(prompts=(PROMPT,), sampler=sampler)
    prepared = pipeline.prepare(model, settings, devices=jax.devices()[:1])
    states = begin(prepared.job, keys_of(np.uint32([settings.seed])))
    first, key = np.asarray(states.latents[0]), states.key[0]
    draw = partial(shared_noise, geometry=Geometry(1, 2, *first.shape[1:3]), channels=4)
    noises = iter([np.asarray(draw(jax.random.fold_in(key, i))) for i in range(steps)])
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_lcm.randn_tensor",
        lambda shape, **_: to_torch(next(noises)),
    )
    theirs = diffusers.LatentConsistencyModelPipeline.from_pretrained(
        tmp_path / "model", safety_checker=None, requires_safety_checker=False
    )
    theirs.set_progress_bar_config(disable=True)
    expected = theirs(
        PROMPT,
        num_inference_steps=steps,
        guidance_scale=scale,
        latents=to_torch(first),
        output_type="np",
    ).images
    (zoom,) = pipeline.sample_run(prepared)
    assert expected.std() > 0.05, "a picture, not a flat field"
    assert psnr((zoom.images + 1) / 2, expected) > 60  # measured: 123 and 131
