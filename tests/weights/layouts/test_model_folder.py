"""Which of a component's files are its weights: variants, shards, and folders without any."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from pot_jax.weights.formats.safetensors import read_tensor
from pot_jax.weights.layouts.folder import component_tensors


def component(folder, names, stem="model"):
    for name in names:
        save_file({"a": np.zeros(2, np.float32)}, folder / f"{stem}{name}")


def sharded(folder, places, stem="model", variant=""):
    """Shards and their index; `places` maps a tensor's name to its shard's number."""
    count = len(set(places.values()))
    files = {n: f"{stem}{variant}-{n:05}-of-{count:05}.safetensors" for n in set(places.values())}
    for number, file in files.items():
        held = {name: np.full(2, number, np.float32) for name in places if places[name] == number}
        save_file(held, folder / file)
    index = {"metadata": {}, "weight_map": {name: files[n] for name, n in places.items()}}
    name = f"{stem}.safetensors.index{variant}.json"
    (folder / name).write_text(json.dumps(index))
    return folder / name, index


def test_the_copy_without_a_variant_is_preferred(tmp_path):
    component(tmp_path, [".safetensors", ".fp16.safetensors", ".non_ema.safetensors"])
    assert component_tensors(tmp_path, "model")["a"].file.name == "model.safetensors"
    assert component_tensors(tmp_path, "model", "fp16")["a"].file.name == "model.fp16.safetensors"


def test_the_only_variant_is_read(tmp_path):
    component(tmp_path, [".fp16.safetensors"])
    assert component_tensors(tmp_path, "model")["a"].file.name == "model.fp16.safetensors"


def test_several_variants_need_a_choice(tmp_path, one_line):
    component(tmp_path, [".fp16.safetensors", ".bf16.safetensors"])
    one_line(lambda: component_tensors(tmp_path, "model"), "variant none", "['bf16', 'fp16']")
    one_line(lambda: component_tensors(tmp_path, "model", "fp8"), "variant fp8", "fp16")


def test_the_whole_and_other_files_in_the_folder(tmp_path):
    component(tmp_path, [".safetensors", "_other.safetensors"])
    assert list(component_tensors(tmp_path, "model")) == ["a"]


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_shards(tmp_path, variant):
    sharded(tmp_path, {"a": 1, "b": 2, "c": 1}, variant=variant)
    tensors = component_tensors(tmp_path, "model")
    assert {name: read_tensor(t)[0] for name, t in tensors.items()} == {"a": 1, "b": 2, "c": 1}


def test_only_pickles(tmp_path, one_line):
    (tmp_path / "model.bin").write_bytes(b"\x80")
    one_line(lambda: component_tensors(tmp_path, "model"), "model.bin", "model.safetensors")


def test_no_weights_and_no_folder(tmp_path, one_line):
    one_line(lambda: component_tensors(tmp_path, "model"), "no weights", "model.safetensors")


@pytest.mark.parametrize(
    "place",
    [
        "../secret.safetensors",
        "/etc/passwd.safetensors",
        "a/b.safetensors",
        "a\\b.safetensors",
        "..",
        "",
        "a\n.safetensors",
        "model.bin",
        "\0.safetensors",
    ],
)
def test_shard_names_that_lead_elsewhere(tmp_path, place, one_line):
    (tmp_path / "a").mkdir()
    component(tmp_path, ["b.safetensors"], "a/")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": place}}))
    one_line(
        lambda: component_tensors(tmp_path, "model"), "index.json", "plain .safetensors file name"
    )


def test_absent_shards(tmp_path, one_line):
    sharded(tmp_path, {"a": 1, "b": 2, "c": 3})
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    message = one_line(
        lambda: component_tensors(tmp_path, "model"), "1 of 3 shards", "00002-of-00003"
    )
    assert "00001-of" not in message


def test_an_index_and_shards_that_disagree(tmp_path, one_line):
    path, index = sharded(tmp_path, {"a": 1, "b": 2})
    index["weight_map"]["zzz"] = index["weight_map"]["a"]
    path.write_text(json.dumps(index))
    one_line(lambda: component_tensors(tmp_path, "model"), "1 tensors that its shards lack", "zzz")
    del index["weight_map"]["zzz"], index["weight_map"]["b"]
    index["weight_map"]["a2"] = index["weight_map"].pop("a")
    path.write_text(json.dumps(index))
    one_line(lambda: component_tensors(tmp_path, "model"), "a2")


@pytest.mark.parametrize("places", [None, [], {"a": 1}, {"a": None}])
def test_an_index_without_a_map(tmp_path, places, one_line):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    one_line(lambda: component_tensors(tmp_path, "model"), "index.json", "weight_map")


def test_an_index_that_leaves_tensors_out(tmp_path, one_line):
    path, index = sharded(tmp_path, {"a": 1, "b": 1})
    del index["weight_map"]["b"]
    path.write_text(json.dumps(index))
    one_line(lambda: component_tensors(tmp_path, "model"), "1 tensors that it leaves out (b)")
