"""Grounding in a photograph: pulls the clean estimates towards a real picture of one level.

Symbols: xi the photograph of level j, [H, W, C]; x_i the clean estimate of level i, [N, H, W, C]
for all. xi knows level j in full; a level k = i-j deeper at 1/p^k, from its window in xi; and of a
level k = j-i wider the window of level j, which should read D^k(xi). Levels whose windows do not
exist (`Geometry.observation`) are left alone. Paper, section 4.4.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from pot_jax.errors import UserError
from pot_jax.zoom.descent import minimise
from pot_jax.zoom.geometry import Geometry
from pot_jax.zoom.operators import downsample, require_levels, upsample_nearest


class _Tie(NamedTuple):
    """What the photograph says of one level: see(x) should be target; meet(x) makes it so."""

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
    """The paper's way: 5 fresh Adam steps on sum_i ||D_i(x_i) - M_i * xi||^2.

    Adam's steps have the size of the learning rate however near the goal is, so a pixel that is
    almost right is pushed off by up to about 0.06; `ground_project` has no such floor.

    Args:
      images: clean estimates, [N, H, W, C].
      photo: xi, [H, W, C], in the range of the images.
      geometry: the placement of the levels.
      level: j, the level that the photograph shows.
      kernel: the kernel of D, a name in `operators.KERNELS`.
      learning_rate: of Adam; 0.1 in the paper.
      steps: of Adam; 5 in the paper.

    Returns:
      [N, H, W, C].

    Raises:
      UserError: if the photograph's shape or level does not fit the images.
    """
    _require_photo(images, photo, geometry, level)
    ties = list(_ties(photo, geometry, level, kernel))

    def loss(images):
        return sum(jnp.sum(jnp.square(tie.see(images[tie.level]) - tie.target)) for tie in ties)

    return minimise(loss, images, optimizer=optax.adam(learning_rate), steps=steps)


def ground_project(
    images: jax.Array, photo: jax.Array, geometry: Geometry, *, level: int = 0, kernel: str = "mean"
) -> jax.Array:
    """The nearest pictures that meet the photograph exactly: x <- x + U(M * (xi - D x)).

    U is a right inverse of D, so D of the result is the photograph; the detail that D does not see
    stays. Nearest in the least squares sense for the mean, whose transpose is U up to a factor.

    Args, returns and raises: as `ground_adam`.
    """
    _require_photo(images, photo, geometry, level)
    for tie in _ties(photo, geometry, level, kernel):
        images = images.at[tie.level].set(tie.meet(images[tie.level]))
    return images


PHOTOGRAPH_METHODS = {"adam": ground_adam, "project": ground_project}


def _ties(photo: jax.Array, geometry: Geometry, level: int, kernel: str) -> Iterator[_Tie]:
    """At most 2 K + 1 of them, K the depth of the geometry, however many levels there are."""
    target = photo
    for k in range(geometry.depth + 1):
        corners, exists = geometry.observation(k)
        if k:
            target = downsample(target, geometry.zoom_factor, kernel)
        size = target.shape[:2]
        if exists[level]:
            yield _wider(level - k, target, _window(corners[level], size))
        if k and level + k < geometry.levels and exists[level + k]:
            seen = photo[_window(corners[level + k], size)]
            yield _deeper(level + k, seen, geometry.zoom_factor, k, kernel)


def _wider(level, target, window):
    return _Tie(level, target, lambda x: x[window], lambda x: x.at[window].set(target))


def _deeper(level, target, zoom_factor, k, kernel):
    def see(x):
        for _ in range(k):
            x = downsample(x, zoom_factor, kernel)
        return x

    return _Tie(level, target, see, lambda x: x + upsample_nearest(target - see(x), zoom_factor**k))


def _window(corner, size):
    (y, x), (h, w) = (int(c) for c in corner), size
    return slice(y, y + h), slice(x, x + w)


def _require_photo(images, photo, geometry, level):
    require_levels(images, geometry)
    if photo.shape != images.shape[1:]:
        raise UserError(
            f"expected a photograph of one level's shape {images.shape[1:]}, not {photo.shape}; "
            "resize it"
        )
    if not 0 <= level < geometry.levels:
        raise UserError(
            f"the photograph must show one of the levels 0 to {geometry.levels - 1}, not {level}"
        )
