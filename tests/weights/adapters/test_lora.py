"""LoRA files against sums written out in float64, and every way to be wrong."""

import dataclasses
import json
import shutil

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from lora_files import CONV, DENSE, MLP, OUT, PROJECTION, SHAPES, TEXT, kohya, parts, peft, write
from safetensors.numpy import load_file, save_file
from tiny_models import UNET

from pot_jax.config import LoraSettings
from pot_jax.weights.adapters.lora import product, read_loras
from pot_jax.weights.adapters.lora_names import layer_table
from pot_jax.weights.export import convert, export
from pot_jax.weights.load import load


def added(tensors, strength=1.0):
    """What a layer adds to its weight as torch lays it out: the definition, in float64."""
    down, up = (tensors[part].astype(np.float64) for part in ("down", "up"))
    scale = strength * float(tensors.get("alpha", len(down))) / len(down)
    up = up.reshape(up.shape[:2])
    if "mid" in tensors:
        down = np.einsum("rshw,si->rihw", tensors["mid"].astype(np.float64), down[:, :, 0, 0])
    return scale * np.tensordot(up, down, 1)


def weights(model):
    """The weights of all layers as torch lays them out, by torch's names, float32."""
    config, params = model.unet.config, model.params
    tensors = {}
    for target in layer_table(config, params).values():
        value = np.asarray(flatten_dict(params)[target.path])
        tensors[target.entry.key.removesuffix(".weight")] = target.entry.write(value)
    return tensors


def check_merged(model, plain_model, expected):
    """Each weight has what is expected added to it, and no other weight is changed by a bit."""
    after, before = weights(model), weights(plain_model)
    for layer, weight in before.items():
        wanted = weight + expected.get(layer, 0)
        # float32: sums of a few products of order 1; 1e-5 leaves room for a rank of 30.
        np.testing.assert_allclose(after[layer], wanted, rtol=1e-5, atol=1e-5, err_msg=layer)
        assert layer in expected or after[layer].tobytes() == weight.tobytes()
    others = flatten_dict(model.params), flatten_dict(plain_model.params)
    for path, value in others[1].items():
        if path[-1] != "kernel":
            np.testing.assert_array_equal(others[0][path], value)


# What is added ----------------------------------------------------------------------------------


def test_dense_layers_and_convolutions(exported, model, tmp_path):
    layers = {layer: parts(layer, rank=2 + i) for i, layer in enumerate(SHAPES)}
    layers[CONV] = parts(CONV, mid=True)
    layers[OUT] = parts(OUT, alpha=None)
    file = write(tmp_path / "a.safetensors", layers)
    merged = load(exported, loras={file: 0.7})
    check_merged(merged, model, {layer: added(t, 0.7) for layer, t in layers.items()})
    assert merged.digest != model.digest
    assert [(f.path, f.strength) for f in merged.loras] == [(str(file), 0.7)]
    assert len(merged.loras[0].sha256) == 64


def test_a_dense_lora_serves_a_convolution_of_one_pixel_and_back(exported, model, tmp_path):
    def squeezed(tensors):
        return {part: t.reshape(t.shape[:2]) for part, t in tensors.items()}

    def as_convolution(tensors):
        return {part: t.reshape(*t.shape, 1, 1) for part, t in tensors.items()}

    dense, conv = parts(DENSE, alpha=None), parts(PROJECTION, alpha=None)
    layers = {DENSE: as_convolution(dense), PROJECTION: squeezed(conv)}
    merged = load(exported, loras=[write(tmp_path / "a.safetensors", layers)])
    expected = {DENSE: added(dense), PROJECTION: added(conv)}
    check_merged(merged, model, expected)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_files_of_other_dtypes(exported, model, tmp_path, dtype):
    layers = {DENSE: parts(DENSE, dtype=dtype)}
    merged = load(exported, loras=[write(tmp_path / "a.safetensors", layers)])
    check_merged(merged, model, {DENSE: added(layers[DENSE])})


def test_an_integer_alpha(exported, model, tmp_path):
    layers = {DENSE: parts(DENSE) | {"alpha": np.asarray(8)}}
    merged = load(exported, loras=[write(tmp_path / "a.safetensors", layers)])
    check_merged(merged, model, {DENSE: added(layers[DENSE])})


def test_half_precision_rounds_once(exported, tmp_path):
    layers = {DENSE: parts(DENSE)}
    file = write(tmp_path / "a.safetensors", layers)
    before = weights(load(exported, dtype="bfloat16"))[DENSE]
    # Steps of less than half of bfloat16's, which would be lost one by one.
    merged = load(exported, dtype="bfloat16", loras=[(file, 1e-4)] * 100)
    after = weights(merged)[DENSE]
    assert after.dtype == jnp.bfloat16
    wanted = before.astype(np.float32) + added(layers[DENSE], 1e-2)
    np.testing.assert_allclose(after.astype(np.float32), wanted, rtol=2**-8, atol=1e-5)


def test_a_kept_model_takes_them(exported, tmp_path):
    convert(exported, tmp_path / "kept")
    file = write(tmp_path / "a.safetensors", {DENSE: parts(DENSE), MLP: parts(MLP)})
    kept = load(tmp_path / "kept", loras={file: 0.5})
    assert kept.digest == load(exported, loras={file: 0.5}).digest
    assert kept.loras == load(exported, loras={file: 0.5}).loras


def test_a_merged_model_is_exported_as_it_is(exported, tmp_path):
    merged = load(exported, loras=[write(tmp_path / "a.safetensors", {CONV: parts(CONV)})])
    export(merged, tmp_path / "fused")
    assert load(tmp_path / "fused").digest == merged.digest


# Properties -------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path):
    return [
        write(tmp_path / f"{i}.safetensors", {name: parts(name, seed=i) for name in (DENSE, CONV)})
        for i in range(2)
    ]


def test_strength_0_changes_not_one_bit(folder, two):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors[f"{DENSE}.weight"][0] = -0.0  # which plus 0 is 0
    save_file(tensors, path, {"format": "pt"})
    merged = load(folder, loras=dict.fromkeys(two, 0))
    assert merged.digest == load(folder).digest
    assert [file.strength for file in merged.loras] == [0, 0]


def test_two_add_in_any_order(exported, model, two):
    first, second = two
    expected = {
        layer: added(parts(layer, seed=0), 0.5) + added(parts(layer, seed=1), -2)
        for layer in (DENSE, CONV)
    }
    check_merged(load(exported, loras={first: 0.5, second: -2}), model, expected)
    check_merged(load(exported, loras={second: -2, first: 0.5}), model, expected)


def test_strength_is_linear(exported, two):
    first = two[0]
    half, whole = (weights(load(exported, loras={first: s}))[CONV] for s in (1, 2))
    none = weights(load(exported))[CONV]
    np.testing.assert_allclose(whole - none, 2 * (half - none), rtol=1e-5, atol=1e-5)


def test_minus_1_undoes_1(exported, model, two, tmp_path):
    export(load(exported, loras=two), tmp_path / "fused")
    back = load(tmp_path / "fused", loras=dict.fromkeys(two, -1))
    check_merged(back, model, {DENSE: 0, CONV: 0})


def test_other_files_other_digests(exported, two):
    digests = {load(exported, loras=loras).digest for loras in ([], two[:1], two[1:], two)}
    assert len(digests) == 4


@pytest.mark.parametrize("name", ["adapter_model", "pytorch_lora_weights"])
def test_a_folder_stands_for_the_file_that_its_trainer_wrote(exported, two, tmp_path, name):
    folder = tmp_path / "trained"
    folder.mkdir()
    file = shutil.copy(two[0], folder / f"{name}.safetensors")
    merged = load(exported, loras=[folder])
    assert merged.digest == load(exported, loras=two[:1]).digest
    assert [lora.path for lora in merged.loras] == [str(file)]


def test_alphas_of_peft_settings(exported, model, tmp_path):
    layers = {layer: parts(layer, alpha=None) for layer in (DENSE, OUT, TEXT)}
    settings = {
        "unet.lora_alpha": 6,
        "unet.alpha_pattern": {"attn2.to_out.0": 1.5},
        "text_encoder.lora_alpha": 3,
        "text_encoder.use_rslora": True,
    }
    write(tmp_path / "a.safetensors", layers, peft, {"lora_adapter_metadata": json.dumps(settings)})
    scales = {f"unet.{DENSE}": 6 / 3, f"unet.{OUT}": 1.5 / 3, f"text_encoder.{TEXT}": 3 / 3**0.5}
    (lora,) = read_loras([tmp_path / "a.safetensors"], UNET, model.params)
    assert {layer.down.name.split(".lora")[0]: layer.scale for layer in lora.layers} == scales
    for layer in lora.layers:
        assert product(layer).dtype == np.float32


# What does not fit ------------------------------------------------------------------------------


def test_everything_wrong_is_in_one_message(exported, tmp_path, one_line):
    layers = {layer: parts(layer) for layer in (DENSE, CONV, TEXT, MLP, OUT)}
    del layers[MLP]["up"]
    layers[CONV]["down"] = layers[CONV]["down"][:, :8].copy()
    layers[OUT]["alpha"] = np.asarray(np.nan, np.float32)
    tensors = {kohya(la, part): t for la, ts in layers.items() for part, t in ts.items()}
    tensors |= {
        peft(DENSE, "down"): layers[DENSE]["down"],
        peft(DENSE, "up"): layers[DENSE]["up"],
        kohya(DENSE, "down").replace("lora_down", "lora_A"): layers[DENSE]["down"],
        "surprise": np.zeros(3, np.float32),
        "lora_unet_down_blocks_7_conv.lora_down.weight": np.zeros((4, 320), np.float32),
        "lora_unet_down_blocks_7_conv.lora_up.weight": np.zeros((640, 4), np.float32),
        kohya(PROJECTION, "down"): np.zeros((4, 320), np.int8),
    }
    save_file(tensors, tmp_path / "a.safetensors")
    write(tmp_path / "b.safetensors", {DENSE: parts(DENSE)}, lambda la, part: f"x.{part}")
    one_line(
        lambda: load(exported, loras=[tmp_path / "a.safetensors", tmp_path / "b.safetensors"]),
        "a.safetensors does not fit the model",
        "1 keys of no known spelling (surprise [3])",
        "1 layers that the model lacks (lora_unet_down_blocks_7_conv: down [4, 320], up [640, 4])",
        "1 layers without both down and up (lora_te_text_model_encoder_layers_0_mlp_fc1",
        "1 misshapen layers (lora_unet_down_blocks_0_resnets_0_conv1: ",
        "down [3, 8, 3, 3]",
        "for a weight [16, 16, 3, 3]",
        "1 layers given twice",
        "1 keys given twice",
        "1 layers with an unusable alpha",
        "1 tensors of a dtype not in",
        "b.safetensors does not fit the model: 2 keys of no known spelling",
    )


def test_only_the_first_few_of_many_are_named(exported, tmp_path, one_line):
    names = [f"lora_unet_x{i}.lora_down.weight" for i in range(50)]
    save_file(dict.fromkeys(names, np.zeros((1, 1), np.float32)), tmp_path / "a.safetensors")
    one_line(lambda: load(exported, loras=[tmp_path / "a.safetensors"]), "50 layers", "; ...")


def reshaped(**changes):
    return {**parts(CONV, alpha=None), **{k: np.ones(s, np.float32) for k, s in changes.items()}}


@pytest.mark.parametrize(
    "tensors",
    [
        reshaped(down=(3, 16, 1, 1)),
        reshaped(down=(4, 16, 3, 3)),
        reshaped(down=(3,)),
        reshaped(down=(0, 16, 3, 3), up=(16, 0, 1, 1)),
        reshaped(up=(15, 3, 1, 1)),
        reshaped(up=(16, 3, 3, 3)),
        reshaped(alpha=(2,)),
        reshaped(mid=(3, 3, 3, 3)),
        reshaped(down=(3, 16, 1, 1), mid=(3, 2, 3, 3)),
        reshaped(down=(3, 16, 1, 1), mid=(3, 3)),
    ],
)
def test_shapes_that_are_no_product(exported, tmp_path, tensors, one_line):
    write(tmp_path / "a.safetensors", {CONV: tensors})
    one_line(
        lambda: load(exported, loras=[tmp_path / "a.safetensors"]), "1 misshapen", "[16, 16, 3, 3]"
    )


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("lora_unet_x.dora_scale", "DoRA"),
        ("unet.x.lora_magnitude_vector", "DoRA"),
        ("lora_unet_x.hada_w1_a", "LoHa"),
        ("lora_unet_x.lokr_w2", "LoKr"),
        ("lora_unet_x.oft_blocks", "OFT"),
        ("lora_unet_x.on_input", "IA3"),
    ],
)
def test_relatives_are_refused_by_name(exported, tmp_path, key, name, one_line):
    tensors = {kohya(DENSE, part): t for part, t in parts(DENSE).items()}
    save_file(tensors | {key: np.zeros((2, 2), np.float32)}, tmp_path / "a.safetensors")
    one_line(lambda: load(exported, loras=[tmp_path / "a.safetensors"]), name, key, "not supported")


@pytest.mark.parametrize("strength", [1.0, 1e30])
def test_sums_that_are_not_finite(exported, tmp_path, strength, one_line):
    layers = {DENSE: parts(DENSE)}
    layers[DENSE]["up"][0, 0] = np.nan if strength == 1 else 1e30
    file = write(tmp_path / "a.safetensors", layers)
    one_line(lambda: load(exported, loras={file: strength}), "not finite in float32", str(file))


def test_sums_beyond_float16(exported, tmp_path, one_line):
    file = write(tmp_path / "a.safetensors", {DENSE: parts(DENSE)})
    load(exported, loras={file: 1e5})
    one_line(lambda: load(exported, dtype="float16", loras={file: 1e5}), "finite in float16")


def test_a_file_that_is_another_than_it_was(exported, tmp_path, one_line):
    file = write(tmp_path / "a.safetensors", {DENSE: parts(DENSE)})
    (known,) = load(exported, loras=[file]).loras
    assert known == LoraSettings(path=str(file), strength=1.0, sha256=known.sha256)
    assert load(exported, loras=[known]).loras == (known,)
    assert load(exported, loras=[dataclasses.astuple(known)]).loras == (known,)
    write(file, {DENSE: parts(DENSE, seed=1)})
    one_line(lambda: load(exported, loras=[known]), "the file has changed", known.sha256)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ("{", ["not a JSON object"]),
        ("[1]", ["not a JSON object"]),
        ('{"unet.lora_alpha": "8"}', ["unusable alpha"]),
        ('{"unet.lora_alpha": true}', ["unusable alpha"]),
        ('{"unet.lora_alpha": NaN}', ["unusable alpha"]),
        (f'{{"unet.lora_alpha": {10**400}}}', ["unusable alpha"]),
    ],
)
def test_peft_settings_that_are_damaged(exported, tmp_path, metadata, words, one_line):
    layers = {DENSE: parts(DENSE, alpha=None)}
    write(tmp_path / "a.safetensors", layers, peft, {"lora_adapter_metadata": metadata})
    one_line(lambda: load(exported, loras=[tmp_path / "a.safetensors"]), *words)


def test_files_that_are_none(exported, tmp_path, one_line):
    (tmp_path / "pickle").write_bytes(b"\x80\x04" + bytes(100))
    save_file({}, tmp_path / "empty.safetensors")
    one_line(lambda: load(exported, loras=[tmp_path / "pickle"]), "pickle", "safetensors")
    one_line(lambda: load(exported, loras=[tmp_path / "empty.safetensors"]), "holds no layers")
    one_line(lambda: load(exported, loras=[""]), "path: expected a file, got ''")
    for path in (tmp_path / "nowhere", tmp_path):
        one_line(lambda path=path: load(exported, loras=[path]), "no LoRA file")
    one_line(lambda: load(exported, loras=["a\0b"]), "path: expected a path without a zero byte")


@pytest.mark.parametrize(
    ("loras", "words"),
    [
        ("a.safetensors", ["loras: expected a dict", "'a.safetensors'"]),
        (3, ["loras: expected a dict", "3"]),
        ([3], ["the entry 3"]),
        ([()], ["the entry ()"]),
        ([("a", 1.0, "", 4)], ["the entry ('a'"]),
        ({"a": "much"}, ["strength: expected a number, got 'much'"]),
        ({"a": True}, ["strength: expected a number, got True"]),
        ({"a": float("nan")}, ["strength: expected a finite number, got nan"]),
        ([("a", 1.0, 4)], ["sha256: expected a string, got 4"]),
    ],
)
def test_what_is_no_list_of_loras(exported, loras, words, one_line):
    one_line(lambda: load(exported, loras=loras), *words)


def test_the_model_is_not_read_for_a_file_that_does_not_fit(folder, tmp_path, one_line):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    save_file({"x": np.zeros(1, np.float32)}, tmp_path / "a.safetensors")
    one_line(lambda: load(folder, loras=[tmp_path / "a.safetensors"]), "no known spelling")
