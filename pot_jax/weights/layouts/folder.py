"""A folder in diffusers' layout: its settings, and where its tensors lie."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from jax.typing import DTypeLike

from pot_jax.checks import build, checked, require
from pot_jax.config import SamplerSettings
from pot_jax.diffusion.schedule import ScheduleConfig
from pot_jax.errors import UserError, few, listed, one_line, shown
from pot_jax.weights.formats.kinds import json_object
from pot_jax.weights.formats.safetensors import Tensor, read_header
from pot_jax.weights.keys import IGNORED, abstract_params, key_table
from pot_jax.weights.layouts.stated import assumed
from pot_jax.weights.model import (
    COMPONENTS,
    FAMILIES,
    Correction,
    Family,
    LowRes,
    Parts,
    Source,
)
from pot_jax.weights.tokenization import given_tokenizer, read_tokenizer

ZEROS = "force_zeros_for_empty_prompt"
SAMPLER = "sampler.json"  # any of `config.SamplerSettings`; not of diffusers' layout
_MAX_LIST = 10_000  # entries of a setting: trained_betas has one for each of 1000 timesteps
_LIBRARIES = ("diffusers", "transformers")  # only their layout is read; neither is imported
_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
# Entries of model_index.json that are not components, or have no effect on the pictures.
_IGNORED = (
    "safety_checker feature_extractor requires_safety_checker watermarker max_noise_level "
    "add_watermarker force_zeros_for_empty_prompt requires_aesthetics_score"
)
# What a folder has whose components look like a family's -> what it is, which is not supported.
_STRANGERS = (
    (r"StableDiffusionXL.*", "requires_aesthetics_score", r"True", "SDXL's refiner"),
    (r"StableDiffusionXL.*", "text_encoder", r"\[None, None\]", "SDXL's refiner"),
    (r".*", "scheduler", r".*'EDM\w+'\]", "a model of the EDM formulation, as Playground v2.5 is"),
)


def known_classes(pipeline: str) -> dict[str, tuple[str, ...] | None]:
    """Returns the classes that each component may have, by its folder; None means a schedule's."""
    family = FAMILIES[pipeline]
    networks = [COMPONENTS[name] for name in family.components]
    classes = {c.folder: tuple(c.classes) for c in networks if not c.optional}
    classes |= dict.fromkeys([encoder.tokenizer for encoder in family.encoders], _TOKENIZERS)
    return classes | dict.fromkeys(family.schedules)


def read_index(folder: Path) -> dict[str, Any]:
    """Reads `model_index.json`; UserError unless it names all components, each of a known class."""
    path = folder / "model_index.json"
    if not path.exists():
        why = "it has no model_index.json (the layout that diffusers saves was expected)"
        raise UserError(f"{shown(folder)} is not a model folder: {why}")
    index, where = json_object(path), shown(path)
    pipeline = index.get("_class_name")
    for kind, key, value, what in _STRANGERS:
        if re.fullmatch(kind, str(pipeline)) and re.fullmatch(value, str(index.get(key))):
            raise UserError(f"{where}: it is {what}, which is not supported; use a base model")
    if not isinstance(pipeline, str) or pipeline not in FAMILIES:
        supported = ", ".join(FAMILIES)
        raise UserError(f"{where}: {shown(pipeline)} is not supported; supported: {supported}")
    known = known_classes(pipeline)
    named = {name: entry for name, entry in index.items() if entry not in ([None, None], None)}
    if missing := [name for name in known if name not in named]:
        raise UserError(f"{where} names no {missing[0]}; the model is incomplete")
    for name, entry in named.items():
        if name.startswith("_") or name in _IGNORED.split():
            continue
        if name not in known:
            wrong, supported = f"the component {shown(name)} ({shown(entry)})", known
        elif not isinstance(entry, list) or len(entry) != 2:
            raise UserError(f"{where}: {name} is {shown(entry)}; [library, class] was expected")
        elif entry[0] not in _LIBRARIES:
            wrong, supported = f"the {name}'s library {shown(entry[0])}", _LIBRARIES
        elif known[name] is not None and entry[1] not in known[name]:
            wrong, supported = f"the {name}'s class {shown(entry[1])}", known[name]
        else:
            continue
        raise UserError(f"{where}: {wrong} is not supported; supported: {', '.join(supported)}")
    return index


def read_parts(
    folder: Path,
    dtype: DTypeLike,
    *,
    tokenizer: str | Path | None = None,
    prediction_type: str | None = None,
) -> Parts:
    """Reads everything in a model folder except its weights; the arguments are those of `load`.

    Raises UserError if it is no supported model, or a setting is missing, damaged or unsupported.
    """
    index = read_index(folder)
    family, modules = FAMILIES[index["_class_name"]], {}
    for name in family.components:
        component, correct = COMPONENTS[name], family.corrections.get(name)
        path = folder / component.folder / "config.json"
        if component.optional and not os.path.lexists(path.parent):
            continue
        named = tuple(component.classes) if component.optional else index[component.folder]
        kind, _ = component.classes[named[-1]]
        config = read_config(path, kind, correct, named[-1])
        modules[name] = family.module(name, config, dtype)
    paths = [folder / name / "scheduler_config.json" for name in family.schedules]
    corrected = zip(paths, map(family.corrections.get, family.schedules))
    schedule, *low_res = (read_config(path, ScheduleConfig, c) for path, c in corrected)
    notices = ()
    if prediction_type is not None:
        schedule = replace(schedule, prediction_type=prediction_type)
    elif json_object(paths[0]).get("prediction_type") is None:
        notices = (assumed(paths[0], schedule.prediction_type),)
    find = folder.joinpath if tokenizer is None else partial(given_tokenizer, tokenizer)
    low_res = _low_res(folder, index, *low_res) if low_res else None
    place = f"{shown(folder / 'model_index.json')}: {ZEROS}"
    return Parts(
        modules,
        **read_tokenizers(find, family, modules),
        schedule=schedule,
        pipeline=index["_class_name"],
        low_res=low_res,
        notices=notices,
        sampler=_read_sampler(folder / SAMPLER),
        zeros=checked(index.get(ZEROS, family.others.get(ZEROS, False)), bool, place),
    )


def read_tokenizers(
    find: Callable[[str], Path], family: Family, modules: Mapping[str, Any]
) -> dict[str, Any]:
    """Reads the tokenizer of each text encoder, as fields of `Parts`.

    `find` returns a tokenizer's folder by its name in a model's. One of another name, which is not
    this encoder's own, pads as the family says. Raises UserError as `read_tokenizer`.
    """
    found = {}
    for component, name, *_, pad in family.encoders:
        place, text = find(name), modules[component].config
        sizes = text.max_position_embeddings, text.vocab_size
        found[name] = read_tokenizer(place, *sizes, None if place.name == name else pad)
    return found


def _read_sampler(path: Path) -> dict[str, Any]:
    """Reads the model's own defaults of sampler settings; none without the file."""
    if not os.path.lexists(path):
        return {}
    found = json_object(path)
    try:
        settings = build(SamplerSettings, found)
    except UserError as error:
        raise UserError(f"{shown(path)}: {error}; correct it, or remove the file") from None
    return {name: getattr(settings, name) for name in found}


def _low_res(folder: Path, index: dict[str, Any], schedule: ScheduleConfig) -> LowRes:
    usual = FAMILIES[index["_class_name"]].others["max_noise_level"]
    highest, last = index.get("max_noise_level", usual), schedule.num_train_timesteps - 1
    place = f"{shown(folder / 'model_index.json')}: max_noise_level"
    fits = type(highest) is int and 0 <= highest <= last
    require(fits, place, f"0 to {last}, the last timestep of low_res_scheduler", highest)
    return LowRes(schedule, highest)


def read_config(path: Path, kind: Any, correct: Correction | None = None, named: str = "") -> Any:
    """Reads a corrected config of class `kind`, which may name only `named`; UserError if unfit."""
    settings, where = json_object(path), shown(path)
    stated = settings.get("_class_name", named)
    if named and stated != named:
        what = f"of a {shown(stated)}, the model needs one of {named}"
        raise UserError(f"{where} is {what}; get the model from one place again")
    for key, value in settings.items():
        if isinstance(value, list) and len(value) > _MAX_LIST:
            count = f"{len(value)} entries, too many"
            raise UserError(f"{where}: {shown(key)} has {count}; get it again")
    if "auto_map" in settings:
        raise UserError(f"{where} asks to run code (auto_map), which pot_jax never does")
    try:
        return kind.from_json(settings | (correct(settings) if correct else {}))
    except (ValueError, TypeError) as error:
        why = error if isinstance(error, UserError) else one_line(error)
        raise UserError(f"{where}: {why}") from None


def folder_source(folder: Path, parts: Parts, variant: str | None) -> Source:
    """Finds the tensors of a diffusers folder; UserError if some are missing or damaged."""
    tensors = {}
    for name in parts.modules:
        found = component_tensors(folder / COMPONENTS[name].folder, COMPONENTS[name].stem, variant)
        entries = key_table(abstract_params(parts.modules[name])).values()
        own = {key for entry in entries for key in (entry.key, *entry.aliases)}
        kept = [key for key in found if key in own or not IGNORED.fullmatch(key)]
        tensors[name] = {key: found[key] for key in kept}
    return Source(folder, parts, tensors)


def component_tensors(folder: Path, stem: str, variant: str | None = None) -> dict[str, Tensor]:
    """Reads where the tensors of one component of a diffusers folder lie, by name.

    `stem` is diffusers' "diffusion_pytorch_model" or transformers' "model"; `variant` as in `load`.
    Raises UserError if there are no such weights (it names what there is), or a file is damaged.
    """
    names = [path.name for path in folder.iterdir()]
    source = folder / choose_weights(names, stem, variant, shown(folder))
    if source.suffix == ".safetensors":
        return read_header(source)
    where, places = shown(source), read_weight_map(source)
    shards = sorted(set(places.values()))
    absent = [shown(place) for place in shards if not (folder / place).is_file()]
    if absent:
        count = f"{len(absent)} of {len(shards)} shards"
        raise UserError(f"{where} names {count} that are missing ({few(absent)}); get them")
    headers = {place: read_header(folder / place) for place in shards}
    count = Counter(name for tensors in headers.values() for name in tensors)
    kinds = {
        "tensors that lie in two shards": [n for n in count if count[n] > 1],
        "tensors that its shards lack": [n for n in places if n not in headers[places[n]]],
        "tensors that it leaves out": [n for n in count if n not in places],
    }
    if wrong := {k: list(map(shown, sorted(names))) for k, names in kinds.items() if names}:
        raise UserError(f"{where} does not fit its shards: {listed(wrong)}; get all of them again")
    return {name: headers[place][name] for name, place in places.items()}


def choose_weights(names: Iterable[str], stem: str, variant: str | None, where: str) -> str:
    """Returns the name of the file with a component's weights, or of the index of their shards.

    `names` are the files in its folder, `where` in messages; the rest is as in `component_tensors`.
    """
    names = sorted(names)
    # The one file, or else the index, of each variant (None: no variant).
    index = rf"{stem}\.safetensors\.index(?:\.(.+))?\.json"
    whole = rf"{stem}(?:\.((?!.*-of-).+))?\.safetensors"
    matches = [re.fullmatch(kind, name) for kind in (index, whole) for name in names]
    sources = {match[1]: match[0] for match in matches if match}
    if variant is None and len(sources) == 1:
        (variant,) = sources
    if variant in sources:
        return sources[variant]
    if sources:
        known = sorted("none" if name is None else shown(name) for name in sources)
        wanted = shown(variant or "none")
        raise UserError(f"{where} has no weights of variant {wanted}; there are: {known}")
    others = [name for name in names if name.endswith((".bin", ".ckpt", ".msgpack", ".h5"))]
    other = f"only {shown(others[0])}: save the model as safetensors" if others else "no weights"
    raise UserError(f"{where} has {other}; {stem}.safetensors was expected")


def read_weight_map(index: Path) -> dict[str, str]:
    """Reads which shard, a file beside the index, holds each tensor; UserError if it is damaged."""
    where, places = shown(index), json_object(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(p, str) for p in places.values()):
        raise UserError(f"{where} has no weight_map from tensor names to file names; get it again")
    for place in sorted(set(places.values())):
        plain = Path(place).name == place and place.isprintable() and "\\" not in place
        if not plain or not place.endswith(".safetensors"):
            expected = "a plain .safetensors file name, in the folder of the index"
            raise UserError(f"{where} names the shard {shown(place)!r}; expected {expected}")
    return places
