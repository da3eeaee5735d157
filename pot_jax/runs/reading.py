"""A finished run, read back from its folder and checked.

What `workdir` writes and this reads: `config.json` (its `geometry`, its sampler's `kernel`),
`stack.npz` (`images`, `images_before_render`, `latents`) and `levels/level_000.png` and on.
"""

import dataclasses
import json
import os
import pathlib
import pickle
import zipfile
import zlib
from typing import Any

import numpy as np

from pot_jax.errors import UserError
from pot_jax.media.images import read_picture
from pot_jax.zoom.geometry import Geometry


@dataclasses.dataclass(frozen=True)
class Run:
    """The stack of one finished run."""

    images: np.ndarray  # as rendered, [N, H, W, 3] float32 in [-1, 1]
    before_render: np.ndarray | None  # as decoded, likewise; None where the run did not keep it
    geometry: Geometry
    kernel: str  # of D, a name in zoom.operators.KERNELS
    timings: dict[str, float]  # in seconds, as far as metrics.json has them: see `_timings`


def read_run(folder: str | os.PathLike) -> Run:
    """Read a run's stack and placement.

    Raises:
      UserError: a file is missing, cut off, or does not fit the others.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise UserError(f"no run at {folder}: there is no such folder; give a run's workdir")
    record = _read_json(folder / "config.json")
    geometry, kernel = _geometry(record, folder / "config.json")
    arrays = _read_arrays(folder / "stack.npz")
    expected = (geometry.levels, geometry.height, geometry.width, 3)
    for name in ("images", "images_before_render"):
        if name in arrays and arrays[name].shape != expected:
            raise UserError(
                f"{folder / 'stack.npz'}: {name} has shape {arrays[name].shape}, but config.json "
                f"says {expected}; they are not of one run"
            )
    return Run(
        images=arrays["images"],
        before_render=arrays.get("images_before_render"),
        geometry=geometry,
        kernel=kernel,
        timings=_timings(folder / "metrics.json"),
    )


def read_record(folder: str | os.PathLike) -> dict[str, Any]:
    """Read a run's config.json: what decided its pictures.

    Raises:
      UserError: the folder holds no run, or its config.json is not whole.
    """
    path = pathlib.Path(folder) / "config.json"
    record = _read_json(path)
    if not isinstance(record.get("config"), dict):
        raise UserError(f"{path} is not of a run of pot-jax sample: it has no settings in it")
    return record


def read_levels(folder: str | os.PathLike, geometry: Geometry) -> np.ndarray:
    """Read the delivered pictures of a run, [N, H, W, 3] uint8.

    Raises:
      UserError: a picture is missing, cut off, or of another size.
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


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no run at {path.parent}: it has no {path.name}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is not whole JSON, it may be cut off: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}, expected settings by name")
    return value


def _geometry(record: dict[str, Any], path: pathlib.Path) -> tuple[Geometry, str]:
    try:
        placement = record["geometry"]
        kernel = record.get("config", {}).get("sampler", {}).get("kernel", "mean")
        offsets = placement.get("offsets")
        return Geometry(
            placement["levels"],
            placement["zoom_factor"],
            placement["height"],
            placement["width"],
            None if offsets is None else tuple(tuple(pair) for pair in offsets),
        ), kernel
    except KeyError as error:
        raise UserError(f"{path} has no {error} of the zoom's geometry") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: its geometry makes no sense: {error}") from None


def _read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stack:
            names = [n for n in ("images", "images_before_render") if n in stack.files]
            arrays = {name: stack[name] for name in names}
    except FileNotFoundError:
        stacks = sorted(p.name for p in path.parent.glob("stack_*") if p.is_dir())
        hint = f"; give one of its stacks: {', '.join(stacks)}" if stacks else "; has it finished?"
        raise UserError(f"no {path.name} in {path.parent}{hint}") from None
    # What NumPy and zipfile raise on files that are cut off, corrupted, or of another kind.
    except (
        OSError,
        ValueError,
        EOFError,
        AttributeError,
        TypeError,
        MemoryError,
        zipfile.BadZipFile,
        zlib.error,
        pickle.UnpicklingError,
    ) as error:
        raise UserError(f"{path} cannot be read, it may be cut off: {error}") from None
    if "images" not in arrays:
        raise UserError(f"{path} holds no array named images")
    for name, array in arrays.items():
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise UserError(f"{path}: {name} is not finite float32, but {array.dtype} or NaN")
    return arrays


def _timings(path: pathlib.Path) -> dict[str, float]:
    if not path.exists():
        return {}
    metrics = _read_json(path)
    names = ("compile_seconds", "seconds_per_step", "upscaling_seconds")
    return {name: metrics[name] for name in names if name in metrics}
