"""Callbacks that show a run while it works: a contact sheet in its folder, and TensorBoard."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator

import numpy as np

from pot_jax.media.images import contact_sheet, save_png
from pot_jax.parallel import hosts
from pot_jax.pipelines.job import Watched

Watcher = Callable[[Watched], None]


def preview(path: str | os.PathLike, every: int, then: Watcher | None) -> Watcher:
    """Returns a callback that writes the first sample's contact sheet every `every` steps.

    It calls `then` first, if that is one.
    """

    def write(seen: Watched) -> None:
        if then:
            then(seen)
        if _due(seen, every):
            sheet = contact_sheet(seen.pictures()[0])  # on every host: they deliver together
            hosts.by_first(functools.partial(save_png, path, sheet))

    return write


@contextlib.contextmanager
def tensorboard(folder: str, every: int) -> Iterator[Watcher]:
    """Yields a callback that logs to TensorBoard: `disagreement`, `seconds_per_step`, `preview`.

    They are of each step, each chunk, and every `every` steps (0: never), numbered from 1.
    """
    from tensorboardX import SummaryWriter  # an extra, which `main` has looked for

    with contextlib.ExitStack() as closing:
        # Once there is something to log: before, a run's own folder has to be empty.
        opened = functools.cache(lambda: closing.enter_context(SummaryWriter(folder)))

        def log(seen: Watched) -> None:
            sheet = contact_sheet(seen.pictures()[0]) if _due(seen, every) else None  # as above
            hosts.by_first(functools.partial(write, seen, sheet))

        def write(seen: Watched, sheet: np.ndarray | None) -> None:
            writer, done = opened(), int(seen.steps[-1]) + 1
            for step, values in zip(seen.steps.tolist(), seen.disagreement):
                writer.add_scalar("disagreement", float(np.mean(values)), step + 1)
            writer.add_scalar("seconds_per_step", seen.seconds, done)
            if sheet is not None:
                writer.add_image("preview", sheet, done, dataformats="HWC")
            writer.flush()

        yield log


def _due(seen: Watched, every: int) -> bool:
    return every > 0 and (seen.steps[-1] + 1) // every > seen.steps[0] // every
