"""What the user is told before a run: above all, which settings have no effect on it."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from pot_jax.checks import differences, to_dict
from pot_jax.config import STOCHASTIC_SOLVERS, RunSettings

_NOISES = ("sampler.noise", "sampler.initial_noise")
_LEVELS = (*_NOISES, "sampler.method")  # what lies between levels
_BLENDING = ("sampler.blend_weight", "sampler.blend_release", *_NOISES)
_STRIP = ("sampler.strip", "sampler.own_colour")
_PIXELS = ("pixel_every", "agreement_vae", "residual_limit")  # settings of pixel space


def log(notices: Iterable[str]) -> None:
    """Tells the users of a function that has no other way to tell them."""
    for notice in notices:
        logging.getLogger(__name__).warning(notice)


def ineffective(
    settings: RunSettings,
    *,
    guided: bool,
    grounded: bool,
    held: bool = False,
    own: Mapping[str, Any],
    usual: Mapping[str, Any] | None = None,
) -> tuple[str, ...]:
    """Returns one line for each setting that is not the default and has no effect.

    `guided`, `grounded` and `held` say whether there are guidance, a photograph and held levels;
    `own` holds Python functions by the part they replace, which may use any setting; `usual` is the
    model's own defaults of sampler settings.
    """
    s, m = settings.sampler, settings.movie
    joint = s.method == "joint"
    blends = not joint or s.blend not in ("none", "enlarged") or own.get("blend")
    strips = joint and s.blend in ("laplacian", "gradient") or own.get("blend")
    ties = joint and blends and s.space != "delivery" or own.get("agreement")
    draws = s.eta or s.time_travel > 1 or s.solver in STOCHASTIC_SOLVERS
    draws = draws or own.get("solver") or s.initial_noise == "shared"
    spaced = s.sigmas in ("", "timesteps") or s.solver in ("euler", "heun", "lms")
    decodes = s.space == "pixel" or own.get("agreement")
    descends = joint and s.blend == "gradient" and s.space != "delivery"
    descends = descends or own.get("blend") or own.get("agreement")
    rows = (
        (guided, "without guidance", ("sampler.guidance_rescale", "sampler.negative_")),
        (s.solver != "lcm" or own.get("solver"), "with solver lcm", ("sampler.timestep_spacing",)),
        (spaced, f"with {s.solver} and {s.sigmas} sigmas", ("sampler.timestep_spacing",)),
        (decodes, f"in space {s.space}", tuple(f"sampler.{name}" for name in _PIXELS)),
        (joint, f"with method {s.method}", ("sampler.blend",)),
        (blends, f"with blend {s.blend}", _BLENDING),
        (strips, f"with method {s.method} and blend {s.blend}", _STRIP),
        (s.agree_first < 1, "with agree_first 1", ("sampler.blend_release",)),
        (
            not grounded and not held,
            "where each step meets what is known",
            ("sampler.agree_every",),
        ),
        (ties, "where no step makes levels agree", ("sampler.agree_first", "sampler.agree_every")),
        (draws, f"where {s.solver} draws none", ("sampler.noise",)),
        (descends, "without gradient steps", ("sampler.gradient_steps", "sampler.gradient_rate")),
        (len(settings.prompts) > 1, "with a single level", ("zoom.zoom_factor", *_LEVELS)),
        (False, "where prompts are not by span", ("view_words",)),
        (grounded, "without a photograph", ("photograph.",)),
        (settings.upscaler.path, "without an upscaler", ("upscaler.",)),
        (not m.seconds, "with movie.seconds", ("movie.seconds_per_level",)),
        (m.aspect, "without movie.aspect", ("movie.fit",)),
        (not settings.zoom.loop, "in a loop", ("movie.hold", "movie.easing")),
        (m.captions or m.scale_bar, "without captions or a scale bar", ("movie.font",)),
    )
    changed = {name for name, *_ in differences(to_dict(RunSettings()), to_dict(settings))}
    changed -= {f"sampler.{name}" for name in usual or () if usual[name] == getattr(s, name)}
    return tuple(
        f"{name} has no effect {where}"
        for effective, where, prefixes in rows
        for name in sorted(changed)
        if name.startswith(prefixes) and not effective
    )
