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

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from pot_jax.errors import UserError

# Bytes per element of the dtypes whose size the header check knows; the library knows the rest.
ITEM_BYTES = {
    **{"F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4},
    **{"F16": 2, "BF16": 2, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1},
}
_SMALL_FLOATS = ("F8_", "F6_", "F4")
# The dtypes weights may have.
FLOATS = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_MAX_HEADER = 20_000_000  # bytes; that of SDXL's UNet has 0.2 MB, the library takes 100 MB
_MAX_JSON = 20_000_000  # bytes; the largest index of a public model is under 1 MB
_MAX_NAME = 200  # characters of a tensor's or file's name shown in a message

# What a file that is not safetensors most often is, by its first bytes, and what to do about it.
_IMPOSTORS = (
    (b"version https://git-lfs", "is a git-lfs pointer, not the weights; run `git lfs pull`"),
    (b"<", "is a web page, not weights; download the file again"),
    (b"PK\x03\x04", "is a pickled torch file under a false name; save it as safetensors"),
    (b"\x80", "is a Python pickle under a false name; save it as safetensors"),
    (b"{", "is JSON text, not weights; download the file again"),
)


class Tensor(NamedTuple):
    """Where one tensor lies, and what it is."""

    file: Path
    name: str
    dtype: str  # safetensors' spelling: "F32", "BF16", ...
    shape: tuple[int, ...]
    start: int  # first byte, from the beginning of the file
    nbytes: int
    axes: tuple[int, ...] | None = None  # as they lie in the file, slowest first; None: in order


def shown(name: str) -> str:
    """A foreign name, safe to print inside a one-line message."""
    name = name if name.isprintable() else ascii(name)
    return name if len(name) <= _MAX_NAME else name[:_MAX_NAME] + "..."


def listed(problems: Mapping[str, list[str]]) -> str:
    """How many problems there are of each kind, with the first few by name."""
    few = 3
    return ", ".join(
        f"{len(names)} {kind} ({'; '.join(names[:few])}{'; ...' * (len(names) > few)})"
        for kind, names in problems.items()
    )


def plain_file(path: Path, what: str = "file") -> Path:
    """`path` itself, if it is a readable regular file (links are followed).

    Raises:
      UserError: it is missing, or it is a folder, a pipe or a device.
    """
    if path.is_file():
        return path
    state = "is not a regular file" if path.exists() or path.is_symlink() else "does not exist"
    raise UserError(f"{what} {shown(str(path))} {state}; the model folder is incomplete")


# JSON --------------------------------------------------------------------------------------------


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    for name in names if len(set(names)) < len(names) else ():
        if names.count(name) > 1:
            raise ValueError(f"{shown(name)!r} is given twice")
    return dict(pairs)


def _constant(text: str) -> float:
    if text == "NaN":
        raise ValueError("NaN is not a number")
    return float(text)  # diffusers writes lambda_min_clipped as -Infinity


def _parse(text: bytes) -> dict[str, Any]:
    """One JSON object, strictly: no name twice, no NaN. Raises ValueError."""
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object was expected, not {type(value).__name__}")
    return value


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a settings file of a model folder.

    Raises:
      UserError: the file is missing, too large, a git-lfs pointer, not JSON or not an object.
    """
    plain_file(path)
    where = shown(str(path))
    if (size := path.stat().st_size) > _MAX_JSON:
        raise UserError(
            f"{where} has {size} bytes; those of a model are under {_MAX_JSON}; get it again"
        )
    text = path.read_bytes()
    if text.startswith(b"version https://git-lfs"):
        raise UserError(f"{where} is a git-lfs pointer, not the settings; run `git lfs pull`")
    try:
        return _parse(text)
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise UserError(f"{where} is not usable JSON ({shown(str(error))}); get it again") from None


# Safetensors -------------------------------------------------------------------------------------


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


def header(path: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file by name; reads the header only.

    Raises:
      UserError: the file is missing, is something else (a git-lfs pointer, a web page, a pickle),
        is truncated, or its header is damaged: overlapping, gapped or misfitting byte ranges, a
        name given twice, malformed entries.
    """
    path = plain_file(Path(path), "weight file")
    where = shown(str(path))
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(64)
        length = int.from_bytes(start[:8], "little")
        if not begins_well(start, size):
            raise UserError(f"{where} {_instead(start, size)}")
        file.seek(8)
        text = file.read(length)
    try:
        tensors = _tensors(path, _parse(text), 8 + length)
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


def begins_well(start: bytes, size: int) -> bool:
    """Whether a file of this size whose first 64 bytes these are begins as safetensors does."""
    length = int.from_bytes(start[:8], "little")
    return 2 <= length <= _MAX_HEADER and 8 + length <= size and start[8:9] == b"{"


def _instead(start: bytes, size: int) -> str:
    """What a file is that does not begin as safetensors does, and what to do about it."""
    if size < 10:
        return f"is empty or cut off ({size} bytes); get it again"
    length = int.from_bytes(start[:8], "little")
    if length <= 2**30 and start[8:9] == b"{":  # before the impostors: a length may look like one
        if size < 8 + length:
            return (
                f"is truncated: its header takes {length} bytes, the file has {size}; get it again"
            )
        return f"has a header of {length} bytes; a model's is under {_MAX_HEADER}; get it again"
    if (meaning := impostor(start)) is not None:
        return meaning
    return "is not a safetensors file; get it again"


def impostor(start: bytes) -> str | None:
    """What a file that begins so is, if it is a usual mistake, and what to do about it."""
    begins = start.lstrip()
    return next((meaning for magic, meaning in _IMPOSTORS if begins.startswith(magic)), None)


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


def array(tensor: Tensor, dtypes: Mapping[str, np.dtype] = FLOATS) -> np.ndarray:
    """The tensor's values in the file's own dtype, in a fresh buffer that nothing else holds.

    Raises:
      UserError: the dtype is none of `dtypes`, or the file has shrunk since its header was read.
    """
    where = f"{shown(str(tensor.file))}: tensor {shown(tensor.name)}"
    if tensor.dtype not in dtypes:
        raise UserError(f"{where} has dtype {shown(tensor.dtype)}; expected one of {list(dtypes)}")
    axes = range(len(tensor.shape)) if tensor.axes is None else tensor.axes
    values = np.empty([tensor.shape[axis] for axis in axes], dtypes[tensor.dtype])
    with tensor.file.open("rb", buffering=0) as file:
        file.seek(tensor.start)
        rest = memoryview(values.reshape(-1).view(np.uint8))
        while rest:  # one raw read delivers at most 2 GiB
            if not (count := file.readinto(rest)):
                raise UserError(f"{where} is cut off: the file became shorter while it was read")
            rest = rest[count:]
    return values.transpose(np.argsort(axes))


# Components --------------------------------------------------------------------------------------


def tensors(folder: Path, stem: str, variant: str | None = None) -> dict[str, Tensor]:
    """All tensors of one component of a diffusers folder, in one file or in shards.

    Args:
      folder: the component's folder, such as `model/unet`.
      stem: "diffusion_pytorch_model" (diffusers) or "model" (transformers).
      variant: "fp16" and the like: which of several copies to read. None means the copy without a
        variant, or, where that is absent, the only variant there is.

    Raises:
      UserError: no such weights (what there is instead is named), or a file is damaged.
    """
    where = shown(str(folder))
    if not folder.is_dir():
        raise UserError(f"{where} does not exist; the model folder is incomplete")
    source = folder / choose([path.name for path in folder.iterdir()], stem, variant, where)
    return header(source) if source.suffix == ".safetensors" else _sharded(source)


def choose(names: Iterable[str], stem: str, variant: str | None, where: str) -> str:
    """Of a component's file names, the one that holds its weights, or the index of their shards.

    Args:
      names: in the component's folder.
      stem: as for `tensors`.
      variant: as for `tensors`.
      where: the folder, as it is called in messages.

    Raises:
      UserError: no such weights; what there is instead is named.
    """
    names = sorted(names)
    sources = _sources(names, stem)
    if variant is None and variant not in sources and len(sources) == 1:
        variant = next(iter(sources))
    if variant in sources:
        return sources[variant]
    if sources:
        known = sorted("none" if name is None else shown(name) for name in sources)
        raise UserError(
            f"{where} has no weights of variant {shown(variant or 'none')}; there are: {known}"
        )
    others = [name for name in names if name.endswith((".bin", ".ckpt", ".msgpack", ".h5"))]
    if others:
        raise UserError(
            f"{where} has only {shown(others[0])}, which is not read; save the model as "
            f"safetensors ({stem}.safetensors was expected)"
        )
    raise UserError(f"{where} has no weights; {stem}.safetensors was expected")


def _sources(names: list[str], stem: str) -> dict[str | None, str]:
    """The whole file or, failing that, the index of each variant (None: no variant)."""
    sources: dict[str | None, str] = {}
    index = f"{stem}.safetensors.index"
    for name in names:
        if name.startswith(index) and name.endswith(".json"):
            middle = name.removeprefix(index).removesuffix(".json")
            sources.setdefault(middle.removeprefix(".") or None, name)
    for name in names:
        if not (name.startswith(stem) and name.endswith(".safetensors")):
            continue
        middle = name.removeprefix(stem).removesuffix(".safetensors")
        if not middle or (middle.startswith(".") and "-of-" not in middle):
            sources[middle.removeprefix(".") or None] = name
    return sources


def weight_map(index: Path) -> dict[str, str]:
    """Of each tensor, the shard that an index says it is in: a plain name in the index's folder.

    Raises:
      UserError: the index is damaged, or names a file elsewhere or of another kind.
    """
    where = shown(str(index))
    places = json_object(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(p, str) for p in places.values()):
        raise UserError(f"{where} has no weight_map from tensor names to file names; get it again")
    for place in sorted(set(places.values())):
        if (
            Path(place).name != place
            or not place.isprintable()
            or "\\" in place
            or not place.endswith(".safetensors")
        ):
            raise UserError(
                f"{where} names the shard {shown(place)!r}; a plain .safetensors file name beside "
                "the index was expected"
            )
    return places


def _sharded(index: Path) -> dict[str, Tensor]:
    """The tensors of all the shards that an index names, and of no other file."""
    where, places = shown(str(index)), weight_map(index)
    shards = sorted(set(places.values()))
    absent = [place for place in shards if not (index.parent / place).is_file()]
    if absent:
        raise UserError(
            f"{where} names {len(absent)} of {len(shards)} shards that are not there "
            f"({_few(absent)}); get them"
        )
    headers = {place: header(index.parent / place) for place in shards}
    count = Counter(name for tensors in headers.values() for name in tensors)
    twice = sorted(name for name in count if count[name] > 1)
    if twice:
        raise UserError(
            f"{where}: {len(twice)} tensors lie in two shards ({_few(twice)}); get all again"
        )
    lost = [name for name, place in places.items() if name not in headers[place]]
    if lost:
        raise UserError(
            f"{where} names {len(lost)} tensors that its shards lack ({_few(lost)}); get it again"
        )
    unnamed = [name for tensors in headers.values() for name in tensors if name not in places]
    if unnamed:
        raise UserError(
            f"{where} leaves out {len(unnamed)} tensors of its shards ({_few(unnamed)}); "
            "get it again"
        )
    return {name: headers[place][name] for name, place in places.items()}


def _few(names: list[str], count: int = 3) -> str:
    return ", ".join(shown(name) for name in names[:count]) + ", ..." * (len(names) > count)
