"""The parameters that a training starts from."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def initial_params(shapes: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Random float32 parameters for a model, as Flax's own initialisers would draw them.

    NumPy draws them because `module.init` has XLA compile a generator for each of hundreds of
    arrays: 57 s of processor time for a UNet of 30,000 parameters, where this takes milliseconds.

    Args:
      shapes: the model's parameters, or their shapes (`pot_jax.weights.keys.abstract_params`).
      rng: the same state gives the same parameters, on any device.

    Returns:
      A nested dict: kernels normal with variance 1 / (inputs to each output) (LeCun), embeddings
      normal with standard deviation 0.02 (CLIP's), scales 1, biases 0.
    """

    def draw(path, leaf):
        name, shape = path[-1].key, leaf.shape
        if name in ("bias", "scale"):
            return jnp.full(shape, float(name == "scale"), jnp.float32)
        deviation = 0.02 if name == "embedding" else 1 / math.sqrt(math.prod(shape[:-1]))
        return jnp.asarray(deviation * rng.standard_normal(shape, np.float32))

    return jax.tree.map_with_path(draw, dict(shapes))
