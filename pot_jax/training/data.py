"""Training data: a set of rendered views on disk, and the batches drawn from it. No JAX.

A view is (seed, scale): the seed fixes a whole world, the scale how far into it we look (0 widest,
+1 per halving of the view's width). Views are spread evenly over the scales, in-between ones
included, each in a world of its own. Rendering is the slow part, so it is done once, by several
processes, into shards of bytes that later runs with the same settings reuse:

  folder/views.json        what the shards hold
  folder/shard_00000.npy   uint8 [SHARD, S, S, 3]

Everything is a function of the settings and the step, so that a resumed run sees the same batches.
"""

import functools
import hashlib
import itertools
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pot_jax.media.files import write_atomically
from pot_jax.media.pixels import to_bytes
from pot_jax.runs.claims import claim, held, named_differences
from pot_jax.training.settings import DataSettings
from pot_jax.world import Views

SHARD = 512  # pictures a file: a few seconds of work, the most a kill can cost
# Numbers of a training's streams of randomness: default_rng([seed, stream, ...]).
STREAMS = {"views": 1, "shuffle": 2, "dropout": 3, "diffusion": 4, "text_encoder": 5}
PROBED = 16  # pictures rendered again to check that the shards on disk show the current world

Picture = Callable[[int, float, int], np.ndarray]


def draw_views(settings: DataSettings, seed: int) -> Views:
    """Returns the views of a data set: n worlds, scales spread evenly over [0, deepest]."""
    n = settings.pictures
    rng = np.random.default_rng([seed, STREAMS["views"]])
    # Jittered cells, shuffled: even coverage of the scales in every part of the set.
    scales = rng.permutation((np.arange(n) + rng.random(n)) / n * settings.deepest)
    seeds = rng.permutation(n).astype(np.int64) + seed * 1_000_003
    return Views(seeds, scales)


def render_views(
    folder: str | Path,
    settings: DataSettings,
    seed: int,
    picture: Picture,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """Renders every view that is not on disk yet, and opens the whole set.

    Args:
      folder: where the shards are; made if absent.
      settings: which views.
      seed: draws them.
      picture: (seed, scale, size) -> float [S, S, 3] in [-1, 1]; sent to other processes, so a
        function that can be imported by name.
      progress: called with (pictures done, pictures in all) after each shard.

    Returns:
      uint8 [n, S, S, 3], in the order of `draw_views`.

    Raises:
      UserError: the folder holds other views.
    """
    views, size = draw_views(settings, seed), settings.size
    # If the world's code has changed since the shards were made, the same seeds draw other worlds.
    # Captions are made when needed: they would describe pictures that are not there.
    probe = _render(picture, views.take(slice(PROBED)), size)
    record = {"pictures": settings.pictures, "size": size, "deepest": settings.deepest}
    record |= {"seed": seed, "first_pictures": hashlib.sha256(probe.tobytes()).hexdigest()}
    path = Path(folder) / "views.json"

    def differing(found):
        # Earlier records also name the function that drew the pictures; their digest says more.
        return named_differences({name: found.get(name) for name in record}, record)

    claim(path, record, what="set of renders", flag="renders", differing=differing)
    shards = {
        path.with_name(f"shard_{start // SHARD:05d}.npy"): views.take(slice(start, start + SHARD))
        for start in range(0, settings.pictures, SHARD)
    }
    jobs = [(file, picture, part, size) for file, part in shards.items() if not file.exists()]
    done = settings.pictures - sum(len(part.seeds) for _, _, part, _ in jobs)
    progress(done, settings.pictures)
    # Spawned, not forked: a process that runs JAX has threads, which do not survive a fork.
    if jobs:
        workers = min(settings.workers, len(jobs))
        # Ctrl-C reaches all of them; this process answers for them.
        quiet = {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_IGN)}
        spawn = multiprocessing.get_context("spawn")
        with held(folder, "renders"), spawn.Pool(workers, **quiet) as pool:
            for count in pool.imap_unordered(_render_shard, jobs):
                done += count
                progress(done, settings.pictures)
    return np.concatenate([np.load(file) for file in shards])


def batch_indices(seed: int, step: int, batch_size: int, count: int) -> np.ndarray:
    """Returns which of `count` examples step `step` takes: int64 [batch_size].

    Every pass over the set is a fresh shuffle; a batch may straddle two passes.
    """
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    return np.array([_shuffle(seed, place // count, count)[place % count] for place in places])


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


def _render_shard(job: tuple[Path, Picture, Views, int]) -> int:
    path, *what = job
    pictures = _render(*what)
    with write_atomically(path) as temporary:
        np.save(temporary, pictures)
    return len(pictures)
