"""Pickled torch checkpoints (`.ckpt`, `.pt`), read without torch and without running anything.

Since version 1.6, `torch.save` writes a zip without compression:

    archive/data.pkl        a pickle of everything but numbers; a tensor in it is
                            (storage, offset, shape, strides)
    archive/data/0, 1, ...  the storages: plain little-endian arrays

A pickle is a program that may call whatever it names. This reader knows only the few names in the
table below, which build plain records, and stops at any other.
"""

import io
import math
import pickle
import pickletools
import reprlib
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pot_jax.errors import UserError, few, one_line, shown
from pot_jax.weights.formats.kinds import ZIP, not_torch, regular_file
from pot_jax.weights.formats.safetensors import ITEM_BYTES, Tensor

_MAX_PICKLE = 64_000_000  # bytes of data.pkl; Stable Diffusion's with its optimizer has under 3 MB
_LOCAL_HEADER = 30  # bytes before the name in a zip's local file header

_STORAGES = {
    **{"DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16"},
    **{"LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8"},
    **{"BFloat16Storage": "BF16", "ByteStorage": "U8", "BoolStorage": "BOOL"},
}


class _Storage(NamedTuple):
    """An array of the file, as the pickle describes it."""

    dtype: str
    key: str
    size: int  # elements


class _View(NamedTuple):
    """A tensor as the pickle describes it, not checked yet."""

    storage: Any
    offset: Any  # elements
    shape: Any
    strides: Any  # elements


class _Named:
    """What a pickle can name and call.

    No function or class: what a pickle sets attributes of (its BUILD) must not outlive it.
    """

    __slots__ = ("_call",)

    def __init__(self, call: Callable):
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setstate__(self, state: Any) -> None:
        pass


_INERT = _Named(lambda *args: _INERT)  # stands for objects that are of no use here
# Everything that a checkpoint can name.
_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Named(lambda *args: _View(*args[:4])),
    ("torch._utils", "_rebuild_parameter"): _Named(lambda data, *others: data),
    **{("torch", name): dtype for name, dtype in _STORAGES.items()},
    # What trainers save besides the weights: a best score, sets of names.
    **{(module, "set"): _INERT for module in ("builtins", "__builtin__")},
    **{(f"numpy.{core}.multiarray", "scalar"): _INERT for core in ("core", "_core")},
    **{("numpy", "dtype"): _INERT, ("_codecs", "encode"): _INERT},
}
# pytorch_lightning saves the states of its callbacks under the callbacks' classes.
_CALLBACKS = ("pytorch_lightning.callbacks.", "lightning.pytorch.callbacks.")


class _Reader(pickle.Unpickler):
    """An unpickler that knows the names above and no others."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if f"{module}.".startswith(_CALLBACKS):
            return _INERT
        why = "which no weights need: nothing was run; get the model as safetensors"
        raise UserError(f"asks for {shown(f'{module}.{name}')}, {why}")

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", str(dtype), str(key), str(), int(size)) if dtype in ITEM_BYTES:
                return _Storage(dtype, key, size)
        raise ValueError(f"no storage is called {_brief(pid)}")


def read_pickled(path: Path) -> dict[str, Tensor]:
    """Reads where the tensors of a pickled checkpoint lie, by name.

    If it has a `state_dict`, that is read. What is no tensor is left out: optimizer states,
    callbacks, counters. Raises UserError if the file is not a zip of torch's, is damaged, names
    something that is not in the table above, or has tensors outside their storages (all are named).
    """
    path = regular_file(Path(path), "checkpoint")
    with path.open("rb") as file:
        start = file.read(64)
    where = shown(path)
    if not start.startswith(ZIP):
        raise UserError(f"{where} {not_torch(start)}")
    text, records = _archive(path, where)
    found, problems = {}, []
    for name, view in dict.items(_unpickled(text, where)):
        if isinstance(view, _View) and isinstance(name, str):
            try:
                found[name] = _placed(path, name, view, records)
            except ValueError as error:
                problems.append(f"{shown(name)} {error}")
    if problems:
        wrong = f"{len(problems)} tensors that cannot be ({few(problems, '; ')})"
        raise UserError(f"{where} has {wrong}; get it again")
    if not found:
        raise UserError(f"{where} holds no tensors by name; a model's weights were expected")
    return found


def _archive(path: Path, where: str) -> tuple[bytes, dict[str, range]]:
    """Returns the pickle of an archive, and the bytes of its storages in the zip, by key."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = {entry.filename for entry in entries}
            roots = [name.split("/")[0] for name in names if name.split("/")[1:] == ["data.pkl"]]
            if len(roots) != 1 or len(names) != len(entries):
                raise UserError(f"{where} is a zip, but not one of torch's; get it again")
            root = f"{roots[0]}/"
            pickled, order, prefix = (root + part for part in ("data.pkl", "byteorder", "data/"))
            if f"{root}constants.pkl" in names:
                raise UserError(f"{where} is a TorchScript program, not weights")
            stored = [e for e in entries if e.filename.startswith((pickled, order, prefix))]
            records = _records(path, where, stored)
            if (size := len(records[pickled])) > _MAX_PICKLE:
                most = f"a model's is under {_MAX_PICKLE}"
                raise UserError(f"{where}: its data.pkl has {size} bytes; {most}")
            if order in names and archive.read(order) != b"little":
                raise UserError(f"{where} is from a big-endian machine, which is not supported")
            text = archive.read(pickled)
    except UserError:
        raise
    except Exception as error:  # zipfile raises many classes for damage
        why = one_line(error)
        raise UserError(f"{where} is truncated or damaged ({why}); get it again") from None
    return text, {n.removeprefix(prefix): r for n, r in records.items() if n.startswith(prefix)}


def _records(path: Path, where: str, entries: list[zipfile.ZipInfo]) -> dict[str, range]:
    """Returns where each entry lies; raises ValueError if it overlaps one or leaves the file."""
    records, size = {}, path.stat().st_size
    with path.open("rb") as file:
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                why = "is compressed or encrypted, which torch never does; get the original file"
                raise UserError(f"{where}: {shown(entry.filename)} {why}")
            file.seek(entry.header_offset)
            head = file.read(_LOCAL_HEADER)
            if not head.startswith(ZIP) or len(head) < _LOCAL_HEADER:
                raise ValueError(f"{shown(entry.filename)} is not where it should be")
            lengths = int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
            start = entry.header_offset + _LOCAL_HEADER + lengths
            records[entry.filename] = range(start, start + entry.file_size)
    end = 0
    for name, record in sorted(records.items(), key=lambda item: (item[1].start, item[1].stop)):
        if record.start < end or record.stop > size:
            raise ValueError(f"{shown(name)} overlaps another or lies outside the file")
        end = record.stop
    return records


def _unpickled(text: bytes, where: str) -> dict:
    """Returns the dict that holds the tensors."""
    try:
        for operation, argument, _ in pickletools.genops(text):
            # Python allocates as many slots as the largest number that names an object.
            if "PUT" in operation.name and argument > len(text):
                raise ValueError(f"object number {argument}")
        content = _Reader(io.BytesIO(text)).load()
    except UserError as error:
        raise UserError(f"{where} {error}") from None
    except Exception as error:  # a damaged pickle raises almost anything
        line = one_line(error)
        raise UserError(f"{where} has a damaged data.pkl ({line}); get it again") from None
    if isinstance(content, dict) and isinstance(dict.get(content, "state_dict"), dict):
        content = dict.get(content, "state_dict")
    if not isinstance(content, dict):
        kind = type(content).__name__.strip("_")
        raise UserError(f"{where} holds one {kind}; tensors by name were expected")
    return content


def _brief(value: Any) -> str:
    """Returns a foreign value in short; written out, nested tuples can fill any memory."""
    return shown(reprlib.repr(value))


def _placed(path: Path, name: str, view: _View, records: Mapping[str, range]) -> Tensor:
    """Returns where a tensor lies in the file; raises ValueError saying why it cannot."""
    storage, offset, shape, strides = view
    whole = isinstance(storage, _Storage) and type(shape) is type(strides) is tuple
    whole = whole and len(shape) == len(strides) <= 32
    if not whole or not all(type(n) is int and 0 <= n < 2**63 for n in (offset, *shape, *strides)):
        facts = f"shape {_brief(shape)}, strides {_brief(strides)} and offset {_brief(offset)}"
        raise ValueError(f"has {facts}")
    item = ITEM_BYTES[storage.dtype]
    if (record := records.get(storage.key)) is None:
        raise ValueError(f"is in the storage {shown(storage.key)}, which the file lacks")
    if len(record) != storage.size * item:
        size = f"{_brief(storage.size)} {storage.dtype}"
        raise ValueError(f"is in a storage of {size}, for which the file has {len(record)} bytes")
    axes, elements = _axes(shape, strides), math.prod(shape)
    if offset + elements > storage.size:
        begins = f"begins at element {offset} of a storage of {storage.size}"
        raise ValueError(f"of shape {_brief(shape)} {begins}")
    start = record.start + offset * item
    return Tensor(path, name, storage.dtype, shape, start, elements * item, axes)


def _axes(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...] | None:
    """Returns the axes, slowest first (None: in order); raises ValueError for gaps or overlap."""
    if 0 in shape:
        return None
    # A tensor saved with its channels last, or transposed, has its axes in another order.
    # The stride of an axis of length 1 has no meaning.
    short = [axis for axis, length in enumerate(shape) if length == 1]
    long = [axis for axis, length in enumerate(shape) if length > 1]
    slowest_first = sorted(long, key=lambda axis: -strides[axis])
    step = 1
    for axis in reversed(slowest_first):
        if strides[axis] != step:
            wrong = f"has strides {_brief(strides)}, which leave gaps or overlap"
            how = "save it again from contiguous tensors"
            raise ValueError(f"of shape {_brief(shape)} {wrong}; {how}")
        step *= shape[axis]
    return None if slowest_first == long else (*short, *slowest_first)
