"""Runs the points of a sweep: any number of workers, on hosts that share a disk.

A worker takes a batch of points that differ only in seed, holds their folders by the claim file
that every run has, and samples them together. Whatever is finished stays; what a killed worker held
is resumed by the next one that comes by. A worker ends when every point is finished.
"""

import collections
import contextlib
import dataclasses
import functools
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pot_jax.config import how_to_load
from pot_jax.errors import UserError
from pot_jax.evaluation.evaluate import evaluate_zoom
from pot_jax.evaluation.points import POINT, RESULT, Point, finished
from pot_jax.media.files import located, remove_folder, write_json
from pot_jax.parallel.devices import fixed_settings
from pot_jax.pipelines.dry_run import picture_operations
from pot_jax.pipelines.zoom import PreparedZoom, of_seed, prepare, sampled
from pot_jax.runs.claims import InUse, check_free, held
from pot_jax.runs.zoom import file_names, write_zoom
from pot_jax.weights.load import open_model
from pot_jax.weights.model import Model

# What is kept of a point besides its record and figures: a run's files, its pictures, or nothing.
KEEP: dict[str, Callable[[str], bool]] = {
    "all": lambda name: True,
    "pictures": lambda name: name.endswith(".png"),
    "metrics": lambda name: False,
}
_WAIT = 5.0  # seconds between looks at points that other workers hold


@fixed_settings()
def work(
    points: Sequence[Point],
    workdir: str | os.PathLike,
    *,
    share: float = 0.0,
    keep: str = "all",
    together: int = 8,
    say: Callable[[str], None] = print,
) -> list[str]:
    """Runs points until every one of them is finished, here or by other workers.

    `workdir` is shared by all workers; this one begins at `share`, 0 to 1, of the points, samples
    at most `together` seeds as one batch, keeps what `KEEP[keep]` says, and tells `say` of every
    batch. Returns what failed, a line each: these points are left unfinished. Raises UserError if a
    model or a setting does not fit a point, or a folder holds something else: before anything is
    sampled; or if a folder cannot be written.
    """
    workdir, alike = located(workdir), collections.defaultdict(list)
    for point in points:
        check_free(workdir / point.name / POINT, what="point of a sweep")
        alike[_kind(point, "seed")].append(point)
    batches = [g[i : i + together] for g in alike.values() for i in range(0, len(g), together)]
    models = functools.cache(_Models)
    for batch in {(_kind(b[0], "prompts", "seed"), len(b)): b for b in batches}.values():
        _prepared(models, batch[0], len(batch), read=False)
    begin = int(share * len(batches))
    batches, failed = batches[begin:] + batches[:begin], {}
    while True:
        # What is finished stays so, and is not read again while others are waited for.
        left = [b for b in batches if not all(finished(p, workdir) or p.name in failed for p in b)]
        batches, done = left, sum(_ran(models, b, workdir, keep, say, failed) for b in left)
        if not batches:
            return list(failed.values())
        if not done:  # other workers hold all that is left: they may be killed
            time.sleep(_WAIT)


class _Models:
    """A model and an upscaler, opened; their weights are read once."""

    def __init__(self, model: str, upscaler: str, how: tuple):
        self._opened = open_model(model, **dict(how))
        self._upscaler = open_model(upscaler, dtype=dict(how)["dtype"]) if upscaler else None
        self.opened = self._opened.model, self._upscaler and self._upscaler.model

    @functools.cached_property
    def read(self) -> tuple[Model, Model | None]:
        return self._opened.read(), self._upscaler and self._upscaler.read()


def _prepared(models, point: Point, count: int, read=True) -> tuple[Model, PreparedZoom]:
    s = point.settings
    how = {**how_to_load(s), "loras": s.loras, "embeddings": s.embeddings}
    try:
        found = models(s.model, s.upscaler.path, tuple(how.items()))
        model, upscaler = found.read if read else found.opened
        return model, prepare(model, s, stated=point.stated, upscaler=upscaler, together=count)
    except UserError as error:
        raise UserError(f"sweep: {point.name}: {error}") from None


def _kind(point: Point, *without: str) -> str:
    settings = dataclasses.asdict(point.settings) | dict.fromkeys(without)
    return json.dumps([settings, sorted(point.stated)])


def _ran(
    models: Callable, batch: list[Point], workdir: Path, keep: str, say: Callable, failed: dict
) -> int:
    """Runs the points of a batch that are not finished, failed or held; returns how many."""
    with contextlib.ExitStack() as stack:
        mine = {}
        for point in batch:
            folder = workdir / point.name
            if finished(point, workdir) or point.name in failed:
                continue
            with contextlib.suppress(InUse):
                stack.enter_context(held(folder))
                if not finished(point, workdir):  # by another worker, since
                    point.claim(folder)
                    mine[folder] = point
        if mine:
            names, first = [point.name for point in mine.values()], batch[0]
            if len(mine) < len(batch):  # whose seeds the stated mesh need not divide
                settings = dataclasses.replace(first.settings, mesh="")
                first = dataclasses.replace(first, settings=settings)
            try:
                _run(models, first, mine, KEEP[keep])
                say(f"finished: {', '.join(names)}")
            except UserError as error:
                failed |= {name: f"{name}: {error}" for name in names}
                say(f"failed: {', '.join(names)}: {error}")
        return len(mine)


def _run(models: Callable, like: Point, mine: Mapping[Path, Point], keeps: Callable) -> None:
    """Samples the points of one batch together, and writes each one's files, its result last."""
    began, seeds = time.perf_counter(), [point.settings.seed for point in mine.values()]
    model, prepared = _prepared(models, like, len(mine))
    for folder, seed in zip(mine, seeds):
        of_seed(prepared, seed).claim(folder, what="point of a sweep")
    results = {}
    for folder, zoom in zip(mine, sampled(prepared, seeds, list(mine))):
        # A step's time is that of the batch; the point's is its share.
        share = zoom.timings["seconds_per_step"] / len(mine)
        zoom = dataclasses.replace(zoom, timings={**zoom.timings, "seconds_per_step": share})
        names = [name for name in file_names(zoom.geometry) if keeps(name)]
        pictures = write_zoom(zoom, folder, names=names)
        results[folder] = evaluate_zoom(zoom, pictures=pictures)
        results[folder]["scores"].pop("peak_bytes")  # of this worker so far, whatever it ran
    took = time.perf_counter() - began - zoom.timings["compile_seconds"]
    cost = picture_operations(prepared) | {"seconds": took / len(mine)}
    cost |= {"defaults": dict(model.sampler), "peak_bytes": zoom.timings["peak_bytes"]}
    for folder, result in results.items():
        remove_folder(folder / "state")
        used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        write_json(folder / RESULT, {**result, "cost": cost | {"disk_bytes": used}})
