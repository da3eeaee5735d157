"""Writes a model as a folder, either complete or absent: for diffusers, or as a kept copy."""

import contextlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax.typing import DTypeLike

from pot_jax import checks
from pot_jax.errors import UserError, edge, shown
from pot_jax.media.files import TEMPORARY, check_writable
from pot_jax.weights.formats.kept import keep_arrays
from pot_jax.weights.formats.safetensors import FLOATS
from pot_jax.weights.keys import key_table
from pot_jax.weights.layouts.folder import SAMPLER, ZEROS
from pot_jax.weights.load import load
from pot_jax.weights.model import COMPONENTS, FAMILIES, Model, checked_dtype, require_model
from pot_jax.weights.tokenization import write_tokenizer

_SPELLING = {dtype: name for name, dtype in FLOATS.items()}  # NumPy's dtype -> safetensors' name


def export(model: Model, folder: str | Path, *, dtype: DTypeLike | None = None) -> None:
    """Writes a model in diffusers' layout, which `load` reads back to the same bytes.

    `folder` is absent or empty; missing parents are made. `dtype` is that of the files, by default
    each parameter's own. Raises UserError if it cannot hold a value, or for any other `folder`.
    """
    require_model(model)
    dtype = None if dtype is None else checked_dtype(dtype)
    with new_folder(folder) as place:
        write_settings(model, place)
        for name, params in model.params.items():
            path = place / COMPONENTS[name].folder / f"{COMPONENTS[name].stem}.safetensors"
            write_weights(params, path, dtype)


def convert(
    source: str | Path, target: str | Path, *, dtype: DTypeLike = jnp.float32, **how: Any
) -> None:
    """Loads a model and writes a kept copy of it, a folder that `load` then reads faster.

    `target` is absent or empty; `dtype` is that of the kept arrays: float32, bfloat16 or float16.
    The others are those of `load`: variant, tokenizer, prediction_type, allow_pickle. Raises
    UserError if the source cannot be loaded, or the target is not empty or cannot be written.
    """
    check_vacant(target)  # before minutes of work
    model = load(source, dtype=dtype, **how)
    with new_folder(target) as place:
        write_settings(model, place)
        keep_arrays(model.params, place)


@contextlib.contextmanager
def new_folder(target: str | Path) -> Iterator[Path]:
    """Makes a folder under a temporary name beside `target`, its place if the block succeeds.

    Raises UserError if `target` exists and is not an empty folder, or writing fails.
    """
    target = check_vacant(target)
    place = target.with_name(f"{TEMPORARY}{secrets.token_hex(6)}")
    try:
        with edge("writing a folder", target):
            place.mkdir(parents=True)
            yield place
            os.replace(place, target)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def check_vacant(target: str | Path) -> Path:
    """Returns `target` as an absolute path; raises UserError unless it is absent or empty."""
    target = Path(checks.checked(target, checks.Path, "target")).absolute()
    with edge("writing a folder", target):
        vacant = not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir()))
    if not vacant:
        raise UserError(f"{shown(target)} exists already; remove it or name another folder")
    check_writable(target.parent)
    return target


def write_settings(model: Model, folder: Path) -> None:
    """Writes a model folder except its weights."""
    family = FAMILIES[model.pipeline]
    index = {
        "_class_name": model.pipeline,
        "_diffusers_version": "0.42.0",  # whose layout this is
        **family.others,
        **{encoder.tokenizer: ["transformers", "CLIPTokenizer"] for encoder in family.encoders},
    }
    if ZEROS in family.others:
        index[ZEROS] = model.zeros
    schedules = [model.schedule]
    if model.low_res is not None:
        index["max_noise_level"] = model.low_res.max_noise_level
        schedules.append(model.low_res.schedule)
    for name, schedule in zip(family.schedules, schedules, strict=True):
        index[name] = ["diffusers", schedule.class_name]
        _write_json(folder / name / "scheduler_config.json", schedule.to_json())
    for name in model.params:
        module, component = getattr(model, name), COMPONENTS[name]
        class_name = type(module).__name__
        if not component.optional:  # else diffusers would look for it in its pipeline
            index[component.folder] = [component.library, class_name]
        config = {"_class_name": class_name, **module.config.to_json()}
        if not getattr(module.config, "force_upcast", True):  # the default
            config["force_upcast"] = False
        _write_json(folder / component.folder / "config.json", config)
    if model.sampler:
        _write_json(folder / SAMPLER, model.sampler)
    for encoder in family.encoders:
        (folder / encoder.tokenizer).mkdir()
        write_tokenizer(getattr(model, encoder.tokenizer), folder / encoder.tokenizer)
    _write_json(folder / "model_index.json", dict(sorted(index.items())))


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")


def write_weights(params: Mapping[str, Any], path: Path, dtype: np.dtype | None = None) -> None:
    """Writes a network's parameters as one safetensors file, under its checkpoint's own names.

    One tensor is in memory at a time; the library's writer would need all of them, transposed.
    `params` is a nested dict. Raises UserError if a value is beyond `dtype`, by default its own.
    """
    leaves = flatten_dict(dict(params))
    entries = sorted(key_table(params).items(), key=lambda item: item[1].key)
    # diffusers and transformers refuse files that do not say which framework wrote them.
    head: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, entry in entries:
        kind = np.dtype(dtype or leaves[name].dtype)
        start, end = end, end + math.prod(entry.stored_shape) * kind.itemsize
        place = {"shape": list(entry.stored_shape), "data_offsets": [start, end]}
        head[entry.key] = {"dtype": _SPELLING[kind], **place}
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, entry in entries:
            values = np.asarray(leaves[name])
            with np.errstate(over="ignore"):
                tensor = np.asarray(entry.write(values), dtype or values.dtype, order="C")
            if not np.isfinite(tensor).all():
                wrong = f"values that are not finite in {tensor.dtype.name}"
                raise UserError(f"{shown(entry.key)} has {wrong}; choose a wider dtype")
            file.write(tensor.reshape(-1).view(np.uint8))
