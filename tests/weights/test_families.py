"""Kinds of models: read, written, and told apart in one line."""

import json

import pytest
from tiny_models import (
    tiny_consistency_model,
    tiny_inpainting_model,
    tiny_model,
    tiny_upscaler,
    tiny_xl,
    tiny_xl_inpainting,
)

from pot_jax.weights.export import convert, export
from pot_jax.weights.load import load
from pot_jax.weights.model import FAMILIES, USES, require_task

MODELS = {
    "StableDiffusionPipeline": tiny_model,
    "LatentConsistencyModelPipeline": tiny_consistency_model,
    "StableDiffusionInpaintPipeline": tiny_inpainting_model,
    "StableDiffusionUpscalePipeline": tiny_upscaler,
    "StableDiffusionXLPipeline": tiny_xl,
    "StableDiffusionXLInpaintPipeline": tiny_xl_inpainting,
}


def change(path, **entries):
    """Changes entries of a JSON file; None removes one."""
    content = {**json.loads(path.read_text()), **entries}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def test_every_family_is_tested_and_of_some_use():
    assert MODELS.keys() == FAMILIES.keys()
    assert {family.task for family in FAMILIES.values()} == USES.keys()


@pytest.mark.parametrize("pipeline", MODELS)
def test_a_model_goes_to_disk_and_back_and_is_kept(pipeline, tmp_path):
    model = MODELS[pipeline](tmp_path / "tokenizer")
    export(model, tmp_path / "model")
    convert(tmp_path / "model", tmp_path / "kept")
    for folder in ("model", "kept"):
        again = load(tmp_path / folder)
        assert again.pipeline == pipeline
        for name in ("digest", "schedule", "low_res", "zeros", *FAMILIES[pipeline].components):
            assert getattr(again, name) == getattr(model, name)
        for encoder in FAMILIES[pipeline].encoders:
            pads = (getattr(m, encoder.tokenizer).pad_token for m in (again, model))
            assert len({*pads}) == 1
    require_task(model, FAMILIES[pipeline].task, "this test")


@pytest.mark.parametrize(
    ("pipeline", "file", "entries", "words"),
    [
        (
            "StableDiffusionPipeline",
            "model_index.json",
            {"_class_name": "IFPipeline"},
            "IFPipeline",
        ),
        ("StableDiffusionPipeline", "model_index.json", {"_class_name": ["x"]}, "not supported"),
        (
            "StableDiffusionUpscalePipeline",
            "model_index.json",
            {"low_res_scheduler": None},
            "names no low_res_scheduler",
        ),
        (
            "StableDiffusionUpscalePipeline",
            "model_index.json",
            {"_class_name": "StableDiffusionPipeline"},
            "low_res_scheduler",
        ),
        (
            "StableDiffusionUpscalePipeline",
            "unet/config.json",
            {"in_channels": 4},
            "vae with 3 channels besides the latents gives 7",
        ),
        (
            "StableDiffusionInpaintPipeline",
            "model_index.json",
            {"_class_name": "StableDiffusionPipeline"},
            "in_channels is 9, but its vae gives 4",
        ),
        (
            "StableDiffusionPipeline",
            "model_index.json",
            {"_class_name": "StableDiffusionInpaintPipeline"},
            "in_channels is 4, but its vae with 5 channels besides the latents gives 9",
        ),
        (
            "LatentConsistencyModelPipeline",
            "scheduler/scheduler_config.json",
            {"original_inference_steps": 0},
            "original_inference_steps: expected at least 1, got 0",
        ),
        (
            "StableDiffusionXLPipeline",
            "model_index.json",
            {"text_encoder": [None, None], "requires_aesthetics_score": True},
            "it is SDXL's refiner, which is not supported",
        ),
        (
            "StableDiffusionXLPipeline",
            "model_index.json",
            {"_class_name": "StableDiffusionXLImg2ImgPipeline", "text_encoder": [None, None]},
            "it is SDXL's refiner, which is not supported",
        ),
        (
            "StableDiffusionXLPipeline",
            "model_index.json",
            {"scheduler": ["diffusers", "EDMDPMSolverMultistepScheduler"]},
            "Playground v2.5",
        ),
        (
            "StableDiffusionXLPipeline",
            "model_index.json",
            {"text_encoder_2": None},
            "names no text_encoder_2",
        ),
        (
            "StableDiffusionXLPipeline",
            "model_index.json",
            {"force_zeros_for_empty_prompt": "yes"},
            "force_zeros_for_empty_prompt: expected true or false",
        ),
        (
            "StableDiffusionXLPipeline",
            "text_encoder_2/config.json",
            {"projection_dim": 16},
            "projection_class_embeddings_input_dim is 68, but its text_encoder with "
            "text_encoder_2 gives 64",
        ),
        (
            "StableDiffusionXLPipeline",
            "unet/config.json",
            {"addition_embed_type": "image"},
            "addition_embed_type",
        ),
        (
            "StableDiffusionXLPipeline",
            "unet/config.json",
            {"addition_time_embed_dim": None},
            "addition_time_embed_dim is None, expected a number",
        ),
        (
            "StableDiffusionXLInpaintPipeline",
            "unet/config.json",
            {"in_channels": 4},
            "vae with 5 channels besides the latents gives 9",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(pipeline, file, entries, words, tmp_path, one_line):
    export(MODELS[pipeline](tmp_path / "tokenizer"), tmp_path / "model")
    change(tmp_path / "model" / file, **entries)
    one_line(lambda: load(tmp_path / "model"), words)


@pytest.mark.parametrize(
    ("pipeline", "stated", "offset", "clips"),
    [
        ("StableDiffusionPipeline", {}, 1, False),  # DDIM's own defaults are 0 and True
        ("StableDiffusionPipeline", {"steps_offset": 0, "clip_sample": True}, 1, False),
        ("StableDiffusionInpaintPipeline", {"steps_offset": 0}, 1, True),
        ("StableDiffusionUpscalePipeline", {"steps_offset": 0}, 0, True),
        ("LatentConsistencyModelPipeline", {}, 0, True),
    ],
)
def test_old_schedulers_are_corrected_as_the_pipeline_does(
    tmp_path, pipeline, stated, offset, clips
):
    export(MODELS[pipeline](tmp_path / "tokenizer"), tmp_path / "model")
    file = tmp_path / "model" / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({"_class_name": "DDIMScheduler", **stated}))
    schedule = load(tmp_path / "model").schedule
    assert (schedule.steps_offset, schedule.clip_sample) == (offset, clips)


@pytest.mark.parametrize(("version", "size"), [("0.8.1", 64), ("0.9.0.dev0", 8), (None, 8)])
def test_the_size_in_an_old_unets_file_is_corrected(tmp_path, version, size):
    export(tiny_model(tmp_path / "tokenizer"), tmp_path / "model")
    change(tmp_path / "model" / "unet" / "config.json", _diffusers_version=version)
    assert load(tmp_path / "model").unet.config.sample_size == size


def test_what_released_files_say_besides_is_no_hindrance(tmp_path):
    """SDXL's UNet says null, its inpainting model has what an average of weights left."""
    model = tiny_xl_inpainting(tmp_path / "tokenizer")
    export(model, tmp_path / "model")
    path = tmp_path / "model" / "unet" / "config.json"
    content = json.loads(path.read_text()) | {"upcast_attention": None, "decay": 0.9999}
    content |= {"inv_gamma": 1.0, "min_decay": 0.0, "optimization_step": 20000, "power": 0.75}
    path.write_text(json.dumps(content | {"update_after_step": 0, "use_ema_warmup": True}))
    change(tmp_path / "model" / "model_index.json", requires_aesthetics_score=False)
    assert load(tmp_path / "model").digest == model.digest


def test_an_upscalers_scale_is_corrected(tmp_path):
    export(tiny_upscaler(tmp_path / "tokenizer"), tmp_path / "model")
    change(tmp_path / "model" / "vae" / "config.json", scaling_factor=0.18215)
    assert load(tmp_path / "model").autoencoder.config.scaling_factor == 0.08333
