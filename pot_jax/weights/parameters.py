"""Tensors and kept arrays -> parameters, one by one: a host holds one model and two tensors."""

import functools
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.experimental.multihost_utils import process_allgather

from pot_jax.errors import UserError, few, listed, shown
from pot_jax.weights.digests import array_digest
from pot_jax.weights.formats import kept
from pot_jax.weights.formats.safetensors import FLOATS, Tensor, read_tensor
from pot_jax.weights.keys import Entry, abstract_params, key_table
from pot_jax.weights.layouts.original_names import respelled
from pot_jax.weights.model import COMPONENTS, Source

# Tensors in flight: one thread transposes while the other reads or hashes, which keeps two cores
# busy. Each holds up to two copies of its tensor, so more threads would cost memory.
_THREADS = 2
# Where parameters go: by one sharding, by a function of path and shape, or (None) the first device.
Placement = jax.sharding.Sharding | Callable[[str, tuple[int, ...]], jax.sharding.Sharding] | None
Loaded = tuple[dict[str, Any], dict[str, str]]  # nested parameters, and their digests by path


def put_on(sharding: Placement, path: str, values: np.ndarray) -> jax.Array:
    """Gives a parameter's values to JAX, on the devices that `sharding` says."""
    if sharding is None:
        return jax.device_put(values)
    if not isinstance(sharding, jax.sharding.Sharding):
        sharding = sharding(path, values.shape)
    # Each device takes its slice from the host; device_put would copy by way of one device. Each of
    # several processes serves its own devices, and nothing is sent between them.
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def shapes_of(module: nn.Module) -> dict[str, Any]:
    """Returns the shapes of a network's parameters, in the dtype of its arithmetic."""
    cast = partial(jax.ShapeDtypeStruct, dtype=jnp.dtype(module.dtype))
    return jax.tree.map(lambda leaf: cast(leaf.shape), abstract_params(module))


def restored_params(
    folder: Path, shapes: dict, sharding: Placement, names: Collection[str] = ()
) -> Loaded:
    """Returns the parameters of a kept copy, and the digest of each by its path.

    `shapes` are those that the models need, nested dicts; `names` are the components to read, by
    default all. Raises UserError if it is incomplete or damaged, of other models, or has values
    beyond a dtype that is needed.
    """
    wanted, where = flatten_dict(shapes, sep="/"), shown(folder)
    digests, read = kept.kept_digests(folder, wanted), kept.reader(folder)
    wanted = {path: wanted[path] for path in wanted if path.split("/")[0] in (names or shapes)}
    damaged: list[str] = []

    def fill(path: str) -> tuple[jax.Array, str] | None:
        values = read(path)
        digest = array_digest(values)
        if digest != digests[path]:
            damaged.append(path)
        if damaged:  # the rest is read only to find what else is damaged
            return None
        if values.shape != wanted[path].shape:
            found = f"{shown(path)} is {values.shape}, expected {wanted[path].shape}"
            raise UserError(f"{where} was kept for other models: {found}; {kept.AGAIN}")
        if values.dtype != (dtype := wanted[path].dtype):
            values = _cast(values, dtype)
            if not _finite(values):
                beyond = f"has values beyond {dtype.name}; choose a wider dtype"
                raise UserError(f"{shown(path)} of {where} {beyond}")
            digest = array_digest(values)
        return put_on(sharding, path, values), digest

    with ThreadPoolExecutor(_THREADS) as threads:
        filled = dict(zip(wanted, threads.map(fill, wanted)))
    if damaged:
        arrays = f"{len(damaged)} of {len(digests)} arrays are not what was kept"
        raise UserError(f"{where} is damaged: {arrays} ({few(sorted(damaged))}); {kept.AGAIN}")
    return _params_and_digests(filled)


class Problems(defaultdict[str, list[str]]):
    """What does not fit in the weights of a source, by kind."""

    def __init__(self, source: Source):
        super().__init__(list)
        self._path, self._alone = source.path, source.alone

    def add(self, kind: str, file: Path, name: str, detail: str = "") -> None:
        """Adds a tensor that does not fit; `file` is where it is, or should be."""
        place = "" if file == self._path else f" in {shown(file.relative_to(self._path))}"
        self[kind].append(f"{shown(name)}{place}{detail}")

    def raise_any(self) -> None:
        """Raises UserError with the count and the first few of every kind, if there are any."""
        what, remedy = "do not fit its config files", "get both from the same place again"
        if self._path.is_file():
            what, remedy = "are not those of a whole Stable Diffusion", "get the file again"
            if self._alone:
                what = f"are not those of a {self._alone} like the model's own"
                remedy = "give one for this model, or a folder with its config.json"
        if self:
            raise UserError(f"the weights in {shown(self._path)} {what}: {listed(self)}; {remedy}")


def matched(source: Source) -> dict[str, tuple[Entry, Tensor]]:
    """Returns each parameter's tensor by its path; one UserError for all that do not fit."""
    problems, found, unexpected = Problems(source), {}, [*source.others.items()]
    for name, module in source.parts.modules.items():
        left, names = dict(source.tensors[name]), source.names.get(name, {})
        for path, entry in key_table(abstract_params(module)).items():
            spellings = [respelled(key, names) for key in (entry.key, *entry.aliases)]
            key = next((key for key in spellings if key in left), None)
            if key is None:
                alone = source.alone or source.path.is_file()
                place = "" if alone else getattr(COMPONENTS.get(name), "folder", "")
                problems.add("missing", source.path / place, spellings[0])
                continue
            tensor = left.pop(key)
            if not entry.accepts(tensor.shape):
                expected = f" (shape {tensor.shape}, expected {entry.stored_shape})"
                problems.add("misshapen", tensor.file, key, expected)
            elif tensor.dtype not in FLOATS:
                kind = f"not of a dtype in {list(FLOATS)}"
                problems.add(kind, tensor.file, key, f" ({tensor.dtype})")
            else:
                found["/".join((name, *path))] = entry, tensor
        unexpected += left.items()
    for key, tensor in unexpected:
        problems.add("unexpected", tensor.file, key)
    problems.raise_any()
    return found


def read_params(source: Source, sharding: Placement) -> Loaded:
    """Returns the parameters that the tensors of a source hold, and the digest of each by its path.

    Each is of its network's dtype. Raises UserError as `matched` does, and one for all tensors that
    are not finite in it.
    """
    entries, problems = matched(source), Problems(source)
    dtypes = {name: jnp.dtype(module.dtype) for name, module in source.parts.modules.items()}

    def fill(path: str) -> tuple[jax.Array, str] | None:
        (entry, tensor), dtype = entries[path], dtypes[path.partition("/")[0]]
        values = read_tensor(tensor)
        stored = entry.read(values)
        param = _cast(stored, dtype)  # values out of range are found below
        if not _finite(param):
            kind = f"beyond {dtype.name}" if _finite(values) else "not finite (NaN or infinite)"
            problems.add(kind, tensor.file, tensor.name)
        if problems:  # the rest is read only to find what else is wrong
            return None
        del values, stored
        return put_on(sharding, path, param), array_digest(param)

    with ThreadPoolExecutor(_THREADS) as threads:
        filled = dict(zip(entries, threads.map(fill, entries)))
    problems.raise_any()
    return _params_and_digests(filled)


def _params_and_digests(filled: Mapping[str, tuple[jax.Array, str]]) -> Loaded:
    params = unflatten_dict({path: array for path, (array, _) in filled.items()}, sep="/")
    return params, {path: digest for path, (_, digest) in filled.items()}


def change_param(
    loaded: Loaded, path: tuple[str, ...], change: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Replaces one parameter, and its digest, in place and on the same devices."""
    # A new tree would hold each old parameter until the last is changed.
    (params, digests), (*parents, leaf) = loaded, path
    owner = functools.reduce(dict.__getitem__, parents, params)
    there, values = owner[leaf].sharding, owner[leaf]
    if not there.is_fully_addressable:  # parts of it are other processes'
        values = process_allgather(values, tiled=True)
    values = change(np.asarray(values))
    owner[leaf] = put_on(there, "/".join(path), values)
    digests["/".join(path)] = array_digest(values)


def _cast(values: np.ndarray, dtype: jnp.dtype) -> np.ndarray:
    """Copies values to another dtype, row-major; values beyond its range become infinite."""
    size = values.size * dtype.itemsize
    # On a CPU, JAX uses a buffer that starts at a multiple of 64 bytes as it is. It copies others,
    # which took a third of the time of loading a large convolution.
    buffer = np.empty(size + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    copy = buffer[start : start + size].view(dtype).reshape(values.shape)
    with np.errstate(all="ignore"):
        np.copyto(copy, values, casting="unsafe")
    return copy


def _finite(values: np.ndarray) -> bool:
    """Returns whether no value is NaN or infinite."""
    if values.dtype.itemsize > 2:
        return bool(np.isfinite(values).all())
    # NumPy converts 16-bit floats one by one; testing for all exponent bits is faster.
    exponent = np.uint16(0x7C00 if values.dtype == np.float16 else 0x7F80)
    return not bool(((values.view(np.uint16) & exponent) == exponent).any())
