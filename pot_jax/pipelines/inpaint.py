"""Repaints what a mask covers, with Stable Diffusion's inpainting models.

    pictures [B, H, W, 3], masks -> UNet on [2B, h, w, 4 + 1 + 4]: its latents, then the mask and
    the encoded picture without what the mask covers -> decode [B, H, W, 3]

The sampler's levels are the B pictures here, each with its own noise, so that other
pictures change nothing; nothing passes between them.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from pot_jax.checks import build, checked, require
from pot_jax.config import SEED, SIZES, SamplerSettings, Scale, checked_prompts
from pot_jax.diffusion.sampler import keys_of
from pot_jax.diffusion.solvers import SOLVERS, resolved_solver
from pot_jax.errors import UserError, shown
from pot_jax.media.images import read_images, read_mask
from pot_jax.parallel import memory
from pot_jax.parallel import mesh as meshes
from pot_jax.parallel.devices import fixed_settings
from pot_jax.pipelines.conditions import text_conditions, with_sizes
from pot_jax.pipelines.job import Job, Progress, begin, checked_latents, deliver, run
from pot_jax.pipelines.notices import log
from pot_jax.pipelines.program import Recipe, assemble, rows_that_fit
from pot_jax.pipelines.zoom import sampler_numbers, spaced
from pot_jax.weights.model import Model, require_task
from pot_jax.zoom.agreement import BLENDS, SPACES
from pot_jax.zoom.geometry import Geometry


@fixed_settings()
def inpaint(
    model: Model,
    prompt: str | Sequence[str],
    image: Any,
    mask: Any,
    *,
    negative_prompt: str = "",
    prompt_weights: bool = False,
    long_prompts: bool = False,
    steps: int = 50,
    guidance_scale: float = 7.5,
    solver: str = "",
    timestep_spacing: str = "",
    sigmas: str = "",
    eta: float = 0.0,
    seed: int = 0,
    latents: np.ndarray | None = None,
    devices: list[jax.Device] | None = None,
    progress: Progress | None = None,
    **sizes: Sequence[int],
) -> np.ndarray:
    """Repaints what a mask covers, in one picture or several.

    Args:
      model: from `pot_jax.load`, an inpainting model (`weights.model.FAMILIES`); its
        `sampler.json`, if it has one, is not used.
      prompt: what to paint; one for all pictures, or one for each.
      image: one picture or B, in any form that `media.images.read_images` takes: a path, a Pillow
        image, or an array [H, W, 3] or [B, H, W, 3] of bytes, or of floats in [-1, 1]. H and W are
        multiples of the autoencoder's factor.
      mask: [H, W] or [B, H, W], as `media.images.read_mask` takes it: true, or one half or more,
        marks what to paint.
      negative_prompt: what guidance steers the pictures away from.
      prompt_weights: (word:1.2), (word) and [word] weigh words, as in AUTOMATIC1111.
      long_prompts: prompts may be longer than the text encoder; they are read in chunks.
      steps: denoising steps.
      guidance_scale: s in u + s (c - u); 1 or less is no guidance.
      solver: a name in `SOLVERS`; by default the one that the model's scheduler config names.
      timestep_spacing: "leading", "linspace" or "trailing"; by default the scheduler config's.
      sigmas: "timesteps", "karras", "exponential" or "beta"; by default the scheduler config's.
      eta: DDIM's noise, 0 to 1.
      seed: the seed of all noise, 0 to 2^32 - 1.
      latents: unit noise [B, h, w, c] to start from instead of drawn noise.
      devices: those that the pictures are split over; default all.
      progress: called with (steps done, total steps), first with 0 before compilation.
      **sizes: what SDXL is told of: `config.SIZES`, original_size, crop, target_size, ...

    Returns:
      Pictures [H, W, 3] or [B, H, W, 3] like `image`, in [-1, 1]. Outside the mask, pixels have
      passed through the autoencoder; copy them from `image` if they must be exact.

    Raises:
      UserError: something does not fit; one line says what. It is a `ValueError`.
    """
    require_task(model, "inpainting", "inpainting")
    guidance_scale = checked(guidance_scale, Scale, "guidance_scale")
    given = {"solver": solver, "steps": steps, "guidance_scale": guidance_scale, "eta": eta}
    if unknown := sizes.keys() - {*SIZES}:
        known = ", ".join(SIZES)
        raise UserError(f"inpainting has no setting {shown(min(unknown))}; besides, it has {known}")
    given |= {"timestep_spacing": timestep_spacing, "sigmas": sigmas, **sizes}
    settings = build(SamplerSettings, given, "sampler.")
    seed = checked(seed, SEED, "seed")
    negative_prompt = checked(negative_prompt, str, "negative_prompt")
    checked(progress, Progress | None, "progress")
    batched, images, masks = _checked_pictures(model, image, mask)
    count, one = len(images), isinstance(prompt, str)
    prompts = [checked(prompt, str, "prompt")] * count if one else checked_prompts(prompt)
    require(len(prompts) == count, "prompt", f"one string, or {count}", len(prompts))
    weights = {name: model.params[name] for name in ("unet", "autoencoder")}
    mesh = meshes.device_mesh(devices, parameters=memory.size(weights))
    solver, notices = resolved_solver(model.schedule, settings.solver)
    settings = dataclasses.replace(settings, solver=solver)
    plan = SOLVERS[solver].plan(spaced(model.schedule, settings), steps, eta=settings.eta)
    how = {"weighted": checked(prompt_weights, bool, "prompt_weights")}
    how["long"] = checked(long_prompts, bool, "long_prompts")
    scale = settings.guidance_scale
    conditions = text_conditions(model, prompts, negative_prompt, scale, **how)
    conditions = with_sizes(conditions, model, settings, *images.shape[1:3])
    log((*model.notices, *notices, *conditions.notices))
    factor = model.autoencoder.config.downsample_factor
    apart = _Apart(count, 2, *(side // factor for side in images.shape[1:3]))
    recipe = Recipe(
        *(model.unet, model.autoencoder, model.schedule, apart, mesh),
        guided=conditions.guided,
        solver=SOLVERS[solver],
        blend=BLENDS["none"],
        agreement=SPACES["delivery"],
        **rows_that_fit(model.unet, model.autoencoder, apart, mesh.local_devices[0]),
    )
    program = assemble(recipe)
    weights |= sampler_numbers(settings, len(plan.timestep))
    weights = meshes.place(weights, mesh, meshes.weight_specs(weights, mesh))
    kept = np.asarray(program.encode(weights, images * (1 - masks)))
    # A cell of the latents is painted if its first pixel is, as in training.
    channels = np.concatenate([masks[:, ::factor, ::factor], kept], axis=-1)
    conditions = conditions.joined("channels", channels)
    weights["conditions"] = meshes.replicate(conditions.arrays, mesh)
    job = Job(program, plan, weights, mesh, recipe.latent_shape)
    if latents is not None:
        latents = checked_latents([latents], (1, *job.latent_shape))
    states, _ = run(job, begin(job, keys_of(np.uint32([seed])), latents), progress=progress)
    painted, _ = deliver(job, states.latents[0], seed)
    return painted if batched else painted[0]


class _Apart(Geometry):
    """Pictures none of which lies in another, so that any size will do."""

    def __post_init__(self):
        pass


def _checked_pictures(model: Model, image: Any, mask: Any) -> tuple[bool, np.ndarray, np.ndarray]:
    """Returns whether they are a batch, images [B, H, W, 3], and masks [B, H, W, 1] of 0 and 1."""
    images, masks = read_images(image, "image"), read_mask(mask)
    batched, factor = images.ndim == 4, model.autoencoder.config.downsample_factor
    images = images if batched else images[None]
    sides = images.shape[1:3]
    expected = f"a height and a width that are multiples of {factor}"
    require(not any(side % factor for side in sides), "image", expected, sides)
    masks = masks[None] if masks.ndim == 2 else masks
    expected = f"{sides}, or one for each of {len(images)} pictures"
    require(masks.shape in (images.shape[:3], (1, *sides)), "mask", expected, masks.shape)
    masks = np.broadcast_to(masks, images.shape[:3])
    if empty := [i for i, cells in enumerate(masks[:, ::factor, ::factor]) if not cells.any()]:
        cell = f"a cell of {factor} x {factor} pixels is painted if its first pixel is marked"
        log((f"mask: nothing is painted in the pictures {empty}: {cell}",))
    return batched, images, masks[..., None].astype(np.float32)
