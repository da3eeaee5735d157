"""Chooses the timesteps of a run: S of the T training timesteps, noisiest first.

The three ways are those of arXiv 2305.08891, table 2: `linspace` includes both ends of the table,
`leading` (with an offset of 0) its clean end, `trailing` its noisy end.
"""

import numpy as np

from pot_jax.diffusion.schedule import ScheduleConfig, noise_to_signal
from pot_jax.errors import UserError


def spaced_timesteps(
    config: ScheduleConfig, steps: int, spacing: str, *, whole: bool = True
) -> np.ndarray:
    """Returns the training timesteps of a run of S steps: float32 [S], noisiest first.

    Args:
      config: the schedule; `steps_offset` shifts leading spacing.
      steps: S, 1 to T.
      spacing: one of TIMESTEP_SPACINGS.
      whole: round linspace's timesteps; Euler's solvers leave them fractional.

    Raises:
      UserError: S does not fit the schedule.
    """
    total = config.num_train_timesteps
    check_steps(config, steps)
    if spacing == "linspace":
        timesteps = np.linspace(0, total - 1, steps)[::-1]
        timesteps = timesteps.round() if whole else timesteps
    elif spacing == "leading":
        timesteps = np.arange(steps)[::-1] * (total // steps) + config.steps_offset
    else:
        timesteps = _trailing(total, total, steps)
    _check_inside(config, steps, timesteps)
    return timesteps.astype(np.float32)


def interval_timesteps(config: ScheduleConfig, steps: int, spacing: str) -> np.ndarray:
    """Returns the timesteps for DPM-Solver++: the noisy ends of S intervals of the table.

    float32 [S], noisiest first. Unlike `spaced_timesteps`, linspace and leading spacing omit the
    cleanest of S + 1 timesteps, and `lambda_min_clipped` may remove the noisy end (trailing spacing
    then keeps its stride, and the run is shorter). Raises UserError if S does not fit the schedule.
    """
    check_steps(config, steps)
    log_snr = -np.log(noise_to_signal(config))  # falls with t
    lowest = -np.inf if config.lambda_min_clipped is None else config.lambda_min_clipped
    last = int(np.sum(log_snr >= lowest))
    if last == 0:
        raise UserError(
            f"lambda_min_clipped={config.lambda_min_clipped} leaves no timestep: the schedule's "
            f"log(alpha/sigma) ends at {log_snr[0]:.3f}"
        )
    if spacing == "linspace":
        timesteps = np.linspace(0, last - 1, steps + 1).round()[:0:-1]
    elif spacing == "leading":
        timesteps = np.arange(steps + 1)[:0:-1] * (last // (steps + 1)) + config.steps_offset
    else:
        timesteps = _trailing(last, config.num_train_timesteps, steps)
    _check_inside(config, steps, timesteps)
    return timesteps.astype(np.float32)


def distilled_timesteps(config: ScheduleConfig, steps: int) -> np.ndarray:
    """Returns the timesteps for latent consistency models.

    The model was distilled at timesteps k-1, 2k-1, ..., with k = T // `original_inference_steps`.
    Returns S of them, evenly spaced, starting at the noisiest: float32 [S], noisiest first. Raises
    UserError if S does not fit the schedule.
    """
    check_steps(config, steps)
    original = config.original_inference_steps
    if original > config.num_train_timesteps:
        raise UserError(
            f"original_inference_steps: expected 1 to {config.num_train_timesteps}, the number of "
            f"training timesteps, got {original}"
        )
    if steps > original:
        raise UserError(
            f"solver lcm: expected 1 to {original} steps, the scheduler's "
            f"original_inference_steps, got {steps}"
        )
    stride = config.num_train_timesteps // original
    every = np.arange(original, 0, -1) * stride - 1
    chosen = np.floor(np.linspace(0, original, steps, endpoint=False)).astype(int)
    return every[chosen].astype(np.float32)


def _trailing(last: int, total: int, steps: int) -> np.ndarray:
    # The rounding errors of np.arange matter, since diffusers rounds its result to whole timesteps,
    # so the same call is made here. It may also return one timestep too many, near 0: dropped.
    timesteps = np.arange(last, 0, -total / steps)[:steps].round() - 1
    return timesteps[timesteps >= 0]


def check_steps(config: ScheduleConfig, steps: int) -> None:
    """Raises `UserError` unless S is a whole number from 1 to T."""
    if not isinstance(steps, int | np.integer) or isinstance(steps, bool):
        raise UserError(f"steps: expected a whole number, got {steps!r}")
    if not 1 <= steps <= config.num_train_timesteps:
        raise UserError(
            f"steps: expected 1 to {config.num_train_timesteps}, the number of training timesteps, "
            f"got {steps}"
        )


def _check_inside(config: ScheduleConfig, steps: int, timesteps: np.ndarray) -> None:
    if timesteps[0] > config.num_train_timesteps - 1:
        raise UserError(
            f"{steps} steps with steps_offset {config.steps_offset} start at timestep "
            f"{timesteps[0]:g}, past the last of the schedule ({config.num_train_timesteps - 1}); "
            "use fewer steps"
        )
    if np.any(np.diff(timesteps) >= 0):
        raise UserError(
            f"{steps} steps visit a timestep twice: the schedule has only "
            f"{config.num_train_timesteps}; use fewer steps"
        )
