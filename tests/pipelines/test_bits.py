"""What changes the bits of the pictures, and what does not: the lines of README's table."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from tiny_models import tiny_model

import pot_jax
from pot_jax.config import RunSettings, SamplerSettings
from pot_jax.models.unet import UNet2DConditionModel, UNetConfig
from pot_jax.models.vae import AutoencoderKL, AutoencoderKLConfig
from pot_jax.parallel import devices
from pot_jax.pipelines import zoom as pipeline
from pot_jax.pipelines.program import rows_that_fit
from pot_jax.zoom.geometry import Geometry

PROMPTS = ("a", "star", "st")
SETTINGS = RunSettings(prompts=PROMPTS, seed=3, sampler=SamplerSettings(steps=7, solver="ddpm"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tokenizer"))


def pictures(model, index=0, count=1, callback=None, source="", **changes):
    model = dataclasses.replace(model, source=source)
    settings = dataclasses.replace(SETTINGS, **changes)
    prepared = pipeline.prepare(model, settings, devices=jax.devices()[:count])
    return pipeline.sample_run(prepared, callback=callback)[index].images


@pytest.fixture(scope="module")
def usual(model):
    return pictures(model)


@pytest.mark.parametrize(
    "changes",
    [{"save_every": 1}, {"callback": lambda seen: None}, {"source": "elsewhere"}],
    ids=["save_every", "callback", "path"],
)
def test_no_bit_changes(model, usual, changes):
    assert pictures(model, **changes).tobytes() == usual.tobytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"count": 2},
        {"count": 3},
        {"count": 8},
        {"batch_rows": 1},
        {"batch_rows": 3},
        {"batch_rows": 2, "num_samples": 2},
        {"num_samples": 3},
        {"num_samples": 3, "seed": 1, "index": 2},
    ],
    ids=[
        "2 devices",
        "3 devices",
        "8 devices",
        "1 row",
        "3 rows",
        "both",
        "samples",
        "third sample",
    ],
)
def test_only_the_rounding_changes(model, usual, changes):
    np.testing.assert_allclose(pictures(model, **changes), usual, rtol=0, atol=1e-5)


@pytest.mark.loose_promotion("flax and jax promote half precision in norms and attention")
def test_the_dtype_changes_the_pictures_a_little(model, usual):
    def cast(module):
        return module.clone(dtype=jnp.bfloat16)

    names = ("text_encoder", "unet", "autoencoder")
    modules = {name: cast(getattr(model, name)) for name in names}
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model.params)
    half = dataclasses.replace(model, **modules, params=params)
    change = np.abs(pictures(half) - usual)
    assert 1e-4 < change.mean() < 0.1


# What a user may have set for code of his own, as a context.
LEAKS = {
    "rbg keys": lambda: jax.default_prng_impl("rbg"),
    "old threefry": lambda: jax.threefry_partitionable(False),
    "64 bits": lambda: jax.enable_x64(True),
    "ranks": lambda: jax.numpy_rank_promotion("raise"),
    "dtypes": lambda: jax.numpy_dtype_promotion("strict"),
    "transfer guard": lambda: jax.transfer_guard("disallow"),
    "no jit": lambda: jax.disable_jit(True),
    "mesh": lambda: jax.set_mesh(jax.make_mesh((1,), ("x",), axis_types=(AxisType.Explicit,))),
}


@pytest.mark.loose_promotion("the user's own settings are what is tried")
@pytest.mark.parametrize("leak", LEAKS)
def test_the_users_jax_settings_stay_out(model, usual, leak):
    def now():
        return {name: getattr(jax.config, f"jax_{name}") for name in devices.FIXED}

    with LEAKS[leak]():
        changed = now()
        found = pot_jax.sample(
            model, PROMPTS, steps=7, solver="ddpm", seed=3, devices=jax.devices()[:1]
        )
        assert now() == changed
    assert found.images.tobytes() == usual.tobytes()


def test_rows_are_those_whose_activations_take_half_the_memory(monkeypatch):
    """Of Stable Diffusion 1.5, which needs 0.94 GB a decoded picture of 512 pixels, 1.1 a row."""
    widths = {"block_out_channels": (320, 640, 1280, 1280), "attention_head_dim": 8}
    unet = UNet2DConditionModel(UNetConfig(sample_size=64, cross_attention_dim=768, **widths))
    vae = AutoencoderKL(AutoencoderKLConfig(block_out_channels=(128, 256, 512, 512)))
    found = {}
    for gigabytes, side in ((80, 64), (24, 64), (24, 128), (4, 128)):
        size = int(gigabytes * 1e9)
        monkeypatch.setattr("pot_jax.parallel.memory.free_and_total", lambda _, n=size: (n, n))
        rows = rows_that_fit(unet, vae, Geometry(8, 2, side, side), jax.devices()[0])
        found[gigabytes, side] = rows["decode_rows"], rows["network_rows"]
        needed = rows["decode_rows"] * 0.94e9 * (side / 64) ** 2
        assert needed < size / 2 or rows["decode_rows"] == 1
    assert found == {(80, 64): (8, None), (24, 64): (8, 9), (24, 128): (2, 1), (4, 128): (1, 1)}
    monkeypatch.setattr("pot_jax.parallel.memory.free_and_total", lambda _: (24e9, 24e9))
    each = rows_that_fit(unet, vae, Geometry(8, 2, 64, 64), jax.devices()[0], samples=4)
    assert each == {"decode_rows": 2, "network_rows": 2}
