"""The kinds of models: which of diffusers' pipelines are supported, and how they differ.

All have a text encoder, a UNet and an autoencoder. What the UNet sees besides latents differs.
"""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from pot_jax.checks import require
from pot_jax.diffusion.schedule import CLASS_DEFAULTS, ScheduleConfig
from pot_jax.errors import UserError

# A config's content -> the settings that a pipeline corrects in it.
Correction = Callable[[Mapping[str, Any]], dict[str, Any]]


class Family(NamedTuple):
    """What the models of one pipeline class have in common."""

    task: str  # a key of USES
    # The UNet's input channels besides the latents, from the number of the latents' own.
    extra_channels: Callable[[int], int] = lambda latents: 0
    schedules: tuple[str, ...] = ("scheduler",)  # folders of scheduler configs
    # Our component, or a folder of `schedules` -> what diffusers' pipelines correct in its config.
    corrections: Mapping[str, Correction] = MappingProxyType({})
    # What else export writes to model_index.json: absent components, and settings.
    others: Mapping[str, Any] = MappingProxyType({})


class LowRes(NamedTuple):
    """How noise is added to an upscaler's small pictures before it sees them."""

    schedule: ScheduleConfig
    max_noise_level: int  # the highest timestep of `schedule` that it accepts


# The scheduler classes that have a key which is corrected even if a file leaves it out.
_HAVE = {
    "steps_offset": CLASS_DEFAULTS.keys() - {"DPMSolverSinglestepScheduler"},
    "clip_sample": {name for name in CLASS_DEFAULTS if CLASS_DEFAULTS[name].get("clip_sample")},
    "skip_prk_steps": {"PNDMScheduler"},
}


def _always(**wanted: Any) -> Correction:
    """Returns the correction of a scheduler that sets the keys its class or its file has."""
    return lambda settings: {
        key: value
        for key, value in wanted.items()
        if key in settings or str(settings.get("_class_name")) in _HAVE[key]
    }


def _old_sample_size(unet: Mapping[str, Any]) -> dict[str, Any]:
    """Corrects a UNet of diffusers before 0.9, whose files say 32 for a model trained at 64."""
    version = re.match(r"v?(\d+)(?:\.(\d+))?", str(unet.get("_diffusers_version", "")))
    old = version is not None and (int(version[1]), int(version[2] or 0)) < (0, 9)
    size = unet.get("sample_size")
    return {"sample_size": 64} if old and type(size) is int and size < 64 else {}


_OLD_UNET: dict[str, Correction] = {"unet": _old_sample_size}
_SAFETY = {"safety_checker": [None, None], "feature_extractor": [None, None]}
_ENCODER = {**_SAFETY, "image_encoder": [None, None], "requires_safety_checker": False}

# diffusers' class -> its models. Another class with the same components is one more entry.
FAMILIES = {
    "StableDiffusionPipeline": Family(
        "text-to-image",
        corrections={"scheduler": _always(steps_offset=1, clip_sample=False), **_OLD_UNET},
        others=_ENCODER,
    ),
    "LatentConsistencyModelPipeline": Family("text-to-image", others=_ENCODER),
    "StableDiffusionInpaintPipeline": Family(
        "inpainting",
        extra_channels=lambda latents: 1 + latents,  # the mask, and the encoded picture around it
        corrections={"scheduler": _always(steps_offset=1, skip_prk_steps=True), **_OLD_UNET},
        others=_ENCODER,
    ),
    "StableDiffusionUpscalePipeline": Family(
        "upscaling",
        extra_channels=lambda latents: 3,  # the small picture
        schedules=("scheduler", "low_res_scheduler"),
        # Old files do not state it, or state the default of other models.
        corrections={"autoencoder": lambda settings: {"scaling_factor": 0.08333}},
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


def require_model(model: Any) -> None:
    """Raises UserError unless `model` is a `Model`."""
    known = hasattr(model, "pipeline") and not isinstance(model, type)
    require(known, "model", "a model from pot_jax.load", model)


def require_task(model: Any, task: str, what: str) -> None:
    """Raises UserError unless `model` is a `Model` for `task`; `what` names the caller."""
    require_model(model)
    given = FAMILIES[model.pipeline].task
    if given != task:
        but = f"{model.name} is for {given} ({model.pipeline}); use it with {USES[given]}"
        raise UserError(f"{what} takes a model for {task}, but {but}")
