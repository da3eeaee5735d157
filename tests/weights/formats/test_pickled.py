"""Pickled checkpoints: their tensors are found exactly, and nothing in them is ever run."""

import os
import pickle
import struct
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
from torch_files import (
    ORDERED,
    REBUILD,
    Call,
    Global,
    Raw,
    Stored,
    contiguous,
    pickled,
    save,
    tensor,
    write_zip,
)

from pot_jax.errors import UserError
from pot_jax.weights.formats.pickled import read_pickled
from pot_jax.weights.formats.safetensors import read_tensor

SIX = np.arange(6, dtype=np.float32)
CHECKPOINT = Global("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")


def archive(tmp_path, content, storages=None, **options):
    """A file with this pickled content; by default one storage of six float32."""
    storages = {"0": SIX.tobytes()} if storages is None else storages
    text = content if isinstance(content, bytes) else pickled(content)
    return write_zip(tmp_path / "x.ckpt", text, storages, **options)


def six(offset=0, shape=(6,), strides=(1,), kind="FloatStorage", key="0", numel=6):
    return tensor(kind, key, numel, offset, shape, strides)


def test_tensors_come_back_exactly(tmp_path):
    rng = np.random.default_rng(0)
    values = {
        "a.weight": rng.normal(size=(3, 4, 5)).astype(np.float32),
        "half": rng.normal(size=(7, 1)).astype(np.float16),
        "brain": rng.normal(size=(2, 3)).astype(ml_dtypes.bfloat16),
        "double": np.array(rng.normal()),
        "empty": np.zeros((0, 3), np.float32),
    }
    path = save(tmp_path / "x.ckpt", values)
    found = read_pickled(path)
    assert found.keys() == values.keys()
    for name, value in values.items():
        came = read_tensor(found[name])
        assert (came.dtype, came.shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(came, value)


def test_integers_are_found_and_say_so(tmp_path):
    found = read_pickled(save(tmp_path / "x.ckpt", {"ids": np.arange(7)[None]}))
    assert (found["ids"].dtype, found["ids"].shape) == ("I64", (1, 7))


def test_a_state_dict_without_its_trainer(tmp_path):
    state = Call(ORDERED, (), {"_metadata": {}})  # as torch.save(model.state_dict()) begins
    code = pickled(state)[2:-1] + b"(" + pickled("a")[2:-1] + pickled(six())[2:-1] + b"u"
    found = read_pickled(archive(tmp_path, Raw(code)))
    np.testing.assert_array_equal(read_tensor(found["a"]), SIX)


def test_what_trainers_leave_beside_the_weights_is_passed_over(tmp_path):
    score = Call(
        Global("numpy.core.multiarray", "scalar"),
        (Call(Global("numpy", "dtype"), ("f4", False, True), (3, "<", None)), "abcd"),
    )
    content = {
        "epoch": 3,
        "callbacks": {CHECKPOINT: {"best_model_score": score, "dirpath": "/"}},
        "optimizer_states": [{"state": {0: {"exp_avg": six()}}}],
        "state_dict": {"a": six(), "step": 3, "names": Call(Global("builtins", "set"), (["a"],))},
    }
    assert read_pickled(archive(tmp_path, content)).keys() == {"a"}


def test_parameters_are_tensors(tmp_path):
    parameter = Call(Global("torch._utils", "_rebuild_parameter"), (six(), True, Call(ORDERED, ())))
    found = read_pickled(archive(tmp_path, {"a": parameter}))
    np.testing.assert_array_equal(read_tensor(found["a"]), SIX)


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "expected"),
    [
        (2, (2, 2), (2, 1), SIX[2:].reshape(2, 2)),
        (0, (3, 2), (1, 3), SIX.reshape(2, 3).T),
        (0, (1, 6), (99, 1), SIX[None]),
        (0, (6, 1), (1, 0), SIX[:, None]),
        (5, (), (), SIX[5]),
        # [1, 3, 1, 2] with its channels last
        (0, (1, 3, 1, 2), (6, 1, 6, 3), SIX.reshape(1, 1, 2, 3).transpose(0, 3, 1, 2)),
    ],
)
def test_views_of_a_storage(tmp_path, offset, shape, strides, expected):
    found = read_pickled(archive(tmp_path, {"a": six(offset, shape, strides)}))
    came = read_tensor(found["a"])
    assert came.shape == shape
    np.testing.assert_array_equal(came, expected)


def test_every_order_of_axes(tmp_path):
    rng = np.random.default_rng(0)
    for _ in range(20):
        axes = rng.permutation(4)
        value = rng.normal(size=rng.integers(1, 4, 4)).astype(np.float32).transpose(axes)
        strides = tuple(stride // 4 for stride in value.strides)
        kept = value.transpose(np.argsort(axes)).tobytes()
        view = six(shape=tuple(map(int, value.shape)), strides=strides, numel=value.size)
        found = read_pickled(archive(tmp_path, {"a": view}, {"0": kept}))
        np.testing.assert_array_equal(read_tensor(found["a"]), value)


# Tensors that cannot be ---------------------------------------------------------------------------

# A tuple of two of a tuple of two of ...: small in the file and in memory, endless written out.
NESTED = Raw(b")" + b"2\x86" * 60)
BAD_TENSORS = {
    "endlessly nested": (six(0, NESTED), ["shape ((("]),
    "beyond its storage": (six(0, (7,)), ["(7,)", "element 0 of a storage of 6"]),
    "begins beyond": (six(6, (1,)), ["element 6 of a storage of 6"]),
    "absurd shape": (six(0, (2**40, 2**40), (2**40, 1)), ["storage of 6"]),
    "overlapping": (six(0, (6, 6), (1, 1)), ["strides (1, 1)", "overlap"]),
    "repeated": (six(0, (1000, 6), (0, 1)), ["strides (0, 1)", "overlap"]),
    "with gaps": (six(0, (3,), (2,)), ["strides (2,)", "gaps"]),
    "absurd strides": (six(0, (2, 3), (2**62, 1)), ["gaps"]),
    "negative offset": (six(-1, (2,)), ["offset -1"]),
    "negative length": (six(0, (-6,)), ["shape (-6,)"]),
    "negative stride": (six(5, (6,), (-1,)), ["strides (-1,)"]),
    "more axes than strides": (six(0, (2, 3), (1,)), ["strides (1,)"]),
    "beyond 64 bits": (six(0, (2**70,)), [str(2**70)]),
    "a list for a shape": (six(0, [6]), ["shape [6]"]),
    "a text for a length": (six(0, ("6",)), ["shape ('6',)"]),
    "a truth for a length": (six(0, (True,)), ["shape (True,)"]),
    "no storage": (Call(REBUILD, ("0", 0, (6,), (1,), False, None)), ["shape (6,)"]),
    "a storage that is not there": (six(key="1"), ["storage 1", "lacks"]),
    "a path for a storage": (six(key="../data.pkl"), ["../data.pkl", "lacks"]),
    "a storage of another size": (six(numel=7), ["7 F32", "24 bytes"]),
    "an absurd storage": (six(numel=2**62), [str(2**62)]),
    "of another kind": (six(kind="DoubleStorage"), ["6 F64", "24 bytes"]),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_tensors_that_cannot_be(tmp_path, case, one_line):
    view, words = BAD_TENSORS[case]
    path = archive(tmp_path, {"good": six(), "bad.weight": view})
    one_line(
        lambda: read_pickled(path), str(path), "1 tensors that cannot be", "bad.weight", *words
    )


def test_all_bad_tensors_are_in_one_message(tmp_path, one_line):
    path = archive(tmp_path, {f"bad{i}": six(0, (7 + i,)) for i in range(5)})
    one_line(lambda: read_pickled(path), "5 tensors", "bad0", "bad2", "; ...")


# Programs -----------------------------------------------------------------------------------------


class Bomb:
    def __init__(self, call, *arguments):
        self.call = call, arguments

    def __reduce__(self):
        return self.call


PROGRAMS = {
    "os.system": Call(Global("os", "system"), ("touch boom",)),
    "posix.system": Call(Global("posix", "system"), ("touch boom",)),
    "builtins.eval": Call(Global("builtins", "eval"), ("open('boom', 'w')",)),
    "__builtin__.exec": Call(Global("__builtin__", "exec"), ("open('boom', 'w')",)),
    "builtins.getattr": Call(Global("builtins", "getattr"), (ORDERED, "__init__")),
    "numpy.load": Call(Global("numpy", "load"), ("boom",)),
    "torch.load": Call(Global("torch", "load"), ("boom",)),
    "torch.storage._load_from_bytes": Call(Global("torch.storage", "_load_from_bytes"), ("",)),
    "torch._utils._rebuild_tensor_v2.x": Global("torch._utils", "_rebuild_tensor_v2.x"),
    "collections.OrderedDict.fromkeys": Global("collections", "OrderedDict.fromkeys"),
    "pytorch_lightning.trainer.Trainer": Call(Global("pytorch_lightning.trainer", "Trainer"), ()),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_nothing_is_run(tmp_path, monkeypatch, name, one_line):
    monkeypatch.chdir(tmp_path)
    path = archive(tmp_path, {"state_dict": {"a": six()}, "hidden": PROGRAMS[name]})
    one_line(lambda: read_pickled(path), str(path), name, "nothing was run", "safetensors")
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pythons_own_pickles_run_nothing_either(tmp_path, protocol, one_line):
    text = pickle.dumps({"a": Bomb(os.mkdir, str(tmp_path / "boom"))}, protocol)
    one_line(lambda: read_pickled(archive(tmp_path, text)), "posix.mkdir", "nothing was run")
    assert not (tmp_path / "boom").exists()


def outcome(path):
    """The names of the tensors, all of which lie in the file; or "damaged", said in one line."""
    try:
        found = read_pickled(path)
    except UserError as error:
        return "" if "\n" in str(error) else "damaged"
    size = path.stat().st_size
    return {name for name, tensor in found.items() if tensor.start + tensor.nbytes <= size}


def test_nothing_of_the_process_is_changed(tmp_path):
    # BUILD sets attributes of whatever it is given: here of the names that are known.
    for known in (ORDERED, REBUILD, CHECKPOINT, Global("torch", "FloatStorage")):
        for state in ({"evil": 1}, (None, {"evil": 1})):
            code = pickled(known)[2:-1] + pickled(state)[2:-1] + b"b"
            path = archive(tmp_path, {"a": six(), "b": Raw(code)})
            assert outcome(path) in ("damaged", {"a"})
    assert not hasattr(OrderedDict, "evil")
    assert read_pickled(archive(tmp_path, {"a": six()})).keys() == {"a"}


BAD_PICKLES = {
    "empty": (b"", ["damaged data.pkl"]),
    "cut off": (pickled({"a": six()})[:-10], ["damaged data.pkl"]),
    "noise": (bytes(range(256)), ["damaged data.pkl"]),
    "a call of what is none": (pickled(Call(Global("torch", "FloatStorage"), ())), ["damaged"]),
    "a call with too little": (pickled(Call(REBUILD, ())), ["damaged data.pkl"]),
    "another identifier": (pickled(Stored(("module", "a"))), ["no storage is called"]),
    "an identifier endlessly nested": (pickled(Stored(NESTED)), ["no storage is called"]),
    "a number of a million digits": (
        pickled({"a": six(10**1_000_000)}),
        ["tensors that cannot be"],
    ),
    "a storage of no kind": (
        pickled(Stored(("storage", "evil", "0", "cpu", 6))),
        ["no storage is called"],
    ),
    "an object numbered absurdly": (
        b"\x80\x02}r" + struct.pack("<I", 2**31 - 1) + b".",
        ["object number 2147483647"],
    ),
    "a text of absurd length": (
        b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"ab.",
        ["damaged data.pkl"],
    ),
    "a list": (pickled([six()]), ["holds one list", "by name"]),
    "one tensor": (pickled(six()), ["holds one", "by name"]),
    "nothing": (pickled({}), ["holds no tensors"]),
    "no tensors": (pickled({"state_dict": {"a": 1}}), ["holds no tensors"]),
    "names that are none": (pickled({"state_dict": {1: six()}}), ["holds no tensors"]),
}


@pytest.mark.parametrize("case", BAD_PICKLES)
def test_pickles_that_are_no_checkpoint(tmp_path, case, one_line):
    text, words = BAD_PICKLES[case]
    path = archive(tmp_path, text)
    one_line(lambda: read_pickled(path), str(path), *words)


# Files that are none ------------------------------------------------------------------------------

BAD_FILES = {
    "torch before 1.6": (pickle.dumps(0x1950A86A20F9469CFC6C, 2) + bytes(50), ["before version"]),
    "empty": (b"", ["not a torch checkpoint"]),
    "git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\n", ["git lfs pull"]),
    "web page": (b"<!DOCTYPE html><html><body>404</body></html>", ["web page"]),
    "noise": (bytes(range(100, 200)), ["not a torch checkpoint"]),
    "the beginning of a zip": (b"PK\x03\x04" + bytes(100), ["truncated or damaged"]),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_files_that_are_no_checkpoint(tmp_path, case, one_line):
    content, words = BAD_FILES[case]
    (tmp_path / "x.ckpt").write_bytes(content)
    one_line(lambda: read_pickled(tmp_path / "x.ckpt"), "x.ckpt", *words)


def test_a_file_that_is_not_there(tmp_path, one_line):
    one_line(lambda: read_pickled(tmp_path / "no.ckpt"), "no.ckpt", "does not exist")
    one_line(lambda: read_pickled(tmp_path), "not a regular file")


@pytest.mark.parametrize("cut", [1, 22, 100, 400])
def test_a_truncated_file(tmp_path, cut, one_line):
    path = save(tmp_path / "x.ckpt", {"a": SIX})
    path.write_bytes(path.read_bytes()[:-cut])
    one_line(lambda: read_pickled(path), "truncated or damaged")


def test_every_damaged_byte_is_one_line_or_harmless(tmp_path):
    whole = save(tmp_path / "x.ckpt", {"a": SIX}).read_bytes()
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        (tmp_path / "x.ckpt").write_bytes(damaged)
        assert outcome(tmp_path / "x.ckpt")


def test_archives_that_torch_never_writes(tmp_path, one_line):
    good = {"a": six()}
    compressed = archive(tmp_path, good, method=zipfile.ZIP_DEFLATED)
    one_line(lambda: read_pickled(compressed), "compressed")
    bomb = archive(tmp_path, bytes(10**7), method=zipfile.ZIP_DEFLATED)
    one_line(lambda: read_pickled(bomb), "compressed")
    two = archive(tmp_path, good, extra=[("other/data.pkl", b"")])
    one_line(lambda: read_pickled(two), "not one of torch's")
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = archive(tmp_path, good, extra=[("archive/data/0", b"")])
    one_line(lambda: read_pickled(twice), "not one of torch's")
    script = archive(tmp_path, good, extra=[("archive/constants.pkl", b"")])
    one_line(lambda: read_pickled(script), "TorchScript")
    with zipfile.ZipFile(tmp_path / "x.ckpt", "w") as other:
        other.writestr("readme.txt", "hello")
    one_line(lambda: read_pickled(tmp_path / "x.ckpt"), "not one of torch's")


def test_a_big_endian_machine(tmp_path, one_line):
    path = archive(tmp_path, {"a": six()})
    path.write_bytes(path.read_bytes().replace(b"little", b"litt1e"))
    one_line(lambda: read_pickled(path), "damaged")  # the checksum
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled({"a": six()}))
        file.writestr("archive/byteorder", "big")
    one_line(lambda: read_pickled(path), "big-endian")


def test_storages_that_lie_on_each_other(tmp_path, one_line):
    path = archive(tmp_path, {"a": six()}, {"0": SIX.tobytes(), "1": SIX.tobytes()})
    content = bytearray(path.read_bytes())
    # The directory's entry of the second storage is led to the first one's place.
    first = content.rfind(b"archive/data/0") - 46
    second = content.rfind(b"archive/data/1") - 46
    content[second + 42 : second + 46] = content[first + 42 : first + 46]
    path.write_bytes(content)
    one_line(lambda: read_pickled(path), "overlaps")


def test_a_file_may_be_read_twice(tmp_path):
    path = archive(tmp_path, {"a": contiguous(SIX, "0")})
    assert read_pickled(path) == read_pickled(path)
