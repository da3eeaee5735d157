"""The joint sampler: each level is one batch row of one network call (paper, section 4.3).

    network -> clean estimates -> photograph, blend, render -> solver step with rendered noise

This is Algorithm 2. N levels; h w c the latents' (or a pixel model's pictures') height, width and
channels. Networks and zoom operators are passed in as callables, so that a toy with a known answer
can replace either; nothing here knows about text, autoencoders or devices. Their first argument,
`weights`, is any pytree of arrays, never in a closure: gigabytes would be compiled in as constants.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pot_jax.diffusion.solvers import Denoised, Plan, Solver
from pot_jax.errors import UserError

# The generator of every key, whatever JAX's default is, since it decides what a seed draws.
GENERATOR = "threefry2x32"


class SamplerState(NamedTuple):
    """Everything that a run needs to resume: small, and replicated on every device."""

    step: jax.Array  # steps done, int32, []
    latents: jax.Array  # z_t as the solver holds it, [N, h, w, c], float32
    key: jax.Array  # typed PRNG key of the steps' noise, []
    history: tuple[jax.Array, ...]  # the solver's earlier agreed estimates
    memory: Any = ()  # the guidance's own pytree


class Seen(NamedTuple):
    """What a callback is given about a step."""

    clean: jax.Array  # the clean estimates before agreement, [N, h, w, c]
    disagreement: jax.Array  # `zoom.agreement.Agreed`'s, []


class Parts(NamedTuple):
    """The callables of the sampler; see `make_step`."""

    # (weights, z [N,h,w,c] as the network sees it, row of a plan, memory) -> (Denoised, memory)
    denoise: Callable[..., tuple[Denoised, Any]]
    agree: Callable  # (weights, clean [N,h,w,c], step []) -> zoom.agreement.Agreed
    first_noise: Callable  # (key) -> unit noise [N,h,w,c] that the run starts from
    step_noise: Callable  # (key) -> unit noise [N,h,w,c] of one step, shared by levels that overlap
    solver: Solver
    memory: Callable[[jax.Array], Any] = lambda latents: ()  # before the first step


def key_of(seed: jax.Array | int) -> jax.Array:
    """Returns the typed PRNG key of a sample, from its seed of 0 to 2^32 - 1."""
    return jax.random.key(seed, impl=GENERATOR)


@jax.jit
def keys_of(seeds: jax.Array) -> jax.Array:
    """Returns the typed PRNG keys [B] of samples with the seeds [B] uint32."""
    return jax.vmap(key_of)(seeds)


def _with_keys(change: Callable, tree: Any) -> Any:
    def changed(part):
        return part._replace(key=change(part.key)) if isinstance(part, SamplerState) else part

    return jax.tree.map(changed, tree, is_leaf=lambda part: isinstance(part, SamplerState))


# A tree with the keys of its sampler states as plain data, and back: neither files nor exported
# functions on a mesh take typed keys (jax 0.10.1: the exported module is not verified).
key_data = partial(_with_keys, jax.random.key_data)
typed_keys = partial(_with_keys, partial(jax.random.wrap_key_data, impl=GENERATOR))


def start(
    parts: Parts, init_scale: jax.Array | float, key: jax.Array, latents: jax.Array | None = None
) -> SamplerState:
    """Returns the state before the first step of a plan with that `init_scale`.

    `key` is the sample's typed PRNG key, `latents` its first unit noise, [N, h, w, c]; None: drawn.
    """
    first, steps = jax.random.split(key)
    noise = parts.first_noise(first) if latents is None else jnp.asarray(latents, jnp.float32)
    noise = noise * init_scale
    return SamplerState(jnp.int32(0), noise, steps, parts.solver.start(noise), parts.memory(noise))


def make_step(parts: Parts) -> Callable:
    """Returns `step(weights, state, row) -> (state, Seen)`; `row` is one row of a `Plan`."""

    def step(weights, state: SamplerState, row: Plan) -> tuple[SamplerState, Seen]:
        z = state.latents * row.input_scale
        denoised, memory = parts.denoise(weights, z, row, state.memory)
        agreed = parts.agree(weights, denoised.clean, state.step)
        noise = parts.step_noise(jax.random.fold_in(state.key, state.step))
        latents, history = parts.solver.step(
            row, state.history, state.latents, denoised, agreed.clean, noise
        )
        state = SamplerState(state.step + 1, latents, state.key, history, memory)
        return state, Seen(denoised.clean, agreed.disagreement)

    return step


def make_chunk(step: Callable, *, watch: bool = False) -> Callable:
    """Returns `chunk(weights, state, rows, active) -> (state, seen)`: `step` scanned over rows.

    `active` [c] bool is False on the rows that pad the last chunk of a run to the length of the
    others, so that one compiled program serves every chunk; such rows cost nothing. `seen` is a
    `Seen` with leading axis c if `watch`, else None.
    """

    def chunk(weights, state, rows: Plan, active: jax.Array):
        def body(state, row_active):
            row, go = row_active

            def taken(state):
                state, seen = step(weights, state, row)
                return state, (seen if watch else None)

            def passed(state):
                nothing = Seen(jnp.zeros_like(state.latents), jnp.float32(0))
                return state, (nothing if watch else None)

            return jax.lax.cond(go, taken, passed, state)

        return jax.lax.scan(body, state, (rows, active))

    return chunk


# The steps are counted once for all samples; all other arrays have a leading axis B.
_SAMPLE_AXES = SamplerState(step=None, latents=0, key=0, history=0, memory=0)


def over_samples(chunk: Callable) -> Callable:
    """Returns `chunk` for B samples: arrays of `seen` then have axes [c, B], the state's B."""
    return jax.vmap(chunk, in_axes=(None, _SAMPLE_AXES, None, None), out_axes=(_SAMPLE_AXES, 1))


def start_samples(
    parts: Parts, init_scale: jax.Array | float, keys: jax.Array, latents: jax.Array | None = None
) -> SamplerState:
    """Joins the states of B samples: `start` for keys [B], and latents [B, N, h, w, c] or None."""
    return jax.vmap(partial(start, parts, init_scale), out_axes=_SAMPLE_AXES)(keys, latents)


def split_samples(states: SamplerState) -> list[SamplerState]:
    """Returns the joined states of B samples as B joined states of one."""
    samples, arrays = range(len(states.latents)), states._replace(step=())
    alone = [jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], arrays) for i in samples]
    return [one._replace(step=states.step) for one in alone]


def join_samples(states: Sequence[SamplerState]) -> SamplerState:
    """Returns joined states, all at the same step, as those of all their samples."""
    parts = [state._replace(step=()) for state in states]
    joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    return joined._replace(step=states[0].step)


def chunks(plan: Plan, length: int, done: int = 0) -> Iterator[tuple[Plan, np.ndarray, int]]:
    """Yields (rows, active, steps done after them) for the steps of `plan` after the first `done`.

    All have `length` rows, padded with inactive copies of the last. UserError if too many are done.
    """
    total = len(plan.timestep)
    if done > total:
        raise UserError(f"the saved state has {done} steps, but the run has only {total}")
    table = plan._replace(init_scale=None)  # the one field that is not a column
    for first in range(done, total, length):
        index = np.arange(first, first + length)
        rows = jax.tree.map(lambda column, i=index: column[np.minimum(i, total - 1)], table)
        yield rows, index < total, min(first + length, total)
