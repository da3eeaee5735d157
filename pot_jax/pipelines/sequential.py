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

import jax
import jax.numpy as jnp

from pot_jax.diffusion.sampler import Parts, SamplerState, Seen, make_step
from pot_jax.diffusion.solvers import Plan
from pot_jax.zoom import blending
from pot_jax.zoom.agreement import Blend, View, by_grounding
from pot_jax.zoom.geometry import Geometry
from pot_jax.zoom.operators import crop, downsample, paste, upsample, upsample_nearest


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


def _shrunk(encode, picture, corner, geometry, kernel):
    """D of the child's picture, after the latents of that."""
    known = downsample(picture, geometry.zoom_factor, kernel)
    return encode(known[None])[0], known


def _window(encode, picture, corner, geometry, kernel):
    """The level's window in its parent's picture, after D of the latents of that, enlarged."""
    p, known = geometry.zoom_factor, crop(picture, corner, geometry.window_shape)
    return downsample(encode(upsample(known, p)[None])[0], p, kernel), known


@dataclasses.dataclass(frozen=True)
class Turns:
    """One way to sample levels in turn."""

    forward: int  # from a level to the one that follows: 1, widest first, or -1, deepest first
    # (encode, the neighbour's picture [H, W, 3], corner, geometry, kernel) -> what is known, in
    # latents [h/p, w/p, c] and in pixels [H/p, W/p, 3].
    see: Callable[..., tuple[jax.Array, jax.Array]]
    # (picture [H, W, C], known, corner, kernel) -> the picture that fits what is known
    meet: Callable[..., jax.Array]
    delivery: Blend  # how the finished levels become pictures that agree

    def order(self, levels: int) -> range:
        """Returns the levels in the order of their turns."""
        return range(levels)[:: self.forward]

    def corner(self, level: jax.Array, geometry: Geometry) -> jax.Array:
        """Returns where the deeper one of a level and its neighbour lies in the other; [2]."""
        return jnp.asarray(geometry.corners)[level - max(self.forward, 0)]

    def space(self, space: Callable, blend: Blend, *views: View) -> Callable:
        """Returns the agreement of a level with what is known, where `space` says (`SPACES`)."""

        def tied(view: View, index: int) -> View:
            def ground(weights, images):
                level, known = weights["turn"]
                corner = self.corner(level, view.geometry)
                met = self.meet(images[0], known[index], corner, view.kernel)[None]
                return jnp.where(level == self.order(view.geometry.levels)[0], images, met)

            return view._replace(ground=ground)

        return space(Blend(blending.none, agree=by_grounding), *map(tied, views, (0, 1)))


# Deeper levels prevail in what `render` pastes. A super-resolved level first takes its low band
# from its parent, at weight 1.
_FROM_PARENTS = Blend(
    lambda x, geometry, weight, kernel: blending.iterative(x, geometry, kernel=kernel)
)
METHODS = {
    "joint": None,
    "outpainting": Turns(-1, _shrunk, outpainting, Blend(blending.none)),
    "super_resolution": Turns(1, _window, super_resolution, _FROM_PARENTS),
}


def sampled_in_turns(
    turns: Turns, parts: Parts, latents: View, pixels: View, encode: Callable
) -> tuple[Parts, Callable]:
    """Returns `parts` and the step for a plan of `diffusion.solvers.in_turns`.

    The given parts are those of joint sampling, but that `agree` is by `Turns.space`; the views are
    of all levels' latents and pictures; `encode` maps (weights, images [M, H, W, 3]) to latents
    [M, h, w, c].
    """
    geometry = pixels.geometry

    def begin(weights, finished, level):
        neighbour = jnp.clip(level - turns.forward, 0, geometry.levels - 1)
        picture = pixels.decode(weights, finished[neighbour][None])[0]
        where = turns.corner(level, geometry), geometry, pixels.kernel
        known = turns.see(partial(encode, weights), picture, *where)
        return parts.memory(finished[level][None]), known

    def memory(noise):
        sizes = zip((latents, pixels), (noise.shape[-1], 3))
        known = tuple(jnp.zeros((*view.geometry.window_shape, c)) for view, c in sizes)
        return parts.memory(noise[:1]), known

    def turn(weights, state: SamplerState, row: Plan) -> tuple[SamplerState, Seen]:
        level, index = row.turn

        def of_level(x):  # [M N, ...]: M is 2 for the halves of guidance
            return x.reshape(-1, geometry.levels, *x.shape[1:])[:, level]

        whole, given = (state.latents, state.history), (weights, state.latents, level)
        carried, known = jax.lax.cond(index == 0, begin, lambda *_: state.memory, *given)
        own = {"conditions": jax.tree.map(of_level, weights["conditions"]), "turn": (level, known)}
        scales = weights.get("guidance", ())  # where there are two halves
        own["guidance"] = jax.tree.map(lambda s: s[level][None] if jnp.ndim(s) else s, scales)
        z, history = jax.tree.map(of_level, whole)
        one = SamplerState(index, z, state.key, history, carried)
        step = make_step(parts._replace(step_noise=lambda key: parts.step_noise(key)[level][None]))
        one, seen = step({**weights, **own}, one, row._replace(turn=None))

        def joined(everything, x):
            return everything.at[level].set(x[0])

        z, history = jax.tree.map(joined, whole, (one.latents, one.history))
        state = SamplerState(state.step + 1, z, state.key, history, (one.memory, known))
        return state, seen._replace(clean=joined(state.latents, seen.clean))

    return parts._replace(memory=memory), turn
