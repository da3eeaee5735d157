"""A Stable Diffusion of a few thousand random parameters, made by the package's own modules.

Its tokenizer knows the letters and two words, and takes prompts of 8 tokens.
"""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from pot_jax.diffusion.schedule import ScheduleConfig
from pot_jax.models.clip import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTextProjectionConfig,
    CLIPVisionConfig,
)
from pot_jax.models.unet import UNet2DConditionModel, UNetConfig
from pot_jax.models.vae import (
    AutoencoderKL,
    AutoencoderKLConfig,
    AutoencoderTiny,
    AutoencoderTinyConfig,
)
from pot_jax.weights.digests import array_digests, combined_digest
from pot_jax.weights.keys import abstract_params, key_table
from pot_jax.weights.model import LowRes, Model
from pot_jax.weights.tokenization import read_tokenizer

POSITIONS = 8
TEXT = CLIPTextConfig(
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    vocab_size=80,
    max_position_embeddings=POSITIONS,
    projection_dim=16,
    bos_token_id=78,
    eos_token_id=79,
    pad_token_id=79,
)
UNET = UNetConfig(
    sample_size=8,
    block_out_channels=(16, 32),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    attention_head_dim=2,
    cross_attention_dim=16,
    norm_num_groups=8,
)
AUTOENCODER = AutoencoderKLConfig(
    sample_size=16,
    block_out_channels=(8, 16),
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    layers_per_block=1,
    norm_num_groups=4,
)
# Of the same latents and factor as AUTOENCODER.
TINY_VAE = AutoencoderTinyConfig(
    encoder_block_out_channels=(8, 8),
    decoder_block_out_channels=(8, 8),
    num_encoder_blocks=(1, 1),
    num_decoder_blocks=(1, 1),
)
# SDXL's second text encoder, and its UNet in small.
TEXT_2 = CLIPTextProjectionConfig(
    **vars(dataclasses.replace(TEXT, num_hidden_layers=3, hidden_size=24, projection_dim=20))
    | {"hidden_act": "gelu", "num_attention_heads": 3}
)
XL_UNET = dataclasses.replace(
    UNET,
    transformer_layers_per_block=(1, 2),
    attention_head_dim=(2, 4),
    cross_attention_dim=40,
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=20 + 6 * 8,
)
# Stable Diffusion 1.x's own.
SCHEDULE = ScheduleConfig.from_json(
    {
        "_class_name": "DDIMScheduler",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
)


# SDXL's own.
XL_SCHEDULE = ScheduleConfig.from_json(
    {
        "_class_name": "EulerDiscreteScheduler",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "interpolation_type": "linear",
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "sample_max_value": 1.0,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "use_karras_sigmas": False,
    }
)


def write_tiny_tokenizer(folder: Path, pad: str = "<|endoftext|>") -> None:
    """CLIP's files with a vocabulary of letters, letters ending a word, "star" and "a"."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["st", "ar</w>", "star</w>", ",</w>", "!", "!</w>"]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\ns t\na r</w>\nst ar</w>\n")
    settings = {
        "add_prefix_space": False,
        "bos_token": "<|startoftext|>",
        "do_lower_case": True,
        "eos_token": "<|endoftext|>",
        "errors": "replace",
        "model_max_length": POSITIONS,
        "pad_token": pad,
        "tokenizer_class": "CLIPTokenizer",
        "unk_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


CLIP = CLIPConfig(
    text_config=TEXT,
    vision_config=CLIPVisionConfig(
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        image_size=16,
        patch_size=4,
    ),
    projection_dim=12,
)


def write_tiny_clip(folder: Path, seed: int = 0, config: CLIPConfig = CLIP) -> None:
    """A whole CLIP of random parameters, as transformers writes it; sees 16 x 16 pixels."""
    write_tiny_tokenizer(folder)
    settings = {"model_type": "clip"} | dataclasses.asdict(config)
    (folder / "config.json").write_text(json.dumps(settings))
    processor = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    params = random_params(CLIPModel(config), np.random.default_rng(seed))
    table, flat = key_table(params), flatten_dict(params)
    tensors = {entry.key: entry.write(np.asarray(flat[path])) for path, entry in table.items()}
    tensors = {key: np.array(value, order="C") for key, value in tensors.items()}
    save_file(tensors, folder / "model.safetensors")


def random_params(module, rng: np.random.Generator):
    """Normal values of the size that keeps activations near 1, in the module's own tree."""

    def value(path, leaf):
        # NumPy's generator, because JAX compiles one program per shape.
        drawn = 0.1 * rng.normal(size=leaf.shape) + (path[-1].key == "scale")
        return jnp.asarray(drawn, jnp.float32)

    return jax.tree_util.tree_map_with_path(value, abstract_params(module))


def tiny_model(
    folder: Path,
    seed: int = 0,
    unet=UNET,
    autoencoder=AUTOENCODER,
    tiny_vae=None,
    text_2=None,
    **others,
) -> Model:
    """The model; `folder` takes its tokenizer's files, `others` are fields of `Model`."""
    write_tiny_tokenizer(folder)
    second = {} if text_2 is None else {"text_encoder_2": CLIPTextModelWithProjection(text_2)}
    modules = {
        "text_encoder": CLIPTextModel(TEXT),
        **second,
        "unet": UNet2DConditionModel(unet),
        "autoencoder": AutoencoderKL(autoencoder),
    }
    if tiny_vae is not None:
        modules["tiny_vae"] = AutoencoderTiny(tiny_vae)
    rng = np.random.default_rng(seed)
    params = {name: random_params(module, rng) for name, module in modules.items()}
    facts = {"name": "tiny", "schedule": SCHEDULE, "source": "tiny"} | others
    return Model(
        **modules,
        tokenizer=read_tokenizer(folder, TEXT.max_position_embeddings, TEXT.vocab_size),
        params=params,
        digest=combined_digest(array_digests(params)),
        **facts,
    )


def tiny_consistency_model(folder: Path, seed: int = 2) -> Model:
    """A latent consistency model: guidance goes into the UNet, and the schedule is LCM's."""
    return tiny_model(
        folder,
        seed,
        unet=dataclasses.replace(UNET, time_cond_proj_dim=16),
        name="tiny_lcm",
        pipeline="LatentConsistencyModelPipeline",
        schedule=ScheduleConfig.from_json(
            SCHEDULE.to_json() | {"_class_name": "LCMScheduler", "original_inference_steps": 40}
        ),
    )


def tiny_inpainting_model(folder: Path, seed: int = 3) -> Model:
    """A model that paints under a mask: its UNet sees the mask and what is around it."""
    return tiny_model(
        folder,
        seed,
        unet=dataclasses.replace(UNET, in_channels=9),
        name="tiny_inpainting",
        pipeline="StableDiffusionInpaintPipeline",
    )


def tiny_xl(
    folder: Path, seed: int = 4, pipeline="StableDiffusionXLPipeline", unet=XL_UNET, **others
) -> Model:
    """A Stable Diffusion XL: two text encoders, a pooled state, sizes."""
    write_tiny_tokenizer(folder / "tokenizer_2", pad="!")
    size = TEXT_2.max_position_embeddings, TEXT_2.vocab_size
    facts = {"name": "tiny_xl", "schedule": XL_SCHEDULE, "zeros": True} | others
    facts["tokenizer_2"] = read_tokenizer(folder / "tokenizer_2", *size)
    vae = dataclasses.replace(AUTOENCODER, scaling_factor=0.13025)
    return tiny_model(folder, seed, unet, vae, text_2=TEXT_2, pipeline=pipeline, **facts)


def tiny_xl_inpainting(folder: Path, seed: int = 5, **others) -> Model:
    """A Stable Diffusion XL that paints under a mask."""
    unet = dataclasses.replace(XL_UNET, in_channels=9)
    return tiny_xl(folder, seed, "StableDiffusionXLInpaintPipeline", unet, **others)


def tiny_upscaler(folder: Path, seed: int = 1, prediction_type: str = "v_prediction") -> Model:
    """An upscaler of the x4 upscaler's form and schedules."""
    schedule = {
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
    }
    return tiny_model(
        folder,
        seed,
        unet=dataclasses.replace(
            UNET, in_channels=7, num_class_embeds=360, only_cross_attention=(True, False)
        ),
        autoencoder=dataclasses.replace(
            AUTOENCODER,
            block_out_channels=(8, 8, 16),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            scaling_factor=0.08333,
        ),
        name="tiny_upscaler",
        source="tiny_upscaler",
        pipeline="StableDiffusionUpscalePipeline",
        schedule=ScheduleConfig.from_json(
            {
                "_class_name": "DDIMScheduler",
                **schedule,
                "prediction_type": prediction_type,
                "set_alpha_to_one": False,
                "steps_offset": 1,
            }
        ),
        low_res=LowRes(ScheduleConfig.from_json({"_class_name": "DDPMScheduler", **schedule}), 350),
    )
