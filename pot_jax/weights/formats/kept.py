"""Kept copies: parameters saved with Orbax, and read back only if every array is unchanged.

A kept copy is a model folder: settings and tokenizer in diffusers' layout, the arrays in `arrays/`
(Orbax, as the models take them: no key table, no transposing). Its marker, `pot_jax.json`, holds
each array's SHA-256, because Orbax does not notice a flipped bit in array data.
"""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from flax.traverse_util import flatten_dict

from pot_jax.errors import UserError, edge, few, shown
from pot_jax.weights.digests import array_digest, array_digests
from pot_jax.weights.formats.kinds import json_object

MARKER = "pot_jax.json"
_ARRAYS = "arrays"
_VERSION = 1  # of this layout
_THREADS = 2  # arrays in flight: two keep two cores busy


def keep_arrays(params: Mapping[str, Any], folder: Path) -> None:
    """Writes the parameters and then the marker, which makes the folder a kept copy.

    Raises OSError if the disk is full or not writable.
    """
    # Weights hardly compress: zstd would cost more time than reading the difference.
    # The layout is stated in full because `_reader` relies on it.
    layout = {"use_compression": False, "use_ocdbt": True, "use_zarr3": False}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**layout)) as writer:
        writer.save(folder.absolute() / _ARRAYS, args=ocp.args.PyTreeSave(dict(params)))
    dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(params)}
    marker = {
        "what": "a model kept by pot_jax, as `pot-jax convert` makes them",
        "version": _VERSION,
        "dtype": dtypes.pop() if len(dtypes) == 1 else sorted(dtypes),
        "sha256": array_digests(params),
    }
    (folder / MARKER).write_text(json.dumps(marker, indent=1) + "\n", "utf-8")


def restore_arrays(
    folder: Path, expected: Mapping[str, Any], take: Callable[[str, np.ndarray, str], Any]
) -> dict[str, Any]:
    """Returns what `take` returns for each array of a kept copy, by path, checked by its digest.

    Args:
      folder: the kept copy.
      expected: the names and shapes that the models need, a nested dict of
        `jax.ShapeDtypeStruct`; the dtype is the copy's own.
      take: is called in several threads with each array's path ("unet/conv_in/kernel"), the array
        and its digest. Two arrays are in memory besides what it returns.

    Raises:
      UserError: the copy has another layout, is incomplete or damaged, or is of other models.
    """
    where, again = shown(folder), "make it again with `pot-jax convert`"
    others = f"{where} was kept for other models"
    marker = json_object(folder / MARKER)
    kept = marker.get("sha256")
    if marker.get("version") != _VERSION or not isinstance(kept, dict):
        layouts = f"layout {shown(marker.get('version'))}, and this version reads layout {_VERSION}"
        raise UserError(f"{where} was kept in {layouts}; {again}")
    wanted = flatten_dict(dict(expected), sep="/")
    if kept.keys() != wanted.keys():
        differing = sorted(kept.keys() ^ wanted.keys())
        names = few(map(shown, differing))
        raise UserError(f"{others}: {len(differing)} arrays differ ({names}); {again}")
    damaged: list[str] = []
    read = _reader(folder)

    def check(path: str) -> Any:
        values = read(path)
        digest = array_digest(values)
        if digest != kept[path]:
            damaged.append(path)
        if damaged:  # the rest is read only to find what else is damaged
            return None
        if values.shape != wanted[path].shape:
            shapes = f"{values.shape}, expected {wanted[path].shape}"
            raise UserError(f"{others}: {shown(path)} is {shapes}; {again}")
        return take(path, values, digest)

    with ThreadPoolExecutor(_THREADS) as threads:
        taken = list(threads.map(check, wanted))
    if damaged:
        arrays = f"{len(damaged)} of {len(kept)} arrays are not what was kept"
        raise UserError(f"{where} is damaged: {arrays} ({few(sorted(damaged))}); {again}")
    return dict(zip(wanted, taken))


def _reader(folder: Path) -> Callable[[str], np.ndarray]:
    """Returns a function that reads one array by its path.

    Orbax saves each array as a zarr in one OCDBT store, under its path with dots, and reads it with
    TensorStore, as this does. Orbax itself would read all arrays before the first can be hashed,
    cast and placed; asking it for a few of a thousand arrays takes a quarter of a second.
    """
    base = (folder / _ARRAYS).absolute().as_uri()
    # The cache is for the tree of names, not for the arrays.
    context = tensorstore.Context({"cache_pool": {"total_bytes_limit": 10_000_000}})

    def read(path: str) -> np.ndarray:
        store = {"driver": "ocdbt", "base": base, "path": path.replace("/", ".") + "/"}
        spec = {"driver": "zarr", "kvstore": store}
        with edge("reading a kept copy", folder):
            return tensorstore.open(spec, open=True, context=context).result().read().result()

    return read
