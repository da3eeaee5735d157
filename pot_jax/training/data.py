"""Training data: a set of rendered views on disk, and the batches drawn from it.

A view is (seed, scale): the seed fixes a whole world, the scale how far into it we look (0 widest,
+1 per halving of the view's width). Views are spread evenly over the scales, in-between ones
included, each in a world of its own. Rendering is the slow part, so it is done once, by several
processes, into shards of bytes that later runs of the same settings reuse:

  folder/views.json        what the shards hold
  folder/shard_00000.npy   uint8 [SHARD, S, S, 3]

Everything is a function of the settings and the step, so that a resumed run sees the same batches.
"""

import dataclasses
import functools
import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pot_jax.checks import check_fields
from pot_jax.errors import UserError
from pot_jax.world import DEEPEST, Views

SHARD = 512  # pictures a file: a few seconds of work, the most a kill can cost
# Numbers of a training's streams of randomness: default_rng([seed, stream, ...]).
STREAMS = {"views": 1, "shuffle": 2, "dropout": 3, "diffusion": 4, "text_encoder": 5}
PROBED = 16  # pictures rendered anew to see whether the shards on disk are still of this world

Picture = Callable[[int, float, int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which views are rendered."""

    pictures: int  # views in all, the held-out ones among them
    size: int  # S, pixels a side
    held_out: int  # the last views are never trained on
    deepest: float  # scales are drawn from [0, deepest]
    workers: int  # rendering processes
    phrasings: int  # different captions per view

    def __post_init__(self):
        check_fields(self, "data")
        if not 0 < self.held_out < self.pictures:
            raise UserError(
                f"data.held_out must lie between 1 and data.pictures - 1 ({self.pictures - 1}), "
                f"got {self.held_out}"
            )
        if self.size < 8:
            raise UserError(f"data.size must be at least 8 pixels, got {self.size}")
        if not 0 < self.deepest <= DEEPEST:
            raise UserError(
                f"data.deepest must be above 0 and at most {DEEPEST:g}, where the world ends, got "
                f"{self.deepest}"
            )
        if self.workers < 1 or self.phrasings < 1:
            raise UserError(
                "data.workers and data.phrasings must be at least 1, got "
                f"{self.workers} and {self.phrasings}"
            )


def draw_views(config: DataConfig, seed: int) -> Views:
    """The views of a data set: n different worlds, scales spread evenly over [0, deepest]."""
    n = config.pictures
    rng = np.random.default_rng([seed, STREAMS["views"]])
    # Jittered cells, shuffled: even coverage of the scales in every part of the set.
    scales = rng.permutation((np.arange(n) + rng.random(n)) / n * config.deepest)
    seeds = rng.permutation(n).astype(np.int64) + seed * 1_000_003
    return Views(seeds, scales)


def render_views(
    folder: str | Path,
    config: DataConfig,
    seed: int,
    picture: Picture,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """Render every view not yet on disk, and open the whole set.

    Args:
      folder: where the shards live; made if absent.
      config: which views.
      seed: draws them.
      picture: (seed, scale, size) -> float [S, S, 3] in [-1, 1]; sent to other processes, so a
        function that can be imported by name.
      progress: told (pictures done, pictures in all) after each shard.

    Returns:
      uint8 [n, S, S, 3], in the order of `draw_views`.

    Raises:
      UserError: the folder holds other views.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    views = draw_views(config, seed)
    made_from = {
        "pictures": config.pictures,
        "size": config.size,
        "deepest": config.deepest,
        "seed": seed,
        "picture": f"{picture.__module__}.{picture.__qualname__}",
        "first_pictures": _digest_of_first(picture, views, config.size),
    }
    _claim(folder / "views.json", made_from)
    paths, jobs = [], []
    for start in range(0, config.pictures, SHARD):
        chosen = slice(start, min(start + SHARD, config.pictures))
        paths.append(folder / f"shard_{start // SHARD:05d}.npy")
        if not paths[-1].exists():
            jobs.append(
                (paths[-1], picture, views.seeds[chosen], views.scales[chosen], config.size)
            )
    done = config.pictures - sum(len(job[2]) for job in jobs)
    progress(done, config.pictures)
    # Spawned, not forked: a process that runs JAX has threads, which do not survive a fork.
    if jobs:
        with multiprocessing.get_context("spawn").Pool(min(config.workers, len(jobs))) as pool:
            for count in pool.imap_unordered(_render_shard, jobs):
                done += count
                progress(done, config.pictures)
    return np.concatenate([np.load(path) for path in paths])


def to_bytes(images: np.ndarray) -> np.ndarray:
    """[-1, 1] -> uint8, rounded; as `media.images.to_bytes`, without JAX in a render worker."""
    return np.clip(np.rint((images + 1.0) * 127.5), 0, 255).astype(np.uint8)


def from_bytes(pictures):
    """uint8 -> float32 in [-1, 1]; NumPy or JAX arrays."""
    return pictures.astype(np.float32) / np.float32(127.5) - np.float32(1.0)


def batch_indices(seed: int, step: int, batch: int, count: int) -> np.ndarray:
    """Which of `count` examples step `step` takes: int64 [batch].

    Every pass over the set is a fresh shuffle; a batch may straddle two passes.
    """
    places = np.arange(step * batch, (step + 1) * batch)
    return np.array([_shuffle(seed, place // count, count)[place % count] for place in places])


def prefetch(load: Callable[[int], object], first_step: int) -> Iterator[object]:
    """load(first_step), load(first_step + 1), ... with the next one always under way."""
    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(load, first_step)
        step = first_step
        while True:
            step += 1
            now, ahead = ahead, thread.submit(load, step)
            yield now.result()


@functools.lru_cache(maxsize=4)
def _shuffle(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, STREAMS["shuffle"], epoch]).permutation(count)


def _render_shard(job) -> int:
    path, picture, seeds, scales, size = job
    pictures = np.stack(
        [to_bytes(picture(int(s), float(scale), size)) for s, scale in zip(seeds, scales)]
    )
    unfinished = path.with_name(path.name + f".{os.getpid()}")
    with open(unfinished, "wb") as file:
        np.save(file, pictures)
    os.replace(unfinished, path)
    return len(pictures)


def _digest_of_first(picture: Picture, views: Views, size: int) -> str:
    """SHA-256 over the first views as they are rendered today.

    A world whose code has changed since the shards were made draws other worlds from the same
    seeds, and captions, which are made when needed, would describe pictures that are not there.
    """
    digest = hashlib.sha256()
    for seed, scale in zip(views.seeds[:PROBED], views.scales[:PROBED]):
        digest.update(to_bytes(picture(int(seed), float(scale), size)).tobytes())
    return digest.hexdigest()


def _claim(path: Path, made_from: dict) -> None:
    if not path.exists():
        path.write_text(json.dumps(made_from, indent=2) + "\n")
        return
    found = json.loads(path.read_text())
    different = [key for key in made_from if found.get(key) != made_from[key]]
    if different:
        key = different[0]
        raise UserError(
            f"{path.parent} holds other renders ({key}: {found.get(key)} there, {made_from[key]} "
            "wanted): choose another folder or delete this one"
        )
