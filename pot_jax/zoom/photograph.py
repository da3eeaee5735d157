"""Grounding in a photograph: pulls the clean estimates towards a real picture of one level.

Symbols: xi the photograph of level j, [H, W, C]; x_i the clean estimate of level i, [N, H, W, C]
for all. xi fixes level j in full. For a level i that is k = i-j levels deeper, it fixes the picture
at resolution 1/p^k, from that level's window in xi. For a level that is k = j-i levels wider, it
fixes only the window of level j, which should equal D^k(xi). Levels whose windows do not exist
(`Geometry.observation`) are left unchanged. D_i downsamples x_i to where it meets the photograph,
M_i keeps the region that both show. Paper, section 4.4.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pot_jax.checks import require
from pot_jax.errors import UserError
from pot_jax.zoom.geometry import Geometry, require_levels, require_open
from pot_jax.zoom.operators import downsample, upsample_nearest


def minimise(
    loss: Callable[[Any], jax.Array],
    variables: Any,
    *,
    optimizer: optax.GradientTransformation,
    steps: jax.Array | int,
) -> Any:
    """Takes `steps` steps of a fresh `optimizer` down `loss`, from the pytree `variables`.

    `loss` maps the pytree to a scalar. The number of steps may be traced, but then no gradient
    passes through the loop. Returns the pytree after the last step.
    """

    def step(_, carry):
        variables, state = carry
        updates, state = optimizer.update(jax.grad(loss)(variables), state, variables)
        return optax.apply_updates(variables, updates), state

    return jax.lax.fori_loop(0, steps, step, (variables, optimizer.init(variables)))[0]


class _Tie(NamedTuple):
    """The photograph's constraint on one level: see(x) should equal target; meet(x) enforces it."""

    level: int
    target: jax.Array
    see: Callable[[jax.Array], jax.Array]
    meet: Callable[[jax.Array], jax.Array]


def ground_adam(
    images: jax.Array,
    photo: jax.Array,
    geometry: Geometry,
    *,
    level: int = 0,
    kernel: str = "mean",
    learning_rate: float = 0.1,
    steps: int = 5,
) -> jax.Array:
    """Takes the paper's 5 fresh Adam steps on sum_i ||D_i(x_i) - M_i * xi||^2.

    Each Adam step is about as large as the learning rate (0.1 in the paper), however close the
    target is, so a pixel that is almost right is moved away by up to about 0.06 in [-1, 1];
    `ground_project` has no such floor. Takes clean estimates [N, H, W, C] and the photograph xi of
    level j, [H, W, C], in their range; returns [N, H, W, C]. Raises UserError if the photograph's
    shape or level does not fit the images, or these are in a loop.
    """
    ties = list(_ties(images, photo, geometry, level, kernel))

    def loss(images):
        return sum(jnp.sum(jnp.square(tie.see(images[tie.level]) - tie.target)) for tie in ties)

    return minimise(loss, images, optimizer=optax.adam(learning_rate), steps=steps)


def ground_project(
    images: jax.Array, photo: jax.Array, geometry: Geometry, *, level: int = 0, kernel: str = "mean"
) -> jax.Array:
    """Returns the nearest pictures that match the photograph: x <- x + U(M * (xi - D x)).

    U is a right inverse of D, so D of the result is the photograph; detail that D removes stays.
    For the mean, whose transpose is U up to a factor, they are nearest in the least squares sense.

    Args, returns and raises: as `ground_adam`.
    """
    for tie in _ties(images, photo, geometry, level, kernel):
        images = images.at[tie.level].set(tie.meet(images[tie.level]))
    return images


PHOTOGRAPH_METHODS = {"adam": ground_adam, "project": ground_project}


def _ties(images, photo, geometry: Geometry, level: int, kernel: str) -> Iterator[_Tie]:
    """Yields at most 2 K + 1 constraints, K the depth of the geometry, for any number of levels."""
    require_levels(images, geometry)
    require_open(geometry, "photograph")
    if photo.shape != images.shape[1:]:
        expected = f"a photograph of one level's shape {images.shape[1:]}"
        raise UserError(f"expected {expected}, got {photo.shape}; resize it")
    fits = 0 <= level < geometry.levels
    require(fits, "photograph", f"a level from 0 to {geometry.levels - 1}", level)
    target, p = photo, geometry.zoom_factor
    for k in range(geometry.depth + 1):
        corners, exists = geometry.observation(k)
        target = downsample(target, p, kernel) if k else target
        windows = [tuple(map(slice, corner, corner + target.shape[:2])) for corner in corners]
        if exists[level]:
            yield _wider(level - k, target, windows[level])
        if k and level + k < geometry.levels and exists[level + k]:
            yield _deeper(level + k, photo[windows[level + k]], p, k, kernel)


def _wider(level, target, window):
    return _Tie(level, target, lambda x: x[window], lambda x: x.at[window].set(target))


def _deeper(level, target, zoom_factor, k, kernel):
    def see(x):
        for _ in range(k):
            x = downsample(x, zoom_factor, kernel)
        return x

    return _Tie(level, target, see, lambda x: x + upsample_nearest(target - see(x), zoom_factor**k))
