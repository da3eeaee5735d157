"""Squares: whether the border of a level's window shows in its parent.

Symbols: c the child's window in its parent; colours are CIE Lab (D65) of delivered pictures, and
|a - b| is their Euclidean distance (2.3 is just noticeable). Rings of pixels are counted from the
border of c, inside and outside: the first is the nearest. Results are [N-1], in a loop [N].
"""

from collections.abc import Iterator

import numpy as np

from pot_jax.zoom.geometry import Geometry, require_levels

_NEAR = range(3, 7)  # with the next ring each: the 4th to the 8th, the border's neighbourhood
_WIDE = 2  # pixels on either side of a colour step
_FLAT = 0.05  # Lab: neighbours that differ by less are in a picture of one colour


def lab(pictures: np.ndarray) -> np.ndarray:
    """Returns pictures [..., 3] uint8, sRGB, as Lab float64: L 0 to 100, a and b about +-100."""
    from skimage.color import rgb2lab  # slow to import

    return rgb2lab(pictures)


def border_differences(colours: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Returns how much neighbouring pixels differ across the border of each window, and near it.

    Colours are Lab, [N, H, W, 3]; raises UserError if they do not fit the geometry.

    Returns:
      g0: [N-1], Lab, the mean |difference| of neighbours across the border of c.
      g: [N-1], the same between successive rings, from the 4th to the 8th on both sides; NaN where
        neither side is 5 pixels wide.
    """
    found = []
    for sides in _windows(colours, geometry):
        across, near = [], [np.zeros(0)]
        for outside, inside in (side for side in sides if len(side[0])):
            across.append(_distance(outside[0], inside[0]))
            near += [_distance(*outside[k : k + 2]) for k in _NEAR if k + 1 < len(outside)]
            rings = [(inside[k : k + 2], k + 1) for k in _NEAR if k + 1 < len(inside)]
            near += [_distance(*ring[:, short:-short]) for ring, short in rings]  # corners turn
        across, near = np.concatenate(across), np.concatenate(near)
        found.append((across.mean(), near.mean() if near.size else np.nan))
    return tuple(np.reshape(found, (-1, 2)).T)


def seam_excess(g0: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Returns g0 / g - 1 of `border_differences`; of a zoom, take the means over levels first.

    From -1, without limit. 0 means like its neighbourhood, as in noise and pictures of one colour.
    True zooms of the procedural world score -0.12 (-0.30 to -0.06 by chain); less was ironed flat.
    Independent samples with their children pasted in score about 2.5.
    """
    return (g0 - g) / np.maximum(g, _FLAT)


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a - b, axis=-1)


def edge_correlations(colours: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Returns how well what crosses the border of each window goes on, and how well it does nearby.

    Profiles are means of two rings; t is their difference from pixel to pixel along the border, so
    that an edge which meets the border is in it, and a step of colour across it is not. Arguments
    and errors: as `border_differences`. Both -1 to 1.

    Returns:
      c0: [N-1], sum(t t') / sqrt(sum(t^2) sum(t'^2)) of the profiles on the border's two sides.
      c: [N-1], the same of successive profiles outside, and of those inside, to the 6th ring.
        NaN, as c0, where the pictures are of one colour or there is no room.
    """
    found = []
    for sides in _windows(colours, geometry):
        sums = np.zeros((2, 3))  # of products and of both powers: across the border, and near it
        for outside, inside in (side for side in sides if len(side[0]) >= _WIDE):
            out, into = (_along(side) for side in (outside, inside))
            near = [*zip(out, out[1:]), *zip(into, into[1:])]
            for row, pairs in zip(sums, ([(out[0], into[0])], near)):
                for a, b in pairs:
                    row += (a * b).sum(), (a * a).sum(), (b * b).sum()
        powers = np.sqrt(sums[:, 1] * sums[:, 2])
        found.append(np.where(powers > _FLAT, sums[:, 0] / np.maximum(powers, _FLAT), np.nan))
    return tuple(np.reshape(found, (-1, 2)).T)


def _along(side: np.ndarray) -> np.ndarray:
    """Returns the changes along the border of the nearest profiles, up to three: [n, l - 1, 3]."""
    count = min(len(side), 3 * _WIDE) // _WIDE
    profiles = side[: count * _WIDE].reshape(count, _WIDE, *side.shape[1:]).mean(1)
    return np.diff(profiles, axis=1)


def colour_steps(colours: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean colour just outside the border of each window, less that just inside.

    Both strips are 2 pixels wide. Arguments and errors: as `border_differences`. (0, 0, 0) in a
    picture of one colour; a scene's own step is in it until `references.against` takes it away.

    Returns:
      ring: [N-1, 3], Lab, over the whole border.
      sides: [N-1, 4, 3], over its top, bottom, left and right; NaN where c ends with its parent.
    """
    steps = np.full((geometry.windows, 4, 3), np.nan)
    lengths = np.zeros((geometry.windows, 4, 1))
    for level, sides in enumerate(_windows(colours, geometry)):
        for side, (outside, inside) in enumerate(sides):
            if len(outside):
                steps[level, side] = outside[:_WIDE].mean((0, 1)) - inside[:_WIDE].mean((0, 1))
                lengths[level, side] = inside.shape[1]
    return np.nansum(lengths * steps, axis=1) / lengths.sum(axis=1), steps


def _windows(colours: np.ndarray, geometry: Geometry) -> Iterator[list]:
    """Yields the sides of each window as (outside [n, l, 3], inside [m, l, 3]), nearest first."""
    require_levels(colours, geometry)
    for parent, corner in zip(colours, geometry.corners):
        sides = []
        for axis, (begin, size) in enumerate(zip(corner, geometry.window_shape)):
            along = slice(corner[1 - axis], corner[1 - axis] + geometry.window_shape[1 - axis])
            across = np.moveaxis(parent, axis, 0)[:, along]
            for rows, border in ((across, begin), (across[::-1], len(across) - begin - size)):
                sides.append((rows[:border][::-1], rows[border : border + (size + 1) // 2]))
        yield sides
