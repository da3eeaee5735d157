"""Guidance: combines the predictions with and without the prompt into the one that a step uses.

Symbols: c and u the conditional and unconditional predictions, [..., H, W, C] float32; s the
guidance scale. A guidance may return two predictions: one for the clean estimate, and one whose
noise is put back (CFG++ uses u for that); and it may keep a memory (momentum), which is part of
the sampler's state.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


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
    guided = guide(unconditional, conditional, scale, numbers.rescale)
    return Guided(guided, None), memory


CLASSIFIER_FREE = Guidance(_classifier_free)
