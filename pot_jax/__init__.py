"""Generative Powers of Ten in JAX: pictures, sampled jointly, that can be zoomed through.

>>> model = pot_jax.load("cosmos128")
>>> zoom = pot_jax.sample(model, ["a spiral galaxy", "a star and its planets", "a blue planet"])
>>> zoom.save("runs/mine")
"""

import importlib

from pot_jax.errors import UserError

# Imported when first used: `pot-jax --help` and a render worker need no networks.
_LAZY = {
    "Model": "pot_jax.weights.model",
    "Zoom": "pot_jax.runs.zoom",
    "inpaint": "pot_jax.pipelines.inpaint",
    "load": "pot_jax.weights.load",
    "sample": "pot_jax.pipelines.zoom",
    "show": "pot_jax.runs.zoom",
    "upscale": "pot_jax.pipelines.upscale",
}

__all__ = ["Model", "UserError", "Zoom", "inpaint", "load", "sample", "show", "upscale"]


_OLD_NAMES = {"enlarge": "upscale"}


def __getattr__(name: str):
    name = _OLD_NAMES.get(name, name)
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'pot_jax' has no attribute {name!r}")
