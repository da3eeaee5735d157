"""What diffusers' pipelines correct in a model's configs as they load it, corrected here too."""

import json

import diffusers
import jax.numpy as jnp
import pytest
from tiny_models import tiny_consistency_model, tiny_inpainting_model, tiny_model, tiny_upscaler

from pot_jax.diffusion.schedule import CLASS_DEFAULTS
from pot_jax.weights.export import export
from pot_jax.weights.layouts.folder import read_parts

# The deprecations are what is tested; the others are diffusers' own, and torch's.
pytestmark = pytest.mark.filterwarnings("ignore")

MODELS = {
    "StableDiffusionPipeline": tiny_model,
    "LatentConsistencyModelPipeline": tiny_consistency_model,
    "StableDiffusionInpaintPipeline": tiny_inpainting_model,
    "StableDiffusionUpscalePipeline": tiny_upscaler,
}
SCHEDULERS = sorted(CLASS_DEFAULTS.keys() - {"DPMSolverSDEScheduler"})  # which needs torchsde
STATED = [
    {},
    {"steps_offset": 0, "clip_sample": True, "skip_prk_steps": False},
    {"steps_offset": 1, "clip_sample": False, "skip_prk_steps": True},
    {"steps_offset": 3, "timestep_spacing": "trailing"},
]


@pytest.fixture(scope="module", params=MODELS)
def folder(request, tmp_path_factory):
    place = tmp_path_factory.mktemp(request.param)
    export(MODELS[request.param](place / "tokenizer"), place / "model")
    return place / "model"


def rewritten(path, change):
    content = change(json.loads(path.read_text()))
    path.write_text(json.dumps(content))


def theirs(folder, scheduler):
    """The pipeline's constructor with what it corrects, and without the networks' weights."""
    name = json.loads((folder / "model_index.json").read_text())["_class_name"]
    vae = diffusers.AutoencoderKL.from_config(diffusers.AutoencoderKL.load_config(folder / "vae"))
    unet = diffusers.UNet2DConditionModel
    parts = {
        "unet": unet.from_config(unet.load_config(folder / "unet")),
        "scheduler": scheduler,
        "vae": vae,
        **dict.fromkeys(("text_encoder", "tokenizer", "feature_extractor", "safety_checker")),
    }
    if "Upscale" in name:
        parts["low_res_scheduler"] = None
    else:
        parts["requires_safety_checker"] = False
    return getattr(diffusers, name)(**parts)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers(folder, name):
    place = folder / "scheduler" / "scheduler_config.json"
    for stated in STATED:
        rewritten(place, lambda _, file={"_class_name": name, **stated}: file)
        rewritten(folder / "model_index.json", lambda i: i | {"scheduler": ["diffusers", name]})
        cls = getattr(diffusers, name)
        corrected = theirs(folder, cls.from_config(cls.load_config(place.parent))).scheduler.config
        ours = read_parts(folder, jnp.float32).schedule
        for key in ("steps_offset", "clip_sample", "skip_prk_steps"):
            if key in corrected:
                told = ours.other.get(key, False) if key == "skip_prk_steps" else getattr(ours, key)
                assert told == corrected[key], (stated, key)


@pytest.mark.parametrize(
    ("version", "size"),
    [("0.6.0", 32), ("0.8.1", 63), ("0.9.0.dev0", 32), ("0.9.0", 32), ("0.42.0", 8), (None, 8)]
    + [("0.6.0", 64), ("0.6.0", 96)],
)
def test_sample_sizes(folder, version, size):
    stated = {"sample_size": size} | ({"_diffusers_version": version} if version else {})
    rewritten(folder / "unet" / "config.json", lambda unet: unet | stated)
    corrected = theirs(folder, None).unet.config.sample_size
    assert read_parts(folder, jnp.float32).modules["unet"].config.sample_size == corrected
    rewritten(
        folder / "unet" / "config.json",
        lambda unet: {key: unet[key] for key in unet if key != "_diffusers_version"},
    )


def test_an_autoencoders_scale(folder):
    rewritten(folder / "vae" / "config.json", lambda vae: vae | {"scaling_factor": 0.18215})
    corrected = theirs(folder, None).vae.config.scaling_factor
    assert read_parts(folder, jnp.float32).modules["autoencoder"].config.scaling_factor == corrected
