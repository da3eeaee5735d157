"""What every blend has to do, in open chains and in loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from pot_jax.zoom.agreement import consistent

BY_GRADIENT = pytest.param(
    {"blend": "gradient", "gradient_steps": 2},
    marks=pytest.mark.loose_promotion("optax's Adam raises a float to its integer step count"),
)

consistent_jit = jax.jit(consistent, static_argnames=("geometry", "blend", "kernel"))


def pictures(geometry, seed=0, dtype=np.float64):
    """Normal values, [N, H, W, 2]."""
    shape = (geometry.levels, geometry.height, geometry.width, 2)
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def squared_disagreement(images, geometry, **options):
    """sum_i ||x_i - R_i(blend(x))||^2; the options are `consistent`'s."""
    return jnp.sum(jnp.square(images - consistent(images, geometry, **options)))


def keeps_constants_and_is_linear(blend, geometry):
    shape = (geometry.levels, geometry.height, geometry.width, 2)
    constant = jnp.full(shape, 0.3, jnp.float32)
    np.testing.assert_array_equal(
        consistent_jit(constant, geometry, blend=blend, weight=0.3), constant
    )
    with jax.enable_x64(True):
        a, b = (jnp.asarray(pictures(geometry, seed)) for seed in range(2))
        f = jax.jit(lambda x: consistent(x, geometry, blend=blend, weight=0.3))
        np.testing.assert_allclose(f(2.0 * a - 3.0 * b), 2.0 * f(a) - 3.0 * f(b), atol=1e-13)


def has_gradients_of_finite_differences(blend, geometry):
    with jax.enable_x64(True):
        images, weight = jnp.asarray(pictures(geometry)), jnp.asarray(0.3)

        @jax.jit
        def loss(images, weight):
            return squared_disagreement(images, geometry, blend=blend, weight=weight)

        check_grads(loss, (images, weight), order=1, modes=("rev",))
