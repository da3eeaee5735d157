"""What `torch.save` writes, without torch: a zip of a pickle and of the tensors' storages.

The pickle is written operation by operation, so that one can be written that torch never would.
"""

import pickle
import struct
import zipfile
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

KINDS = {
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.int64): "LongStorage",
    np.dtype(np.int32): "IntStorage",
}


class Global(NamedTuple):
    """A name, which the reader looks up."""

    module: str
    name: str


class Call(NamedTuple):
    """The result of calling what a name stands for."""

    function: Global
    arguments: tuple
    state: Any = None


class Stored(NamedTuple):
    """A storage, by torch's persistent identifier."""

    identifier: tuple


class Raw(NamedTuple):
    """Operations as they are."""

    code: bytes


def pickled(value: Any) -> bytes:
    """A pickle of protocol 2."""
    return b"\x80\x02" + _code(value) + b"."


def _code(value: Any) -> bytes:
    match value:
        case Raw(code):
            return code
        case Global(module, name):
            return f"c{module}\n{name}\n".encode()
        case Call(function, arguments, state):
            made = _code(function) + _code(arguments) + b"R"
            return made if state is None else made + _code(state) + b"b"
        case Stored(identifier):
            return _code(identifier) + b"Q"
        case dict():
            items = b"".join(_code(key) + _code(item) for key, item in value.items())
            return b"}(" + items + b"u"
        case tuple():
            return b"(" + b"".join(map(_code, value)) + b"t"
        case list():
            return b"](" + b"".join(map(_code, value)) + b"e"
        case str():
            text = value.encode()
            return b"X" + struct.pack("<I", len(text)) + text
        case _:  # numbers, booleans, None
            return pickle.dumps(value, 2)[2:-1]


ORDERED = Global("collections", "OrderedDict")
REBUILD = Global("torch._utils", "_rebuild_tensor_v2")


def tensor(kind: str, key: str, numel: Any, offset: Any, shape: Any, strides: Any) -> Call:
    """A tensor as torch pickles it."""
    storage = Stored(("storage", Global("torch", kind), key, "cpu", numel))
    return Call(REBUILD, (storage, offset, shape, strides, False, Call(ORDERED, ())))


def contiguous(array: np.ndarray, key: str) -> Call:
    strides = tuple(stride // array.itemsize for stride in np.ascontiguousarray(array).strides)
    strides = strides if array.ndim else ()
    return tensor(KINDS[array.dtype], key, array.size, 0, array.shape, strides)


def write_zip(path, text: bytes, storages: dict[str, bytes], extra=(), root="archive", method=0):
    """The archive, uncompressed as torch has it; `extra` are (name, content) to add."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(f"{root}/data.pkl", text)
        archive.writestr(f"{root}/byteorder", "little")
        for key, content in storages.items():
            archive.writestr(f"{root}/data/{key}", content)
        archive.writestr(f"{root}/version", "3\n")
        for name, content in extra:
            archive.writestr(name, content)
    return path


def save(path, arrays: dict[str, np.ndarray], **beside: Any):
    """A checkpoint as trainers write it: a `state_dict`, and whatever else."""
    keys = {name: str(number) for number, name in enumerate(arrays)}
    state = {name: contiguous(array, keys[name]) for name, array in arrays.items()}
    content = {"state_dict": state, "global_step": 470000, **beside}
    return write_zip(
        path, pickled(content), {keys[name]: array.tobytes() for name, array in arrays.items()}
    )
