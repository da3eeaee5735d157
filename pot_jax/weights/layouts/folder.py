"""A folder in diffusers' layout: its settings, and where its tensors lie."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jax.typing import DTypeLike

from pot_jax.diffusion.schedule import ScheduleConfig
from pot_jax.errors import UserError, one_line, shown
from pot_jax.weights.formats.json import json_object
from pot_jax.weights.keys import ignorable
from pot_jax.weights.layouts.component import component_tensors
from pot_jax.weights.layouts.families import FAMILIES, LowRes
from pot_jax.weights.layouts.index import read_index
from pot_jax.weights.layouts.source import Source
from pot_jax.weights.layouts.stated import assumed
from pot_jax.weights.model import COMPONENTS, Parts, check_fit
from pot_jax.weights.tokenization import given_tokenizer, read_tokenizer

_MAX_LIST = 10_000  # entries of a setting: trained_betas has one for each of 1000 timesteps


def read_parts(
    folder: Path,
    dtype: DTypeLike,
    *,
    tokenizer: str | Path | None = None,
    prediction_type: str | None = None,
) -> Parts:
    """Reads everything in a model folder except its weights.

    Args:
      folder: of the model.
      dtype: of the networks' arithmetic.
      tokenizer: another folder to take the tokenizer from.
      prediction_type: what the weights predict, if not what the folder says.

    Raises:
      UserError: the folder is not a model folder, or its model is of an unsupported kind; a setting
        is missing, damaged or unsupported; or the components do not fit each other.
    """
    index = read_index(folder)
    family = FAMILIES[index["_class_name"]]
    modules = {}
    for name, component in COMPONENTS.items():
        class_name = index[component.folder][1]
        config_class, module_class = component.classes[class_name]
        path, correct = folder / component.folder / "config.json", family.corrections.get(name)
        config = _read_config(path, config_class, correct, class_name)
        modules[name] = module_class(config, dtype=dtype)
    check_fit(folder, modules, family)
    text = modules["text_encoder"].config
    place = folder / "tokenizer" if tokenizer is None else given_tokenizer(tokenizer)
    stated = {} if prediction_type is None else {"prediction_type": prediction_type}
    places = {name: folder / name / "scheduler_config.json" for name in family.schedules}
    schedule, *low_res = (
        _read_config(path, ScheduleConfig, family.corrections.get(name))
        for name, path in places.items()
    )
    notices = ()
    if not stated and json_object(places["scheduler"]).get("prediction_type") is None:
        notices = (assumed(places["scheduler"], schedule.prediction_type),)
    return Parts(
        modules=modules,
        tokenizer=read_tokenizer(place, text.max_position_embeddings, text.vocab_size),
        schedule=replace(schedule, **stated),
        pipeline=index["_class_name"],
        low_res=_low_res(folder, index, *low_res) if low_res else None,
        notices=notices,
    )


def _low_res(folder: Path, index: dict[str, Any], schedule: ScheduleConfig) -> LowRes:
    usual = FAMILIES[index["_class_name"]].others["max_noise_level"]
    highest = index.get("max_noise_level", usual)
    if type(highest) is not int or not 0 <= highest < schedule.num_train_timesteps:
        raise UserError(
            f"{shown(folder / 'model_index.json')}: max_noise_level is {shown(highest)}, expected "
            f"0 to {schedule.num_train_timesteps - 1}, the last timestep of low_res_scheduler"
        )
    return LowRes(schedule, highest)


def _read_config(
    path: Path,
    kind: Any,
    correct: Callable[[Mapping[str, Any]], dict[str, Any]] | None,
    class_name: str | None = None,
) -> Any:
    """Reads a config of class `kind`, corrected; the file may name only `class_name`."""
    settings = json_object(path)
    stated = settings.get("_class_name", class_name)
    if class_name is not None and stated != class_name:
        raise UserError(
            f"{shown(path)} is of a {shown(stated)}, model_index.json says {class_name}; "
            "get both from the same place again"
        )
    for key, value in settings.items():
        if isinstance(value, list) and len(value) > _MAX_LIST:
            raise UserError(
                f"{shown(path)}: {shown(key)} has {len(value)} entries, which no model has; "
                "get it again"
            )
    if "auto_map" in settings:
        raise UserError(
            f"{shown(path)} asks to run code (auto_map), which pot_jax never does; models that "
            "need it are not supported"
        )
    try:
        return kind.from_json(settings | (correct(settings) if correct else {}))
    except UserError as error:
        raise UserError(f"{shown(path)}: {error}") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{shown(path)}: {one_line(error)}") from None


def folder_source(folder: Path, parts: Parts, variant: str | None) -> Source:
    """Finds the tensors of a diffusers folder whose `parts` have been read.

    Raises:
      UserError: weights are missing, or a file is damaged.
    """
    tensors = {}
    for name, component in COMPONENTS.items():
        found = component_tensors(folder / component.folder, component.stem, variant)
        tensors[name] = {key: tensor for key, tensor in found.items() if not ignorable(key)}
    return Source(folder, parts, tensors)
