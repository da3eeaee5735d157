"""Setting JAX up for a run, and telling the user how it goes."""

import sys
from collections.abc import Callable

import jax
from tqdm import tqdm

from pot_jax.errors import UserError


def set_up(platform: str | None = None, distributed: bool = False) -> None:
    """Chooses the platform and joins a multi-host job. Call before any array is made.

    Args:
      platform: "cpu", "gpu" or "tpu"; None leaves the choice to JAX.
      distributed: whether this is one process of several (jax.distributed.initialize reads the
        cluster's environment: Cloud TPU, Slurm, Open MPI, Kubernetes).

    Raises:
      UserError: the platform is not there.
    """
    if platform:
        jax.config.update("jax_platforms", {"gpu": "cuda"}.get(platform, platform))
    try:
        if distributed:
            jax.distributed.initialize()
        devices = jax.devices()
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--devices: no {platform or 'device'} here: {reason}") from error
    print(f"running on {len(devices)} x {devices[0].device_kind}", file=sys.stderr)


class Progress:
    """A progress bar on stderr: steps done, time left, and "compiling" until the first are done."""

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

    def of(self, what: str) -> Callable[[int, int], None]:
        """A progress callback for later work, shown in words on the same bar."""
        return lambda done, total: self.say(f"{what}, {done} of {total} steps")

    def say(self, what: str) -> None:
        """Shows what is going on after the last step."""
        self._bar.set_description(what)
