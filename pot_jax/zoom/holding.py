"""Held levels: known pictures of a zoom that stay as they are, while its other levels are drawn.

Symbols: x_i the picture of level i, [N, H, W, C] for all; X_i that of a held level; p, D, U as in
`operators`. A level that is not held has to show what held levels show of the same place. D^k of a
held level, k levels deeper, is known in its window: those pixels are *known*, all others *free*.
And the level itself, seen from a held parent, is known as well: D x_i is that parent's window.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pot_jax.zoom.geometry import Geometry, require_levels
from pot_jax.zoom.operators import crop, downsample, paste, upsample_nearest


def put(images: jax.Array, held: jax.Array, known: jax.Array) -> jax.Array:
    """Returns images [N, H, W, C] with those of `known`, [N, H, W, C], where `held` [N] is true."""
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
    """Fits levels to the held ones: all agree, as far as the held ones agree with each other.

    From the deepest level up, each level that is not held gets D of its child in its window; then,
    from the widest down, each is changed where it is free so that D of it is its parent's window
    (`meet`). Held levels that agree only up to 8-bit rounding leave that much in the cells of
    levels between them. Pictures that agree with the held levels, and each other, are returned
    unchanged.

    Args:
      images: [N, H, W, C], best those that `render` returned.
      held: [N] bool.
      known: the held levels' pictures, [N, H, W, C]; those of the others are not used.
      geometry: the placement of the levels.
      kernel: that of D.
      bounded: whether the values stay in [-1, 1], where the images have to lie then.

    Returns [N, H, W, C], the held levels bit by bit as given. Raises UserError if the images do not
    fit the geometry, or the kernel is unknown.
    """
    require_levels(images, geometry)
    p, corners = (
        geometry.zoom_factor,
        np.concatenate([geometry.corners, np.zeros((1, 2), np.int32)]),
    )
    # A last channel says which pixels are known, 1 or 0. Its D is 1 where all of a cell is; the
    # least tap of a kernel is above half of the mean's 1 / p^2.
    marks = jnp.broadcast_to(held[:, None, None, None], (*images.shape[:3], 1))
    stack = jnp.concatenate([put(images, held, known), marks.astype(images.dtype)], axis=-1)

    def wider(child, level):
        own, is_held, corner = level
        picture = jnp.where(is_held, own, paste(own, child, corner))
        low = downsample(picture, p, kernel)
        whole = (low[..., -1:] > 1 - 0.25 / p**2).astype(low.dtype)
        return jnp.concatenate([low[..., :-1], whole], axis=-1), picture

    def deeper(seen, level):
        own, corner = level
        picture = meet(own[..., :-1], seen, 1 - own[..., -1:], p, kernel=kernel, bounded=bounded)
        return crop(picture, corner, geometry.window_shape), picture

    # The ends have no child and no parent: they meet themselves, as in `render` and `iterative`.
    itself = crop(stack[-1], corners[-1], geometry.window_shape)
    _, stack = lax.scan(wider, itself, (stack, held, corners), reverse=True)
    _, pictures = lax.scan(deeper, downsample(stack[0, ..., :-1], p, kernel), (stack, corners))
    return pictures


def meet(
    image: jax.Array,
    seen: jax.Array,
    free: jax.Array,
    zoom_factor: int,
    *,
    kernel: str = "mean",
    bounded: bool = False,
) -> jax.Array:
    """Returns the picture x of which D is what is seen, changed where it is free.

    With r = seen - D x, x <- x + free U(r / D free), whose D is `seen`; where all is free, that is
    x + U r, the nearest such picture (for the mean). Cells without a free pixel stay. If `bounded`,
    the result is clipped to [-1, 1], and what that takes from D is made up for by
    x <- x + room U(r / D room), room the distance to 1 where r > 0, and to -1 where r < 0: a cell
    has room for every r that [-1, 1] allows, so nothing remains and nothing is clipped again.

    Takes x [H, W, C], `seen` [H/p, W/p, C], and `free` [H, W, 1], 1 or 0. Returns [H, W, C].
    """
    p = zoom_factor

    def spread(x, room):
        missing, share = seen - downsample(x, p, kernel), downsample(room, p, kernel)
        change = jnp.where(share > 0, missing / jnp.where(share > 0, share, 1), 0)
        return x + room * upsample_nearest(change, p)

    image = spread(image, free)
    if not bounded:
        return image
    image = jnp.clip(image, -1, 1)
    rises = upsample_nearest(seen - downsample(image, p, kernel), p) > 0
    # Clipped again for rounding alone, or where known pixels ask for what a cell cannot be.
    return jnp.clip(spread(image, free * jnp.where(rises, 1 - image, 1 + image)), -1, 1)
