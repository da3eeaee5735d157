"""Every network, and every block below it, against diffusers and transformers on the same weights.

A pair (theirs, ours) gets theirs' random weights through the key table, so that the table is proved
with the arithmetic. Errors are the largest difference relative to the standard deviation of
diffusers' output.
"""

import json

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from diffusers.models.attention import BasicTransformerBlock as TheirTransformerBlock
from diffusers.models.downsampling import Downsample2D as TheirDownsample2D
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.resnet import ResnetBlock2D as TheirResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel as TheirTransformer
from diffusers.models.unets import unet_2d_blocks as their_blocks
from diffusers.models.upsampling import Upsample2D as TheirUpsample2D
from flax.traverse_util import unflatten_dict

from pot_jax.models import layers, unet, vae
from pot_jax.models.clip import CLIPTextConfig, CLIPTextModel
from pot_jax.models.tiny_vae import AutoencoderTiny, AutoencoderTinyConfig
from pot_jax.models.unet import UNet2DConditionModel, UNetConfig
from pot_jax.models.vae import AutoencoderKL, AutoencoderKLConfig
from pot_jax.weights.keys import abstract_params, ignorable, key_table

F32 = jnp.float32
# Float32 against float32: what is left is the order of summation. Blocks and networks alike.
TEXT_TOLERANCE = 1e-5
TOLERANCE = 1e-4


def randomised(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The module with no parameter left at a neutral value: norms start at 1 and 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def params_of(theirs: torch.nn.Module, shapes) -> dict:
    """Their weights as our parameters; no tensor may be missing, left over or of another shape."""
    table = key_table(shapes)
    tensors = {k: v.numpy() for k, v in theirs.state_dict().items() if not ignorable(k)}
    params = {}
    for path, entry in table.items():
        (found,) = {entry.key, *entry.aliases} & tensors.keys()
        assert tensors[found].shape == entry.stored_shape, found
        params[path] = jnp.asarray(entry.read(tensors.pop(found)))
    assert not tensors
    return unflatten_dict(params)


def ours(module, theirs, *inputs, method=None, **named):
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs, method=method, **named))
    params = params_of(theirs, shapes["params"])
    apply = jax.jit(
        lambda params, inputs, named: module.apply(
            {"params": params}, *inputs, method=method, **named
        )
    )
    return apply(params, inputs, named)


def assert_close(actual, expected: torch.Tensor, tolerance: float = TOLERANCE):
    """Compares NHWC with NCHW, or arrays of other rank as they are."""
    expected = expected.detach().numpy()
    if expected.ndim == 4:
        expected = expected.transpose(0, 2, 3, 1)
    assert actual.shape == expected.shape
    error = np.max(np.abs(np.asarray(actual) - expected)) / np.std(expected)
    assert error < tolerance, f"relative error {error:.1e}"


def noise(*shape, seed=0, scale=1.0):
    return scale * np.random.default_rng((seed, *shape)).normal(size=shape).astype(np.float32)


def to_torch(array):
    """NHWC to NCHW; arrays of other rank as they are."""
    tensor = torch.from_numpy(np.asarray(array))
    return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor


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
    attention = unet.CrossAttention(2, 3, True, False) if attends else None
    return kind(24, layers_, attention, 4, 1e-5, F32, **extra)


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
    pairs = [
        (
            their_blocks.UNetMidBlock2D(16, None, attention_head_dim=16, **resnet),
            vae.UNetMidBlock2D(4, F32),
        ),
        (
            their_blocks.DownEncoderBlock2D(16, 24, num_layers=2, downsample_padding=0, **resnet),
            vae.DownEncoderBlock2D(24, 2, 4, F32, downsample=True),
        ),
        (
            their_blocks.UpDecoderBlock2D(16, 24, num_layers=2, **resnet),
            vae.UpDecoderBlock2D(24, 2, 4, F32, upsample=True),
        ),
    ]
    for theirs, block in pairs:
        theirs = randomised(theirs)
        assert_close(ours(block, theirs, x), theirs(to_torch(x)))


# Networks

UNET = {
    "sample_size": 8,
    "block_out_channels": [16, 32],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "attention_head_dim": 4,
}
THREE_BLOCKS = {
    "block_out_channels": [16, 32, 48],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}
UNETS = {
    "sd1": UNET | {"attention_head_dim": 8},  # a count of heads: 2 and 4 channels each
    "sd2": UNET
    | THREE_BLOCKS
    | {"attention_head_dim": [2, 4, 6], "use_linear_projection": True, "upcast_attention": True},
    "layers_by_block": UNET
    | THREE_BLOCKS
    | {"layers_per_block": [1, 2, 3], "transformer_layers_per_block": [2, 1, 3]},
    "sines_first": UNET | {"flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-6},
    "inpainting": UNET | {"in_channels": 9},
    "upscaler": UNET
    | {"in_channels": 7, "num_class_embeds": 10, "only_cross_attention": [True, False]},
    "noise_level": UNET | {"class_embed_type": "timestep"},
    "consistency": UNET | {"time_cond_proj_dim": 5},
    "only_cross_everywhere": UNET | THREE_BLOCKS | {"only_cross_attention": True},
    "no_text_outside": UNET
    | {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2},
}


@pytest.mark.parametrize("name", UNETS)
def test_unet(name):
    theirs = randomised(diffusers.UNet2DConditionModel.from_config(UNETS[name]))
    config = UNetConfig.from_json(json.loads(theirs.to_json_string()))
    size = (5, 7) if name == "sd2" else (8, 8)  # odd sizes halve unevenly
    latents = noise(2, *size, config.in_channels)
    timesteps, text = np.array([3.0, 981.5], np.float32), noise(2, 7, 12)
    named = {}
    if config.num_class_embeds is not None:
        named["class_labels"] = np.array([2, 9])
    if config.class_embed_type == "timestep":
        named["class_labels"] = np.array([20.0, 35.0], np.float32)
    if config.time_cond_proj_dim is not None:
        named["timestep_cond"] = noise(2, 5)
    expected = theirs(
        to_torch(latents),
        torch.from_numpy(timesteps),
        torch.from_numpy(text),
        **{key: torch.from_numpy(value) for key, value in named.items()},
    ).sample
    actual = ours(UNet2DConditionModel(config), theirs, latents, timesteps, text, **named)
    assert_close(actual, expected)


VAE = {
    "block_out_channels": [8, 16, 24],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "layers_per_block": 2,
    "norm_num_groups": 4,
}


@pytest.mark.parametrize(
    "change", [{}, {"latent_channels": 6, "scaling_factor": 0.5, "shift_factor": 0.1}]
)
def test_autoencoder(change):
    theirs = randomised(diffusers.AutoencoderKL.from_config(VAE | change))
    config = AutoencoderKLConfig.from_json(json.loads(theirs.to_json_string()))
    module = AutoencoderKL(config)
    params = params_of(theirs, abstract_params(module))
    images, latents = noise(2, 16, 12, 3), noise(2, 4, 3, config.latent_channels)

    moments = theirs.encode(to_torch(images)).latent_dist
    actual = module.apply({"params": params}, images, method="encode")
    assert_close(actual.mean, moments.mean)
    assert_close(actual.logvar, moments.logvar)
    decoded = theirs.decode(to_torch(latents)).sample
    assert_close(module.apply({"params": params}, latents, method="decode"), decoded)

    # As diffusers' pipelines scale, those of later models shifting too.
    shift, scale = config.shift_factor or 0.0, config.scaling_factor
    scaled = vae.encode_latents(module, params, images)
    assert_close(scaled, (moments.mean - shift) * scale)
    expected = theirs.decode(to_torch(latents) / scale + shift).sample
    assert_close(vae.decode_latents(module, params, latents), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {
            "encoder_block_out_channels": [8, 8, 8],
            "decoder_block_out_channels": [12, 12, 12],
            "num_encoder_blocks": [1, 2, 1],
            "num_decoder_blocks": [2, 1, 1],
        },
        {
            "encoder_block_out_channels": [8, 8],
            "decoder_block_out_channels": [8, 8],
            "num_encoder_blocks": [1, 1],
            "num_decoder_blocks": [1, 1],
            "latent_channels": 16,
        },
    ],
)
def test_tiny_autoencoder(settings):
    theirs = randomised(diffusers.AutoencoderTiny.from_config(settings))
    module = AutoencoderTiny(AutoencoderTinyConfig.from_json(json.loads(theirs.to_json_string())))
    params = params_of(theirs, abstract_params(module))
    images = noise(2, 16, 12, 3)
    encoded = theirs.encode(to_torch(images)).latents
    assert_close(vae.encode_latents(module, params, images), encoded)
    latents = noise(*encoded.permute(0, 2, 3, 1).shape, scale=3.0)  # reaches the soft clamp
    assert_close(
        vae.decode_latents(module, params, latents), theirs.decode(to_torch(latents)).sample
    )


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_text_encoder(activation):
    settings = transformers.CLIPTextConfig(
        vocab_size=50,
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=11,
        hidden_act=activation,
        pad_token_id=0,
        bos_token_id=48,
        eos_token_id=49,
    )
    theirs = randomised(transformers.CLIPTextModel(settings))
    config = CLIPTextConfig.from_json(json.loads(theirs.config.to_json_string()))
    for tokens in (11, 6):
        ids = np.random.default_rng(0).integers(0, 50, (3, tokens)).astype(np.int32)
        expected = theirs(torch.from_numpy(ids)).last_hidden_state
        assert_close(ours(CLIPTextModel(config), theirs, ids), expected, TEXT_TOLERANCE)


# Our configs, written and read by diffusers and transformers


@pytest.mark.parametrize("name", UNETS)
def test_diffusers_builds_the_same_unet_from_our_config(name):
    config = UNetConfig.from_json(UNETS[name])
    with torch.device("meta"):
        theirs = diffusers.UNet2DConditionModel.from_config(config.to_json())
    assert shapes_of(theirs) == table_of(UNet2DConditionModel(config))


def test_diffusers_builds_the_same_autoencoders_from_our_configs():
    with torch.device("meta"):
        config = AutoencoderKLConfig.from_json(VAE)
        theirs = diffusers.AutoencoderKL.from_config(config.to_json())
        assert shapes_of(theirs) == table_of(AutoencoderKL(config))
        assert theirs.config.scaling_factor == config.scaling_factor
        config = AutoencoderTinyConfig()
        theirs = diffusers.AutoencoderTiny.from_config(config.to_json())
        assert shapes_of(theirs) == table_of(AutoencoderTiny(config))


# The full-size models, on torch's meta device: no weights, no download

SD15_UNET = {
    "sample_size": 64,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
}
SD21_UNET = {
    "sample_size": 96,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
    "upcast_attention": True,
}
UPSCALER_UNET = {
    "sample_size": 128,
    "in_channels": 7,
    "block_out_channels": [256, 512, 512, 1024],
    "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 3,
    "up_block_types": ["CrossAttnUpBlock2D"] * 3 + ["UpBlock2D"],
    "cross_attention_dim": 1024,
    "only_cross_attention": [True, True, True, False],
    "num_class_embeds": 1000,
    "use_linear_projection": True,
}
SD_VAE = {
    "sample_size": 512,
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
}
SD15_TEXT = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "projection_dim": 768,
}
SD21_TEXT = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
    "hidden_act": "gelu",
}
FULL_SIZE = {  # name -> (theirs, our module, our config, settings, parameters)
    "sd15_unet": (
        diffusers.UNet2DConditionModel,
        UNet2DConditionModel,
        UNetConfig,
        SD15_UNET,
        859_520_964,
    ),
    "sd15_inpainting_unet": (
        diffusers.UNet2DConditionModel,
        UNet2DConditionModel,
        UNetConfig,
        SD15_UNET | {"in_channels": 9},
        859_535_364,
    ),
    "sd21_unet": (
        diffusers.UNet2DConditionModel,
        UNet2DConditionModel,
        UNetConfig,
        SD21_UNET,
        865_910_724,
    ),
    "x4_upscaler_unet": (
        diffusers.UNet2DConditionModel,
        UNet2DConditionModel,
        UNetConfig,
        UPSCALER_UNET,
        None,
    ),
    "sd_vae": (diffusers.AutoencoderKL, AutoencoderKL, AutoencoderKLConfig, SD_VAE, 83_653_863),
    "taesd": (diffusers.AutoencoderTiny, AutoencoderTiny, AutoencoderTinyConfig, {}, 2_445_063),
    "sd15_text": (
        transformers.CLIPTextModel,
        CLIPTextModel,
        CLIPTextConfig,
        SD15_TEXT,
        123_060_480,
    ),
    "sd21_text": (
        transformers.CLIPTextModel,
        CLIPTextModel,
        CLIPTextConfig,
        SD21_TEXT,
        340_387_840,
    ),
}


def shapes_of(theirs: torch.nn.Module) -> dict:
    """Key -> shape; the text encoder's in the spelling that transformers had before version 5."""
    shapes = {k: tuple(v.shape) for k, v in theirs.state_dict().items() if not ignorable(k)}
    if isinstance(theirs, transformers.CLIPTextModel):
        shapes = {"text_model." + k.removeprefix("text_model."): v for k, v in shapes.items()}
    return shapes


def table_of(module) -> dict:
    entries = key_table(abstract_params(module)).values()
    table = {entry.key: entry.stored_shape for entry in entries}
    assert len(table) == len(entries)
    return table


@pytest.mark.parametrize("name", FULL_SIZE)
def test_the_key_table_of_a_full_size_model_is_exact(name):
    their_class, our_class, config_class, settings, parameters = FULL_SIZE[name]
    with torch.device("meta"):
        if their_class is transformers.CLIPTextModel:
            theirs = their_class(transformers.CLIPTextConfig(**settings))
            written = theirs.config.to_json_string()
        else:
            theirs = their_class.from_config(settings)
            written = theirs.to_json_string()
    shapes = shapes_of(theirs)
    module = our_class(config_class.from_json(json.loads(written)))
    assert table_of(module) == shapes
    if parameters is not None:
        assert sum(int(np.prod(shape)) for shape in shapes.values()) == parameters
