"""Computes the figures of one run, as plain data for its metrics.json."""

from collections.abc import Callable
from typing import Any

import numpy as np

from pot_jax.evaluation.metrics import overlap
from pot_jax.media.pixels import from_bytes
from pot_jax.zoom.geometry import Geometry

# JSON has no infinity, and float32 pictures cannot agree much better than this unless they are
# equal, so higher values are written as this one.
PSNR_CEILING = 160.0


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
        "overlap_psnr_db": measure(overlap.overlap_psnr, PSNR_CEILING),
        "overlap_ssim": measure(overlap.overlap_ssim, 1.0),
        **(timings or {}),
    }


def _summary(pairs: np.ndarray) -> dict[str, Any]:
    values = [round(float(value), 4) for value in pairs]
    mean = round(float(np.mean(pairs)), 4) if values else None
    return {"pairs": values, "minimum": min(values, default=None), "mean": mean}
