"""Grounding in photographs: pulls the clean estimates towards real pictures of some levels.

Symbols: xi the photograph of level j, [H, W, C]; x_i the clean estimate of level i, [N, H, W, C]
for all. xi fixes level j in full. For a level i that is k = i-j levels deeper, it fixes the picture
at resolution 1/p^k, from that level's window in xi. For a level that is k = j-i levels wider, it
fixes only the window of level j, which should equal D^k(xi). Levels whose windows do not exist
(`Geometry.observation`) are left unchanged. D_i downsamples x_i to where it meets the photograph,
M_i keeps the region that both show. Paper, section 4.4.

A photograph is NaN where it has no pixels: D of a cell that is known in part is NaN, too, and M_i
leaves it out. Of several photographs the deepest comes first. What it fixes of a level is no longer
free, and wider ones change only what is: where they contradict each other, the deeper one prevails.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pot_jax.checks import require
from pot_jax.errors import UserError
from pot_jax.zoom.geometry import Geometry, require_levels, require_open
from pot_jax.zoom.operators import downsample, upsample_nearest

Photographs = Mapping[int, jax.Array]  # by level: [H, W, C], NaN where there are no pixels


def minimise(loss: Callable, variables: Any, *, learning_rate: Any, steps: jax.Array | int) -> Any:
    """Takes `steps` steps of a fresh Adam down `loss`; returns the pytree `variables` after them.

    `loss` maps it to a scalar. `steps` may be traced, but then no gradient passes through the loop.
    """
    optimizer = optax.adam(learning_rate)

    def step(_, carry):
        variables, state = carry
        updates, state = optimizer.update(jax.grad(loss)(variables), state, variables)
        return optax.apply_updates(variables, updates), state

    return jax.lax.fori_loop(0, steps, step, (variables, optimizer.init(variables)))[0]


class _Tie(NamedTuple):
    """A photograph's constraint on one level: misfit(x) should be 0; meet(x) enforces it."""

    level: int
    misfit: Callable[[jax.Array], jax.Array]
    meet: Callable[[jax.Array], jax.Array]


def ground_adam(
    images: jax.Array,
    photographs: Photographs,
    geometry: Geometry,
    *,
    kernel: str = "mean",
    learning_rate: float = 0.1,
    steps: int = 5,
) -> jax.Array:
    """Takes the paper's 5 fresh Adam steps on sum_i ||M_i * (xi - D_i(x_i))||^2.

    Each Adam step is about as large as the learning rate (0.1 in the paper), however close the
    target is, so a pixel that is almost right is moved away by up to about 0.06 in [-1, 1];
    `ground_project` has no such floor. Takes clean estimates [N, H, W, C] and photographs xi,
    [H, W, C], by level j, in their range or NaN; returns [N, H, W, C]. Raises UserError if a
    photograph's shape or level does not fit the images, or these are in a loop.
    """
    ties = list(_ties(images, photographs, geometry, kernel))

    def loss(images):
        return sum(jnp.sum(jnp.square(tie.misfit(images[tie.level]))) for tie in ties)

    return minimise(loss, images, learning_rate=learning_rate, steps=steps)


def ground_project(
    images: jax.Array, photographs: Photographs, geometry: Geometry, *, kernel: str = "mean"
) -> jax.Array:
    """Returns the nearest pictures that match the photograph: x <- x + U(M * (xi - D x)).

    U is a right inverse of D, so D of the result is the photograph; detail that D removes stays.
    For the mean, whose transpose is U up to a factor, they are nearest in the least squares sense.
    Of several photographs, each is met by the nearest change of what deeper ones leave free. Takes,
    returns and raises what `ground_adam` does.
    """
    for tie in _ties(images, photographs, geometry, kernel):
        images = images.at[tie.level].set(tie.meet(images[tie.level]))
    return images


PHOTOGRAPH_METHODS = {"adam": ground_adam, "project": ground_project}


def _ties(images, photographs, geometry: Geometry, kernel: str) -> Iterator[_Tie]:
    """Yields at most 2 K + 1 constraints a photograph, K the depth of the geometry."""
    require_levels(images, geometry)
    require_open(geometry, "photograph")
    shrink = partial(downsample, zoom_factor=geometry.zoom_factor, kernel=kernel)
    free = [jnp.ones((*images.shape[1:3], 1), images.dtype)] * geometry.levels  # or 0: fixed
    for level, photo in sorted(photographs.items(), reverse=True):
        if photo.shape != images.shape[1:]:
            expected = f"a photograph of one level's shape {images.shape[1:]}"
            raise UserError(f"expected {expected}, got {photo.shape}; resize it")
        fits = 0 <= level < geometry.levels
        require(fits, "photograph", f"a level from 0 to {geometry.levels - 1}", level)
        target = photo
        for k in range(geometry.depth + 1):
            corners, exists = geometry.observation(k)
            target = shrink(target) if k else target
            windows = [tuple(map(slice, corner, corner + target.shape[:2])) for corner in corners]
            if exists[level]:
                i, window = level - k, windows[level]
                yield _wider(i, target, free[i][window], window)
                free[i] = free[i].at[window].set(jnp.where(_known(target), 0, free[i][window]))
            if k and level + k < geometry.levels and exists[level + k]:
                i, seen = level + k, photo[windows[level + k]]
                yield _deeper(i, seen, free[i], shrink, k)
                fixed = upsample_nearest(_known(seen), geometry.zoom_factor**k)
                free[i] = jnp.where(fixed, 0, free[i])


def _wider(level, target, free, window):
    holds = _known(target) & (free > 0)

    def meet(x):
        return x.at[window].set(jnp.where(holds, target, x[window]))

    return _Tie(level, lambda x: jnp.where(holds, target - x[window], 0), meet)


def _deeper(level, target, free, shrink, k):
    def see(x):
        for _ in range(k):
            x = shrink(x)
        return x

    def misfit(x):
        return jnp.where(holds, target - see(x), 0)

    def meet(x):
        change = misfit(x)
        return x + free * upsample_nearest(change, len(x) // len(change))

    # A cell is met as a whole or not at all: a few free pixels would have to make up for all.
    holds = _known(target) & (see(free) == see(jnp.ones_like(free)))
    return _Tie(level, misfit, meet)


def _known(photo):
    return ~jnp.isnan(photo[..., :1])
