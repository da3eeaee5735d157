"""Every network against diffusers and transformers, on the same weights, in every configuration."""

import json

import diffusers
import numpy as np
import pytest
import torch
import transformers
from pairs import (
    TEXT_TOLERANCE,
    UNETS,
    VAE,
    assert_close,
    noise,
    ours,
    params_of,
    randomised,
    to_torch,
)

from pot_jax.models import vae
from pot_jax.models.clip import CLIPTextConfig, CLIPTextModel
from pot_jax.models.unet import UNet2DConditionModel, UNetConfig
from pot_jax.models.vae import (
    AutoencoderKL,
    AutoencoderKLConfig,
    AutoencoderTiny,
    AutoencoderTinyConfig,
)
from pot_jax.weights.keys import abstract_params


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
