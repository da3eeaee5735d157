"""A run's photographs: found, read, compared with each other, and as a program's arrays."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pot_jax.checks import checked, require
from pot_jax.config import RunSettings
from pot_jax.evaluation.metrics.overlap import photograph_psnr
from pot_jax.media.images import read_photograph
from pot_jax.runs.record import digest
from pot_jax.zoom.geometry import Geometry

_ALIKE = 30.0  # dB: below, photographs of one place are told to differ


def wanted(settings: RunSettings, given: Mapping[int, Any] | None) -> dict[int, Any]:
    """Returns a run's photographs by level, the widest first: the settings' paths, and `given`.

    Raises UserError if there is neither for one of the settings.
    """
    found = {checked(level, int, "photograph"): one for level, one in (given or {}).items()}
    for i, one in enumerate(settings.photographs):
        require(bool(one.path) or one.level in found, f"photographs[{i}].path", "a file", one.path)
    found = {one.level: one.path for one in settings.every_photograph} | found
    return dict(sorted(found.items()))


def read(given: Mapping[int, Any], fit: str, geometry: Geometry) -> dict[int, np.ndarray]:
    """Reads photographs at the size of `geometry`'s levels, as `read_photograph` does.

    Raises UserError if one is no picture, or does not fit, or there is no such level.
    """
    found, last = {}, geometry.levels - 1
    for level, one in given.items():
        name = "photograph" if len(given) == 1 else f"photograph[{level}]"
        require(0 <= level <= last, f"{name}.level", f"0 to {last}", level)
        found[level] = read_photograph(one, geometry.height, geometry.width, fit, name)
    return found


def identity(photographs: Mapping[int, np.ndarray], method: str) -> list | None:
    """Returns the plain data that identify photographs: of one, as ever; of none, None."""
    facts = [[digest(photo), level, method] for level, photo in photographs.items()]
    return facts[0] if len(facts) == 1 else facts or None


def contradictions(
    photographs: Mapping[int, np.ndarray], geometry: Geometry, kernel: str
) -> tuple[str, ...]:
    """Returns one line for each photograph that differs from deeper ones of the same place."""
    unknown = np.full((geometry.height, geometry.width, 3), np.nan, np.float32)
    levels = [photographs.get(level, unknown) for level in range(geometry.levels)]
    psnr = {i: min(photograph_psnr(levels, x, geometry, i, kernel)) for i, x in photographs.items()}
    return tuple(
        f"the photograph of level {level} differs from a deeper one of the same place "
        f"({decibels:.1f} dB PSNR), which prevails there"
        for level, decibels in psnr.items()
        if decibels < _ALIKE
    )


def continued_by_edges(photo: np.ndarray) -> np.ndarray:
    """Returns a photograph continued by its edges where it is NaN, as networks see it."""
    known = ~np.isnan(photo[..., 0])
    inside = [np.flatnonzero(known.any(axis)) for axis in (1, 0)]
    rows, columns = (np.clip(np.arange(n), i[0], i[-1]) for n, i in zip(known.shape, inside))
    return photo[rows][:, columns]
