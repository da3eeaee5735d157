"""Measures of a zoom against independent samples of its prompts, from a few numbers of each.

    statistics(pictures, geometry)        what is kept of a zoom: plain data
    against(statistics, references)       colour steps, drag and detail, relative to references
    diversity(zooms)                      how far the zooms of several seeds are apart

No pictures are needed after `statistics`, so that a report can compare thousands of runs.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from pot_jax.checks import require, to_dict
from pot_jax.evaluation.metrics.detail import detail, repetition, top_octaves
from pot_jax.evaluation.metrics.seams import border_differences, colour_steps, lab
from pot_jax.zoom.geometry import Geometry

_THUMBNAIL = 8  # pixels a side
_LEAST = 1e-6  # squared Lab units of detail: less is a picture of one colour

Statistics = Mapping[str, Any]


def statistics(pictures: np.ndarray, geometry: Geometry) -> dict[str, Any]:
    """Returns what is kept of a zoom, ready for JSON: about 10 kB for 8 levels.

    Args:
      pictures: as delivered, [N, H, W, 3] uint8.
      geometry: the placement of the levels.

    Returns:
      geometry; and in Lab, by level or pair of levels: colour (the mean, [N][3]), across and near
      [N-1] of `seams.border_differences`, step_ring [N-1][3] and step_sides [N-1][4][3] of
      `seams.colour_steps`, detail [N] and repetition [N-1] of `detail`, thumbnail [N][8][8][3].
      None stands for what a level does not have.

    Raises:
      UserError: the pictures do not fit the geometry.
    """
    colours = lab(pictures)
    octaves = top_octaves(colours, geometry.zoom_factor)
    across, near = border_differences(colours, geometry)
    ring, sides = colour_steps(colours, geometry)
    return {
        "geometry": to_dict(geometry),
        "colour": plain(colours.mean((1, 2)), 4),
        "across": plain(across, 5),
        "near": plain(near, 5),
        "step_ring": plain(ring, 4),
        "step_sides": plain(sides, 4),
        "detail": plain(detail(octaves, geometry), 7),
        "repetition": plain(repetition(octaves), 5),
        "thumbnail": plain([_thumbnail(level) for level in colours], 1),
    }


def plain(values: Any, digits: int) -> Any:
    """Returns numbers as nested lists for JSON, rounded; None stands for NaN."""
    rounded = np.round(np.asarray(values, np.float64), digits)
    return np.where(np.isnan(rounded), None, rounded).tolist()


def _thumbnail(colours: np.ndarray) -> np.ndarray:
    planes = [Image.fromarray(np.float32(plane)) for plane in np.moveaxis(colours, -1, 0)]
    size = (_THUMBNAIL, _THUMBNAIL)
    return np.stack([plane.resize(size, Image.Resampling.BOX) for plane in planes], axis=-1)


def against(statistics: Statistics, references: Sequence[Statistics]) -> dict[str, float]:
    """Measures a zoom against independent samples of its prompts, the levels not pasted together.

    What a scene has by itself is the mean over the references. All are from 0:

    * colour_step_ring: |step - the references' step| over the border of each window, mean over
      levels. colour_step_sides: the same for each of four sides, then their mean, so that sides
      that cancel over the ring count. Squares make it large; 0 is a zoom like its references.
    * colour_drag: the distance of a level's mean colour from the references', mean over levels.
    * detail_outside: `detail.detail` divided by the references', geometric mean over levels with a
      child. detail_deepest: the same of the deepest. 1: as sharp as independent samples.

    A constant picture scores the scene's own steps, and 0 as detail; another independent sample 1
    as detail, and as the others what samples scatter. The procedural world's own renders drag by
    12 and have 5 times the detail of the embedded models' samples.

    Args:
      statistics: of the zoom, from `statistics`.
      references: the same of one or more other samples, of the same geometry.

    Returns:
      {name: number}, Lab units or ratios; what a zoom of one level does not have is left out.

    Raises:
      UserError: there are no references, or they have another geometry.
    """
    require(bool(references), "references", "statistics of one or more zooms", references)
    for reference in references:
        same = reference["geometry"] == statistics["geometry"]
        expected = f"the zoom's geometry, {statistics['geometry']}"
        require(same, "references", expected, reference["geometry"])

    def there(name: str) -> np.ndarray:
        return np.mean([np.array(one[name], np.float64) for one in references], axis=0)

    def distance(name: str) -> float:
        return _mean(np.linalg.norm(np.array(statistics[name], np.float64) - there(name), axis=-1))

    kept = np.maximum(np.array(statistics["detail"], np.float64), _LEAST)
    ratios = np.log(kept / np.maximum(there("detail"), _LEAST))
    found = {
        "colour_step_ring": distance("step_ring"),
        "colour_step_sides": distance("step_sides"),
        "colour_drag": distance("colour"),
        "detail_outside": np.exp(_mean(ratios[:-1])),
        "detail_deepest": np.exp(ratios[-1]),
    }
    return {name: float(value) for name, value in found.items() if np.isfinite(value)}


def diversity(zooms: Sequence[Statistics]) -> float:
    """Returns the mean Lab distance of 8 x 8 thumbnails of equal levels, over all pairs of zooms.

    From 0, where all seeds give the same colours in the same places, as constant pictures do. It is
    to be compared with independent samples' own, of the same prompts and number of seeds.

    Args:
      zooms: from `statistics`, of two or more seeds.

    Raises:
      UserError: there are fewer than two, or they differ in their number of levels.
    """
    expected = "statistics of two or more zooms with equally many levels"
    levels = [len(one["thumbnail"]) for one in zooms]
    require(len(levels) > 1 and len({*levels}) == 1, "zooms", expected, levels)
    pairs = itertools.combinations([np.array(one["thumbnail"]) for one in zooms], 2)
    return float(np.mean([np.linalg.norm(a - b, axis=-1).mean() for a, b in pairs]))


def _mean(values: np.ndarray) -> float:
    """Returns the mean of what is not NaN; NaN if nothing is left."""
    values = values[np.isfinite(values)]
    return values.mean() if values.size else np.nan
