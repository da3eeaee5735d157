"""A model, the components that it is made of, and the kinds of models.

A kind is one of diffusers' pipelines. All have text encoders, a UNet and an autoencoder. How many
there are, how they read prompts, and what the UNet sees besides latents differs.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from pot_jax.checks import require
from pot_jax.config import EmbeddingSettings, LoraSettings
from pot_jax.diffusion.schedule import CLASS_DEFAULTS, ScheduleConfig
from pot_jax.errors import UserError
from pot_jax.models import vae
from pot_jax.models.clip import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTextProjectionConfig,
)
from pot_jax.models.unet import UNet2DConditionModel, UNetConfig
from pot_jax.weights.formats.safetensors import Tensor


class Component(NamedTuple):
    """One network of a model: where its files are, and the classes that it may have."""

    folder: str
    stem: str  # of its weight files
    library: str
    classes: dict[str, tuple[type, type[nn.Module]]]  # diffusers' name -> (config, module)
    optional: bool = False  # not in model_index.json: the folder tells whether a model has it


_TEXT_ENCODERS = {"CLIPTextModel": (CLIPTextConfig, CLIPTextModel)}
_PROJECTED = {
    "CLIPTextModelWithProjection": (CLIPTextProjectionConfig, CLIPTextModelWithProjection)
}
_UNETS = {"UNet2DConditionModel": (UNetConfig, UNet2DConditionModel)}
_TINY = {"AutoencoderTiny": (vae.AutoencoderTinyConfig, vae.AutoencoderTiny)}
_AUTOENCODERS = {"AutoencoderKL": (vae.AutoencoderKLConfig, vae.AutoencoderKL), **_TINY}
# Our name -> the component. A new kind of network is one more class above.
COMPONENTS = {
    "text_encoder": Component("text_encoder", "model", "transformers", _TEXT_ENCODERS),
    "text_encoder_2": Component("text_encoder_2", "model", "transformers", _PROJECTED),
    "unet": Component("unet", "diffusion_pytorch_model", "diffusers", _UNETS),
    "autoencoder": Component("vae", "diffusion_pytorch_model", "diffusers", _AUTOENCODERS),
    "tiny_vae": Component("tiny_vae", "diffusion_pytorch_model", "diffusers", _TINY, optional=True),
}
DTYPES = ("float32", "bfloat16", "float16")
# A config's content -> the settings that a pipeline corrects in it.
Correction = Callable[[Mapping[str, Any]], dict[str, Any]]


class Encoder(NamedTuple):
    """One of a family's text encoders, and what it makes of prompts."""

    component: str = "text_encoder"
    tokenizer: str = "tokenizer"  # its folder, and a field of `Model`
    # How many of the last layers do not count in the text states, which are not normalised then;
    # None: all layers count, and the last one's states are.
    skip: int | None = None
    pooled: bool = False  # whether its projected state of the prompt's end is a condition, too
    pad: str | None = None  # the token that pads prompts, for a tokenizer of another folder


class Family(NamedTuple):
    """What the models of one pipeline class have in common."""

    task: str  # a key of USES
    encoders: tuple[Encoder, ...] = (Encoder(),)  # their states are joined along the width
    # Whether an autoencoder whose config says `force_upcast` is float32 in a float16 model.
    upcasts: bool = False
    # The UNet's input channels besides the latents, from the number of the latents' own.
    extra_channels: Callable[[int], int] = lambda latents: 0
    schedules: tuple[str, ...] = ("scheduler",)  # folders of scheduler configs
    # Our component, or a folder of `schedules` -> what diffusers' pipelines correct in its config.
    corrections: Mapping[str, Correction] = {}
    # What else export writes to model_index.json: absent components, and settings.
    others: Mapping[str, Any] = {}

    @property
    def components(self) -> list[str]:
        """The names of the components that its models have, or may have, in order."""
        text = [encoder.component for encoder in self.encoders]
        return [name for name in COMPONENTS if name in (*text, "unet", "autoencoder", "tiny_vae")]

    def module(self, name: str, config: Any, dtype: DTypeLike) -> nn.Module:
        """Builds a component of a model whose dtype is `dtype`, in the precision that it needs."""
        upcast = self.upcasts and getattr(config, "force_upcast", False)
        wide = upcast and jnp.dtype(dtype) == jnp.float16  # beyond which some activations lie
        _, network = COMPONENTS[name].classes[config.CLASS_NAME]
        return network(config, jnp.float32 if wide else dtype)


class LowRes(NamedTuple):
    """How noise is added to an upscaler's small pictures before it sees them."""

    schedule: ScheduleConfig
    max_noise_level: int  # the highest timestep of `schedule` that it accepts


# The scheduler classes that have a key which is corrected even if a file leaves it out.
_HAVE = {
    "steps_offset": CLASS_DEFAULTS.keys() - {"DPMSolverSinglestepScheduler"},
    "clip_sample": {name for name in CLASS_DEFAULTS if CLASS_DEFAULTS[name].get("clip_sample")},
    "skip_prk_steps": {"PNDMScheduler"},
}


def _always(**wanted: Any) -> Correction:
    """Returns the correction of a scheduler that sets the keys its class or its file has."""
    return lambda settings: {
        key: value
        for key, value in wanted.items()
        if key in settings or str(settings.get("_class_name")) in _HAVE[key]
    }


def _old_sample_size(unet: Mapping[str, Any]) -> dict[str, Any]:
    """Corrects a UNet of diffusers before 0.9, whose files say 32 for a model trained at 64."""
    version = re.match(r"v?(\d+)(?:\.(\d+))?", str(unet.get("_diffusers_version", "")))
    old = version is not None and (int(version[1]), int(version[2] or 0)) < (0, 9)
    size = unet.get("sample_size")
    return {"sample_size": 64} if old and type(size) is int and size < 64 else {}


_OLD_UNET: dict[str, Correction] = {"unet": _old_sample_size}
_SAFETY = {"safety_checker": [None, None], "feature_extractor": [None, None]}
_ENCODER = {**_SAFETY, "image_encoder": [None, None], "requires_safety_checker": False}
_AROUND: Callable[[int], int] = lambda latents: 1 + latents  # noqa: E731 - mask and picture around it
# Stable Diffusion XL (arXiv 2307.01952): ViT-L and ViT-bigG, both without their last layer.
_XL: dict[str, Any] = {
    "encoders": (
        Encoder(skip=1, pad="<|endoftext|>"),
        Encoder("text_encoder_2", "tokenizer_2", skip=1, pooled=True, pad="!"),
    ),
    "upcasts": True,
    "others": {
        **{"feature_extractor": [None, None], "image_encoder": [None, None]},
        "force_zeros_for_empty_prompt": True,
    },
}

# diffusers' class -> its models. Another class with the same components is one more entry.
FAMILIES = {
    "StableDiffusionPipeline": Family(
        "text-to-image",
        corrections={"scheduler": _always(steps_offset=1, clip_sample=False), **_OLD_UNET},
        others=_ENCODER,
    ),
    "LatentConsistencyModelPipeline": Family("text-to-image", others=_ENCODER),
    "StableDiffusionInpaintPipeline": Family(
        "inpainting",
        extra_channels=_AROUND,
        corrections={"scheduler": _always(steps_offset=1, skip_prk_steps=True), **_OLD_UNET},
        others=_ENCODER,
    ),
    "StableDiffusionUpscalePipeline": Family(
        "upscaling",
        extra_channels=lambda latents: 3,  # the small picture
        schedules=("scheduler", "low_res_scheduler"),
        # Old files do not state it, or state the default of other models.
        corrections={"autoencoder": lambda settings: {"scaling_factor": 0.08333}},
        # 350: low_scale_config in x4-upscaling.yaml, and the default of a folder that states none.
        others={**_SAFETY, "watermarker": [None, None], "max_noise_level": 350},
    ),
    "StableDiffusionXLPipeline": Family("text-to-image", **_XL),
    "StableDiffusionXLInpaintPipeline": Family("inpainting", extra_channels=_AROUND, **_XL),
}

# A model's task -> where to use the model.
USES = {
    "text-to-image": "pot_jax.sample, or pot-jax sample --model",
    "inpainting": "pot_jax.inpaint",
    "upscaling": "pot_jax.upscale, or pot-jax sample --upscaler",
}


@dataclass(frozen=True, eq=False)
class Model:
    """A model ready to sample with: the networks, their parameters, and what goes with them."""

    name: str
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    autoencoder: vae.AutoencoderKL | vae.AutoencoderTiny
    tokenizer: Any  # transformers' CLIPTokenizer
    schedule: ScheduleConfig
    params: dict[str, Any]  # the components that it has: nested dicts of arrays
    digest: str  # SHA-256 of all parameters as they are here
    source: str  # where it was loaded from
    loras: tuple[LoraSettings, ...] = ()  # merged into the params
    embeddings: tuple[EmbeddingSettings, ...] = ()  # in the tokenizer and the text encoder
    # Components from elsewhere: settings -> paths.
    given: Mapping[str, str] = field(default_factory=dict)
    pipeline: str = "StableDiffusionPipeline"  # its kind, a key of FAMILIES
    low_res: LowRes | None = None  # of an upscaler
    notices: tuple[str, ...] = ()  # what loading assumed or left out, a line each
    tiny_vae: vae.AutoencoderTiny | None = None  # cheap, for agreement inside steps
    text_encoder_2: CLIPTextModelWithProjection | None = None
    tokenizer_2: Any = None  # the second text encoder's
    zeros: bool = False  # whether an empty negative prompt gives zeros instead of text states
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
    tokenizer_2: Any = None
    zeros: bool = False  # as in `Model`


@dataclass(frozen=True, eq=False)
class Source:
    """A model's files in any layout: what they describe, and where each tensor lies."""

    path: Path  # the folder or the file
    parts: Parts
    tensors: dict[str, dict[str, Tensor]]  # component -> name in the files -> tensor
    others: dict[str, Tensor] = field(default_factory=dict)  # of no component
    # Component -> prefix of diffusers' names -> its replacement in the files.
    names: dict[str, dict[str, str]] = field(default_factory=dict)
    alone: str = ""  # of one component in place of a model's: its setting


def checked_dtype(dtype: DTypeLike) -> jnp.dtype:
    """Returns the dtype of parameters and networks' arithmetic; UserError if not in DTYPES."""
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    known = found is not None and found.name in DTYPES
    require(known, "dtype", f"one of {', '.join(DTYPES)}", dtype)
    return found


def check_fit(where: str, modules: dict[str, nn.Module], family: Family) -> None:
    """Raises UserError, naming `where`, unless all fits: JAX would fail only in a step."""
    texts = {e.component: modules[e.component].config for e in family.encoders}
    unet, codec, *tiny = (modules[n].config for n in COMPONENTS if n in modules and n not in texts)
    latents, named = codec.latent_channels, " with ".join(texts)
    width = sum(text.hidden_size for text in texts.values())
    pooled = [texts[e.component].projection_dim for e in family.encoders if e.pooled]
    # The projected state, and the sines of a height and width twice and of a corner.
    added = sum(pooled) + 6 * (unet.addition_time_embed_dim or 0) if pooled else None
    extra = family.extra_channels(latents)
    besides = f" with {extra} channels besides the latents" if extra else ""
    rows = [
        ("unet's cross_attention_dim", unet.cross_attention_dim, named, width),
        ("unet's projection_class_embeddings_input_dim", unet.added_width, named, added),
        ("unet's in_channels", unet.in_channels, "vae" + besides, latents + extra),
        ("unet's out_channels", unet.out_channels, "vae", latents),
    ]
    for key in ("latent_channels", "downsample_factor", "in_channels", "out_channels"):
        rows += [(f"tiny_vae's {key}", getattr(t, key), "vae", getattr(codec, key)) for t in tiny]
    for what, needed, giver, given in rows:
        if needed != given:
            misfit = f"the {what} is {needed}, but its {giver} gives {given}"
            raise UserError(f"{where}: {misfit}; the components do not belong together")


def require_model(model: Any) -> None:
    """Raises UserError unless `model` is a `Model`."""
    require(isinstance(model, Model), "model", "a model from pot_jax.load", model)


def require_task(model: Any, task: str, what: str) -> None:
    """Raises UserError unless `model` is a `Model` for `task`; `what` names the caller."""
    require_model(model)
    given = FAMILIES[model.pipeline].task
    if given != task:
        but = f"{model.name} is for {given} ({model.pipeline}); use it with {USES[given]}"
        raise UserError(f"{what} takes a model for {task}, but {but}")
