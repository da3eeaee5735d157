"""Both autoencoders: what the sampler asks of any, and what is each one's own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from initial_params import initial_params

from pot_jax.errors import UserError
from pot_jax.models.vae import (
    AutoencoderKL,
    AutoencoderKLConfig,
    AutoencoderTiny,
    AutoencoderTinyConfig,
    decode_latents,
    encode_latents,
)
from pot_jax.weights.keys import abstract_params

KL = AutoencoderKL(
    AutoencoderKLConfig(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=2,
    )
)
TINY = AutoencoderTiny(
    AutoencoderTinyConfig(
        encoder_block_out_channels=(6, 6),
        decoder_block_out_channels=(6, 6),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
)
HALF = pytest.param(
    jnp.bfloat16,
    marks=pytest.mark.loose_promotion("flax and jax promote half precision in norms and attention"),
)
BOTH = pytest.mark.parametrize("module", [KL, TINY], ids=["kl", "tiny"])
encode = jax.jit(encode_latents, static_argnums=0)
decode = jax.jit(decode_latents, static_argnums=0)


def params_of(module):
    return initial_params(abstract_params(module), np.random.default_rng(0))


def images(height=8, width=12):
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.uniform(-1, 1, (2, height, width, 3)), jnp.float32)


@BOTH
@pytest.mark.parametrize("dtype", [jnp.float32, HALF])
def test_images_become_latents_and_latents_images(module, dtype):
    assert module.config.downsample_factor == 2
    module, params = module.clone(dtype=dtype), params_of(module)
    latents = encode(module, params, images())
    assert (latents.shape, latents.dtype) == ((2, 4, 6, 4), jnp.float32)
    pictures = decode(module, params, latents)
    assert (pictures.shape, pictures.dtype) == ((2, 8, 12, 3), jnp.float32)
    assert np.all(np.isfinite(pictures))


@BOTH
def test_nothing_is_promoted_silently(module):
    for dtype in (jnp.float32, jnp.bfloat16) if module is TINY else (jnp.float32,):
        init = module.clone(dtype=dtype).init
        shapes = jax.eval_shape(init, jax.random.key(0), **module.example_inputs())
        assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def test_the_scaling_is_undone():
    def scaled(scale, shift):
        config = dataclasses.replace(TINY.config, scaling_factor=scale, shift_factor=shift)
        return TINY.clone(config=config)

    plain, changed, params = scaled(1.0, 0.0), scaled(0.5, 0.3), params_of(TINY)
    raw = encode(plain, params, images())
    latents = encode(changed, params, images())
    np.testing.assert_allclose(latents, (raw - 0.3) * 0.5, atol=1e-5)
    np.testing.assert_allclose(
        decode(changed, params, latents), decode(plain, params, raw), atol=1e-5
    )


def test_the_latents_are_the_means_scaled():
    params = params_of(KL)
    moments = jax.jit(lambda params: KL.apply({"params": params}, images(), method="encode"))
    # Beyond the bounds of a log-variance.
    params["quant_conv"]["bias"] = jnp.array([0.0] * 4 + [100.0] * 2 + [-100.0] * 2)
    mean, logvar = moments(params)
    np.testing.assert_allclose(encode(KL, params, images()), 0.18215 * mean, atol=1e-6)
    np.testing.assert_array_equal(logvar[..., :2], 20)
    np.testing.assert_array_equal(logvar[..., 2:], -30)


@BOTH
def test_decoding_is_local_in_the_batch_and_differentiable(module):
    params = params_of(module)
    latents = encode(module, params, images())
    mixed = decode(module, params, latents.at[1].set(0))
    np.testing.assert_allclose(mixed[0], decode(module, params, latents)[0], atol=1e-5)

    def loss(latents):
        return jnp.sum(decode_latents(module, params, latents) ** 2)

    gradient = jax.jit(jax.grad(loss))(latents)
    assert np.all(np.isfinite(gradient))
    assert np.all(np.max(np.abs(gradient), axis=(1, 2, 3)) > 0)


@BOTH
def test_images_that_do_not_divide_are_refused(module):
    with pytest.raises(ValueError, match=r"shape \(2, 9, 12, 3\).*multiples of 2"):
        encode_latents(module, params_of(module), images(height=9))
    with pytest.raises(ValueError, match=r"expected \[B, H, W, 3\]"):
        encode_latents(module, params_of(module), images()[..., :1])


@BOTH
def test_a_written_config_is_read_back(module):
    config = type(module.config)
    assert config.from_json(module.config.to_json()) == module.config


@pytest.mark.parametrize(
    ("module", "change", "message"),
    [
        (KL, {"act_fn": "gelu"}, "act_fn"),
        (KL, {"use_quant_conv": False}, "use_quant_conv is False"),
        (KL, {"block_out_channels": [4, 7]}, "multiples of norm_num_groups, 2"),
        (KL, {"down_block_types": ["AttnDownEncoderBlock2D"] * 2}, "2 times DownEncoderBlock2D"),
        (KL, {"scaling_factor": 0}, "scaling_factor is 0"),
        (KL, {"scaling_factor": float("nan")}, "scaling_factor is nan"),
        (TINY, {"upsampling_scaling_factor": 4}, "upsampling_scaling_factor is 4"),
        (TINY, {"num_decoder_blocks": [1]}, "num_decoder_blocks"),
        (TINY, {"encoder_block_out_channels": [6, 8]}, "the same number for each stage"),
        (TINY, {"scaling_factor": 0.0}, "scaling_factor is 0"),
    ],
)
def test_configs_that_do_not_fit_are_refused(module, change, message):
    with pytest.raises(UserError, match=message):
        type(module.config).from_json(module.config.to_json() | change)
