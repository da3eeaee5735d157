"""Identifies a run: a digest of everything that decides its pictures.

Folders with equal digests hold the same run. Where a network computes something (text states, the
photograph's latents), its inputs are digested and not its outputs, because other devices round
differently.
"""

import dataclasses
import functools
import hashlib
import inspect
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from pot_jax.config import OwnPartSettings, RunSettings
from pot_jax.diffusion.sampler import GENERATOR
from pot_jax.weights.digests import array_digest
from pot_jax.weights.model import Model
from pot_jax.zoom.geometry import Geometry


def digest(value: Any) -> str:
    """Returns the SHA-256 of plain data or of an array, in hex."""
    if isinstance(value, np.ndarray | jax.Array):
        return array_digest(value)
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def model_identity(model: Model) -> dict[str, str]:
    """Returns the digests of what a model contributes: weights, configs, precision, schedule."""
    modules = (model.text_encoder, model.unet, model.autoencoder)
    schedule = model.schedule
    if schedule.timestep_spacing not in (None, "leading"):  # the only one that reads the offset
        schedule = dataclasses.replace(schedule, steps_offset=0)
    networks = [[module.config.to_json(), str(np.dtype(module.dtype))] for module in modules]
    weights = {"weights": model.digest} if model.digest else {}  # not read yet
    return weights | {"networks": digest(networks), "schedule": digest(schedule.to_json())}


def zoom_identity(
    settings: RunSettings, geometry: Geometry, inputs: Mapping[str, Any]
) -> dict[str, str]:
    """Returns the digests of a zoom's settings, its geometry, and its other inputs that are given.

    Inputs are plain data or arrays by their names: prompts, seeds, photograph; None is left out.
    """
    decides = {
        "geometry": geometry.to_json(),
        "sampler": dataclasses.asdict(settings.sampler),
        "own parts": [dataclasses.asdict(own) for own in settings.own_parts],
        "generator": [GENERATOR, bool(jax.config.jax_threefry_partitionable)],
        **inputs,
    }
    return {name: digest(what) for name, what in decides.items() if what is not None}


def own_part(part: str, value: Any) -> OwnPartSettings:
    """Returns what a run records of a part passed from Python: its name and a digest of its source.

    The digest covers the source, the defaults and what a function closes over. If one of these
    cannot be read (a lambda typed at a prompt, an object in a closure), there is no digest, and a
    resumed run cannot check the part.
    """
    try:
        return OwnPartSettings(part, _name(value), digest(_content(value)))
    except (OSError, TypeError, ValueError, RecursionError):
        return OwnPartSettings(part, _name(value))


def _name(value: Any) -> str:
    if isinstance(value, functools.partial):
        return _name(value.func)
    if dataclasses.is_dataclass(value):
        return ", ".join(_name(f) for f in vars(value).values() if callable(f))
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def _content(value: Any) -> Any:
    """Returns plain data that decide what a value does; raises if they cannot be read."""
    if isinstance(value, functools.partial):
        return ["partial", _content(value.func), _content(value.args), _content(value.keywords)]
    if dataclasses.is_dataclass(value):  # a Solver, a Guidance, a Blend
        return _content(vars(value))
    if isinstance(value, list | tuple):
        return [_content(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _content(item) for name, item in value.items()}
    if value is None or isinstance(value, str | int | float):
        return value
    function = inspect.unwrap(value)
    if not inspect.isfunction(function):
        raise TypeError(f"the state of {value!r} cannot be read")
    if function.__code__.co_filename == "<string>":  # of eval; Python 3.13 gives that of `-c`
        raise OSError("no source")
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    values = cells, function.__defaults__, function.__kwdefaults__
    return [inspect.getsource(function), *map(_content, values)]
