"""A kept copy is the model itself, or one line that says that it no longer is."""

import gc
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from safetensors.numpy import load_file, save_file

from pot_jax.parallel.mesh import AXIS, device_mesh, replicated
from pot_jax.weights import export as store
from pot_jax.weights import parameters
from pot_jax.weights.digests import array_digest, array_digests, combined_digest
from pot_jax.weights.export import convert
from pot_jax.weights.formats import kept
from pot_jax.weights.load import load
from pot_jax.weights.parameters import restored_params

# Orbax abandons its read tasks when an array's file is damaged; their exceptions surface, without a
# name, whenever Python next collects them: here, while this module's filter stands.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def abandoned_tasks_collected():
    yield
    gc.collect()


@pytest.fixture(scope="session")
def converted(exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted") / "kept"
    convert(exported, folder)
    return folder


@pytest.fixture
def copy(converted, tmp_path):
    """A copy of the kept model, to be damaged."""
    return shutil.copytree(converted, tmp_path / "kept")


def test_a_kept_model_is_the_model(converted, model):
    again = load(converted)
    assert again.digest == model.digest
    for path, value in flatten_dict(model.params).items():
        np.testing.assert_array_equal(flatten_dict(again.params)[path], value)
    assert (again.unet, again.text_encoder) == (model.unet, model.text_encoder)
    assert again.schedule == model.schedule
    assert again.tokenizer.get_vocab() == model.tokenizer.get_vocab()


def test_the_marker(converted, model):
    assert json.loads((converted / "pot_jax.json").read_text()) == {
        "what": "a model kept by pot_jax, as `pot-jax convert` makes them",
        "version": 1,
        "dtype": "float32",
        "sha256": array_digests(model.params),
    }


def test_a_kept_model_in_bfloat16(exported, converted, tmp_path):
    convert(exported, tmp_path / "half", dtype="bfloat16")
    half = load(tmp_path / "half", dtype="bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(half.params)} == {"bfloat16"}
    assert half.digest == load(exported, dtype="bfloat16").digest
    # A kept copy is cast to what is asked for, as a diffusers folder is.
    assert load(converted, dtype="bfloat16").digest == half.digest
    assert {leaf.dtype.name for leaf in jax.tree.leaves(load(tmp_path / "half").params)} == {
        "float32"
    }


def test_kept_from_kept(converted, model, tmp_path):
    convert(converted, tmp_path / "again")
    assert load(tmp_path / "again").digest == model.digest


def test_nothing_but_the_kept_copy_is_left(exported, tmp_path):
    convert(exported, tmp_path / "new" / "kept")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["kept"]


def test_a_bit_flipped_in_the_data_is_noticed(copy, one_line):
    # Uncompressed arrays lie in the largest files; a bit in the middle of them is array data.
    file = max((copy / "arrays").rglob("*"), key=lambda path: path.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    one_line(lambda: load(copy), str(copy), "damaged", "pot-jax convert")


@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_a_truncated_array_file(copy, fraction, one_line):
    file = max((copy / "arrays").rglob("*"), key=lambda path: path.stat().st_size)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * fraction)])
    one_line(lambda: load(copy), "damaged", "pot-jax convert")


def test_arrays_that_are_gone(copy, one_line):
    shutil.rmtree(copy / "arrays")
    one_line(lambda: load(copy), "incomplete or damaged", "pot-jax convert")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 99}, ["layout 99"]),
        ({"sha256": None}, ["layout"]),
        ({"sha256": {}}, ["other models"]),
    ],
)
def test_a_marker_that_does_not_fit(copy, change, words, one_line):
    marker = copy / "pot_jax.json"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), **change}))
    one_line(lambda: load(copy), *words, "pot-jax convert")


def test_a_kept_copy_of_other_models(copy, one_line):
    path = copy / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "layers_per_block": 2}))
    one_line(lambda: load(copy), "other models", "unet/down_blocks_0")


def test_a_kept_copy_has_no_variants(copy, one_line):
    one_line(lambda: load(copy, variant="fp16"), "no variants")


def test_what_is_there_is_not_overwritten(exported, tmp_path, one_line):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "mine.txt").write_text("mine")
    one_line(lambda: convert(exported, tmp_path / "kept"), "exists already")
    one_line(lambda: convert(exported, tmp_path / "kept" / "mine.txt"), "exists already")
    assert (tmp_path / "kept" / "mine.txt").read_text() == "mine"


def test_a_source_that_cannot_be_loaded_leaves_nothing(folder, tmp_path, one_line):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    one_line(lambda: convert(folder, tmp_path / "new" / "kept"), "no weights")
    assert not (tmp_path / "new").exists()


def test_a_full_disk_leaves_nothing(exported, tmp_path, monkeypatch, one_line):
    def full(params, folder):
        (folder / "half.bin").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "keep_arrays", full)
    one_line(lambda: convert(exported, tmp_path / "kept"), "kept", "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_target_below_a_file(exported, tmp_path, one_line):
    (tmp_path / "file").write_text("")
    one_line(lambda: convert(exported, tmp_path / "file" / "kept"), "a file stands where a folder")


# Onto devices -------------------------------------------------------------------------------------


@pytest.fixture(params=["exported", "converted"])
def source(request):
    return request.getfixturevalue(request.param)


def test_parameters_are_put_on_every_device_of_a_mesh(source, model):
    everywhere = replicated(device_mesh())
    loaded = load(source, sharding=everywhere)
    assert loaded.digest == model.digest
    for came, value in zip(jax.tree.leaves(loaded.params), jax.tree.leaves(model.params)):
        assert came.sharding == everywhere
        assert len(came.addressable_shards) == 8
        for shard in came.addressable_shards:
            np.testing.assert_array_equal(shard.data, value)


def test_parameters_are_split_over_a_mesh(source, model):
    mesh = device_mesh()
    asked = {}

    def outputs_split(path, shape):
        split = shape[-1] % 8 == 0
        asked[path] = NamedSharding(mesh, P(*[None] * (len(shape) - 1), AXIS) if split else P())
        return asked[path]

    loaded = load(source, dtype="bfloat16", sharding=outputs_split)
    assert loaded.digest == load(source, dtype="bfloat16").digest
    leaves = flatten_dict(loaded.params, sep="/")
    assert leaves.keys() == asked.keys()
    whole = sum(leaf.nbytes for leaf in leaves.values())
    held = sum(leaf.addressable_shards[3].data.nbytes for leaf in leaves.values())
    assert held < whole / 6  # an eighth, and the few that do not divide
    for path, value in flatten_dict(model.params, sep="/").items():
        assert leaves[path].sharding == asked[path]
        np.testing.assert_array_equal(leaves[path], np.asarray(value).astype("bfloat16"))


def test_two_arrays_at_most_are_on_their_way(converted, model, monkeypatch):
    read, waiting = [], []
    reader = kept.reader

    def counting(folder):
        inner = reader(folder)
        return lambda path: (read.append(path), inner(path))[1]

    def put(sharding, path, values):
        taken.append(path)
        waiting.append(len(read) - len(taken))
        return values

    taken = []
    monkeypatch.setattr(kept, "reader", counting)
    monkeypatch.setattr(parameters, "put_on", put)
    _, digests = restored_params(converted, model.params, None)
    assert combined_digest(digests) == model.digest
    assert max(waiting) <= 2


def test_a_kept_copy_with_values_beyond_float16(folder, tmp_path, one_line):
    weights = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    weights["conv_in.bias"][2] = 1e6
    save_file(weights, folder / "unet" / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    convert(folder, tmp_path / "kept")
    words = "unet/conv_in/bias", "kept", "beyond float16", "wider dtype"
    one_line(lambda: load(tmp_path / "kept", dtype="float16"), *words)


# Digests -----------------------------------------------------------------------------------------


def test_a_digest_is_of_dtype_shape_and_values():
    values = np.arange(6, dtype=np.float32)
    others = [values.reshape(2, 3), values.astype(np.float16), values[::-1], values.view(np.int32)]
    digests = {array_digest(value) for value in [values, *others]}
    assert len(digests) == 5
    assert array_digest(jnp.asarray(values)) == array_digest(values)
    assert array_digest(np.asfortranarray(others[0])) == array_digest(others[0])


def test_the_combined_digest_knows_paths_and_not_their_order():
    digests = array_digests({"a": {"b": np.zeros(2)}, "c": np.ones(2)})
    assert list(digests) == ["a/b", "c"]
    assert combined_digest(digests) == combined_digest(dict(reversed(digests.items())))
    swapped = {"a/b": digests["c"], "c": digests["a/b"]}
    assert combined_digest(digests) != combined_digest(swapped)
