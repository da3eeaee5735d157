"""Detail: the top octave of pictures, where there is none if they were blurred or only enlarged.

Symbols: D downsampling by p, up bilinear upsampling; b = x - up(D(x)) the top octave of Lab colours
x (log2 p octaves, for p over 2).
"""

import numpy as np

from pot_jax.zoom import operators
from pot_jax.zoom.geometry import Geometry, require_levels

_MARGIN = 3  # pixels left out on either side of a window's border: a seam is not detail


def top_octaves(colours: np.ndarray, zoom_factor: int) -> np.ndarray:
    """Returns b = x - up(D(x)) of colours [..., H, W, 3], float64; zero for one colour."""
    shrunk = np.float32(operators.downsample(colours, zoom_factor))
    return colours - np.asarray(operators.upsample(shrunk, zoom_factor), np.float64)


def detail(octaves: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Returns the mean square of each level's top octave where the level is itself.

    That is outside its child's window and 3 pixels away from it, since inside lies the shrunken
    child, sharper than any painting; the deepest level counts as a whole. From 0, the score of
    pictures of one colour; blurred pictures score close to it, noise hundreds.

    Args:
      octaves: of `top_octaves`, [N, H, W, 3].
      geometry: the placement of the levels.

    Returns:
      [N], in squared Lab units; NaN where the window leaves nothing.

    Raises:
      UserError: the octaves do not fit the geometry.
    """
    require_levels(octaves, geometry)
    power = np.square(octaves).mean(-1)
    h, w = geometry.window_shape
    for level, (y, x) in enumerate(geometry.corners):
        top, left = max(y - _MARGIN, 0), max(x - _MARGIN, 0)
        power[level, top : y + h + _MARGIN, left : x + w + _MARGIN] = np.nan
    left = np.isfinite(power).sum((1, 2))
    return np.where(left, np.nansum(power, axis=(1, 2)), np.nan) / np.maximum(left, 1)


def repetition(octaves: np.ndarray) -> np.ndarray:
    """Returns how alike neighbouring levels are at equal pixels, beyond what the crop explains.

    sum(b_i b_{i+1}) / sqrt(sum(b_i^2) sum(b_{i+1}^2)) over pixels and colours, [N-1], -1 to 1. The
    crop explains none of it: what level i+1 shares with the window in level i has no top octave.
    0 for pictures of one colour, independent noise and, within 0.1, the procedural world's own
    renders; 1 for a level that repeats its parent.

    Args:
      octaves: of `top_octaves`, [N, H, W, 3].
    """
    parents, children = octaves[:-1], octaves[1:]
    products = [
        (a * b).sum((1, 2, 3)) for a, b in ((parents, children), (parents,) * 2, (children,) * 2)
    ]
    return products[0] / np.sqrt(np.maximum(products[1] * products[2], 1e-12))
