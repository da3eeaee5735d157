"""The whole walk, in order: prompts -> text states -> latents -> scan -> pictures that agree.

    prompts -> token ids [N+1, T] -> text states [2N, T, D] -> latents [N, h, w, c]
    -> scan of {UNet on [2N, h, w, c] -> clean estimates -> photograph -> blend -> render -> step}
    -> decode [N, H, W, 3] -> blend + render in pixels

N levels; T tokens; h w the latent grid, H = f h, W = f w the pictures' (f the autoencoder's
downsampling). A batch of B stacks (seeds) adds a leading axis B to the latents.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pot_jax.config import (
    PhotographSettings,
    RunSettings,
    SamplerSettings,
    ZoomSettings,
)
from pot_jax.diffusion.sampler import SamplerState, chunks, stack_states, start
from pot_jax.diffusion.solvers import Plan
from pot_jax.errors import UserError
from pot_jax.media.images import read_photograph
from pot_jax.parallel import mesh as meshes
from pot_jax.pipelines.conditions import text_conditions
from pot_jax.pipelines.program import Program, Recipe, assemble
from pot_jax.weights.layouts.families import require_task
from pot_jax.weights.model import Model
from pot_jax.zoom.geometry import Geometry

# Steps in one compiled scan: often enough for a live progress bar, rarely enough that returning to
# Python costs nothing beside the network.
CHUNK = 5


@dataclasses.dataclass(frozen=True)
class Zoom:
    """A sampled zoom stack."""

    images: np.ndarray  # delivered pictures, [N, H, W, 3], float32 in [-1, 1], agreeing
    before_render: np.ndarray  # as decoded, before the last blend and render, [N, H, W, 3]
    latents: np.ndarray  # [N, h, w, c], float32
    settings: RunSettings  # with this stack's own seed
    geometry: Geometry  # of the pictures
    weights_digest: str
    timings: dict[str, float]  # compile_seconds, seconds_per_step

    def save(self, folder: str) -> None:
        """Writes pictures, stack, contact sheet, metrics and movie into `folder`.

        Raises:
          UserError: the folder holds something else, or cannot be written.
        """
        from pot_jax.runs import folder as workdir

        workdir.save_zoom(self, folder)


@dataclasses.dataclass(frozen=True)
class Job:
    """Settings and a model, checked and made ready to run."""

    settings: RunSettings
    recipe: Recipe  # the facts the program was compiled from
    program: Program
    plan: Plan
    weights: dict  # every array that the program takes
    weights_digest: str


def sample(
    model: Model,
    prompts: Sequence[str],
    *,
    zoom_factor: int = 2,
    height: int = 0,
    width: int = 0,
    placement: Sequence[tuple[int, int]] = (),
    negative_prompt: str = "",
    photograph: str | np.ndarray | None = None,
    photograph_level: int = 0,
    photograph_method: str = "project",
    seed: int = 0,
    latents: Any = None,
    devices: list[jax.Device] | None = None,
    progress: Callable[[int, int], None] | None = None,
    **sampler: Any,
) -> Zoom:
    """Samples one zoom stack.

    Args:
      model: from `pot_jax.load`.
      prompts: N texts, the widest level's first; one is plain text-to-image.
      zoom_factor: p; level i+1 shows a window 1/p as wide as level i.
      height: of every picture, in pixels; 0 is the model's own size.
      width: likewise.
      placement: N-1 pairs (down, right): each level's centre relative to its parent's, in parent
        pixels; empty for the centre.
      negative_prompt: what guidance leads away from.
      photograph: a picture's path, or pixels [H, W, 3] in [-1, 1], that a level has to agree with.
      photograph_level: the level it is a photograph of.
      photograph_method: "project" (exact) or "adam" (the paper's).
      seed: of all noise.
      latents: unit noise [N, h, w, c] to begin from instead of drawn noise.
      devices: to split the levels over; default all.
      progress: called with (steps done, steps in all), first with 0 before compilation.
      **sampler: fields of `config.SamplerSettings`: solver, steps, guidance_scale,
        guidance_rescale, eta, space ("pixel" or "latent"), pixel_every, blend, blend_weight,
        kernel, initial_noise, ...

    Returns:
      A `Zoom`; `zoom.images` is [N, H, W, 3] in [-1, 1].

    Raises:
      ValueError: one line naming what does not fit.
    """
    known = [field.name for field in dataclasses.fields(SamplerSettings)]
    for name in sampler:
        if name not in known:
            raise UserError(f"unknown setting {name!r}; sampler settings: {', '.join(known)}")
    path = photograph if isinstance(photograph, str) else ""
    settings = RunSettings(
        model=model.source,
        prompts=checked_prompts(prompts),
        negative_prompt=negative_prompt,
        seed=seed,
        sampler=SamplerSettings(**sampler),
        zoom=ZoomSettings(zoom_factor, height, width, tuple(map(tuple, placement))),
        photograph=PhotographSettings(path, photograph_level, photograph_method),
    )
    pixels = None if isinstance(photograph, str) else photograph
    job = prepare(model, settings, photograph=pixels, devices=devices)
    states = begin(job, latents=None if latents is None else np.asarray(latents)[None])
    states, timings = run(job, states, progress=progress)
    return finish(job, states, timings)[0]


def prepare(
    model: Model,
    settings: RunSettings,
    *,
    photograph: np.ndarray | None = None,
    devices: list[jax.Device] | None = None,
) -> Job:
    """Checks everything that can be checked before the long work, and assembles the program.

    Args:
      model: whose networks run.
      settings: what to sample; what they say of LoRAs and embeddings gives way to what the model
        was loaded with, digests included.
      photograph: pixels [H, W, 3] in [-1, 1], where they do not come from settings.photograph.path.
      devices: default all.

    Raises:
      UserError: naming what does not fit.
    """
    require_task(model, "text-to-image", "sampling a zoom")
    settings = dataclasses.replace(
        settings,
        loras=model.loras,
        embeddings=model.embeddings,
    )
    prompts = checked_prompts(settings.prompts)
    geometry = latent_geometry(model, len(prompts), settings.zoom)
    scale = settings.sampler.guidance_scale
    if settings.sampler.guidance_rescale and model.unet.config.time_cond_proj_dim is not None:
        raise UserError(
            f"sampler.guidance_rescale: {model.name} has its guidance built in "
            "(time_cond_proj_dim), of which there is nothing to take back; leave it 0"
        )
    conditions = text_conditions(model, prompts, settings.negative_prompt, scale)
    grounded = photograph is not None or settings.photograph.path
    recipe = Recipe(
        unet=model.unet,
        autoencoder=model.autoencoder,
        schedule=model.schedule,
        settings=settings.sampler,
        geometry=geometry,
        photograph=(settings.photograph.level, settings.photograph.method) if grounded else None,
        mesh=meshes.device_mesh(devices=devices),
        decode_rows=settings.decode_rows,
    )
    pixels = _photograph_pixels(settings, recipe.pixel_geometry, photograph) if grounded else None
    program = assemble(recipe)
    plan = program.parts.solver.plan(
        model.schedule, settings.sampler.steps, eta=settings.sampler.eta
    )
    weights = {
        "unet": model.params["unet"],
        "autoencoder": model.params["autoencoder"],
        "conditions": conditions,
    }
    weights = meshes.replicate(weights, recipe.mesh)
    if grounded:
        pixels = meshes.replicate(pixels, recipe.mesh)
        weights["photograph"] = pixels
        weights["photograph_latents"] = program.encode(weights, pixels[None])[0]
    return Job(settings, recipe, program, plan, weights, model.digest)


def begin(job: Job, latents: np.ndarray | None = None) -> SamplerState:
    """Returns the joined states of `settings.stacks` stacks, seeds seed, seed + 1, ...

    Args:
      job: from `prepare`.
      latents: unit noise [B, N, h, w, c] instead of drawn noise.
    """
    seeds = stack_seeds(job.settings)
    if latents is not None:
        g, channels = job.recipe.geometry, job.recipe.unet.config.out_channels
        shape = (g.levels, g.height, g.width, channels)
        if latents.shape[1:] != shape:
            raise UserError(f"latents: expected unit noise of {shape}, got {latents.shape[1:]}")
    given = [None] * len(seeds) if latents is None else latents
    states = [
        start(job.program.parts, job.plan, jax.random.key(seed), noise)
        for seed, noise in zip(seeds, given)
    ]
    return meshes.replicate(stack_states(states), job.recipe.mesh)


def run(
    job: Job,
    states: SamplerState,
    *,
    progress: Callable[[int, int], None] | None = None,
    save: Callable[[SamplerState, int], None] | None = None,
) -> tuple[SamplerState, dict[str, float]]:
    """Takes `states` through the rest of the plan.

    Args:
      job: from `prepare`.
      states: from `begin`, or restored.
      progress: called with (steps done, steps in all), first before compilation.
      save: called with (states, steps done) after every chunk but the last.

    Returns:
      The last states and {"compile_seconds", "seconds_per_step"}.
    """
    total = len(job.plan.timesteps)
    first = done = int(states.step)
    if progress:
        progress(done, total)
    compile_seconds, stepping = 0.0, 0.0
    advance = None
    for rows, active, done in chunks(job.plan, CHUNK, first):
        if advance is None:
            began = time.perf_counter()
            advance = job.program.compiled(job.weights, states, rows, active)
            compile_seconds = time.perf_counter() - began
        began = time.perf_counter()
        states = jax.block_until_ready(advance(job.weights, states, rows, active))
        stepping += time.perf_counter() - began
        if progress:
            progress(done, total)
        if save and done < total:
            save(states, done)
    seconds = stepping / max(total - first, 1)
    return states, {"compile_seconds": compile_seconds, "seconds_per_step": seconds}


def finish(job: Job, states: SamplerState, timings: dict[str, float]) -> list[Zoom]:
    """Decodes every stack and makes its pictures agree to the last bit.

    Raises:
      UserError: the pictures hold NaN or infinity.
    """
    zooms = []
    for seed, latents in zip(stack_seeds(job.settings), states.latents):
        images, before = deliver(job, latents, seed)
        zooms.append(
            Zoom(
                images=images,
                before_render=before,
                latents=np.asarray(latents),
                settings=dataclasses.replace(job.settings, seed=seed, stacks=1),
                geometry=job.recipe.pixel_geometry,
                weights_digest=job.weights_digest,
                timings=dict(timings),
            )
        )
    return zooms


def deliver(job: Job, latents: jax.Array, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Decodes the latents of one stack, [N, h, w, c]; pictures as rendered, and as decoded.

    Raises:
      UserError: the pictures hold NaN or infinity.
    """
    images, before = job.program.deliver(job.weights, latents)
    if not np.isfinite(images).all():
        raise UserError(
            f"the pictures of seed {seed} hold NaN or infinity; try dtype=float32, a smaller"
            " guidance_scale or another solver"
        )
    return np.asarray(images), np.asarray(before)


def stack_seeds(settings: RunSettings) -> list[int]:
    """The seeds of a run's stacks."""
    return [settings.seed + b for b in range(settings.stacks)]


def latent_geometry(model: Model, levels: int, zoom: ZoomSettings) -> Geometry:
    """Returns the placement of `levels` levels on the latent grid.

    Raises:
      UserError: when the size does not fit the model, or the zoom factor or placement the size.
    """
    factor = model.autoencoder.config.downsample_factor
    own = model.unet.config.sample_size * factor
    height, width = zoom.height or own, zoom.width or own
    grain = factor * 2 ** (len(model.unet.config.block_out_channels) - 1)
    for name, value in (("height", height), ("width", width)):
        if value % grain:
            raise UserError(f"zoom.{name}: expected a multiple of {grain} pixels, got {value}")
    if zoom.placement and len(zoom.placement) != levels - 1:
        raise UserError(
            f"zoom.placement: expected {levels - 1} pairs, one for each level but the widest,"
            f" got {len(zoom.placement)}"
        )
    if any(v % factor for pair in zoom.placement for v in pair):
        raise UserError(
            f"zoom.placement: expected multiples of {factor} pixels, the latents' grid, got"
            f" {list(zoom.placement)}"
        )
    offsets = tuple((y // factor, x // factor) for y, x in zoom.placement) or None
    h, w = height // factor, width // factor
    try:
        return Geometry(levels, zoom.zoom_factor, h, w, offsets)
    except ValueError as error:
        raise UserError(
            f"pictures of {height} x {width} pixels have latents of {h} x {w}, where: {error}"
        ) from error


def checked_prompts(prompts: Sequence[str]) -> tuple[str, ...]:
    """Returns the prompts as a tuple, or raises UserError: at least one, none empty."""
    if isinstance(prompts, str):
        raise UserError("prompts: expected a list of texts, one per level, got one text")
    if not len(prompts):
        raise UserError("prompts: expected at least one, got none; give one text per zoom level")
    for level, prompt in enumerate(prompts):
        if not isinstance(prompt, str) or not prompt.strip():
            raise UserError(f"prompts: the prompt of level {level} is empty; give it a text")
    return tuple(prompts)


def _photograph_pixels(settings: RunSettings, geometry: Geometry, pixels) -> jax.Array:
    if settings.photograph.level not in range(geometry.levels):
        raise UserError(
            f"photograph.level: expected 0 to {geometry.levels - 1}, got"
            f" {settings.photograph.level}"
        )
    if pixels is None:
        pixels = read_photograph(settings.photograph.path, geometry.height, geometry.width)
    expected = (geometry.height, geometry.width, 3)
    if np.shape(pixels) != expected:
        raise UserError(f"photograph: expected pixels of {expected}, got {np.shape(pixels)}")
    return jnp.asarray(pixels, jnp.float32)
