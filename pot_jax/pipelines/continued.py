"""Zooms that continue a finished run: levels added or drawn again, while all others are held."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pot_jax.checks import checked, require
from pot_jax.config import PhotographSettings, RunSettings, checked_prompts
from pot_jax.errors import UserError
from pot_jax.media.images import read_images
from pot_jax.media.pixels import from_bytes, to_bytes
from pot_jax.runs.record import Record, digest
from pot_jax.runs.zoom import read_levels, read_zoom
from pot_jax.spans import affixed
from pot_jax.zoom.geometry import Geometry, require_open


def continued(
    settings: RunSettings, folder: str, prompts: Sequence[str], way: str, how: str | None
) -> tuple[RunSettings, dict[int, np.ndarray], Record]:
    """Returns the settings of a zoom that continues a run, its held levels, and the run's record.

    `settings` are the run's with a user's over them, `folder` the run's, which is only read, and
    `prompts` those of the levels to draw. `way` is "extend", and `how` "deep" or "wide"; or
    "revise", and `how` the levels, such as "3,7"; they keep their prompts if none are given. A
    placement that is not the run's is that of the whole new zoom. Of the run's negative prompts and
    guidance scales, one for each level, new levels have those of the level they join. Raises
    UserError if the run is not finished or has several samples, or something does not fit it.
    """
    if way == "extend":
        require(how in ("deep", "wide"), "--side", "deep or wide", how or "none")
        require(len(prompts) > 0, "prompts", "one for each new level", "none")
    zoom = read_zoom(folder)
    require_open(zoom.geometry, f"--{way}")
    run, n, first, new = zoom.settings, zoom.geometry.levels, 0, len(prompts)
    if way == "extend":
        first, levels = (new, range(new)) if how == "wide" else (0, range(n, n + new))
    else:
        digits = (how or "").split(",")
        levels = [int(d) if d.isdecimal() and len(d) < 9 else -1 for d in digits]
        fits = len({*levels}) == len(levels) < n and all(0 <= level < n for level in levels)
        require(fits, "--levels", f"some of 0 to {n - 1}, not all, such as 3,7", how or "none")
        require(new in (0, len(levels)), "prompts", f"none, or {len(levels)}, one each", new)
    affixes = settings.prefix + settings.suffix
    require(new or not affixes, "prompts", "some that prefix or suffix goes with", "none")
    texts = dict(enumerate(run.prompts, first)) | dict(zip(levels, prompts))
    checked_prompts(texts[level] for level in sorted(texts))
    texts |= {level: affixed(texts[level], settings) for level in levels if new}

    def widened(values):
        if not isinstance(values, tuple) or len(values) != n:
            return values
        return values[:1] * first + values + values[-1:] * (len(texts) - n - first)

    ours, theirs = settings.zoom, run.zoom
    same = dataclasses.replace(ours, placement=()) == dataclasses.replace(theirs, placement=())
    require(same, "zoom", f"the size and zoom factor of {folder}; leave them out", ours)
    placed, inside = [(0, 0)] * (len(texts) - 1), [*theirs.placement] or [(0, 0)] * (n - 1)
    placed[first : first + n - 1] = inside
    if ours.placement != theirs.placement:
        expected = f"{len(placed)} pairs, and those of {folder} as they are"
        placed = [*ours.placement]
        kept = len(placed) == len(texts) - 1 and placed[first : first + n - 1] == inside
        require(kept, "zoom.placement", expected, placed)
    pictures = enumerate(read_levels(folder, zoom.geometry), first)
    held = {level: picture for level, picture in pictures if level not in levels}
    photograph, photographs = settings.photograph, settings.photographs
    same = (photograph, photographs) == (run.photograph, run.photographs)
    if same and all(first + one.level in held for one in run.every_photograph):
        # The levels that show them agree with them already.
        photograph, photographs = PhotographSettings(), ()
    scale = widened(settings.sampler.guidance_scale)
    size = {"height": zoom.geometry.height, "width": zoom.geometry.width}
    placement = tuple(placed) if any(map(any, placed)) else ()
    settings = dataclasses.replace(
        settings,
        prompts=tuple(texts[level] for level in sorted(texts)),
        negative_prompt=widened(settings.negative_prompt),
        sampler=dataclasses.replace(settings.sampler, guidance_scale=scale),
        **{"prefix": "", "suffix": ""},  # the run's own prompts have theirs
        zoom=dataclasses.replace(ours, placement=placement, **size),
        width_metres=settings.width_metres * ours.zoom_factor**first,  # level 0 is wider by now
        photograph=photograph,
        photographs=photographs,
    )
    return settings, held, zoom.record


def require_model(run: Record, now: Record) -> None:
    """Raises UserError if another model made the `run` that is continued, as far as is known."""
    known, ours = {"weights": run.weights_sha256, **(run.identity or {})}, now.identity
    names = ("networks", "schedule", "weights")
    if other := [n for n in names if known.get(n) and n in ours and known[n] != ours[n]]:
        what = f"{run.settings.model}, which made the run (other {', '.join(other)})"
        how = "leave --model, --dtype and --lora out"
        raise UserError(f"--model: expected {what}, got {now.settings.model}; {how}")


def read_held(
    held: Mapping[int, Any], geometry: Geometry
) -> tuple[tuple[tuple[int, str], ...], dict[str, np.ndarray]]:
    """Returns the setting `held`, and a program's arrays `held` and `held_pictures`.

    `held` has a picture [H, W, 3] for each, in any form that `read_images` takes; floats are
    rounded to bytes. Raises UserError if one does not fit the geometry, or none or all are held.
    """
    n, shape = geometry.levels, (geometry.height, geometry.width, 3)
    levels = sorted(checked(level, int, "held") for level in checked(held, Mapping, "held"))
    fits = 0 < len(levels) < n and levels[0] >= 0 and levels[-1] < n
    require(fits, "held", f"some of the levels 0 to {n - 1}, not all", levels)
    known, facts = np.zeros((n, *shape), np.float32), []
    for level in levels:
        pixels = to_bytes(read_images(held[level], f"held[{level}]"))
        require(pixels.shape == shape, f"held[{level}]", f"a picture of {shape}", pixels.shape)
        facts.append((level, digest(pixels)))
        known[level] = from_bytes(pixels)
    return tuple(facts), {"held": np.isin(np.arange(n), levels), "held_pictures": known}
