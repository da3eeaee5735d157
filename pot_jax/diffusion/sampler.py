"""The joint sampler: every zoom level is one row of one batch (paper, section 4.3).

    network -> clean estimates -> photograph, blend, render -> solver step with rendered noise

N levels, h w c the latents' (or a pixel model's pictures') height, width and channels. The networks
and the zoom operators come in as callables, so that a toy with a known answer can stand in for
either, and nothing here knows of text, autoencoders or devices. Their first argument, `weights`, is
any pytree of arrays; it stays an argument all the way, so that gigabytes of parameters are never
compiled in as constants.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pot_jax.diffusion.solvers import Plan, Solver


class SamplerState(NamedTuple):
    """All that a run must keep to go on: small, and the same on every device."""

    step: jax.Array  # steps done, int32, []
    latents: jax.Array  # z_t as the solver holds it, [N, h, w, c], float32
    key: jax.Array  # typed PRNG key of the steps' noise, []
    history: Any  # the solver's own pytree


class Parts(NamedTuple):
    """What the sampler is made of; see `make_step`."""

    denoise: Callable  # (weights, z [N,h,w,c], timestep []) -> guided prediction [N,h,w,c]
    to_clean: Callable  # (prediction, z, alpha [], sigma []) -> clean estimates [N,h,w,c]
    agree: Callable  # (weights, clean [N,h,w,c], step []) -> agreeing clean estimates
    first_noise: Callable  # (key) -> unit noise [N,h,w,c] that the run starts from
    step_noise: Callable  # (key) -> unit noise [N,h,w,c] of one step, shared by levels that overlap
    solver: Solver


def start(parts: Parts, plan: Plan, key: jax.Array, latents: jax.Array | None = None):
    """Returns the state before the first step.

    Args:
      parts: the sampler's callables.
      plan: the solver's plan, all steps.
      key: typed PRNG key of this stack.
      latents: unit noise [N, h, w, c] to begin from; drawn with `parts.first_noise` when None.
    """
    first, steps = jax.random.split(key)
    noise = parts.first_noise(first) if latents is None else jnp.asarray(latents, jnp.float32)
    noise = noise * plan.init_scale
    return SamplerState(jnp.int32(0), noise, steps, parts.solver.init(noise))


def make_step(parts: Parts) -> Callable:
    """Returns `step(weights, state, row) -> state`; `row` is one row of a `Plan`."""

    def step(weights, state: SamplerState, row: Plan) -> SamplerState:
        z = state.latents * row.input_scale
        prediction = parts.denoise(weights, z, row.timesteps).astype(jnp.float32)
        clean = parts.to_clean(prediction, z, row.alpha, row.sigma)
        clean = parts.agree(weights, clean, state.step)
        noise = parts.step_noise(jax.random.fold_in(state.key, state.step))
        latents, history = parts.solver.step(row, state.history, state.latents, clean, noise)
        return SamplerState(state.step + 1, latents, state.key, history)

    return step


def make_chunk(parts: Parts) -> Callable:
    """Returns `chunk(weights, state, rows, active) -> state`, one `lax.scan` over rows of a plan.

    `active` [c] bool is False on the rows that pad the last chunk of a run to the length of the
    others, so that one compiled program serves every chunk; such rows cost nothing.
    """
    step = make_step(parts)

    def chunk(weights, state, rows: Plan, active: jax.Array) -> SamplerState:
        def body(state, row_active):
            row, go = row_active
            return jax.lax.cond(go, lambda s: step(weights, s, row), lambda s: s, state), None

        return jax.lax.scan(body, state, (rows, active))[0]

    return chunk


# The steps are counted once for all stacks; everything else has a leading axis B.
_STACK_AXES = SamplerState(step=None, latents=0, key=0, history=0)


def over_stacks(chunk: Callable) -> Callable:
    """Makes `chunk` advance B stacks (seeds) at once.

    Every array of the state but `step` then has a leading axis B.
    """
    return jax.vmap(chunk, in_axes=(None, _STACK_AXES, None, None), out_axes=_STACK_AXES)


def stack_states(states: list[SamplerState]) -> SamplerState:
    """Joins the states of B stacks, all at the same step, for `over_stacks`."""
    joined = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    return joined._replace(step=states[0].step)


def chunks(plan: Plan, length: int, done: int = 0):
    """Yields (rows, active, step after) for the steps of `plan` after the first `done`.

    Every chunk has `length` rows; the last is padded with inactive copies of the last row.
    """
    total = len(plan.timesteps)
    table = plan._replace(init_scale=None)  # the one field that is not a column
    for first in range(done, total, length):
        last = min(first + length, total)
        index = np.minimum(np.arange(first, first + length), total - 1)
        rows = jax.tree.map(lambda column, index=index: column[index], table)
        yield rows, np.arange(first, first + length) < last, last
