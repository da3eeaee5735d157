"""The kinds of models: which of diffusers' pipelines are read, and what sets them apart.

All have a text encoder, a UNet and an autoencoder. They differ in what the UNet sees beside the
latents, and in what goes with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pot_jax.diffusion.schedule import ScheduleConfig
from pot_jax.errors import UserError


class Family(NamedTuple):
    """What the models of one pipeline class have in common."""

    task: str  # a key of USES
    # The UNet's input channels beside the latents, from the number of the latents' own.
    extra_channels: Callable[[int], int] = lambda latents: 0
    schedules: tuple[str, ...] = ("scheduler",)  # folders of scheduler configs
    # Our component -> what its config.json means where it is silent.
    defaults: Mapping[str, Mapping[str, Any]] = {}
    # What else model_index.json holds when written: parts that there are none of, and settings.
    others: Mapping[str, Any] = {}


class LowRes(NamedTuple):
    """How an upscaler's small pictures are noised before it sees them."""

    schedule: ScheduleConfig
    max_noise_level: int  # the highest timestep of `schedule` to noise them to


_SAFETY = {"safety_checker": [None, None], "feature_extractor": [None, None]}
_ENCODER = {**_SAFETY, "image_encoder": [None, None], "requires_safety_checker": False}

# diffusers' class -> what its models are. Another class with the same parts is one more row.
FAMILIES = {
    "StableDiffusionPipeline": Family("text-to-image", others=_ENCODER),
    "LatentConsistencyModelPipeline": Family("text-to-image", others=_ENCODER),
    "StableDiffusionInpaintPipeline": Family(
        "inpainting",
        extra_channels=lambda latents: 1 + latents,  # the mask; what is around it, encoded
        others=_ENCODER,
    ),
    "StableDiffusionUpscalePipeline": Family(
        "upscaling",
        extra_channels=lambda latents: 3,  # the small picture
        schedules=("scheduler", "low_res_scheduler"),
        # Old files do not say it. (diffusers' pipeline sets it even over what a file says.)
        defaults={"autoencoder": {"scaling_factor": 0.08333}},
        others={**_SAFETY, "watermarker": [None, None], "max_noise_level": 350},
    ),
}

# What a model is for -> where it is used.
USES = {
    "text-to-image": "pot_jax.sample, or pot-jax sample --model",
    "inpainting": "pot_jax.inpaint",
    "upscaling": "pot_jax.enlarge, or pot-jax sample --upscaler",
}


def require_task(model: Any, task: str, what: str) -> None:
    """Raises UserError unless `model` is for `task`; `what` names who asks."""
    given = FAMILIES[model.pipeline].task
    if given != task:
        raise UserError(
            f"{what} takes a model for {task}, but {model.name} is one for {given} "
            f"({model.pipeline}); use it with {USES[given]}"
        )
