"""Pictures as bytes: a zoom rounded to 8 bits, PNG files, photographs, contact sheets.

Axes: N levels, H W height and width, 3 red, green, blue (sRGB as stored; nothing here is linear).
Images are float in [-1, 1], pictures are uint8; `media.pixels` converts between them.
"""

import contextlib
import functools
import io
import logging
import math
import os
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngImageFile, PngInfo

from pot_jax.checks import Path, checked, require
from pot_jax.errors import UserError, edge
from pot_jax.media.files import write_atomically
from pot_jax.media.pixels import from_bytes, numbers_in, on_byte_scale, to_bytes
from pot_jax.zoom.geometry import Geometry, require_levels

_PICTURES = str | os.PathLike | Image.Image  # what is one picture, and not an array
_ONE = _PICTURES | np.ndarray  # what a list of pictures may hold; other lists are arrays
_DARK = 16  # the byte of a contact sheet's page


def zoom_to_bytes(
    images: np.ndarray, geometry: Geometry, *, kernel: str = "mean", held: Collection[int] = ()
) -> np.ndarray:
    """Rounds a zoom to 8 bits so that the levels agree as well as 8 bits allow.

    Let x_i be level i on the scale of bytes, q_i its bytes, D downsampling by p. If each level is
    rounded alone, q_i - D q_{i+1} has an error of variance (1 + 1/p^2) / 12 in the window (57.9 dB
    at p = 2), and in the worst case, near which flat areas come, of twice 1/2 (48 dB). Instead the
    deepest level is rounded first, and each parent includes its downsampled child's rounding error:

        q_i = round(x_i + D q_{i+1} - D x_{i+1}) inside the window, round(x_i) outside

    Where the levels agree, x_i = D x_{i+1}, the parent is the rounded D q_{i+1}: a delivered
    picture, downsampled and rounded, is its parent's window, with an error of at most 1/2 (54 dB
    in the worst case, 58.4 dB typically at p = 2). Where they do not agree (independent sampling),
    each level stays within one byte of x_i, so the disagreement is kept. The error against x_i does
    not grow with depth: D averages it away faster than rounding adds to it. In a loop, level N-1
    includes level 0's, in as many passes as `operators.render` takes. `held` levels include none.

    Takes [N, H, W, 3] float, which agree under that kernel of D, clipped to [-1, 1]; returns bytes.
    A mean of clipped values is not the clipped mean, so clip before the last render, not after.
    UserError if the geometry does not fit or the kernel is unknown, ValueError if a value is NaN.
    """
    from pot_jax.zoom.operators import downsample  # imports JAX, which nothing else here needs

    exact = on_byte_scale(images)
    require_levels(exact, geometry)
    rounded = _round(exact)
    for level in geometry.passes * [*reversed(range(geometry.windows))]:
        child = (level + 1) % geometry.levels
        error = rounded[child] - exact[child]
        target, corner = exact[level].copy(), geometry.corners[level]
        window = tuple(map(slice, corner, corner + geometry.window_shape))
        # D q is often halfway between two bytes (p = 2: one in four): 0.999 rounds these towards x.
        if level not in held:
            target[window] += 0.999 * downsample(error, geometry.zoom_factor, kernel)
        rounded[level] = _round(target)
    return rounded


def save_png(path: str | os.PathLike, picture: np.ndarray, text: dict | None = None) -> None:
    """Writes one picture, [H, W, 3] uint8, as PNG, atomically; raises UserError if it cannot.

    `text` has the file's texts by their keywords: chunks tEXt, or iTXt of what is not in Latin-1.
    """
    chunks = PngInfo()
    for keyword, value in (text or {}).items():
        chunks.add_text(keyword, value)
    with write_atomically(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG", pnginfo=chunks)


def read_text(path: str | os.PathLike) -> dict[str, str]:
    """Returns the texts of a PNG file before its pixels, which are not read, by their keywords.

    Raises UserError if it is no PNG, or damaged, or a compressed text has more than a megabyte.
    """
    with edge("reading a recipe", path), open(path, "rb") as file, PngImageFile(file) as image:
        return {name: text for name, text in image.info.items() if isinstance(text, str)}


def read_picture(path: str | os.PathLike) -> np.ndarray:
    """Reads a complete picture at its own size, [H, W, 3] uint8; UserError if there is none.

    EXIF's orientation is applied, other colour profiles become sRGB, and transparent parts white.
    """
    opened = getattr(path, "open", None) or functools.partial(open, path)  # in a store, its own
    with edge("reading a picture", path), opened("rb") as file, Image.open(file) as image:
        return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))


def read_images(given: Any, what: str) -> np.ndarray:
    """Reads pictures in any form that people have them in: [H, W, 3] or [B, H, W, 3] float32.

    That is a path, a Pillow image, or an array of NumPy, JAX or torch, [H, W, 3] or [B, H, W, 3],
    or a list of these, all of one size: bytes (uint8), or floats in [-1, 1], the result's range.
    Bytes may also be grey [H, W], or have an opacity [H, W, 4]. `what` names the argument in
    messages. Raises UserError if it is no picture, or its values are out of range or NaN.
    """
    if _is_list(given):
        return _stacked(given, what, read_images)
    values = _values(given, what)
    if values.dtype == np.uint8 and (values.ndim == 2 or values.shape[2:] in ((1,), (4,))):
        one = values[..., 0] if values.shape[2:] == (1,) else values
        values = np.asarray(_to_rgb(Image.fromarray(one)))
    if values.ndim not in (3, 4) or values.shape[-1] != 3 or not values.size:
        raise UserError(f"{what}: expected [H, W, 3] or [B, H, W, 3], got {values.shape}")
    if values.dtype == np.uint8:
        return from_bytes(values)
    return _floats(values, what, -1, "bytes (uint8) or floats in [-1, 1]")


def read_mask(given: Any, what: str = "mask") -> np.ndarray:
    """Reads masks: a path, a Pillow image, an array [H, W] or [B, H, W], or a list of these.

    Values are booleans, 0 and 1, bytes (0 to 255) or floats in [0, 1]; one half or more is true. An
    array of one mask may have a last axis, of one channel or of colours in bytes. Returns [H, W] or
    [B, H, W] bool; raises UserError if it is no picture, or its values are out of range or NaN.
    """
    if _is_list(given):
        return _stacked(given, what, read_mask)
    values = _values(given, what)
    if values.dtype == np.uint8 and values.shape[2:] in ((3,), (4,)):
        values = np.asarray(_to_rgb(Image.fromarray(values)).convert("L"))
    values = values[..., 0] if values.shape[2:] == (1,) else values
    if values.ndim not in (2, 3) or not values.size:
        raise UserError(f"{what}: expected [H, W] or [B, H, W], got {values.shape}")
    highest = values.max()
    if values.dtype.kind in "bui" and values.min() >= 0 and highest <= 255:
        expected = "0 and 1, or bytes of which 128 and more are painted"
        require(highest <= 1 or highest >= 128, what, expected, f"{highest} at the most")
        return values >= (128 if highest > 1 else 1)
    return _floats(values, what, 0, "booleans, bytes (0 to 255) or floats in [0, 1]") >= 0.5


def _is_list(given: Any) -> bool:
    return isinstance(given, list | tuple) and any(isinstance(one, _ONE) for one in given)


def _stacked(given: Any, what: str, read: Callable) -> np.ndarray:
    pictures = [read(one, f"{what}[{i}]") for i, one in enumerate(given)]
    shapes = sorted({picture.shape for picture in pictures})
    require(len(shapes) == 1, what, "pictures of one size", shapes)
    return np.stack(pictures)


def _values(given: Any, what: str) -> np.ndarray:
    """Returns an array of pictures; a file or a Pillow image as [H, W, 3] uint8."""
    if isinstance(given, str | os.PathLike):
        return read_picture(checked(given, Path, what))
    if isinstance(given, Image.Image):
        with edge("reading a picture", what):
            return np.asarray(_to_rgb(ImageOps.exif_transpose(given)))
    values = numbers_in(given, what, "a path, a Pillow image or an array")
    return values if values.dtype.kind in "bui" else values.astype(np.float32)


def _floats(values: np.ndarray, what: str, lowest: int, expected: str) -> np.ndarray:
    low, high = np.min(values), np.max(values)  # NaN if a value is
    if not (values.dtype.kind == "f" and low >= lowest and high <= 1):
        raise UserError(f"{what}: expected {expected}, got {values.dtype} from {low:g} to {high:g}")
    if low >= 0 > lowest:
        black = "-1 is black here, and 0 is grey"
        logging.warning("%s: floats from %s to %s; %s", what, low, high, black)
    return values


def read_photograph(
    given: Any, height: int, width: int, fit: str = "crop", what: str = "photograph"
) -> np.ndarray:
    """Reads a photograph as [height, width, 3] float32, resized.

    `given` is one picture as for `read_images`, which `what` names in messages; floats must have
    the size already. `fit` is "crop", to the largest centred part, or "pad": all of it, centred,
    NaN around it. Raises UserError if there is no such file, or no complete picture that fits.
    """
    values = read_images(given, what)
    expected = (height, width, 3)
    if values.shape == expected:
        return values
    in_bytes = isinstance(given, _PICTURES) or _values(given, "").dtype == np.uint8
    if values.ndim != 3 or not in_bytes:
        raise UserError(f"{what}: expected pixels of {expected}, got {values.shape}")
    # Pillow widens the Lanczos kernel when it downsamples, so that fine texture does not alias.
    image, kernel = Image.fromarray(to_bytes(values)), Image.Resampling.LANCZOS
    if fit == "crop":
        return from_bytes(np.asarray(ImageOps.fit(image, (width, height), kernel)))
    scale = min(height / image.height, width / image.width)
    size = [max(round(scale * side), 1) for side in image.size]
    inside = from_bytes(np.asarray(image.resize(size, kernel)))
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    photo = np.full(expected, np.nan, np.float32)
    photo[top : top + size[1], left : left + size[0]] = inside
    return photo


def contact_sheet(pictures: np.ndarray) -> np.ndarray:
    """Lays pictures, uint8 [N, H, W, 3], on one dark page in reading order, uint8 [h, w, 3]."""
    count, height, width = pictures.shape[:3]

    def ugliness(columns):
        # A page about 1.6 times as wide as high suits a screen; avoid empty cells at its end.
        rows = -(-count // columns)
        aspect = columns * width / (rows * height)
        return abs(math.log(aspect / 1.6)) + 3 * (rows * columns - count) / count

    columns = min(range(1, count + 1), key=ugliness)
    rows, gutter = -(-count // columns), max(2, min(height, width) // 40)
    padding = ((0, rows * columns - count), (gutter, 0), (gutter, 0), (0, 0))
    cells = np.pad(pictures, padding, constant_values=_DARK)
    cells = cells.reshape(rows, columns, *cells.shape[1:]).swapaxes(1, 2)
    page = cells.reshape(rows * (height + gutter), columns * (width + gutter), 3)
    return np.pad(page, ((0, gutter), (0, gutter), (0, 0)), constant_values=_DARK)


def _round(values: np.ndarray) -> np.ndarray:
    # Halfway cases go up, as in every zoom delivered so far.
    return np.clip(np.floor(values + np.float32(0.5)), 0, 255).astype(np.uint8)


def _to_rgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I"):  # 16-bit grey, whichever way Pillow spells it
        values = np.asarray(image, np.float32) / 257 + 0.5
        return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        reason = "a floating-point picture has no defined white level"
        raise ValueError(f"{reason}; save it with 8 or 16 bits per channel")
    if image.mode == "P" or image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        image = Image.composite(image.convert("RGB"), white, image.getchannel("A"))
    if profile and image.mode in ("RGB", "CMYK"):
        # If the profile is broken, the values are taken as sRGB.
        with contextlib.suppress(ImageCms.PyCMSError, OSError):
            profiles = io.BytesIO(profile), ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
    return image.convert("RGB")
