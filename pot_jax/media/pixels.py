"""Pixels in [-1, 1] and the bytes they are stored as: b = 127.5 (x + 1), from 0 to 255.

NumPy alone, so that the processes that render training data start without JAX.
"""

import numpy as np

HALF_RANGE = np.float32(127.5)  # bytes per unit of [-1, 1]


def on_byte_scale(images: np.ndarray) -> np.ndarray:
    """Returns pictures on the scale of bytes, unrounded.

    Args:
      images: [...], float; -1 is black, 1 is white, values beyond are clipped.

    Returns:
      [...] float32, in [0, 255].

    Raises:
      ValueError: a value is NaN.
    """
    images = np.asarray(images, np.float32)
    if missing := np.isnan(images).sum():
        raise ValueError(f"{missing} of {images.size} picture values are NaN")
    return (np.clip(images, -1, 1) + np.float32(1)) * HALF_RANGE


def to_bytes(images: np.ndarray) -> np.ndarray:
    """Rounds pictures to bytes, halfway cases to the even one.

    Args:
      images: [...], float; -1 is black, 1 is white, values beyond are clipped.

    Returns:
      [...] uint8, the nearest byte.

    Raises:
      ValueError: a value is NaN.
    """
    return np.rint(on_byte_scale(images)).astype(np.uint8)


def from_bytes(pictures: np.ndarray) -> np.ndarray:
    """Returns bytes as float32 in [-1, 1]; `to_bytes` gives the same bytes back.

    Args:
      pictures: [...] uint8, of NumPy or of JAX (traced or not).

    Returns:
      [...] float32, of the same library.
    """
    return pictures.astype(np.float32) / HALF_RANGE - np.float32(1)
