import dataclasses
from typing import get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from pot_jax.errors import UserError
from pot_jax.training.optimizers import OPTIMIZERS, learning_rate, make_optimizer
from pot_jax.training.settings import OptimizationSettings

SETTINGS = OptimizationSettings(batch_size=16, learning_rate=0.1, steps=200)


def test_the_learning_rate_rises_and_ends_at_nothing():
    rates = [learning_rate(progress, SETTINGS) for progress in np.linspace(0, 1.2, 61)]
    assert rates[0] == 0
    assert max(rates) == pytest.approx(SETTINGS.learning_rate, rel=1e-3)
    assert np.argmax(rates) == pytest.approx(SETTINGS.warmup * 50, abs=1)
    assert rates[50:] == pytest.approx([0] * 11, abs=1e-9)


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 0},
        {"steps": 0},
        {"learning_rate": 0.0},
        {"ema_decay": 1.0},
        {"minutes": -1.0},
    ],
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(UserError, match=next(iter(change))):
        dataclasses.replace(SETTINGS, **change)


@pytest.mark.loose_promotion("optax's Adam raises a float to its integer step count")
def test_muon_takes_features_and_leaves_the_rest_to_adam():
    settings = dataclasses.replace(SETTINGS, optimizer="muon", clip_norm=1e6)
    params = {
        "conv_in": {"kernel": jnp.ones((3, 3, 2, 4))},
        "heads": {"colour": {"kernel": jnp.ones((4, 3))}},
        "conv1": {"kernel": jnp.ones((3, 3, 4, 6)), "bias": jnp.ones(6)},
        "to_q": {"kernel": jnp.ones((4, 6))},
        "token_embedding": {"embedding": jnp.ones((10, 4))},
    }
    rng = np.random.default_rng(0)
    gradients = jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), params)
    optimizer = make_optimizer(settings)
    direction, _ = jax.jit(optimizer.update)(gradients, optimizer.init(params), params)
    for name in ("conv1", "to_q"):
        # Orthogonal, as far as five Newton-Schulz steps bring it, and along the gradient.
        found = np.asarray(direction[name]["kernel"])
        values = np.linalg.svd(found.reshape(-1, 6), compute_uv=False)
        assert values.max() / values.min() < 2
        assert np.sum(found * gradients[name]["kernel"]) > 0
    # Adam's first step is the gradient's sign; with Nesterov's momentum, b1 = 0.9, times
    # b1 (1 - b1) / (1 - b1^2) + 1, as optax corrects the bias of the next step's momentum.
    first = 0.9 * 0.1 / 0.19 + 1
    flat, gradients = flatten_dict(direction), flatten_dict(gradients)
    for path in (
        ("conv_in", "kernel"),
        ("heads", "colour", "kernel"),
        ("conv1", "bias"),
        ("token_embedding", "embedding"),
    ):
        found, gradient = flat[path], gradients[path]
        np.testing.assert_allclose(found, first * np.sign(gradient), rtol=1e-3)


@pytest.mark.loose_promotion("optax's Adam raises a float to its integer step count")
def test_matrices_of_one_shape_are_taken_together_as_each_alone():
    settings = dataclasses.replace(SETTINGS, optimizer="muon", clip_norm=1e6)
    shapes = {"a": (4, 6), "b": (6, 4), "c": (2, 2, 1, 6), "d": (4, 6), "conv_in": (4, 6)}
    rng = np.random.default_rng(0)
    params = {name: {"kernel": jnp.ones(shape)} for name, shape in shapes.items()}
    gradients = jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), params)

    def two_steps(params, gradients):
        optimizer = make_optimizer(settings)
        state = optimizer.init(params)
        for factor in (1.0, -0.5):
            scaled = jax.tree.map(lambda g, f=factor: f * g, gradients)
            direction, state = optimizer.update(scaled, state, params)
        return direction

    together = two_steps(params, gradients)
    for name in shapes:
        alone = two_steps({name: params[name]}, {name: gradients[name]})
        found = together[name]["kernel"]
        np.testing.assert_allclose(found, alone[name]["kernel"], rtol=1e-5, atol=1e-6)


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(UserError, match="one of adam, muon"):
        dataclasses.replace(SETTINGS, optimizer="sgd")


def test_the_settings_know_every_optimizer():
    assert get_args(get_type_hints(OptimizationSettings)["optimizer"]) == tuple(OPTIMIZERS)
