"""Traps of the libraries beneath, so that a version that falls into one is noticed here."""

import jax
import jax.numpy as jnp
import pytest


@pytest.mark.loose_promotion("the program is as the issue has it")
def test_vmapped_reductions_are_right():
    """jaxlib 0.10.2 on CPU gives another last value (github.com/jax-ml/jax/issues/39103)."""
    rows = jnp.arange(32769, dtype=jnp.float32)[:, None] * jnp.array([1.0, 0.0, 0.0])
    squares = jax.jit(jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2)))(rows)
    assert float(squares[-1]) == 32768**2
