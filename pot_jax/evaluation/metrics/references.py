"""Measures of a zoom against independent samples of its prompts, from small statistics of each.

statistics(pictures, geometry) -> plain data, so that comparing thousands of runs needs no pictures
against(statistics, references)     colour steps, drag and detail relative to references
diversity(zooms)                    how far apart the zooms of several seeds are
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from pot_jax.checks import require, to_dict
from pot_jax.evaluation.metrics.detail import detail, repetition, top_octaves
from pot_jax.evaluation.metrics.seams import border_differences, colour_steps, lab, seam_excess
from pot_jax.zoom.geometry import Geometry

_LEAST = 1e-6  # squared Lab units of detail: less is a picture of one colour

Statistics = Mapping[str, Any]


def statistics(pictures: np.ndarray, geometry: Geometry) -> dict[str, Any]:
    """Returns what is kept of delivered pictures [N, H, W, 3] uint8: JSON data, 12 kB for 8 levels.

    Returns:
      geometry; and in Lab, by level or by pair of levels: colour, the mean, [N][3]; across and near
      [N-1] of `seams.border_differences`; step_ring [N-1][3] and step_sides [N-1][4][3] of
      `seams.colour_steps`; detail [N] and repetition [N-1] of `detail`; thumbnail [N][8][8][3].
      None stands for what a level does not have.

    Raises:
      UserError: the pictures do not fit the geometry.
    """
    colours = lab(pictures)
    octaves = top_octaves(colours, geometry.zoom_factor)
    across, near = border_differences(colours, geometry)
    ring, sides = colour_steps(colours, geometry)
    found = {"across": across, "near": near, "step_ring": ring, "step_sides": sides}
    found |= {"detail": detail(octaves, geometry), "repetition": repetition(octaves)}
    found |= {"colour": colours.mean((1, 2))}
    kept = {name: plain(values, 6) for name, values in found.items()}
    thumbnails = plain([_thumbnail(level) for level in colours], 1)
    return {"geometry": to_dict(geometry), **kept, "thumbnail": thumbnails}


def plain(values: Any, digits: int) -> Any:
    """Returns numbers as nested lists for JSON, rounded; None stands for NaN."""
    rounded = np.round(np.asarray(values, np.float64), digits)
    return np.where(np.isnan(rounded), None, rounded).tolist()


def _thumbnail(colours: np.ndarray) -> np.ndarray:
    planes = (Image.fromarray(np.float32(plane)) for plane in np.moveaxis(colours, -1, 0))
    return np.stack([plane.resize((8, 8), Image.Resampling.BOX) for plane in planes], axis=-1)


def alone(statistics: Statistics) -> dict[str, float]:
    """Returns what a zoom scores by itself: seam_excess (`seams`) and repetition (`detail`)."""
    known = (np.array(statistics[name], np.float64) for name in ("across", "near", "repetition"))
    across, near, repeated = known
    wide = np.isfinite(near)
    excess = seam_excess(_mean(across[wide]), _mean(near[wide]))
    return _scores({"seam_excess": excess, "repetition": _mean(repeated)})


def against(statistics: Statistics, references: Sequence[Statistics]) -> dict[str, float]:
    """Measures a zoom against independent samples of its prompts, by their mean statistics.

    * colour_step_ring: |step - the references' step| over the whole border, mean over levels, in
      Lab. colour_step_sides: the same by the four sides, so that sides that cancel count too.
    * colour_drag: |mean colour - the references'|, mean over levels, in Lab.
    * detail_outside: detail / the references', geometric mean over levels with a child;
      detail_deepest: the same of the deepest level.

    All are from 0. The references themselves score 0 Lab and 1; a picture of one colour no detail,
    and the scene's own steps. Independent samples with their children pasted in have colour steps
    of 20 to 50, and the world's own renders 5 times the detail of cosmos64's samples.

    Args:
      statistics: of the zoom.
      references: of one or more others of the same geometry.

    Returns:
      {name: number}, without what the zoom does not have.

    Raises:
      UserError: there are no references, or they are of another geometry.
    """
    require(len(references) > 0, "references", "at least one zoom", references)
    for reference in references:
        here, there = statistics["geometry"], reference["geometry"]
        require(there == here, "references", f"the zoom's geometry, {here}", there)

    def usual(name: str) -> np.ndarray:
        return np.mean([np.array(one[name], np.float64) for one in references], axis=0)

    def distance(name: str) -> float:
        return _mean(np.linalg.norm(np.array(statistics[name], np.float64) - usual(name), axis=-1))

    power = np.array(statistics["detail"], np.float64), usual("detail")
    ratios = np.subtract(*np.log(np.maximum(power, _LEAST)))
    found = {
        "colour_step_ring": distance("step_ring"),
        "colour_step_sides": distance("step_sides"),
        "colour_drag": distance("colour"),
        "detail_outside": np.exp(_mean(ratios[:-1])),
        "detail_deepest": np.exp(ratios[-1]),
    }
    return _scores(found)


def diversity(zooms: Sequence[Statistics]) -> float:
    """Returns how far apart zooms of two or more seeds are, from their statistics.

    The mean Lab distance of the 8 x 8 thumbnails of equal levels over all pairs of zooms. From 0,
    where every seed gives the same, as pictures of one colour do; to be compared with that of
    independent samples. Raises UserError for fewer than two, or other numbers of levels.
    """
    levels = [len(one["thumbnail"]) for one in zooms]
    fits = len(levels) > 1 and len({*levels}) == 1
    require(fits, "zooms", "two or more with equally many levels", levels)
    pairs = itertools.combinations([np.array(one["thumbnail"]) for one in zooms], 2)
    return float(np.mean([np.linalg.norm(a - b, axis=-1) for a, b in pairs]))


def _scores(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if np.isfinite(value)}


def _mean(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return values.mean() if values.size else np.nan
