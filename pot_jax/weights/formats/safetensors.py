"""Weight files as they come from elsewhere: checked first, then read one tensor at a time.

A safetensors file is `u64 header length | JSON header | data`; the header gives each tensor's
dtype, shape and byte range in the data. Nothing in these files is trusted: every name, number and
range is checked before any data is read, and no file can make this code run anything.

The `safetensors` library has the last word on whether a header is well formed. It is not used to
read the data: its NumPy side does not know bfloat16, and the pages of its memory map would count
twice against the host's memory while a model of several gigabytes is being read. Bytes are read
into one fresh buffer per tensor instead.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pot_jax.errors import UserError, shown
from pot_jax.weights.formats.json import parse
from pot_jax.weights.formats.kinds import is_safetensors, not_safetensors, regular_file
from pot_jax.weights.formats.tensors import ITEM_BYTES, Tensor

_SMALL_FLOATS = ("F8_", "F6_", "F4")  # dtypes whose size only the library knows


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63  # not bool, which is an int too


def _entry(name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Dtype, shape and byte range of one header entry. Raises ValueError naming what is wrong."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise ValueError(f"tensor {shown(name)} lacks dtype, shape or data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str):
        raise ValueError(f"tensor {shown(name)} has dtype {shown(str(dtype))}")
    if dtype not in ITEM_BYTES and not dtype.startswith(_SMALL_FLOATS):
        raise ValueError(f"tensor {shown(name)} has the unknown dtype {shown(dtype)}")
    if not isinstance(shape, list) or len(shape) > 32 or not all(map(_is_count, shape)):
        raise ValueError(f"tensor {shown(name)} has shape {shown(str(shape))}")
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(map(_is_count, offsets))
        or offsets[0] > offsets[1]
    ):
        raise ValueError(f"tensor {shown(name)} has data_offsets {shown(str(offsets))}")
    nbytes = offsets[1] - offsets[0]
    if dtype in ITEM_BYTES and math.prod(shape) * ITEM_BYTES[dtype] != nbytes:
        raise ValueError(
            f"tensor {shown(name)} has {nbytes} bytes; shape {shown(str(shape))} in {dtype} takes "
            f"{shown(str(math.prod(shape) * ITEM_BYTES[dtype]))}"
        )
    return dtype, tuple(shape), offsets[0], nbytes


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file by name; reads the header only.

    Raises:
      UserError: the file is missing, is something else (a git-lfs pointer, a web page, a pickle),
        is truncated, or its header is damaged: overlapping, gapped or misfitting byte ranges, a
        name given twice, malformed entries.
    """
    path = regular_file(Path(path), "weight file")
    where = shown(str(path))
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(64)
        length = int.from_bytes(start[:8], "little")
        if not is_safetensors(start, size):
            raise UserError(f"{where} {not_safetensors(start, size)}")
        file.seek(8)
        text = file.read(length)
    try:
        tensors = _tensors(path, parse(text), 8 + length)
    except ValueError as error:
        raise UserError(_damaged(where, error)) from None
    end = max((tensor.start + tensor.nbytes for tensor in tensors.values()), default=8 + length)
    if size != end:
        raise UserError(
            f"{where} is {'truncated' if size < end else 'too long'}: its header describes {end} "
            f"bytes, the file has {size}; get it again"
        )
    try:
        with safe_open(path, framework="np"):
            pass
    except SafetensorError as error:
        raise UserError(_damaged(where, error)) from None
    return tensors


def _damaged(where: str, error: Exception) -> str:
    return f"{where} has a damaged header: {shown(str(error))}; get it again"


def _tensors(path: Path, entries: dict[str, Any], base: int) -> dict[str, Tensor]:
    """The header's entries, checked to tile the data without gap or overlap. Raises ValueError."""
    entries.pop("__metadata__", None)
    tensors = {}
    for name, entry in entries.items():
        dtype, shape, start, nbytes = _entry(name, entry)
        tensors[name] = Tensor(path, name, dtype, shape, base + start, nbytes)
    end = base
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.nbytes)):
        if tensor.start != end:
            what = "overlaps the one before it" if tensor.start < end else "leaves a gap before it"
            raise ValueError(f"tensor {shown(tensor.name)} {what}")
        end = tensor.start + tensor.nbytes
    return tensors
