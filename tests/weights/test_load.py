"""A model folder becomes exactly its model, or one line that says everything wrong with it."""

import json
import os
import pickle
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from pot_jax.weights import parameters
from pot_jax.weights.export import write_weights
from pot_jax.weights.load import load

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
CONV = "conv_in.weight"


def rewrite(path, change):
    """Applies `change` to the dict of a weight file's tensors."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def reset(path, **settings):
    """Changes settings of a JSON file; None removes one."""
    content = {**json.loads(path.read_text()), **settings}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def assert_same(params, expected):
    params, expected = flatten_dict(params), flatten_dict(expected)
    assert params.keys() == expected.keys()
    for path, value in expected.items():
        assert params[path].dtype == value.dtype
        np.testing.assert_array_equal(params[path], value, err_msg=str(path))


def cast(params, *dtypes):
    """Rounded by NumPy, which compiles nothing, through each dtype in turn."""

    def rounded(leaf):
        for dtype in dtypes:
            leaf = np.asarray(leaf).astype(dtype)
        return leaf

    return jax.tree.map(rounded, params)


def test_the_folder_gives_the_model_back(exported, model):
    loaded = load(exported)
    assert_same(loaded.params, model.params)
    assert loaded.digest == model.digest
    assert loaded.schedule == model.schedule
    for name in ("text_encoder", "unet", "autoencoder"):
        assert getattr(loaded, name) == getattr(model, name)
    assert (loaded.name, loaded.source) == ("tiny", str(exported))


# Runs record these digests and refuse to resume with others: they change only with the files.
@pytest.mark.parametrize(
    ("dtype", "digest"),
    [
        ("float32", "38a20ed4c37161b809b1f61549a5dc78899e72c6f02b0c8aae5e336082e45b16"),
        ("bfloat16", "91b62507e3a577a83846799459a982dd9c3f9f571691760a298e3d46ef3d8b70"),
    ],
)
def test_the_digest_of_the_shipped_model(dtype, digest):
    assert load("cosmos64", dtype=dtype).digest == digest


def test_a_model_is_shown_in_one_line(exported, model):
    text = repr(load(exported))
    assert text.startswith(f"Model('tiny', source='{exported}', StableDiffusionPipeline, ")
    assert f"{sum(leaf.size for leaf in jax.tree.leaves(model.params)):,} parameters" in text
    assert "float32" in text
    assert model.digest[:12] in text
    assert len(text) < 200 + len(str(exported))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, "float16"])
def test_parameters_are_cast_while_loading(exported, model, dtype):
    loaded = load(exported, dtype=dtype)
    assert_same(loaded.params, cast(model.params, dtype))
    assert loaded.unet.dtype == jnp.dtype(dtype)
    assert loaded.digest != model.digest


@pytest.mark.parametrize("dtype", ["int8", "float64", "nonsense", 3])
def test_other_dtypes_are_refused(exported, dtype, one_line):
    one_line(lambda: load(exported, dtype=dtype), str(dtype), "float32, bfloat16, float16")


def test_files_in_other_dtypes(folder, model):
    rewrite(folder / UNET, lambda t: t.update({k: v.astype(np.float64) for k, v in t.items()}))
    rewrite(folder / VAE, lambda t: t.update({k: v.astype(np.float16) for k, v in t.items()}))
    loaded = load(folder)
    assert_same(loaded.params["unet"], model.params["unet"])
    assert_same(
        loaded.params["autoencoder"], cast(model.params["autoencoder"], "float16", "float32")
    )


def test_bfloat16_files(folder, model):
    (folder / UNET).unlink()
    write_weights(model.params["unet"], folder / UNET, np.dtype(ml_dtypes.bfloat16))
    expected = cast(model.params["unet"], jnp.bfloat16, "float32")
    assert_same(load(folder).params["unet"], expected)


def test_variants(folder, model, one_line):
    for path in (UNET, VAE, TEXT):
        whole = folder / path
        half = {name: v.astype(np.float16) for name, v in load_file(whole).items()}
        save_file(half, whole.with_name(whole.stem + ".fp16.safetensors"))
    assert load(folder).digest == model.digest
    rounded = load(folder, variant="fp16")
    assert rounded.digest != model.digest
    assert jax.tree.leaves(rounded.params)[0].dtype == jnp.float32
    one_line(lambda: load(folder, variant="fp8"), "variant fp8", "fp16")
    for path in (UNET, VAE, TEXT):
        (folder / path).unlink()
    assert load(folder).digest == rounded.digest


def test_shards(folder, model):
    tensors = load_file(folder / UNET)
    (folder / UNET).unlink()
    names = sorted(tensors)
    places = {}
    for number in range(3):
        file = f"diffusion_pytorch_model-{number + 1:05}-of-00003.safetensors"
        save_file({name: tensors[name] for name in names[number::3]}, folder / "unet" / file)
        places |= dict.fromkeys(names[number::3], file)
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": places}))
    assert load(folder).digest == model.digest


def test_a_clip_without_its_prefix_and_with_its_constants(folder, model):
    def rename(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("text_model.")] = tensors.pop(name)
        tensors["embeddings.position_ids"] = np.arange(8)[None]

    rewrite(folder / TEXT, rename)
    assert load(folder).digest == model.digest


def test_an_autoencoder_with_the_old_attention(folder, model):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(tensors):
        for name in [name for name in tensors if "attentions.0.to_" in name]:
            new = re.sub("|".join(map(re.escape, old)), lambda match: old[match[0]], name)
            value = tensors.pop(name)
            tensors[new] = value[:, :, None, None].copy() if value.ndim == 2 else value

    rewrite(folder / VAE, rename)
    assert load(folder).digest == model.digest


# Weights that do not fit --------------------------------------------------------------------------


def test_everything_wrong_is_in_one_message(folder, one_line):
    def unet(tensors):
        del tensors["conv_out.bias"]
        tensors["surprise.weight"] = np.zeros(3, np.float32)
        tensors[CONV] = np.ascontiguousarray(tensors[CONV][:, :, :1, :1])

    def vae(tensors):
        del tensors["decoder.conv_in.weight"], tensors["decoder.conv_in.bias"]

    def vae_values(tensors):
        tensors["encoder.conv_in.weight"][0, 0, 0, 0] = np.nan

    def text_values(tensors):
        tensors["text_model.final_layer_norm.weight"][3] = np.inf

    for path, change in ((VAE, vae_values), (TEXT, text_values)):
        rewrite(folder / path, change)
    one_line(
        lambda: load(folder),
        "2 not finite",
        f"encoder.conv_in.weight in {VAE}",
        f"text_model.final_layer_norm.weight in {TEXT}",
    )
    for path, change in ((UNET, unet), (VAE, vae)):
        rewrite(folder / path, change)
    one_line(  # what headers say comes before any value is read
        lambda: load(folder),
        "3 missing",
        "conv_out.bias in unet",
        "decoder.conv_in.weight in vae",
        "1 unexpected",
        f"surprise.weight in {UNET}",
        "1 misshapen",
        f"conv_in.weight in {UNET} (shape (16, 4, 1, 1), expected (16, 4, 3, 3))",
    )


def test_only_the_first_few_of_many_are_named(folder, one_line):
    rewrite(folder / UNET, lambda t: [t.pop(name) for name in list(t) if "down" in name])
    message = one_line(lambda: load(folder), "missing", "; ...")
    assert message.count("in unet") == 3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_one_value_that_is_not_finite(value, dtype):
    values = np.linspace(-60000, 60000, 24).reshape(2, 3, 4).astype(dtype)
    assert parameters._finite(values)
    values[1, 2, 3] = value
    assert not parameters._finite(values)


def test_values_beyond_float16(folder, one_line):
    rewrite(folder / UNET, lambda t: t[CONV].__setitem__((0, 0, 0, 0), 1e6))
    load(folder)
    one_line(lambda: load(folder, dtype="float16"), "1 beyond float16", CONV)


def test_weights_that_are_integers(folder, one_line):
    rewrite(folder / UNET, lambda t: t.update({CONV: t[CONV].astype(np.int8)}))
    one_line(lambda: load(folder), "1 not of a dtype", f"{CONV} in {UNET} (I8)")


@pytest.mark.parametrize("path", [UNET, VAE, TEXT])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["no weights"]),
        (b"", ["empty"]),
        (b"version https://git-lfs.github.com/spec/v1\n", ["git lfs pull"]),
        (b"<html>", ["empty or cut off"]),
        (b"<!DOCTYPE html><html></html>", ["web page"]),
        (b"PK\x03\x04" + bytes(200), ["pickle"]),
    ],
)
def test_weight_files_that_are_none(folder, path, content, words, one_line):
    if content is None:
        (folder / path).unlink()
    else:
        (folder / path).write_bytes(content)
    one_line(lambda: load(folder), path.split("/")[0], *words)


def test_a_truncated_file(folder, one_line):
    whole = (folder / UNET).read_bytes()
    (folder / UNET).write_bytes(whole[:-1000])
    one_line(lambda: load(folder), UNET, "truncated", str(len(whole)))


def test_only_pickled_weights(folder, one_line):
    (folder / UNET).rename(folder / "unet" / "diffusion_pytorch_model.bin")
    one_line(lambda: load(folder), "diffusion_pytorch_model.bin", "safetensors")


def test_a_pickle_runs_nothing(folder, tmp_path, one_line):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "boom"),)

    (folder / UNET).write_bytes(pickle.dumps(Bomb()))
    one_line(lambda: load(folder), "pickle")
    assert not (tmp_path / "boom").exists()


# Folders and settings that do not fit -------------------------------------------------------------


@pytest.mark.parametrize("name", ["no/such/folder", "cosmos63", "", "a\0b"])
def test_a_source_that_is_not_there(name, tmp_path, monkeypatch, one_line):
    monkeypatch.chdir(tmp_path)
    one_line(lambda: load(name))


def test_a_file_and_a_folder_of_something_else(folder, tmp_path, one_line):
    one_line(lambda: load(folder / UNET), "no autoencoder", "one network in diffusers' layout")
    (tmp_path / "other").mkdir()
    one_line(lambda: load(tmp_path / "other"), "not a model folder", "model_index.json")


INDEX_CASES = {
    "another pipeline": ({"_class_name": "StableDiffusion3Pipeline"}, ["3Pipeline", "supported"]),
    "no pipeline": ({"_class_name": None}, ["None"]),
    "pipeline no name": ({"_class_name": ["a"]}, ["['a']"]),
    "a second text encoder": (
        {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]},
        ["text_encoder_2", "not supported"],
    ),
    "another unet": ({"unet": ["diffusers", "Kandinsky3UNet"]}, ["Kandinsky3UNet", "UNet2DCond"]),
    "another autoencoder": ({"vae": ["diffusers", "VQModel"]}, ["VQModel", "AutoencoderTiny"]),
    "another text encoder": ({"text_encoder": ["transformers", "T5EncoderModel"]}, ["T5Encoder"]),
    "another tokenizer": ({"tokenizer": ["transformers", "T5Tokenizer"]}, ["T5Tokenizer", "CLIP"]),
    "no unet": ({"unet": None}, ["unet", "incomplete"]),
    "unet left out": ({"unet": [None, None]}, ["unet", "incomplete"]),
    "entry malformed": ({"unet": "UNet2DConditionModel"}, ["unet", "[library, class]"]),
    "entry of odd types": ({"unet": ["diffusers", {"a": 1}]}, ["unet", "not supported"]),
    "entry of three": ({"scheduler": ["a", "b", "c"]}, ["scheduler", "[library, class]"]),
    "a path for a name": ({"../evil": ["diffusers", "UNet2DConditionModel"]}, ["../evil"]),
}


@pytest.mark.parametrize("case", INDEX_CASES)
def test_models_of_another_kind(folder, case, one_line):
    settings, words = INDEX_CASES[case]
    reset(folder / "model_index.json", **settings)
    one_line(lambda: load(folder), "model_index.json", *words)


def test_what_makes_no_picture_is_ignored(folder, model):
    reset(
        folder / "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPImageProcessor"],
        requires_safety_checker=True,
    )
    assert load(folder).digest == model.digest


CONFIG_CASES = {
    "absurd width": ("unet", {"block_out_channels": [16, 10**12]}, ["block_out_channels"]),
    "absurd depth": ("unet", {"layers_per_block": 10**9}, ["layers_per_block"]),
    "absurd number of blocks": ("unet", {"block_out_channels": [16] * 10**5}, ["100000 entries"]),
    "absurd vocabulary": ("text_encoder", {"vocab_size": 10**10}, ["vocab_size"]),
    "absurd text layers": ("text_encoder", {"num_hidden_layers": 10**6}, ["num_hidden_layers"]),
    "negative width": ("vae", {"block_out_channels": [-8, 16]}, ["block_out_channels"]),
    "zero heads": ("text_encoder", {"num_attention_heads": 0}, ["num_attention_heads"]),
    "a string for a number": ("vae", {"latent_channels": "4"}, ["latent_channels"]),
    "an unknown block": ("unet", {"down_block_types": ["A", "B"]}, ["down_block_types"]),
    "code to run": ("unet", {"auto_map": {"AutoModel": "evil.Model"}}, ["auto_map", "code"]),
    "an unknown activation": ("text_encoder", {"hidden_act": "relu6"}, ["hidden_act", "relu6"]),
    "width of another text encoder": (
        "unet",
        {"cross_attention_dim": 32},
        ["cross_attention_dim is 32", "text_encoder gives 16"],
    ),
    "inpainting's channels": ("unet", {"in_channels": 9}, ["in_channels is 9", "vae gives 4"]),
}


@pytest.mark.parametrize("case", CONFIG_CASES)
def test_settings_of_another_kind(folder, case, one_line):
    component, settings, words = CONFIG_CASES[case]
    reset(folder / component / "config.json", **settings)
    one_line(lambda: load(folder), *words)


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_settings_that_are_missing_or_damaged(folder, component, one_line):
    path = folder / component / "config.json"
    path.write_text("{")
    one_line(lambda: load(folder), f"{component}/config.json", "not usable JSON")
    path.unlink()
    one_line(lambda: load(folder), f"{component}/config.json", "does not exist")


def test_a_config_that_fits_other_weights(folder, one_line):
    reset(folder / "unet" / "config.json", layers_per_block=2)
    one_line(lambda: load(folder), "missing", "down_blocks.0.resnets.1", "misshapen")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"beta_schedule": "exotic"}, ["beta_schedule", "exotic"]),
        ({"prediction_type": "flow"}, ["prediction_type", "flow"]),
        ({"num_train_timesteps": 10**12}, ["num_train_timesteps"]),
        ({"beta_end": 7.0}, ["beta"]),
        ({"beta_end": "x"}, ["beta_end"]),
        ({"trained_betas": [0.1] * 10**5}, ["trained_betas"]),
    ],
)
def test_schedules_that_cannot_be(folder, settings, words, one_line):
    reset(folder / "scheduler" / "scheduler_config.json", **settings)
    one_line(lambda: load(folder), "scheduler_config.json", *words)


def test_a_link_to_itself(folder, one_line):
    (folder / "unet" / "config.json").unlink()
    (folder / "unet" / "config.json").symlink_to("config.json")
    one_line(lambda: load(folder), "unet/config.json", "not a regular file")


def test_a_file_of_a_shipped_models_name_comes_first(tmp_path, monkeypatch, one_line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cosmos64").write_text("not a model")
    one_line(lambda: load("cosmos64"), "cosmos64")
    (tmp_path / "cosmos64").unlink()
    assert load("cosmos64").source == "cosmos64"
