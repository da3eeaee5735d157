"""Settings without an effect are named, and no others."""

import pytest

from pot_jax.checks import build
from pot_jax.config import RunSettings
from pot_jax.pipelines.notices import ineffective

NO_PARTS = {"solver": None, "blend": None, "agreement": None, "guidance": None}


def said(own=None, guided=True, grounded=False, usual=None, **settings):
    settings = build(RunSettings, {"prompts": ["a", "b"], **settings})
    own = NO_PARTS | (own or {})
    return ineffective(settings, guided=guided, grounded=grounded, own=own, usual=usual)


@pytest.mark.parametrize(
    ("given", "notice"),
    [
        (
            {"guided": False, "sampler": {"guidance_rescale": 0.5}},
            "sampler.guidance_rescale has no effect without guidance",
        ),
        (
            {"sampler": {"solver": "unipc", "sigmas": "beta", "timestep_spacing": "trailing"}},
            "sampler.timestep_spacing has no effect with unipc and beta sigmas",
        ),
        (
            {"sampler": {"space": "latent", "pixel_every": 2}},
            "sampler.pixel_every has no effect in space latent",
        ),
        (
            {"sampler": {"space": "delivery", "agreement_vae": "tiny_vae"}},
            "sampler.agreement_vae has no effect in space delivery",
        ),
        (
            {"sampler": {"space": "latent", "pixel_every": 2}, "usual": {"pixel_every": 3}},
            "sampler.pixel_every has no effect in space latent",
        ),
        (
            {"sampler": {"space": "latent", "residual_limit": 0.3}},
            "sampler.residual_limit has no effect in space latent",
        ),
        (
            {"sampler": {"blend": "average", "strip": 0.15}},
            "sampler.strip has no effect with method joint and blend average",
        ),
        (
            {"sampler": {"blend": "iterative", "own_colour": 0.5}},
            "sampler.own_colour has no effect with method joint and blend iterative",
        ),
        (
            {"sampler": {"method": "outpainting", "agree_every": 2}},
            "sampler.agree_every has no effect where no step makes levels agree",
        ),
        (
            {"sampler": {"space": "delivery", "agree_first": 0.5}},
            "sampler.agree_first has no effect where no step makes levels agree",
        ),
        (
            {"sampler": {"blend_release": 1.0, "agree_every": 2}},
            "sampler.blend_release has no effect with agree_first 1",
        ),
        (
            {"sampler": {"blend": "none", "blend_release": 1.0, "agree_first": 0.5}}
            | {"usual": {"agree_first": 0.5}},
            "sampler.blend_release has no effect with blend none",
        ),
        (
            {"grounded": True, "sampler": {"agree_first": 0.5, "agree_every": 3}},
            "sampler.agree_every has no effect where each step meets what is known",
        ),
        (
            {"sampler": {"blend": "none", "blend_weight": 1.0}},
            "sampler.blend_weight has no effect with blend none",
        ),
        (
            {"sampler": {"blend": "enlarged", "noise": "blurred"}},
            "sampler.noise has no effect with blend enlarged",
        ),
        (
            {"sampler": {"blend": "none", "initial_noise": "per_level"}},
            "sampler.initial_noise has no effect with blend none",
        ),
        (
            {"sampler": {"solver": "ddim", "noise": "blurred", "initial_noise": "per_level"}},
            "sampler.noise has no effect where ddim draws none",
        ),
        (
            {"sampler": {"method": "outpainting", "blend": "average"}},
            "sampler.blend has no effect with method outpainting",
        ),
        (
            {"sampler": {"method": "outpainting", "gradient_steps": 9}},
            "sampler.gradient_steps has no effect without gradient steps",
        ),
        (
            {"prompts": ["a"], "sampler": {"method": "outpainting"}},
            "sampler.method has no effect with a single level",
        ),
        (
            {"sampler": {"gradient_steps": 9}},
            "sampler.gradient_steps has no effect without gradient steps",
        ),
        (
            {"prompts": ["a"], "zoom": {"zoom_factor": 4}},
            "zoom.zoom_factor has no effect with a single level",
        ),
        ({"photograph": {"level": 1}}, "photograph.level has no effect without a photograph"),
        ({"upscaler": {"steps": 3}}, "upscaler.steps has no effect without an upscaler"),
    ],
)
def test_a_setting_without_effect_is_named(given, notice):
    assert said(**given) == (notice,)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"sampler": {"guidance_rescale": 0.5, "pixel_every": 2, "blend_weight": 0.5}},
        {"sampler": {"blend": "gradient", "gradient_steps": 9, "gradient_rate": 0.1}},
        {"sampler": {"blend": "gradient", "strip": 0.1, "agree_first": 0.5, "agree_every": 3}},
        {"sampler": {"blend_release": 0.5, "agree_first": 0.5}},
        {"sampler": {"noise": "blurred", "solver": "ddim"}},
        {"sampler": {"noise": "blurred", "initial_noise": "per_level", "eta": 1.0}},
        {"sampler": {"solver": "ddim", "noise": "blurred", "initial_noise": "per_level"}}
        | {"own": {"solver": min}},
        {"sampler": {"method": "super_resolution", "noise": "per_level", "time_travel": 3}},
        {"sampler": {"method": "outpainting", "pixel_every": 2}, "record_disagreement": True},
        {"zoom": {"zoom_factor": 4}, "grounded": True, "photograph": {"level": 1}},
        {"upscaler": {"path": "x4", "steps": 3, "solver": "euler"}},
        {"sampler": {"space": "latent", "pixel_every": 2}, "usual": {"pixel_every": 2}},
        {"own": {"blend": min}, "sampler": {"gradient_steps": 9}},
        {"own": {"agreement": min}, "sampler": {"space": "latent", "pixel_every": 2}},
    ],
)
def test_nothing_is_said_of_the_others(given):
    assert said(**given) == ()
