"""Measures how well the levels of a zoom agree where they show the same place.

Symbols: N levels, p the zoom factor, D downsampling by p. Pair i is levels i and i+k, k = 1 for
neighbours, in a loop modulo N: D^k of picture i+k is compared with its window in picture i,
[H/p^k, W/p^k, C], in float64. PSNR alone can mislead: a blur that removes what the levels disagree
about raises it. So structural similarity is measured too.

Images are [N, H, W, C] in [-1, 1], `kernel` names that of D in `zoom.operators.KERNELS`; UserError
if images do not fit the geometry, or the kernel is unknown.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from pot_jax.media.pixels import from_bytes
from pot_jax.zoom import operators
from pot_jax.zoom.geometry import Geometry, require_levels

DATA_RANGE = 2.0  # of pictures in [-1, 1]
# JSON has no infinity, and float32 pictures cannot agree much better than this unless they are
# equal, so higher values are written as this one.
PSNR_CEILING = 160.0


def overlap_psnr(
    images: np.ndarray, geometry: Geometry, *, kernel: str = "mean", k: int = 1
) -> np.ndarray:
    """Returns the PSNR of every pair of levels k apart, 10 log10(4 / mean squared difference).

    k is 1 to `geometry.depth`; pairs whose window starts between two pixels are left out. [N-k],
    in a loop [N], float64 in dB; infinite where a pair is identical, as pictures of one colour are.
    Delivered pictures at p = 2 score 57 dB and more, independent noise 8 dB or so.
    """
    return np.array([_psnr(a, b) for a, b in _pairs(images, geometry, kernel, k)], np.float64)


def overlap_ssim(
    images: np.ndarray, geometry: Geometry, *, kernel: str = "mean", k: int = 1
) -> np.ndarray:
    """Returns the structural similarity of every pair of levels k apart (Wang et al., 2004).

    It is the mean over colours and places. The Gaussian window has sigma 1.5 and 11 x 11 taps; if
    the overlap is smaller, it is continued by its mirror image. Pairs and shape: as of
    `overlap_psnr`. float64, at most 1, which identical pairs score; 0 or so for independent noise.
    """
    return np.array([_ssim(a, b) for a, b in _pairs(images, geometry, kernel, k)], np.float64)


def photograph_psnr(
    images: np.ndarray, photograph: np.ndarray, geometry: Geometry, level: int, kernel: str
) -> np.ndarray:
    """Returns the PSNR of D^k of level j+k against its window in a photograph of level j, by k.

    The photograph is [H, W, C] in [-1, 1], or NaN where it is not known; `level` is j. [K] float64
    in dB, as of `overlap_psnr`, for k = 0, 1, ..., while such a window has known pixels.
    """
    found = []
    for k, deeper in enumerate(images[level : level + geometry.depth + 1]):
        corners, exists = geometry.observation(k)
        if exists[level + k]:
            a, b = _seen(photograph, deeper, corners[level + k], geometry, kernel, k)
            known = ~np.isnan(a - b)
            if known.any():
                found.append(_psnr(a[known], b[known]))
    return np.array(found)


def _pairs(images, geometry, kernel, k):
    require_levels(images, geometry)
    corners, exists = geometry.observation(k)
    for i in sorted(np.flatnonzero(exists), key=lambda i: (i - k) % geometry.levels):
        yield _seen(images[i - k], images[i], corners[i], geometry, kernel, k)


def _seen(wide, deep, corner, geometry, kernel, k):
    """Returns what two pictures, k levels apart, show of the same place."""
    shrunk, wide = np.asarray(deep, np.float64), np.asarray(wide, np.float64)
    for _ in range(k):
        shrunk = operators.downsample(shrunk, geometry.zoom_factor, kernel)
    (top, left), (height, width) = corner, shrunk.shape[:2]
    return shrunk, wide[top : top + height, left : left + width]


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    with np.errstate(divide="ignore"):
        return 10 * np.log10(DATA_RANGE**2 / np.mean((a - b) ** 2))


def _ssim(a: np.ndarray, b: np.ndarray) -> float:
    from skimage.metrics import structural_similarity  # slow to import

    taps = min(11, *a.shape[:2])
    size = taps - (1 - taps % 2)
    as_in_2004 = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    sides = {"win_size": size, "data_range": DATA_RANGE, "channel_axis": -1}
    return structural_similarity(a, b, **as_in_2004, **sides)


def metrics(
    images: np.ndarray | None,
    before_render: np.ndarray | None,
    pictures: np.ndarray,
    geometry: Geometry,
    *,
    kernel: str = "mean",
) -> dict[str, Any]:
    """Measures how well a zoom's levels agree; the result is ready for JSON.

    `images` are as rendered and `before_render` as decoded, None if they are not known; `pictures`
    as delivered, [N, H, W, 3] uint8.

    `overlap_psnr_db` and `overlap_ssim` hold, for each of these states (`rendered`,
    `before_render`, `delivered`), `pairs` (N-1 values, N in a loop, pair i being levels i and i+1),
    `minimum` and `mean` (of the pairs' values; None for one level). PSNR is written as
    `PSNR_CEILING` dB where it is higher or infinite.
    """
    states = {"before_render": before_render, "rendered": images, "delivered": from_bytes(pictures)}

    def measure(function: Callable, ceiling: float) -> dict[str, Any]:
        return {
            state: _summary(np.minimum(function(values, geometry, kernel=kernel), ceiling))
            for state, values in states.items()
            if values is not None
        }

    facts = ("levels", "zoom_factor", "height", "width")
    return {
        **{name: getattr(geometry, name) for name in facts},
        "overlap_psnr_db": measure(overlap_psnr, PSNR_CEILING),
        "overlap_ssim": measure(overlap_ssim, 1.0),
    }


def _summary(pairs: np.ndarray) -> dict[str, Any]:
    values = [round(float(value), 4) for value in pairs]
    mean = round(float(np.mean(pairs)), 4) if values else None
    return {"pairs": values, "minimum": min(values, default=None), "mean": mean}
