"""A component from elsewhere takes the place of the model's own, or one line says why not."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch_files
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file
from single_files import TINY_1, TINY_XL, tensors
from tiny_models import tiny_inpainting_model, tiny_model, write_tiny_tokenizer

from pot_jax.models.vae import AutoencoderKL
from pot_jax.weights.digests import array_digests, combined_digest
from pot_jax.weights.export import convert, export
from pot_jax.weights.load import load, open_model

UNET, VAE = "model.diffusion_model.", "first_stage_model."
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two models of each kind in a file, `a` and `b`, and as folders."""
    place = tmp_path_factory.mktemp("components")
    write_tiny_tokenizer(place / "tokenizer")
    for kind, recipe in {"sd": TINY_1, "xl": TINY_XL}.items():
        for seed, name in enumerate("ab"):
            save_file(tensors(recipe, seed), place / f"{kind}_{name}.safetensors")
            export(load(place / f"{kind}_{name}.safetensors"), place / f"{kind}_{name}")
    return place


def mixed(model, other, *components):
    """The digest of a model with some of another's components."""
    params = model.params | {name: other.params[name] for name in components}
    return combined_digest(array_digests(params))


def part(place, name, prefix, target, strip=False):
    """The tensors of one part of a whole file, in a file of their own."""
    found = load_file(place / f"{name}.safetensors")
    found = {key: value for key, value in found.items() if key.startswith(prefix)}
    save_file({key[len(prefix) * strip :]: value for key, value in found.items()}, target)
    return target


@pytest.mark.parametrize("kind", ["sd", "xl"])
def test_a_folder_or_a_file_of_any_layout(place, tmp_path, kind):
    model, other = (load(place / f"{kind}_{name}") for name in "ab")
    folder = place / f"{kind}_b"
    assert model.given == {}
    for setting, name, prefix in (("unet", "unet", UNET), ("vae", "autoencoder", VAE)):
        expected = mixed(model, other, name)
        assert expected != model.digest
        shutil.copy(folder / setting / WEIGHTS, tmp_path / "lightning.safetensors")
        for given in (
            folder / setting,
            folder,  # the model's that it is in
            tmp_path / "lightning.safetensors",  # without its config.json
            part(place, f"{kind}_b", prefix, tmp_path / "whole.safetensors"),
            part(place, f"{kind}_b", prefix, tmp_path / "bare.safetensors", strip=True),
        ):
            for own in (place / f"{kind}_a", place / f"{kind}_a.safetensors"):
                mine = load(own, **{setting: given})
                assert mine.digest == expected, given
                assert mine.given == {setting: str(given)}
                told = any(f"{given} states no settings" in line for line in mine.notices)
                assert told == given.is_file()
                assert list(mine.params) == list(model.params)
    both = load(place / f"{kind}_a", unet=folder, vae=folder)
    assert both.digest == mixed(model, other, "unet", "autoencoder")


def test_a_kept_copy_takes_them_and_keeps_them(place, tmp_path):
    folder = place / "sd_b"
    convert(place / "sd_a", tmp_path / "kept")
    mine = load(tmp_path / "kept", unet=folder)
    assert mine.digest == load(place / "sd_a", unet=folder).digest
    assert mine.digest not in (load(place / "sd_a").digest, load(folder).digest)
    convert(place / "sd_a", tmp_path / "mixed", unet=folder)
    export(mine, tmp_path / "exported")
    assert load(tmp_path / "mixed").digest == load(tmp_path / "exported").digest == mine.digest


def test_what_is_replaced_is_not_read(place, tmp_path):
    shutil.copytree(place / "sd_a", tmp_path / "model")
    (tmp_path / "model" / "vae" / WEIGHTS).unlink()
    mine = load(tmp_path / "model", vae=place / "sd_b")
    assert mine.digest == load(place / "sd_a", vae=place / "sd_b").digest


def test_a_pickled_component_has_to_be_allowed(place, tmp_path, one_line):
    content = load_file(part(place, "sd_b", VAE, tmp_path / "x.safetensors", strip=True))
    # What training leaves.
    content |= dict.fromkeys(("loss.logvar", "model_ema.decay"), np.zeros(1, np.float32))
    file = torch_files.save(tmp_path / "vae.ckpt", content)
    one_line(lambda: load(place / "sd_a", vae=file), str(file), "is a pickle", "--allow_pickle")
    mine = load(place / "sd_a", vae=file, allow_pickle=True)
    assert mine.digest == load(place / "sd_a", vae=place / "sd_b").digest


def test_a_folder_may_have_another_form_than_the_models(place, tmp_path):
    """As long as the UNet's inputs and outputs are the same."""
    deeper = dataclasses.replace(TINY_1, num_res_blocks=2)
    save_file(tensors(deeper), tmp_path / "x.safetensors")
    export(load(tmp_path / "x.safetensors", tokenizer=place / "tokenizer"), tmp_path / "deeper")
    mine = load(place / "sd_a", unet=tmp_path / "deeper")
    assert mine.unet.config.layers_per_block == 2
    theirs, params = load(tmp_path / "deeper").params["unet"], mine.params["unet"]
    for path, value in flatten_dict(theirs).items():
        np.testing.assert_array_equal(flatten_dict(params)[path], value)


def test_a_file_does_not_say_that_its_autoencoder_bears_float16(place, tmp_path):
    """As the model's own may, such as fp16-fix's."""
    model = load(place / "xl_a")
    repaired = dataclasses.replace(model.autoencoder.config, force_upcast=False)
    export(dataclasses.replace(model, autoencoder=AutoencoderKL(repaired)), tmp_path / "fix")
    file = part(place, "xl_b", VAE, tmp_path / "vae.safetensors")
    for given, dtype in ((None, "float16"), (file, "float32"), (tmp_path / "fix", "float16")):
        opened = open_model(tmp_path / "fix", dtype="float16", vae=given)
        assert np.dtype(opened.model.autoencoder.dtype) == dtype


def test_everything_is_checked_before_weights_are_read(place, one_line):
    opened = open_model(place / "sd_a", unet=place / "sd_b")
    assert opened.model.digest == ""
    one_line(lambda: open_model(place / "sd_a", unet=place / "xl_b"), "unet's cross_attention_dim")


# What does not fit --------------------------------------------------------------------------------


def changed(folder, **entries):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    return folder


@pytest.fixture
def copy(place, tmp_path):
    return shutil.copytree(place / "sd_b", tmp_path / "copy")


def test_an_autoencoder_of_another_scale(place, copy, one_line):
    vae = changed(copy / "vae", scaling_factor=0.13025)
    words = "has scaling_factor 0.13025, and the model's own 0.18215; it is for another kind"
    one_line(lambda: load(place / "sd_a", vae=vae), "vae: ", str(vae), words)
    words = "has scaling_factor 0.18215, and the model's own 0.13025"
    one_line(lambda: load(place / "xl_a", vae=place / "sd_b"), words)
    # Half as many pixels a latent.
    blocks = {"down_block_types": ["DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D"]}
    changed(vae, _class_name=["AutoencoderKL"])
    one_line(lambda: load(place / "sd_a", vae=vae), "needs one of AutoencoderKL")
    changed(vae, _class_name="AutoencoderKL")
    changed(vae, scaling_factor=0.18215, block_out_channels=[32], **blocks)
    one_line(lambda: load(place / "sd_a", vae=vae), "downsample_factor 1, and the model's own 2")


def test_a_unet_of_another_task_or_width(place, tmp_path, one_line):
    tiny, inpainting = tmp_path / "tiny", tmp_path / "inpainting"
    export(tiny_model(tmp_path / "t"), tiny)
    export(tiny_inpainting_model(tmp_path / "t"), inpainting)
    one_line(
        lambda: load(inpainting, unet=tiny),
        f"{inpainting} with unet {tiny}: the unet's in_channels is 4",
        "5 channels besides the latents gives 9",
    )
    one_line(
        lambda: load(inpainting, unet=tiny / "unet" / WEIGHTS),
        f"the weights in {tiny / 'unet' / WEIGHTS} are not those of a unet like the model's own",
        "1 misshapen (conv_in.weight (shape (16, 4, 3, 3), expected (16, 9, 3, 3)))",
        "give one for this model",
    )
    one_line(lambda: load(tiny, unet=inpainting), "the unet's in_channels is 9", "gives 4")
    one_line(
        lambda: load(tiny, unet=place / "xl_a"), "unet's cross_attention_dim is 64", "gives 16"
    )
    words = ("like the model's own", "missing", "misshapen", "unexpected")
    one_line(lambda: load(tiny, unet=place / "sd_a" / "unet" / WEIGHTS), *words)


WRONG = {
    "a vae's file": ("unet", "sd_b/vae/" + WEIGHTS, ["holds no unet: it is an autoencoder alone"]),
    "a unet's file": ("vae", "sd_b/unet/" + WEIGHTS, ["holds no vae: it is one network in"]),
    "a whole model": ("vae", "sd_b.safetensors", ["holds no vae: it is a whole model"]),
    "a text encoder's folder": ("vae", "sd_b/text_encoder", ["AutoencoderKL"]),
    "a unet's folder": ("vae", "sd_b/unet", ["UNet2DConditionModel", "needs one of AutoencoderKL"]),
    "a tokenizer": ("vae", "tokenizer", ["config.json does not exist"]),
    "nothing": ("unet", "nowhere", ["unet: there is no folder or file", "downloaded first"]),
    "a repository": ("vae", "../owner/name", ["vae: there is no folder or file"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_such_component(place, case, one_line):
    setting, given, words = WRONG[case]
    one_line(lambda: load(place / "sd_a", **{setting: place / given}), *words)


def test_files_that_hold_something_else(place, tmp_path, one_line):
    file, values = tmp_path / "x.safetensors", np.zeros(3, np.float32)
    for name, words in (
        ("lora_unet_mid_block.alpha", "holds no unet: it is a LoRA"),
        ("whatever", "holds no unet: tensors in diffusers' names or the original"),
    ):
        save_file({name: values}, file)
        one_line(lambda: load(place / "sd_a", unet=file), str(file), words)
    file.write_bytes(b"")
    one_line(lambda: load(place / "sd_a", unet=file), str(file), "empty")
    for wrong in (3, ["a"], ""):
        one_line(lambda wrong=wrong: load(place / "sd_a", vae=wrong), "vae: ")
    part(place, "sd_b", UNET, file)
    save_file(load_file(file) | {"v_pred": values}, file)
    one_line(lambda: load(place / "sd_a", unet=file), "like the model's own: 1 unexpected (v_pred)")
    # All that does not fit, and what is not finite.
    content = load_file(place / "sd_b" / "vae" / WEIGHTS)
    content["encoder.conv_in.bias"] = np.full(32, np.nan, np.float32)
    save_file(content, file)
    one_line(lambda: load(place / "sd_a", vae=file), "encoder.conv_in.bias", "not finite")
    del content["encoder.conv_in.bias"]
    save_file(content | {"x": values}, file)
    words = "1 missing (encoder.conv_in.bias), 1 unexpected (x)"
    one_line(lambda: load(place / "sd_a", vae=file), words)
