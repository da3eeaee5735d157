"""Every layer and block of the UNet and the autoencoder against diffusers', on the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock as TheirTransformerBlock
from diffusers.models.downsampling import Downsample2D as TheirDownsample2D
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.resnet import ResnetBlock2D as TheirResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel as TheirTransformer
from diffusers.models.unets import unet_2d_blocks as their_blocks
from diffusers.models.upsampling import Upsample2D as TheirUpsample2D
from pairs import assert_close, noise, ours, params_of, randomised, to_torch

from pot_jax.models import layers, unet, vae

F32 = jnp.float32

# Layers


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize(("width", "shift"), [(32, 0), (32, 1), (7, 0)])
def test_timestep_features(flip, width, shift):
    timesteps = np.array([0.0, 1, 37.25, 500, 999], np.float32)
    theirs = get_timestep_embedding(
        torch.from_numpy(timesteps), width, flip_sin_to_cos=flip, downscale_freq_shift=shift
    )
    actual = layers.timestep_features(jnp.asarray(timesteps), width, flip, shift)
    # The angle 999 is rounded to 6e-5, and a sine can turn that into as much.
    np.testing.assert_allclose(actual, theirs.numpy(), atol=1e-4)


@pytest.mark.parametrize(("channels", "timed"), [(16, True), (24, True), (24, False)])
def test_resnet_block(channels, timed):
    theirs = randomised(
        TheirResnetBlock2D(
            in_channels=16,
            out_channels=channels,
            temb_channels=20 if timed else None,
            groups=8,
            eps=1e-5,
        )
    )
    x, time = noise(2, 6, 5, 16), noise(2, 20) if timed else None
    block = layers.ResnetBlock2D(channels, 8, 1e-5, F32)
    expected = theirs(to_torch(x), None if time is None else to_torch(time))
    assert_close(ours(block, theirs, x, time), expected)


@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
@pytest.mark.parametrize("padding", [1, 0])
def test_downsample(size, padding):
    theirs = randomised(TheirDownsample2D(8, use_conv=True, padding=padding, name="op"))
    x = noise(2, *size, 8)
    sides = ((1, 1), (1, 1)) if padding else ((0, 1), (0, 1))
    assert_close(ours(layers.Downsample2D(F32, sides), theirs, x), theirs(to_torch(x)))


@pytest.mark.parametrize("shape", [None, (9, 13), (10, 13)])
def test_upsample(shape):
    theirs = randomised(TheirUpsample2D(8, use_conv=True))
    x = noise(2, 5, 7, 8)
    upsample = layers.Upsample2D(F32)
    params = params_of(theirs, jax.eval_shape(upsample.init, jax.random.key(0), x)["params"])
    assert_close(upsample.apply({"params": params}, x, shape), theirs(to_torch(x), shape))


@pytest.mark.parametrize("only_cross", [False, True])
def test_basic_transformer_block(only_cross):
    theirs = randomised(
        TheirTransformerBlock(
            24, 3, 8, cross_attention_dim=10, activation_fn="geglu", only_cross_attention=only_cross
        )
    )
    x, text = noise(2, 11, 24), noise(2, 5, 10)
    expected = theirs(to_torch(x), encoder_hidden_states=to_torch(text))
    assert_close(ours(layers.BasicTransformerBlock(3, F32, only_cross), theirs, x, text), expected)


@pytest.mark.parametrize("linear", [False, True])
def test_transformer(linear):
    theirs = randomised(
        TheirTransformer(
            3,
            8,
            in_channels=24,
            num_layers=2,
            cross_attention_dim=10,
            norm_num_groups=4,
            use_linear_projection=linear,
        )
    )
    x, text = noise(2, 3, 5, 24), noise(2, 5, 10)
    (expected,) = theirs(to_torch(x), encoder_hidden_states=to_torch(text), return_dict=False)
    assert_close(ours(layers.Transformer2DModel(2, 3, 4, linear, F32), theirs, x, text), expected)


# Blocks

BLOCK = {"temb_channels": 20, "resnet_eps": 1e-5, "resnet_groups": 4}
CROSS = {
    "num_attention_heads": 3,
    "cross_attention_dim": 10,
    "transformer_layers_per_block": 2,
    "use_linear_projection": True,
}


def our_block(kind, layers_, attends, **extra):
    config = unet.UNetConfig(
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        block_out_channels=(24,),
        norm_num_groups=4,
        transformer_layers_per_block=2,
        attention_head_dim=3,
        use_linear_projection=True,
    )
    return kind(config, F32, 0, layers_, attends, **extra)


@pytest.mark.parametrize("attends", [False, True])
@pytest.mark.parametrize("downsample", [False, True])
def test_down_block(attends, downsample):
    kind = their_blocks.CrossAttnDownBlock2D if attends else their_blocks.DownBlock2D
    theirs = randomised(
        kind(
            in_channels=16,
            out_channels=24,
            num_layers=2,
            add_downsample=downsample,
            **BLOCK,
            **(CROSS if attends else {}),
        )
    )
    x, time, text = noise(2, 6, 4, 16), noise(2, 20), noise(2, 5, 10)
    named = {"encoder_hidden_states": to_torch(text)} if attends else {}
    out, kept = theirs(to_torch(x), to_torch(time), **named)
    block = our_block(unet.DownBlock2D, 2, attends, downsample=downsample)
    our_out, our_kept = ours(block, theirs, x, time, text)
    assert_close(our_out, out)
    assert len(our_kept) == len(kept)
    for mine, other in zip(our_kept, kept):
        assert_close(mine, other)


def test_mid_block():
    theirs = randomised(
        their_blocks.UNetMidBlock2DCrossAttn(in_channels=24, num_layers=1, **BLOCK, **CROSS)
    )
    x, time, text = noise(2, 3, 4, 24), noise(2, 20), noise(2, 5, 10)
    expected = theirs(to_torch(x), to_torch(time), encoder_hidden_states=to_torch(text))
    block = our_block(unet.UNetMidBlock2DCrossAttn, 1, True)
    assert_close(ours(block, theirs, x, time, text), expected)


@pytest.mark.parametrize("attends", [False, True])
@pytest.mark.parametrize("shape", [None, (6, 8), (5, 7)])
def test_up_block(attends, shape):
    kind = their_blocks.CrossAttnUpBlock2D if attends else their_blocks.UpBlock2D
    theirs = randomised(
        kind(
            in_channels=16,
            prev_output_channel=32,
            out_channels=24,
            num_layers=2,
            add_upsample=shape is not None,
            **BLOCK,
            **(CROSS if attends else {}),
        )
    )
    x, time, text = noise(2, 3, 4, 32), noise(2, 20), noise(2, 5, 10)
    kept = [noise(2, 3, 4, 16), noise(2, 3, 4, 24, seed=1)]
    named = {"encoder_hidden_states": to_torch(text)} if attends else {}
    expected = theirs(
        to_torch(x), tuple(map(to_torch, kept)), to_torch(time), upsample_size=shape, **named
    )
    block = our_block(unet.UpBlock2D, 2, attends)
    init = jax.eval_shape(lambda: block.init(jax.random.key(0), x, kept, time, text, shape))
    params = params_of(theirs, init["params"])
    actual = jax.jit(block.apply, static_argnums=5)({"params": params}, x, kept, time, text, shape)
    assert_close(actual, expected)


def test_autoencoder_blocks():
    x = noise(2, 6, 8, 16)
    resnet = {"resnet_eps": 1e-6, "resnet_groups": 4}
    config = vae.AutoencoderKLConfig(norm_num_groups=4)
    pairs = [
        (
            their_blocks.UNetMidBlock2D(16, None, attention_head_dim=16, **resnet),
            vae.UNetMidBlock2D(config),
        ),
        (
            their_blocks.DownEncoderBlock2D(16, 24, num_layers=2, downsample_padding=0, **resnet),
            vae.ResnetBlocks2D(config, F32, 24, 2, "half"),
        ),
        (
            their_blocks.UpDecoderBlock2D(16, 24, num_layers=2, **resnet),
            vae.ResnetBlocks2D(config, F32, 24, 2, "double"),
        ),
    ]
    for theirs, block in pairs:
        theirs = randomised(theirs)
        assert_close(ours(block, theirs, x), theirs(to_torch(x)))
