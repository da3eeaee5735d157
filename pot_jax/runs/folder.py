"""What a run leaves in its folder, and how a killed run resumes from there.

    config.json         the run's record (runs.record)
    levels/level_000.png ...   delivered pictures, agreeing after 8-bit rounding
    stack.npz           images [N, H, W, 3] float32, images_before_render, latents [N, h, w, c]
    contact_sheet.png, zoom.mp4
    metrics.json        written last: a folder that has it holds a whole run
    state/              the sampler's state while the run is going; gone at its end

A run of several samples has a folder `stack_000`, `stack_001`, ... with these files for each. Every
file is written under a temporary name and moved into place.
"""

import os
import pathlib
import shutil
from typing import NamedTuple

import jax
import numpy as np

from pot_jax.config import MovieSettings, RunSettings
from pot_jax.diffusion.sampler import GENERATOR, SamplerState
from pot_jax.errors import UserError
from pot_jax.evaluation.metrics.summary import metrics
from pot_jax.media import images as pictures
from pot_jax.media import video
from pot_jax.media.files import write_atomically, write_json
from pot_jax.runs.checkpoints import Checkpoints
from pot_jax.runs.claims import check_free, claim
from pot_jax.runs.record import Record
from pot_jax.runs.zoom import Zoom
from pot_jax.zoom.geometry import Geometry


def check_workdir(folder: str | os.PathLike) -> None:
    """Raises UserError unless `folder` is absent, empty, or a run of ours (config.json)."""
    check_free(pathlib.Path(folder) / "config.json", what="run")


def claim_run(folder: str | os.PathLike, record: Record) -> bool:
    """Makes `folder` this run's, and says whether the run is already complete there.

    A folder that holds the same run, killed, is resumed; `SavedStates.restore` finds its state.

    Raises:
      UserError: the folder holds another run, or files of another kind.
    """
    path = pathlib.Path(folder) / "config.json"

    def differing(found, wanted):
        del wanted
        return Record.from_json(found, str(path)).differing(record)

    found = claim(path, record.to_json(), what="run", differing=differing)
    if (path.parent / "metrics.json").is_file():
        return True
    if found is not None:  # resumed by this version, on these devices
        write_json(path, record.to_json())
    return False


class _State1(NamedTuple):
    """The sampler's state of format 1: no memory, and the history without its tuple."""

    step: jax.Array
    latents: jax.Array
    key: jax.Array
    history: jax.Array | tuple[()]


class SavedStates:
    """The sampler's states of a running job, in `state/`: the last two, with digests (Orbax)."""

    def __init__(self, folder: str | os.PathLike, every: int):
        self._path = pathlib.Path(folder) / "state"
        self._every = every
        self._checkpoints = Checkpoints(self._path) if every or self._path.exists() else None
        self._last = 0

    def save(self, states: SamplerState, done: int) -> None:
        """Keeps `states`, once every `every` steps."""
        if self._every and done - self._last >= self._every:
            self._checkpoints.save(done, _without_key_type(states), {})
            self._last = done

    def restore(self, fresh: SamplerState) -> SamplerState:
        """Returns the newest sound state, or `fresh`, which a restored one takes its form from."""
        like = _without_key_type(fresh)
        first = _State1(*like[:3], like.history[0] if like.history else ())

        def from_1(state: _State1) -> SamplerState:
            history = (state.history,) if like.history else ()
            return SamplerState(*state[:3], history, like.memory)

        found = self._checkpoints and self._checkpoints.restore(like, older={1: (first, from_1)})
        if not found:
            return fresh
        self._last, states, _ = found
        return states._replace(key=jax.random.wrap_key_data(states.key, impl=GENERATOR))

    def remove(self) -> None:
        """Ends the run: its pictures are there."""
        shutil.rmtree(self._path, ignore_errors=True)


def _without_key_type(states: SamplerState) -> SamplerState:
    return states._replace(key=jax.random.key_data(states.key))


def complete_run(folder: str | os.PathLike, settings: RunSettings, timings: dict) -> None:
    """Marks a run of several samples as whole; a single sample's own metrics.json does that."""
    if settings.num_samples > 1:
        values = {"num_samples": settings.num_samples} | timings
        write_json(pathlib.Path(folder) / "metrics.json", values)


def save_zoom(zoom: Zoom, folder: str | os.PathLike) -> None:
    """Writes a zoom from Python into a new folder, config.json included.

    Raises:
      UserError: the folder holds something, or cannot be written.
    """
    path = pathlib.Path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{folder} is not an empty folder; give a new one")
    write_zoom(zoom, folder)


def write_zoom(zoom: Zoom, folder: str | os.PathLike) -> None:
    """Writes the files of one sample; metrics.json last."""
    path = pathlib.Path(folder)
    record = Record(zoom.settings, zoom.geometry, zoom.weights_digest, zoom.identity)
    write_json(path / "config.json", record.to_json())
    with write_atomically(path / "stack.npz") as temporary:
        np.savez(
            temporary,
            images=zoom.images,
            images_before_render=zoom.before_render,
            latents=zoom.latents,
        )
    kernel = zoom.settings.sampler.kernel
    levels = pictures.stack_to_bytes(zoom.images, zoom.geometry, kernel=kernel)
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
    """Renders the movie of a zoom, images [N, H, W, 3] in [-1, 1]."""
    route = video.zoom_path(
        geometry.levels,
        seconds_per_level=movie.seconds_per_level,
        fps=movie.fps,
        direction=movie.direction,
    )
    frames = video.zoom_frames(images, geometry, route, size=movie.size)
    video.write_video(path, frames, movie.fps)


def sample_folder(folder: str | os.PathLike, settings: RunSettings, index: int) -> pathlib.Path:
    """Returns where sample `index` is written: the run's own folder when it is the only one."""
    path = pathlib.Path(folder)
    return path if settings.num_samples == 1 else path / f"stack_{index:03d}"
