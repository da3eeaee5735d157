"""Converts the network's output to a clean estimate.

    z = alpha x0 + sigma eps,    v = alpha eps - sigma x0,    alpha^2 + sigma^2 = 1

z is what the network saw (the latents times the plan's `input_scale`); alpha and sigma are scalars
of the step, or arrays that broadcast against z. All arrays are float32 with pictures on the last
three axes, [..., H, W, C].
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from pot_jax.checks import require
from pot_jax.diffusion.schedule import ScheduleConfig

# prediction type -> fn(prediction, z, alpha, sigma) -> x0
_CLEAN = {
    "epsilon": lambda eps, z, alpha, sigma: (z - sigma * eps) / alpha,
    # alpha z - sigma v = (alpha^2 + sigma^2) x0 + (alpha sigma - sigma alpha) eps
    "v_prediction": lambda v, z, alpha, sigma: alpha * z - sigma * v,
    "sample": lambda clean, z, alpha, sigma: clean,
}

# prediction type -> fn(x0, eps, alpha, sigma) -> what the network should have predicted
_TARGET = {
    "epsilon": lambda clean, eps, alpha, sigma: eps,
    "v_prediction": lambda clean, eps, alpha, sigma: alpha * eps - sigma * clean,
    "sample": lambda clean, eps, alpha, sigma: clean,
}


def clean_from_prediction(
    prediction: jax.Array, z: jax.Array, alpha, sigma, prediction_type: str
) -> jax.Array:
    """Returns the estimate of x0 that a prediction, shaped like `z`, implies.

    `prediction_type` is "epsilon", for which alpha is not 0, "v_prediction" (arXiv 2202.00512,
    section 4) or "sample"; UserError if it is another.
    """
    return _look_up(_CLEAN, prediction_type)(prediction, z, alpha, sigma)


def prediction_target(clean: jax.Array, eps: jax.Array, alpha, sigma, prediction_type: str):
    """Returns the training target: what the network should output for alpha x0 + sigma eps."""
    return _look_up(_TARGET, prediction_type)(clean, eps, alpha, sigma)


def _look_up(table: dict[str, Callable], prediction_type: str) -> Callable:
    known = prediction_type in table
    require(known, "prediction_type", f"one of {', '.join(table)}", prediction_type)
    return table[prediction_type]


def threshold(clean: jax.Array, ratio: float, maximum: float) -> jax.Array:
    """Applies dynamic thresholding to each picture (Imagen, arXiv 2205.11487, section 2.3).

    Let s be the `ratio` quantile (0 to 1) of |x| over the picture, limited to 1 .. `maximum`. Clips
    `clean` [..., H, W, C] to [-s, s] and divides by s, so that saturated pixels move inwards.
    """
    bound = jnp.quantile(jnp.abs(clean), ratio, axis=(-3, -2, -1), keepdims=True)
    bound = jnp.clip(bound, 1.0, maximum)
    return jnp.clip(clean, -bound, bound) / bound


def limiter(config: ScheduleConfig) -> Callable[[jax.Array], jax.Array]:
    """Returns the schedule's limit of clean estimates, as a function: threshold, clip, or neither.

    It depends on the model's data, so it applies to every solver (not to diffusers' Euler classes).
    """
    c, bound = config, config.clip_sample_range
    if c.thresholding:
        return lambda clean: threshold(clean, c.dynamic_thresholding_ratio, c.sample_max_value)
    if c.clip_sample:
        return lambda clean: jnp.clip(clean, -bound, bound)
    return lambda clean: clean
