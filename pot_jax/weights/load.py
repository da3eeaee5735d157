"""A model from its folder or file: files -> checked tensors -> parameters, tensor by tensor.

Settings and all headers are read first, so that everything that does not fit is known, over all
components, before gigabytes are read. Then each tensor is read, cast and laid out as its parameter
wants it and given to JAX, and its buffers are freed: a host holds one model and two tensors.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import unflatten_dict
from jax.typing import DTypeLike

from pot_jax.diffusion.schedule import PREDICTION_TYPES
from pot_jax.errors import UserError
from pot_jax.weights.adapters import lora, textual_inversion
from pot_jax.weights.digests import array_digest, combined_digest
from pot_jax.weights.formats import kept
from pot_jax.weights.formats import safetensors as read
from pot_jax.weights.formats.safetensors import listed, shown
from pot_jax.weights.keys import Entry, abstract_params, key_table
from pot_jax.weights.layouts import hub
from pot_jax.weights.layouts.families import FAMILIES
from pot_jax.weights.layouts.single_file import file_source
from pot_jax.weights.layouts.source import Source, folder_source
from pot_jax.weights.model import Model, Parts, check_fit, checked_dtype, read_parts

# The models that ship with the package, by name.
EMBEDDED = {"cosmos64": Path(__file__).parents[1] / "assets" / "cosmos64"}
# Tensors in flight: one thread transposes while the other reads or hashes. Each holds up to two
# copies of its tensor, so more threads would cost memory, and two cores are busy with two.
_THREADS = 2
# Where parameters go: all by one sharding, each by its path and shape, or (None) the first device.
Placement = jax.sharding.Sharding | Callable[[str, tuple[int, ...]], jax.sharding.Sharding] | None
Put = Callable[[str, np.ndarray], jax.Array]  # a parameter's path and values -> its array


class Slot(NamedTuple):
    """One parameter and the tensor that fills it."""

    path: tuple[str, ...]  # component first
    entry: Entry
    tensor: read.Tensor


def load(
    path_or_name: str | Path,
    *,
    dtype: DTypeLike = jnp.float32,
    variant: str | None = None,
    tokenizer: str | Path | None = None,
    prediction_type: str | None = None,
    allow_pickle: bool = False,
    loras: Mapping[str, float] | Sequence[Any] = (),
    embeddings: Sequence[Any] = (),
    sharding: Placement = None,
) -> Model:
    """Loads a model: a folder, a single-file checkpoint, one that ships, or one of the hub.

    Args:
      path_or_name: a folder in the diffusers layout (with a `model_index.json`), a folder made by
        `pot-jax convert`, a file in the original layout of Stable Diffusion, a name of `EMBEDDED`,
        or a repository of the Hugging Face hub as `owner/name` or `owner/name@revision`. What is
        there on disk is taken as a path; "./" before it says so.
      dtype: of the parameters and the networks' arithmetic: float32, bfloat16 or float16.
      variant: which of several copies of the weights to read ("fp16"); by default the one without
        a variant, or the only one there is.
      tokenizer: folder to take the tokenizer from instead; a file holds none, and takes that of the
        folder `tokenizer` beside it or of the Hugging Face cache.
      prediction_type: "epsilon", "v_prediction" or "sample", instead of what the files say or, for
        a single file of SD 2.x, leave open ("v_prediction" is taken then).
      allow_pickle: read a pickled file (`.ckpt`) too; nothing in it is run.
      loras: LoRA files to merge into the weights, as {path: strength} or a list of paths or
        (path, strength).
      embeddings: textual inversions to join, as a list of paths or (token, path).
      sharding: where the parameters go, by default the first device: one sharding for all, such as
        `parallel.mesh.replicated(mesh)`, or a function of a parameter's path
        ("unet/conv_in/kernel") and shape. A device gets its part of an array and nothing else.

    Raises:
      UserError: there is no such model, it is of an unsupported kind, or its files are missing,
        damaged, or do not fit it: everything that does not fit is in the one message.
    """
    dtype = checked_dtype(dtype)
    snapshot = hub.fetch_settings(str(path_or_name)) if _on_hub(path_or_name) else None
    path = snapshot.folder if snapshot else _find(path_or_name)
    wishes = {"tokenizer": tokenizer, "prediction_type": _checked_prediction(prediction_type)}
    put = partial(_put, sharding)
    if variant is not None and (path.is_file() or kept.is_kept(path)):
        kind = "one file" if path.is_file() else "a kept copy"
        raise UserError(f"{shown(str(path))} is {kind}, which has no variants")
    if path.is_file():
        source = file_source(path, dtype, **wishes, allow_pickle=allow_pickle)
        parts = source.parts
        check_fit(path, parts.modules, FAMILIES[parts.pipeline])
        read_params = partial(_read_weights, source, dtype, put)
    else:
        parts = read_parts(path, dtype, **wishes)
        read_params = partial(_read_folder, path, parts, snapshot, variant, dtype, put)
    # Before gigabytes are read: everything that does not fit.
    shapes = {name: _shapes(module) for name, module in parts.modules.items()}
    merges = lora.read_loras(loras, parts.modules["unet"].config, shapes)
    words = textual_inversion.read_embeddings(embeddings, parts)
    params, digests = read_params()
    lora.merge(merges, params, digests)
    parts = textual_inversion.add_embeddings(words, parts, params, digests)
    name = snapshot.source if snapshot else str(path_or_name)
    return dataclasses.replace(
        parts.model(params, combined_digest(digests), name),
        loras=tuple(merge.file for merge in merges),
        embeddings=tuple(word.file for word in words),
    )


def _checked_prediction(prediction_type: str | None) -> str | None:
    if prediction_type not in (None, *PREDICTION_TYPES):
        raise UserError(
            f"prediction_type is {shown(str(prediction_type))}, expected one of "
            f"{', '.join(PREDICTION_TYPES)}"
        )
    return prediction_type


def _on_hub(path_or_name: str | Path) -> bool:
    """Whether it names a repository of the hub: written as one, and nothing like it on disk."""
    return (
        isinstance(path_or_name, str)
        and hub.is_id(path_or_name)
        and not os.path.lexists(path_or_name)
    )


def _find(path_or_name: str | Path) -> Path:
    name = str(path_or_name)
    if "\0" in name:
        raise UserError(f"no model is called {shown(name)}")
    path = Path(name).expanduser()
    if name in EMBEDDED and not path.is_dir():
        return EMBEDDED[name]
    if path.is_dir() or path.is_file():
        return path
    raise UserError(
        f"there is no model folder {shown(name)} and no such file, and the package has no model of "
        f"that name (it has: {', '.join(EMBEDDED)}); models of the hub are written "
        "owner/name@revision"
    )


def _put(sharding: Placement, path: str, values: np.ndarray) -> jax.Array:
    if sharding is None:
        return jax.device_put(values)
    if not isinstance(sharding, jax.sharding.Sharding):
        sharding = sharding(path, values.shape)
    # Each device takes its slice from the host, where device_put would go by way of one device; and
    # of several processes each serves its own devices, with nothing sent between them.
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def _restored(
    folder: Path, parts: Parts, dtype: jnp.dtype, put: Put
) -> tuple[dict[str, Any], dict[str, str]]:
    def take(path: str, values: np.ndarray, digest: str) -> tuple[jax.Array, str]:
        if values.dtype != dtype:
            values = _cast(values, dtype)
            if not _finite(values):
                raise UserError(
                    f"{shown(path)} of {shown(str(folder))} has values beyond {dtype.name}; choose "
                    "a wider dtype"
                )
            digest = array_digest(values)
        return put(path, values), digest

    expected = {name: _shapes(module) for name, module in parts.modules.items()}
    taken = kept.restore_arrays(folder, expected, take)
    params = {path: array for path, (array, _) in taken.items()}
    digests = {path: digest for path, (_, digest) in taken.items()}
    return unflatten_dict(params, sep="/"), digests


@lru_cache(maxsize=16)
def _shapes(module: nn.Module) -> dict[str, Any]:
    """The module's parameters as shapes; tracing a UNet takes a second."""
    return abstract_params(module)


class _Problems:
    """Everything found wrong with the weights, by kind, for one message."""

    def __init__(self, path: Path):
        self._path = path  # of the model's folder or file
        self._kinds: dict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, file: Path, name: str, detail: str = "") -> None:
        place = "" if file == self._path else f" in {shown(str(file.relative_to(self._path)))}"
        self._kinds[kind].append(f"{shown(name)}{place}{detail}")

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def raise_any(self) -> None:
        """Raises UserError with the count and the first few of every kind, if there are any."""
        if not self._kinds:
            return
        kinds = listed(self._kinds)
        where = shown(str(self._path))
        if self._path.is_file():
            raise UserError(
                f"the weights in {where} are not those of a whole Stable Diffusion: "
                f"{kinds}; get the file again"
            )
        raise UserError(
            f"the weights in {where} do not fit its config files: {kinds}; get both "
            "from the same place again"
        )


def _read_folder(
    path: Path,
    parts: Parts,
    snapshot: hub.Snapshot | None,
    variant: str | None,
    dtype: jnp.dtype,
    put: Put,
) -> tuple[dict[str, Any], dict[str, str]]:
    if snapshot:  # whatever its settings say that is not supported has been said by now
        hub.fetch_weights(snapshot, variant)
    if kept.is_kept(path):
        return _restored(path, parts, dtype, put)
    return _read_weights(folder_source(path, parts, variant), dtype, put)


def _read_weights(
    source: Source, dtype: jnp.dtype, put: Put
) -> tuple[dict[str, Any], dict[str, str]]:
    problems = _Problems(source.path)
    slots = []
    for name, module in source.parts.modules.items():
        slots += _match(source, name, module, problems)
    for key, tensor in source.others.items():
        problems.add("unexpected", tensor.file, key)
    broken = bool(problems)

    def fill(slot: Slot) -> tuple[jax.Array, str] | None:
        values = read.array(slot.tensor)
        stored = slot.entry.read(values)
        param = _cast(stored, dtype)  # a value out of its range is found below
        if not _finite(param):
            kind = f"beyond {dtype.name}" if _finite(values) else "not finite (NaN or infinite)"
            problems.add(kind, slot.tensor.file, slot.tensor.name)
        if broken or problems:  # read on only to find what else is wrong
            return None
        del values, stored
        return put("/".join(slot.path), param), array_digest(param)

    with ThreadPoolExecutor(_THREADS) as threads:
        filled = list(threads.map(fill, slots))
    problems.raise_any()
    params = {slot.path: array for slot, (array, _) in zip(slots, filled)}
    digests = {"/".join(slot.path): digest for slot, (_, digest) in zip(slots, filled)}
    return unflatten_dict(params), digests


def _match(source: Source, name: str, module: nn.Module, problems: _Problems) -> list[Slot]:
    """Pairs a component's parameters with its tensors; what does not pair is a problem."""
    slots = []
    left = dict(source.tensors[name])
    for path, entry in key_table(_shapes(module)).items():
        spellings = [source.spelling(name, key) for key in (entry.key, *entry.aliases)]
        key = next((key for key in spellings if key in left), None)
        if key is None:
            problems.add("missing", source.place(name), spellings[0])
            continue
        tensor = left.pop(key)
        if not entry.accepts(tensor.shape):
            expected = f" (shape {tensor.shape}, expected {entry.stored_shape})"
            problems.add("misshapen", tensor.file, key, expected)
        elif tensor.dtype not in read.FLOATS:
            problems.add(
                f"not of a dtype in {list(read.FLOATS)}", tensor.file, key, f" ({tensor.dtype})"
            )
        else:
            slots.append(Slot((name, *path), entry, tensor))
    for key, tensor in left.items():
        problems.add("unexpected", tensor.file, key)
    return slots


def _cast(values: np.ndarray, dtype: jnp.dtype) -> np.ndarray:
    """A copy of the values in another dtype, row-major; beyond its range they become infinite."""
    copy = _empty(values.shape, dtype)
    with np.errstate(all="ignore"):
        np.copyto(copy, values, casting="unsafe")
    return copy


def _empty(shape: tuple[int, ...], dtype: jnp.dtype) -> np.ndarray:
    """An array that begins at a multiple of 64 bytes: on a CPU, JAX takes its buffer as it is.

    Other arrays JAX copies, which for a large convolution took a third of the time of loading it.
    """
    size = math.prod(shape) * dtype.itemsize
    buffer = np.empty(size + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + size].view(dtype).reshape(shape)


def _finite(values: np.ndarray) -> bool:
    """Whether no value is NaN or infinite."""
    if values.dtype.itemsize > 2:
        return bool(np.isfinite(values).all())
    # NumPy converts 16-bit floats one by one; all exponent bits set means the same, faster.
    exponent = np.uint16(0x7C00 if values.dtype == np.float16 else 0x7F80)
    return not bool(((values.view(np.uint16) & exponent) == exponent).any())
