"""Optimizers and the learning rate of a phase of training."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from pot_jax.training.settings import OptimizationSettings

TICKS = 10_000  # optax's schedules count steps; ours is a curve over progress 0..1
# Layers whose inputs or outputs are pixels, latents or tokens instead of features.
_ENDS = {"conv_in", "conv_out", "quant_conv", "post_quant_conv", "heads"}


def make_optimizer(settings: OptimizationSettings) -> optax.GradientTransformation:
    """Returns the named optimizer on clipped gradients; the step applies the learning rate."""
    optimizer = OPTIMIZERS[settings.optimizer](settings)
    return optax.chain(optax.clip_by_global_norm(settings.clip_norm), optimizer)


def learning_rate(progress: jax.typing.ArrayLike, settings: OptimizationSettings) -> jax.Array:
    """Returns the rate [] at `progress` [], 0 to 1: a linear warm-up, then half a cosine to 0."""
    peak, rise = settings.learning_rate, max(int(settings.warmup * TICKS), 1)
    schedule = optax.warmup_cosine_decay_schedule(0.0, peak, rise, TICKS)
    return schedule(jnp.minimum(jnp.asarray(progress, jnp.float32), 1.0) * TICKS)


def _muon(settings: OptimizationSettings) -> optax.GradientTransformation:
    """Muon on what maps features to features, Adam with Nesterov's momentum on the rest.

    Its updates are as large as Adam's (`consistent_rms`, arXiv 2502.16982), so that one learning
    rate serves both. Matrices of one shape are orthogonalised together: the 143 of cosmos128's UNet
    and text encoder have 33 shapes, hence 495 products a step instead of 2145 small ones.
    """

    def axes(stacked):
        each = optax.contrib.MuonDimensionNumbers((1,), (2,))
        return {"features": dict.fromkeys(stacked["features"], each), "rest": None}

    muon = optax.contrib.muon(
        1.0, consistent_rms=0.2, adam_b2=settings.beta2, muon_weight_dimension_numbers=axes
    )

    def update(gradients, state, params):
        stacked, state = muon.update(_stacked(gradients), state, _stacked(params))
        # Stacking only moves numbers, so its transpose takes them back.
        (direction,) = jax.linear_transpose(_stacked, params)(stacked)
        return jax.tree.map(jnp.negative, direction), state  # the step subtracts it

    return optax.GradientTransformation(lambda params: muon.init(_stacked(params)), update)


OPTIMIZERS = {"adam": lambda settings: optax.scale_by_adam(b2=settings.beta2), "muon": _muon}


def _stacked(params: Any) -> dict[str, Any]:
    """Returns {"features": {shape: its matrices [k, in, out]}, "rest": {path: parameter}}."""
    features, rest = {}, {}
    for path, x in jax.tree.leaves_with_path(params):
        names = {entry.key for entry in path}
        if "kernel" not in names or names & _ENDS or x.ndim < 2:
            rest[jax.tree_util.keystr(path)] = x
        else:  # from features to features, [in, out]; a convolution's is [h, w, in, out]
            matrix = x.reshape(-1, x.shape[-1])
            features.setdefault(" x ".join(map(str, matrix.shape)), []).append(matrix)
    return {"features": {shape: jnp.stack(same) for shape, same in features.items()}, "rest": rest}
