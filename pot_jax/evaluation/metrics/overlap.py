"""Measures how well the levels of a zoom agree where they show the same place.

Symbols: N levels, p the zoom factor, D downsampling by p. Pair i is levels i and i+k: D^k of picture
i+k is compared with its window in picture i, [H/p^k, W/p^k, C]. PSNR alone can mislead: a blur that
removes what the levels disagree about raises it. So structural similarity is measured too.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from pot_jax.checks import require
from pot_jax.media.pixels import from_bytes
from pot_jax.zoom import operators
from pot_jax.zoom.geometry import Geometry, require_levels

DATA_RANGE = 2.0  # of pictures in [-1, 1]
# JSON has no infinity, and float32 pictures cannot agree much better than this unless they are
# equal, so higher values are written as this one.
PSNR_CEILING = 160.0


_LEAST_WINDOW = 16  # pixels a side: wider comparisons than this say nothing of a picture


def overlap_psnr(
    images: np.ndarray, geometry: Geometry, *, kernel: str = "mean", k: int = 1
) -> np.ndarray:
    """Returns the PSNR of every pair of levels i and i+k, 10 log10(4 / mean squared difference).

    A render scores what its rounding allows (57 dB and more in bytes at p = 2), pictures of one
    colour infinity, independent samples about 10 dB.

    Args:
      images: [N, H, W, C], in [-1, 1]; computed in float64.
      geometry: the placement of the levels.
      kernel: the kernel of D, a name in `zoom.operators.KERNELS`.
      k: how many levels apart, 1 to `geometry.depth`.

    Returns:
      [N-k] float64 in dB; infinite where a pair is identical, NaN where the window starts between
      two pixels of the wider level.

    Raises:
      UserError: the images do not fit the geometry, or the kernel is unknown.
    """
    return _over_pairs(_psnr, images, geometry, kernel, k)


def overlap_ssim(
    images: np.ndarray, geometry: Geometry, *, kernel: str = "mean", k: int = 1
) -> np.ndarray:
    """Returns the structural similarity of every pair of levels i and i+k (Wang et al., 2004).

    It is the mean over colours and over windows with Gaussian weights of sigma 1.5 and 11 x 11
    taps that lie in the overlap; of an overlap of under 11 pixels, over the largest odd square in
    its middle, and weights reach into its mirror image. At most 1, which pictures of one colour
    and renders score; independent samples about 0.1. Arguments and errors: as `overlap_psnr`.

    Returns:
      [N-k] float64; NaN as in `overlap_psnr`.
    """
    return _over_pairs(_ssim, images, geometry, kernel, k)


def _over_pairs(function: Callable, images, geometry: Geometry, kernel: str, k: int) -> np.ndarray:
    require_levels(images, geometry)
    if geometry.levels <= k:
        return np.zeros(0)
    corners, exists = geometry.observation(k)
    found = np.full(geometry.levels - k, np.nan)
    for level in np.flatnonzero(exists[k:]):
        shrunk = np.asarray(images[level + k], np.float64)
        for _ in range(k):
            shrunk = operators.downsample(shrunk, geometry.zoom_factor, kernel)
        (top, left), (height, width) = corners[level + k], shrunk.shape[:2]
        window = images[level][top : top + height, left : left + width]
        found[level] = function(shrunk, np.asarray(window, np.float64))
    return found


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    with np.errstate(divide="ignore"):
        return 10 * np.log10(DATA_RANGE**2 / np.mean((a - b) ** 2))


def _ssim(a: np.ndarray, b: np.ndarray) -> float:
    from skimage.metrics import structural_similarity  # slow to import

    taps = min(11, *a.shape[:2])
    return structural_similarity(
        a,
        b,
        win_size=taps - (1 - taps % 2),
        data_range=DATA_RANGE,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )


def photograph_psnr(
    images: np.ndarray,
    photograph: np.ndarray,
    geometry: Geometry,
    *,
    level: int = 0,
    kernel: str = "mean",
) -> np.ndarray:
    """Returns the PSNR of level j and of each deeper level against a photograph of level j.

    D^k of level j+k is compared with its window in the photograph, as in `overlap_psnr`. Infinite
    for the photograph itself; a grey picture scores about 10 dB, as an unrelated one does.

    Args:
      images: [N, H, W, C], in [-1, 1].
      photograph: [H, W, C], likewise.
      geometry: the placement of the levels.
      level: j, the level that the photograph shows.
      kernel: the kernel of D, a name in `zoom.operators.KERNELS`.

    Returns:
      [K] float64 in dB for k = 0, 1, ..., while windows keep 16 pixels; NaN as in `overlap_psnr`.

    Raises:
      UserError: the photograph, its level or the images do not fit the geometry.
    """
    fits = 0 <= level < geometry.levels
    require(fits, "photograph", f"a level from 0 to {geometry.levels - 1}", level)
    known = np.concatenate([np.asarray(images[:level]), photograph[None], images[level + 1 :]])
    deeper = [k for k in distances(geometry) if level + k < geometry.levels]
    values = [overlap_psnr(known, geometry, kernel=kernel, k=k)[level] for k in deeper]
    own = _psnr(np.asarray(images[level], np.float64), np.asarray(photograph, np.float64))
    return np.array([own, *values])


def distances(geometry: Geometry) -> list[int]:
    """Returns the k > 0 for which windows k levels wider keep 16 pixels; 1 whatever its size."""
    known = range(1, min(geometry.depth, geometry.levels - 1) + 1)
    least = min(geometry.height, geometry.width)
    return [k for k in known if k == 1 or least // geometry.zoom_factor**k >= _LEAST_WINDOW]


def metrics(
    images: np.ndarray | None,
    before_render: np.ndarray | None,
    pictures: np.ndarray,
    geometry: Geometry,
    *,
    kernel: str = "mean",
    timings: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Measures how well a zoom's levels agree.

    Args:
      images: as rendered, [N, H, W, 3], float in [-1, 1]; None if they are not known.
      before_render: as decoded, in the same form; None likewise.
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
