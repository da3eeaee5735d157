"""Names, shapes and configs against diffusers and transformers, up to the full-size models."""

import json

import diffusers
import numpy as np
import pytest
import torch
import transformers
from flax.traverse_util import flatten_dict
from pairs import UNETS, VAE, noise, params_of, randomised
from safetensors.numpy import save_file

from pot_jax.models.clip import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTextProjectionConfig,
)
from pot_jax.models.unet import UNet2DConditionModel, UNetConfig
from pot_jax.models.vae import (
    AutoencoderKL,
    AutoencoderKLConfig,
    AutoencoderTiny,
    AutoencoderTinyConfig,
)
from pot_jax.weights.keys import IGNORED, abstract_params, key_table


def shapes_of(theirs: torch.nn.Module) -> dict:
    """Key -> shape; the text encoder's in the spelling that transformers had before version 5."""
    shapes = {k: tuple(v.shape) for k, v in theirs.state_dict().items()}
    own = {"text_projection.weight"} if hasattr(theirs, "text_projection") else set()
    shapes = {k: shape for k, shape in shapes.items() if k in own or not IGNORED.fullmatch(k)}
    if isinstance(theirs, transformers.CLIPTextModel):
        shapes = {"text_model." + k.removeprefix("text_model."): v for k, v in shapes.items()}
    return shapes


def table_of(module) -> dict:
    entries = key_table(abstract_params(module)).values()
    table = {entry.key: entry.stored_shape for entry in entries}
    assert len(table) == len(entries)
    return table


# Old spellings, and what we write


def test_diffusers_reads_our_old_spelling_of_attention_as_the_new_one(tmp_path):
    theirs = randomised(diffusers.AutoencoderKL.from_config(VAE))
    module = AutoencoderKL(AutoencoderKLConfig.from_json(VAE))
    params = flatten_dict(params_of(theirs, abstract_params(module)))
    table = key_table(abstract_params(module))
    old = {
        entry.aliases[0] if entry.aliases else entry.key: np.ascontiguousarray(
            entry.write(np.asarray(params[path]))
        )
        for path, entry in table.items()
    }
    assert "encoder.mid_block.attentions.0.proj_attn.weight" in old
    theirs.save_config(tmp_path)
    save_file(old, tmp_path / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    read = diffusers.AutoencoderKL.from_pretrained(tmp_path).state_dict()
    for key, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(read[key], tensor)


def test_transformers_reads_the_text_encoder_in_both_spellings(tmp_path):
    config = CLIPTextConfig.from_json(
        {
            "vocab_size": 50,
            "hidden_size": 8,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "bos_token_id": 48,
            "eos_token_id": 49,
        }
    )
    table = key_table(abstract_params(CLIPTextModel(config)))
    written = {entry.key: noise(*entry.stored_shape) for entry in table.values()}
    bare = {entry.aliases[0]: written[entry.key] for entry in table.values()}
    (tmp_path / "config.json").write_text(json.dumps(config.to_json()))
    for tensors in (written, bare):
        save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
        read, report = transformers.CLIPTextModel.from_pretrained(
            tmp_path, output_loading_info=True
        )
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
        for key, tensor in read.state_dict().items():
            key = "text_model." + key.removeprefix("text_model.")
            if not IGNORED.fullmatch(key):
                np.testing.assert_array_equal(written[key], tensor)


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
UPSCALER_VAE = {
    "sample_size": 256,
    "block_out_channels": [128, 256, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "layers_per_block": 2,
    "scaling_factor": 0.08333,
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
SDXL_UNET = {
    "sample_size": 128,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SDXL_TEXT_2 = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
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
        473_398_020,
    ),
    "x4_upscaler_vae": (
        diffusers.AutoencoderKL,
        AutoencoderKL,
        AutoencoderKLConfig,
        UPSCALER_VAE,
        55_325_927,
    ),
    "lcm_unet": (
        diffusers.UNet2DConditionModel,
        UNet2DConditionModel,
        UNetConfig,
        SD15_UNET | {"time_cond_proj_dim": 256},
        859_602_884,
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
    "sdxl_unet": (
        diffusers.UNet2DConditionModel,
        UNet2DConditionModel,
        UNetConfig,
        SDXL_UNET,
        2_567_463_684,
    ),
    "sdxl_text_2": (
        transformers.CLIPTextModelWithProjection,
        CLIPTextModelWithProjection,
        CLIPTextProjectionConfig,
        SDXL_TEXT_2,
        694_659_840,
    ),
}


@pytest.mark.parametrize("name", FULL_SIZE)
def test_the_key_table_of_a_full_size_model_is_exact(name):
    their_class, our_class, config_class, settings, parameters = FULL_SIZE[name]
    with torch.device("meta"):
        if issubclass(their_class, transformers.PreTrainedModel):
            theirs = their_class(transformers.CLIPTextConfig(**settings))
            written = theirs.config.to_json_string()
        else:
            theirs = their_class.from_config(settings)
            written = theirs.to_json_string()
    shapes = shapes_of(theirs)
    module = our_class(config_class.from_json(json.loads(written)))
    assert table_of(module) == shapes
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == parameters
