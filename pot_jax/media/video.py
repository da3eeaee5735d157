"""The movie's frames: what a camera sees that flies through the zoom.

Symbols, besides those of `media.camera`: H x W a level's pixels, h x w a frame's. What belongs to
an axis comes as a pair (y, x). A position along an axis is a fraction of a side, the level's or the
view's, which is as large as a level's window or, of another aspect, the largest one inside.
"""

import collections
import concurrent.futures
import functools
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from pot_jax.checks import require
from pot_jax.config import MovieSettings
from pot_jax.errors import UserError
from pot_jax.media.camera import course, fixed_point, flight_frames
from pot_jax.media.captions import read_font
from pot_jax.media.encoding import LARGEST, movie_format, to_yuv
from pot_jax.media.pixels import to_bytes
from pot_jax.zoom.geometry import Geometry, require_levels

# Width of the soft edge between a level and the wider one below it, as a fraction of its side. The
# levels agree, so only sharpness changes across it; a hard edge would show as a square.
_EDGE = 0.1

_FRAME_THREADS = 2  # make frames while others are encoded; eight times as many are kept
_BLACK = 16, 128, 128  # Y, U and V


def zoom_frames(
    images: np.ndarray,
    geometry: Geometry,
    path: Iterable[float],
    *,
    size: int | None = None,
    aspect: float = 0.0,
    fit: str = "crop",
    pix_fmt: str = "rgb24",
    over: Callable[[float, list[Image.Image], float], None] = lambda *seen: None,
) -> Iterator[np.ndarray]:
    """Yields the camera's view at every t of `path`, from images that agree: at t = i, level i.

    Between levels it moves as `media.camera` says. A frame starts as the deepest level that fills
    it. Each deeper one is laid over it, with a soft edge, and fades in while it grows from 1/p of
    the frame's pixel density to all of it. While it is that small, its mean is what the wider level
    already shows. So where levels agree, nothing appears, ends or is replaced suddenly. Pillow uses
    a Catmull-Rom kernel at sub-pixel positions, which is widened where a level is downsampled.

    Images are [N, H, W, 3], float in [-1, 1]; `size` is the frame's shorter side in pixels, rounded
    to even, by default the levels' own. `aspect` is its width over its height, 0 the levels' own:
    they are cropped around their centres or, by `fit` "letterbox", laid whole on black. `over` may
    draw on a frame: it gets t, its planes, and the pixels that level t's whole width takes there.
    `pix_fmt` is "rgb24"; or "yuv420p", which takes half the time, since colours are resampled at
    half the resolution only. Frames are uint8: [h, w, 3], or Y, U and V one after another, [3/2 h,
    w]; a repeated t yields the same array again. Raises UserError if the images do not fit the
    geometry, a t is outside [0, N-1] ([0, N] in a loop), or size < 1; ValueError if a value is NaN.
    """
    require_levels(images, geometry)
    require(np.shape(images)[3] == 3, "images", "3 colours, [N, H, W, 3]", np.shape(images))
    sides = geometry.height, geometry.width
    outer = frame_shape(*sides, size, aspect)
    boxed = fit == "letterbox"
    shape = _inscribed(sides, outer) if aspect and boxed else outer
    part_shown = _part(sides, 0 if boxed else aspect)
    places, place = fixed_point(geometry), course(geometry)

    @functools.lru_cache(maxsize=16)  # only the levels near the camera, however deep the zoom
    def planes(level):
        # A margin of p, for frame pixels that only partly lie in the level.
        margins = (2 * ((geometry.zoom_factor,) * 2,)) + ((0, 0),)
        padded = np.pad(to_bytes(images[level]), margins, mode="edge")
        if pix_fmt == "rgb24":
            return [Image.fromarray(padded)]
        return [Image.fromarray(plane) for plane in to_yuv(padded, "yuv444p").to_ndarray()]

    def view(t):
        parts = []
        for plane, cells in enumerate((1,) if pix_fmt == "rgb24" else (1, 2, 2)):
            if plane < 2:
                of = tuple(side // cells for side in shape)
                layers = list(_layers(geometry, places, place(t), t, of, part_shown))
            part = _laid_over(layers, planes, plane)
            if outer != shape:
                gaps = tuple((n // cells - own) // 2 for n, own in zip(outer[::-1], part.size))
                part = ImageOps.expand(part, gaps, 0 if pix_fmt == "rgb24" else _BLACK[plane])
            parts.append(part)
        over(t, parts, shape[1] / part_shown[1])
        if pix_fmt == "rgb24":
            return np.asarray(parts[0])
        return np.concatenate([np.asarray(part).ravel() for part in parts]).reshape(-1, outer[1])

    last_t, frame, ahead = None, None, collections.deque()
    with concurrent.futures.ThreadPoolExecutor(_FRAME_THREADS) as threads:
        for t in path:
            if not 0 <= t <= geometry.windows:
                raise UserError(f"the camera's level {t} is outside 0 to {geometry.windows}")
            if t != last_t:
                last_t, frame = t, threads.submit(view, float(t))
            ahead.append(frame)
            if len(ahead) > 8 * _FRAME_THREADS:
                yield ahead.popleft().result()
        for frame in ahead:
            yield frame.result()


def frame_shape(
    height: int, width: int, size: int | None = None, aspect: float = 0.0
) -> tuple[int, int]:
    """Returns (h, w) of a frame of levels [H, W] whose shorter side is about `size` pixels.

    `aspect` is its width over its height, 0 the levels' own; then the size may be None, theirs.
    Both are even, as 4:2:0 needs. Raises UserError if the size is below 1.
    """
    sides = [side * part for side, part in zip((height, width), _part((height, width), aspect))]
    if size is not None and not size >= 1:
        raise UserError(f"expected a frame of at least 1 pixel, got size {size}")
    scale = 1 if size is None else size / min(sides)
    return tuple(max(2, 2 * math.floor(side * scale / 2 + 0.5)) for side in sides)


def _part(sides: tuple[int, int], aspect: float) -> tuple[float, float]:
    """How much of the sides (y, x) the largest window of that aspect takes; 0: all of it."""
    own = sides[1] / sides[0]
    return (min(1.0, own / aspect), min(1.0, aspect / own)) if aspect else (1.0, 1.0)


def _inscribed(sides: tuple[int, int], outer: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of the largest picture of such sides in a frame, with even gaps as 4:2:0 needs."""
    scale = min(n / side for n, side in zip(outer, sides))
    gaps = (4 * math.ceil((n - side * scale) / 4 - 1e-9) for n, side in zip(outer, sides))
    return tuple(max(n % 4 or 4, n - gap) for n, gap in zip(outer, gaps))


def check_movie(
    geometry: Geometry, movie: MovieSettings, path: str | os.PathLike = "zoom.mp4"
) -> None:
    """Raises UserError unless a zoom's movie can be encoded to `path`; quick, without files."""
    height, width = geometry.height, geometry.width
    frame = frame_shape(height, width, movie.size, movie.ratio)
    if max(frame) > LARGEST:
        raise UserError(
            f"movie.size: a movie of pictures of {height} x {width} pixels would be {frame[0]} x "
            f"{frame[1]}, and its encoder takes up to {LARGEST}; give a smaller size"
        )
    flight_frames(geometry.levels, movie, loop=geometry.loop)
    movie_format(path, movie.fps)
    read_font(movie, 16)


class _Axis(NamedTuple):
    """How one level is resampled along one axis of the frame."""

    first: int  # of the frame's pixels whose centres lie in the level
    box: tuple[float, float]  # what those pixels show, in the level's pixels with its margin
    edge: np.ndarray  # the level's opacity in each: 0 at an edge inside the frame, 1 further in


class _Layer(NamedTuple):
    """How one level is laid into a frame."""

    level: int
    y: _Axis
    x: _Axis
    opacity: Image.Image | None  # None: it fills the frame


def _layers(geometry: Geometry, places, focus, t: float, shape, part) -> Iterator[_Layer]:
    """The levels in the view at t that has F at `focus`; it is `part` of a level's window."""
    p, sides, part = geometry.zoom_factor, (geometry.height, geometry.width), np.array(part)
    # Frame pixels per level pixel: at 1, a level is shown in full.
    enough = np.minimum(1, np.divide(shape, sides) / part)

    def span(level):  # where the level begins in the view, and how far it extends, [2] each
        whole = p ** (t - level)
        begin = (focus - places[level % len(places)] * whole) / part - (1 / part - 1) / 2
        return begin, whole / part

    def fills(level):
        slack = 1e-9  # rounding must not leave a hairline of a wider level around a picture
        begin, extent = span(level)
        return np.all(begin <= slack) and np.all(begin + extent >= 1 - slack)

    base = math.floor(t) + 1
    base = base if geometry.loop else min(geometry.levels - 1, base)
    while not fills(base):
        base -= 1
    for level in itertools.count(base) if geometry.loop else range(base, geometry.levels):
        begin, extent = span(level)
        density = shape * extent / sides
        presence = min(1 + math.log(d / w, p) for d, w in zip(density, enough))
        if level > base and presence <= 0:
            break
        y, x = (_axis(*axis, p) for axis in zip(shape, sides, begin.tolist(), extent.tolist()))
        if not len(y.edge) or not len(x.edge):
            continue
        opacity = None
        if level > base:  # whole numbers, since frames have many pixels: 256 x 255 at most
            across = np.rint(256 * x.edge).astype(np.uint16)
            down = np.rint(255 * _smooth(presence) * y.edge).astype(np.uint16)
            opacity = Image.fromarray((np.outer(down, across) >> 8).astype(np.uint8))
        yield _Layer(level % len(places), y, x, opacity)


def _laid_over(layers: list[_Layer], planes: Callable, plane: int) -> Image.Image:
    """Returns the picture of a plane, the one of that number in each level's `planes(level)`."""
    frame, kernel = None, Image.Resampling.BICUBIC
    for level, y, x, opacity in layers:
        box = (x.box[0], y.box[0], x.box[1], y.box[1])
        part = planes(level)[plane].resize((len(x.edge), len(y.edge)), kernel, box)
        if opacity is None:
            frame = part
        else:
            frame.paste(part, (x.first, y.first), opacity)
    return frame


@functools.lru_cache(maxsize=64)  # in square pictures whose levels are centred, both axes are alike
def _axis(pixels: int, side: int, begin: float, extent: float, margin: int) -> _Axis:
    first = max(0, math.ceil(begin * pixels - 0.5 - 1e-9))
    last = min(pixels - 1, math.floor((begin + extent) * pixels - 0.5 + 1e-9))
    view = (np.arange(first, last + 1) + 0.5) / pixels  # places in the view
    ends = ((end / pixels - begin) / extent * side + margin for end in (first, last + 1))
    box = tuple(min(max(place, 0), side + 2 * margin) for place in ends)
    edge = np.ones(len(view), np.float32)
    end = begin + extent
    for gap, distance in ((begin, view - begin), (1 - end, end - view)):
        width = min(_EDGE * extent, gap)  # no soft edge where the level ends outside the view
        if width > 0:
            edge *= _smooth(distance / width)
    return _Axis(first, box, edge)


def _smooth(x):
    x = np.minimum(np.maximum(x, np.float32(0)), np.float32(1))
    return x * x * (3 - 2 * x)
