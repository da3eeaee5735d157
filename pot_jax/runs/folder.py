"""What a run writes to its folder, and how a killed run resumes from it.

    config.json         the run's record (runs.record)
    levels/level_000.png ...   delivered pictures, which agree after rounding to 8 bits
    stack.npz           images [N, H, W, 3] float32, images_before_render, latents [N, h, w, c]
    contact_sheet.png, zoom.html, zoom.mp4
    metrics.json        written last
    state/              the sampler's state, while the run is unfinished; removed at its end
    preview.png         the pictures so far, if previews are asked for; likewise

A run of several samples has a folder `stack_000`, `stack_001`, ... with these files for each. Every
file is written under a temporary name and moved into place, and config.json has the digests of the
finished ones: a file that is missing or damaged is made again from stack.npz.
"""

import contextlib
import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from pot_jax import config
from pot_jax.checks import require, to_dict
from pot_jax.config import MovieSettings, RunSettings
from pot_jax.diffusion.sampler import (
    SamplerState,
    join_samples,
    key_data,
    split_samples,
    typed_keys,
)
from pot_jax.errors import Unreachable, UserError, edge
from pot_jax.media.encoding import movie_format
from pot_jax.media.explorer import write_page
from pot_jax.media.files import check_writable, file_digest, located, remove_folder, write_json
from pot_jax.parallel import hosts
from pot_jax.runs.checkpoints import Checkpoints
from pot_jax.runs.claims import check_free, check_held, held, read_json
from pot_jax.runs.interrupts import Stopped, resuming
from pot_jax.runs.record import Record
from pot_jax.runs.zoom import file_names, read_record, read_shown, read_zoom, write_zoom

PREVIEW = "preview.png"


def check_workdir(folder: str | os.PathLike) -> None:
    """Raises UserError unless a run can be made or resumed in `folder`, which no process holds."""
    path = located(folder)
    check_free(path / "config.json", what="run")
    check_writable(path)
    check_held(path)


def check_record(folder: str | os.PathLike, record: Record) -> None:
    """Raises UserError if `folder` holds another run than `record`, whose weights may be unread."""
    path = located(folder)
    if (path / "config.json").exists():
        record.claim(path)


@contextlib.contextmanager
def claim_run(folder: str | os.PathLike, record: Record) -> Iterator[str]:
    """Holds `folder` for a run while it is worked on there.

    Yields:
      What is found: "complete"; "mended" if files of a complete run were missing or damaged, or its
      movie was asked for otherwise, and have been made again from its arrays; or "unfinished", new
      ones included: `SavedStates.restore` finds a killed run's state.

    Raises:
      UserError: the folder holds another run or other files, or another process holds it.
    """
    path = located(folder) / "config.json"
    with contextlib.ExitStack() as holding:

        def claimed() -> str:
            check_free(path, what="run")
            holding.enter_context(held(folder))
            found = record.claim(path.parent)
            state = _mended(path.parent, record.settings) if found else "unfinished"
            if found and state == "unfinished":  # resumed by this version, on these devices
                with edge("writing a file", path):
                    path.with_name("metrics.json").unlink(missing_ok=True)
                write_json(path, record.to_json())
            return state

        state = hosts.by_first(claimed)  # the processes of a run share its folder
        with resuming(lambda: _where(path.parent)):
            yield state


def _where(folder: pathlib.Path) -> str:
    step = Checkpoints(folder / "state").latest_step()
    if not step:
        return "no state was saved yet, so the same command starts again"
    return f"the same command resumes from step {step}"


def remake_movie(folder: str | os.PathLike, movie: MovieSettings) -> None:
    """Makes the movie of a finished sample again, and records its settings.

    Raises UserError if the folder holds no sample that can be read, or another process holds it.
    """
    read_zoom(folder)  # before anything is made
    path, asked = located(folder), {"movie": movie}
    with held(folder):
        _remake(path, asked, {"zoom.mp4"} | (_lacking(path, asked) or set()))


def check_output(path: str | os.PathLike, own: str | os.PathLike) -> bool:
    """Checks where a movie of the run at `own` is to be written; returns whether it is its own.

    Raises UserError if the ending is none of a movie's, or the file is another run's.
    """
    path = located(path)
    movie_format(path)
    is_own = path.name == "zoom.mp4" and os.path.realpath(path.parent) == os.path.realpath(own)
    if path.name == "zoom.mp4" and not is_own and (path.parent / "config.json").exists():
        raise UserError(f"--output: {path} is the movie of another run; give another file")
    return is_own


def write_view(path: str | os.PathLike, folders: Sequence[str | os.PathLike]) -> None:
    """Writes the page of finished runs to `path`, side by side with one view if there are several.

    All samples of a run are shown, by the names of their folders alone. Raises UserError if a
    folder holds no run whose pictures can be read, they do not fit each other, or `path` is no
    page's or is that of another run.
    """
    path = located(path)
    require(path.suffix.lower() == ".html", "--output", "a page's name, in .html", str(path))
    samples, names = [], []
    for folder in map(located, folders):
        for sample in sample_folders(folder, read_record(folder).settings):
            samples.append(sample)
            names.append(pathlib.Path(os.path.abspath(folder)).name)
            names[-1] += "" if sample == folder else f" {sample.name}"
    inside = path.name == "zoom.html" and (path.parent / "config.json").exists()
    if inside and {*map(os.path.realpath, folders)} != {os.path.realpath(path.parent)}:
        raise UserError(f"--output: {path} is the page of another run; give another file")
    again = (names[:i].count(name) for i, name in enumerate(names))
    names = [name + (f" ({n + 1})" if n else "") for name, n in zip(names, again)]
    page = [read_shown(*pair) for pair in zip(samples, names if len(names) > 1 else [""])]
    with held(path.parent) if inside else contextlib.nullcontext():
        write_page(path, page)
        record = read_json(path.parent / "config.json") if inside else {}
        if isinstance(files := record.get("files"), dict):
            digests = files | {path.name: file_digest(path)}
            write_json(path.parent / "config.json", record | {"files": digests})


def _mended(folder: pathlib.Path, settings: RunSettings) -> str:
    """Makes again what a finished run lacks; returns what `claim_run` yields.

    A run that lacks arrays is unfinished: they have to be sampled again.
    """
    samples = sample_folders(folder, settings)
    asked = {name: getattr(settings, name) for name in ("movie", "metadata", "width_metres")}
    lacking = [_lacking(sample, asked) for sample in samples]
    if None in lacking:
        return "unfinished"
    for sample, names in zip(samples, lacking):
        if names:
            _remake(sample, asked, names)
    if not any(lacking) and (folder / "metrics.json").is_file():
        return "complete"
    if settings.num_samples > 1:
        path = folder / "config.json"
        write_json(path, record_with(path, asked))
    complete_run(folder, settings, read_zoom(samples[0]).timings)
    return "mended"


def _lacking(folder: pathlib.Path, asked: Mapping[str, Any]) -> set[str] | None:
    """The names of a sample's files that are missing, damaged or otherwise asked for.

    None if its arrays are among them, from which the others are made.
    """
    names, metrics = set(), folder / "metrics.json"
    try:
        read_json(metrics)
    except UserError:
        names.add(metrics.name)
        with contextlib.suppress(OSError):
            metrics.unlink()
    try:
        zoom = read_zoom(folder)
    except Unreachable:
        raise
    except UserError:
        return None
    known = read_json(folder / "config.json").get("files")
    known = known if isinstance(known, dict) else {}  # not in earlier records
    for name in file_names(zoom.geometry):
        digest = file_digest(folder / name)
        if not digest or digest != known.get(name, digest):
            names.add(name)
    differing = {name for name, value in asked.items() if getattr(zoom.settings, name) != value}
    if differing:
        names.add("zoom.mp4")
    if differing - {"movie"} or differing and zoom.settings.metadata == "all":
        names.update(set(file_names(zoom.geometry)) - {"stack.npz"})  # their recipes say it
    return None if "stack.npz" in names else names


def _remake(folder: pathlib.Path, asked: Mapping[str, Any], names: set[str]) -> None:
    zoom = read_zoom(folder)
    zoom = dataclasses.replace(zoom, settings=dataclasses.replace(zoom.settings, **asked))
    record = record_with(folder / "config.json", asked)
    write_zoom(zoom, folder, record=record, whole={*file_names(zoom.geometry)} - names)


def record_with(path: pathlib.Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the config.json at `path` says, with these settings of its files."""
    record = config.upgraded(read_json(path), str(path))
    settings = Record.from_json(record, str(path)).settings
    plain = to_dict(dataclasses.replace(settings, **asked))
    return record | {"config": record["config"] | {name: plain[name] for name in asked}}


class _State1(NamedTuple):
    """The sampler's state in format 1: no memory, and the history without its tuple."""

    step: jax.Array
    latents: jax.Array
    key: jax.Array
    history: jax.Array | tuple[()]


class SavedStates:
    """The last two saved states of a running job, in `state/`: of all its samples, or of each."""

    def __init__(
        self,
        folders: Sequence[str | os.PathLike],
        every: int,
        stopping: Callable[[], int] = lambda: 0,
    ):
        """Finds saved states: in one folder those of all samples, in several one sample's each.

        `every` is the number of steps between them; `stopping` returns the number of a signal that
        ends the run, or 0.
        """
        self._every, self._stopping = every, stopping
        self._kept = [Checkpoints(located(folder) / "state") for folder in folders]
        self._last = 0
        self.curve: list[list] = []  # a row of plain numbers a step, one for each sample

    def save(self, states: SamplerState, done: int, *, last: bool = False) -> None:
        """Saves `states`, after `done` steps, every `every` steps and when the run has to end.

        The `last` states are delivered next, and saved only in that case. Raises `Stopped` if the
        run has to end, and UserError if the disk is full or unwritable.
        """
        stopping = max(hosts.gathered(self._stopping()))
        due = done - self._last >= self._every and not last
        if self._every and (due or stopping):
            hosts.by_first(functools.partial(self._save, states, done))
            self._last = done
        if stopping:
            hosts.end_together()
            raise Stopped(stopping)

    def _save(self, states: SamplerState, done: int) -> None:
        for index, (kept, part) in enumerate(zip(self._kept, self._split(states))):
            one = len(self._kept) == 1
            curve = self.curve if one else [[row[index]] for row in self.curve]
            kept.save(done, key_data(part), {"disagreement": curve} if curve else {})

    def restore(self, fresh: SamplerState) -> SamplerState:
        """Returns the newest sound state, or `fresh` if none; `fresh` gives the structure.

        Of several folders, the newest that all of them have: a kill may come between two of them.
        """
        plain = jax.tree.map(np.asarray, key_data(fresh))

        def read() -> tuple[int, list]:
            nonlocal plain
            parts, found, upto = self._split(plain), [], math.inf
            while not found or len({step for step, _, _ in found}) > 1:
                found = [_restored(*pair, upto) for pair in zip(self._kept, parts)]
                upto = min(step for step, _, _ in found)
            _, states, facts = zip(*found)
            plain = jax.tree.map(np.asarray, join_samples(states))
            curves = (fact.get("disagreement", []) for fact in facts)
            return upto, [sum(rows, []) for rows in zip(*curves)]

        self._last, self.curve = hosts.by_first(read)
        return typed_keys(hosts.shared(plain)) if self._last else fresh

    def _split(self, states: SamplerState) -> list[SamplerState]:
        return [states] if len(self._kept) == 1 else split_samples(states)


def _restored(kept: Checkpoints, like: SamplerState, upto: float) -> tuple[int, SamplerState, dict]:
    """What is kept, or the state `like` that, with keys as plain data."""
    first = _State1(*like[:3], like.history[0] if like.history else ())

    def from_1(state: _State1) -> SamplerState:
        history = (state.history,) if like.history else ()
        return SamplerState(*state[:3], history, like.memory)

    return kept.restore(like, older={1: (first, from_1)}, upto=upto) or (0, like, {})


def complete_run(folder: str | os.PathLike, settings: RunSettings, timings: dict) -> None:
    """Marks a run as complete: metrics.json if it has several samples; no states, no preview."""
    path, count = located(folder), settings.num_samples
    if count > 1:
        write_json(path / "metrics.json", {"num_samples": count} | timings)
    remove_folder(path / "state")
    with contextlib.suppress(OSError):
        (path / PREVIEW).unlink()


def sample_folders(folder: str | os.PathLike, settings: RunSettings) -> list[pathlib.Path]:
    """Returns where each sample is written: in the run's own folder if there is only one."""
    path, count = located(folder), settings.num_samples
    return [path] if count == 1 else [path / f"stack_{index:03d}" for index in range(count)]
