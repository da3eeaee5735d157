"""Steps down the disagreement."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pot_jax.zoom.agreement import descend, squared_disagreement
from pot_jax.zoom.geometry import Geometry
from pot_jax.zoom.photograph import minimise

GEOMETRY = Geometry(4, 2, 8, 8, ((2, 0), (-2, 2), (0, 1)))
by_adam = pytest.mark.loose_promotion("optax's Adam raises a float to its integer step count")
disagreement_jit = jax.jit(squared_disagreement, static_argnames=("geometry", "blend", "kernel"))


def pictures(seed=0):
    rng = np.random.default_rng(seed)
    shape = (GEOMETRY.levels, GEOMETRY.height, GEOMETRY.width, 2)
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def test_minimising_a_parabola_follows_its_closed_form():
    # x <- x - rate * 2 (x - goal): what is left shrinks by 1 - 2 rate a step.
    start, goal = {"x": jnp.array([3.0, -1.0])}, jnp.array([1.0, 2.0])

    def loss(variables):
        return jnp.sum((variables["x"] - goal) ** 2)

    found = minimise(loss, start, optimizer=optax.sgd(0.2), steps=7)
    np.testing.assert_allclose(found["x"] - goal, 0.6**7 * (start["x"] - goal), rtol=1e-5)
    unmoved = minimise(loss, start, optimizer=optax.sgd(0.2), steps=0)
    np.testing.assert_array_equal(unmoved["x"], start["x"])


@by_adam
def test_descending_brings_pictures_to_agreement():
    images = pictures()
    before = disagreement_jit(images, GEOMETRY)

    def descended(x, optimizer, steps):
        run = partial(descend, to_images=lambda x: x, geometry=GEOMETRY, steps=steps)
        return jax.jit(lambda x: run(x, optimizer=optimizer))(x)

    assert disagreement_jit(descended(images, optax.adam(0.05), 100), GEOMETRY) < 0.01 * before
    plain = descended(images, optax.sgd(0.1), 1)
    slope = jax.grad(disagreement_jit)(images, GEOMETRY)
    np.testing.assert_allclose(plain, images - 0.1 * slope, atol=1e-6)


@by_adam
def test_descending_goes_through_a_decoder_in_any_pytree():
    geometry = GEOMETRY.scaled(2)
    mixing = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3)), jnp.float32)

    def decode(variables):  # [N, 8, 8, 2] -> [N, 16, 16, 3], not linear
        return jnp.tanh(jnp.repeat(jnp.repeat(variables["z"], 2, 1), 2, 2) @ mixing)

    start = {"z": pictures()}
    descent = {"optimizer": optax.adam(0.02), "steps": 20, "blend": "iterative"}
    found = jax.jit(lambda z: descend(z, decode, geometry, **descent))(start)
    assert found["z"].shape == start["z"].shape
    after, before = (
        disagreement_jit(decode(z), geometry, blend="iterative") for z in (found, start)
    )
    assert after < 0.7 * before
