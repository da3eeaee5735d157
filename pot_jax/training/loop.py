"""The training loop: one step, and a phase of many.

A phase ends after `steps` steps or `minutes` minutes, whichever comes first. The learning rate
follows the progress towards that end, so that a run on a slow machine still ends with the rate
decayed. With `minutes` 0 the clock plays no part, and a resumed run ends in the same bytes as one
that was never stopped. With a clock, the number of steps taken is reported; repeating the run with
that number as `steps` repeats it on any machine of the same arithmetic. Compiling does not count.

The examples are on the devices, whole. The host chooses a batch by number and starts steps ahead of
the devices, which gather the batch, follow the learning rate, and never wait for the host.
Batches are split over the devices along their first axis; every device has all parameters.
"""

import collections
import dataclasses
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from pot_jax.errors import UserError
from pot_jax.parallel.mesh import replicate, replicated, split_over
from pot_jax.runs.checkpoints import Checkpoints
from pot_jax.runs.interrupts import at_saved_states
from pot_jax.training.journal import Journal
from pot_jax.training.optimizers import learning_rate, make_optimizer
from pot_jax.training.settings import IntervalSettings, OptimizationSettings


class TrainState(NamedTuple):
    """All that a step changes. Saved states go by the names of these fields."""

    params: Any
    average: Any  # exponential moving average (EMA) of params
    optimizer: Any


# (params, batch, key) -> (loss [], {name: value []})
Loss = Callable[[Any, Any, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]
# (all data, what was chosen of them) -> a batch, a pytree of arrays [batch_size, ...]
Gather = Callable[[Any, Any], Any]
AHEAD = 2  # steps started before their forerunners' end: enough to keep a device busy


def make_start(settings: OptimizationSettings, mesh: Mesh) -> Callable[[Any], TrainState]:
    """Returns params -> the state of step 0, on all devices of `mesh`, jitted as one program."""

    def start(params):
        # Copies: a step donates its state, and would free the caller's parameters with it.
        params, average = (jax.tree.map(jnp.array, params) for _ in range(2))
        return TrainState(params, average, make_optimizer(settings).init(params))

    return jax.jit(start, out_shardings=replicated(mesh))


def make_step(loss: Loss, settings: OptimizationSettings, mesh: Mesh, gather: Gather) -> Callable:
    """Returns the jitted train_step(state, data, chosen, step, clock, key) -> (state, values).

    `step` counts from 0; the randomness of a step is `fold_in(key, step)`. `clock` is the part of
    the phase's minutes that has passed. `values` are {name: []}, with "loss" and "learning_rate".
    """
    optimizer = make_optimizer(settings)

    def train_step(state: TrainState, data, chosen, step, clock, key):
        batch, key = gather(data, chosen), jax.random.fold_in(key, step)
        (value, parts), gradients = jax.value_and_grad(loss, has_aux=True)(state.params, batch, key)
        direction, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
        progress = jnp.maximum(step.astype(jnp.float32) / settings.steps, clock)
        rate = learning_rate(progress, settings)
        params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)
        # A lower decay at first, so that the average forgets the random initial parameters.
        decay = jnp.minimum(settings.ema_decay, (1.0 + step) / (10.0 + step))
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.average, params)
        values = {"loss": value, "learning_rate": rate, **parts}
        return TrainState(params, average, optimizer_state), values

    whole = replicated(mesh)
    places = (whole, whole, split_over(mesh), whole, whole, whole)
    return jax.jit(train_step, donate_argnums=0, in_shardings=places, out_shardings=whole)


class Ahead:
    """A jitted function that compiles in the background; a call waits until it has.

    Tracing comes before: it holds the interpreter's lock, and reads settings of this thread.
    """

    def __init__(self, jitted: Callable, *like: Any):
        """Starts compiling for arguments of the shapes and dtypes of `like`."""
        lowered, self._compiled = jitted.lower(*like), Future()
        # A daemon: a run that is told to stop does not wait for a compilation.
        threading.Thread(target=self._compile, args=(lowered,), daemon=True).start()

    def _compile(self, lowered) -> None:
        try:
            self._compiled.set_result(lowered.compile())
        except BaseException as error:  # whoever waits gets it
            self._compiled.set_exception(error)

    def ready(self) -> Callable:
        """Waits for the compiled function and returns it."""
        return self._compiled.result()

    def __call__(self, *args: Any) -> Any:
        return self.ready()(*args)


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of training, ready to run."""

    name: str
    loss: Loss
    choose: Callable[[int], Any]  # step -> a pytree of small arrays [batch_size, ...]
    settings: OptimizationSettings
    checkpoints: Checkpoints
    journal: Journal
    seed: int
    gather: Gather = lambda data, chosen: chosen  # what was chosen is the batch
    # (step, averaged params): pictures, scores, exports
    preview: Callable[[int, Any], None] = lambda step, params: None
    intervals: IntervalSettings = IntervalSettings()


def check_batch(name: str, settings: OptimizationSettings, mesh: Mesh) -> None:
    """Raises UserError where the batch of phase `name` cannot be split over the devices."""
    if settings.batch_size % mesh.size:
        wrong = f"a batch of {settings.batch_size} does not divide over {mesh.size} devices"
        raise UserError(f"{name}.optimization.batch_size: {wrong}")


class PhaseRun:
    """A phase whose saved state is read, and whose step compiles while others still train."""

    def __init__(self, phase: Phase, params: Any, data: Any, mesh: Mesh):
        """Reads the saved state and starts compiling: `params` and `data` may be shapes.

        Raises UserError if the batch does not divide over the devices, or no state can be read.
        """
        check_batch(phase.name, phase.settings, mesh)
        self._phase, self._mesh = phase, mesh
        start = make_start(phase.settings, mesh)
        shapes = jax.eval_shape(start, params)
        like = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
        self._saved = phase.checkpoints.restore(like)
        self.ended = self._saved is not None and self._progress(*self._saved[::2]) >= 1
        if self._saved is None:
            self._start = Ahead(start, params)
        if not self.ended:
            step = make_step(phase.loss, phase.settings, mesh, phase.gather)
            scalars = (jnp.int32(0), jnp.float32(0), jax.random.key(0))
            self._step = Ahead(step, shapes, data, phase.choose(0), *scalars)

    def _progress(self, step: int, facts: dict[str, float]) -> float:
        settings = self._phase.settings
        limit = 60 * settings.minutes or math.inf  # seconds
        return max(step / settings.steps, facts["seconds"] / limit)

    def run(self, start: Callable[[], Any], data: Any) -> tuple[int, float, Any]:
        """Trains from parameters `start()`, or resumes from the saved state, on `gather`'s `data`.

        Returns (steps taken, seconds spent, averaged parameters). Raises UserError if the loss is
        no longer finite, Stopped by a signal; on SIGTERM and SIGHUP the state is saved.
        """
        phase, settings, intervals = self._phase, self._phase.settings, self._phase.intervals
        step, state, facts = self._saved or (0, None, {"seconds": 0.0})
        if self.ended:
            return step, facts["seconds"], state.average
        state = self._start(start()) if state is None else replicate(state, self._mesh)
        self._saved = None
        train_step, key = self._step.ready(), jax.random.key(phase.seed)
        started = collections.deque()
        saved = previewed = time.monotonic()
        began = saved - facts["seconds"]
        with at_saved_states() as stopping:
            while True:
                chosen = phase.choose(step)
                facts = {"seconds": time.monotonic() - began}
                progress = self._progress(step, facts)
                told = stopping()
                due = told or time.monotonic() - saved > 60 * intervals.checkpoint_minutes
                if due or progress >= 1:
                    phase.checkpoints.save(step, state, {**facts, "ended": progress >= 1})
                    saved = time.monotonic()
                if progress >= 1:
                    return step, facts["seconds"], state.average
                if told:
                    raise KeyboardInterrupt
                if time.monotonic() - previewed > 60 * intervals.preview_minutes:
                    phase.preview(step, state.average)
                    previewed = time.monotonic()
                clock = np.float32(progress if settings.minutes else 0)
                state, values = train_step(state, data, chosen, np.int32(step), clock, key)
                step += 1
                # No further ahead of the devices than that, or the clock would be theirs no longer.
                started.append(values["loss"])
                if len(started) > AHEAD:
                    started.popleft().block_until_ready()
                if step % intervals.log_steps == 0:
                    values = {name: float(value) for name, value in values.items()}
                    if not math.isfinite(values["loss"]):
                        wrong = f"{phase.name}: the loss is {values['loss']} at step {step}"
                        how = "start again in a new folder, with a lower learning_rate"
                        raise UserError(f"{wrong}; {how}")
                    seconds, rate = time.monotonic() - began, values.pop("learning_rate")
                    phase.journal.add(step, seconds, progress, settings.batch_size, rate, values)
