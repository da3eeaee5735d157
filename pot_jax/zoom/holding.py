"""Held levels: known pictures of a zoom that stay as they are, while its other levels are drawn.

Symbols: x_i the picture of level i, [N, H, W, C] for all; p, D, U as in `operators`. A pixel is
*known* if it is D^k of a held level k levels deeper, else *free*. A level that is not held agrees
with the held ones if its known pixels have those values, and D of it is its parent's window.
"""

import jax
import jax.numpy as jnp
from jax import lax

from pot_jax.zoom.geometry import Geometry, require_levels
from pot_jax.zoom.operators import crop, downsample, paste, upsample_nearest


def put(images: jax.Array, held: jax.Array, known: jax.Array) -> jax.Array:
    """Returns images [N, H, W, C], where `held` [N] is true those of `known` [N, H, W, C]."""
    return jnp.where(held[:, None, None, None], known, images)


def fit(
    images: jax.Array,
    held: jax.Array,
    known: jax.Array,
    geometry: Geometry,
    *,
    kernel: str = "mean",
    bounded: bool = False,
) -> jax.Array:
    """Returns [N, H, W, C]: the held levels bit by bit, and the others fitted to them; all agree.

    From the deepest level up, each that is not held gets D of its child in its window; then, from
    the widest down, each meets its parent's window where it is free. Pictures that agree
    are returned unchanged. Between held levels that agree up to 8-bit rounding, that much remains.

    Takes images, as rendered, `held` and `known` as `put` does; if `bounded`, all are in [-1, 1]
    and stay there. UserError if they do not fit the geometry, or the kernel is unknown.
    """
    require_levels(images, geometry)
    p, shape = geometry.zoom_factor, geometry.window_shape
    corners = geometry.child_corners
    # A last channel is 1 where a pixel is known. Its D is 1 where all of a cell is: else it is
    # lower by a tap, of which no kernel has one below half of the mean's 1 / p^2.
    marks = jnp.broadcast_to(held[:, None, None, None], (*images.shape[:3], 1))
    stack = jnp.concatenate([put(images, held, known), marks.astype(images.dtype)], axis=-1)

    def wider(child, level):
        own, is_held, corner = level
        picture = jnp.where(is_held, own, paste(own, child, corner))
        low = downsample(picture, p, kernel)
        whole = low[..., -1:] > 1 - 0.25 / p**2
        return low.at[..., -1:].set(whole.astype(low.dtype)), picture

    def deeper(seen, level):
        own, corner = level
        picture = _met(own[..., :-1], seen, 1 - own[..., -1:], p, kernel, bounded)
        return crop(picture, corner, shape), picture

    # The ends have no child and no parent: they meet themselves, as in `render` and `iterative`.
    itself = crop(stack[-1], corners[-1], shape)
    _, stack = lax.scan(wider, itself, (stack, held, corners), reverse=True)
    return lax.scan(deeper, downsample(stack[0, ..., :-1], p, kernel), (stack, corners))[1]


def _met(image, seen, free, p, kernel, bounded):
    """Returns x [H, W, C] with D x = seen [H/p, W/p, C], changed where free [H, W, 1] is 1, not 0.

    x <- x + free U(r / D free), with r = seen - D x: the nearest such picture, for the mean. Cells
    without a free pixel stay. If `bounded`, x is then clipped to [-1, 1], and what D lost by it is
    shared out by the room that is left, x <- x + room U(r / D room), room the distance to 1 where
    r > 0, else to -1: since `seen` is in [-1, 1], nothing is clipped again but by known pixels.
    """

    def spread(x, room):
        missing, share = seen - downsample(x, p, kernel), downsample(room, p, kernel)
        change = jnp.where(share > 0, missing / jnp.where(share > 0, share, 1), 0)
        return x + room * upsample_nearest(change, p)

    image = spread(image, free)
    if bounded:
        image = jnp.clip(image, -1, 1)
        rises = upsample_nearest(seen - downsample(image, p, kernel), p) > 0
        image = jnp.clip(spread(image, free * jnp.where(rises, 1 - image, 1 + image)), -1, 1)
    return image
