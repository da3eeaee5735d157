"""Measures how well the levels of a zoom agree where they show the same place.

Symbols: N levels, p the zoom factor, D downsampling by p. Pair i is levels i and i+1: D of picture
i+1 is compared with its window in picture i, [H/p, W/p, C]. PSNR alone can mislead: a blur that
removes what the levels disagree about raises it. So structural similarity is measured too.
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


def overlap_psnr(images: np.ndarray, geometry: Geometry, *, kernel: str = "mean") -> np.ndarray:
    """Returns the PSNR of every adjacent pair, 10 log10(4 / mean squared difference).

    Args:
      images: [N, H, W, C], in [-1, 1]; computed in float64.
      geometry: the placement of the levels.
      kernel: the kernel of D, a name in `zoom.operators.KERNELS`.

    Returns:
      [N-1] float64 in dB; infinite where a pair is identical.

    Raises:
      UserError: the images do not fit the geometry, or the kernel is unknown.
    """
    errors = [np.mean((a - b) ** 2) for a, b in _pairs(images, geometry, kernel)]
    with np.errstate(divide="ignore"):
        return 10 * np.log10(DATA_RANGE**2 / np.array(errors, np.float64))


def overlap_ssim(images: np.ndarray, geometry: Geometry, *, kernel: str = "mean") -> np.ndarray:
    """Returns the structural similarity of every adjacent pair (Wang et al., 2004).

    It is the mean over colours. The Gaussian window has sigma 1.5 and 11 x 11 taps, or the largest
    odd number of taps that fits a smaller overlap. Arguments and errors: as `overlap_psnr`.

    Returns:
      [N-1] float64, at most 1; 1 means that a pair is identical.
    """
    return np.array([_ssim(a, b) for a, b in _pairs(images, geometry, kernel)], np.float64)


def _pairs(images, geometry, kernel):
    require_levels(images, geometry)
    height, width = geometry.window_shape
    for level, (top, left) in enumerate(geometry.corners):
        child = np.asarray(images[level + 1], np.float64)
        parent = np.asarray(images[level], np.float64)
        shrunk = operators.downsample(child, geometry.zoom_factor, kernel)
        yield shrunk, parent[top : top + height, left : left + width]


def _ssim(a: np.ndarray, b: np.ndarray) -> float:
    count = min(11, *a.shape[:2])
    count -= 1 - count % 2
    offsets = np.arange(count) - count // 2
    taps = np.exp(-0.5 * (offsets / 1.5) ** 2)
    taps /= taps.sum()

    def local_mean(x):
        for axis in (0, 1):
            x = np.lib.stride_tricks.sliding_window_view(x, count, axis=axis) @ taps
        return x

    mean_a, mean_b = local_mean(a), local_mean(b)
    variance_a = local_mean(a * a) - mean_a**2
    variance_b = local_mean(b * b) - mean_b**2
    covariance = local_mean(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * DATA_RANGE) ** 2, (0.03 * DATA_RANGE) ** 2
    brightness = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return float(np.mean(brightness * structure))


def metrics(
    images: np.ndarray,
    before_render: np.ndarray | None,
    pictures: np.ndarray,
    geometry: Geometry,
    *,
    kernel: str = "mean",
    timings: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Measures how well a zoom's levels agree.

    Args:
      images: as rendered, [N, H, W, 3], float in [-1, 1].
      before_render: as decoded, in the same form; None if it was not kept.
      pictures: as delivered, [N, H, W, 3], uint8.
      geometry: the placement of the levels.
      kernel: the kernel of D, a name in `zoom.operators.KERNELS`.
      timings: compile_seconds and seconds_per_step of the run, in seconds.

    Returns:
      A dict ready for JSON. `overlap_psnr_db` and `overlap_ssim` hold, for each state of the
      pictures (`before_render`, `rendered`, and `delivered`: after rounding to 8 bits), `pairs`
      (N-1 values, pair i being levels i and i+1), `minimum` and `mean` (of the pairs' values; None
      for one level). PSNR is written as `PSNR_CEILING` dB where it is higher or infinite.
    """
    states = {"before_render": before_render, "rendered": images, "delivered": from_bytes(pictures)}

    def measure(function: Callable, ceiling: float) -> dict[str, Any]:
        return {
            state: _summary(np.minimum(function(values, geometry, kernel=kernel), ceiling))
            for state, values in states.items()
            if values is not None
        }

    return {
        "levels": geometry.levels,
        "zoom_factor": geometry.zoom_factor,
        "height": geometry.height,
        "width": geometry.width,
        "overlap_psnr_db": measure(overlap_psnr, PSNR_CEILING),
        "overlap_ssim": measure(overlap_ssim, 1.0),
        **(timings or {}),
    }


def _summary(pairs: np.ndarray) -> dict[str, Any]:
    values = [round(float(value), 4) for value in pairs]
    mean = round(float(np.mean(pairs)), 4) if values else None
    return {"pairs": values, "minimum": min(values, default=None), "mean": mean}
