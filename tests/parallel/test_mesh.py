"""Rows over eight virtual devices give what one device gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pot_jax.parallel.mesh import device_mesh, replicate, split_rows

WEIGHTS = jax.random.normal(jax.random.key(0), (6, 6))


def function(weights, x, t):
    return jnp.tanh(x @ weights) + t[:, None]


@pytest.mark.parametrize(
    ("rows", "rows_at_once"), [(1, None), (16, None), (13, None), (3, 1), (37, 2), (16, 2)]
)
def test_eight_devices_equal_one(rows, rows_at_once):
    mesh = device_mesh()
    assert mesh.size == 8
    x = jax.random.normal(jax.random.key(1), (rows, 6))
    t = jnp.arange(rows, dtype=jnp.float32)
    split = jax.jit(split_rows(function, mesh, rows_at_once))
    out = split(replicate(WEIGHTS, mesh), x, t)
    np.testing.assert_allclose(out, function(WEIGHTS, x, t), atol=1e-6)


@pytest.mark.parametrize(("rows", "rows_at_once"), [(13, None), (37, 2)])
def test_rows_may_be_trees(rows, rows_at_once):
    mesh = device_mesh()
    x = jax.random.normal(jax.random.key(1), (rows, 6))
    t = jnp.arange(rows, dtype=jnp.float32)
    split = split_rows(lambda w, x, named: function(w, x, named["t"]), mesh, rows_at_once)
    out = jax.jit(split)(replicate(WEIGHTS, mesh), x, {"t": t})
    np.testing.assert_allclose(out, function(WEIGHTS, x, t), atol=1e-6)


def test_the_rows_really_are_split():
    mesh = device_mesh()
    seen = []

    def spy(weights, x):
        jax.debug.inspect_array_sharding(x, callback=seen.append)
        return x @ weights

    jax.block_until_ready(jax.jit(split_rows(spy, mesh))(WEIGHTS, jnp.ones((16, 6))))
    assert seen[0].shard_shape((16, 6)) == (2, 6)


def test_under_vmap():
    mesh = device_mesh()
    x = jax.random.normal(jax.random.key(1), (3, 5, 6))
    t = jnp.zeros((3, 5))
    split = jax.jit(jax.vmap(split_rows(function, mesh), in_axes=(None, 0, 0)))
    np.testing.assert_allclose(split(WEIGHTS, x, t), jnp.tanh(x @ WEIGHTS), atol=1e-6)
