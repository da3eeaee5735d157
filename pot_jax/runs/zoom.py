"""The result of sampling: N pictures that agree, what they were made from, and its files."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from pot_jax.config import MovieSettings, RunSettings
from pot_jax.errors import UserError
from pot_jax.evaluation.metrics.summary import metrics
from pot_jax.media import images as pictures
from pot_jax.media import video
from pot_jax.media.files import write_atomically, write_json
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

    def save(self, folder: str | os.PathLike) -> None:
        """Writes pictures, arrays (stack.npz), contact sheet, metrics and movie to a new folder.

        Raises:
          UserError: the folder is not empty, or cannot be written.
        """
        path = pathlib.Path(folder)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"{folder} is not an empty folder; give a new one")
        write_zoom(self, folder)


def write_zoom(zoom: Zoom, folder: str | os.PathLike) -> None:
    """Writes the files of one sample, metrics.json last; raises UserError if it cannot."""
    path = pathlib.Path(folder)
    record = Record(zoom.settings, zoom.geometry, zoom.weights_digest, zoom.identity)
    write_json(path / "config.json", record.to_json())
    arrays = {"images_before_render": zoom.before_render, "latents": zoom.latents}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    with write_atomically(path / "stack.npz") as temporary:
        np.savez(temporary, images=zoom.images, **arrays)
    kernel = zoom.settings.sampler.kernel
    levels = pictures.zoom_to_bytes(zoom.images, zoom.geometry, kernel=kernel)
    for level, picture in enumerate(levels):
        pictures.save_png(path / "levels" / f"level_{level:03d}.png", picture)
    pictures.save_png(path / "contact_sheet.png", pictures.contact_sheet(levels))
    write_movie(zoom.images, zoom.geometry, zoom.settings.movie, path / "zoom.mp4")
    values = metrics(
        zoom.images,
        zoom.before_render,
        levels,
        zoom.geometry,
        kernel=kernel,
        timings=dict(zoom.timings),
    )
    write_json(path / "metrics.json", values)


def write_movie(images: np.ndarray, geometry: Geometry, movie: MovieSettings, path) -> None:
    """Writes the movie of a zoom, images [N, H, W, 3] in [-1, 1], to `path` (MP4)."""
    route = video.zoom_path(
        geometry.levels,
        seconds_per_level=movie.seconds_per_level,
        fps=movie.fps,
        direction=movie.direction,
    )
    frames = video.zoom_frames(images, geometry, route, size=movie.size)
    video.write_video(path, frames, movie.fps)
