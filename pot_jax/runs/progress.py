"""Shows a run's progress on stderr: a bar for each stage, or lines where it is not a terminal."""

import contextlib
import sys
import time
from collections.abc import Callable

from tqdm import tqdm

# (stage in words, what is done of it, all of it); the first call of a stage comes before its work.
Report = Callable[[str, int, int], None]

_EVERY = 10.0  # seconds between lines


def silent(stage: str, done: int, total: int) -> None:
    """Reports nothing."""


class ProgressBar(contextlib.AbstractContextManager):
    """A `Report`: how much is done, the speed, and the time left, of one stage after another."""

    def __init__(self):
        self._stage, self._bar, self._said = "", tqdm(disable=True), 0.0

    def __exit__(self, *exception):
        self._bar.close()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Shows that `done` of `total` of a stage are done."""
        if stage != self._stage:
            self._bar.close()
            self._stage, self._said = stage, 0.0
            # A resumed run's speed and time left count its own steps only.
            options = {"dynamic_ncols": True, "disable": not sys.stderr.isatty()}
            self._bar = tqdm(total=total, initial=done, desc=stage, **options)
            self._began, self._first = time.monotonic(), done
        self._bar.update(done - self._bar.n)
        now, fresh = time.monotonic(), done - self._first
        if not self._bar.disable or (fresh and done < total and now - self._said < _EVERY):
            return
        self._said, each = now, (now - self._began) / max(fresh, 1)
        speed = f", {each:.2g} s each, {each * (total - done):.0f} s left" if fresh else ""
        print(f"{self._stage}: {done} of {total}{speed}", file=sys.stderr, flush=True)
