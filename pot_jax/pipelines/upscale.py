"""Upscales a delivered zoom: each level with its own prompt, and then they are made to agree.

    pictures [N, H, W, 3], noised a little -> UNet on [2N, H, W, 4 + 3], after its latents
    -> decode [N, fH, fW, 3] -> blend + render at the new size

f is the upsampling of the upscaler's autoencoder, 4 for Stable Diffusion's. It uses the same
sampler and delivery as any zoom. The small pictures' grid is the latent grid here. Their noise and
the latents' noise are both rendered noise, so levels that see the same place see the same noise.
The levels are made to agree once, as pictures.
"""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from pot_jax.checks import build, checked, require
from pot_jax.config import RunSettings, UpscalerSettings, of_sample
from pot_jax.diffusion import guidance
from pot_jax.diffusion.sampler import key_of
from pot_jax.diffusion.schedule import signal_and_noise
from pot_jax.diffusion.solvers import SOLVERS, resolved_solver
from pot_jax.errors import UserError
from pot_jax.parallel import mesh as meshes
from pot_jax.parallel.devices import fixed_settings
from pot_jax.pipelines.conditions import Conditions, text_conditions
from pot_jax.pipelines.job import Job, Progress, begin, deliver, run
from pot_jax.pipelines.notices import log
from pot_jax.pipelines.program import Recipe, assemble
from pot_jax.runs.record import digest, model_identity
from pot_jax.runs.zoom import Zoom
from pot_jax.weights.digests import combined_digest
from pot_jax.weights.model import Model, require_task
from pot_jax.zoom import agreement
from pot_jax.zoom.agreement import SPACES, find_blend
from pot_jax.zoom.geometry import Geometry

# Folded into a sample's seed, so that upscaling draws other noise than sampling.
_KEY = 4


@dataclasses.dataclass(frozen=True)
class PreparedUpscaler:
    """An upscaler, checked and ready for the pictures of any zoom of one geometry."""

    settings: RunSettings  # of the run
    recipe: Recipe
    conditions: Conditions
    scales: tuple[float, float]  # signal and noise of the noised small pictures
    weights: dict  # without the conditions
    plan: Any
    weights_digest: str  # of the zoom's model and this one together
    identity: dict[str, str]
    notices: tuple[str, ...] = ()  # what the user should be told before upscaling, a line each

    @property
    def geometry(self) -> Geometry:
        """The placement on the large pictures' grid."""
        return self.recipe.pixel_geometry


@fixed_settings()
def upscale(
    zoom: Zoom,
    upscaler: Model,
    *,
    blend: str | Callable | None = None,
    devices: list[jax.Device] | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Zoom:
    """Upscales a zoom, by 4 with Stable Diffusion's x4 upscaler.

    Args:
      zoom: from `pot_jax.sample`.
      upscaler: from `pot_jax.load`, a model of StableDiffusionUpscalePipeline; its
        `sampler.json`, if it has one, is not used.
      blend: as in `pot_jax.sample`; default: the zoom's own, if it has a name.
      devices: those that the levels are split over; default all.
      progress: called with (steps done, total steps), first with 0 before compilation.
      **settings: fields of `config.UpscalerSettings`: steps, guidance_scale, noise_level, solver,
        rows.

    Returns:
      The zoom with larger pictures. They may no longer match a photograph exactly. `latents` are
      still the latents of the small pictures.

    Raises:
      UserError: something does not fit; one line says what. It is a `ValueError`.
    """
    checked(zoom, Zoom, "zoom")
    checked(progress, Progress | None, "progress")
    if "path" in settings:
        raise UserError("unknown setting 'path'; pass the upscaler as the second argument")
    if zoom.settings.upscaler.path:
        raise UserError("the zoom has already been upscaled; pass the one from pot_jax.sample")
    own = [part.name for part in zoom.settings.own_parts if part.part == "blend"]
    if own and blend is None:
        raise UserError(f"the zoom was sampled with {own[0]} as its blend; pass it as blend=")
    chosen = build(UpscalerSettings, settings, "upscaler.")
    whole, mesh = dataclasses.replace(zoom.settings, upscaler=chosen), meshes.device_mesh(devices)
    prepared = prepare(upscaler, whole, zoom.geometry, zoom.weights_digest, mesh, blend)
    log(prepared.notices)
    zoom = dataclasses.replace(zoom, notices=zoom.notices + prepared.notices)
    return upscale_prepared(prepared, zoom, progress)


def prepare(
    upscaler: Model,
    settings: RunSettings,
    geometry: Geometry,
    zoom_digest: str,
    mesh: jax.sharding.Mesh,
    blend: str | Callable | None = None,
) -> PreparedUpscaler:
    """Checks what can be checked before the long work; raises UserError if something does not fit.

    `settings` are the run's, `geometry` the small pictures', and `zoom_digest` that of the weights
    which made them; `blend` replaces the settings' own.
    """
    # One sample at a time.
    mesh = meshes.device_mesh([*mesh.devices.flat], f"levels,params:{mesh.shape[meshes.PARAMS]}")
    require_task(upscaler, "upscaling", "upscaling a zoom")
    if settings.held:
        raise UserError("upscaler: expected none with held levels, whose bytes would change")
    s, chosen, level = settings.sampler, settings.upscaler, settings.upscaler.noise_level
    highest, classes = upscaler.low_res.max_noise_level, upscaler.unet.config.num_class_embeds
    highest = highest if classes is None else min(highest, classes - 1)
    place = f"upscaler.noise_level: {upscaler.name}"
    require(level <= highest, place, f"0 to {highest}", level)
    solver, notices = resolved_solver(upscaler.schedule, chosen.solver)
    chosen = dataclasses.replace(chosen, path=upscaler.source, solver=solver)
    settings = dataclasses.replace(settings, upscaler=chosen)
    prompts = settings.prompts, settings.negative_prompt
    how = {"weighted": settings.prompt_weights, "long": settings.long_prompts}
    conditions = text_conditions(upscaler, *prompts, chosen.guidance_scale, **how)
    if upscaler.unet.config.has_classes:
        levels = np.full(len(settings.prompts), level, np.int32)
        conditions = conditions.joined("class_labels", levels)
    recipe = Recipe(
        *(upscaler.unet, upscaler.autoencoder, upscaler.schedule, geometry, mesh),
        guided=conditions.guided,
        solver=SOLVERS[chosen.solver],
        blend=find_blend(blend or s.blend),
        agreement=SPACES["delivery"],
        kernel=s.kernel,
        decode_rows=1,  # decoding a picture costs many times what a batch row of the UNet does
        network_rows=chosen.rows,
    )
    alpha, sigma = signal_and_noise(upscaler.low_res.schedule)
    numbers = {name: np.float32(getattr(s, name)) for name in ("strip", "own_colour")}
    weights = {name: upscaler.params[name] for name in ("unet", "autoencoder")} | {
        "guidance": guidance.Numbers(np.float32(chosen.guidance_scale), np.float32(0)),
        "agreement": agreement.Numbers(np.float32(s.late_weight), None, None, None, **numbers),
    }
    ours = model_identity(upscaler) | {
        "settings": digest({**dataclasses.asdict(chosen), "path": "", "rows": 0}),
        "noising": digest(upscaler.low_res.schedule.to_json()),
        "prompts": digest(conditions.read),
    }
    digests = {"zoom": zoom_digest, "upscaler": upscaler.digest}  # "" for weights not read yet
    return PreparedUpscaler(
        settings,
        recipe,
        conditions,
        (float(alpha[level]), float(sigma[level])),
        meshes.place(weights, mesh, meshes.weight_specs(weights, mesh)),
        recipe.solver.plan(upscaler.schedule, chosen.steps),
        combined_digest(digests) if all(digests.values()) else "",
        {f"upscaler {name}": value for name, value in ours.items()},
        tuple(f"upscaler: {n}" for n in (*upscaler.notices, *notices, *conditions.notices)),
    )


def upscale_prepared(
    prepared: PreparedUpscaler, zoom: Zoom, progress: Progress | None = None
) -> Zoom:
    """Upscales one sample, with noise drawn from its seed; raises UserError if it is not finite."""
    began = time.perf_counter()
    job, key = job_for(prepared, zoom)
    states, _ = run(job, begin(job, key[None]), progress=progress)
    images, before = deliver(job, states.latents[0], zoom.settings.seed)
    return dataclasses.replace(
        zoom,
        images=images,
        before_render=before,
        settings=of_sample(prepared.settings, zoom.settings.seed),
        geometry=prepared.geometry,
        weights_digest=prepared.weights_digest,
        timings={**zoom.timings, "upscaling_seconds": time.perf_counter() - began},
        identity={**(zoom.identity or {}), **prepared.identity},
    )


def job_for(prepared: PreparedUpscaler, zoom: Zoom) -> tuple[Job, jax.Array]:
    """Returns the job that upscales one sample, and the key of its noise."""
    r, seed, scales = prepared.recipe, np.uint32(zoom.settings.seed), np.float32(prepared.scales)
    noised, key = _noised(seed, zoom.images, *scales, r.blend, r.geometry, r.kernel)
    conditions = prepared.conditions.joined("channels", np.asarray(noised)).arrays
    weights = prepared.weights | {"conditions": meshes.replicate(conditions, r.mesh)}
    return Job(assemble(r), prepared.plan, weights, r.mesh, r.latent_shape), key


@partial(jax.jit, static_argnums=(4, 5, 6))
def _noised(seed, images, alpha, sigma, blend, geometry, kernel):
    """Returns the small pictures with shared noise, and the key of the latents' noise."""
    small, latents = jax.random.split(jax.random.fold_in(key_of(seed), _KEY))
    return alpha * images + sigma * blend.noise(small, geometry, 3, kernel=kernel), latents
