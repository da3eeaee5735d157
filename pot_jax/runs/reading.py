"""Reads a finished run back from its folder, and checks it: the inverse of `runs.folder`."""

import os
import pathlib

import numpy as np

from pot_jax.errors import UserError, edge
from pot_jax.media.images import read_picture
from pot_jax.runs.claims import read_json
from pot_jax.runs.record import Record
from pot_jax.runs.zoom import Zoom
from pot_jax.zoom.geometry import Geometry

_ARRAYS = ("images", "images_before_render", "latents")


def read_zoom(folder: str | os.PathLike) -> Zoom:
    """Reads the zoom of a run of one sample, or of one sample's own folder.

    Returns:
      The `Zoom`; `before_render` and `latents` are None if the run did not keep them.

    Raises:
      UserError: a file is missing, truncated, or does not fit the others.
    """
    folder = pathlib.Path(folder)
    if not os.path.isdir(folder):
        raise UserError(f"no run at {folder}: there is no such folder; give a run's workdir")
    record = read_record(folder)
    geometry = record.geometry
    arrays = _read_arrays(folder / "stack.npz")
    expected = (geometry.levels, geometry.height, geometry.width, 3)
    for name in ("images", "images_before_render"):
        if name in arrays and arrays[name].shape != expected:
            raise UserError(
                f"{folder / 'stack.npz'}: {name} has shape {arrays[name].shape}, but config.json "
                f"says {expected}; they come from different runs"
            )
    return Zoom(
        images=arrays["images"],
        before_render=arrays.get("images_before_render"),
        latents=arrays.get("latents"),
        settings=record.settings,
        geometry=geometry,
        weights_digest=record.weights_sha256,
        timings=_timings(folder / "metrics.json"),
        identity=record.identity,
        notices=record.notices,
    )


def read_record(folder: str | os.PathLike) -> Record:
    """Reads a run's config.json.

    Raises:
      UserError: the folder holds no run, or its config.json is not complete.
    """
    path = pathlib.Path(folder) / "config.json"
    return Record.from_json(read_json(path), str(path))


def read_levels(folder: str | os.PathLike, geometry: Geometry) -> np.ndarray:
    """Reads the delivered pictures of a run, [N, H, W, 3] uint8.

    Raises:
      UserError: a picture is missing, truncated, or of another size.
    """
    pictures = []
    for level in range(geometry.levels):
        path = pathlib.Path(folder) / "levels" / f"level_{level:03d}.png"
        picture = read_picture(path)
        if picture.shape != (geometry.height, geometry.width, 3):
            raise UserError(
                f"{path} is {picture.shape[0]} x {picture.shape[1]} pixels, but config.json says "
                f"{geometry.height} x {geometry.width}"
            )
        pictures.append(picture)
    return np.stack(pictures)


def _read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    if not os.path.lexists(path):
        samples = sorted(p.name for p in path.parent.glob("stack_*") if p.is_dir())
        one = f"give one of its samples: {', '.join(samples)}" if samples else "has it finished?"
        raise UserError(f"no {path.name} in {path.parent}; {one}")
    with edge("reading arrays", path), open(path, "rb") as file, np.lib.npyio.NpzFile(file) as kept:
        names = [name for name in _ARRAYS if name in kept.files]
        arrays = {name: kept[name] for name in names}
    if "images" not in arrays:
        raise UserError(f"{path} holds no array named images")
    for name, array in arrays.items():
        if array.dtype != np.float32 or not np.isfinite(array).all():
            found = f"it is {array.dtype} or holds NaN or infinity"
            raise UserError(f"{path}: {name} must be finite float32; {found}")
    return arrays


def _timings(path: pathlib.Path) -> dict[str, float]:
    if not path.exists():
        return {}
    metrics = read_json(path)
    names = ("compile_seconds", "seconds_per_step", "upscaling_seconds")
    return {name: metrics[name] for name in names if name in metrics}
