"""Damaged photographs: each is read as a whole picture, or refused in one line."""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from pot_jax.errors import UserError
from pot_jax.media.images import read_photograph

COUNT = 200  # tools/acceptance hands takes 2,000
KINDS = {
    "png": {}, "jpeg": {"quality": 80}, "webp": {"lossless": True}, "gif": {}, "bmp": {},
    "tiff": {"compression": "tiff_lzw"}, "ppm": {}, "ico": {}, "tga": {}, "jpeg2000": {},
}  # fmt: skip
MODES = ("RGB", "RGB", "L", "P", "1", "RGBA", "CMYK", "I;16")


def encoded(rng) -> bytes:
    """A small picture of a drawn kind, mode and size."""
    shape = (*rng.integers(1, 40, 2), 3)
    picture = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
    while True:
        kind, out = str(rng.choice([*KINDS])), io.BytesIO()
        try:
            picture.convert(str(rng.choice(MODES))).save(out, format=kind, **KINDS[kind])
            return out.getvalue()
        except (OSError, ValueError, KeyError):  # a mode that the kind, or Pillow, does not have
            continue


def damaged(data: bytes, rng) -> bytes:
    """The bytes with one to four things done to them; more often near the beginning."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        place = int(len(data) * rng.uniform() ** 3)
        what = rng.integers(6)
        if what == 0:
            data = data[:place]
        elif what == 1:
            data[place:place] = rng.bytes(rng.integers(1, 9))
        elif what == 2:
            del data[place : place + rng.integers(1, 9)]
        elif what == 3:
            data[place : place + 4] = [b"\0\0\0\0", b"\xff\xff\xff\xff"][rng.integers(2)]
        elif place < len(data):
            data[place] ^= 1 << rng.integers(8) if what == 4 else rng.integers(1, 256)
    return bytes(data)


def breaches(folder: Path, count: int) -> list[str]:
    """What went wrong with `count` damaged photographs, a line each; one that is sound counts."""
    rng, path, found, read = np.random.default_rng(0), folder / "photo.png", [], 0
    for index in range(count):
        data = damaged(encoded(rng), rng)
        path.write_bytes(data)
        fit = ("crop", "pad")[index % 2]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                photo = read_photograph(path, 16, 24, fit)
            read += 1
            known = ~np.isnan(photo[..., 0])
            whole = photo.shape == (16, 24, 3) and known.any() and np.abs(photo[known]).max() <= 1
            if not whole or (fit == "crop" and not known.all()):
                found.append(f"{index}: {photo.shape}, {known.mean()} of it known")
        except UserError as error:
            if len(str(error).splitlines()) != 1 or str(path) not in str(error):
                found.append(f"{index}: {error}")
        except Exception as error:  # a traceback for the user
            found.append(f"{index}: {error!r} of {data[:12]}")
    if not count / 20 < read < count * 19 / 20:
        found.append(f"{read} of {count} were read: the damage is too great or too small")
    return found


def test_damaged_photographs_are_read_or_refused_in_one_line(tmp_path):
    assert breaches(tmp_path, COUNT) == []
