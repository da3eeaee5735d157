"""Where a tensor lies in a file, and safetensors files: headers checked before any data is read.

A safetensors file is `u64 header length | JSON header | data`; the header gives each tensor's
dtype, shape and byte range in the data. None of it is trusted, and nothing in a file is ever run.

The `safetensors` library decides whether a header is well formed, but does not read the data: its
NumPy side does not know bfloat16, and the pages of its memory map would count a second time against
the host's memory. `read_tensor` reads each tensor into a new buffer instead.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from pot_jax.errors import UserError, shown
from pot_jax.weights.formats.kinds import is_safetensors, not_safetensors, parse, regular_file

# Bytes per element of the dtypes whose size the header check knows; the library knows the rest.
ITEM_BYTES = {
    **{"F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4},
    **{"F16": 2, "BF16": 2, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1},
}
# The dtypes weights may have.
_KINDS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
FLOATS = {name: np.dtype(kind) for name, kind in _KINDS.items()}
_SMALL_FLOATS = ("F8_", "F6_", "F4")  # dtypes whose size only the library knows


class Tensor(NamedTuple):
    """A tensor in a file: its name, dtype and shape, and where its bytes lie."""

    file: Path
    name: str
    dtype: str  # as safetensors names it: "F32", "BF16", ...
    shape: tuple[int, ...]
    start: int  # first byte, from the beginning of the file
    nbytes: int
    axes: tuple[int, ...] | None = None  # their order in the file, slowest first; None: row-major


def read_header(path: Path) -> dict[str, Tensor]:
    """Reads where the tensors of a safetensors file lie, by name.

    Raises UserError if it is missing, truncated or of another kind, or its header is damaged: byte
    ranges that overlap, leave gaps or do not fit shapes, a name given twice, malformed entries.
    """
    path = regular_file(Path(path), "weight file")
    where, size = shown(path), path.stat().st_size
    with path.open("rb") as file:
        start = file.read(64)
        length = int.from_bytes(start[:8], "little")
        if not is_safetensors(start, size):
            raise UserError(f"{where} {not_safetensors(start, size)}")
        file.seek(8)
        text = file.read(length)
    try:
        entries, end = parse(text), 8 + length
        entries.pop("__metadata__", None)
        tensors = {name: _tensor(path, name, entry, end) for name, entry in entries.items()}
        for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.nbytes)):
            if tensor.start != end:
                gap = "overlaps the one" if tensor.start < end else "leaves a gap"
                raise ValueError(f"tensor {shown(tensor.name)} {gap} before it")
            end += tensor.nbytes
        if size != end:
            state = "truncated" if size < end else "too long"
            sizes = f"its header describes {end} bytes, the file has {size}"
            raise UserError(f"{where} is {state}: {sizes}; get it again")
        with safe_open(path, framework="np"):
            pass
    except UserError:
        raise
    except (ValueError, SafetensorError) as error:
        raise UserError(f"{where} has a damaged header: {shown(error)}; get it again") from None
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """Returns what a file, whose header has been read, says of itself besides its tensors."""
    with safe_open(path, framework="np") as opened:
        return opened.metadata() or {}


def _tensor(path: Path, name: str, entry: Any, base: int) -> Tensor:
    """Returns what an entry of the header describes; raises ValueError saying what is wrong."""
    tensor = f"tensor {shown(name)}"
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise ValueError(f"{tensor} lacks dtype, shape or data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    known = isinstance(dtype, str) and (dtype in ITEM_BYTES or dtype.startswith(_SMALL_FLOATS))
    if not known:
        raise ValueError(f"{tensor} has the unknown dtype {shown(dtype)}")
    if not _are_counts(shape) or len(shape) > 32:
        raise ValueError(f"{tensor} has shape {shown(shape)}")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"{tensor} has data_offsets {shown(offsets)}")
    nbytes = offsets[1] - offsets[0]
    if dtype in ITEM_BYTES and (needed := math.prod(shape) * ITEM_BYTES[dtype]) != nbytes:
        takes = f"shape {shown(shape)} in {dtype} takes {shown(needed)}"
        raise ValueError(f"{tensor} has {nbytes} bytes; {takes}")
    return Tensor(path, name, dtype, tuple(shape), base + offsets[0], nbytes)


def _are_counts(value: Any) -> bool:
    # Not isinstance: a bool is an int too.
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)


def read_tensor(tensor: Tensor, dtypes: Mapping[str, np.dtype] = FLOATS) -> np.ndarray:
    """Reads a tensor into a new array; UserError unless in `dtypes`, or if the file has shrunk."""
    where = f"{shown(tensor.file)}: tensor {shown(tensor.name)}"
    if tensor.dtype not in dtypes:
        raise UserError(f"{where} has dtype {shown(tensor.dtype)}; expected one of {list(dtypes)}")
    values = np.fromfile(tensor.file, np.uint8, tensor.nbytes, offset=tensor.start)
    if len(values) < tensor.nbytes:
        raise UserError(f"{where} is cut off: the file became shorter while it was read")
    axes = range(len(tensor.shape)) if tensor.axes is None else tensor.axes
    values = values.view(dtypes[tensor.dtype]).reshape([tensor.shape[axis] for axis in axes])
    return values.transpose(np.argsort(axes))
