"""The original layout: configs from names and shapes, and the name of every tensor, at real sizes.

The files here are headers with holes for data: no arrays of real sizes are made.
"""

import dataclasses
import json
import struct

import numpy as np
import pytest
from single_files import SD15, SD21, SDXL, TINY_1, TINY_2, TINY_XL, UPSCALER, weights
from tiny_models import write_tiny_tokenizer

from pot_jax.models.clip import CLIPTextConfig, CLIPTextProjectionConfig
from pot_jax.models.unet import UNetConfig
from pot_jax.models.vae import AutoencoderKLConfig
from pot_jax.weights.keys import abstract_params, key_table
from pot_jax.weights.layouts.original import LEFT_OUT, Shapes, describe
from pot_jax.weights.layouts.original_names import respelled
from pot_jax.weights.layouts.single_file import file_source


def described(recipe, prediction_type=None, **extra):
    return describe(Shapes(weights(recipe) | extra, "x.safetensors"), prediction_type)


# What diffusers' folders of these models say, as far as our configs have it.
SD15_UNET = UNetConfig(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
SD21_UNET = UNetConfig(
    sample_size=96,
    cross_attention_dim=1024,
    attention_head_dim=(5, 10, 20, 20),
    use_linear_projection=True,
    upcast_attention=True,
)
SD_VAE = AutoencoderKLConfig(sample_size=512, layers_per_block=2)
SD15_TEXT = CLIPTextConfig()
SD21_TEXT = CLIPTextConfig(
    hidden_size=1024,
    intermediate_size=4096,
    num_attention_heads=16,
    num_hidden_layers=23,
    hidden_act="gelu",
    projection_dim=1024,
)


SDXL_UNET = UNetConfig(
    sample_size=128,
    block_out_channels=(320, 640, 1280),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    cross_attention_dim=2048,
    transformer_layers_per_block=(1, 2, 10),
    attention_head_dim=(5, 10, 20),
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)
SDXL_VAE = dataclasses.replace(SD_VAE, sample_size=1024, scaling_factor=0.13025)
SDXL_TEXT_2 = CLIPTextProjectionConfig(
    hidden_size=1280,
    intermediate_size=5120,
    num_attention_heads=20,
    num_hidden_layers=32,
    hidden_act="gelu",
    projection_dim=1280,
)


def test_stable_diffusion_1():
    facts = described(SD15)
    assert facts[:3] == (SD15_TEXT, SD15_UNET, SD_VAE)
    assert facts.schedule.prediction_type == "epsilon"
    assert (facts.schedule.beta_start, facts.schedule.beta_end) == (0.00085, 0.012)
    assert facts.schedule.beta_schedule == "scaled_linear"
    assert facts.schedule.steps_offset == 1
    assert not facts.schedule.set_alpha_to_one


def test_stable_diffusion_2():
    facts = described(SD21)
    assert facts[:3] == (SD21_TEXT, SD21_UNET, dataclasses.replace(SD_VAE, sample_size=768))
    assert facts.schedule.prediction_type == "v_prediction"
    assert (facts.schedule.beta_start, facts.schedule.beta_end) == (0.00085, 0.012)


def test_stable_diffusion_2_base_is_what_predicts_eps():
    facts = described(SD21, "epsilon")
    assert facts.unet == dataclasses.replace(SD21_UNET, sample_size=64, upcast_attention=False)
    assert facts.autoencoder == SD_VAE
    assert facts.schedule.prediction_type == "epsilon"


def test_inpainting():
    one = described(dataclasses.replace(SD15, in_channels=9))
    assert one.unet == dataclasses.replace(SD15_UNET, in_channels=9)
    two = described(dataclasses.replace(SD21, in_channels=9))
    assert two.unet.in_channels == 9
    assert one.schedule.prediction_type == two.schedule.prediction_type == "epsilon"


def test_the_upscaler():
    facts = described(UPSCALER)
    assert facts.unet == UNetConfig(
        sample_size=128,
        in_channels=7,
        block_out_channels=(256, 512, 512, 1024),
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * 3),
        up_block_types=(*("CrossAttnUpBlock2D",) * 3, "UpBlock2D"),
        cross_attention_dim=1024,
        attention_head_dim=8,
        # The outermost level attends to nothing, so that nothing tells and nothing matters.
        only_cross_attention=(False, True, True, False),
        num_class_embeds=1000,
        use_linear_projection=True,
    )
    assert facts.autoencoder.block_out_channels == (128, 256, 512)
    assert facts.autoencoder.scaling_factor == 0.08333
    assert facts.schedule.prediction_type == "v_prediction"
    assert (facts.schedule.beta_start, facts.schedule.beta_end) == (0.0001, 0.02)


def test_stable_diffusion_xl():
    facts = described(SDXL)
    assert facts[:3] == (SD15_TEXT, SDXL_UNET, SDXL_VAE)
    assert facts.text_encoder_2 == SDXL_TEXT_2
    assert facts.autoencoder.force_upcast
    schedule = facts.schedule
    assert (schedule.prediction_type, schedule.timestep_spacing) == ("epsilon", "leading")
    assert (schedule.beta_start, schedule.beta_end) == (0.00085, 0.012)
    assert (schedule.beta_schedule, schedule.steps_offset) == ("scaled_linear", 1)
    assert schedule.class_name == "EulerDiscreteScheduler"
    inpainting = described(dataclasses.replace(SDXL, in_channels=9))
    assert inpainting.unet == dataclasses.replace(SDXL_UNET, in_channels=9)


def test_stable_diffusion_xl_of_v():
    """As ComfyUI and AUTOMATIC1111 read the marks; a schedule that ends in noise starts there."""
    marked = described(SDXL, v_pred=())
    assert (marked.unet, marked.autoencoder) == (SDXL_UNET, SDXL_VAE)
    assert marked.schedule.prediction_type == "v_prediction"
    assert marked.schedule.timestep_spacing == "leading"
    schedule = described(SDXL, v_pred=(), ztsnr=()).schedule
    assert schedule.rescale_betas_zero_snr
    assert schedule.timestep_spacing == "trailing"


def test_a_projection_of_another_width():
    shapes = weights(TINY_XL)
    place = "conditioner.embedders.1.model.text_projection"
    assert describe(Shapes(shapes | {place: (48, 40)}, "")).text_encoder_2.projection_dim == 40
    del shapes[place]
    named = describe(Shapes(shapes | {f"{place}.weight": (40, 48)}, ""))
    assert named.text_encoder_2.projection_dim == 40


@pytest.mark.parametrize("recipe", [TINY_1, TINY_2])
def test_sizes_of_no_published_model(recipe):
    deeper = dataclasses.replace(
        recipe,
        channel_mult=(1, 3),
        num_res_blocks=3,
        attention_resolutions=(2,),
        ch_mult=(1, 1, 2),
        vae_res_blocks=2,
        text_layers=1,
    )
    text, unet, autoencoder, *_ = described(deeper)
    width = recipe.model_channels
    assert unet.block_out_channels == (width, 3 * width)
    assert unet.layers_per_block == 3
    assert unet.down_block_types == ("DownBlock2D", "CrossAttnDownBlock2D")
    assert unet.up_block_types == ("CrossAttnUpBlock2D", "UpBlock2D")
    assert unet.attention_head_dim == ((width // 64, 3 * width // 64) if recipe.linear else 8)
    assert autoencoder.block_out_channels == (32, 32, 64)
    assert autoencoder.layers_per_block == 2
    assert (text.num_hidden_layers, text.vocab_size, text.num_attention_heads) == (1, 80, 1)
    assert text.max_position_embeddings == 8


def test_an_open_clip_written_back_from_diffusers_has_lost_its_last_layer():
    shapes = weights(SD21)
    kept = {name: shape for name, shape in shapes.items() if "resblocks.23." not in name}
    assert len(kept) == len(shapes) - 12
    assert describe(Shapes(kept, "")).text_encoder == describe(Shapes(shapes, "")).text_encoder


def test_markers_of_what_is_predicted():
    marked = described(SD15, v_pred=(), ztsnr=()).schedule
    assert marked.prediction_type == "v_prediction"
    assert marked.rescale_betas_zero_snr
    assert not described(SD15, v_pred=()).schedule.rescale_betas_zero_snr


@pytest.mark.parametrize("prefix", ["text_model.", ""])
@pytest.mark.parametrize("layers", [23, 24])
def test_the_second_generation_with_transformers_names(layers, prefix):
    """The width of the text states says what it is, not the spelling of its text encoder."""
    recipe = dataclasses.replace(SD21, open_clip=False, text_layers=layers)
    shapes = {n.replace(".text_model.", f".{prefix}"): s for n, s in weights(recipe).items()}
    facts = describe(Shapes(shapes, "x.safetensors"))
    assert facts == described(SD21)
    epsilon = describe(Shapes(shapes, "x.safetensors"), "epsilon")
    assert epsilon == described(SD21, "epsilon")


def test_the_first_generation_may_project_densely():
    facts = described(dataclasses.replace(SD15, linear=True))
    assert facts.unet == dataclasses.replace(SD15_UNET, use_linear_projection=True)
    assert facts.schedule.prediction_type == "epsilon"


def test_zero_terminal_snr_does_not_go_with_eps(one_line):
    one_line(lambda: described(SD15, ztsnr=()), "x.safetensors", "zero terminal SNR")


UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."
LOST = [
    f"{UNET}input_blocks.0.0.weight",
    f"{UNET}out.2.weight",
    f"{UNET}input_blocks.4.0.in_layers.2.weight",
    f"{UNET}middle_block.1.transformer_blocks.0.attn2.to_k.weight",
    f"{UNET}middle_block.1.proj_in.weight",
    f"{VAE}encoder.conv_in.weight",
    f"{VAE}decoder.conv_out.weight",
    f"{VAE}encoder.down.1.block.0.conv1.weight",
    f"{VAE}post_quant_conv.weight",
    f"{TEXT}text_model.embeddings.token_embedding.weight",
    f"{TEXT}text_model.embeddings.position_embedding.weight",
    f"{TEXT}text_model.encoder.layers.0.mlp.fc1.weight",
]
XL_TEXTS = "conditioner.embedders."
LOST_XL = [
    f"{UNET}label_emb.0.0.weight",
    f"{XL_TEXTS}0.transformer.text_model.embeddings.token_embedding.weight",
    f"{XL_TEXTS}1.model.text_projection",
    f"{XL_TEXTS}1.model.positional_embedding",
    f"{XL_TEXTS}1.model.transformer.resblocks.0.mlp.c_fc.weight",
]


@pytest.mark.parametrize("name", LOST + LOST_XL)
def test_a_tensor_that_tells_a_size_is_lost_or_of_another_rank(name, one_line):
    shapes = weights(SDXL if name in LOST_XL else SD15)
    flat = shapes | {name: (7,)}
    if "proj_in" not in name:
        rank = [*("post_quant" in name and ["(7,)"] or ["axes were expected"])]
        one_line(lambda: describe(Shapes(flat, "x.ckpt")), "x.ckpt", name, *rank)
    del shapes[name]
    one_line(lambda: describe(Shapes(shapes, "x.ckpt")), "x.ckpt lacks", name, "get the file again")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_channels": 40}, ["block_out_channels", "norm_num_groups, 32"]),
        ({"ch": 40}, ["AutoencoderKL", "norm_num_groups, 32"]),
        ({"text_layers": 0}, ["layers.0.mlp.fc1"]),
        ({"open_clip": True, "text_layers": 0}, ["num_hidden_layers is 0"]),
        ({"num_res_blocks": 0}, ["a level of the UNet has no layers"]),
    ],
)
def test_sizes_that_no_model_has(change, words, one_line):
    one_line(lambda: described(dataclasses.replace(TINY_1, **change)), "x.safetensors", *words)


# Names --------------------------------------------------------------------------------------------


def header_only(path, shapes):
    """A file of float16 with these shapes, whose data are a hole."""
    head, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * int(np.prod(shape, dtype=np.int64))
        head[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(head).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return path


FULL_SIZE = {  # recipe, parameters of the UNet, the autoencoder and the text encoders
    "SD 1.5": (SD15, 859_520_964, 83_653_863, 123_060_480),
    "SD 1.5 inpainting": (
        dataclasses.replace(SD15, in_channels=9),
        859_535_364,
        83_653_863,
        123_060_480,
    ),
    "SD 2.1": (SD21, 865_910_724, 83_653_863, 340_387_840),
    "x4 upscaler": (UPSCALER, None, None, 340_387_840),
    "SDXL": (SDXL, 2_567_463_684, 83_653_863, 123_060_480, 694_659_840),
    "SDXL inpainting": (
        dataclasses.replace(SDXL, in_channels=9),
        2_567_478_084,
        83_653_863,
        123_060_480,
        694_659_840,
    ),
}


@pytest.mark.parametrize("name", FULL_SIZE)
def test_every_tensor_of_a_full_size_file_is_one_parameter(name, tmp_path, monkeypatch):
    # A tokenizer of 49408 tokens is not at hand.
    monkeypatch.setattr("pot_jax.weights.layouts.single_file.read_tokenizer", lambda *a: None)
    recipe, *sizes = FULL_SIZE[name]
    write_tiny_tokenizer(tmp_path / "tokenizer")
    source = file_source(header_only(tmp_path / "x.safetensors", weights(recipe)), "float32")
    assert not source.others
    modules = source.parts.modules
    assert list(modules)[-2:] == ["unet", "autoencoder"]
    for (component, module), size in zip(modules.items(), (*sizes[2:], *sizes[:2]), strict=True):
        entries = key_table(abstract_params(module)).values()
        expected = {respelled(entry.key, source.names[component]): entry for entry in entries}
        tensors = source.tensors[component]
        assert expected.keys() == tensors.keys()
        assert all(expected[key].accepts(tensor.shape) for key, tensor in tensors.items())
        if size is not None:
            assert sum(int(np.prod(tensor.shape)) for tensor in tensors.values()) == size


@pytest.mark.parametrize(
    "name",
    [
        "model_ema.diffusion_modelinput_blocks00weight",
        "betas",
        "alphas_cumprod",
        "alphas_cumprod_prev",
        "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod",
        "posterior_variance",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "low_res_model.betas",
        "lvlb_weights",
        "first_stage_model.loss.discriminator.main.0.weight",
        "cond_stage_model.transformer.embeddings.position_ids",
        "cond_stage_model.model.text_projection",
        "cond_stage_model.transformer.text_projection.weight",  # with the next, ComfyUI's
        "cond_stage_model.logit_scale",
        "conditioner.embedders.0.transformer.text_model.embeddings.position_ids",
        "conditioner.embedders.0.transformer.text_projection.weight",
        "conditioner.embedders.1.model.logit_scale",
        "conditioner.embedders.1.model.attn_mask",
        "denoiser.sigmas",
    ],
)
def test_what_is_left_out_knowingly(name):
    assert LEFT_OUT.fullmatch(name)


def test_no_weight_is_left_out():
    unused = {"text_projection", "logit_scale"}
    for recipe in (SD15, SD21, UPSCALER):
        left = [name for name in weights(recipe) if LEFT_OUT.fullmatch(name)]
        assert {name.rpartition(".")[2] for name in left} <= unused
    left = [name for name in weights(SDXL) if LEFT_OUT.fullmatch(name)]
    assert left == ["conditioner.embedders.1.model.logit_scale"]  # of OpenCLIP, which projects
