"""Builds the sampler's callables for a latent diffusion model, and compiles them once per recipe.

Symbols as in pipeline.py. `weights` is the dict of every array the program takes: `unet` and
`autoencoder` parameters, `conditions` (conditions.py), and for a photograph `photograph` [H, W, 3]
and `photograph_latents` [h, w, c].
"""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from pot_jax.config import SamplerSettings
from pot_jax.diffusion import guidance
from pot_jax.diffusion.sampler import Parts, make_chunk, over_stacks
from pot_jax.diffusion.schedule import ScheduleConfig
from pot_jax.diffusion.solvers import SOLVERS
from pot_jax.models.vae import decode_latents, encode_latents
from pot_jax.parallel.mesh import replicated, split_rows
from pot_jax.pipelines.conditions import denoiser
from pot_jax.zoom import agreement, blending, operators
from pot_jax.zoom.geometry import Geometry
from pot_jax.zoom.photograph import PHOTOGRAPH_METHODS


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that shapes the compiled program; hashable, so that equal recipes compile once."""

    unet: nn.Module
    autoencoder: nn.Module
    schedule: ScheduleConfig
    settings: SamplerSettings
    geometry: Geometry  # of the latents
    photograph: tuple[int, str] | None  # level, method
    mesh: jax.sharding.Mesh
    decode_rows: int  # pictures decoded at a time on each device
    network_rows: int | None = None  # rows of the UNet at a time on each device; None is all

    @property
    def pixel_geometry(self) -> Geometry:
        return self.geometry.scaled(self.autoencoder.config.downsample_factor)


@dataclasses.dataclass(frozen=True)
class Program:
    """The compiled functions of one recipe."""

    parts: Parts
    compiled: Callable  # (weights, states, rows, active) -> executable of those shapes
    encode: Callable  # (weights, images [M, H, W, 3]) -> latents [M, h, w, c]
    deliver: Callable  # (weights, latents [N, h, w, c]) -> (images, images before the last render)


@functools.lru_cache(maxsize=16)
def assemble(recipe: Recipe) -> Program:
    """Returns the program of `recipe`; the same object for an equal recipe."""
    s, geometry = recipe.settings, recipe.geometry
    decode, encode = autoencoder(recipe.autoencoder, recipe.mesh, recipe.decode_rows)
    alone = functools.partial(
        operators.independent_noise, geometry=geometry, channels=recipe.unet.config.out_channels
    )
    shared = functools.partial(operators.shared_noise, **alone.keywords, kernel=s.kernel)
    shared = alone if s.blend == "none" else shared
    parts = Parts(
        denoise=denoiser(
            recipe.unet, s.guidance_scale, recipe.mesh, recipe.network_rows, s.guidance_rescale
        ),
        to_clean=guidance.estimator(recipe.schedule),
        agree=_agreement(recipe, decode, encode),
        first_noise=alone if s.initial_noise == "per_level" else shared,
        step_noise=shared,
        solver=SOLVERS[s.solver],
    )
    chunk = jax.jit(
        over_stacks(make_chunk(parts)), donate_argnums=1, out_shardings=replicated(recipe.mesh)
    )
    executables = {}

    def compiled(*arguments):
        key = str(jax.tree.map(jax.typeof, arguments))
        if key not in executables:
            executables[key] = chunk.lower(*arguments).compile()
        return executables[key]

    return Program(parts, compiled, jax.jit(encode), jax.jit(_delivery(recipe, decode)))


def autoencoder(
    module: nn.Module, mesh: jax.sharding.Mesh, rows_at_once: int
) -> tuple[Callable, Callable]:
    """Returns decode(weights, latents) -> images and its inverse, `rows_at_once` on each device.

    `weights` holds "autoencoder"; latents [M, h, w, c] and images [M, H, W, 3] are float32.
    """

    def decode(weights, latents):
        return decode_latents(module, weights["autoencoder"], latents).astype(jnp.float32)

    def encode(weights, images):
        return encode_latents(module, weights["autoencoder"], images).astype(jnp.float32)

    return split_rows(decode, mesh, rows_at_once), split_rows(encode, mesh, rows_at_once)


def _grounding(recipe: Recipe, geometry: Geometry, photograph: str) -> Callable | None:
    """Returns ground(weights, clean) on `geometry`'s grid; `photograph` names the array to meet."""
    if recipe.photograph is None:
        return None
    level, method = recipe.photograph
    ground = PHOTOGRAPH_METHODS[method]
    return lambda weights, clean: ground(clean, weights[photograph], geometry, level=level)


def _agreement(recipe: Recipe, decode: Callable, encode: Callable) -> agreement.Agree:
    s = recipe.settings
    options = {"weight": s.blend_weight, "kernel": s.kernel}
    latents, pixels = recipe.geometry, recipe.pixel_geometry
    ground_latents = _grounding(recipe, latents, "photograph_latents")
    ground_pixels = _grounding(recipe, pixels, "photograph")

    def build(geometry: Geometry, pixel: bool) -> agreement.Agree:
        if s.blend == "gradient":
            descend = functools.partial(
                blending.descend,
                geometry=geometry,
                steps=s.gradient_steps,
                optimizer=optax.adam(s.gradient_rate),
                **options,
            )
            to_images = decode if pixel else lambda weights, clean: clean
            return agreement.by_gradient(descend, to_images, ground_latents)
        consistent = functools.partial(
            blending.consistent, geometry=geometry, blend=s.blend, **options
        )
        if pixel:
            return agreement.in_pixels(decode, encode, consistent, ground_pixels)
        return agreement.in_latents(consistent, ground_latents)

    if s.space == "delivery":
        return agreement.none
    if s.space == "latent":
        return build(latents, pixel=False)
    return agreement.every(s.pixel_every, build(pixels, pixel=True), build(latents, pixel=False))


def _delivery(recipe: Recipe, decode: Callable) -> Callable:
    """Decode, then blend and render once more in pixels, whatever the space was."""
    s, geometry = recipe.settings, recipe.pixel_geometry
    blend = blending.BLENDS.get(s.blend, blending.BLENDS["laplacian"])
    ground = _grounding(recipe, geometry, "photograph")

    def deliver(weights, latents):
        before = decode(weights, latents)
        images = ground(weights, before) if ground else before
        if s.blend == "none":  # independent sampling: nothing may pass between levels
            return jnp.clip(images, -1, 1), before
        stack = blend(images, geometry, weight=s.blend_weight, kernel=s.kernel)
        # Clipped before rendering: means of values in [-1, 1] stay there and still agree exactly.
        return operators.render(jnp.clip(stack, -1, 1), geometry, kernel=s.kernel), before

    return deliver
