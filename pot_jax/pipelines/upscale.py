"""Super-resolution of a delivered zoom: each level enlarged with its prompt, then made to agree.

    pictures [N, H, W, 3], noised a little -> UNet on [2N, H, W, 4 + 3], its latents beside them
    -> decode [N, fH, fW, 3] -> blend + render at the new size

f is what the upscaler's autoencoder enlarges by, 4 for Stable Diffusion's. It is the sampler and
the delivery of any zoom: the small pictures' grid is the latents' grid here, their noise and that
of the latents is rendered noise, so that levels which see the same place see the same noise, and
they are made to agree once, as pictures.
"""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from pot_jax.config import RunSettings, UpscalerSettings
from pot_jax.diffusion.sampler import SamplerState, stack_states, start
from pot_jax.diffusion.schedule import signal_and_noise
from pot_jax.errors import UserError
from pot_jax.parallel import mesh as meshes
from pot_jax.pipelines.conditions import text_conditions
from pot_jax.pipelines.program import Recipe, assemble
from pot_jax.pipelines.zoom import Job, Zoom, deliver, run
from pot_jax.weights.digests import combined_digest
from pot_jax.weights.layouts.families import LowRes, require_task
from pot_jax.weights.model import Model
from pot_jax.zoom import operators
from pot_jax.zoom.geometry import Geometry

# Folded into a stack's seed: the enlarging draws other noise than the sampling did.
_KEY = 4


def enlarge(
    zoom: Zoom,
    upscaler: Model,
    *,
    devices: list[jax.Device] | None = None,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> Zoom:
    """Enlarges a zoom, by 4 with Stable Diffusion's x4 upscaler.

    Args:
      zoom: from `pot_jax.sample`.
      upscaler: from `pot_jax.load`, a model of StableDiffusionUpscalePipeline.
      devices: to split the levels over; default all.
      progress: called with (steps done, steps in all), first with 0 before compilation.
      **settings: fields of `config.UpscalerSettings`: steps, guidance_scale, noise_level, solver,
        rows.

    Returns:
      The same zoom with larger pictures, which need not meet a photograph exactly any more; its
      latents are still those of the small ones.

    Raises:
      ValueError: one line naming what does not fit.
    """
    known = [field.name for field in dataclasses.fields(UpscalerSettings) if field.name != "path"]
    for name in settings:
        if name not in known:
            raise UserError(f"unknown setting {name!r}; upscaler settings: {', '.join(known)}")
    if zoom.settings.upscaler.path:
        raise UserError("this zoom is enlarged already; start from the one that sample returned")
    chosen = UpscalerSettings(upscaler.source, **settings)
    job = prepare(
        upscaler,
        dataclasses.replace(zoom.settings, upscaler=chosen),
        zoom.geometry,
        zoom.weights_digest,
        devices=devices,
    )
    return enlarge_zoom(job, zoom, progress)


def prepare(
    upscaler: Model,
    settings: RunSettings,
    geometry: Geometry,
    zoom_digest: str,
    *,
    devices: list[jax.Device] | None = None,
) -> Job:
    """Checks what can be checked before the long work, and assembles the program.

    Args:
      upscaler: whose networks run.
      settings: of the whole run.
      geometry: of the small pictures.
      zoom_digest: of the weights that the small pictures come from.
      devices: default all.

    Returns:
      A job that lacks only the small pictures; its geometry and digest are the whole run's.

    Raises:
      UserError: naming what does not fit.
    """
    require_task(upscaler, "upscaling", "enlarging a zoom")
    chosen = settings.upscaler
    _check_noise_level(upscaler, chosen.noise_level)
    recipe = Recipe(
        unet=upscaler.unet,
        autoencoder=upscaler.autoencoder,
        schedule=upscaler.schedule,
        settings=dataclasses.replace(
            settings.sampler,
            solver=chosen.solver,
            steps=chosen.steps,
            guidance_scale=chosen.guidance_scale,
            guidance_rescale=0.0,
            eta=0.0,
            space="delivery",
            initial_noise="shared",
        ),
        geometry=geometry,
        photograph=None,
        mesh=meshes.device_mesh(devices=devices),
        decode_rows=1,  # a row of the decoder costs many times what one of the UNet does
        network_rows=chosen.rows,
    )
    program = assemble(recipe)
    conditions = text_conditions(
        upscaler, settings.prompts, settings.negative_prompt, chosen.guidance_scale
    )
    if upscaler.unet.config.has_classes:
        rows = len(conditions["text_states"])
        conditions["class_labels"] = jnp.full(rows, chosen.noise_level, jnp.int32)
    weights = {
        "unet": upscaler.params["unet"],
        "autoencoder": upscaler.params["autoencoder"],
        "conditions": conditions,
        "small_scales": _scales(upscaler.low_res, chosen.noise_level),
    }
    return Job(
        settings,
        recipe,
        program,
        program.parts.solver.plan(upscaler.schedule, chosen.steps),
        meshes.replicate(weights, recipe.mesh),
        combined_digest({"zoom": zoom_digest, "upscaler": upscaler.digest}),
    )


def _check_noise_level(upscaler: Model, noise_level: int) -> None:
    classes = upscaler.unet.config.num_class_embeds
    highest = upscaler.low_res.max_noise_level
    highest = highest if classes is None else min(highest, classes - 1)
    if noise_level > highest:
        raise UserError(
            f"upscaler.noise_level: {upscaler.name} takes 0 to {highest}, got {noise_level}"
        )


def _scales(low_res: LowRes, noise_level: int) -> jax.Array:
    alpha, sigma = signal_and_noise(low_res.schedule)
    return jnp.asarray([alpha[noise_level], sigma[noise_level]], jnp.float32)


def enlarge_zoom(job: Job, zoom: Zoom, progress: Callable[[int, int], None] | None = None) -> Zoom:
    """Enlarges one stack.

    Args:
      job: from `prepare`.
      zoom: whose settings.seed the noise is drawn from.
      progress: as in `enlarge`.

    Raises:
      UserError: the pictures hold NaN or infinity.
    """
    began = time.perf_counter()
    job, states = begin(job, zoom)
    states, _ = run(job, states, progress=progress)
    images, before = deliver(job, states.latents[0], zoom.settings.seed)
    return dataclasses.replace(
        zoom,
        images=images,
        before_render=before,
        settings=dataclasses.replace(job.settings, seed=zoom.settings.seed, stacks=1),
        geometry=job.recipe.pixel_geometry,
        weights_digest=job.weights_digest,
        timings=zoom.timings | {"upscaling_seconds": time.perf_counter() - began},
    )


def begin(job: Job, zoom: Zoom) -> tuple[Job, SamplerState]:
    """Returns the job with the zoom's pictures in its conditions, and the state to start from."""
    small, latents = jax.random.split(jax.random.fold_in(jax.random.key(zoom.settings.seed), _KEY))
    sampler = job.recipe.settings
    draw = partial(operators.shared_noise, kernel=sampler.kernel)
    draw = operators.independent_noise if sampler.blend == "none" else draw
    alpha, sigma = job.weights["small_scales"]
    noised = alpha * zoom.images + sigma * draw(small, job.recipe.geometry, 3)
    conditions = job.weights["conditions"]
    halves = len(conditions["text_states"]) // len(noised)
    beside = meshes.replicate(jnp.concatenate([noised] * halves), job.recipe.mesh)
    weights = job.weights | {"conditions": conditions | {"beside": beside}}
    states = stack_states([start(job.program.parts, job.plan, latents)])
    return dataclasses.replace(job, weights=weights), meshes.replicate(states, job.recipe.mesh)
