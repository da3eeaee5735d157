"""Steps down the disagreement."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blends import squared_disagreement

from pot_jax.zoom.agreement import BLENDS, Numbers, by_gradient, latent_view, pixel_view
from pot_jax.zoom.geometry import Geometry
from pot_jax.zoom.photograph import minimise

GEOMETRY = Geometry(4, 2, 8, 8, ((2, 0), (-2, 2), (0, 1)))
by_adam = pytest.mark.loose_promotion("optax's Adam raises a float to its integer step count")
disagreement_jit = jax.jit(squared_disagreement, static_argnames=("geometry", "blend", "kernel"))


def as_it_is(weights, images):
    return images


def pictures(seed=0):
    rng = np.random.default_rng(seed)
    shape = (GEOMETRY.levels, GEOMETRY.height, GEOMETRY.width, 2)
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


@by_adam
def test_minimising_a_parabola_follows_adam_by_hand():
    start, goal = {"x": jnp.array([3.0, -1.0])}, np.array([1.0, 2.0])

    def loss(variables):
        return jnp.sum((variables["x"] - goal.astype(np.float32)) ** 2)

    x, mean, square = np.array([3.0, -1.0]), 0.0, 0.0
    for step in range(1, 8):
        slope = 2 * (x - goal)
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        x = x - 0.2 * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    found = minimise(loss, start, learning_rate=0.2, steps=7)
    np.testing.assert_allclose(found["x"], x, rtol=1e-4)  # 1 - 0.999 in float32 is 5e-5 off
    unmoved = minimise(loss, start, learning_rate=0.2, steps=0)
    np.testing.assert_array_equal(unmoved["x"], start["x"])


def descended(images, view, blend="gradient", **numbers):
    """The clean estimates after `by_gradient`, for a blend of that name."""
    known = dataclasses.replace(BLENDS[blend], agree=by_gradient)
    weights = {"agreement": Numbers(1.0, 1, **numbers)}
    return jax.jit(lambda x: known.agree(known, view, weights, x).clean)(images)


@by_adam
def test_descending_brings_pictures_to_agreement():
    images, view = pictures(), latent_view(GEOMETRY, as_it_is)
    before = disagreement_jit(images, GEOMETRY)
    found = descended(images, view, gradient_steps=100, gradient_rate=0.05)
    assert disagreement_jit(found, GEOMETRY) < 0.01 * before
    # Adam's first step is the rate long, whatever the slope.
    slope = jax.grad(disagreement_jit)(images, GEOMETRY)
    wanted = images - 0.1 * slope / (jnp.abs(slope) + 1e-8)
    once = descended(images, view, gradient_steps=1, gradient_rate=0.1)
    np.testing.assert_allclose(once, wanted, atol=1e-5)


@by_adam
def test_descending_goes_through_a_decoder():
    geometry = GEOMETRY.scaled(2)
    mixing = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3)), jnp.float32)

    def decode(weights, latents):  # [N, 8, 8, 2] -> [N, 16, 16, 3], not linear
        return jnp.tanh(jnp.repeat(jnp.repeat(latents, 2, 1), 2, 2) @ mixing)

    view, start = pixel_view(geometry, decode, None, as_it_is, as_it_is), pictures()
    found = descended(start, view, "iterative", gradient_steps=20, gradient_rate=0.02)
    assert found.shape == start.shape
    after, before = (
        disagreement_jit(decode({}, z), geometry, blend="iterative") for z in (found, start)
    )
    assert after < 0.7 * before
