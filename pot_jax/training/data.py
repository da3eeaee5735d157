"""Training data: a set of rendered views on disk, and the batches drawn from it. No JAX.

A view is (seed, scale): the seed fixes a whole world, the scale how far into it we look (0 widest,
+1 per halving of the view's width). Views are spread evenly over the scales, in-between ones
included, each in a world of its own. Rendering is the slow part, so it is done once, by several
processes, into shards of bytes that later runs with the same settings reuse:

  folder/views.json        what the shards hold
  folder/shard_00000.npy   uint8 [SHARD, S, S, 3]

Rendering goes on in the background: whoever reads pictures waits for those alone, so that an
accelerator compiles and trains meanwhile.
Everything is a function of the settings and the step, so that a resumed run sees the same batches.
"""

import contextlib
import functools
import itertools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np

from pot_jax.errors import UserError
from pot_jax.media.files import write_atomically
from pot_jax.media.pixels import to_bytes
from pot_jax.runs.claims import claim, named_differences
from pot_jax.training.settings import DataSettings
from pot_jax.world import Views, captions, labels

SHARD = 512  # pictures a file: a few seconds of work, the most a kill can cost
# Numbers of a training's streams of randomness: default_rng([seed, stream, ...]).
STREAMS = {"views": 1, "shuffle": 2, "dropout": 3, "diffusion": 4, "text_encoder": 5}
PROBED = 16  # pictures on disk, if there are any, rendered again to see that they are today's world

Picture = Callable[[int, float, int], np.ndarray]


def draw_views(settings: DataSettings, seed: int) -> Views:
    """Returns the views of a data set: n worlds, scales spread evenly over [0, deepest]."""
    n = settings.pictures
    rng = np.random.default_rng([seed, STREAMS["views"]])
    # Jittered cells, shuffled: even coverage of the scales in every part of the set.
    scales = rng.permutation((np.arange(n) + rng.random(n)) / n * settings.deepest)
    seeds = rng.permutation(n).astype(np.int64) + seed * 1_000_003
    return Views(seeds, scales)


@contextlib.contextmanager
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


def wait(future: Future, stopping: Callable[[], bool] = lambda: False) -> Any:
    """Returns a future's result.

    Raises:
      KeyboardInterrupt: `stopping` returned true before.
      UserError: the process that worked on it was killed.
    """
    while not stopping():
        try:
            return future.result(timeout=0.5)
        except TimeoutError:
            continue
        except BrokenProcessPool:
            raise UserError(
                "a process that renders was killed, perhaps for want of memory; run the same "
                "command again, with fewer data.workers"
            ) from None
    raise KeyboardInterrupt


def describe_views(settings: DataSettings, seed: int, processes: Executor) -> list[Future]:
    """Starts describing the views to train on, a shard a job.

    Returns:
      Futures of (texts, int32 [P, m], answers): `captions.every_caption` in P phrasings of m views,
      and `labels.answers`.
    """
    views, end = draw_views(settings, seed), settings.trained_on
    return [
        processes.submit(_describe, views.take(slice(i, min(i + SHARD, end))), settings.phrasings)
        for i in range(0, end, SHARD)
    ]


class Renders:
    """The rendered pictures of a set of views, in the order of `draw_views`."""

    def __init__(self, shards: dict[Path, Future | None], shape: tuple[int, ...], stopping):
        self._shards, self._stopping = shards, stopping
        self._shape = shape  # (n, S, S, 3)

    def read(self, first: int, end: int) -> np.ndarray:
        """Returns the pictures from `first` to before `end`: uint8 [end - first, S, S, 3].

        Waits until they are rendered.

        Raises:
          UserError: a shard is not what it should be, or a process was killed.
          KeyboardInterrupt: the run was told to stop meanwhile.
        """
        pictures = np.empty((end - first, *self._shape[1:]), np.uint8)
        for number in range(first // SHARD, -(-end // SHARD)):
            start = number * SHARD
            part = slice(max(first - start, 0), min(end - start, SHARD))
            shard = self._shard(number)
            pictures[start + part.start - first : start + part.stop - first] = shard[part]
        return pictures

    def _shard(self, number: int) -> np.ndarray:
        path, job = list(self._shards.items())[number]
        if job is not None:
            wait(job, self._stopping)
        shape = (min(SHARD, self._shape[0] - number * SHARD), *self._shape[1:])
        try:
            pictures = np.load(path)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"renders: {path} cannot be read ({error}); delete it") from None
        if pictures.shape != shape or pictures.dtype != np.uint8:
            raise UserError(
                f"renders: {path} holds {pictures.dtype} {pictures.shape}, expected uint8 {shape}; "
                "delete it, and it is rendered again"
            )
        return pictures


def render_views(
    folder: str | Path,
    settings: DataSettings,
    seed: int,
    picture: Picture,
    processes: Executor,
    progress: Callable[[int, int], None] = lambda done, total: None,
    stopping: Callable[[], bool] = lambda: False,
) -> Renders:
    """Starts rendering every view that is not on disk yet.

    The held-out views come first, since the first phase shows them; then the others in order.

    Args:
      folder: where the shards are; made if absent.
      settings: which views.
      seed: draws them.
      picture: (seed, scale, size) -> float [S, S, 3] in [-1, 1]; sent to other processes, so a
        function that can be imported by name.
      processes: what renders.
      progress: called with (pictures done, pictures in all) after each shard.
      stopping: whether the run was told to stop; read while pictures are waited for.

    Raises:
      UserError: the folder holds other views.
    """
    views, size = draw_views(settings, seed), settings.size
    record = {"pictures": settings.pictures, "size": size, "deepest": settings.deepest}
    record["seed"] = seed
    path = Path(folder) / "views.json"

    def differing(found):
        # Earlier records have a digest of the first pictures too, which are now compared.
        return named_differences({name: found.get(name) for name in record}, record)

    claim(path, record, what="set of renders", flag="renders", differing=differing)
    starts = range(0, settings.pictures, SHARD)
    files = [path.with_name(f"shard_{start // SHARD:05d}.npy") for start in starts]
    shards: dict[Path, Future | None] = dict.fromkeys(files)
    renders = Renders(shards, (settings.pictures, size, size, 3), stopping)
    done = [file.exists() for file in files]
    if any(done):
        _check_world(renders, views, picture, SHARD * done.index(True))
    rendered = SHARD * sum(done)
    progress(min(rendered, settings.pictures), settings.pictures)

    def count(job: Future) -> None:
        nonlocal rendered
        if not job.cancelled() and not job.exception():
            rendered += job.result()
            progress(min(rendered, settings.pictures), settings.pictures)

    held_out = settings.trained_on // SHARD
    for number in [*range(held_out, len(files)), *range(held_out)]:
        if not done[number]:
            part = views.take(slice(starts[number], starts[number] + SHARD))
            job = processes.submit(_render_shard, files[number], picture, part, size)
            job.add_done_callback(count)
            shards[files[number]] = job
    return renders


def _check_world(renders: Renders, views: Views, picture: Picture, first: int) -> None:
    """Raises UserError unless today's world looks like the pictures on disk from `first` on.

    If its code has changed since, the same seeds draw other worlds, and captions, which are made
    when needed, would describe pictures that are not there.
    """
    end = min(first + min(PROBED, SHARD), len(views.seeds))
    found = renders.read(first, end)
    if (found != _render(picture, views.take(slice(first, end)), found.shape[1])).any():
        raise UserError(
            "renders: the pictures in the folder are of another world than this version of "
            "pot_jax renders; give another folder"
        )


def batch_indices(seed: int, step: int, batch_size: int, count: int) -> np.ndarray:
    """Returns which of `count` examples step `step` takes: int64 [batch_size].

    Every pass over the set is a fresh shuffle; a batch may straddle two passes.
    """
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    passes = np.unique(places // count)
    return np.concatenate(
        [_shuffle(seed, int(i), count)[places[places // count == i] % count] for i in passes]
    )


def prefetch(load: Callable[[int], object], first_step: int) -> Iterator[object]:
    """Yields load(first_step), load(first_step + 1), ..., loading the next one meanwhile."""
    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(load, first_step)
        for step in itertools.count(first_step + 1):
            now, ahead = ahead, thread.submit(load, step)
            yield now.result()


@functools.lru_cache(maxsize=4)
def _shuffle(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, STREAMS["shuffle"], epoch]).permutation(count)


def _render(picture: Picture, views: Views, size: int) -> np.ndarray:
    return np.stack([to_bytes(picture(*view, size)) for view in views.pairs()])


def _describe(views: Views, phrasings: int) -> tuple[list[str], np.ndarray, list[dict[str, str]]]:
    return (*captions.every_caption(views, phrasings), labels.answers(views))


def _render_shard(path: Path, picture: Picture, views: Views, size: int) -> int:
    pictures = _render(picture, views, size)
    with write_atomically(path) as temporary:
        np.save(temporary, pictures)
    return len(pictures)


def _give_way() -> None:
    if hasattr(os, "nice"):  # not on Windows
        os.nice(10)
    # A process whose parent was killed would wait for work for ever.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
