"""Runs a few steps of an optax optimizer as one loop."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax import lax


def minimise(
    loss: Callable[[Any], jax.Array],
    variables: Any,
    *,
    optimizer: optax.GradientTransformation,
    steps: jax.Array | int,
) -> Any:
    """Takes `steps` steps of a fresh `optimizer` down `loss`, from the pytree `variables`.

    `loss` maps the pytree to a scalar. The number of steps may be traced, but then no gradient
    passes through the loop. Returns the pytree after the last step.
    """

    def step(_, carry):
        variables, state = carry
        updates, state = optimizer.update(jax.grad(loss)(variables), state, variables)
        return optax.apply_updates(variables, updates), state

    start = (variables, optimizer.init(variables))
    return lax.fori_loop(0, steps, step, start)[0]
