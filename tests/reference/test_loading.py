"""Model folders against diffusers: what either writes the other reads, and computes the same.

Tolerances, relative to the output's scale: 1e-5 for the text encoder, 1e-4 for the rest (float32,
other orders of summation).
"""

import json
from functools import partial

import jax
import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from tiny_models import POSITIONS, tiny_model, write_tiny_tokenizer
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from pot_jax.models.vae import decode_latents, encode_latents
from pot_jax.weights.export import convert, export
from pot_jax.weights.load import load
from pot_jax.weights.tokenization import tokenize

PROMPTS = ["a star", "", "zzz, star"]
UNET_BLOCKS = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (16, 32),
}


def text_encoder(**settings):
    settings = {"hidden_act": "quick_gelu", "num_hidden_layers": 2, **settings}
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=80,
            hidden_size=16,
            intermediate_size=32,
            num_attention_heads=2,
            max_position_embeddings=POSITIONS,
            bos_token_id=78,
            eos_token_id=79,
            pad_token_id=79,
            **settings,
        )
    )


def autoencoder():
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
    )


def unet(**settings):
    settings = {"attention_head_dim": 2, **settings}
    return UNet2DConditionModel(
        **UNET_BLOCKS,
        layers_per_block=1,
        cross_attention_dim=16,
        norm_num_groups=8,
        sample_size=8,
        **settings,
    )


def sd1():
    return text_encoder(), unet(), autoencoder(), PNDMScheduler(steps_offset=1, skip_prk_steps=True)


def sd2():
    return (
        text_encoder(hidden_act="gelu", num_hidden_layers=1),
        unet(attention_head_dim=(2, 4), use_linear_projection=True, upcast_attention=True),
        autoencoder(),
        # Its file holds lambda_min_clipped as -Infinity, which is not JSON.
        DPMSolverMultistepScheduler(
            prediction_type="v_prediction", rescale_betas_zero_snr=True, steps_offset=1
        ),
    )


def tiny_autoencoder():
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
    return text_encoder(), unet(), tiny, EulerDiscreteScheduler(steps_offset=1)


FAMILIES = {"sd1": sd1, "sd2": sd2, "tiny autoencoder": tiny_autoencoder}


def pipeline(family, folder):
    """A random pipeline of diffusers' own; biases and norms are random, too."""
    torch.manual_seed(0)
    text, net, vae, scheduler = FAMILIES[family]()
    for module in (text, net, vae):
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.data += 0.1 * torch.randn_like(parameter)
    write_tiny_tokenizer(folder)
    return StableDiffusionPipeline(
        text_encoder=text.eval(),
        unet=net.eval(),
        vae=vae.eval(),
        scheduler=scheduler,
        tokenizer=CLIPTokenizer.from_pretrained(folder),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@pytest.fixture(scope="module", params=FAMILIES)
def theirs(request, tmp_path_factory):
    return pipeline(request.param, tmp_path_factory.mktemp("tokenizer"))


def close(ours, theirs, tolerance):
    theirs = theirs.detach().numpy()
    if theirs.ndim == 4:
        theirs = theirs.transpose(0, 2, 3, 1)
    assert np.abs(np.asarray(ours) - theirs).max() <= tolerance * np.abs(theirs).max()


def compare(model, pipe):
    """Tokens, text states, noise prediction, decoding and encoding of both are the same."""
    ids = tokenize(model.tokenizer, PROMPTS)
    expected_ids = pipe.tokenizer(
        PROMPTS, padding="max_length", max_length=POSITIONS, return_tensors="pt"
    ).input_ids
    np.testing.assert_array_equal(ids, expected_ids.numpy())
    rng = np.random.default_rng(1)
    latents = rng.normal(size=(3, 8, 8, 4)).astype(np.float32)
    images = rng.uniform(-1, 1, size=(1, 16, 16, 3)).astype(np.float32)
    params = model.params

    def torched(x):
        return torch.from_numpy(x.transpose(0, 3, 1, 2).copy())

    with torch.no_grad():
        states = pipe.text_encoder(expected_ids).last_hidden_state
        text = jax.jit(model.text_encoder.apply)
        close(text({"params": params["text_encoder"]}, ids), states, 1e-5)
        timesteps = np.array([1, 500, 999], np.int32)
        prediction = pipe.unet(torched(latents), torch.from_numpy(timesteps), states).sample
        unet = jax.jit(model.unet.apply)
        close(
            unet({"params": params["unet"]}, latents, timesteps, states.numpy()), prediction, 1e-4
        )
        scale = pipe.vae.config.scaling_factor
        decode = jax.jit(partial(decode_latents, model.autoencoder))
        decoded = pipe.vae.decode(torched(latents) / scale).sample
        close(decode(params["autoencoder"], latents), decoded, 1e-4)
        encode = jax.jit(partial(encode_latents, model.autoencoder))
        encoded = pipe.vae.encode(torched(images))
        encoded = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mean
        close(encode(params["autoencoder"], images), encoded * scale, 1e-4)


def test_a_folder_of_diffusers_loads(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "model")
    model = load(tmp_path / "model")
    compare(model, theirs)
    config = theirs.scheduler.config
    assert model.schedule.class_name == type(theirs.scheduler).__name__
    assert model.schedule.prediction_type == config.prediction_type
    assert model.schedule.beta_schedule == config.beta_schedule


def test_shards_and_variants_of_diffusers_load(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "whole")
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert len(list((tmp_path / "shards" / "unet").glob("*-of-*.safetensors"))) > 1
    whole = load(tmp_path / "whole")
    assert load(tmp_path / "shards").digest == whole.digest
    theirs.save_pretrained(tmp_path / "both", variant="fp16")
    theirs.save_pretrained(tmp_path / "both", variant="fp16", max_shard_size="100KB")
    assert load(tmp_path / "both", variant="fp16").digest == whole.digest


def test_a_safety_checker_is_passed_over(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "model_index.json"
    index = json.loads(path.read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    path.write_text(json.dumps(index))
    load(tmp_path / "model")


def test_what_we_export_diffusers_loads(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "model")
    convert(tmp_path / "model", tmp_path / "kept")
    model = load(tmp_path / "kept")
    export(model, tmp_path / "exported")
    again = StableDiffusionPipeline.from_pretrained(tmp_path / "exported")
    assert load(tmp_path / "exported").digest == load(tmp_path / "model").digest
    for name in ("unet", "vae", "text_encoder"):
        expected = getattr(theirs, name).state_dict()
        came = getattr(again, name).state_dict()
        assert came.keys() == expected.keys()
        assert all(torch.equal(came[key], expected[key]) for key in expected)
    for name in ("prediction_type", "beta_start", "beta_end", "beta_schedule"):
        assert again.scheduler.config[name] == theirs.scheduler.config[name]
    assert type(again.scheduler) is type(theirs.scheduler)


def test_a_model_of_ours_runs_in_diffusers(tmp_path):
    model = tiny_model(tmp_path / "tokenizer")
    export(model, tmp_path / "model")
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    compare(model, pipe)
    assert isinstance(pipe.scheduler, DDIMScheduler)
    pipe.set_progress_bar_config(disable=True)
    images = pipe("a star", num_inference_steps=2, height=16, width=16, output_type="np").images
    assert images.shape == (1, 16, 16, 3)
    assert np.isfinite(images).all()


def test_float16_files_of_ours_run_in_diffusers(tmp_path):
    model = tiny_model(tmp_path / "tokenizer")
    export(model, tmp_path / "model", dtype="float16")
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "model", dtype=torch.float32)
    compare(load(tmp_path / "model"), pipe)
