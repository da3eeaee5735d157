"""Single-file checkpoints against diffusers' own conversion, and pickled ones against torch's.

Weights are moved, not computed with: everything is compared bit for bit.
"""

import dataclasses

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders import single_file_utils as theirs
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file
from single_files import SD15, SD21, SDXL, TINY_1, TINY_2, TINY_XL, UPSCALER, tensors, weights
from test_model_keys import (
    SD15_UNET,
    SD21_UNET,
    SD_VAE,
    SDXL_TEXT_2,
    SDXL_UNET,
    UPSCALER_UNET,
    shapes_of,
)
from tiny_models import write_tiny_tokenizer

from pot_jax.weights.export import export
from pot_jax.weights.formats.pickled import read_pickled
from pot_jax.weights.formats.safetensors import read_tensor
from pot_jax.weights.keys import key_table
from pot_jax.weights.layouts.original import Shapes, describe
from pot_jax.weights.load import load

TINY = {
    "sd1": TINY_1,
    "sd2": TINY_2,
    "sd1 inpainting": dataclasses.replace(TINY_1, in_channels=9),
    "deeper": dataclasses.replace(
        TINY_1, channel_mult=(1, 2), num_res_blocks=2, attention_resolutions=(2,), ch_mult=(1, 1, 2)
    ),
    "upscaler": dataclasses.replace(
        TINY_2,
        in_channels=7,
        num_classes=10,
        channel_mult=(1, 2, 2),
        attention_resolutions=(2, 4),
        disable_self_attentions=(True, True, False),
    ),
    "sdxl": TINY_XL,
    "sdxl inpainting": dataclasses.replace(TINY_XL, in_channels=9),
}


def converted(content, facts):
    """diffusers' and transformers' state dicts, made by diffusers."""
    text = theirs.convert_ldm_clip_checkpoint(dict(content))
    if any(name.startswith("cond_stage_model.model.") for name in content):
        text = theirs.convert_open_clip_checkpoint(None, dict(content))
    more, second = {}, "conditioner.embedders.1.model."
    if any(name.startswith(second) for name in content):
        more = {"text_encoder_2": theirs.convert_open_clip_checkpoint(None, dict(content), second)}
    return more | {
        "text_encoder": text,
        "unet": theirs.convert_ldm_unet_checkpoint(dict(content), facts.unet.to_json()),
        "autoencoder": theirs.convert_ldm_vae_checkpoint(
            dict(content), facts.autoencoder.to_json()
        ),
    }


PIPELINES = {
    "sd1 inpainting": "StableDiffusionInpaintPipeline",
    "upscaler": "StableDiffusionUpscalePipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "sdxl inpainting": "StableDiffusionXLInpaintPipeline",
}


@pytest.mark.parametrize("name", TINY)
def test_the_weights_are_those_of_diffusers_conversion(name, tmp_path):
    content = tensors(TINY[name])
    save_file(content, tmp_path / "x.safetensors")
    write_tiny_tokenizer(tmp_path / "tokenizer")
    model = load(tmp_path / "x.safetensors")
    assert model.pipeline == PIPELINES.get(name, "StableDiffusionPipeline")
    assert (model.low_res is not None) == (name == "upscaler")
    facts = describe(Shapes({name: value.shape for name, value in content.items()}, ""))
    expected = converted({name: torch.from_numpy(v) for name, v in content.items()}, facts)
    for component, params in model.params.items():
        flat = flatten_dict(params)
        state = expected[component]
        for path, entry in key_table(params).items():
            value = state.pop(entry.key).numpy().reshape(entry.stored_shape)
            np.testing.assert_array_equal(entry.write(np.asarray(flat[path])), value)
        # Left over are what is no weight, and OpenCLIP's last layer, which diffusers leaves out
        # where it has the number 23.
        left = [key for key in state if "layers.2." not in key]
        projection = {"text_projection.weight"} if component == "text_encoder" else set()
        assert set(left) <= {"text_model.embeddings.position_ids"} | projection


def yaml_of(recipe):
    """The parts of the original yaml that diffusers reads."""
    network = {
        "in_channels": recipe.in_channels,
        "out_channels": 4,
        "model_channels": recipe.model_channels,
        "attention_resolutions": list(recipe.attention_resolutions),
        "num_res_blocks": recipe.num_res_blocks,
        "channel_mult": list(recipe.channel_mult),
        "transformer_depth": [*recipe.depths] if recipe.widths else 1,
        "context_dim": recipe.context_dim,
    }
    if recipe.linear:
        network["use_linear_in_transformer"] = True
    if recipe.adm is not None:
        network |= {"num_classes": "sequential", "adm_in_channels": recipe.adm}
    if recipe.linear and recipe.num_classes is None:
        network["num_head_channels"] = 64
    else:
        network["num_heads"] = 8
    if recipe.num_classes is not None:
        network["num_classes"] = recipe.num_classes
        network["disable_self_attentions"] = list(recipe.disable_self_attentions)
    autoencoder = {
        "z_channels": 4,
        "in_channels": 3,
        "out_ch": 3,
        "ch": recipe.ch,
        "ch_mult": list(recipe.ch_mult),
        "num_res_blocks": recipe.vae_res_blocks,
    }
    scale = 0.18215 if recipe.num_classes is None else 0.08333
    params = {
        "network_config" if recipe.widths else "unet_config": {"params": network},
        "first_stage_config": {"params": {"ddconfig": autoencoder}},
        "scale_factor": 0.13025 if recipe.widths else scale,
    }
    return {"model": {"params": params}}


FULL_SIZE = {
    "sd15": (SD15, SD15_UNET),
    "sd15 inpainting": (dataclasses.replace(SD15, in_channels=9), SD15_UNET | {"in_channels": 9}),
    "sd21": (SD21, SD21_UNET),
    "sd2 inpainting": (dataclasses.replace(SD21, in_channels=9), SD21_UNET | {"in_channels": 9}),
    "x4 upscaler": (UPSCALER, UPSCALER_UNET),
    "sdxl": (SDXL, SDXL_UNET),
    "sdxl inpainting": (dataclasses.replace(SDXL, in_channels=9), SDXL_UNET | {"in_channels": 9}),
}


@pytest.mark.parametrize("name", FULL_SIZE)
def test_configs_are_those_that_diffusers_makes_of_the_yaml(name):
    recipe, hub = FULL_SIZE[name]
    shapes = weights(recipe)
    facts = describe(Shapes(shapes, ""))
    content = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    expected = theirs.create_unet_diffusers_config_from_ldm(yaml_of(recipe), content)
    ours = facts.unet.to_json()
    depth = expected.pop("transformer_layers_per_block")
    heads = expected.pop("attention_head_dim")
    only = expected.pop("only_cross_attention", False)
    assert {key: ours[key] for key in expected} == expected
    levels, depths = len(recipe.channel_mult), facts.unet.per_block("transformer_layers_per_block")
    assert depths == tuple(np.broadcast_to(depth, levels))
    assert ours["attention_head_dim"] == heads == hub.get("attention_head_dim", 8)
    # Where a level does not attend, it does not matter how.
    attends = ["CrossAttn" in kind for kind in facts.unet.down_block_types]
    only = np.broadcast_to(only, levels) & attends
    np.testing.assert_array_equal(np.broadcast_to(facts.unet.only_cross_attention, levels), only)
    expected = theirs.create_vae_diffusers_config_from_ldm(yaml_of(recipe), content)
    ours = facts.autoencoder.to_json()
    assert {key: ours[key] for key in expected} == expected


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_files_are_full_size_models(name):
    recipe, settings = FULL_SIZE[name]
    shapes = weights(recipe)
    facts = describe(Shapes(shapes, ""))
    content = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    expected = converted(content, facts)
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(settings)
        blocks = recipe.ch_mult
        autoencoder = AutoencoderKL.from_config(
            SD_VAE
            | {
                "block_out_channels": [128 * factor for factor in blocks],
                "down_block_types": ["DownEncoderBlock2D"] * len(blocks),
                "up_block_types": ["UpDecoderBlock2D"] * len(blocks),
            }
        )
    for component, module in (("unet", unet), ("autoencoder", autoencoder)):
        state = {key: tuple(tensor.shape) for key, tensor in expected[component].items()}
        assert state == shapes_of(module)
    if recipe.widths:
        second = expected["text_encoder_2"]
        assert second["text_projection.weight"].shape == (1280, 1280)
        assert facts.text_encoder_2.num_hidden_layers == SDXL_TEXT_2["num_hidden_layers"]
        assert len(second) == 2 + 2 + 16 * 32 + 1


def test_diffusers_makes_the_same_pipeline_of_the_file(tmp_path):
    save_file(tensors(TINY_1), tmp_path / "x.safetensors")
    write_tiny_tokenizer(tmp_path / "tokenizer")
    model = load(tmp_path / "x.safetensors")
    export(model, tmp_path / "folder")
    pipe = StableDiffusionPipeline.from_single_file(
        str(tmp_path / "x.safetensors"), config=str(tmp_path / "folder"), local_files_only=True
    )
    for component, module in (("unet", pipe.unet), ("autoencoder", pipe.vae)):
        state = module.state_dict()
        flat = flatten_dict(model.params[component])
        table = key_table(model.params[component])
        assert {entry.key for entry in table.values()} == state.keys()
        for path, entry in table.items():
            np.testing.assert_array_equal(entry.write(np.asarray(flat[path])), state[entry.key])


def test_diffusers_makes_the_same_sdxl_of_the_file_and_of_the_export(tmp_path):
    save_file(tensors(TINY_XL), tmp_path / "x.safetensors")
    write_tiny_tokenizer(tmp_path / "tokenizer")
    model, folder = load(tmp_path / "x.safetensors"), tmp_path / "folder"
    export(model, folder)
    exported = StableDiffusionXLPipeline.from_pretrained(folder)
    assert exported.tokenizer_2.pad_token == "!"
    assert exported.scheduler.config.timestep_spacing == "leading"
    file = StableDiffusionXLPipeline.from_single_file(
        str(tmp_path / "x.safetensors"), config=str(folder), local_files_only=True
    )
    for pipe in (file, exported):
        for component, params in model.params.items():
            state = getattr(pipe, {"autoencoder": "vae"}.get(component, component)).state_dict()
            flat = flatten_dict(params)
            for path, entry in key_table(params).items():
                (key,) = {entry.key, *entry.aliases} & state.keys()
                found = state.pop(key).numpy()
                np.testing.assert_array_equal(entry.write(np.asarray(flat[path])), found, key)
            assert set(state) <= {"text_model.embeddings.position_ids"}


# Pickled files ------------------------------------------------------------------------------------


def saved(path, content, **options):
    torch.save(content, path, **options)
    return path


def test_tensors_that_torch_saves(tmp_path):
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(4, 6, 3, 2, generator=generator)
    content = {
        "plain": whole,
        "part": whole[2:],
        "channels last": whole.to(memory_format=torch.channels_last),
        "transposed": whole[0, :, :, 0].T.contiguous().T,
        "half": whole.half(),
        "brain": whole.bfloat16(),
        "double": whole.double(),
        "scalar": torch.tensor(3.5),
        "parameter": torch.nn.Parameter(whole.clone()),
    }
    path = saved(tmp_path / "x.ckpt", {"state_dict": content, "ids": torch.arange(7)})
    found = read_pickled(path)
    assert found.keys() == content.keys()
    for name, tensor in content.items():
        expected = tensor.detach().to(torch.float64).numpy()
        np.testing.assert_array_equal(read_tensor(found[name]).astype(np.float64), expected)


def test_a_modules_state_dict(tmp_path):
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))
    for protocol in (2, 4):
        path = saved(tmp_path / "x.pt", module.state_dict(), pickle_protocol=protocol)
        assert read_pickled(path).keys() == module.state_dict().keys()


def test_training_state_is_passed_over(tmp_path):
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = {
        "state_dict": module.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "epoch": 3,
        "pytorch-lightning_version": "1.4.2",
    }
    found = read_pickled(saved(tmp_path / "x.ckpt", content))
    assert found.keys() == {"weight", "bias"}
    np.testing.assert_array_equal(read_tensor(found["bias"]), module.bias.detach().numpy())


def test_what_is_no_dict_of_tensors(tmp_path):
    with pytest.raises(ValueError, match="torch.nn.modules.linear.Linear"):
        read_pickled(saved(tmp_path / "x.pt", torch.nn.Linear(2, 2)))
    old = saved(tmp_path / "x.pt", {"a": torch.ones(2)}, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="before version 1.6"):
        read_pickled(old)
    with pytest.raises(ValueError, match="gaps or overlap"):
        read_pickled(saved(tmp_path / "x.pt", {"a": torch.ones(3, 1).expand(3, 4)}))


def test_a_checkpoint_that_torch_saves_is_the_model(tmp_path):
    content = tensors(TINY_1)
    save_file(content, tmp_path / "x.safetensors")
    write_tiny_tokenizer(tmp_path / "tokenizer")
    arrays = {name: torch.from_numpy(value) for name, value in content.items()}
    saved(tmp_path / "x.ckpt", {"state_dict": arrays, "global_step": 840000})
    expected = load(tmp_path / "x.safetensors").digest
    assert load(tmp_path / "x.ckpt", allow_pickle=True).digest == expected
