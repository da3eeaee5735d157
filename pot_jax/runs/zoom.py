"""The result of sampling: N pictures that agree, what they were made from, and its files."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from pot_jax import config
from pot_jax.checks import Path, checked, require
from pot_jax.config import MovieSettings, RunSettings
from pot_jax.errors import UserError, edge
from pot_jax.evaluation.metrics.overlap import metrics
from pot_jax.media import images as pictures
from pot_jax.media import video
from pot_jax.media.camera import zoom_path
from pot_jax.media.captions import drawing
from pot_jax.media.encoding import write_video
from pot_jax.media.explorer import Explorer, Shown, page, write_page
from pot_jax.media.files import file_digest, located, write_atomically, write_json
from pot_jax.runs.claims import read_json
from pot_jax.runs.progress import Report, silent
from pot_jax.runs.recipe import recipe, texts
from pot_jax.runs.record import Record
from pot_jax.weights.emphasis import plain_prompts
from pot_jax.zoom.geometry import Geometry

_ARRAYS = ("images", "images_before_render", "latents")  # in stack.npz
_TIMINGS = ("compile_seconds", "seconds_per_step", "upscaling_seconds")  # in metrics.json
_TIMINGS += ("peak_bytes", "disagreement")


@dataclasses.dataclass(frozen=True)
class Zoom:
    """One sampled zoom."""

    images: np.ndarray  # final pictures, not yet rounded, [N, H, W, 3] float32 in [-1, 1]
    # As decoded, before the last blend and render, [N, H, W, 3]; and the final latents z_0,
    # [N, h, w, c] float32. Both may be None in a zoom that was read back.
    before_render: np.ndarray | None
    latents: np.ndarray | None
    settings: RunSettings  # with this sample's own seed
    geometry: Geometry  # of the pictures
    weights_digest: str
    # In seconds: compile_seconds, seconds_per_step, and upscaling_seconds of an upscaled zoom. In
    # bytes: peak_bytes, of the device. Of every step [S], if recorded: disagreement.
    timings: Mapping[str, Any]
    identity: Mapping[str, str] | None  # digests of what decides the pictures; None if unknown
    notices: tuple[str, ...] = ()  # what was assumed where nothing was said, a line each

    @property
    def record(self) -> Record:
        """Returns what `config.json` says of this zoom."""
        known = self.settings, self.geometry, self.weights_digest, self.identity, self.notices
        return Record(*known)

    @property
    def delivered(self) -> np.ndarray:
        """Returns the pictures as they are delivered, rounded to 8 bits: [N, H, W, 3] uint8."""
        kernel, held = self.settings.sampler.kernel, dict(self.settings.held)
        return pictures.zoom_to_bytes(self.images, self.geometry, kernel=kernel, held=held)

    def measured(self, delivered: np.ndarray) -> dict[str, Any]:
        """Returns what `metrics` says of this zoom, delivered as pictures [N, H, W, 3] uint8."""
        states, kernel = (self.images, self.before_render, delivered), self.settings.sampler.kernel
        return {**metrics(*states, self.geometry, kernel=kernel), **self.timings}

    def save(self, folder: str | os.PathLike) -> None:
        """Writes pictures, arrays (stack.npz), contact sheet, page, movie, metrics to a new folder.

        A folder in which saving this same zoom failed, as on a full disk, is completed. Raises
        UserError if the folder holds something else or all of this, or cannot be written.
        """
        path = located(checked(folder, Path, "folder"))
        if (path / "metrics.json").exists():
            raise UserError(f"{folder} is not an empty folder; give a new one")
        self.record.claim(path, what="zoom", flag="folder")
        write_zoom(self, path)


def write_zoom(
    zoom: Zoom,
    folder: str | os.PathLike,
    *,
    record: Mapping[str, Any] | None = None,
    whole: Collection[str] = (),
    names: Collection[str] | None = None,
    report: Report = silent,
) -> np.ndarray:
    """Writes a sample's files, metrics.json last; UserError if it cannot. Returns its pictures.

    Args:
      zoom: the sample.
      folder: where to.
      record: the contents of its config.json, by default those of the zoom and of now.
      whole: the names of files that are there already, and right.
      names: of the files to write besides config.json and metrics.json, of `file_names`; None: all.
      report: is told of the movie's frames.
    """
    g, movie = zoom.geometry, zoom.settings.movie
    video.check_movie(g, movie)  # before anything is written
    path = located(folder)
    record, every = dict(record or zoom.record.to_json()), file_names(g)
    names = every if names is None else names
    # "" for those that are being written: after a kill, they do not count as whole.
    files = {name: file_digest(path / name) if name in whole else "" for name in names}
    write_json(path / "config.json", record | {"files": files})
    levels = zoom.delivered
    writers = {"stack.npz": functools.partial(_write_arrays, zoom)}
    for level, name in enumerate(every[1 : 1 + g.levels]):
        writers[name] = lambda to, n=level: pictures.save_png(to, levels[n], texts(record, n))
    sheet = functools.partial(pictures.contact_sheet, levels)
    writers["contact_sheet.png"] = lambda to: pictures.save_png(to, sheet(), texts(record))
    writers["zoom.html"] = lambda to: write_page(to, [_shown(record, levels)])
    about = plain_prompts(zoom.settings), zoom.settings.width_metres
    telling = {"report": report, "comment": recipe(record)}
    writers["zoom.mp4"] = lambda to: write_movie(zoom.images, g, movie, to, *about, **telling)
    for name, write in writers.items():
        if name in names and name not in whole:
            write(path / name)
            files[name] = file_digest(path / name)
    write_json(path / "config.json", record | {"files": files})
    write_json(path / "metrics.json", zoom.measured(levels))
    return levels


def file_names(geometry: Geometry) -> list[str]:
    """Returns the names of a sample's files besides its two JSON files."""
    levels = (f"levels/level_{level:03d}.png" for level in range(geometry.levels))
    return ["stack.npz", *levels, "contact_sheet.png", "zoom.html", "zoom.mp4"]


def show(zooms: Zoom | Sequence[Zoom]) -> Explorer:
    """Returns what a notebook shows inline: a zoom to fly through, or several side by side.

    Raises UserError if these are no zooms, or they do not see the same places
    (`media.explorer.page`).
    """
    zooms = [zooms] if isinstance(zooms, Zoom) else zooms
    fits = isinstance(zooms, list | tuple) and zooms and all(isinstance(z, Zoom) for z in zooms)
    require(fits, "zooms", "a Zoom, or a list of them", zooms)
    names = [str(i) if len(zooms) > 1 else "" for i in range(len(zooms))]
    return Explorer(
        page([_shown(z.record.to_json(), z.delivered, n) for z, n in zip(zooms, names)])
    )


def read_shown(folder: str | os.PathLike, name: str = "") -> Shown:
    """Reads what a page shows of a run of one sample, or of one sample's own folder.

    That is its pictures as they were delivered, or, where it kept none, those of its arrays. Raises
    UserError if it is no such run, or a picture is not the one that the run wrote.
    """
    folder = located(folder)
    geometry, record = read_record(folder).geometry, read_json(folder / "config.json")
    if not (folder / "levels").is_dir():
        return _shown(record, read_zoom(folder).delivered, name)
    levels, known = read_levels(folder, geometry), record.get("files")
    for file, digest in (known if isinstance(known, dict) else {}).items():
        path = folder / file
        if file.startswith("levels/") and digest != file_digest(path):
            how = "repeat the run's `pot-jax sample` command, which makes it again"
            raise UserError(f"{path} is not the picture that the run wrote; {how}")
    return _shown(record, levels, name)


def _shown(record: Mapping[str, Any], levels: np.ndarray, name: str = "") -> Shown:
    """What a page shows of a zoom of which config.json says `record`."""
    run = Record.from_json(record, "config.json")
    facts = run.geometry, plain_prompts(run.settings), run.settings.width_metres
    return Shown(name, levels, *facts, recipe(config.upgraded(record, "config.json")))


def _write_arrays(zoom: Zoom, path: pathlib.Path) -> None:
    arrays = zip(_ARRAYS, (zoom.images, zoom.before_render, zoom.latents))
    with write_atomically(path) as temporary:
        np.savez(temporary, **{name: array for name, array in arrays if array is not None})


def write_movie(
    images: np.ndarray,
    geometry: Geometry,
    movie: MovieSettings,
    path: str | os.PathLike,
    prompts: Sequence[str] = (),
    width_metres: float = 0.0,
    *,
    comment: str = "",
    report: Report = silent,
) -> None:
    """Writes the movie of a zoom, images [N, H, W, 3] in [-1, 1], to `path`; reports its frames.

    Captions need the levels' `prompts`, and a scale bar `width_metres`, that of level 0's view. The
    `comment` goes into the file's metadata.
    """
    video.check_movie(geometry, movie, path)
    over = drawing(movie, prompts, geometry.zoom_factor, width_metres)
    how = {"size": movie.size, "aspect": movie.ratio, "fit": movie.fit, "over": over}
    route = zoom_path(geometry.levels, movie, loop=geometry.loop)

    def frames():
        made = video.zoom_frames(images, geometry, route, pix_fmt="yuv420p", **how)
        for done, frame in enumerate(made):
            report("writing the movie's frames", done, len(route))
            yield frame
        report("writing the movie's frames", len(route), len(route))

    write_video(path, frames(), movie.fps, comment=comment)


def read_zoom(folder: str | os.PathLike) -> Zoom:
    """Reads the zoom of a run of one sample, or of one sample's own folder.

    Its `before_render` and `latents` are None if the run did not keep them. Raises UserError if a
    file is missing, truncated, or does not fit the others.
    """
    folder = located(folder)
    record = read_record(folder)
    g, arrays = record.geometry, _read_arrays(folder / "stack.npz")
    expected = (g.levels, g.height, g.width, 3)
    for name in ("images", "images_before_render"):
        if name in arrays and arrays[name].shape != expected:
            raise UserError(
                f"{folder / 'stack.npz'}: {name} has shape {arrays[name].shape}, but config.json "
                f"says {expected}; they come from different runs"
            )
    path = folder / "metrics.json"
    figures = read_json(path) if path.exists() else {}
    return Zoom(
        *map(arrays.get, _ARRAYS),
        settings=record.settings,
        geometry=g,
        weights_digest=record.weights_sha256,
        timings={name: figures[name] for name in _TIMINGS if name in figures},
        identity=record.identity,
        notices=record.notices,
    )


def read_record(folder: str | os.PathLike) -> Record:
    """Reads a run's config.json; raises UserError if there is none, or it is not complete."""
    path = located(folder) / "config.json"
    if not os.path.isdir(folder) and (isinstance(path, pathlib.Path) or not path.parent.is_dir()):
        raise UserError(f"no run at {folder}: there is no such folder; give a run's workdir")
    return Record.from_json(read_json(path), str(path))


def read_levels(folder: str | os.PathLike, geometry: Geometry) -> np.ndarray:
    """Reads the delivered pictures of a run, [N, H, W, 3] uint8.

    Raises UserError if one is missing, truncated, or of another size.
    """
    levels = []
    for name in file_names(geometry):
        if not name.startswith("levels/"):
            continue
        path = located(folder) / name
        levels.append(pictures.read_picture(path))
        height, width, _ = levels[-1].shape
        if (height, width) != (geometry.height, geometry.width):
            raise UserError(
                f"{path} is {height} x {width} pixels, but config.json says {geometry.height} x "
                f"{geometry.width}"
            )
    return np.stack(levels)


def _read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    if not os.path.lexists(path) and (isinstance(path, pathlib.Path) or not path.exists()):
        samples = sorted(p.name for p in path.parent.glob("stack_*") if p.is_dir())
        one = f"give one of its samples: {', '.join(samples)}" if samples else "has it finished?"
        raise UserError(f"no {path.name} in {path.parent}; {one}")
    with edge("reading arrays", path), path.open("rb") as file, np.lib.npyio.NpzFile(file) as kept:
        arrays = {name: kept[name] for name in _ARRAYS if name in kept.files}
    if "images" not in arrays:
        raise UserError(f"{path} holds no array named images")
    for name, array in arrays.items():
        if array.dtype != np.float32 or not np.isfinite(array).all():
            found = f"it is {array.dtype} or holds NaN or infinity"
            raise UserError(f"{path}: {name} must be finite float32; {found}")
    return arrays
