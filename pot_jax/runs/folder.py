"""What a run writes to its folder, and how a killed run resumes from it.

    config.json         the run's record (runs.record)
    levels/level_000.png ...   delivered pictures, which agree after rounding to 8 bits
    stack.npz           images [N, H, W, 3] float32, images_before_render, latents [N, h, w, c]
    contact_sheet.png, zoom.mp4
    metrics.json        written last: a folder that has it holds a complete run
    state/              the sampler's state, while the run is unfinished; removed at its end

A run of several samples has a folder `stack_000`, `stack_001`, ... with these files for each. Every
file is written under a temporary name and moved into place.
"""

import os
import pathlib
import shutil
from typing import NamedTuple

import jax

from pot_jax.config import RunSettings
from pot_jax.diffusion.sampler import GENERATOR, SamplerState
from pot_jax.media.files import write_json
from pot_jax.runs.checkpoints import Checkpoints
from pot_jax.runs.claims import check_free, claim
from pot_jax.runs.record import Record


def check_workdir(folder: str | os.PathLike) -> None:
    """Raises UserError unless `folder` is absent, empty, or holds a run (config.json)."""
    check_free(pathlib.Path(folder) / "config.json", what="run")


def claim_run(folder: str | os.PathLike, record: Record) -> bool:
    """Claims `folder` for a run; returns whether the run is already complete there.

    If the folder holds the same run, killed, `SavedStates.restore` finds its state.

    Raises:
      UserError: the folder holds another run or other files.
    """
    path = pathlib.Path(folder) / "config.json"

    def differing(found):
        return Record.from_json(found, str(path)).differing(record)

    found = claim(path, record.to_json(), what="run", differing=differing)
    if (path.parent / "metrics.json").is_file():
        return True
    if found is not None:  # resumed by this version, on these devices
        write_json(path, record.to_json())
    return False


class _State1(NamedTuple):
    """The sampler's state in format 1: no memory, and the history without its tuple."""

    step: jax.Array
    latents: jax.Array
    key: jax.Array
    history: jax.Array | tuple[()]


class SavedStates:
    """The last two saved states of a running job, in `state/`, with digests (Orbax)."""

    def __init__(self, folder: str | os.PathLike, every: int):
        self._path = pathlib.Path(folder) / "state"
        self._every = every
        self._checkpoints = Checkpoints(self._path) if every or self._path.exists() else None
        self._last = 0

    def save(self, states: SamplerState, done: int) -> None:
        """Saves `states`, after `done` steps, once every `every` steps."""
        if self._every and done - self._last >= self._every:
            self._checkpoints.save(done, _without_key_type(states), {})
            self._last = done

    def restore(self, fresh: SamplerState) -> SamplerState:
        """Returns the newest sound state, or `fresh` if none; `fresh` gives the structure."""
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
        """Removes the saved states, once the pictures are written."""
        shutil.rmtree(self._path, ignore_errors=True)


def _without_key_type(states: SamplerState) -> SamplerState:
    return states._replace(key=jax.random.key_data(states.key))


def complete_run(folder: str | os.PathLike, settings: RunSettings, timings: dict) -> None:
    """Marks a run of several samples as complete; a single sample's metrics.json does that."""
    if settings.num_samples > 1:
        values = {"num_samples": settings.num_samples} | timings
        write_json(pathlib.Path(folder) / "metrics.json", values)


def sample_folder(folder: str | os.PathLike, settings: RunSettings, index: int) -> pathlib.Path:
    """Returns where sample `index` is written: the run's own folder if it is the only one."""
    path = pathlib.Path(folder)
    return path if settings.num_samples == 1 else path / f"stack_{index:03d}"
