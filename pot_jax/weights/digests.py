"""SHA-256 digests of parameters: which weights a run used, and whether a kept copy is intact."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

# hashlib releases the interpreter lock, so threads hash faster, up to the speed of memory.
_THREADS = 4


def array_digest(array: Any) -> str:
    """Returns the hex digest of an array's dtype, shape and values (row-major, little-endian)."""
    values = np.asarray(array)
    digest = hashlib.sha256(f"{values.dtype.name} {values.shape}\n".encode())
    digest.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8))
    return digest.hexdigest()


def array_digests(params: Mapping[str, Any]) -> dict[str, str]:
    """Returns the digest of every array of a nested dict, by its path ("unet/conv_in/kernel")."""
    flat = flatten_dict(params, sep="/")
    with ThreadPoolExecutor(_THREADS) as threads:
        return dict(zip(flat, threads.map(array_digest, flat.values())))


def combined_digest(digests: Mapping[str, str]) -> str:
    """Returns one digest for all arrays, from their paths and digests in any order."""
    lines = "".join(f"{path} {digest}\n" for path, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
