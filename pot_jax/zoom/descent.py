"""A few steps of an optax optimizer, as one scan."""

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
    steps: int,
) -> Any:
    """Takes `steps` steps of a fresh `optimizer` down `loss`, from the pytree `variables`."""

    def step(carry, _):
        variables, state = carry
        updates, state = optimizer.update(jax.grad(loss)(variables), state, variables)
        return (optax.apply_updates(variables, updates), state), None

    start = (variables, optimizer.init(variables))
    (variables, _), _ = lax.scan(step, start, length=steps)
    return variables
