"""Identifies a run: a digest of everything that decides its pictures.

Folders with equal digests hold the same run. Where a network computes something (text states, the
photograph's latents), its inputs are digested and not its outputs, because other devices round
differently.
"""

import hashlib
import inspect
import json
from typing import Any

import jax
import numpy as np

from pot_jax.config import OwnPartSettings
from pot_jax.diffusion.sampler import GENERATOR
from pot_jax.weights.digests import array_digest
from pot_jax.weights.model import Model


def digest(value: Any) -> str:
    """Returns the SHA-256 of plain data or of an array, in hex."""
    if isinstance(value, np.ndarray | jax.Array):
        return array_digest(value)
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def model_identity(model: Model) -> dict[str, str]:
    """Returns the digests of what a model contributes: weights, configs, precision, schedule."""
    modules = (model.text_encoder, model.unet, model.autoencoder)
    networks = [[module.config.to_json(), str(np.dtype(module.dtype))] for module in modules]
    return {
        "weights": model.digest,
        "networks": digest(networks),
        "schedule": digest(model.schedule.to_json()),
    }


def generator_identity() -> str:
    """Returns the digest of how random numbers are drawn from a key."""
    return digest([GENERATOR, bool(jax.config.jax_threefry_partitionable)])


def own_part(part: str, function: Any) -> OwnPartSettings:
    """Returns what a run records of a Python function: its name and the digest of its source.

    The digest covers the source, the defaults and what the function closes over. If one of these
    cannot be read (a lambda typed at a prompt, an object in the closure), there is no digest, and a
    resumed run cannot check the function.
    """
    functions = _functions(function)
    name = ", ".join(f"{f.__module__}.{f.__qualname__}" for f in functions)
    try:
        return OwnPartSettings(part, name, digest([_content(f) for f in functions]))
    except (OSError, TypeError):
        return OwnPartSettings(part, name)


def _functions(function: Any) -> list[Any]:
    """Returns the function itself, or the functions held by a record (a Solver, a Guidance)."""
    if hasattr(function, "__qualname__"):
        return [function]
    held = [f for f in vars(function).values() if hasattr(f, "__qualname__")]
    return held or [type(function)]


def _content(function: Any) -> list[Any]:
    """Returns plain data that decide what a function does; raises TypeError or OSError."""
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    values = [cells, getattr(function, "__defaults__", None)]
    json.dumps(values)
    return [inspect.getsource(function), *values]
