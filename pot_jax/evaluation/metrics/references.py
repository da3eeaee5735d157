"""Measures of a zoom against independent samples of its prompts, from small statistics of each.

Statistics are plain data, so that comparing thousands of runs needs no pictures.
"""

import base64
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from pot_jax.checks import require
from pot_jax.evaluation.metrics import seams
from pot_jax.evaluation.metrics.detail import detail, dots, repetition, top_octaves
from pot_jax.zoom.geometry import Geometry

_LEAST = 1e-6  # squared Lab units of detail: less is a picture of one colour

Statistics = Mapping[str, Any]


def statistics(pictures: np.ndarray, geometry: Geometry, period: int = 8) -> dict[str, Any]:
    """Returns what is kept of delivered pictures [N, H, W, 3] uint8: JSON data, 6 kB for 8 levels.

    `period` is the autoencoder's downsampling, 8 in Stable Diffusion.

    Returns:
      geometry; and in Lab, by level or by pair of levels: colour, the mean, [N][3]; across and near
      [N-1] of `seams.border_differences`; step_ring [N-1][3] and step_sides [N-1][4][3] of
      `seams.colour_steps`; edges and edges_near [N-1] of `seams.edge_correlations`; detail [N],
      repetition [N-1], dots [N] and dots_beside [N] of `detail`; thumbnail, N texts, base64 of
      [8, 8, 3] float16. None stands for what a level does not have.

    Raises UserError if the pictures do not fit the geometry.
    """
    colours = seams.lab(pictures)
    octaves = top_octaves(colours, geometry.zoom_factor)
    names = ("across", "near", "edges", "edges_near", "step_ring", "step_sides")
    names += ("detail", "repetition", "dots", "dots_beside", "colour")
    measures = (seams.border_differences, seams.edge_correlations, seams.colour_steps)
    borders = (found for measure in measures for found in measure(colours, geometry))
    inside = detail(octaves, geometry), repetition(octaves), *dots(colours[..., 0], period)
    found = *borders, *inside, colours.mean((1, 2))
    kept = {name: plain(values, 6) for name, values in zip(names, found)}
    thumbnails = [_thumbnail(level) for level in colours]
    return {"geometry": geometry.to_json(), **kept, "thumbnail": thumbnails}


def plain(values: Any, digits: int) -> Any:
    """Returns numbers as nested lists for JSON, rounded; None stands for NaN."""
    rounded = np.round(np.asarray(values, np.float64), digits)
    return np.where(np.isnan(rounded), None, rounded).tolist()


def _thumbnail(colours: np.ndarray) -> str:
    planes = (Image.fromarray(np.float32(plane)) for plane in np.moveaxis(colours, -1, 0))
    small = np.stack([plane.resize((8, 8), Image.Resampling.BOX) for plane in planes], axis=-1)
    return base64.b64encode(small.astype("<f2").tobytes()).decode()


def alone(statistics: Statistics) -> dict[str, float]:
    """Returns what a zoom scores by itself: seam_excess (`seams`) and repetition (`detail`).

    And cut_edges, c - c0 of `seams.edge_correlations`: 0 where edges go on through a window's
    border as they do nearby, 0.3 where a window was pasted in. It sees the cut object that a
    repaired colour hides.
    """
    names = ("across", "near", "repetition", "edges", "edges_near")
    known = (np.array(statistics.get(name, [None]), np.float64) for name in names)
    across, near, repeated, edges, usual = known
    excess = seams.seam_excess(_mean(across[np.isfinite(near)]), _mean(near))
    cut = _mean(usual - edges)
    return finite({"seam_excess": excess, "repetition": _mean(repeated), "cut_edges": cut})


def against(statistics: Statistics, references: Sequence[Statistics]) -> dict[str, float]:
    """Measures a zoom against independent samples of its prompts, by their mean statistics.

    * colour_step_ring: |step - the references' step| over the whole border, mean over levels, in
      Lab. colour_step_sides: the same by the four sides, so that sides that cancel count too.
    * colour_drag: |mean colour - the references'|, mean over levels, in Lab.
    * detail_outside: detail / the references', geometric mean over levels with a child;
      detail_deepest: the same of the deepest level.
    * dots: the share of the latents' grid in dark areas, sum(dots) / sum(dots_beside), over the
      references' (`detail.dots`); 1 where the sampler adds none.

    All are from 0. The references themselves score 0 Lab and 1; a picture of one colour no detail,
    and the scene's own steps. Independent samples with their children pasted in have colour steps
    of 20 to 50, and the world's own renders 5 times the detail of cosmos64's samples. What the zoom
    does not have is left out. Raises UserError for no references, or another geometry.
    """
    require(len(references) > 0, "references", "at least one zoom", references)
    for reference in references:
        here, there = statistics["geometry"], reference["geometry"]
        require(there == here, "references", f"the zoom's geometry, {here}", there)

    def usual(name: str) -> np.ndarray:
        return np.mean([np.array(one[name], np.float64) for one in references], axis=0)

    def distance(name: str) -> float:
        ours = np.array(statistics[name], np.float64)
        return _mean(np.linalg.norm(np.reshape(ours - usual(name), (-1, 3)), axis=-1))

    steps = {f"colour_{name}": distance(name) for name in ("step_ring", "step_sides")}
    power = np.array(statistics["detail"], np.float64), usual("detail")
    ratios = np.subtract(*np.log(np.maximum(power, _LEAST)))
    sharp = {"detail_outside": np.exp(_mean(ratios[:-1])), "detail_deepest": np.exp(ratios[-1])}
    ours, theirs = (_grid_share(those) for those in ([statistics], references))
    return finite({**steps, "colour_drag": distance("colour"), **sharp, "dots": ours / theirs})


def _grid_share(zooms: Sequence[Statistics]) -> np.float64:
    """Returns how much stronger dark areas are at the latents' grid than beside it; NaN: none."""
    sums = [np.sum([zoom.get(name, 0) for zoom in zooms]) for name in ("dots", "dots_beside")]
    return np.float64(sums[0]) / sums[1] if sums[1] else np.float64(np.nan)


def diversity(zooms: Sequence[Statistics]) -> float:
    """Returns how far apart zooms of two or more seeds are, from their statistics.

    The mean Lab distance of the 8 x 8 thumbnails of equal levels over all pairs of zooms. From 0,
    where every seed gives the same, as pictures of one colour do; to be compared with that of
    independent samples. Raises UserError for fewer than two, or other numbers of levels.
    """
    levels = [len(one["thumbnail"]) for one in zooms]
    fits = len(levels) > 1 and len({*levels}) == 1
    require(fits, "zooms", "two or more with equally many levels", levels)
    data = [base64.b64decode("".join(one["thumbnail"])) for one in zooms]
    colours = [np.frombuffer(x, "<f2").astype(np.float64).reshape(-1, 3) for x in data]
    pairs = itertools.combinations(colours, 2)
    return float(np.mean([np.linalg.norm(a - b, axis=-1).mean() for a, b in pairs]))


def finite(scores: Mapping[str, float | None]) -> dict[str, float]:
    """Returns the scores that there are, without None, NaN and infinities."""
    return {n: float(x) for n, x in scores.items() if x is not None and np.isfinite(x)}


def _mean(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return values.mean() if values.size else np.nan
