"""Measures a finished zoom: a run of ours, or the pictures of any other method.

Every result is plain data for JSON: `scores`, one number a metric, without those that do not apply;
`details`, by level or pair of levels; and `statistics`, of which `metrics.references` compares
zooms without their pictures. What a number means is said where it is computed.
"""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import jax
import numpy as np

from pot_jax.checks import Path, Settings, Within, build, require
from pot_jax.config import checked_prompts
from pot_jax.diffusion.sampler import key_of
from pot_jax.errors import UserError, shown
from pot_jax.evaluation.metrics import movie, overlap, seams, world
from pot_jax.evaluation.metrics.noise import noise_audit
from pot_jax.evaluation.metrics.references import against, alone, finite, plain, statistics
from pot_jax.media.files import located
from pot_jax.media.images import read_picture
from pot_jax.media.pixels import from_bytes
from pot_jax.parallel.devices import fixed_settings
from pot_jax.pipelines import grounding
from pot_jax.pipelines.program import noises
from pot_jax.runs.claims import read_json
from pot_jax.runs.record import digest
from pot_jax.runs.zoom import Zoom, read_levels, read_zoom
from pot_jax.weights.emphasis import plain_prompts
from pot_jax.world.captions import named
from pot_jax.zoom.agreement import find_blend
from pot_jax.zoom.geometry import Geometry

# What a run says of itself (metrics.json, zoom.json) -> a score.
_FIGURES = ("seconds_per_step", "upscaling_seconds", "peak_bytes")
_ABOUT = ("method", "scene", "seed", "labels")  # what a `ZoomFile` says for a report
Scorer = Callable[[np.ndarray, Sequence[str]], Mapping[str, float]]  # (pictures, prompts) -> scores


@dataclasses.dataclass(frozen=True)
class ZoomFile(Settings):
    """`zoom.json`: what a folder of pictures, made by any method, says of them."""

    prompts: tuple[str, ...]  # one per level, widest first
    zoom_factor: Annotated[int, Within("2 or more", 2)]
    placement: tuple[tuple[int, int], ...] = ()  # as `Geometry.offsets`; empty: centred
    loop: bool = False  # the deepest level shows the widest again
    pictures: tuple[Path, ...] = ()  # files, widest first; empty: *.png sorted by name
    method: str = ""  # this and all below: for a report to group by, or tell
    scene: str = ""
    seed: int | None = None
    labels: dict | None = None
    seconds_per_step: float | None = None


def evaluate(
    folder: str | os.PathLike,
    *,
    references: str | os.PathLike | None = None,
    clip: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """Measures the zoom in a folder, from its pictures as they are now.

    That is a run of ours, or one of its samples, of which `evaluate_zoom` says more than `measure`;
    or pictures with a `ZoomFile`. `references` is one such folder of independent samples of the
    same prompts (blend "none"), or a folder of several, as a run of several samples is; `clip` a
    CLIP model's folder, for `metrics.clip.scorer`. Raises UserError if a file is missing, truncated
    or does not fit, or references are of another zoom.
    """
    path, given = located(folder), {}
    pictures, geometry, prompts, said = _read(path)
    if references is not None:
        given["references"] = _references(located(references), path, geometry, prompts)
    if clip is not None:
        from pot_jax.evaluation.metrics.clip import scorer

        given["clip"] = scorer(clip)
    if isinstance(said, Zoom):
        return evaluate_zoom(said, pictures=pictures, **given)
    values, known = measure(pictures, geometry, prompts, **given), dataclasses.asdict(said)
    known = {name: value for name, value in known.items() if value not in ("", None)}
    values["details"]["about"] = {name: known[name] for name in _ABOUT if name in known}
    values["scores"] |= {name: known[name] for name in _FIGURES if name in known}
    return values


def evaluate_zoom(
    zoom: Zoom,
    *,
    pictures: np.ndarray | None = None,
    references: Sequence[Mapping[str, Any]] = (),
    clip: Scorer | None = None,
) -> dict[str, Any]:
    """Measures a zoom of ours as `measure` does; and its renders, first noise and photograph.

    The first noise is drawn again, and the run's own timings are scores too. `pictures` are as
    delivered, [N, H, W, 3] uint8; by default they are made of the zoom.
    """
    s, g, figures, kernel = zoom.settings, zoom.geometry, zoom.timings, zoom.settings.sampler.kernel
    if pictures is None:
        pictures = zoom.delivered
    states = {"images": zoom.images, "before_render": zoom.before_render, "kernel": kernel}
    given = {"references": references, "clip": clip, "period": _period(zoom)}
    values = measure(pictures, g, plain_prompts(s), **states, **given)
    scores, details = values["scores"], values["details"]
    before = details["overlap"]["overlap_psnr_db"].get("before_render", {}).get("mean")
    scores |= {} if before is None else {"overlap_before_render_db": before}
    photographs = _photographs(zoom).items()
    met = [overlap.photograph_psnr(from_bytes(pictures), x, g, i, kernel) for i, x in photographs]
    if met:  # of several, a list each; the score is that of the one that is met least
        met = [*map(_decibels, met)]
        details["photograph_psnr_db"] = met[0] if len(met) == 1 else met
        scores["photograph_psnr_db"] = min(levels[0] for levels in met)
    if (noise := _first_noise(zoom)) is not None:
        scores |= {f"noise_{name}": value for name, value in noise_audit(*noise, kernel).items()}
    scores |= {name: figures[name] for name in _FIGURES if name in figures}
    if figures.get("disagreement"):
        details["disagreement"] = figures["disagreement"]
        scores["disagreement"] = figures["disagreement"][-1]
    return {**values, "scores": finite(scores)}


@fixed_settings()
def measure(
    pictures: np.ndarray,
    geometry: Geometry,
    prompts: Sequence[str],
    *,
    images: np.ndarray | None = None,
    before_render: np.ndarray | None = None,
    kernel: str = "mean",
    period: int = 8,
    references: Sequence[Mapping[str, Any]] = (),
    clip: Scorer | None = None,
) -> dict[str, Any]:
    """Measures delivered pictures, [N, H, W, 3] uint8, with one prompt per level.

    If they are known, `images` as rendered and as decoded (`metrics.overlap.metrics`) are, too.

    The scores are means over levels: of `metrics.overlap` (neighbours), `seams`, `detail`, `movie`,
    and `world` if all prompts are in the world's grammar and the pictures fit its classifier; with
    references (`metrics.references.statistics` of independent samples), those of
    `references.against`; and clip's, as of `metrics.clip.scorer`.
    """
    kept, shared = statistics(pictures, geometry, period), {"geometry": geometry, "kernel": kernel}
    floats, near = from_bytes(pictures), overlap.metrics(images, before_render, pictures, **shared)
    details: dict[str, Any] = {"overlap": near, "overlap_by_distance": {}}
    for k in range(2, min(geometry.depth, geometry.levels - 1) + 1):
        if min(geometry.height, geometry.width) >= 16 * geometry.zoom_factor**k:  # pixels
            psnr = _decibels(overlap.overlap_psnr(floats, **shared, k=k))
            ssim = plain(overlap.overlap_ssim(floats, **shared, k=k), 4)
            details["overlap_by_distance"][str(k)] = {"psnr_db": psnr, "ssim": ssim}
    borders = (np.array(kept[name], np.float64) for name in ("across", "near"))
    details["seam_excess"] = plain(seams.seam_excess(*borders), 4)
    scores = {
        **{name: near[name]["delivered"]["mean"] for name in ("overlap_psnr_db", "overlap_ssim")},
        **alone(kept),
        "smoothness": movie.smoothness(pictures, geometry),
        **(against(kept, references) if len(references) else {}),
    }
    wanted, square = [named(prompt) for prompt in prompts], geometry.height == geometry.width
    if all(wanted) and square and geometry.height % world.SIDE == 0:
        _, seen = world.look(pictures)
        scores |= world.accuracy(seen, wanted)
        details["world"] = [
            {head: {"named": word, "seen": saw[head]} for head, word in one.items()}
            for one, saw in zip(wanted, seen)
        ]
    scores |= clip(pictures, prompts) if clip else {}
    about = {"prompts_sha256": digest(list(prompts))[:12]}
    return {"scores": finite(scores), "details": details, "statistics": kept, **about}


def table(values: Mapping[str, Any]) -> str:
    """Returns results as text: a row for each pair of neighbours, then a row for each score."""
    agreed, excess = values["details"]["overlap"], values["details"]["seam_excess"]
    said = "{levels} levels of {height} x {width} pixels, zoom factor {zoom_factor}"
    lines = [said.format_map(agreed)]
    lines += ["  levels      PSNR, dB     SSIM  seam excess"] * (agreed["levels"] > 1)
    psnr, ssim = (agreed[f"overlap_{name}"]["delivered"]["pairs"] for name in ("psnr_db", "ssim"))
    for i, (decibels, alike, seam) in enumerate(zip(psnr, ssim, excess)):
        seam = "" if seam is None else f"{seam:.3f}"
        child = (i + 1) % agreed["levels"]  # in a loop, the last pair's is the widest level
        lines.append(f"{i:3}, {child:<7} {decibels:8.2f} {alike:9.4f} {seam:>12}")
    return "\n".join(lines + [f"{name:<27} {x:.5g}" for name, x in values["scores"].items()])


def _decibels(psnr: np.ndarray) -> list[float]:
    return plain(np.minimum(psnr, overlap.PSNR_CEILING), 4)


def _read(path: pathlib.Path) -> tuple[np.ndarray, Geometry, tuple[str, ...], Zoom | ZoomFile]:
    """Returns the pictures in a folder, their geometry and prompts, and what made them."""
    place = path / "zoom.json"
    if not place.exists():
        zoom = read_zoom(path)
        return read_levels(path, zoom.geometry), zoom.geometry, plain_prompts(zoom.settings), zoom
    data = read_json(place)
    try:
        said = build(ZoomFile, data)
        count = len(checked_prompts(said.prompts))
        names = said.pictures or sorted(file.name for file in path.glob("*.png"))
        require(len(names) == count, "pictures", f"{count}, one for each prompt", list(names))
        pictures = [read_picture(path / name) for name in names]
        sizes = ["{} x {} pixels".format(*picture.shape) for picture in pictures]
        for name, size in zip(names, sizes):
            require(size == sizes[0], name, f"{sizes[0]}, as {names[0]} has", size)
        place_in = count, said.zoom_factor, *pictures[0].shape[:2]
        # Checked as it is written; then all zeros are the centre that no placement means.
        geometry = Geometry(*place_in, said.placement or None, said.loop)
        if not any(map(any, said.placement)):
            geometry = dataclasses.replace(geometry, offsets=None)
    except UserError as error:
        raise UserError(f"{shown(place)}: {error}") from None
    return np.stack(pictures), geometry, said.prompts, said


def _references(
    path: pathlib.Path, own: pathlib.Path, geometry: Geometry, prompts: Sequence[str]
) -> list[dict]:
    marks = ("stack.npz", "zoom.json")
    inside = sorted({file.parent for mark in marks for file in path.glob(f"*/{mark}")})
    places = [path] if any((path / mark).exists() for mark in marks) else inside
    places = [place for place in places if place.resolve() != own.resolve()]
    expected = "a run, a folder with a zoom.json, or several, besides the zoom's own"
    require(bool(places), "references", expected, str(path))
    found = []
    for place in places:
        pictures, there, theirs, said = _read(place)
        if isinstance(said, Zoom):
            blend = said.settings.sampler.blend
            require(blend == "none", f"references: {shown(place)}", "a run with blend none", blend)
        require(there == geometry, f"references: {shown(place)}", f"{geometry}", there)
        for level, (ours, other) in enumerate(zip(prompts, theirs)):
            where = f"references: {shown(place)}: the prompt of level {level}"
            require(other == ours, where, f"the zoom's, {ours!r}", other)
        found.append(statistics(pictures, geometry, _period(said)))
    return found


def _period(said: Zoom | ZoomFile) -> int:
    """Returns the pixels of a latent, where they are known; else Stable Diffusion's."""
    latents = getattr(said, "latents", None)
    return 8 if latents is None else said.geometry.height // latents.shape[1]


def _photographs(zoom: Zoom) -> dict[int, np.ndarray]:
    """Returns a run's photographs as they were used, if they are still where they were."""
    s, known = zoom.settings, (zoom.identity or {}).get("photograph")
    with contextlib.suppress(UserError):
        found = grounding.wanted(s, None) if known else {}
        found = grounding.read(found, s.photograph.fit, zoom.geometry)
        if known == digest(grounding.identity(found, s.photograph.method)):
            return found
    return {}


@fixed_settings()
def _first_noise(zoom: Zoom) -> tuple[np.ndarray, Geometry] | None:
    """Returns the unit noise that a run began with, [N, h, w, c], and its placement, if known."""
    s, g = zoom.settings, zoom.geometry
    own = any(part.part == "blend" for part in s.own_parts)
    if own or zoom.latents is None or "given latents" in (zoom.identity or {}):
        return None
    _, height, width, channels = zoom.latents.shape
    factor = _period(zoom)
    offsets = g.offsets and tuple((y // factor, x // factor) for y, x in g.offsets)
    small = dataclasses.replace(g, height=height, width=width, offsets=offsets)
    how = s.sampler
    draw, _ = noises(how.method, find_blend(how.blend), how.noise, how.initial_noise)
    key, _ = jax.random.split(key_of(np.uint32(s.seed)))  # as in `diffusion.sampler.start`
    return np.asarray(draw(key, small, channels, kernel=s.sampler.kernel)), small
