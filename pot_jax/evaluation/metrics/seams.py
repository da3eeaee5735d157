"""Squares: whether the border of a level's window shows in its parent.

Symbols: c the child's window in its parent; colours are CIE Lab (D65) of delivered pictures, and
|a - b| is their Euclidean distance (2.3 is just noticeable). Pixels are counted from the border of
c, inside and outside: the first is the nearest.
"""

from collections.abc import Iterator

import numpy as np

from pot_jax.zoom.geometry import Geometry, require_levels

_NEAR = range(3, 7)  # from the 4th to the 8th pixel: the border's neighbourhood, by the inner pixel
_WIDE = 2  # pixels on either side of a colour step
_FLAT = 0.05  # Lab: neighbours that differ by less are in a picture of one colour


def lab(pictures: np.ndarray) -> np.ndarray:
    """Returns pictures [..., 3] uint8, sRGB, as Lab float64: L 0 to 100, a and b about +-100."""
    from skimage.color import rgb2lab  # slow to import

    return rgb2lab(pictures)


def border_differences(colours: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Returns how much neighbouring pixels differ across the border of each window, and near it.

    Args:
      colours: Lab, [N, H, W, 3].
      geometry: the placement of the levels.

    Returns:
      g0: [N-1], Lab, the mean |difference| of neighbours across the border of c.
      g: [N-1], the same between successive rings, from the 4th pixel to the 8th on both sides; NaN
        where neither side is 5 pixels wide.

    Raises:
      UserError: the colours do not fit the geometry.
    """
    pairs = [_differences(sides) for sides in _windows(colours, geometry)]
    g0, g = np.reshape(pairs, (-1, 2)).T
    return g0, g


def seam_excess(g0: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Returns g0 / g - 1 of `border_differences`: how much more neighbours differ across borders.

    From -1, without limit. 0 means like its neighbourhood, as in noise, and is what pictures of one
    colour score. True zooms of the procedural world score -0.12 (-0.30 to -0.06 by chain); less was
    ironed flat. Independent samples with their children pasted in score about 2.5. Of a zoom it is
    the excess of the means over its levels, for that of single levels scatters.
    """
    return (g0 - g) / np.maximum(g, _FLAT)


def _differences(sides: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    across, near = [], [np.zeros(0)]
    for outside, inside in sides:
        if not len(outside):
            continue
        across.append(_distance(outside[0], inside[0]))
        near += [_distance(*outside[k : k + 2]) for k in _NEAR if k + 1 < len(outside)]
        for k in _NEAR:
            if k + 1 < len(inside):
                ring = slice(k + 1, inside.shape[1] - k - 1)  # rings are shorter inside
                near.append(_distance(inside[k, ring], inside[k + 1, ring]))
    near = np.concatenate(near)
    return np.concatenate(across).mean(), near.mean() if near.size else np.nan


def colour_steps(colours: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean colour just outside the border of each window, less that just inside.

    Both strips are 2 pixels wide. (0, 0, 0) in a picture of one colour. What a scene has there by
    itself is in it too: `references.against` takes it away. Arguments and errors: as
    `border_differences`.

    Returns:
      ring: [N-1, 3], Lab, over the whole border.
      sides: [N-1, 4, 3], over its top, bottom, left and right; NaN where c ends with its parent.
    """
    steps = np.full((geometry.levels - 1, 4, 3), np.nan)
    lengths = np.zeros((geometry.levels - 1, 4, 1))
    for level, sides in enumerate(_windows(colours, geometry)):
        for side, (outside, inside) in enumerate(sides):
            if len(outside):
                steps[level, side] = outside[:_WIDE].mean((0, 1)) - inside[:_WIDE].mean((0, 1))
                lengths[level, side] = inside.shape[1]
    return np.nansum(lengths * steps, axis=1) / lengths.sum(axis=1), steps


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a - b, axis=-1)


def _windows(colours: np.ndarray, geometry: Geometry) -> Iterator[list]:
    """Yields for each window its four sides, as (outside [n, l, 3], inside [m, l, 3]).

    Rows are counted from the border; l is the length of the side. They are views.
    """
    require_levels(colours, geometry)
    for parent, corner in zip(colours, geometry.corners):
        sides = []
        for axis, (begin, size) in enumerate(zip(corner, geometry.window_shape)):
            along = slice(corner[1 - axis], corner[1 - axis] + geometry.window_shape[1 - axis])
            across = np.moveaxis(parent, axis, 0)[:, along]
            end = len(across) - begin - size
            for rows, border in ((across, begin), (across[::-1], end)):
                sides.append((rows[:border][::-1], rows[border : border + (size + 1) // 2]))
        yield sides
