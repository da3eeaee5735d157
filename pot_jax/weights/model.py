"""What a model folder describes, and the model that is made of it.

The folder is in diffusers' layout: `model_index.json` names the class of each component; each has a
folder with its `config.json`, its `scheduler_config.json`, or the tokenizer's files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from pot_jax.diffusion.schedule import ScheduleConfig
from pot_jax.errors import UserError, shown
from pot_jax.models.clip import CLIPTextConfig, CLIPTextModel
from pot_jax.models.tiny_vae import AutoencoderTiny, AutoencoderTinyConfig
from pot_jax.models.unet import UNet2DConditionModel, UNetConfig
from pot_jax.models.vae import AutoencoderKL, AutoencoderKLConfig
from pot_jax.weights.adapters.files import EmbeddingFile, LoraFile
from pot_jax.weights.layouts.families import Family, LowRes


class Component(NamedTuple):
    """One network of a model: where its files are and which classes it may be of."""

    folder: str
    stem: str  # of its weight files
    library: str
    classes: dict[str, tuple[type, type[nn.Module]]]  # diffusers' name -> (config, module)


# Our name -> what is read. A new kind of network is one more class here.
COMPONENTS = {
    "text_encoder": Component(
        "text_encoder",
        "model",
        "transformers",
        {"CLIPTextModel": (CLIPTextConfig, CLIPTextModel)},
    ),
    "unet": Component(
        "unet",
        "diffusion_pytorch_model",
        "diffusers",
        {"UNet2DConditionModel": (UNetConfig, UNet2DConditionModel)},
    ),
    "autoencoder": Component(
        "vae",
        "diffusion_pytorch_model",
        "diffusers",
        {
            "AutoencoderKL": (AutoencoderKLConfig, AutoencoderKL),
            "AutoencoderTiny": (AutoencoderTinyConfig, AutoencoderTiny),
        },
    ),
}
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, eq=False)
class Model:
    """A model ready to sample with: pure networks, their parameters, and what goes with them."""

    name: str
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    autoencoder: AutoencoderKL | AutoencoderTiny
    tokenizer: Any  # transformers' CLIPTokenizer
    schedule: ScheduleConfig
    params: dict[str, Any]  # {"text_encoder", "unet", "autoencoder"}: nested dicts of arrays
    digest: str  # SHA-256 over all parameters as they are here
    source: str  # where it was loaded from
    loras: tuple[LoraFile, ...] = ()  # merged into the params
    embeddings: tuple[EmbeddingFile, ...] = ()  # joined to the tokenizer and the text encoder
    pipeline: str = "StableDiffusionPipeline"  # its kind, a key of FAMILIES
    low_res: LowRes | None = None  # of an upscaler


@dataclass(frozen=True, eq=False)
class Parts:
    """A model folder without its weights."""

    modules: dict[str, nn.Module]  # by the names of COMPONENTS
    tokenizer: Any
    schedule: ScheduleConfig
    pipeline: str = "StableDiffusionPipeline"
    low_res: LowRes | None = None

    def model(self, params: dict[str, Any], digest: str, source: str) -> Model:
        """The model with these parameters."""
        return Model(
            name=Path(source).name,
            **self.modules,
            tokenizer=self.tokenizer,
            schedule=self.schedule,
            params=params,
            digest=digest,
            source=source,
            pipeline=self.pipeline,
            low_res=self.low_res,
        )


def checked_dtype(dtype: DTypeLike) -> jnp.dtype:
    """The dtype of parameters and of the networks' arithmetic. Raises UserError for others."""
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found.name not in DTYPES:
        raise UserError(f"dtype is {shown(str(dtype))}, expected one of {', '.join(DTYPES)}")
    return found


def check_fit(folder: Path, modules: dict[str, nn.Module], family: Family) -> None:
    """The components must fit each other; JAX would find out only inside the first step.

    Raises:
      UserError: they do not; the message names the folder, or the file, that they are from.
    """
    text, unet, vae = (modules[name].config for name in COMPONENTS)
    latents = vae.latent_channels
    extra = family.extra_channels(latents)
    beside = f" with {extra} channels beside the latents" if extra else ""
    for what, needed, giver, given in (
        ("cross_attention_dim", unet.cross_attention_dim, "text_encoder", text.hidden_size),
        ("in_channels", unet.in_channels, "vae" + beside, latents + extra),
        ("out_channels", unet.out_channels, "vae", latents),
    ):
        if needed != given:
            raise UserError(
                f"{shown(str(folder))}: the unet's {what} is {needed}, but its {giver} gives "
                f"{given}; the components do not belong together"
            )
