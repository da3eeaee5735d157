"""Training data: a set of rendered views on disk, and the batches drawn from it. No JAX.

A view is (seed, scale): the seed fixes a whole world, the scale how far into it we look (0 widest,
+1 per halving of the view's width). Views are spread evenly over the scales, in-between ones
included, each in a world of its own. Rendering is the slow part, so it is done once, by several
processes, into shards of bytes that later runs with the same settings reuse:

  folder/views.json        what the shards hold
  folder/shard_00000.npy   uint8 [SHARD, S, S, 3]

Rendering goes on in the background; whoever reads pictures waits for those alone.
Everything is a function of the settings and the step, so that a resumed run sees the same batches.
"""

import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pot_jax.errors import UserError, edge
from pot_jax.media.files import write_atomically
from pot_jax.media.pixels import to_bytes
from pot_jax.runs.claims import claim, held, named_differences
from pot_jax.training.settings import DataSettings
from pot_jax.world import View, captions

SHARD = 512  # pictures a file: a few seconds of work, the most a kill can cost
# Numbers of a training's streams of randomness: default_rng([seed, stream, ...]).
STREAMS = {"views": 1, "shuffle": 2, "dropout": 3, "diffusion": 4, "text_encoder": 5}
PROBED = 16  # pictures on disk, if any, rendered again to check that they show the current world

Picture = Callable[[int, float, int], np.ndarray]


def draw_views(settings: DataSettings, seed: int) -> list[View]:
    """Returns the views of a data set: n worlds, scales spread evenly over [0, deepest]."""
    n, rng = settings.pictures, np.random.default_rng([seed, STREAMS["views"]])
    # Jittered cells, shuffled: even coverage of the scales in every part of the set.
    scales = rng.permutation((np.arange(n) + rng.random(n)) / n * settings.deepest)
    seeds = rng.permutation(n).astype(np.int64) + seed * 1_000_003
    return list(zip(seeds.tolist(), scales.tolist()))


@contextmanager
def worker_processes(count: int) -> Iterator[Executor]:
    """Yields `count` processes, which give way to this one; what they have not done is dropped."""
    # Spawned, not forked: a process that runs JAX has threads, which do not survive a fork.
    context, others = multiprocessing.get_context("spawn"), multiprocessing.active_children()
    processes = ProcessPoolExecutor(count, mp_context=context, initializer=_give_way)
    try:
        yield processes
    finally:
        processes.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - set(others):
            process.terminate()


def finished(job: Future) -> Any:
    """Returns what a process has made; UserError if it was killed."""
    try:
        return job.result()
    except BrokenExecutor:
        killed = "a rendering process was killed, perhaps for want of memory"
        how = "run the same command again, with fewer data.workers"
        raise UserError(f"{killed}; {how}") from None


def describe_views(settings: DataSettings, seed: int, processes: Executor) -> list[Future]:
    """Starts describing the views to train on, a shard of m views a job.

    Returns futures of (texts, each once; which of them, [P, m]; `captions.answers`).
    """
    views = draw_views(settings, seed)[: settings.trained_on]
    parts = (views[i : i + SHARD] for i in range(0, len(views), SHARD))
    return [processes.submit(_describe, part, settings.phrasings) for part in parts]


class Renders:
    """The rendered pictures of n views, in the order of `draw_views`."""

    def __init__(self, parts: dict[Path, slice], size: int):
        self._parts, self._size = parts, size  # the views in each file; pixels a side
        self.jobs: dict[Path, Future] = {}  # what is still being rendered

    def read(self, first: int, end: int) -> np.ndarray:
        """Returns pictures `first` to `end` - 1, once rendered: uint8 [end - first, S, S, 3].

        Raises UserError if a shard is not what it should be, or a process was killed.
        """
        picture = self._size, self._size, 3
        pictures = np.empty((end - first, *picture), np.uint8)
        for path, part in self._parts.items():
            low, high = max(first, part.start), min(end, part.stop)
            if low >= high:
                continue
            if path in self.jobs:
                finished(self.jobs[path])
            with edge("reading arrays", path):
                shard = np.load(path)
            shape = (part.stop - part.start, *picture)
            if (shard.dtype, shard.shape) != (np.uint8, shape):
                wrong = f"{path} holds {shard.dtype} {shard.shape}, expected uint8 {shape}"
                raise UserError(f"renders: {wrong}; delete it, and it is rendered again")
            pictures[low - first : high - first] = shard[low - part.start : high - part.start]
        return pictures


def render_views(
    folder: str | Path,
    settings: DataSettings,
    seed: int,
    picture: Picture,
    processes: Executor,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Renders:
    """Starts rendering every view that is not on disk in `folder` yet, which is made if absent.

    The held-out views come first, since the first phase shows them; then the others in order.
    `picture`, (seed, scale, size) -> float [S, S, 3] in [-1, 1], is sent to other processes, so it
    can be imported by name. `progress` gets (pictures done, pictures in all) after each shard.
    Raises UserError if the folder holds other views.
    """
    views, size, total = draw_views(settings, seed), settings.size, settings.pictures
    record = {"pictures": total, "size": size, "deepest": settings.deepest, "seed": seed}
    path = Path(folder) / "views.json"

    def differing(found):
        # Earlier records have a digest of the first pictures too, which are now compared.
        return named_differences({name: found.get(name) for name in record}, record)

    claim(path, record, what="set of renders", flag="renders", differing=differing)
    parts = {
        path.with_name(f"shard_{start // SHARD:05d}.npy"): slice(start, min(start + SHARD, total))
        for start in range(0, total, SHARD)
    }
    renders = Renders(parts, size)
    missing = {file: part for file, part in parts.items() if not file.exists()}
    if present := parts.keys() - missing.keys():
        _check_world(renders, views, picture, parts[min(present)])
    done, rendering = total - sum(part.stop - part.start for part in missing.values()), ExitStack()
    progress(done, total)

    def count(job: Future) -> None:
        nonlocal done
        if not job.cancelled() and not job.exception():
            done += job.result()
            progress(done, total)
            if done == total:
                rendering.close()

    if missing:
        rendering.enter_context(held(folder, "renders"))
    for file in sorted(missing, key=lambda file: missing[file].stop <= settings.trained_on):
        job = processes.submit(_render_shard, file, picture, views[missing[file]], size)
        renders.jobs[file] = job
        job.add_done_callback(count)
    return renders


def _check_world(renders: Renders, views: list[View], picture: Picture, part: slice) -> None:
    """Raises UserError unless the world still looks like the first pictures of a part on disk.

    If its code has changed, captions, made when needed, would describe pictures that are not there.
    """
    some = slice(part.start, min(part.start + PROBED, part.stop))
    found = renders.read(some.start, some.stop)
    if (found != _render(picture, views[some], found.shape[1])).any():
        another = "pictures of another world than this version renders"
        raise UserError(f"renders: the folder holds {another}; give another folder")


def batch_indices(seed: int, step: int, batch_size: int, count: int) -> np.ndarray:
    """Returns a step's examples, int64 [batch_size]; each pass over `count` is a new shuffle."""
    places = range(step * batch_size, (step + 1) * batch_size)
    return np.array([_shuffle(seed, place // count, count)[place % count] for place in places])


@functools.lru_cache(maxsize=4)
def _shuffle(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, STREAMS["shuffle"], epoch]).permutation(count)


def _render(picture: Picture, views: list[View], size: int) -> np.ndarray:
    return np.stack([to_bytes(picture(*view, size)) for view in views])


def _describe(views: list[View], phrasings: int) -> tuple[list[str], np.ndarray, list[dict]]:
    texts, chosen = np.unique(captions.every_caption(views, phrasings), return_inverse=True)
    return texts.tolist(), chosen.reshape(phrasings, -1), captions.answers(views)


def _render_shard(path: Path, picture: Picture, views: list[View], size: int) -> int:
    pictures = _render(picture, views, size)
    with write_atomically(path) as temporary:
        np.save(temporary, pictures)
    return len(pictures)


def _give_way() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent answers for them
    os.nice(10)

    def end_with_parent() -> None:  # if it was killed: this process would wait for work for ever
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
