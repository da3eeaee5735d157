"""Sets up JAX for a run: its platform, its multi-host job, its cache, and its own settings."""

import contextlib
import sys
from collections.abc import Iterator

import jax
from jax.sharding import AbstractMesh, use_abstract_mesh

from pot_jax.errors import UserError, one_line

# Settings of JAX that decide the pictures, or without which the programs do not run -> the value
# that they have within the public functions. A user may have set others for code of his own.
FIXED = {
    "default_prng_impl": "threefry2x32",
    "threefry_partitionable": True,
    "enable_x64": False,
    "numpy_rank_promotion": "allow",
    "numpy_dtype_promotion": "standard",
    "transfer_guard": "allow",
    "disable_jit": False,
}


@contextlib.contextmanager
def fixed_settings() -> Iterator[None]:
    """Gives JAX the settings in `FIXED` and no mesh, in this thread; then restores the user's.

    Every public function that computes is decorated with `@fixed_settings()`.
    """
    with contextlib.ExitStack() as stack:
        for name, value in FIXED.items():
            stack.enter_context(getattr(jax, name)(value))
        stack.enter_context(use_abstract_mesh(AbstractMesh((), ())))
        yield


def set_up(platform: str | None = None, distributed: bool = False) -> None:
    """Chooses the platform and joins a multi-host job. Call before any array is made.

    Args:
      platform: "cpu", "gpu" or "tpu"; None leaves the choice to JAX.
      distributed: whether this is one process of several (jax.distributed.initialize reads the
        cluster's environment: Cloud TPU, Slurm, Open MPI, Kubernetes).

    Raises:
      UserError: the platform is not available.
    """
    if platform:
        jax.config.update("jax_platforms", {"gpu": "cuda"}.get(platform, platform))
    try:
        if distributed:
            jax.distributed.initialize()
        devices = jax.devices()
    except (RuntimeError, ValueError) as error:
        reason = one_line(error)
        raise UserError(f"--devices: no {platform or 'device'} here: {reason}") from error
    print(f"running on {len(devices)} x {devices[0].device_kind}", file=sys.stderr)
