"""The figures of a run: metrics.json when it ends, and the same again from its folder."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from pot_jax.evaluation.metrics import overlap as consistency
from pot_jax.media.files import write_json
from pot_jax.media.images import from_bytes
from pot_jax.runs.reading import read_levels, read_run
from pot_jax.zoom.geometry import Geometry

# JSON has no infinity, and float32 pictures cannot agree much better than this unless they are
# equal, so higher values are written as this one.
PSNR_CEILING = 160.0

# A table's column per state of the pictures, in the order in which they come to be.
STATES = ("before_render", "rendered", "delivered")


def metrics(
    images: np.ndarray,
    before_render: np.ndarray | None,
    pictures: np.ndarray,
    geometry: Geometry,
    *,
    kernel: str = "mean",
    timings: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Measure how well a zoom's levels agree.

    Args:
      images: as rendered, [N, H, W, 3], float in [-1, 1].
      before_render: as decoded, likewise; None where it was not kept.
      pictures: as delivered, [N, H, W, 3], uint8.
      geometry: where each level lies in the one before.
      kernel: of the shrinking, a name in `zoom.operators.KERNELS`.
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
        "overlap_psnr_db": measure(consistency.overlap_psnr, PSNR_CEILING),
        "overlap_ssim": measure(consistency.overlap_ssim, 1.0),
        **(timings or {}),
    }


def write(path: str | os.PathLike, zoom: Any, pictures: np.ndarray) -> dict[str, Any]:
    """Write the metrics.json of a finished zoom, atomically.

    Args:
      path: the file.
      zoom: a `pipeline.Zoom`.
      pictures: its delivered pictures, [N, H, W, 3] uint8.

    Returns:
      What was written.

    Raises:
      UserError: the place cannot be written.
    """
    values = metrics(
        zoom.images,
        zoom.before_render,
        pictures,
        zoom.geometry,
        kernel=zoom.settings.sampler.kernel,
        timings=zoom.timings,
    )
    write_json(path, values)
    return values


def evaluate(workdir: str | os.PathLike) -> dict[str, Any]:
    """Measure a finished run again, from the files in its folder.

    The delivered pictures are the PNG files as they are now. Timings are the run's own.

    Raises:
      UserError: a file is missing, cut off, or does not fit the others.
    """
    run = read_run(workdir)
    pictures = read_levels(workdir, run.geometry)
    return metrics(
        run.images,
        run.before_render,
        pictures,
        run.geometry,
        kernel=run.kernel,
        timings=run.timings,
    )


def table(values: dict[str, Any]) -> str:
    """Lay metrics out as text: a row per pair, PSNR in dB and SSIM per state of the pictures."""
    psnr, ssim = values["overlap_psnr_db"], values["overlap_ssim"]
    states = [state for state in STATES if state in psnr]

    def row(name, pick):
        cells = [f"{pick(psnr[s]):8.2f} {pick(ssim[s]):7.4f}" for s in states]
        return f"{name:>9} " + " ".join(cells)

    size = f"{values['height']} x {values['width']}"
    lines = [f"{values['levels']} levels of {size} pixels, zoom factor {values['zoom_factor']}"]
    if values["levels"] > 1:
        lines += [
            "overlap of adjacent levels: PSNR in dB, SSIM",
            " " * 10 + " ".join(f"{s.replace('_', ' '):>16}" for s in states),
        ]
        for pair in range(values["levels"] - 1):
            lines.append(row(f"{pair}, {pair + 1}", lambda x, pair=pair: x["pairs"][pair]))
        lines += [row(name, lambda x, name=name: x[name]) for name in ("minimum", "mean")]
    for name, label in (
        ("compile_seconds", "compiling"),
        ("seconds_per_step", "a step"),
        ("upscaling_seconds", "enlarging"),
    ):
        if name in values:
            lines.append(f"{label} took {values[name]:.3g} s")
    return "\n".join(lines)


def _summary(pairs: np.ndarray) -> dict[str, Any]:
    values = [round(float(value), 4) for value in pairs]
    if not values:
        return {"pairs": [], "minimum": None, "mean": None}
    return {
        "pairs": values,
        "minimum": min(values),
        "mean": round(float(np.mean(pairs)), 4),
    }
