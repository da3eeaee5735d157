"""Detail: the top octave of pictures, which they lack if they were blurred or only enlarged.

Symbols: D downsampling by p, up bilinear upsampling; b = x - up(D(x)) the top octave of Lab colours
x (log2 p octaves). None in pictures of one colour.
"""

import numpy as np

from pot_jax.zoom import operators
from pot_jax.zoom.geometry import Geometry, require_levels

_MARGIN = 3  # pixels on either side of a window's border: a seam is not detail
_DARK = 30  # Lab's L
_ROUNDING = 1e-6  # squared Lab units: less power is the rounding of float32, not detail


def top_octaves(colours: np.ndarray, zoom_factor: int) -> np.ndarray:
    """Returns b, float64, of colours [..., H, W, 3]."""
    shrunk = np.float32(operators.downsample(colours, zoom_factor))
    return colours - np.asarray(operators.upsample(shrunk, zoom_factor), np.float64)


def detail(octaves: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Returns the mean square of b where a level shows itself, [N] in squared Lab units.

    That is outside its child's window and 3 pixels away, for inside lies the shrunken child,
    sharper than any painting; where there is no child it is everything. From 0, the
    score of pictures of one colour; 1200 for noise. NaN where the window leaves nothing. Raises
    UserError if the octaves [N, H, W, 3] do not fit the geometry.
    """
    require_levels(octaves, geometry)
    power, (h, w) = np.square(octaves).mean(-1), geometry.window_shape
    for level, (y, x) in enumerate(geometry.corners):
        rows, columns = (slice(max(c - _MARGIN, 0), c + s + _MARGIN) for c, s in ((y, h), (x, w)))
        power[level, rows, columns] = np.nan
    counts = np.isfinite(power).sum((1, 2))
    return np.where(counts, np.nansum(power, (1, 2)), np.nan) / np.maximum(counts, 1)


def dots(lightness: np.ndarray, period: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns how much dark areas repeat at the latents' grid, and at the frequencies beside it.

    An autoencoder draws latents that it has never seen as dots, one a latent; in the dark they are
    plain to see. Blocks of 4 x 4 latents, half overlapping, each with a Hann window and its mean
    taken off, if that is under 30: the power at the frequency 1 / period along either axis, both
    included; and the mean power at 1/2 and 3/2 of it.

    Lightness is Lab's, [N, H, W]; the period the pixels of a latent. Returns [N], [N], squared Lab
    units, sums over blocks; 0 where there is no dark block. Of noise they are equal.
    """
    side = 4 * period
    if side > min(lightness.shape[1:]):
        return np.zeros(len(lightness)), np.zeros(len(lightness))
    views = np.lib.stride_tricks.sliding_window_view(lightness, (side, side), axis=(1, 2))
    blocks = views[:, :: side // 2, :: side // 2]
    means = blocks.mean((-2, -1), keepdims=True)
    taper = np.hanning(side + 2)[1:-1]
    power = np.abs(np.fft.fft2((blocks - means) * np.outer(taper, taper))) ** 2
    power = np.where(means < _DARK, power, 0).sum((1, 2)) / side**2
    at, beside = 4, (2, 6)
    grid = power[:, at, 0] + power[:, 0, at] + power[:, at, at] + power[:, at, -at]
    near = sum(power[:, k, 0] + power[:, 0, k] + power[:, k, k] + power[:, k, -k] for k in beside)
    return grid, near / len(beside)


def repetition(octaves: np.ndarray) -> np.ndarray:
    """Returns how alike the octaves [N, H, W, 3] of neighbouring levels are at equal pixels, [N-1].

    sum(b_i b_{i+1}) / sqrt(sum(b_i^2) sum(b_{i+1}^2)), -1 to 1. A crop explains none of it: the
    window has no such band. 0 for one colour, independent noise and, within 0.1, renders of the
    procedural world; 1 for a level that repeats its parent.
    """
    norms = np.sqrt(np.square(octaves).sum((1, 2, 3)))
    products = (octaves[:-1] * octaves[1:]).sum((1, 2, 3))
    return products / np.maximum(norms[:-1] * norms[1:], _ROUNDING * octaves[0].size)
