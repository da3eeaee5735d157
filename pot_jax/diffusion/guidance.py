"""From the network's predictions to a clean estimate: guidance, conversion, limits.

Symbols: c and u the conditional and unconditional predictions, [..., H, W, C] float32; s the
guidance scale. A guidance may return two predictions: one for the clean estimate, and one whose
noise is put back (CFG++ uses u for that); and keep a memory (momentum) in the sampler's state.

    z = alpha x0 + sigma eps,    v = alpha eps - sigma x0,    alpha^2 + sigma^2 = 1

z is what the network saw (the latents times the plan's `input_scale`); alpha and sigma are scalars
of the step, or arrays that broadcast against z.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pot_jax.checks import require
from pot_jax.diffusion.schedule import ScheduleConfig


class Numbers(NamedTuple):
    """The numeric settings of a guidance: traced, so that a sweep compiles once."""

    scale: Any  # s, a scalar, or one for each level, [N, 1, 1, 1]
    rescale: Any  # 0 to 1: how much of the added contrast is removed


class Guided(NamedTuple):
    """The predictions that a guidance returns."""

    prediction: jax.Array  # for the clean estimate
    renoise: jax.Array | None  # whose noise the solver puts back; None: `prediction`


@dataclasses.dataclass(frozen=True)
class Guidance:
    """One way to guide; hashable."""

    combine: Callable[..., tuple[Guided, Any]]  # (u, c, numbers, memory) -> (Guided, memory)
    # (latents [N, h, w, c]) -> memory before the first step, a pytree; () for none
    start: Callable[[jax.Array], Any] = lambda latents: ()


def guide(
    unconditional: jax.Array, conditional: jax.Array, guidance_scale: Any, rescale: Any = 0.0
) -> jax.Array:
    """Returns u + s (c - u), classifier-free guidance (arXiv 2207.12598; s = 1 is plain c).

    `rescale` is how far the result's standard deviation over each picture is brought back to c's, 0
    (not at all) to 1. Guidance increases it, most of all with zero terminal SNR, and makes pictures
    too bright (arXiv 2305.08891, section 3.4, which uses 0.7).
    """
    guided = unconditional + guidance_scale * (conditional - unconditional)
    plain, spread = (jnp.std(x, axis=(-3, -2, -1), keepdims=True) for x in (conditional, guided))
    # Where nothing varies there is nothing to rescale; this also avoids 0 / 0.
    ratio = jnp.where(spread > 0, plain / jnp.where(spread > 0, spread, 1.0), 1.0)
    return guided * (rescale * ratio + (1.0 - rescale))


def _classifier_free(unconditional, conditional, numbers, memory):
    scale = numbers.scale
    if jnp.ndim(scale):  # at a level's own, as for all, 1 or less means no guidance
        scale = jnp.maximum(scale, 1)
    return Guided(guide(unconditional, conditional, scale, numbers.rescale), None), memory


CLASSIFIER_FREE = Guidance(_classifier_free)


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
