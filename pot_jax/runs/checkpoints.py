"""States on disk: either complete or absent, checked when read. Training and sampling use them.

    <folder>/<step>/arrays.npz   the leaves of the state, in order
                    facts.json   format, step, what the caller adds, the leaves' names and digests
                    SHA256SUMS   of both files, as sha256sum writes it

A step is written under a temporary name and renamed, so a kill leaves the step before; the last two
are kept. A step whose files are not byte for byte what was saved is passed over with a warning, and
no library sees them. Formats 1 and 2 were Orbax's, whose TensorStore cannot write where a disk
refuses fsync, and answers a flipped bit with a bare Exception, or not at all.
"""

import json
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pot_jax.errors import UserError, edge
from pot_jax.media.files import TEMPORARY, file_digest, flush_to_disk
from pot_jax.weights.digests import array_digest

KEPT = 2
FORMAT = 3  # of a saved state; states of format 1 carry no number
_FILES = ("arrays.npz", "facts.json")
# format -> (a state of its structure, the function that upgrades it to today's)
Older = Mapping[int, tuple[Any, Callable[[Any], Any]]]


class Checkpoints:
    """The saved states of one run or training phase.

    A state is any pytree of arrays; facts are plain JSON data saved with it (seconds spent).
    """

    def __init__(self, folder: str | Path):
        self._folder = Path(folder).absolute()
        self._unusable: set[int] = set()

    def save(self, step: int, state: Any, facts: dict) -> None:
        """Saves `state` as of `step`; a sound step that is already saved is left unchanged.

        Raises:
          UserError: the disk is full or unwritable. Earlier saved states are kept.
        """
        if step in set(self.steps()) - self._unusable or jax.process_index():
            return
        place = self._folder / f"{TEMPORARY}{secrets.token_hex(6)}"
        leaves = {name: np.asarray(array) for name, array in _named(state)}
        digests = {name: array_digest(array) for name, array in leaves.items()}
        said = {"format": FORMAT, "step": step, "facts": facts, "sha256": digests}
        try:
            with edge("saving a state", self._folder):
                place.mkdir(parents=True)
                with open(place / "arrays.npz", "wb") as file:
                    np.savez(file, *leaves.values())
                (place / "facts.json").write_text(json.dumps(said), encoding="utf-8")
                (place / "SHA256SUMS").write_text(_sums(place), encoding="utf-8")
                for path in place.iterdir():
                    flush_to_disk(path)
                shutil.rmtree(self._folder / str(step), ignore_errors=True)  # an unusable one
                os.replace(place, self._folder / str(step))
        except UserError as error:
            before = max((s for s in self.steps() if s < step), default=0)
            raise UserError(
                f"step {step}: {error}; the same command resumes from step {before}"
            ) from error
        finally:
            shutil.rmtree(place, ignore_errors=True)
        self._unusable.discard(step)
        for old in sorted(self.steps())[:-KEPT]:
            shutil.rmtree(self._folder / str(old), ignore_errors=True)

    def restore(self, like: Any, *, older: Older | None = None) -> tuple[int, Any, dict] | None:
        """Returns the newest sound state, as (step, state, facts); None if nothing was saved.

        Args:
          like: a state of the same structure, shapes and shardings.
          older: the structure of states of earlier formats, and their upgrade functions.

        Raises:
          UserError: states were saved, but none of them can be read.
        """
        steps = sorted(self.steps(), reverse=True)
        for step in steps:
            place = self._folder / str(step)
            try:
                with edge("restoring a state", place):
                    return step, *_read(place, step, like, older or {})
            except UserError as error:
                logging.warning("step %d: %s", step, error)
                self._unusable.add(step)
        if steps:
            raise UserError(
                f"none of the steps {steps} in {self._folder} can be read as this run's state: "
                "delete the folder to start this phase again"
            )
        return None

    def steps(self) -> list[int]:
        """Returns the saved steps, sound or not."""
        names = os.listdir(self._folder) if self._folder.is_dir() else []
        return [int(name) for name in names if name.isascii() and name.isdecimal()]

    def latest_step(self) -> int:
        """Returns the newest saved step, sound or not; 0 if there is none."""
        return max(self.steps(), default=0)


def _read(place: Path, step: int, like: Any, older: Older) -> tuple[Any, dict]:
    """Returns (state, facts); raises what `edge` knows if they are not what was saved."""
    if (place / "state").is_dir():
        return _read_orbax(place, like, older)
    if (place / "SHA256SUMS").read_text(encoding="utf-8") != _sums(place):
        raise ValueError("its files are not what was saved")
    said = json.loads((place / "facts.json").read_text(encoding="utf-8"))
    if (said["format"], said["step"]) != (FORMAT, step):
        raise ValueError(f"it is step {said['step']} of format {said['format']}")
    with np.load(place / "arrays.npz", allow_pickle=False) as kept:
        arrays = [kept[f"arr_{index}"] for index in range(len(kept.files))]
    names = [name for name, _ in _named(like)]
    shapes = [np.shape(x) for _, x in _named(like)]
    if names != list(said["sha256"]) or shapes != [array.shape for array in arrays]:
        raise ValueError("it is the state of something else")
    leaves = [_placed(array, x) for array, (_, x) in zip(arrays, _named(like))]
    state = jax.tree.unflatten(jax.tree.structure(like), leaves)
    _check(state, said["sha256"])
    return state, said["facts"]


def _placed(array: np.ndarray, like: Any) -> Any:
    array = array.view(like.dtype)  # NumPy keeps bfloat16 as bytes of no type
    return jax.device_put(array, like.sharding) if isinstance(like, jax.Array) else array


def _read_orbax(place: Path, like: Any, older: Older) -> tuple[Any, dict]:
    import orbax.checkpoint as ocp

    said = json.loads((place / "facts" / "metadata").read_text(encoding="utf-8"))
    form, upgrade = older.get(said.get("format", 1), (like, lambda x: x))
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
        state = reader.restore(place / "state", args=ocp.args.StandardRestore(form))
    _check(state, said["sha256"])
    return upgrade(state), said["facts"]


def _check(state: Any, digests: dict[str, str]) -> None:
    damaged = [name for name, array in _named(state) if array_digest(array) != digests[name]]
    if damaged:
        count, first = len(damaged), damaged[0]
        raise ValueError(f"{count} arrays differ from what was saved; the first is {first}")


def _sums(place: Path) -> str:
    return "".join(f"{file_digest(place / name)}  {name}\n" for name in _FILES)


def _named(state: Any) -> list[tuple[str, Any]]:
    return [(jax.tree_util.keystr(path), x) for path, x in jax.tree.leaves_with_path(state)]
