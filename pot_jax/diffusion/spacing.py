"""Chooses the timesteps of a run: S of the T training timesteps, noisiest first.

The three ways are those of arXiv 2305.08891, table 2: `linspace` includes both ends of the table,
`leading` (with an offset of 0) its clean end, `trailing` its noisy end.
"""

import numpy as np

from pot_jax.checks import checked, require
from pot_jax.diffusion.schedule import ScheduleConfig, noise_to_signal
from pot_jax.errors import UserError


def spaced_timesteps(
    config: ScheduleConfig, steps: int, spacing: str, *, whole: bool = True
) -> np.ndarray:
    """Returns the training timesteps of a run of S steps: float32 [S], noisiest first.

    S is 1 to T, `spacing` one of TIMESTEP_SPACINGS; the schedule's `steps_offset` shifts leading
    spacing. `whole` rounds linspace's timesteps, which Euler's solvers leave fractional. Raises
    UserError if S does not fit the schedule.
    """
    check_steps(config, steps)
    return _spaced(config, steps, spacing, config.num_train_timesteps, whole=whole)


def interval_timesteps(config: ScheduleConfig, steps: int, spacing: str) -> np.ndarray:
    """Returns the timesteps for DPM-Solver++: the noisy ends of S intervals of the table.

    float32 [S], noisiest first. Unlike `spaced_timesteps`, linspace and leading spacing omit the
    cleanest of S + 1 timesteps, and `lambda_min_clipped` may remove the noisy end (trailing spacing
    then keeps its stride, and the run is shorter). Raises UserError if S does not fit the schedule.
    """
    check_steps(config, steps)
    log_snr = -np.log(noise_to_signal(config))  # falls with t
    lowest = -np.inf if config.lambda_min_clipped is None else config.lambda_min_clipped
    if not (last := int(np.sum(log_snr >= lowest))):
        end = f"the schedule's log(alpha/sigma) ends at {log_snr[0]:.3f}"
        raise UserError(f"lambda_min_clipped={lowest} leaves no timestep: {end}")
    return _spaced(config, steps, spacing, last, omitted=1)


def distilled_timesteps(config: ScheduleConfig, steps: int) -> np.ndarray:
    """Returns the timesteps for latent consistency models.

    The model was distilled at timesteps k-1, 2k-1, ..., with k = T // `original_inference_steps`.
    Returns S of them, evenly spaced, starting at the noisiest: float32 [S], noisiest first. Raises
    UserError if S does not fit the schedule.
    """
    check_steps(config, steps)
    original, total = config.original_inference_steps, config.num_train_timesteps
    expected = f"1 to {total}, the number of training timesteps"
    require(original <= total, "original_inference_steps", expected, original)
    expected = f"1 to {original} steps, the scheduler's original_inference_steps"
    require(steps <= original, "solver lcm", expected, steps)
    stride = total // original
    every = np.arange(original, 0, -1) * stride - 1
    chosen = np.floor(np.linspace(0, original, steps, endpoint=False)).astype(int)
    return every[chosen].astype(np.float32)


def check_steps(config: ScheduleConfig, steps: int) -> None:
    """Raises `UserError` unless S is a whole number from 1 to T."""
    most = config.num_train_timesteps
    fits = 1 <= checked(steps, int, "steps") <= most
    require(fits, "steps", f"1 to {most}, the number of training timesteps", steps)


def _spaced(config, steps, spacing, last, *, omitted=0, whole=True) -> np.ndarray:
    """Spaces S of the first `last` timesteps; `omitted` more, at the clean end, are left out."""
    count = steps + omitted
    if spacing == "linspace":
        timesteps = np.linspace(0, last - 1, count)[omitted:][::-1]
        timesteps = timesteps.round() if whole else timesteps
    elif spacing == "leading":
        timesteps = np.arange(omitted, count)[::-1] * (last // count) + config.steps_offset
    else:
        # The rounding errors of np.arange matter, since diffusers rounds its result to whole
        # timesteps, so the same call is made here. It may return one too many, near 0: dropped.
        timesteps = np.arange(last, 0, -config.num_train_timesteps / steps)[:steps].round() - 1
        timesteps = timesteps[timesteps >= 0]
    total = config.num_train_timesteps
    if timesteps[0] > total - 1:
        raise UserError(
            f"{steps} steps with steps_offset {config.steps_offset} start at timestep "
            f"{timesteps[0]:g}, past the last of the schedule ({total - 1}); use fewer steps"
        )
    if np.any(np.diff(timesteps) >= 0):
        reason = f"the schedule has only {total}"
        raise UserError(f"{steps} steps visit a timestep twice: {reason}; use fewer steps")
    return timesteps.astype(np.float32)
