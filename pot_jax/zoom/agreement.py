"""Makes the levels' clean estimates agree inside a step.

    clean estimates -> (decode) -> photograph -> blend -> render -> (bring the change back)

Symbols: N levels; clean [N, h, w, c] the estimates as the sampler holds them, images [N, H, W, C]
the same in the form of a `View`; R `operators.render`. `weights` is whatever pytree the callables
take; this module reads only its entry "agreement", the `Numbers`.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pot_jax.config import agrees_at
from pot_jax.errors import UserError
from pot_jax.zoom import blending, operators
from pot_jax.zoom.geometry import Geometry
from pot_jax.zoom.photograph import minimise


class Numbers(NamedTuple):
    """The numeric settings of an agreement: traced scalars, so that a sweep compiles once."""

    blend_weight: Any  # w: the observation k levels wider weighs w^k; 1 is the paper's
    pixel_every: Any  # decode at steps 0, k, 2 k, ..., and agree in latents at the others
    gradient_steps: Any  # of Adam, for blend "gradient"
    gradient_rate: Any  # its learning rate
    residual_limit: Any = np.inf  # of `pixel_view`, above 0
    exact_from: Any = None  # the first step that agrees through the autoencoder and not a tiny one
    strip: Any = 0.0  # width of the strip along a window's border in which its parent prevails
    own_colour: Any = 0.0  # how much of a parent's pull on a level's mean colour is taken back
    agree_first: Any = None  # levels agree at each of the steps before this one,
    agree_every: Any = None  # then at every k-th, and at the last two
    late_weight: Any = None  # w after `agree_first`, and of delivery; None: `blend_weight`


class Agreed(NamedTuple):
    """Agreed clean estimates, and how far the estimates disagreed before."""

    clean: jax.Array  # [N, h, w, c]
    # rms(x_i - R_i(blend(x))) over the view's images (pixels or latents), once grounded, []
    disagreement: jax.Array


class View(NamedTuple):
    """The form in which levels are compared: the clean estimates, or pictures decoded from them."""

    geometry: Geometry  # on the images' grid
    decode: Callable[..., jax.Array]  # (weights, clean) -> images
    # (weights, clean, images, agreed images) -> clean estimates, changed as the images were; they
    # decode to about the agreed images.
    bring_back: Callable[..., jax.Array]
    ground: Callable[..., jax.Array]  # (weights, images) -> images that match a photograph, if any
    ground_clean: Callable[..., jax.Array]  # the same on the clean estimates, before decoding
    kernel: str = "mean"
    # (weights, rendered images, bounded) -> the same, fitted to held levels, if any
    settle: Callable[..., jax.Array] = lambda weights, images, bounded=False: images


Agree = Callable[[Any, jax.Array, jax.Array], Agreed]  # (weights, clean, step []) -> Agreed


def by_formula(blend: "Blend", view: View, weights: Any, clean: jax.Array) -> Agreed:
    """Blends and renders the images, and brings the change back."""
    seen = view.decode(weights, clean)
    images = view.ground(weights, seen)
    agreed = view.settle(weights, _consistent(blend, view, weights, images))
    # From what was seen before the photograph, or its pull would cancel in the residual.
    return Agreed(view.bring_back(weights, clean, seen, agreed), _rms(images - agreed))


def by_gradient(blend: "Blend", view: View, weights: Any, clean: jax.Array) -> Agreed:
    """Takes fresh steps of Adam, through the decoder, down sum_i ||x_i - R_i(blend(x))||^2."""
    n, clean = weights["agreement"], view.ground_clean(weights, clean)

    def disagreement(clean):
        images = view.decode(weights, clean)
        return images - _consistent(blend, view, weights, images)

    def loss(clean):
        return jnp.sum(jnp.square(disagreement(clean)))

    agreed = minimise(loss, clean, learning_rate=n.gradient_rate, steps=n.gradient_steps)
    return Agreed(agreed, _rms(disagreement(clean)))


def by_grounding(blend: "Blend", view: View, weights: Any, clean: jax.Array) -> Agreed:
    """Meets what the view's `ground` knows, and nothing else; the disagreement is with that."""
    seen = view.decode(weights, clean)
    agreed = view.ground(weights, seen)
    return Agreed(view.bring_back(weights, clean, seen, agreed), _rms(seen - agreed))


@dataclasses.dataclass(frozen=True)
class Blend:
    """A blend and the functions that go with it; hashable."""

    # (images, geometry, *, weight, kernel) -> zoom stack, linear in the images
    stack: Callable[..., jax.Array]
    render: Callable[..., jax.Array] = operators.render  # (stack, geometry, *, kernel) -> pictures
    # (key, geometry, channels, *, kernel) -> unit noise [N, h, w, c], shared between levels exactly
    # where the pictures will be; a setting may replace `shared_noise`, and no other.
    noise: Callable[..., jax.Array] = operators.shared_noise
    agree: Callable[..., Agreed] = by_formula  # (blend, view, weights, clean) -> Agreed, in a step
    takes_strip: bool = False  # whether `stack` also takes `strip` and `own_colour`

    def stacked(self, images, geometry, *, weight, kernel, **more) -> jax.Array:
        """Returns the zoom stack of images; what is `more` goes to a blend that takes it."""
        more = more if self.takes_strip else {}
        return self.stack(images, geometry, weight=weight, kernel=kernel, **more)


BLENDS = {
    "laplacian": Blend(blending.laplacian, takes_strip=True),
    "average": Blend(blending.average),
    "iterative": Blend(blending.iterative),
    # Independent sampling: nothing passes between levels, in the noise, a step or the delivery.
    "none": Blend(blending.none, blending.none, operators.independent_noise),
    # Nothing passes to level 0.
    "enlarged": Blend(blending.enlarged, blending.none, operators.independent_noise),
    "gradient": Blend(blending.laplacian, agree=by_gradient, takes_strip=True),
}


def find_blend(blend: "Blend | Callable | str") -> Blend:
    """Returns the blend of that name, else UserError; or wraps a function as a `Blend`."""
    if isinstance(blend, Blend):
        return blend
    if callable(blend):
        return Blend(blend)
    if not isinstance(blend, str) or blend not in BLENDS:
        raise UserError(f"unknown blend {blend!r}; known: {', '.join(sorted(BLENDS))}")
    return BLENDS[blend]


def consistent(
    images: jax.Array,
    geometry: Geometry,
    *,
    blend: Blend | Callable | str = "laplacian",
    weight: jax.Array | float = 1.0,
    strip: jax.Array | float = 0.0,
    own_colour: jax.Array | float = 0.0,
    kernel: str = "mean",
) -> jax.Array:
    """Blends and renders images [N, H, W, C]: returns N pictures [N, H, W, C] that agree.

    `blend` is a `Blend`, a function or a name in `BLENDS` ("none" leaves the levels unchanged),
    `weight` its w, 0 to 1; `strip`, 0 to 0.5, and `own_colour`, 0 to 1, are `blending.laplacian`'s.
    Raises UserError if the blend or kernel is unknown, or the images do not fit the geometry.
    """
    blend = find_blend(blend)
    more = {"strip": strip, "own_colour": own_colour, "kernel": kernel}
    stack = blend.stacked(images, geometry, weight=weight, **more)
    return blend.render(stack, geometry, kernel=kernel)


def latent_view(geometry: Geometry, ground: Callable, kernel: str = "mean") -> View:
    """Returns the view of the clean estimates themselves: cheap, and exact for pixel models."""
    same, changed = (lambda weights, clean: clean), (lambda weights, clean, images, agreed: agreed)
    return View(geometry, same, changed, ground, ground, kernel)


def pixel_view(
    geometry: Geometry,
    decode: Callable,
    encode: Callable,
    ground: Callable,
    ground_clean: Callable,
    kernel: str = "mean",
) -> View:
    """Returns the view of decoded pictures; only their change is brought back to the latents.

    z' = z + E(x') - E(x), with x = dec(z) and x' the agreed pictures. The residual form cancels the
    autoencoder's own losses: with the plain E(x'), every step would wash the pictures out a little
    more (LookingGlass, CVPR 2025, does the same for warps). That is E(x') + r, with the residual
    r = z - E(x). Where levels contradict each other, r grows step by step into what the decoder
    draws as dots, one a latent: to 4, where cosmos128's own loss has a root mean square of 0.07. So
    r is clipped to the `residual_limit`.

    Args are `View`'s, images [N, H, W, 3] in [-1, 1], and encode: (weights, images) -> latents.
    """

    def bring_back(weights, clean, images, agreed):
        both = encode(weights, jnp.concatenate([agreed, images]))
        after, before = both[: len(clean)], both[len(clean) :]
        limit, residual = weights["agreement"].residual_limit, clean - before
        # Taken off, not clipped in place: without a limit it is 0, and not a bit changes.
        excess = residual - jnp.clip(residual, -limit, limit)
        return clean + (after - before) - excess

    return View(geometry, decode, bring_back, ground, ground_clean, kernel)


def in_latents(blend: Blend, latents: View, pixels: View) -> Agree:
    """Returns the agreement among the clean estimates themselves."""
    return lambda weights, clean, step: blend.agree(blend, latents, weights, clean)


def in_pixels(blend: Blend, latents: View, pixels: View) -> Agree:
    """Returns agreement among decoded pictures at every k-th step, among latents at the others."""
    often, otherwise = (partial(blend.agree, blend, view) for view in (pixels, latents))

    def agree(weights, clean, step):
        due = step % weights["agreement"].pixel_every == 0
        return jax.lax.cond(due, often, otherwise, weights, clean)

    return agree


def at_delivery(blend: Blend, latents: View, pixels: View) -> Agree:
    """Returns the agreement that changes nothing: levels agree only once they are delivered."""
    return lambda weights, clean, step: Agreed(
        clean, _rms(clean - _consistent(blend, latents, weights, clean))
    )


def through_two(exact: Agree, rough: Agree) -> Agree:
    """Returns the agreement `rough` for all steps but the last, in which levels agree as `exact`.

    What the rough one does not see would stay between the levels: 1.3 dB of cosmos128's overlap.
    """

    def agree(weights, clean, step):
        last = step >= weights["agreement"].exact_from
        return jax.lax.cond(last, exact, rough, weights, clean, step)

    return agree


def when_due(agree: Agree, otherwise: Agree | None) -> Agree:
    """Returns an agreement that is `agree` at the steps where levels are due, else `otherwise`.

    What a zoom draws is decided early; later, agreement costs detail and calls of the autoencoder.
    For the same reason blends have a weight of their own after the first steps, the `late_weight`.
    If `otherwise` is None, all steps agree, and only the weight follows the schedule.
    """

    def scheduled(weights, clean, step):
        n = weights["agreement"]
        weight = jnp.where(step < n.agree_first, n.blend_weight, n.late_weight)
        given = weights | {"agreement": n._replace(blend_weight=weight)}, clean, step
        if otherwise is None:
            return agree(*given)
        due = agrees_at(step, n.agree_first, n.agree_every, n.exact_from)
        return jax.lax.cond(due, agree, otherwise, *given)

    return scheduled


def leave_alone(weights: Any, clean: jax.Array, step: jax.Array) -> Agreed:
    """Returns the clean estimates unchanged, for pictures that do not have to agree."""
    return Agreed(clean, jnp.zeros((), clean.dtype))


# Where levels are made to agree -> (blend, latent view, pixel view) -> Agree.
SPACES = {"latent": in_latents, "pixel": in_pixels, "delivery": at_delivery}


def delivery(blend: Blend, pixels: View) -> Callable:
    """Returns (weights, clean) -> (rendered images, decoded images); blend "none" renders none."""

    def deliver(weights, clean):
        before = pixels.decode(weights, clean)
        images, late = pixels.ground(weights, before), weights["agreement"].late_weight
        options = _numbers(weights) | {"kernel": pixels.kernel}
        options |= {} if late is None else {"weight": late}
        stack = blend.stacked(images, pixels.geometry, **options)
        # Clipped before rendering: means of values in [-1, 1] stay there and still agree exactly.
        stack = jnp.clip(stack, -1, 1)
        rendered = blend.render(stack, pixels.geometry, kernel=pixels.kernel)
        return pixels.settle(weights, rendered, bounded=True), before

    return deliver


def _numbers(weights: Any) -> dict[str, Any]:
    """Returns what a blend takes of the numeric settings."""
    n = weights["agreement"]
    return {"weight": n.blend_weight, "strip": n.strip, "own_colour": n.own_colour}


def _consistent(blend: Blend, view: View, weights: Any, images: jax.Array) -> jax.Array:
    options = _numbers(weights) | {"blend": blend, "kernel": view.kernel}
    return consistent(images, view.geometry, **options)


def _rms(difference: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.square(difference)))
