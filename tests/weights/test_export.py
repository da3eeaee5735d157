"""What is exported is read back to the same bytes, and written whole or not at all."""

import dataclasses
import json
import stat

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from pot_jax.weights import export as exporting
from pot_jax.weights.export import export, write_weights
from pot_jax.weights.load import load


def test_the_layout(exported):
    index = json.loads((exported / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert index["unet"] == ["diffusers", "UNet2DConditionModel"]
    assert index["vae"] == ["diffusers", "AutoencoderKL"]
    assert index["text_encoder"] == ["transformers", "CLIPTextModel"]
    assert index["tokenizer"] == ["transformers", "CLIPTokenizer"]
    assert index["scheduler"] == ["diffusers", "DDIMScheduler"]
    files = {str(path.relative_to(exported)) for path in exported.rglob("*") if path.is_file()}
    assert files >= {
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "tokenizer/tokenizer_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    }
    assert stat.S_IMODE(exported.stat().st_mode) & 0o055  # others may read it, by the umask
    assert "/" not in (exported / "tokenizer" / "tokenizer_config.json").read_text()


def test_the_librarys_own_reader_agrees(exported, model):
    path = exported / "unet" / "diffusion_pytorch_model.safetensors"
    with safe_open(path, framework="np") as file:
        assert file.metadata() == {"format": "pt"}
    tensors = load_file(path)
    params = model.params["unet"]
    np.testing.assert_array_equal(
        tensors["conv_in.weight"], np.transpose(params["conv_in"]["kernel"], (3, 2, 0, 1))
    )
    np.testing.assert_array_equal(
        tensors["time_embedding.linear_1.weight"],
        np.transpose(params["time_embedding"]["linear_1"]["kernel"]),
    )
    assert len(tensors) == len(jax.tree.leaves(params))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_the_size(model, tmp_path, dtype):
    export(model, tmp_path / "half", dtype=dtype)
    half = load(tmp_path / "half", dtype=dtype)
    leaves = zip(jax.tree.leaves(half.params), jax.tree.leaves(model.params))
    for came, value in leaves:
        assert came.dtype == jnp.dtype(dtype)
        np.testing.assert_array_equal(came, np.asarray(value).astype(dtype))


def test_the_same_model_gives_the_same_bytes(model, exported, tmp_path):
    export(load(exported), tmp_path / "again")
    for path in exported.rglob("*"):
        if path.is_file():
            assert (tmp_path / "again" / path.relative_to(exported)).read_bytes() == (
                path.read_bytes()
            ), path


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_values_that_float16_cannot_hold(model, tmp_path, value, one_line):
    text = model.params["text_encoder"]
    scale = text["text_model"]["final_layer_norm"]["scale"]
    bad = jax.tree.map(lambda leaf: scale * value if leaf is scale else leaf, text)
    bad = dataclasses.replace(model, params={**model.params, "text_encoder": bad})
    one_line(
        lambda: export(bad, tmp_path / "bad", dtype="float16"), "final_layer_norm.weight", "float16"
    )
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten(model, tmp_path, one_line):
    (tmp_path / "mine.txt").write_text("mine")
    one_line(lambda: export(model, tmp_path), "exists already")
    one_line(lambda: export(model, tmp_path / "mine.txt"), "exists already")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    one_line(lambda: export(model, tmp_path / "link"), "exists already")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "mine.txt"]


def test_an_empty_folder_will_do(model, tmp_path):
    (tmp_path / "empty").mkdir()
    export(model, tmp_path / "empty")
    assert load(tmp_path / "empty").digest == model.digest


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_half_way_leaves_nothing(model, tmp_path, monkeypatch, failure):
    def fail(params, path, dtype):
        if "vae" in str(path):
            raise failure
        write_weights(params, path, dtype)

    monkeypatch.setattr(exporting, "write_weights", fail)
    with pytest.raises((ValueError, KeyboardInterrupt)):
        export(model, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
