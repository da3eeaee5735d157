"""The training loop: one step, and a phase of many.

A phase ends after `steps` steps or `minutes` minutes, whichever comes first. The learning rate
follows the progress towards that end, so that a run on a slow machine still ends with the rate
decayed. With `minutes` 0 the clock plays no part, and a resumed run ends in the same bytes as one
that was never stopped. With a clock, the number of steps taken is reported; repeating the run with
that number as `steps` repeats it on any machine of the same arithmetic.

Batches are split over the devices along their first axis; every device has all parameters.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pot_jax.errors import UserError
from pot_jax.parallel.mesh import AXIS, replicate, replicated
from pot_jax.runs.checkpoints import Checkpoints
from pot_jax.training.data import prefetch
from pot_jax.training.journal import Journal
from pot_jax.training.optimizers import learning_rate, make_optimizer
from pot_jax.training.settings import OptimizationSettings


class TrainState(NamedTuple):
    """All that a step changes. Saved states go by the names of these fields."""

    params: Any
    average: Any  # exponential moving average (EMA) of params
    optimizer: Any


# (params, batch, key) -> (loss [], {name: value []})
Loss = Callable[[Any, Any, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


def start_state(params: Any, settings: OptimizationSettings, mesh: Mesh) -> TrainState:
    """Returns the state of step 0, on all devices of `mesh`."""
    # Copies of its own: a step donates its state, and the caller's parameters, or one array
    # standing in two places, would be freed with it.
    params, average = (jax.tree.map(jnp.array, params) for _ in range(2))
    return replicate(TrainState(params, average, make_optimizer(settings).init(params)), mesh)


def make_step(loss: Loss, settings: OptimizationSettings, mesh: Mesh) -> Callable:
    """Returns the compiled train_step(state, batch, step, rate, key) -> (state, {name: value []}).

    `step` counts from 0; the randomness of a step is `fold_in(key, step)`.
    """
    optimizer = make_optimizer(settings)
    split, whole = NamedSharding(mesh, PartitionSpec(AXIS)), replicated(mesh)

    def train_step(state: TrainState, batch, step, rate, key):
        compute = jax.value_and_grad(loss, has_aux=True)
        (value, parts), gradients = compute(state.params, batch, jax.random.fold_in(key, step))
        direction, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
        params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)
        # A lower decay at first, so that the average forgets the random initial parameters.
        decay = jnp.minimum(settings.ema_decay, (1.0 + step) / (10.0 + step))
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.average, params)
        return TrainState(params, average, optimizer_state), {"loss": value, **parts}

    places = (whole, split, whole, whole, whole)
    return jax.jit(train_step, donate_argnums=0, in_shardings=places, out_shardings=whole)


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of training, ready to run."""

    name: str
    loss: Loss
    load_batch: Callable[[int], Any]  # step -> a pytree of arrays [batch_size, ...]
    settings: OptimizationSettings
    checkpoints: Checkpoints
    journal: Journal
    seed: int
    # (step, averaged params): pictures, scores, exports
    preview: Callable[[int, Any], None] = lambda step, params: None
    log_every: int = 20  # steps
    save_every: float = 300.0  # seconds
    preview_every: float = 600.0  # seconds
    stopping: Callable[[], bool] = lambda: False  # whether the machine is about to be taken away


def check_batch(name: str, settings: OptimizationSettings, mesh: Mesh) -> None:
    """Raises UserError where the batch of phase `name` cannot be split over the devices."""
    if settings.batch_size % mesh.size:
        raise UserError(
            f"{name}.optimization.batch_size: a batch of {settings.batch_size} does not divide "
            f"over {mesh.size} devices"
        )


def run_phase(phase: Phase, params: Any, mesh: Mesh) -> tuple[int, float, Any]:
    """Trains from `params`, or resumes from the phase's last saved state.

    Returns:
      (steps taken, seconds spent, averaged parameters).

    Raises:
      UserError: the batch does not divide over the devices; the loss is no longer finite.
      KeyboardInterrupt: `phase.stopping`; the state is saved.
    """
    settings = phase.settings
    limit = 60 * settings.minutes or math.inf  # seconds
    check_batch(phase.name, settings, mesh)
    state, step, before = start_state(params, settings, mesh), 0, 0.0
    if (found := phase.checkpoints.restore(state)) is not None:
        step, state, facts = found
        before = facts["seconds"]
    train_step = make_step(phase.loss, settings, mesh)
    key = jax.random.key(phase.seed)
    began = saved = previewed = time.monotonic()
    batches = prefetch(phase.load_batch, step)
    while True:
        seconds = before + time.monotonic() - began
        progress = max(step / settings.steps, seconds / limit)
        stopping = phase.stopping()
        due = stopping or time.monotonic() - saved > phase.save_every
        if due or progress >= 1:
            phase.checkpoints.save(step, state, {"seconds": seconds, "ended": progress >= 1})
            saved = time.monotonic()
        if progress >= 1:
            return step, seconds, state.average
        if stopping:
            raise KeyboardInterrupt
        if time.monotonic() - previewed > phase.preview_every:
            phase.preview(step, state.average)
            previewed = time.monotonic()
        rate = learning_rate(progress, settings)
        state, values = train_step(state, next(batches), step, rate, key)
        step += 1
        if step % phase.log_every == 0:
            values = {name: float(value) for name, value in values.items()}
            if not math.isfinite(values["loss"]):
                raise UserError(
                    f"{phase.name}: the loss is {values['loss']} at step {step}; start again in "
                    "a new folder, with a lower learning_rate"
                )
            seconds = before + time.monotonic() - began
            phase.journal.add(step, seconds, progress, settings.batch_size, rate, values)
