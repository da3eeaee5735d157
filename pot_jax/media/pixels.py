"""Converts pixels x in [-1, 1] to their bytes, 127.5 (x + 1) rounded, and back.

This imports only NumPy, so that processes which render training data start without JAX.
"""

import contextlib
from typing import Any

import numpy as np

from pot_jax.checks import require

HALF_RANGE = np.float32(127.5)  # bytes per unit of [-1, 1]


def on_byte_scale(images: np.ndarray) -> np.ndarray:
    """Returns images [...], clipped to [-1, 1], as float32 in [0, 255]; ValueError for NaN."""
    images = np.asarray(images, np.float32)
    if missing := np.isnan(images).sum():
        raise ValueError(f"{missing} of {images.size} picture values are NaN")
    return (np.clip(images, -1, 1) + np.float32(1)) * HALF_RANGE


def to_bytes(images: np.ndarray) -> np.ndarray:
    """Returns images [...], clipped to [-1, 1], as uint8; halves to even. ValueError for NaN."""
    return np.rint(on_byte_scale(images)).astype(np.uint8)


def numbers_in(given: Any, what: str, expected: str) -> np.ndarray:
    """Returns what a user gives for an array; raises UserError if it holds no real numbers."""
    values = None
    with contextlib.suppress(Exception):  # ragged lists, and whatever others' classes raise
        values = np.asarray(given)
    known = values is not None and (values.dtype.kind in "buif" or values.dtype.name == "bfloat16")
    require(known, what, expected, given)
    return values


def from_bytes(pictures: np.ndarray) -> np.ndarray:
    """Returns bytes, [...] uint8 of NumPy or JAX, as float32 in [-1, 1]; `to_bytes` inverts it."""
    return pictures.astype(np.float32) / HALF_RANGE - np.float32(1)
