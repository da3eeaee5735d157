"""States on disk: either complete or absent, checked when read. Training and sampling use them.

    <folder>/<step>/state/      the arrays, as Orbax writes them
                    facts.json  format, step, what the caller adds, and each array's digest
                    SHA256SUMS  of every file above, as sha256sum writes it

A step is written under a temporary name and renamed, so a kill leaves the step before; the last two
are kept. In an object store, which renames nothing, a step is there once its SHA256SUMS is. A step
whose files are not byte for byte what was saved is passed over with a warning before a library sees
them: TensorStore answers a flipped bit with a bare Exception, or not at all.
"""

import json
import logging
import math
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from pot_jax.errors import Unreachable, UserError, edge
from pot_jax.media.files import TEMPORARY, file_digest, located, remove_folder, write_atomically
from pot_jax.weights.digests import array_digest

KEPT = 2
FORMAT = 3  # of a saved state; states of format 1 carry no number
# format -> (a state of its structure, the function that upgrades it)
Older = Mapping[int, tuple[Any, Callable[[Any], Any]]]


class Checkpoints:
    """The saved states of a run or training phase: pytrees of arrays, each with JSON facts."""

    def __init__(self, folder: str | Path):
        self._folder, self._local = located(folder), "://" not in str(folder)
        self._folder = self._folder.absolute() if self._local else self._folder
        self._unusable: set[int] = set()

    def save(self, step: int, state: Any, facts: dict) -> None:
        """Saves `state` as of `step`, unless it is there and sound; UserError if it cannot."""
        if step in set(self.steps()) - self._unusable:
            return
        final = self._folder / str(step)
        kept = self._folder / f"{TEMPORARY}{secrets.token_hex(6)}" if self._local else final
        state = jax.tree.map(np.asarray, state)
        said = {"format": FORMAT, "step": step, "facts": facts, "sha256": _digests(state)}
        try:
            # TensorStore cannot write where a disk refuses fsync, and prints a hundred lines where
            # it is full, so it writes to the machine's own temporary folder.
            with edge("saving a state", self._folder), tempfile.TemporaryDirectory() as local:
                local = Path(local)
                with _orbax() as writer:
                    writer.save(local / "state", state)
                (local / "facts.json").write_text(json.dumps(said), encoding="utf-8")
                (local / "SHA256SUMS").write_text(_sums(local), encoding="utf-8")
                remove_folder(final)  # an unusable one
                for path in (*_files(local), local / "SHA256SUMS"):
                    with write_atomically(kept / path.relative_to(local)) as copy:
                        shutil.copyfile(path, copy)  # copytree would hide what the disk says
                if kept != final:
                    os.replace(kept, final)
        except UserError as error:
            last = max((s for s in self.steps() if s < step), default=0)
            again = f"step {step}: {error}; the same command resumes from step {last}"
            raise UserError(again) from error
        finally:
            if kept != final:
                remove_folder(kept)
        self._unusable.discard(step)
        for old in sorted(self.steps())[:-KEPT]:
            remove_folder(self._folder / str(old))

    def restore(
        self, like: Any, *, older: Older | None = None, upto: float = math.inf
    ) -> tuple[int, Any, dict] | None:
        """Returns the newest sound state, as (step, state, facts); None if nothing was saved.

        `like` is a state of the same structure, shapes and shardings, `older` describes those of
        earlier formats; none is newer than `upto`. Raises UserError if all saved ones are damaged.
        """
        steps = sorted((step for step in self.steps() if step <= upto), reverse=True)
        for step in steps:
            kept = self._folder / str(step)
            try:
                with edge("restoring a state", kept), tempfile.TemporaryDirectory() as local:
                    for path in [] if self._local else kept.rglob("*"):
                        copy = Path(local, *path.relative_to(kept).parts)
                        copy.parent.mkdir(parents=True, exist_ok=True)
                        copy.write_bytes(path.read_bytes())
                    kept = kept if self._local else Path(local)
                    return step, *_read(kept, step, like, older or {})
            except Unreachable:
                raise
            except UserError as error:
                logging.warning("step %d: %s", step, error)
                self._unusable.add(step)
        if not steps:
            return None
        none = f"none of the steps {steps} in {self._folder} can be read as this run's state"
        raise UserError(f"{none}: delete the folder to start this phase again")

    def steps(self) -> list[int]:
        """Returns the saved steps, sound or not."""
        if self._local:
            names = os.listdir(self._folder) if self._folder.is_dir() else []
        else:
            names = [path.parent.name for path in self._folder.rglob("SHA256SUMS")]
        return [int(name) for name in names if name.isascii() and name.isdecimal()]

    def latest_step(self) -> int:
        """Returns the newest saved step, sound or not; 0 if there is none."""
        return max(self.steps(), default=0)


def _read(place: Path, step: int, like: Any, older: Older) -> tuple[Any, dict]:
    """Returns (state, facts); raises what `edge` knows if they are not what was saved."""
    facts = place / "facts.json"
    if not facts.is_file():  # formats 1 and 2, which Orbax's CheckpointManager wrote
        said = json.loads((place / "facts" / "metadata").read_text(encoding="utf-8"))
    elif (place / "SHA256SUMS").read_text(encoding="utf-8") != _sums(place):
        raise ValueError("its files are not what was saved")
    else:
        said = json.loads(facts.read_text(encoding="utf-8"))
        if (said["format"], said["step"]) != (FORMAT, step):
            raise ValueError(f"it is step {said['step']} of format {said['format']}")
    form, upgrade = older.get(said.get("format", 1), (like, lambda state: state))
    with _orbax() as reader:
        state = reader.restore(place / "state", jax.tree.map(np.asarray, form))
    state = jax.tree.map(_placed, state, form)
    found = _digests(state)
    if found != said["sha256"]:
        raise ValueError(f"{len(found)} arrays are not the {len(said['sha256'])} that were saved")
    return upgrade(state), said["facts"]


def _orbax() -> ocp.StandardCheckpointer:
    """Reads and writes for this process alone: one of a multi-host run writes, and none waits."""
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"pot_jax_{me}"
    )
    return ocp.StandardCheckpointer(multiprocessing_options=alone)


def _placed(array: np.ndarray, like: Any) -> Any:
    if (array.shape, array.dtype) != (np.shape(like), like.dtype):
        raise ValueError("it is the state of something else")
    return jax.device_put(array, like.sharding) if isinstance(like, jax.Array) else array


def _sums(place: Path) -> str:
    names = [str(path.relative_to(place)) for path in _files(place)]
    return "".join(f"{file_digest(place / name)}  {name}\n" for name in names)


def _files(place: Path) -> list[Path]:
    return sorted(path for path in place.rglob("*") if path.is_file() and path.name != "SHA256SUMS")


def _digests(state: Any) -> dict[str, str]:
    leaves = jax.tree.leaves_with_path(state)
    return {jax.tree_util.keystr(path): array_digest(leaf) for path, leaf in leaves}
