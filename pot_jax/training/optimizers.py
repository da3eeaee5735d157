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
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, settings.learning_rate, max(int(settings.warmup * TICKS), 1), TICKS
    )
    return schedule(jnp.minimum(jnp.asarray(progress, jnp.float32), 1.0) * TICKS)


def _muon(settings: OptimizationSettings) -> optax.GradientTransformation:
    """Muon on what maps features to features, Adam with Nesterov's momentum on the rest.

    Its updates are as large as Adam's (`consistent_rms`, arXiv 2502.16982), so that one learning
    rate serves both.
    """
    muon = optax.contrib.muon(
        1.0, consistent_rms=0.2, adam_b2=settings.beta2, muon_weight_dimension_numbers=_feature_axes
    )
    return optax.chain(muon, optax.scale(-1.0))  # back to a direction: the step subtracts it


OPTIMIZERS = {"adam": lambda settings: optax.scale_by_adam(b2=settings.beta2), "muon": _muon}


def _feature_axes(params: Any) -> Any:
    """Along which axes each parameter maps features to features; None where it does not."""

    def one(path, x):
        names = {entry.key for entry in path}
        if "kernel" not in names or names & _ENDS or x.ndim < 2:
            return None
        *inputs, output = range(x.ndim)  # [in, out], or of a convolution [h, w, in, out]
        return optax.contrib.MuonDimensionNumbers(tuple(inputs), (output,))

    return jax.tree_util.tree_map_with_path(one, params)
