"""Measures a finished run again from its folder, and lays the figures out as a table."""

import os
from typing import Any

from pot_jax.runs.zoom import read_levels, read_zoom

TIMINGS = {
    "compile_seconds": "compiling",
    "seconds_per_step": "a step",
    "upscaling_seconds": "upscaling",
}


def evaluate(workdir: str | os.PathLike) -> dict[str, Any]:
    """Measures a finished run again, from the files in its folder; returns what `metrics` does.

    The delivered pictures are the PNG files as they are now. Timings are the run's own. Raises
    UserError if a file is missing, truncated, or does not fit the others.
    """
    zoom = read_zoom(workdir)
    return zoom.measured(read_levels(workdir, zoom.geometry))


def table(values: dict[str, Any]) -> str:
    """Returns metrics as text: one line per pair; PSNR in dB and SSIM per state, a column each."""
    psnr, ssim = values["overlap_psnr_db"], values["overlap_ssim"]

    def row(name, pick):
        cells = [f"{pick(psnr[s]):8.2f} {pick(ssim[s]):7.4f}" for s in psnr]
        return f"{name:>9} " + " ".join(cells)

    size = f"{values['height']} x {values['width']}"
    lines = [f"{values['levels']} levels of {size} pixels, zoom factor {values['zoom_factor']}"]
    if values["levels"] > 1:
        lines += [
            "overlap of adjacent levels: PSNR in dB, SSIM",
            " " * 10 + " ".join(f"{s.replace('_', ' '):>16}" for s in psnr),
        ]
        for pair in range(values["levels"] - 1):
            lines.append(row(f"{pair}, {pair + 1}", lambda x, pair=pair: x["pairs"][pair]))
        lines += [row(name, lambda x, name=name: x[name]) for name in ("minimum", "mean")]
    took = [f"{label} took {values[n]:.3g} s" for n, label in TIMINGS.items() if n in values]
    return "\n".join([*lines, *took])
