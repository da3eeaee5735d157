"""Shows a run's progress on stderr."""

from tqdm import tqdm


class ProgressBar:
    """A progress bar: steps done, time left, and "compiling" until the first steps are done."""

    def __init__(self):
        self._bar = None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self._bar:
            self._bar.close()

    def __call__(self, done: int, total: int) -> None:
        """Shows that `done` of `total` steps are done; the first call comes before compilation."""
        if not self._bar:
            # A resumed run's speed and time left count its own steps only.
            self._bar = tqdm(
                total=total, initial=done, unit="step", desc="compiling", dynamic_ncols=True
            )
            return
        if done > self._bar.n:
            self._bar.set_description("sampling", refresh=False)
        self._bar.update(done - self._bar.n)
        self._bar.refresh()

    def say(self, what: str) -> None:
        """Shows what is being done after the last step."""
        if self._bar:
            self._bar.set_description(what)
