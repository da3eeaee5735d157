"""Stable Diffusion XL against diffusers and transformers: same random weights, prompts and noise.

Two sizes: the config of diffusers' own tests, and the released shape in small. Their pipelines are
called with one prompt at a time: diffusers 0.42 mixes up negative sizes in larger batches.
"""

import dataclasses
import functools
import importlib

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.schedulers import scheduling_lcm
from pairs import randomised, to_torch
from tiny_models import POSITIONS, write_tiny_tokenizer

import pot_jax
from pot_jax.config import SamplerSettings
from pot_jax.models.vae import decode_latents, encode_latents
from pot_jax.pipelines.conditions import text_conditions, with_sizes
from pot_jax.weights.export import export
from pot_jax.weights.model import FAMILIES
from pot_jax.zoom.agreement import BLENDS

pytestmark = pytest.mark.filterwarnings("ignore")  # diffusers' and torch's own

PROMPT, NEGATIVE = "a star", "b"
SIZES = {"original_size": (96, 64), "crop": (8, 24), "target_size": (64, 48)}
NEGATIVE_SIZES = {"negative_original_size": (40, 72), "negative_target_size": (56, 80)}


def encoder_config(**change):
    # That of diffusers' tests, but for the tiny tokenizer's vocabulary and length. Like the
    # released files, it has an eos_token_id (2) that is not the tokenizer's.
    usual = {
        **{"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1},
        **{"hidden_size": 32, "intermediate_size": 37, "num_attention_heads": 4},
        **{"num_hidden_layers": 5, "vocab_size": 80, "hidden_act": "gelu", "projection_dim": 32},
        "max_position_embeddings": POSITIONS,
    }
    return transformers.CLIPTextConfig(**usual | change)


def unet_config(channels):
    """The config of diffusers' tests."""
    return {
        **{"sample_size": 32, "in_channels": channels, "block_out_channels": (2, 4)},
        **{"layers_per_block": 2, "norm_num_groups": 1, "cross_attention_dim": 64},
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        **{"attention_head_dim": (2, 4), "use_linear_projection": True},
        **{"addition_embed_type": "text_time", "addition_time_embed_dim": 8},
        "transformer_layers_per_block": (1, 2),
        "projection_class_embeddings_input_dim": 80,
    }


def released_unet_config(channels):
    """The released shape: three blocks, the outermost without attention, transformers 1, 2, 10."""
    return unet_config(channels) | {
        **{"sample_size": 8, "block_out_channels": (16, 32, 64), "norm_num_groups": 8},
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        **{"attention_head_dim": (1, 2, 4), "transformer_layers_per_block": (1, 2, 10)},
        **{"cross_attention_dim": 24 + 32, "projection_class_embeddings_input_dim": 32 + 6 * 8},
    }


SHAPES = {
    "diffusers": (unet_config, {}),
    "released": (
        released_unet_config,
        {"hidden_size": 24, "intermediate_size": 48, "hidden_act": "quick_gelu"},
    ),
}


def pipeline(shape, folder, channels=4, **scheduler):
    """A random pipeline of theirs; `channels` 9 is the one for inpainting."""
    torch.manual_seed(0)
    config, first = SHAPES[shape]
    names = {"tokenizer": "<|endoftext|>", "tokenizer_2": "!"}
    for name, pad in names.items():
        write_tiny_tokenizer(folder / name, pad)
    vae = diffusers.AutoencoderKL(
        block_out_channels=[8, 16],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        sample_size=16,
        norm_num_groups=4,
        scaling_factor=0.13025,
    )
    networks = {
        "text_encoder": transformers.CLIPTextModel(encoder_config(**first)),
        "text_encoder_2": transformers.CLIPTextModelWithProjection(encoder_config()),
        "unet": diffusers.UNet2DConditionModel(**config(channels)),
        "vae": vae,
    }
    kinds = {4: "StableDiffusionXLPipeline", 9: "StableDiffusionXLInpaintPipeline"}
    usual = {
        **{"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
        **{"steps_offset": 1, "timestep_spacing": "leading"},
    }
    theirs = getattr(diffusers, kinds[channels])(
        **{
            name: randomised(network, seed) for seed, (name, network) in enumerate(networks.items())
        },
        **{name: transformers.CLIPTokenizer.from_pretrained(folder / name) for name in names},
        scheduler=diffusers.EulerDiscreteScheduler(**usual | scheduler),
    )
    theirs.set_progress_bar_config(disable=True)
    return theirs


def both(shape, folder, **how):
    """Their pipeline, and the same from its folder here."""
    theirs = pipeline(shape, folder, **how)
    theirs.save_pretrained(folder / "model")
    return theirs, pot_jax.load(folder / "model")


def decibels(ours, theirs):
    """10 log10 of mean square over mean square error; theirs may be a tensor, [B, C, H, W]."""
    if isinstance(theirs, torch.Tensor):
        theirs = theirs.detach().numpy()
        theirs = theirs.transpose(0, 2, 3, 1) if theirs.ndim == 4 else theirs
    assert np.shape(ours) == theirs.shape
    return 10 * np.log10(np.mean(theirs**2) / np.mean((np.float64(ours) - theirs) ** 2))


@pytest.fixture(scope="module", params=SHAPES)
def pair(request, tmp_path_factory):
    return both(request.param, tmp_path_factory.mktemp("xl"))


@pytest.mark.parametrize("negative", ["", NEGATIVE])
def test_encoders(pair, negative):
    theirs, model = pair
    how = {"negative_prompt": negative or None, "num_images_per_prompt": 1, "device": "cpu"}
    with torch.no_grad():
        states, negatives, pooled, negatives_pooled = theirs.encode_prompt(PROMPT, **how)
    ours = text_conditions(model, [PROMPT], negative, 5.0).arrays
    assert decibels(ours["text_states"][1:], states) > 100
    assert decibels(ours["pooled"][1:], pooled) > 100
    if negative:
        assert decibels(ours["text_states"][:1], negatives) > 100
        assert decibels(ours["pooled"][:1], negatives_pooled) > 100
    else:  # force_zeros_for_empty_prompt, which is their default
        assert not np.any(ours["text_states"][0])
        assert not np.any(ours["pooled"][0])
        assert not negatives.any()


def test_pooled_is_the_first_end_whatever_the_config_says(tmp_path):
    """transformers takes the highest id if `eos_token_id` is 2: a learned word's may be higher."""
    _, model = both("diffusers", tmp_path)
    module, params = model.text_encoder_2, model.params["text_encoder_2"]
    ids = np.int32([[78, 77, 60, 79, 76, 76, 76, 76]])
    usual = module.apply({"params": params}, ids, np.int32([3]))[1]
    true = encoder_config(eos_token_id=79)
    right = transformers.CLIPTextModelWithProjection(true).eval()
    right.load_state_dict(pipeline("diffusers", tmp_path).text_encoder_2.state_dict())
    assert decibels(usual, right(torch.from_numpy(ids).long()).text_embeds) > 100


@functools.partial(jax.jit, static_argnums=0)
def predicted(unet, params, latents, conditions):
    rows = len(conditions["text_states"])
    latents, timesteps = jnp.repeat(latents, rows, 0), jnp.full(rows, 500.0)
    return unet.apply({"params": params}, latents, timesteps, **conditions)


def network(model, conditions, latents):
    return np.asarray(predicted(model.unet, model.params["unet"], latents, conditions))


def told(model, **sizes):
    given = text_conditions(model, [PROMPT], NEGATIVE, 5.0)
    return with_sizes(given, model, SamplerSettings(**sizes), 64, 48).arrays


def test_networks(pair):
    theirs, model = pair
    rng, side = np.random.default_rng(0), model.unet.config.sample_size
    latents = rng.normal(size=(1, side, side, 4)).astype(np.float32)
    conditions = told(model, **SIZES, **NEGATIVE_SIZES)
    added = {"text_embeds": conditions["pooled"], "time_ids": conditions["time_ids"]}
    np.testing.assert_array_equal(
        added["time_ids"], [[40, 72, 8, 24, 56, 80], [96, 64, 8, 24, 64, 48]]
    )
    with torch.no_grad():
        expected = theirs.unet(
            to_torch(latents.repeat(2, 0)),
            500.0,
            to_torch(conditions["text_states"]),
            added_cond_kwargs={name: to_torch(rows) for name, rows in added.items()},
        ).sample
        images = rng.uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)
        encoded = theirs.vae.encode(to_torch(images)).latent_dist.mean * 0.13025
        decoded = theirs.vae.decode(to_torch(latents) / 0.13025).sample
    assert decibels(network(model, conditions, latents), expected) > 90
    vae = model.autoencoder, model.params["autoencoder"]
    assert decibels(jax.jit(encode_latents, static_argnums=0)(*vae, images), encoded) > 90
    assert decibels(jax.jit(decode_latents, static_argnums=0)(*vae, latents), decoded) > 90


def swapped(rows, *order):
    return {"time_ids": np.asarray(rows["time_ids"])[:, list(order)]}


def normed(model, rows):
    """The text states of `rows` as the last normalisation would leave them."""
    found = []
    for name, states in zip(("text_encoder", "text_encoder_2"), halves(model, rows)):
        norm = jax.tree.map(np.asarray, model.params[name]["text_model"]["final_layer_norm"])
        deviation = np.sqrt(states.var(-1, keepdims=True) + 1e-5)
        centred = (states - states.mean(-1, keepdims=True)) / deviation
        found.append(centred * norm["scale"] + norm["bias"])
    return {"text_states": np.concatenate(found, -1)}


def halves(model, rows):
    width = model.text_encoder.config.hidden_size
    return np.split(np.asarray(rows["text_states"]), [width], axis=-1)


def projected(model, change):
    """The conditions where the projection is another."""
    own = model.params["text_encoder_2"]
    kernel = change(own["text_projection"]["kernel"])
    own = own | {"text_projection": {"kernel": kernel}}
    return told(dataclasses.replace(model, params=model.params | {"text_encoder_2": own}), **SIZES)


def last_layer(model):
    family = FAMILIES[model.pipeline]
    encoders = tuple(encoder._replace(skip=0) for encoder in family.encoders)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, model.pipeline, family._replace(encoders=encoders))
        return told(model, **SIZES)


def pooled_last(model):
    ids = text_conditions(model, [PROMPT], NEGATIVE, 5.0).token_ids[1][::-1]
    ends = np.full(len(ids), POSITIONS - 1, np.int32)
    module, params = model.text_encoder_2, model.params["text_encoder_2"]
    return {"pooled": module.apply({"params": params}, ids, ends)[1]}


# What implementations get wrong -> (model, the right conditions) -> the wrong ones.
MISTAKES = {
    "final norm applied": normed,
    "last layer": lambda model, rows: last_layer(model),
    "encoders swapped": lambda model, rows: {
        "text_states": np.concatenate(halves(model, rows)[::-1], -1)
    },
    "encoder 1 padded with !": lambda model, rows: told(
        dataclasses.replace(model, tokenizer=model.tokenizer_2), **SIZES
    ),
    "projection transposed": lambda model, rows: projected(model, np.transpose),
    "pooled at the last token": lambda model, rows: pooled_last(model),
    "no projection": lambda model, rows: projected(model, lambda kernel: np.eye(len(kernel))),
    "pooled zero": lambda model, rows: {"pooled": np.zeros_like(rows["pooled"])},
    "original and target swapped": lambda model, rows: swapped(rows, 4, 5, 2, 3, 0, 1),
    "height and width swapped": lambda model, rows: swapped(rows, 1, 0, 3, 2, 5, 4),
    "crop dropped": lambda model, rows: {"time_ids": rows["time_ids"] * [1, 1, 0, 0, 1, 1]},
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_mistake_shows(pair, mistake):
    """So that the agreement above proves that none of them is made."""
    _, model = pair
    side = model.unet.config.sample_size
    latents = np.random.default_rng(1).normal(size=(1, side, side, 4)).astype(np.float32)
    rows = told(model, **SIZES)
    wrong = {**rows, **MISTAKES[mistake](model, rows)}
    wrong = {name: np.float32(values) for name, values in wrong.items()}
    assert wrong.keys() == rows.keys()
    assert decibels(network(model, wrong, latents), network(model, rows, latents)) < 40


# Solver -> what its scheduler config says besides.
ZERO_SNR = {
    **{"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    **{"timestep_spacing": "trailing", "clip_sample": False},
}
RUNS = {
    "euler": ("EulerDiscreteScheduler", {}),
    "ddim": ("DDIMScheduler", {"clip_sample": False}),  # as the released file says
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    # As Lightning wants it: the spacing, which is a setting here, and no guidance.
    "few steps": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "v with zero SNR": ("DDIMScheduler", ZERO_SNR),
}
NOISE = np.random.default_rng(5).normal(size=(32, 32, 4)).astype(np.float32)


def fixed_noise(key, geometry, channels, *, kernel):
    """The noise of a solver's steps, the same for both; LCM draws some."""
    return jnp.asarray(NOISE[: geometry.height, : geometry.width])[None]


@pytest.fixture
def same_noise(monkeypatch):
    def drawn(shape, **_):
        return to_torch(NOISE[: shape[2], : shape[3]][None])

    monkeypatch.setattr(scheduling_lcm, "randn_tensor", drawn)
    # Theirs draws the encoded picture from the encoder's Gaussian; ours takes its mean.
    mean = lambda self, generator=None: self.mean  # noqa: E731
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", mean)


def rescheduled(theirs, run):
    name, scheduler = RUNS[run]
    usual = dict(theirs.scheduler.config)
    theirs.scheduler = getattr(diffusers, name).from_config(usual, **scheduler)


def decoded(theirs, latents):
    """Their pictures in [0, 1]."""
    with torch.no_grad():
        pictures = theirs.vae.decode(latents / theirs.vae.config.scaling_factor).sample
    return (pictures / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("run", RUNS)
def test_the_whole_pipeline(shape, run, tmp_path, same_noise):
    if shape == "released" and run != "euler":  # it takes long to compile
        pytest.skip("one solver shows this shape")
    theirs = pipeline(shape, tmp_path)
    few = {"timestep_spacing": "trailing", "guidance_scale": 0.0} if run == "few steps" else {}
    if not few:
        rescheduled(theirs, run)
    theirs.save_pretrained(tmp_path / "model")
    rescheduled(theirs, run)
    model = pot_jax.load(tmp_path / "model")
    side = model.unet.config.sample_size
    noise = np.random.default_rng(3).normal(size=(1, side, side, 4)).astype(np.float32)
    corner = {"crops_coords_top_left": SIZES["crop"]}
    sizes = {name: SIZES[name] for name in SIZES if name != "crop"} | NEGATIVE_SIZES
    latents = theirs(
        PROMPT,
        negative_prompt=NEGATIVE,
        num_inference_steps=4,
        guidance_scale=few.get("guidance_scale", 5.0),
        latents=to_torch(noise),
        output_type="latent",
        negative_crops_coords_top_left=SIZES["crop"],
        **corner,
        **sizes,
    ).images
    zoom = pot_jax.sample(
        model,
        [PROMPT],
        negative_prompt=NEGATIVE,
        steps=4,
        **{"guidance_scale": 5.0, **few},
        space="delivery",
        latents=noise,
        blend=dataclasses.replace(BLENDS["none"], noise=fixed_noise),
        devices=jax.devices()[:1],
        **SIZES,
        **NEGATIVE_SIZES,
    )
    names = {"v with zero SNR": "ddim", "few steps": "euler"}
    assert zoom.settings.sampler.solver == names.get(run, run)
    assert decibels(zoom.latents, latents) > 80
    expected = decoded(theirs, latents)
    assert expected.std() > 0.05, "a picture, not a flat field"
    assert decibels(np.clip(zoom.images / 2 + 0.5, 0, 1), expected) > 70


@pytest.mark.parametrize("run", [run for run in RUNS if run != "few steps"])
def test_inpainting(run, tmp_path, same_noise, monkeypatch):
    theirs = pipeline("diffusers", tmp_path, channels=9)
    rescheduled(theirs, run)
    theirs.save_pretrained(tmp_path / "model")
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (32, 32, 3)).astype(np.float32)
    mask = rng.uniform(size=(32, 32)).astype(np.float32)
    noise = rng.normal(size=(1, 16, 16, 4)).astype(np.float32)
    latents = theirs(
        PROMPT,
        image=to_torch((image[None] + 1) / 2),
        mask_image=to_torch(mask[None, ..., None]),
        **{"height": 32, "width": 32, "strength": 1.0},
        negative_prompt=NEGATIVE,
        num_inference_steps=4,
        guidance_scale=5.0,
        latents=to_torch(noise),
        output_type="latent",
    ).images
    module, found = importlib.import_module("pot_jax.pipelines.inpaint"), []
    own = dataclasses.replace(BLENDS["none"], noise=fixed_noise)
    deliver = lambda job, z, seed: found.append(z) or module_deliver(job, z, seed)  # noqa: E731
    module_deliver = module.deliver
    monkeypatch.setattr(module, "BLENDS", BLENDS | {"none": own})
    monkeypatch.setattr(module, "deliver", deliver)
    ours = pot_jax.inpaint(
        pot_jax.load(tmp_path / "model"),
        PROMPT,
        image,
        mask,
        negative_prompt=NEGATIVE,
        steps=4,
        guidance_scale=5.0,
        latents=noise,
        devices=jax.devices()[:1],
    )
    assert decibels(found[0], latents) > 80
    assert decibels(np.clip(ours / 2 + 0.5, 0, 1)[None], decoded(theirs, latents)) > 70


def test_an_export_is_theirs(tmp_path):
    theirs, model = both("diffusers", tmp_path)
    export(model, tmp_path / "again")
    again = diffusers.StableDiffusionXLPipeline.from_pretrained(tmp_path / "again")
    for name in ("text_encoder", "text_encoder_2", "unet", "vae"):
        states = (getattr(pipe, name).state_dict() for pipe in (theirs, again))
        for (key, mine), (other, whole) in zip(*(sorted(state.items()) for state in states)):
            assert key == other
            assert torch.equal(mine, whole)
    assert again.config.force_zeros_for_empty_prompt
    assert again.tokenizer_2.pad_token == "!"
