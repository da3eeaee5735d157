"""Sets up JAX for a run: its platform and, on a cluster, its multi-host job."""

import sys

import jax

from pot_jax.errors import UserError, one_line


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
