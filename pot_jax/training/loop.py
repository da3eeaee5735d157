"""One training step, and a phase of many: what all phases of a training share.

A phase ends after `steps` steps or `minutes` minutes, whichever comes first, and the learning rate
follows the progress towards that end, so that a run on a slow machine still ends with the rate
decayed. With `minutes` 0 the clock plays no part and a resumed run ends in the same bytes as one
that was never stopped; with a clock the step count it reached is reported, and repeating the run
with that count as `steps` repeats it on any machine of the same arithmetic.

Batches are split over the devices along their first axis, parameters are on all of them.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from pot_jax.checks import check_fields
from pot_jax.errors import UserError
from pot_jax.runs.checkpoints import Checkpoints
from pot_jax.training.data import prefetch
from pot_jax.training.journal import Journal

AXIS = "data"  # of the mesh: batches are split along it
TICKS = 10_000  # optax's schedules count steps; ours is a curve over progress 0..1


@dataclasses.dataclass(frozen=True)
class Optimisation:
    """How one phase descends, and how long."""

    batch: int  # examples a step, over all devices
    learning_rate: float  # at its peak
    steps: int  # at most
    minutes: float = 0.0  # at most; 0 is no limit
    warmup: float = 0.05  # the part of the phase in which the rate rises
    average: float = 0.998  # decay of the running mean of the parameters, which is what is kept
    clip: float = 1.0  # global norm of the gradients
    beta2: float = 0.99  # Adam's memory of squares: short, as the runs are
    optimizer: str = "adam"  # a name in OPTIMIZERS

    def __post_init__(self):
        check_fields(self, "descent")
        if self.optimizer not in OPTIMIZERS:
            raise UserError(
                f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}"
            )
        for name in ("batch", "steps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("warmup", "average", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must be from 0 to below 1, got {getattr(self, name)}")
        if self.minutes < 0:
            raise UserError(f"minutes must not be negative, got {self.minutes}")


class TrainState(NamedTuple):
    """All that a step changes."""

    params: Any
    average: Any  # running mean of params
    optimizer: Any


# (params, batch, key) -> (loss [], {name: value []})
Loss = Callable[[Any, Any, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


def _adam(settings: Optimisation) -> optax.GradientTransformation:
    return optax.scale_by_adam(b2=settings.beta2)


def _muon(settings: Optimisation) -> optax.GradientTransformation:
    """Muon on what maps features to features, Adam with Nesterov's momentum on the rest.

    With updates as large as Adam's (`consistent_rms`, arXiv 2502.16982), so that one learning rate
    serves both.
    """
    return optax.chain(
        optax.contrib.muon(
            1.0,
            consistent_rms=0.2,
            adam_b2=settings.beta2,
            muon_weight_dimension_numbers=_features_to_features,
        ),
        optax.scale(-1.0),  # back to a direction: `step` takes it away
    )


# Layers whose inputs or outputs are pixels, latents or tokens instead of features.
_ENDS = ("conv_in", "conv_out", "quant_conv", "post_quant_conv", "heads")


def _features_to_features(params: Any) -> Any:
    """Which parameters are matrices of features for Muon, and along which axes; None for others."""

    def one(path, x):
        names = {entry.key for entry in path}
        if "kernel" not in names or names & set(_ENDS) or x.ndim < 2:
            return None
        *inputs, output = range(x.ndim)  # [in, out], or of a convolution [h, w, in, out]
        return optax.contrib.MuonDimensionNumbers(tuple(inputs), (output,))

    return jax.tree_util.tree_map_with_path(one, params)


OPTIMIZERS = {"adam": _adam, "muon": _muon}


def make_optimizer(settings: Optimisation) -> optax.GradientTransformation:
    """The named optimizer on clipped gradients; the learning rate is applied by the step."""
    return optax.chain(
        optax.clip_by_global_norm(settings.clip), OPTIMIZERS[settings.optimizer](settings)
    )


def start_state(params: Any, settings: Optimisation, mesh: Mesh) -> TrainState:
    """The state before the first step, on every device."""
    # Copies: the step takes its state's arrays to write the next state into, and the caller's
    # parameters, or one array standing in two places, would go with them.
    params, average = (jax.tree.map(jnp.array, params) for _ in range(2))
    state = TrainState(params, average, make_optimizer(settings).init(params))
    return jax.device_put(state, NamedSharding(mesh, P()))


def learning_rate(progress: float, settings: Optimisation) -> float:
    """Linear warm-up, then half a cosine to zero; progress 0 is the start, 1 the end."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, settings.learning_rate, max(int(settings.warmup * TICKS), 1), TICKS
    )
    return float(schedule(min(progress, 1.0) * TICKS))


def make_step(loss: Loss, settings: Optimisation, mesh: Mesh) -> Callable:
    """step(state, batch, number, rate, key) -> (state, {name: value []}), compiled once.

    `number` counts steps from 0; the randomness of a step is `fold_in(key, number)`.
    """
    optimizer = make_optimizer(settings)
    split, whole = NamedSharding(mesh, P(AXIS)), NamedSharding(mesh, P())

    def step(state: TrainState, batch, number, rate, key):
        gradient = jax.value_and_grad(loss, has_aux=True)
        (value, parts), slopes = gradient(state.params, batch, jax.random.fold_in(key, number))
        direction, optimizer_state = optimizer.update(slopes, state.optimizer, state.params)
        params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)
        # A short memory at first, so that the mean does not hold the random start.
        decay = jnp.minimum(settings.average, (1.0 + number) / (10.0 + number))
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.average, params)
        return TrainState(params, average, optimizer_state), {"loss": value, **parts}

    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(whole, split, whole, whole, whole),
        out_shardings=whole,
    )


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of training, ready to run."""

    name: str
    loss: Loss
    load_batch: Callable[[int], Any]  # step number -> a pytree of arrays [batch, ...]
    settings: Optimisation
    checkpoints: Checkpoints
    journal: Journal
    seed: int
    # (step, averaged params): pictures, scores, exports
    visit: Callable[[int, Any], None] = lambda step, params: None
    log_every: int = 20  # steps
    save_every: float = 300.0  # seconds
    visit_every: float = 600.0  # seconds
    stopping: Callable[[], bool] = lambda: False  # whether the machine is about to be taken away


def check_batch(name: str, settings: Optimisation, mesh: Mesh) -> None:
    """Raises UserError where the batch of phase `name` cannot be split over the devices."""
    if settings.batch % mesh.size:
        raise UserError(
            f"{name}: a batch of {settings.batch} does not divide over {mesh.size} devices"
        )


def run_phase(phase: Phase, params: Any, mesh: Mesh) -> tuple[int, float, Any]:
    """Train from `params`, or from where the saved state of this phase stands.

    Returns:
      (steps taken, seconds spent, averaged parameters).

    Raises:
      UserError: the batch does not divide over the devices; the loss is no longer finite.
      KeyboardInterrupt: `phase.stopping`; the state is saved.
    """
    settings = phase.settings
    check_batch(phase.name, settings, mesh)
    state, number, before = start_state(params, settings, mesh), 0, 0.0
    if (found := phase.checkpoints.restore(state)) is not None:
        number, state, facts = found
        before = facts["seconds"]
    step = make_step(phase.loss, settings, mesh)
    key = jax.random.key(phase.seed)
    began = saved = visited = time.monotonic()
    batches = prefetch(phase.load_batch, number)
    while True:
        seconds = before + time.monotonic() - began
        progress = _progress(number, seconds, settings)
        stopping = phase.stopping()
        due = stopping or time.monotonic() - saved > phase.save_every
        if due or progress >= 1:
            phase.checkpoints.save(number, state, {"seconds": seconds, "ended": progress >= 1})
            saved = time.monotonic()
        if progress >= 1:
            return number, seconds, state.average
        if stopping:
            raise KeyboardInterrupt
        if time.monotonic() - visited > phase.visit_every:
            phase.visit(number, state.average)
            visited = time.monotonic()
        rate = learning_rate(progress, settings)
        state, values = step(state, next(batches), number, rate, key)
        number += 1
        if number % phase.log_every == 0:
            values = {name: float(value) for name, value in values.items()}
            if not jnp.isfinite(values["loss"]):
                raise UserError(
                    f"{phase.name}: the loss is {values['loss']} at step {number}; lower "
                    "learning_rate and start again from the last saved step"
                )
            seconds = before + time.monotonic() - began
            phase.journal.add(number, seconds, progress, settings.batch, rate, values)


def _progress(number: int, seconds: float, settings: Optimisation) -> float:
    by_clock = seconds / (60 * settings.minutes) if settings.minutes else 0.0
    return max(number / settings.steps, by_clock)
