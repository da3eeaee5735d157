"""Where the clean estimates are made to agree: in latents, in pixels, or by gradient.

Each function here builds an `agree(weights, clean [N, h, w, c], step []) -> clean [N, h, w, c]` for
the sampler. `decode(weights, latents [M, h, w, c]) -> images [M, H, W, 3]` and its inverse `encode`
come in as callables; `consistent` is blending followed by rendering, `ground` the photograph's
constraint, both on whatever grid the function works on.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Agree = Callable[[object, jax.Array, jax.Array], jax.Array]
OnImages = Callable[[jax.Array], jax.Array]


def none(weights, clean: jax.Array, step) -> jax.Array:
    """Leaves the clean estimates alone: levels share noise, and agree once they are pictures."""
    del weights, step
    return clean


def in_latents(consistent: OnImages, ground: Callable | None = None) -> Agree:
    """Blends and renders the clean estimates as they are: cheap, and exact for pixel models.

    Args:
      consistent: [N, h, w, c] -> [N, h, w, c], blend then render.
      ground: (weights, clean) -> clean; pulls the estimates towards a photograph first.
    """

    def agree(weights, clean, step):
        del step
        return consistent(ground(weights, clean) if ground else clean)

    return agree


def in_pixels(
    decode: Callable, encode: Callable, consistent: OnImages, ground: Callable | None = None
) -> Agree:
    """Decodes, makes the pictures agree, and brings only the change back into the latents.

    z' = z + E(x') - E(x), with x = dec(z) and x' its agreeing version. The residual form cancels
    what the autoencoder itself loses: with the plain E(x') every step would wash the pictures out a
    little more (LookingGlass, CVPR 2025, does the like for warps).

    Args:
      decode: (weights, latents) -> images [N, H, W, 3] in [-1, 1].
      encode: (weights, images) -> latents.
      consistent: [N, H, W, 3] -> [N, H, W, 3], blend then render.
      ground: (weights, images) -> images; pulls the pictures towards a photograph first.
    """

    def agree(weights, clean, step):
        del step
        images = decode(weights, clean)
        agreed = consistent(ground(weights, images) if ground else images)
        both = encode(weights, jnp.concatenate([agreed, images]))
        return clean + (both[: len(clean)] - both[len(clean) :])

    return agree


def by_gradient(descend: Callable, to_images: Callable, ground: Callable | None = None) -> Agree:
    """Walks the clean estimates down their disagreement, through the operators and the decoder.

    Args:
      descend: (clean, to_images [N,h,w,c] -> images) -> clean; a few optimiser steps
        (`zoom.blending.descend` with its settings bound).
      to_images: (weights, clean) -> images; the identity for pixel models or latent space.
      ground: (weights, clean) -> clean, before the descent.
    """

    def agree(weights, clean, step):
        del step
        clean = ground(weights, clean) if ground else clean
        return descend(clean, lambda latents: to_images(weights, latents))

    return agree


def every(period: int, often: Agree, otherwise: Agree) -> Agree:
    """Uses `often` at steps 0, period, 2 period, ... and `otherwise` between them."""
    if period == 1:
        return often

    def agree(weights, clean, step):
        return jax.lax.cond(step % period == 0, often, otherwise, weights, clean, step)

    return agree
