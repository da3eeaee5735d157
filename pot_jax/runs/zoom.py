"""The result of sampling: N pictures that agree, what they were made from, and its files."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from pot_jax.checks import Path, checked
from pot_jax.config import MovieSettings, RunSettings
from pot_jax.errors import UserError
from pot_jax.evaluation.metrics.summary import metrics
from pot_jax.media import images as pictures
from pot_jax.media import video
from pot_jax.media.files import file_digest, write_atomically, write_json
from pot_jax.runs.progress import Report, silent
from pot_jax.runs.record import Record
from pot_jax.zoom.geometry import Geometry


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
    # In seconds: compile_seconds, seconds_per_step, and upscaling_seconds of an upscaled zoom.
    timings: Mapping[str, float]
    identity: Mapping[str, str] | None  # digests of what decides the pictures; None if unknown
    notices: tuple[str, ...] = ()  # what was assumed where nothing was said, a line each

    @property
    def record(self) -> Record:
        """Returns what `config.json` says of this zoom."""
        known = self.settings, self.geometry, self.weights_digest, self.identity, self.notices
        return Record(*known)

    def measured(self, delivered: np.ndarray) -> dict[str, Any]:
        """Returns what `metrics` says of this zoom, delivered as pictures [N, H, W, 3] uint8."""
        kernel, timings = self.settings.sampler.kernel, dict(self.timings)
        states = self.images, self.before_render, delivered
        return metrics(*states, self.geometry, kernel=kernel, timings=timings)

    def save(self, folder: str | os.PathLike) -> None:
        """Writes pictures, arrays (stack.npz), contact sheet, metrics and movie to a new folder.

        A folder in which saving this same zoom failed, as on a full disk, is completed.

        Raises:
          UserError: the folder holds something else or all of this, or cannot be written.
        """
        path = pathlib.Path(checked(folder, Path, "folder"))
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
    report: Report = silent,
) -> None:
    """Writes the files of one sample, metrics.json last; raises UserError if it cannot.

    Args:
      zoom: the sample.
      folder: where to.
      record: the contents of its config.json, by default those of the zoom and of now.
      whole: the names of files that are there already, and right.
      report: is told of the movie's frames.
    """
    g, movie = zoom.geometry, zoom.settings.movie
    video.check_movie(g.height, g.width, g.levels, movie)  # before anything is written
    path = pathlib.Path(folder)
    record, names = dict(record or zoom.record.to_json()), file_names(g)
    # "" for those that are being written: after a kill, they do not count as whole.
    files = {name: file_digest(path / name) if name in whole else "" for name in names}
    write_json(path / "config.json", record | {"files": files})
    levels = pictures.zoom_to_bytes(zoom.images, g, kernel=zoom.settings.sampler.kernel)
    writers = {"stack.npz": functools.partial(_write_arrays, zoom)}
    for name, picture in zip(names[1:], levels):
        writers[name] = functools.partial(pictures.save_png, picture=picture)
    writers["contact_sheet.png"] = lambda to: pictures.save_png(to, pictures.contact_sheet(levels))
    writers["zoom.mp4"] = lambda to: write_movie(zoom.images, g, movie, to, report=report)
    for name, write in writers.items():
        if name not in whole:
            write(path / name)
            files[name] = file_digest(path / name)
    write_json(path / "config.json", record | {"files": files})
    write_json(path / "metrics.json", zoom.measured(levels))


def file_names(geometry: Geometry) -> list[str]:
    """Returns the names of a sample's files besides its two JSON files."""
    levels = (f"levels/level_{level:03d}.png" for level in range(geometry.levels))
    return ["stack.npz", *levels, "contact_sheet.png", "zoom.mp4"]


def _write_arrays(zoom: Zoom, path: pathlib.Path) -> None:
    arrays = {"images_before_render": zoom.before_render, "latents": zoom.latents}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    with write_atomically(path) as temporary:
        np.savez(temporary, images=zoom.images, **arrays)


def write_movie(
    images: np.ndarray,
    geometry: Geometry,
    movie: MovieSettings,
    path: str | os.PathLike,
    *,
    report: Report = silent,
) -> None:
    """Writes the movie of a zoom, images [N, H, W, 3] in [-1, 1], to `path`; reports its frames."""
    video.check_movie(geometry.height, geometry.width, geometry.levels, movie)
    flight = dataclasses.asdict(movie)
    size = flight.pop("size")
    route = video.zoom_path(geometry.levels, **flight)

    def frames():
        made = video.zoom_frames(images, geometry, route, size=size, pix_fmt="yuv420p")
        for done, frame in enumerate(made):
            report("writing the movie's frames", done, len(route))
            yield frame
        report("writing the movie's frames", len(route), len(route))

    video.write_video(path, frames(), movie.fps)
