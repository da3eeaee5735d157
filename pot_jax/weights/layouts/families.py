"""The kinds of models: which of diffusers' pipelines are supported, and how they differ.

All have a text encoder, a UNet and an autoencoder. They differ in what the UNet sees besides the
latents.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from pot_jax.diffusion.schedule import ScheduleConfig
from pot_jax.errors import UserError


class Family(NamedTuple):
    """What the models of one pipeline class have in common."""

    task: str  # a key of USES
    # The UNet's input channels besides the latents, from the number of the latents' own.
    extra_channels: Callable[[int], int] = lambda latents: 0
    schedules: tuple[str, ...] = ("scheduler",)  # folders of scheduler configs
    # Our component -> the defaults of its config.json that this pipeline changes.
    defaults: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    # What else export writes to model_index.json: absent components, and settings.
    others: Mapping[str, Any] = MappingProxyType({})


class LowRes(NamedTuple):
    """How noise is added to an upscaler's small pictures before it sees them."""

    schedule: ScheduleConfig
    max_noise_level: int  # the highest timestep of `schedule` that it accepts


_SAFETY = {"safety_checker": [None, None], "feature_extractor": [None, None]}
_ENCODER = {**_SAFETY, "image_encoder": [None, None], "requires_safety_checker": False}

# diffusers' class -> its models. Another class with the same components is one more entry.
FAMILIES = {
    "StableDiffusionPipeline": Family("text-to-image", others=_ENCODER),
    "LatentConsistencyModelPipeline": Family("text-to-image", others=_ENCODER),
    "StableDiffusionInpaintPipeline": Family(
        "inpainting",
        extra_channels=lambda latents: 1 + latents,  # the mask, and the encoded picture around it
        others=_ENCODER,
    ),
    "StableDiffusionUpscalePipeline": Family(
        "upscaling",
        extra_channels=lambda latents: 3,  # the small picture
        schedules=("scheduler", "low_res_scheduler"),
        # Old files do not state it. (diffusers' pipeline sets it even if a file states another.)
        defaults={"autoencoder": {"scaling_factor": 0.08333}},
        # 350: low_scale_config in x4-upscaling.yaml, and the default of a folder that states none.
        others={**_SAFETY, "watermarker": [None, None], "max_noise_level": 350},
    ),
}

# A model's task -> where to use the model.
USES = {
    "text-to-image": "pot_jax.sample, or pot-jax sample --model",
    "inpainting": "pot_jax.inpaint",
    "upscaling": "pot_jax.upscale, or pot-jax sample --upscaler",
}


def require_task(model: Any, task: str, what: str) -> None:
    """Raises UserError unless `model` is for `task`; `what` names the caller."""
    given = FAMILIES[model.pipeline].task
    if given != task:
        raise UserError(
            f"{what} takes a model for {task}, but {model.name} is for {given} "
            f"({model.pipeline}); use it with {USES[given]}"
        )
