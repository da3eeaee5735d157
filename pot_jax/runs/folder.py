"""What a run leaves in its folder, and how a killed run goes on from there.

    config.json         resolved settings, seed, versions, digest of the weights, geometry
    levels/level_000.png ...   delivered pictures, agreeing after 8-bit rounding
    stack.npz           images [N, H, W, 3] float32, images_before_render, latents [N, h, w, c]
    contact_sheet.png, zoom.mp4
    metrics.json        written last: a folder that has it holds a whole run
    state/              the sampler's state while the run is going; gone at its end

A run of several stacks has a folder `stack_000`, `stack_001`, ... with these files for each. Every
file is written under a temporary name and moved into place.
"""

import importlib.metadata
import pathlib
import platform
import shutil

import jax
import numpy as np

from pot_jax.config import MovieSettings, RunSettings, to_dict
from pot_jax.diffusion.sampler import SamplerState
from pot_jax.errors import UserError
from pot_jax.evaluation import report
from pot_jax.media import images as pictures
from pot_jax.media import video
from pot_jax.media.files import write_atomically, write_json
from pot_jax.pipelines.zoom import Job, Zoom
from pot_jax.runs.checkpoints import Checkpoints
from pot_jax.runs.reading import read_record
from pot_jax.zoom.geometry import Geometry

_PACKAGES = ("pot_jax", "jax", "jaxlib", "flax", "numpy")


def run_record(settings: RunSettings, weights_digest: str, geometry: Geometry) -> dict:
    """Returns what config.json says: all that decides the pictures."""
    return {
        "config": to_dict(settings),
        "weights_sha256": weights_digest,
        "geometry": {
            "levels": geometry.levels,
            "zoom_factor": geometry.zoom_factor,
            "height": geometry.height,
            "width": geometry.width,
            "offsets": [list(pair) for pair in geometry.offsets or ()] or None,
        },
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES}
        | {"python": platform.python_version()},
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


def check_free(folder: str) -> None:
    """Raises UserError unless `folder` is absent, empty, or a run of ours (config.json)."""
    path = pathlib.Path(folder)
    if path.exists() and not path.is_dir():
        raise UserError(f"--workdir: expected a folder, got the file {folder}")
    if path.is_dir() and any(path.iterdir()) and not (path / "config.json").is_file():
        raise UserError(f"--workdir: {folder} holds other files; give a new or empty folder")


def claim(folder: str, job: Job) -> bool:
    """Makes `folder` this run's, and tells whether the run is already complete there.

    A folder that holds the same run, killed, is gone on with; `restore` finds its state.

    Raises:
      UserError: the folder holds another run, or files of another kind.
    """
    check_free(folder)
    path = pathlib.Path(folder)
    record = run_record(job.settings, job.weights_digest, job.recipe.pixel_geometry)
    if (path / "config.json").is_file():
        found = read_record(folder)
        different = _differences(found, record)
        if different:
            raise UserError(
                f"--workdir: {folder} holds another run ({different}); give another folder"
            )
        if (path / "metrics.json").is_file():
            return True
    write_json(path / "config.json", record)
    return False


def _differences(found: dict, wanted: dict) -> str:
    """Names up to three settings in which two records differ; empty when they are the same run."""
    # A setting that there was not when the run was made had what is now its default.
    a = _flat(to_dict(RunSettings())) | _flat(found["config"])
    b = _flat(wanted["config"])
    # The movie is made after sampling and can be made again: it does not tell runs apart.
    names = [k for k in sorted(a.keys() | b.keys()) if not k.startswith("movie.")]
    rows = [f"{k} is {a.get(k)!r} there, {b.get(k)!r} here" for k in names if a.get(k) != b.get(k)]
    if found.get("weights_sha256") != wanted["weights_sha256"]:
        rows.append("other weights")
    return "; ".join(rows[:3]) + ("; ..." if len(rows) > 3 else "")


def _flat(tree: dict, prefix: str = "") -> dict:
    out = {}
    for key, value in tree.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return out


class SavedStates:
    """The sampler's states of a running job, in `state/`: the last two, with digests (Orbax)."""

    def __init__(self, folder: str, job: Job):
        self._path = pathlib.Path(folder) / "state"
        self._every = job.settings.save_every
        self._checkpoints = Checkpoints(self._path) if self._every or self._path.exists() else None
        self._last = 0

    def save(self, states: SamplerState, done: int) -> None:
        """Keeps `states`, once every `save_every` steps."""
        if self._every and done - self._last >= self._every:
            self._checkpoints.save(done, _without_key_type(states), {})
            self._last = done

    def restore(self, fresh: SamplerState) -> SamplerState:
        """Returns the newest sound state, or `fresh`, which a restored one takes its form from."""
        found = self._checkpoints and self._checkpoints.restore(_without_key_type(fresh))
        if not found:
            return fresh
        self._last, states, _ = found
        return states._replace(key=jax.random.wrap_key_data(states.key))

    def remove(self) -> None:
        """Ends the run: its pictures are there."""
        shutil.rmtree(self._path, ignore_errors=True)


def _without_key_type(states: SamplerState) -> SamplerState:
    return states._replace(key=jax.random.key_data(states.key))


def complete(folder: str, job: Job, timings: dict[str, float]) -> None:
    """Marks a run of several stacks as whole; a single stack's own metrics.json does that."""
    if job.settings.stacks > 1:
        write_json(pathlib.Path(folder) / "metrics.json", {"stacks": job.settings.stacks} | timings)


def save_zoom(zoom: Zoom, folder: str) -> None:
    """Writes a zoom from Python into a new folder, config.json included."""
    path = pathlib.Path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{folder} is not an empty folder; give a new one")
    write_zoom(zoom, folder)


def write_zoom(zoom: Zoom, folder: str) -> None:
    """Writes the files of one stack; metrics.json last."""
    path = pathlib.Path(folder)
    write_json(path / "config.json", run_record(zoom.settings, zoom.weights_digest, zoom.geometry))
    with write_atomically(path / "stack.npz") as temporary:
        np.savez(
            temporary,
            images=zoom.images,
            images_before_render=zoom.before_render,
            latents=zoom.latents,
        )
    levels = pictures.stack_to_bytes(
        zoom.images, zoom.geometry, kernel=zoom.settings.sampler.kernel
    )
    for level, picture in enumerate(levels):
        pictures.save_png(path / "levels" / f"level_{level:03d}.png", picture)
    pictures.save_png(path / "contact_sheet.png", pictures.contact_sheet(levels))
    write_movie(zoom.images, zoom.geometry, zoom.settings.movie, path / "zoom.mp4")
    report.write(path / "metrics.json", zoom, levels)


def write_movie(images: np.ndarray, geometry: Geometry, movie: MovieSettings, path) -> None:
    """Renders the movie of a stack, images [N, H, W, 3] in [-1, 1]."""
    route = video.zoom_path(
        geometry.levels,
        seconds_per_level=movie.seconds_per_level,
        fps=movie.fps,
        direction=movie.direction,
    )
    frames = video.zoom_frames(images, geometry, route, size=movie.size)
    video.write_video(path, frames, movie.fps)


def stack_folder(folder: str, settings: RunSettings, index: int) -> str:
    """Where stack `index` of a run is written: the run's own folder when it is the only one."""
    if settings.stacks == 1:
        return folder
    return str(pathlib.Path(folder) / f"stack_{index:03d}")
