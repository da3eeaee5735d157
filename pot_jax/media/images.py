"""Pictures as bytes: rounding, PNG files, photographs, contact sheets.

Everywhere else a picture is float in [-1, 1]; here it meets the byte b = 127.5 (x + 1), 0 to 255.
Axes: N levels, H W rows and columns, 3 red, green, blue (sRGB as stored; nothing here is linear).
"""

import io
import math
import os
import pathlib

import numpy as np
from PIL import Image, ImageCms, ImageOps

from pot_jax.errors import UserError
from pot_jax.media.files import write_atomically
from pot_jax.media.pixels import from_bytes, on_byte_scale, to_bytes  # noqa: F401
from pot_jax.zoom import operators
from pot_jax.zoom.geometry import Geometry


def stack_to_bytes(images: np.ndarray, geometry: Geometry, *, kernel: str = "mean") -> np.ndarray:
    """Round a whole zoom to bytes so that the levels agree as far as bytes can.

    Let x_i be level i on the scale of bytes, q_i its bytes, D the shrinking by p. Rounding each
    level alone leaves q_i - D q_{i+1} an error of variance (1 + 1/p^2) / 12 in the window, 57.9 dB
    at p = 2, and up to twice 1/2 in the worst case (48 dB), which flat areas halfway between two
    bytes approach. Instead the deepest level is rounded first and its parent takes in what became
    of the shrunken picture:

        q_i = round(x_i + D q_{i+1} - D x_{i+1})      inside the window
        q_i = round(x_i)                              outside

    Where the levels agree, x_i = D x_{i+1}, the parent is the rounded D q_{i+1}: shrinking a
    delivered picture and rounding gives its parent's window, with an error of at most 1/2 (54 dB
    in the worst case, 58.4 dB typically at p = 2). Where they do not agree (independent sampling),
    what each shows is kept to within a byte, and so is the disagreement. The error against x_i
    does not grow with depth: D averages it away faster than rounding adds to it.

    Args:
      images: [N, H, W, 3], float in [-1, 1]. Values beyond are clipped, and a mean of clipped
        values is not the clipped mean: clip before the last render, not after.
      geometry: where each level lies in the one before.
      kernel: the shrinking that `images` agree under, a name in `zoom.operators.KERNELS`.

    Returns:
      [N, H, W, 3] uint8.

    Raises:
      ValueError: a value is NaN, or the shape is not the geometry's.
    """
    exact = on_byte_scale(images)
    if exact.shape[:3] != (geometry.levels, geometry.height, geometry.width):
        raise ValueError(
            f"images have shape {exact.shape}, but the geometry says {geometry.levels} levels of "
            f"{geometry.height} x {geometry.width}"
        )
    rounded = np.empty(exact.shape, np.uint8)
    rounded[-1] = _round(exact[-1])
    height, width = geometry.window_shape
    for level in range(geometry.levels - 2, -1, -1):
        error = rounded[level + 1] - exact[level + 1]
        shrunk = np.asarray(operators.downsample(error, geometry.zoom_factor, kernel))
        top, left = geometry.corners[level]
        target = exact[level].copy()
        # D q is often halfway between two bytes (at p = 2, one time in four). A thousandth less
        # than the whole correction lets such ties fall towards x.
        target[top : top + height, left : left + width] += 0.999 * shrunk
        rounded[level] = _round(target)
    return rounded


def save_png(path: str | os.PathLike, picture: np.ndarray) -> None:
    """Write one picture, [H, W, 3] uint8, as PNG, atomically.

    Raises:
      UserError: the place cannot be written.
    """
    with write_atomically(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")


def read_picture(path: str | os.PathLike) -> np.ndarray:
    """Read a picture of any kind as it is, [H, W, 3] uint8.

    It is turned upright as its EXIF orientation says, brought to sRGB where it carries another
    colour profile, and laid on white where it is transparent.

    Raises:
      UserError: there is no such file, or it is not a whole picture.
    """
    path = pathlib.Path(path)
    try:
        with Image.open(path) as image:
            return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
    except FileNotFoundError:
        raise UserError(f"no picture at {path}") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, not a picture") from None
    except PermissionError:
        raise UserError(f"no permission to read the picture {path}") from None
    except Image.UnidentifiedImageError:
        raise UserError(f"{path} is not a picture of a known kind (PNG, JPEG, ...)") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"the picture {path} is too large: {error}") from None
    # Pillow's decoders raise any of these on cut or corrupted files.
    except (OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError) as error:
        raise UserError(f"the picture {path} cannot be read, it may be cut off: {error}") from None


def read_photograph(path: str | os.PathLike, height: int, width: int) -> np.ndarray:
    """Read a photograph at a wanted size: the largest centred crop of that shape, resized.

    Args:
      path: a picture of any kind that Pillow reads.
      height: wanted rows, in pixels.
      width: wanted columns, in pixels.

    Returns:
      [height, width, 3] float32 in [-1, 1].

    Raises:
      UserError: there is no such file, or it is not a whole picture.
    """
    image = Image.fromarray(read_picture(path))
    scale = min(image.width / width, image.height / height)
    left, top = (image.width - width * scale) / 2, (image.height - height * scale) / 2
    box = (left, top, left + width * scale, top + height * scale)
    # Lanczos widens its kernel when shrinking, so fine texture does not alias.
    return from_bytes(np.asarray(image.resize((width, height), Image.Resampling.LANCZOS, box=box)))


def contact_sheet(pictures: np.ndarray, *, side: int | None = None) -> np.ndarray:
    """Lay all levels on one dark page, in reading order.

    Args:
      pictures: [N, H, W, 3], uint8.
      side: longer side of each picture on the page, in pixels; by default as they are.

    Returns:
      [rows, columns, 3] uint8.
    """
    count, height, width = pictures.shape[:3]
    if side is not None:
        scale = side / max(height, width)
        height, width = round(height * scale), round(width * scale)
        pictures = np.stack(
            [
                np.asarray(Image.fromarray(p).resize((width, height), Image.Resampling.LANCZOS))
                for p in pictures
            ]
        )
    columns = _sheet_columns(count, height, width)
    rows = -(-count // columns)
    gutter = max(2, min(height, width) // 40)
    page = np.full(
        (rows * (height + gutter) + gutter, columns * (width + gutter) + gutter, 3), 16, np.uint8
    )
    for index, picture in enumerate(pictures):
        top = gutter + (index // columns) * (height + gutter)
        left = gutter + (index % columns) * (width + gutter)
        page[top : top + height, left : left + width] = picture
    return page


def _sheet_columns(count: int, height: int, width: int) -> int:
    # A page about 1.6 times as wide as high reads well on a screen; a page with holes does not.
    def ugliness(columns):
        rows = -(-count // columns)
        aspect = columns * width / (rows * height)
        return abs(math.log(aspect / 1.6)) + 3 * (rows * columns - count) / count

    return min(range(1, count + 1), key=ugliness)


def _round(values: np.ndarray) -> np.ndarray:
    # Halfway cases go up, as in every zoom delivered so far.
    return np.clip(np.floor(values + np.float32(0.5)), 0, 255).astype(np.uint8)


def _to_rgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I"):  # 16-bit grey, whichever way Pillow spells it
        return Image.fromarray(
            np.clip(np.asarray(image, np.float32) / 257 + 0.5, 0, 255).astype(np.uint8)
        ).convert("RGB")
    if image.mode == "F":
        raise ValueError("float pictures have no fixed white; save it with 8 or 16 bits a channel")
    if image.mode in ("P", "PA", "LA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode == "RGBA":
        opacity = image.getchannel("A")
        image = image.convert("RGB")
        image = Image.composite(image, Image.new("RGB", image.size, "white"), opacity)
    if profile and image.mode in ("RGB", "CMYK"):
        try:
            return ImageCms.profileToProfile(
                image, io.BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
        except (ImageCms.PyCMSError, OSError):
            pass  # a broken profile: the numbers are then all there is to go by
    return image.convert("RGB")
