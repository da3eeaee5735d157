"""Kept copies: parameters saved with Orbax, and read back only if every array is unchanged.

A kept copy is a model folder: settings and tokenizer in diffusers' layout, the arrays in `arrays/`
(Orbax, as the models take them: no key table, no transposing). Its marker, `pot_jax.json`, holds
each array's SHA-256, because Orbax does not notice a flipped bit in array data.
"""

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore

from pot_jax.errors import UserError, edge, few, shown
from pot_jax.weights.digests import array_digests
from pot_jax.weights.formats.kinds import json_object

MARKER = "pot_jax.json"
_ARRAYS = "arrays"
_VERSION = 1  # of this layout
AGAIN = "make it again with `pot-jax convert`"


def keep_arrays(params: Mapping[str, Any], folder: Path) -> None:
    """Writes parameters, then the marker, which makes a kept copy; OSError if the disk is full."""
    # Weights hardly compress: zstd would cost more time than reading the difference.
    # The layout is stated in full because `reader` relies on it.
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


def kept_digests(folder: Path, wanted: Collection[str]) -> dict[str, str]:
    """Returns the digest of each array by path; UserError for other layouts or other paths."""
    marker = json_object(folder / MARKER)
    kept = marker.get("sha256")
    if marker.get("version") != _VERSION or not isinstance(kept, dict):
        layouts = f"layout {shown(marker.get('version'))}, and this version reads layout {_VERSION}"
        raise UserError(f"{shown(folder)} was kept in {layouts}; {AGAIN}")
    if differing := sorted(kept.keys() ^ set(wanted)):
        arrays = f"{len(differing)} arrays differ ({few(map(shown, differing))})"
        raise UserError(f"{shown(folder)} was kept for other models: {arrays}; {AGAIN}")
    return kept


def reader(folder: Path) -> Callable[[str], np.ndarray]:
    """Returns a function that reads one array of a kept copy by its path.

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
