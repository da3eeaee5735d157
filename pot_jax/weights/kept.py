"""Parameters kept with Orbax, and read back only if every array is what was kept.

A kept copy is a folder in the diffusers layout for its settings and tokenizer, with the arrays in
`arrays/` (Orbax, as the models take them: no key table, no transposing) and `pot_jax.json`, the
marker, which holds each array's SHA-256. Orbax does not notice a flipped bit in array data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict

from pot_jax.errors import UserError
from pot_jax.weights.digests import array_digests
from pot_jax.weights.read import json_object, shown

MARKER = "pot_jax.json"
_ARRAYS = "arrays"
_VERSION = 1  # of this layout


def is_kept(folder: Path) -> bool:
    """Whether a folder is a kept copy; a diffusers folder has no marker."""
    return (folder / MARKER).is_file()


def keep_arrays(params: Mapping[str, Any], folder: Path) -> None:
    """Writes parameters and, last, the marker that makes the folder a kept copy.

    Raises:
      OSError: the disk is full or not writable.
    """
    # Weights hardly compress, and zstd would cost more than reading the difference.
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_compression=False)) as writer:
        writer.save(folder.absolute() / _ARRAYS, args=ocp.args.PyTreeSave(dict(params)))
    dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(params)}
    marker = {
        "what": "a model kept by pot_jax, as `pot-jax convert` makes them",
        "version": _VERSION,
        "dtype": dtypes.pop() if len(dtypes) == 1 else sorted(dtypes),
        "sha256": array_digests(params),
    }
    (folder / MARKER).write_text(json.dumps(marker, indent=1) + "\n")


def restore_arrays(
    folder: Path, expected: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The parameters of a kept copy and the digest of each, by path.

    Args:
      folder: the kept copy.
      expected: nested dict of `jax.ShapeDtypeStruct`: names and shapes as the models need them;
        the dtype is the copy's own.

    Raises:
      UserError: the copy is of another layout, incomplete or damaged, or of other models.
    """
    where, again = shown(str(folder)), "make it again with `pot-jax convert`"
    marker = json_object(folder / MARKER)
    kept = marker.get("sha256")
    if marker.get("version") != _VERSION or not isinstance(kept, dict):
        raise UserError(
            f"{where} was kept in layout {shown(str(marker.get('version')))}, this is "
            f"{_VERSION}; {again}"
        )
    wanted = flatten_dict(expected, sep="/")
    if kept.keys() != wanted.keys():
        differing = sorted(kept.keys() ^ wanted.keys())
        raise UserError(
            f"{where} was kept for other models: {len(differing)} arrays differ "
            f"({', '.join(map(shown, differing[:3]))}); {again}"
        )
    params = _restore(folder, marker.get("dtype"), expected)
    digests = array_digests(params)
    damaged = sorted(path for path, digest in digests.items() if digest != kept[path])
    if damaged:
        raise UserError(
            f"{where} is damaged: {len(damaged)} of {len(kept)} arrays are not what was kept "
            f"({', '.join(damaged[:3])}); {again}"
        )
    return params, digests


def _restore(folder: Path, dtype: Any, expected: Mapping[str, Any]) -> dict[str, Any]:
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    try:
        dtype = jnp.dtype(dtype)
        wanted = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=place), dict(expected)
        )
        # What is in flight comes on top of the arrays themselves: left alone, restoring Stable
        # Diffusion 1.5 peaks at 1.34 times its weights; at twice its largest array, at 1.27.
        largest = max(leaf.size for leaf in jax.tree.leaves(wanted))
        in_flight = max(2 * 4 * largest, 100_000_000)  # bytes, float32 at most
        handler = ocp.PyTreeCheckpointHandler(restore_concurrent_gb=in_flight / 1e9)
        with ocp.Checkpointer(handler) as reader:
            return reader.restore(
                folder.absolute() / _ARRAYS,
                args=ocp.args.PyTreeRestore(
                    wanted, restore_args=ocp.checkpoint_utils.construct_restore_args(wanted)
                ),
            )
    # Orbax and TensorStore tell of missing and damaged files in many classes.
    except Exception as error:
        line = shown(next(iter(str(error).splitlines()), type(error).__name__))
        raise UserError(
            f"{shown(str(folder))} is incomplete or damaged ({line}); make it again with "
            "`pot-jax convert`"
        ) from None
