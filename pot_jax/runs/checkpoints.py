"""States on disk: either complete or absent, checked when read. Training and sampling use them.

Each phase has a folder with one Orbax checkpoint per saved step; the last two are kept. Orbax
writes under a temporary name and renames, so a kill leaves the previous step. It does not notice a
flipped bit in array data; so the SHA-256 of every array is kept with the arrays, and a step that
does not match is skipped with a warning.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from pot_jax.errors import UserError, one_line
from pot_jax.weights.digests import array_digest

KEPT = 2
FORMAT = 2  # of a saved state; states of format 1 carry no number
# format -> (a state of its structure, the function that upgrades it)
Older = Mapping[int, tuple[Any, Callable[[Any], Any]]]


class Checkpoints:
    """The saved states of one run or training phase.

    A state is any pytree of arrays; facts are plain JSON data saved with it (seconds spent).
    """

    def __init__(self, folder: str | Path):
        self._folder = Path(folder).absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=KEPT, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def save(self, step: int, state: Any, facts: dict) -> None:
        """Saves `state` as of `step`; a step that is already saved is left unchanged.

        Raises:
          UserError: the disk is full or unwritable. Earlier saved states are kept.
        """
        if step in self._manager.all_steps():
            return
        digests = {name: array_digest(array) for name, array in _named(state)}
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    facts=ocp.args.JsonSave({"format": FORMAT, "facts": facts, "sha256": digests}),
                ),
            )
        except (OSError, ValueError) as error:
            # TensorStore reports a failed write as ValueError("RESOURCE_EXHAUSTED: ...").
            raise UserError(
                f"cannot save step {step} to {self._folder} ({one_line(error)}): free some space "
                f"and run the same command again; it resumes from step {self._last_before(step)}"
            ) from error

    def restore(self, like: Any, *, older: Older | None = None) -> tuple[int, Any, dict] | None:
        """Returns the newest sound state, as (step, state, facts); None if nothing was saved.

        Args:
          like: a state of the same structure, shapes and shardings.
          older: the structure of states of earlier formats, and their upgrade functions.

        Raises:
          UserError: states were saved, but none of them can be read.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                facts = self._read(step, facts=ocp.args.JsonRestore()).facts
                form, upgrade = (older or {}).get(facts.get("format", 1), (like, lambda x: x))
                state = self._read(step, state=ocp.args.StandardRestore(form)).state
                self._check(state, facts["sha256"])
                state = upgrade(state)
            except (OSError, ValueError, KeyError) as error:
                logging.warning("step %d of %s is unusable: %s", step, self._folder, error)
                continue
            return step, state, facts["facts"]
        if steps:
            raise UserError(
                f"none of the steps {steps} in {self._folder} can be read as this run's state: "
                "delete the folder to start this phase again"
            )
        return None

    def latest_step(self) -> int:
        """Returns the newest saved step, sound or not; 0 if there is none."""
        return max(self._manager.all_steps(), default=0)

    def _read(self, step: int, **items: Any) -> Any:
        return self._manager.restore(step, args=ocp.args.Composite(**items))

    def _check(self, state: Any, digests: dict[str, str]) -> None:
        damaged = [name for name, array in _named(state) if array_digest(array) != digests[name]]
        if damaged:
            count, first = len(damaged), damaged[0]
            raise ValueError(f"{count} arrays differ from what was saved; the first is {first}")

    def _last_before(self, step: int) -> int:
        return max((s for s in self._manager.all_steps() if s < step), default=0)


def _named(state: Any) -> list[tuple[str, Any]]:
    return [(jax.tree_util.keystr(path), x) for path, x in jax.tree.leaves_with_path(state)]
