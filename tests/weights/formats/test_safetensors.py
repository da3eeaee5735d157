"""Foreign weight files: what is right is read exactly; what is wrong is one clear line."""

import json
import os
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from pot_jax.errors import UserError
from pot_jax.weights.formats.safetensors import read_header, read_tensor


def raw(path, header, data=b""):
    """A file with this header (a dict, or bytes as they are) and this data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(dtype, shape, start, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_tensors_come_back_exactly(tmp_path):
    rng = np.random.default_rng(0)
    values = {
        "a.weight": rng.normal(size=(3, 4, 5)).astype(np.float32),
        "b": rng.normal(size=(7,)).astype(np.float16),
        "c": np.array(rng.normal()),
        "empty": np.zeros((0, 3), np.float32),
    }
    save_file(values, tmp_path / "x.safetensors", {"format": "pt"})
    tensors = read_header(tmp_path / "x.safetensors")
    assert tensors.keys() == values.keys()
    for name, value in values.items():
        assert tensors[name].shape == value.shape
        came = read_tensor(tensors[name])
        assert came.dtype == value.dtype
        np.testing.assert_array_equal(came, value)


def test_bfloat16(tmp_path):
    values = np.arange(6, dtype=np.float32).reshape(2, 3).astype(ml_dtypes.bfloat16)
    path = raw(tmp_path / "x.safetensors", {"a": entry("BF16", [2, 3], 0, 12)}, values.tobytes())
    came = read_tensor(read_header(path)["a"])
    assert came.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(came, values)


def test_a_header_that_looks_like_a_pickle_is_read(tmp_path):
    # A header of 128 bytes: the file's first byte is 0x80, a pickle's own.
    text = json.dumps({"a": entry("F32", [2], 0, 8)}).encode().ljust(128)
    path = raw(tmp_path / "x.safetensors", text, bytes(8))
    assert path.read_bytes()[:1] == b"\x80"
    assert read_header(path)["a"].shape == (2,)


FLOAT = entry("F32", [2], 0, 8)
BAD_FILES = {
    "empty file": (b"", ["empty"]),
    "a few bytes": (b"\x10\x00\x00", ["cut off", "3 bytes"]),
    "git-lfs pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 123\n",
        ["git-lfs pointer", "git lfs pull"],
    ),
    "HTML error page": (b"<!DOCTYPE html><html><body>404</body></html>", ["web page"]),
    "HTML after white space": (b"\n\n  <html><body>404</body></html>", ["web page"]),
    "XML error page": (b'<?xml version="1.0"?><Error>AccessDenied</Error>', ["web page"]),
    "torch zip": (b"PK\x03\x04" + bytes(100), ["pickle", "safetensors"]),
    "pickle": (b"\x80\x02}q\x00." + bytes(100), ["pickle", "safetensors"]),
    "JSON error": (b'{"error": "Repository not found"}', ["JSON", "again"]),
    "noise": (bytes(range(200, 256)) * 3, ["not a safetensors file"]),
    "header longer than the file": (struct.pack("<Q", 500) + b'{"a":', ["truncated", "500"]),
    "absurd header length": (struct.pack("<Q", 2**60) + b"{}" + bytes(50), ["not a safetensors"]),
}
BAD_HEADERS = {
    "truncated data": ({"a": FLOAT}, 7, ["truncated"]),
    "extra data": ({"a": FLOAT}, 9, ["too long"]),
    "not JSON": (b'{"a": nonsense}', 8, ["damaged header"]),
    "not UTF-8": (b'{"\xff\xfe": 1}', 8, ["damaged header"]),
    "nested too deeply": (b'{"a":' + b"[" * 200_000, 0, ["damaged header"]),
    "a list in an object's place": (b'{"a":[1,2]}', 8, ["tensor a lacks"]),
    "entry without shape": ({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, 8, ["tensor a lacks"]),
    "dtype no string": ({"a": {**FLOAT, "dtype": 3}}, 8, ["tensor a", "dtype 3"]),
    "unknown dtype": ({"a": entry("F99", [2], 0, 8)}, 8, ["damaged header"]),
    "negative shape": ({"a": entry("F32", [-2], 0, 8)}, 8, ["tensor a", "shape [-2]"]),
    "boolean shape": ({"a": entry("F32", [True], 0, 4)}, 4, ["tensor a", "shape [True]"]),
    "fractional shape": ({"a": entry("F32", [2.0], 0, 8)}, 8, ["tensor a", "shape [2.0]"]),
    "absurd shape": ({"a": entry("F32", [2**62, 2**62], 0, 8)}, 8, ["tensor a has 8 bytes"]),
    "shape past 64 bits": ({"a": entry("F32", [2**80], 0, 8)}, 8, ["tensor a", "shape"]),
    "shape and bytes disagree": ({"a": entry("F32", [3], 0, 8)}, 8, ["8 bytes", "takes 12"]),
    "negative offset": ({"a": entry("F32", [2], -8, 0)}, 8, ["tensor a", "data_offsets"]),
    "offsets reversed": ({"a": entry("F32", [2], 8, 0)}, 8, ["tensor a", "data_offsets"]),
    "three offsets": ({"a": {**FLOAT, "data_offsets": [0, 8, 8]}}, 8, ["data_offsets"]),
    "offset past the end": ({"a": entry("F32", [2], 2**40, 2**40 + 8)}, 8, ["leaves a gap"]),
    "overlap": ({"a": FLOAT, "b": entry("F32", [2], 4, 12)}, 12, ["tensor b overlaps"]),
    "gap": ({"a": FLOAT, "b": entry("F32", [1], 12, 16)}, 16, ["tensor b leaves a gap"]),
    "a name given twice": (
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        4,
        ["'a' is given twice"],
    ),
    "NaN in the header": (b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', 4, ["NaN"]),
    "newline in a name": ({"a\nb": entry("F32", [3], 0, 8)}, 8, ["'a\\nb'", "takes 12"]),
    "a name of a megabyte": ({"a" * 10**6: entry("F32", [3], 0, 8)}, 8, ["aaa..."]),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_files_that_are_something_else(tmp_path, case, one_line):
    content, words = BAD_FILES[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    one_line(lambda: read_header(path), "model.safetensors", *words)


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_damaged_headers(tmp_path, case, one_line):
    text, nbytes, words = BAD_HEADERS[case]
    path = raw(tmp_path / "model.safetensors", text, bytes(nbytes))
    one_line(lambda: read_header(path), "model.safetensors", *words)


def test_every_truncation_and_every_flipped_header_bit_is_noticed(tmp_path, one_line):
    path = tmp_path / "x.safetensors"
    values = {"a": np.ones((2, 2), np.float32), "b": np.zeros((1,), np.float32)}
    save_file(values, path)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        one_line(lambda: read_header(path))
    expected = {name: value.shape for name, value in values.items()}
    length = 8 + int.from_bytes(whole[:8], "little")
    for position in range(length):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[position] ^= 1 << bit
            path.write_bytes(flipped)
            try:
                came = read_header(path)
            except UserError:
                continue
            # What passes is another well-formed header: a name or dtype changed, or white space
            # became white space. The key table notices names; sizes never disagree with the data.
            for tensor in came.values():
                assert tensor.start + tensor.nbytes <= len(whole)
                if tensor.name in expected and tensor.dtype == "F32":
                    assert np.prod(tensor.shape) * 4 == tensor.nbytes


@pytest.mark.parametrize("kind", ["missing", "folder", "dangling link", "pipe"])
def test_paths_that_are_no_files(tmp_path, kind, one_line):
    path = tmp_path / "model.safetensors"
    if kind == "folder":
        path.mkdir()
    elif kind == "dangling link":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "pipe":
        os.mkfifo(path)
    one_line(lambda: read_header(path), "model.safetensors", "incomplete")


def test_a_file_that_shrinks_while_it_is_read(tmp_path, one_line):
    save_file({"a": np.ones(1000, np.float32)}, tmp_path / "x.safetensors")
    tensor = read_header(tmp_path / "x.safetensors")["a"]
    with (tmp_path / "x.safetensors").open("r+b") as file:
        file.truncate(200)
    one_line(lambda: read_tensor(tensor), "tensor a", "became shorter")


def test_integer_weights_are_refused(tmp_path, one_line):
    save_file({"a": np.ones(3, np.int64)}, tmp_path / "x.safetensors")
    tensor = read_header(tmp_path / "x.safetensors")["a"]
    one_line(lambda: read_tensor(tensor), "tensor a", "I64", "F32")
