"""A model, and the components that it is made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from pot_jax.checks import require
from pot_jax.config import EmbeddingSettings, LoraSettings
from pot_jax.diffusion.schedule import ScheduleConfig
from pot_jax.errors import UserError, shown
from pot_jax.models.clip import CLIPTextConfig, CLIPTextModel
from pot_jax.models.tiny_vae import AutoencoderTiny, AutoencoderTinyConfig
from pot_jax.models.unet import UNet2DConditionModel, UNetConfig
from pot_jax.models.vae import AutoencoderKL, AutoencoderKLConfig
from pot_jax.weights.formats.safetensors import Tensor
from pot_jax.weights.layouts.families import Family, LowRes


class Component(NamedTuple):
    """One network of a model: where its files are, and the classes that it may have."""

    folder: str
    stem: str  # of its weight files
    library: str
    classes: dict[str, tuple[type, type[nn.Module]]]  # diffusers' name -> (config, module)
    optional: bool = False  # not in model_index.json: the folder tells whether a model has it


_TEXT_ENCODERS = {"CLIPTextModel": (CLIPTextConfig, CLIPTextModel)}
_UNETS = {"UNet2DConditionModel": (UNetConfig, UNet2DConditionModel)}
_TINY = {"AutoencoderTiny": (AutoencoderTinyConfig, AutoencoderTiny)}
_AUTOENCODERS = {"AutoencoderKL": (AutoencoderKLConfig, AutoencoderKL), **_TINY}
# Our name -> the component. A new kind of network is one more class above.
COMPONENTS = {
    "text_encoder": Component("text_encoder", "model", "transformers", _TEXT_ENCODERS),
    "unet": Component("unet", "diffusion_pytorch_model", "diffusers", _UNETS),
    "autoencoder": Component("vae", "diffusion_pytorch_model", "diffusers", _AUTOENCODERS),
    "tiny_vae": Component("tiny_vae", "diffusion_pytorch_model", "diffusers", _TINY, optional=True),
}
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, eq=False)
class Model:
    """A model ready to sample with: the networks, their parameters, and what goes with them."""

    name: str
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    autoencoder: AutoencoderKL | AutoencoderTiny
    tokenizer: Any  # transformers' CLIPTokenizer
    schedule: ScheduleConfig
    params: dict[str, Any]  # the components that it has: nested dicts of arrays
    digest: str  # SHA-256 of all parameters as they are here
    source: str  # where it was loaded from
    loras: tuple[LoraSettings, ...] = ()  # merged into the params
    embeddings: tuple[EmbeddingSettings, ...] = ()  # in the tokenizer and the text encoder
    pipeline: str = "StableDiffusionPipeline"  # its kind, a key of FAMILIES
    low_res: LowRes | None = None  # of an upscaler
    notices: tuple[str, ...] = ()  # what loading assumed or left out, a line each
    tiny_vae: AutoencoderTiny | None = None  # cheap, for agreement inside steps
    # Its own defaults of sampler settings (`sampler.json`); only zooms are sampled with them.
    sampler: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        leaves = jax.tree.leaves(self.params)
        dtypes = ", ".join(sorted({leaf.dtype.name for leaf in leaves}))
        size = f"{sum(leaf.size for leaf in leaves):,} parameters of {dtypes}"
        origin = f"{self.name!r}, source={self.source!r}, {self.pipeline}"
        return f"Model({origin}, {size}, digest {self.digest[:12]}...)"


@dataclass(frozen=True, eq=False)
class Parts:
    """A model without its weights."""

    modules: dict[str, nn.Module]  # by the names of COMPONENTS; a single network by its own
    tokenizer: Any
    schedule: ScheduleConfig | None  # None: nothing is sampled with it
    pipeline: str
    low_res: LowRes | None = None
    notices: tuple[str, ...] = ()  # as in `Model`
    sampler: Mapping[str, Any] = field(default_factory=dict)  # as in `Model`


@dataclass(frozen=True, eq=False)
class Source:
    """A model's files in any layout: what they describe, and where each tensor lies."""

    path: Path  # the folder or the file
    parts: Parts
    tensors: dict[str, dict[str, Tensor]]  # component -> name in the files -> tensor
    others: dict[str, Tensor] = field(default_factory=dict)  # of no component
    # Component -> prefix of diffusers' names -> its replacement in the files.
    names: dict[str, dict[str, str]] = field(default_factory=dict)


def checked_dtype(dtype: DTypeLike) -> jnp.dtype:
    """Returns the dtype of parameters and networks' arithmetic; UserError if not in DTYPES."""
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    known = found is not None and found.name in DTYPES
    require(known, "dtype", f"one of {', '.join(DTYPES)}", dtype)
    return found


def check_fit(path: Path, modules: dict[str, nn.Module], family: Family) -> None:
    """Raises UserError, naming `path`, unless the components fit: JAX would fail only in a step."""
    text, unet, vae, *tiny = (modules[name].config for name in COMPONENTS if name in modules)
    latents = vae.latent_channels
    extra = family.extra_channels(latents)
    besides = f" with {extra} channels besides the latents" if extra else ""
    rows = [
        ("unet's cross_attention_dim", unet.cross_attention_dim, "text_encoder", text.hidden_size),
        ("unet's in_channels", unet.in_channels, "vae" + besides, latents + extra),
        ("unet's out_channels", unet.out_channels, "vae", latents),
    ]
    for key in ("latent_channels", "downsample_factor", "in_channels", "out_channels"):
        rows += [(f"tiny_vae's {key}", getattr(t, key), "vae", getattr(vae, key)) for t in tiny]
    for what, needed, giver, given in rows:
        if needed != given:
            misfit = f"the {what} is {needed}, but its {giver} gives {given}"
            raise UserError(f"{shown(path)}: {misfit}; the components do not belong together")
