"""Levels sampled in turn, each tied to its finished neighbour: baselines of the paper's Table 1.

    outpainting        deepest first: a level's window is D of the finished level in it (RePaint)
    super_resolution   widest first: D of a level is its window in the finished level around it

A turn is all steps of one level, in the same scan and state as joint sampling, at the same cost.
What is known from the neighbour is decoded once, when the turn begins, and carried in the state: it
is what the clean estimates are tied to at every step. Levels that wait hold their first noise.
Symbols as in `zoom.operators`; h w the latent grid, H W the pixels'.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from pot_jax.diffusion.sampler import Parts, SamplerState, Seen, make_step
from pot_jax.diffusion.solvers import Plan
from pot_jax.zoom import blending, operators
from pot_jax.zoom.agreement import Blend, View, by_grounding
from pot_jax.zoom.operators import crop, downsample, paste, upsample_nearest


def outpainting(picture: jax.Array, known: jax.Array, corner: jax.Array, kernel: str) -> jax.Array:
    """Returns [H, W, C] with the window at `corner` replaced by what is known, [H/p, W/p, C].

    Replacing it in the clean estimate puts the known picture, noised, into the next latents: the
    conditioning of RePaint (arXiv 2201.09865, equation 8), with the noise that the latents imply.
    """
    return paste(picture, known, corner)


def super_resolution(
    picture: jax.Array, known: jax.Array, corner: jax.Array, kernel: str
) -> jax.Array:
    """Returns the nearest picture [H, W, C] whose D is what is known, [H/p, W/p, C]."""
    p = len(picture) // len(known)
    return picture + upsample_nearest(known - downsample(picture, p, kernel), p)


def _shrunk(weights, latents, corners, views, encode, kernel):
    """D of the child's picture, after the latents of that."""
    _, pixels = views
    picture = downsample(pixels.decode(weights, latents), pixels.geometry.zoom_factor, kernel)
    return encode(weights, picture)[0], picture[0]


def _windows(weights, latents, corners, views, encode, kernel):
    """The level's window in the parent: in its latents, and in its picture."""
    whole = (view.decode(weights, latents)[0] for view in views)
    return tuple(crop(x, c, v.geometry.window_shape) for x, c, v in zip(whole, corners, views))


@dataclasses.dataclass(frozen=True)
class Turns:
    """One way to sample levels in turn.

    Attributes:
      forward: from a level to the one that follows it: 1, widest first, or -1, deepest first.
      meet: (picture [H, W, C], known, corner, kernel) -> the picture that fits what is known.
      begin: what is known, in latents and in pixels, [h/p, w/p, c] and [H/p, W/p, 3].
      delivery: how the finished levels become pictures that agree.
    """

    forward: int
    meet: Callable[..., jax.Array]
    begin: Callable[..., tuple[jax.Array, jax.Array]]
    delivery: Blend

    def order(self, levels: int) -> range:
        """Returns the levels in the order of their turns."""
        return range(levels)[:: self.forward]

    def space(self, space: Callable, blend: Blend, *views: View) -> Callable:
        """Returns the agreement of a level with what is known, where `space` says (`SPACES`)."""

        def tied(view: View, index: int) -> View:
            def ground(weights, images):
                level, known = weights["turn"]
                corner = jnp.asarray(view.geometry.corners)[self._pair(level)]
                met = self.meet(images[0], known[index], corner, view.kernel)[None]
                return jnp.where(self._first(level, view.geometry.levels), images, met)

            return view._replace(ground=ground)

        return space(Blend(blending.none, agree=by_grounding), *map(tied, views, (0, 1)))

    def _pair(self, level):
        # Of a level and its finished neighbour, the wider one: the corner is that of the other.
        return level - 1 if self.forward > 0 else level

    def _first(self, level, levels):
        return level == self.order(levels)[0]


def _from_parents(images, geometry, *, weight=1.0, kernel="mean"):
    return blending.iterative(images, geometry, weight=1.0, kernel=kernel)


# Deeper levels prevail in what `render` pastes; a super-resolved level first takes its low band
# from its parent.
METHODS = {
    "joint": None,
    "outpainting": Turns(-1, outpainting, _shrunk, Blend(blending.none)),
    "super_resolution": Turns(1, super_resolution, _windows, Blend(_from_parents)),
}


def sampled_in_turns(
    turns: Turns, parts: Parts, views: tuple[View, View], encode: Callable, channels: int
) -> tuple[Parts, Callable]:
    """Returns `parts` and the step for a plan of `diffusion.solvers.in_turns`.

    Args:
      turns: the method.
      parts: of joint sampling, but that `agree` is by `Turns.space`.
      views: of all levels: their latents, and their pictures.
      encode: (weights, images [M, H, W, 3]) -> latents [M, h, w, c].
      channels: c.
    """
    geometry, kernel = views[0].geometry, views[0].kernel
    single = dataclasses.replace(geometry, levels=1, offsets=None)
    draw = partial(operators.independent_noise, geometry=single, channels=channels)
    step, levels = make_step(parts._replace(step_noise=draw)), geometry.levels

    def begin(weights, states, level):
        neighbour = jnp.clip(level - turns.forward, 0, levels - 1)
        corners = [jnp.asarray(v.geometry.corners)[turns._pair(level)] for v in views]
        known = turns.begin(weights, states[neighbour][None], corners, views, encode, kernel)
        return parts.memory(states[level][None]), known

    def memory(latents):
        shapes = [(*v.geometry.window_shape, c) for v, c in zip(views, (channels, 3))]
        return parts.memory(latents[:1]), tuple(jnp.zeros(s, jnp.float32) for s in shapes)

    def turn(weights, state: SamplerState, row: Plan) -> tuple[SamplerState, Seen]:
        level, index = row.turn

        def of_level(x):  # [M N, ...]: M is 2 for the halves of guidance
            return x.reshape(-1, levels, *x.shape[1:])[:, level]

        whole = state.latents, state.history
        latents, history = jax.tree.map(of_level, whole)
        carried, known = jax.lax.cond(
            index == 0, begin, lambda *_: state.memory, weights, state.latents, level
        )
        own = {"conditions": jax.tree.map(of_level, weights["conditions"]), "turn": (level, known)}
        key = jax.random.fold_in(state.key, level)
        one = SamplerState(index, latents, key, history, carried)
        one, seen = step({**weights, **own}, one, row._replace(turn=None))

        def joined(everything: Any, one: Any) -> Any:
            return jax.tree.map(lambda all_, x: all_.at[level].set(x[0]), everything, one)

        latents, history = joined(whole, (one.latents, one.history))
        state = SamplerState(state.step + 1, latents, state.key, history, (one.memory, known))
        return state, seen._replace(clean=joined(whole[0], seen.clean))

    return parts._replace(memory=memory), turn
