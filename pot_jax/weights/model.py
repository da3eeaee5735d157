"""What a model folder describes, and the model that is made of it.

The folder is in diffusers' layout: `model_index.json` names the class of each component; each has a
folder with its `config.json`, its `scheduler_config.json`, or the tokenizer's files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from pot_jax.diffusion.schedule import ScheduleConfig
from pot_jax.errors import UserError
from pot_jax.models.clip import CLIPTextConfig, CLIPTextModel
from pot_jax.models.tiny_vae import AutoencoderTiny, AutoencoderTinyConfig
from pot_jax.models.unet import UNet2DConditionModel, UNetConfig
from pot_jax.models.vae import AutoencoderKL, AutoencoderKLConfig
from pot_jax.weights.adapters.files import EmbeddingFile, LoraFile
from pot_jax.weights.formats.safetensors import json_object, shown
from pot_jax.weights.layouts.families import FAMILIES, Family, LowRes
from pot_jax.weights.tokenization import given_tokenizer, read_tokenizer


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
_LIBRARIES = ("diffusers", "transformers")  # whose layout is read; neither is imported for it
_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
# Entries of model_index.json that are no component, or one that makes no picture.
_IGNORED = (
    "safety_checker",
    "feature_extractor",
    "requires_safety_checker",
    "watermarker",
    "max_noise_level",
)
_MAX_LIST = 10_000  # entries of a setting: trained_betas has one for each of 1000 timesteps
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


def read_parts(
    folder: Path,
    dtype: DTypeLike,
    *,
    tokenizer: str | Path | None = None,
    prediction_type: str | None = None,
) -> Parts:
    """Reads everything in a model folder but its weights.

    Args:
      folder: of the model.
      dtype: of the networks' arithmetic.
      tokenizer: another folder to take the tokenizer from.
      prediction_type: instead of what the folder says that the weights predict.

    Raises:
      UserError: the folder is no model folder, or a model of an unsupported kind; a setting is
        missing, damaged or unsupported, the tokenizer does not fit the text encoder.
    """
    index = _read_index(folder)
    family = FAMILIES[index["_class_name"]]
    modules = {}
    for name, component in COMPONENTS.items():
        config_class, module_class = component.classes[index[component.folder][1]]
        path = folder / component.folder / "config.json"
        config = _understood(
            path,
            config_class.from_json,
            index[component.folder][1],
            family.defaults.get(name, {}),
        )
        modules[name] = module_class(config, dtype=dtype)
    text = modules["text_encoder"].config
    check_fit(folder, modules, family)
    stated = {} if prediction_type is None else {"prediction_type": prediction_type}
    schedule, *low_res = (
        _understood(
            folder / name / "scheduler_config.json",
            ScheduleConfig.from_json,
        )
        for name in family.schedules
    )
    return Parts(
        modules=modules,
        tokenizer=read_tokenizer(
            folder / "tokenizer" if tokenizer is None else given_tokenizer(tokenizer),
            text.max_position_embeddings,
            text.vocab_size,
        ),
        schedule=replace(schedule, **stated),
        pipeline=index["_class_name"],
        low_res=_low_res(folder, index, *low_res) if low_res else None,
    )


def _low_res(folder: Path, index: dict[str, Any], schedule: ScheduleConfig) -> LowRes:
    usual = FAMILIES[index["_class_name"]].others["max_noise_level"]
    highest = index.get("max_noise_level", usual)
    if type(highest) is not int or not 0 <= highest < schedule.num_train_timesteps:
        raise UserError(
            f"{shown(str(folder / 'model_index.json'))}: max_noise_level is "
            f"{shown(str(highest))}, expected 0 to {schedule.num_train_timesteps - 1}, the last "
            "timestep of low_res_scheduler"
        )
    return LowRes(schedule, highest)


def component_folders(folder: Path) -> dict[str, str]:
    """The components of a model folder that are read, by their folders' names: whose library's.

    Raises:
      UserError: the folder is no model folder, or a model of an unsupported kind.
    """
    index = _read_index(folder)
    return {
        name: entry[0]
        for name, entry in index.items()
        if isinstance(entry, list) and not name.startswith("_") and name not in _IGNORED
        if entry != [None, None]
    }


def _understood(
    path: Path, from_json: Any, class_name: str | None = None, defaults: Mapping[str, Any] = {}
) -> Any:
    """What a settings file says, over `defaults`; it may name no other class.

    Errors name the file.
    """
    settings = json_object(path)
    stated = settings.get("_class_name", class_name)
    if class_name is not None and stated != class_name:
        raise UserError(
            f"{shown(str(path))} is of a {shown(str(stated))}, model_index.json says {class_name}; "
            "get both from the same place again"
        )
    for key, value in settings.items():
        if isinstance(value, list) and len(value) > _MAX_LIST:
            raise UserError(
                f"{shown(str(path))}: {shown(key)} has {len(value)} entries, which no model has; "
                "get it again"
            )
    if "auto_map" in settings:
        raise UserError(
            f"{shown(str(path))} asks to run code (auto_map), which pot_jax never does; models "
            "that need it are not supported"
        )
    try:
        return from_json({**defaults, **settings})
    except (ValueError, TypeError) as error:
        raise UserError(f"{shown(str(path))}: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 500 else text[:500] + "..."


def _read_index(folder: Path) -> dict[str, Any]:
    """`model_index.json`, checked: every component named there is one that is understood."""
    path = folder / "model_index.json"
    where = shown(str(path))
    if not path.exists():
        raise UserError(
            f"{shown(str(folder))} is not a model folder: it has no model_index.json (expected the "
            "layout that diffusers saves)"
        )
    index = json_object(path)
    pipeline = index.get("_class_name")
    if not isinstance(pipeline, str) or pipeline not in FAMILIES:
        raise UserError(
            f"{where}: models of {shown(str(pipeline))} are not supported; supported: "
            f"{', '.join(FAMILIES)}"
        )
    family = FAMILIES[pipeline]
    known = {c.folder: tuple(c.classes) for c in COMPONENTS.values()}
    known |= {"tokenizer": _TOKENIZERS}
    known |= dict.fromkeys(family.schedules)  # a schedule knows its own classes
    for name in known:
        if name not in index:
            raise UserError(f"{where} names no {name}; the model is incomplete")
    for name, entry in index.items():
        if name.startswith("_") or name in _IGNORED or entry in ([None, None], None):
            if name in known:
                raise UserError(f"{where}: the {name} is left out; the model is incomplete")
            continue
        if name not in known:
            raise UserError(
                f"{where}: the component {shown(name)} ({shown(str(entry))}) is not supported; "
                f"supported: {', '.join(known)}"
            )
        if not isinstance(entry, list) or len(entry) != 2:
            raise UserError(
                f"{where}: {name} is {shown(str(entry))}; [library, class] was expected"
            )
        if entry[0] not in _LIBRARIES:
            raise UserError(
                f"{where}: the {name} is of the library {shown(str(entry[0]))}, which is not "
                f"supported; supported: {', '.join(_LIBRARIES)}"
            )
        if known[name] is not None and entry[1] not in known[name]:
            raise UserError(
                f"{where}: the {name} is of class {shown(str(entry[1]))}, which is not supported; "
                f"supported: {', '.join(known[name])}"
            )
    return index


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
