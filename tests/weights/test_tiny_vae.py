"""What only some models have: a tiny autoencoder beside the true one, and sampler defaults."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lora_files import DENSE, TEXT, parts, write
from tiny_models import TINY_VAE, tiny_model

from pot_jax.weights.export import convert, export
from pot_jax.weights.load import load, open_model

WEIGHTS = "tiny_vae/diffusion_pytorch_model.safetensors"
OWN = {"steps": 16, "solver": "dpmpp_2m", "guidance_scale": 3.0, "agreement_vae": "tiny_vae"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The model with both, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    model = tiny_model(folder / "tokenizer", tiny_vae=TINY_VAE, sampler=OWN)
    export(model, folder / "model")
    return model, folder / "model"


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole[1], tmp_path / "model")


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_it_is_exported_and_read_back(whole):
    model, folder = whole
    loaded = load(folder)
    same(loaded.params, model.params)
    assert loaded.digest == model.digest
    assert loaded.tiny_vae == model.tiny_vae
    assert loaded.sampler == OWN
    assert json.loads((folder / "sampler.json").read_text()) == OWN
    # diffusers would look for a component that the index names in its pipeline.
    assert "tiny_vae" not in json.loads((folder / "model_index.json").read_text())


def test_a_kept_copy_has_both(whole, tmp_path):
    model, folder = whole
    convert(folder, tmp_path / "kept")
    kept = load(tmp_path / "kept")
    same(kept.params, model.params)
    assert (kept.digest, kept.sampler, kept.tiny_vae) == (model.digest, OWN, model.tiny_vae)


def test_the_digest_covers_it(whole, model):
    alone = {name: params for name, params in whole[0].params.items() if name != "tiny_vae"}
    same(alone, model.params)
    assert whole[0].digest != model.digest


def test_a_model_without_has_neither(exported):
    loaded = load(exported)
    assert (loaded.tiny_vae, dict(loaded.sampler)) == (None, {})
    assert "tiny_vae" not in loaded.params
    assert not (exported / "sampler.json").exists()
    assert not (exported / "tiny_vae").exists()


def test_its_dtype_and_place_are_the_models(folder):
    device = jax.devices()[1]
    one = jax.sharding.SingleDeviceSharding(device)
    loaded = load(folder, dtype="bfloat16", sharding=one)
    assert loaded.tiny_vae.dtype == jnp.bfloat16
    for leaf in jax.tree.leaves(loaded.params["tiny_vae"]):
        assert leaf.dtype == jnp.bfloat16
        assert leaf.devices() == {device}


def test_a_variant_is_of_all_components(whole, folder, one_line):
    export(whole[0], folder.parent / "half", dtype="float16")
    for path in (folder.parent / "half").rglob("*.safetensors"):
        name = path.relative_to(folder.parent / "half")
        path.rename((folder / name).with_suffix(".fp16.safetensors"))
    rounded = load(folder, variant="fp16")
    half = jax.tree.map(lambda x: x.astype("float16").astype("float32"), whole[0].params)
    same(rounded.params, half)
    (folder / WEIGHTS).with_suffix(".fp16.safetensors").unlink()
    one_line(lambda: load(folder, variant="fp16"), "tiny_vae", "no weights of variant fp16")


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("no")])
def test_its_weights_are_checked_before_any_is_read(folder, damage, one_line):
    damage(folder / WEIGHTS)
    one_line(lambda: open_model(folder), "tiny_vae")


def test_a_lora_does_not_touch_it(whole, folder, tmp_path):
    model = whole[0]
    lora = write(tmp_path / "lora.safetensors", {layer: parts(layer) for layer in (DENSE, TEXT)})
    changed = load(folder, loras=[lora])
    assert changed.digest != model.digest
    same(changed.params["tiny_vae"], model.params["tiny_vae"])
    same(changed.params["autoencoder"], model.params["autoencoder"])


@pytest.mark.parametrize(
    "content", [{}, {"solver": ""}, {"eta": 0.5}, {"steps": 7, "blend": "none"}]
)
def test_any_subset_of_settings_may_be_there(folder, tmp_path, content):
    (folder / "sampler.json").write_text("\ufeff" + json.dumps(content), "utf-8")
    loaded = load(folder)
    assert loaded.sampler == content
    export(dataclasses.replace(loaded, name="again"), tmp_path / "again")
    assert load(tmp_path / "again").sampler == content
