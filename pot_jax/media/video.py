"""The movie: a camera that flies through the zoom at a constant rate, and its MP4.

Symbols: N levels, p the zoom factor, H x W a level's pixels, h x w a frame's; t the camera's level,
a real number in [0, N-1]: its view is p^-t as wide as level 0. In a loop t ends at N, where it sees
level 0 again, and level i+N is level i. What belongs to an axis comes as a pair (y, x). A position
along an axis is a fraction of a side, the level's or the view's.
"""

import collections
import concurrent.futures
import fractions
import functools
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from PIL import Image

from pot_jax.checks import require
from pot_jax.config import MovieSettings
from pot_jax.errors import UserError, edge, shown
from pot_jax.media.files import write_atomically
from pot_jax.media.pixels import to_bytes
from pot_jax.zoom.geometry import Geometry, require_levels

# Width of the soft edge between a level and the wider one below it, as a fraction of its side. The
# levels agree, so only sharpness changes across it; a hard edge would show as a square.
_EDGE = 0.1

# The bytes that x264 writes depend on its thread count; a file must not depend on the machine.
_THREADS = 2
_FRAME_THREADS = 2  # make frames while others are encoded; eight times as many are kept

FORMATS = {".mp4": "mp4", ".mov": "mov"}  # a movie's ending -> what it is
_LARGEST = 16384  # pixels of a side, x264's limit
_LONGEST = 1_000_000  # frames: nine hours at 30 a second

_BT709 = 1  # both as primaries and as transfer curve (ITU-T H.273, tables 2 and 3)


def zoom_path(
    levels: int,
    *,
    seconds_per_level: float,
    fps: float,
    hold: float = 0.5,
    direction: str = "in",
    loop: bool = False,
) -> np.ndarray:
    """Returns the camera's level t at every frame.

    t changes linearly, so the width p^-t changes exponentially: a constant rate to the eye. It
    becomes p times narrower in `seconds_per_level`, and rests for `hold` seconds before the flight
    and where it ends. Directions are "in", from level 0 to level N-1, "out", the reverse, and
    "both", in and out again, which does not rest again on its return. The film of a `loop` flies
    over N levels without a rest, and its last frame is the one before the first. Returns [F]
    float64, in [0, N-1], of a loop in [0, N]. Raises UserError if the direction is unknown, or a
    number is out of range.
    """
    if direction not in DIRECTIONS:
        raise UserError(f"unknown direction {direction!r}; known: {', '.join(DIRECTIONS)}")
    if not (seconds_per_level > 0 and fps > 0 and hold >= 0):
        expected = "seconds_per_level > 0, fps > 0 and hold >= 0"
        raise UserError(f"expected {expected}, got {seconds_per_level}, {fps} and {hold}")
    falls = levels - (not loop)
    fall = np.linspace(0, falls, max(loop, round(falls * seconds_per_level * fps)) + 1)
    if loop:
        return DIRECTIONS[direction](fall, 0)[:-1]
    return DIRECTIONS[direction](fall, round(hold * fps))


def _one_way(fall, rest):
    return np.concatenate([np.repeat(fall[:1], rest), fall, np.repeat(fall[-1:], rest)])


DIRECTIONS = {
    "in": _one_way,
    "out": lambda fall, rest: _one_way(fall[::-1], rest),
    "both": lambda fall, rest: np.concatenate([_one_way(fall, rest), fall[-2::-1]]),
}


def zoom_frames(
    images: np.ndarray,
    geometry: Geometry,
    path: Iterable[float],
    *,
    size: int | None = None,
    pix_fmt: str = "rgb24",
) -> Iterator[np.ndarray]:
    """Yields the camera's view at every t of `path`, from images that agree.

    The view at t = 0 is level 0 and at t = N-1 level N-1. In between, one point F of the world
    stays fixed on the screen: the fixed point of the map from level 0 to level N-1, in a loop to
    level 0 again. If every level is centred, F is the centre and the view at t = i is level i.

    A frame starts as the deepest level that fills it. Each deeper level is laid over it, with a
    soft edge, and fades in while it grows from 1/p of the frame's pixel density to all of it. While
    it is that small, its mean is what the wider level already shows. So nothing appears, ends or is
    replaced suddenly: levels that agree give a movie without pops. Pillow resamples at sub-pixel
    positions with a Catmull-Rom kernel, which is widened where a level is downsampled.

    Images are [N, H, W, 3], float in [-1, 1]; `size` is the frame's shorter side in pixels, rounded
    to even, by default the levels' own. `pix_fmt` is "rgb24"; or "yuv420p", which takes half the
    time, since colours are resampled at half the resolution only. Frames are uint8: [h, w, 3], or
    Y, U and V one after another, [3/2 h, w]; a repeated t yields the same array again. Raises
    UserError if the images do not fit the geometry, some t is outside [0, N-1] ([0, N] in a loop),
    or size < 1, and ValueError if a value is NaN.
    """
    require_levels(images, geometry)
    require(np.shape(images)[3] == 3, "images", "3 colours, [N, H, W, 3]", np.shape(images))
    shape = frame_shape(geometry.height, geometry.width, size)
    centres = _fixed_point(geometry)

    @functools.lru_cache(maxsize=16)  # only the levels near the camera, however deep the zoom
    def planes(level):
        # A margin of p, for frame pixels that only partly lie in the level.
        margins = (2 * ((geometry.zoom_factor,) * 2,)) + ((0, 0),)
        padded = np.pad(to_bytes(images[level]), margins, mode="edge")
        if pix_fmt == "rgb24":
            return [Image.fromarray(padded)]
        return [Image.fromarray(plane) for plane in _to_yuv(padded, "yuv444p").to_ndarray()]

    def view(t):
        layers = list(_layers(geometry, centres, t, shape))
        if pix_fmt == "rgb24":
            return _laid_over(layers, planes, 0)
        halves = list(_layers(geometry, centres, t, tuple(side // 2 for side in shape)))
        parts = [_laid_over(of, planes, plane) for plane, of in enumerate((layers, halves, halves))]
        return np.concatenate([part.ravel() for part in parts]).reshape(-1, shape[1])

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


def frame_shape(height: int, width: int, size: int | None = None) -> tuple[int, int]:
    """Returns (h, w) of a frame of levels [H, W] whose shorter side is about `size` pixels.

    Both are even, as 4:2:0 needs. Raises UserError if the size is below 1.
    """
    sides = height, width
    if size is not None and not size >= 1:
        raise UserError(f"expected a frame of at least 1 pixel, got size {size}")
    scale = 1 if size is None else size / min(sides)
    return tuple(max(2, 2 * math.floor(side * scale / 2 + 0.5)) for side in sides)


def check_movie(geometry: Geometry, movie: MovieSettings) -> None:
    """Raises UserError unless a zoom's movie can be encoded; quick, and without files."""
    height, width, falls = geometry.height, geometry.width, geometry.windows
    frame = frame_shape(height, width, movie.size)
    if max(frame) > _LARGEST:
        raise UserError(
            f"movie.size: a movie of pictures of {height} x {width} pixels would be {frame[0]} x "
            f"{frame[1]}, and its encoder takes up to {_LARGEST}; give a smaller size"
        )
    seconds = falls * movie.seconds_per_level * (2 if movie.direction == "both" else 1)
    if seconds * movie.fps > _LONGEST:
        raise UserError(
            f"movie.seconds_per_level: expected a movie of up to {_LONGEST} frames, got "
            f"{seconds:.3g} seconds at {movie.fps} frames a second"
        )


def movie_format(path: str | os.PathLike) -> str:
    """Returns what a movie of this name is; raises UserError if its ending is none of `FORMATS`."""
    known, ending = " or ".join(FORMATS), os.path.splitext(path)[1].lower()
    if ending not in FORMATS:
        raise UserError(f"expected the name of a movie to end in {known}, got {shown(path)}")
    return FORMATS[ending]


def write_video(
    path: str | os.PathLike, frames: Iterable[np.ndarray], fps: float, comment: str = ""
) -> None:
    """Writes frames as H.264 (yuv420p, BT.709), atomically; equal frames give equal bytes.

    A `comment` is written to the container's metadata.

    The path's ending is one of `FORMATS`. Frames are uint8, all of one shape: RGB [h, w, 3], where
    an odd side is padded with its last pixels, or YUV planes [3/2 h, w] as from `zoom_frames`.
    Raises UserError if there are no frames, one is too large or of another shape, or `path` cannot
    be written.
    """
    kind, frames = movie_format(path), iter(frames)
    if (first := next(frames, None)) is None:
        raise UserError("a movie needs at least one frame, got none")
    height, width = first.shape[:2]
    shape = (height, width) if first.ndim == 3 else (height * 2 // 3, width)
    if max(shape) > _LARGEST:
        raise UserError(f"expected frames of up to {_LARGEST} pixels a side, got {shape}")
    # Faststart puts the index first, so that browsers play while they load.
    options = {"movflags": "+faststart"}
    with (
        write_atomically(path) as temporary,
        edge("writing a movie", path),
        # "file:", because FFmpeg takes what is before a colon for a protocol.
        av.open(f"file:{temporary}", "w", format=kind, container_options=options) as container,
    ):
        if comment:
            container.metadata["comment"] = comment
        stream = _h264_stream(container, shape, fps)
        for index, frame in enumerate(itertools.chain([first], frames)):
            if frame.shape != first.shape:
                raise UserError(f"frame {index} has shape {frame.shape}, frame 0 has {first.shape}")
            planes = frame.ndim == 2
            yuv = av.VideoFrame.from_ndarray(frame, "yuv420p") if planes else _to_yuv(frame)
            yuv.pts, yuv.time_base = index, stream.codec_context.time_base
            container.mux(stream.encode(yuv))
        container.mux(stream.encode(None))


def _fixed_point(geometry: Geometry) -> np.ndarray:
    """Returns the position u_i of F in every level, [N, 2].

    Let c_i be the window's corner in level i, and M the windows, N-1 or N. Then u_i = c_i + u_{i+1}
    / p, and by definition u_0 = u_M; so u_0 = sum_i c_i p^-i / (1 - p^-M). No position is measured
    in the pixels of another level, so 64 levels lose no precision.
    """
    p, windows = geometry.zoom_factor, geometry.windows
    corners = geometry.corners / np.array([geometry.height, geometry.width], np.float64)
    if not windows:
        return np.full((1, 2), 0.5)
    shrink = float(p) ** -np.arange(windows)
    places = np.empty((windows + 1, 2))
    places[-1] = (corners * shrink[:, None]).sum(0) / (1 - float(p) ** -windows)
    for level in reversed(range(windows)):
        places[level] = corners[level] + places[level + 1] / p
    return places[: geometry.levels]


class _Layer(NamedTuple):
    """How one level is laid into a frame."""

    level: int
    size: tuple[int, int]  # (x, y), in the frame's pixels, as everything here but the box
    box: tuple[float, float, float, float]  # what it shows, in the level's pixels with its margin
    place: tuple[int, int]
    opacity: Image.Image | None  # None: it fills the frame


def _layers(geometry: Geometry, centres: np.ndarray, t: float, shape) -> Iterator[_Layer]:
    p, sides = geometry.zoom_factor, (geometry.height, geometry.width)
    # Frame pixels per level pixel: at 1, a level is shown in full.
    enough = [min(1.0, n / side) for n, side in zip(shape, sides)]

    def extent(level):
        return p ** (t - level)

    def starts(level):
        return [a - b * extent(level) for a, b in zip(*centres[[0, level % len(centres)]].tolist())]

    def fills(level):
        slack = 1e-9  # rounding must not leave a hairline of a wider level around a picture
        begin = starts(level)
        return max(begin) <= slack and min(begin) + extent(level) >= 1 - slack

    base = math.floor(t) + 1
    base = base if geometry.loop else min(geometry.levels - 1, base)
    while not fills(base):
        base -= 1
    for level in itertools.count(base) if geometry.loop else range(base, geometry.levels):
        density = [n * extent(level) / side for n, side in zip(shape, sides)]
        presence = min(1 + math.log(d / w, p) for d, w in zip(density, enough))
        if level > base and presence <= 0:
            break
        places = zip(shape, sides, starts(level))
        y, x = (_axis(n, side, begin, extent(level), p) for n, side, begin in places)
        if not len(y.edge) or not len(x.edge):
            continue
        opacity = None
        if level > base:  # whole numbers, since frames have many pixels: 256 x 255 at most
            across = np.rint(256 * x.edge).astype(np.uint16)
            down = np.rint(255 * _smooth(presence) * y.edge).astype(np.uint16)
            opacity = Image.fromarray((np.outer(down, across) >> 8).astype(np.uint8))
        box = (x.box[0], y.box[0], x.box[1], y.box[1])
        yield _Layer(
            level % len(centres), (len(x.edge), len(y.edge)), box, (x.first, y.first), opacity
        )


def _laid_over(layers: list[_Layer], planes: Callable, plane: int) -> np.ndarray:
    """Returns the frame of a plane, the one of that number in each level's `planes(level)`."""
    frame, kernel = None, Image.Resampling.BICUBIC
    for layer in layers:
        part = planes(layer.level)[plane].resize(layer.size, kernel, layer.box)
        if layer.opacity is None:
            frame = part
        else:
            frame.paste(part, layer.place, layer.opacity)
    return np.asarray(frame)


class _Axis(NamedTuple):
    """How one level is resampled along one axis of the frame."""

    first: int  # of the frame's pixels whose centres lie in the level
    box: tuple[float, float]  # what those pixels show, in the level's pixels with its margin
    edge: np.ndarray  # the level's opacity in each: 0 at an edge inside the frame, 1 further in


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


def _h264_stream(container, shape: tuple[int, ...], fps: float):
    rate = fractions.Fraction(fps).limit_denominator(1001)
    stream = container.add_stream("libx264", rate=rate)
    stream.height, stream.width = (side + side % 2 for side in shape[:2])
    stream.pix_fmt = "yuv420p"
    # With these three, "ultrafast" takes a third of veryfast's time at its size and fidelity (52 dB
    # on the demo's frames). Its trees of macroblocks are off: they differ where a CPU has AVX-512.
    extras = "cabac=1:deblock=0,0:subme=1"
    stream.options = {"crf": "16", "preset": "ultrafast", "x264-params": extras}
    context = stream.codec_context
    context.thread_count, context.time_base = _THREADS, 1 / rate
    # Without these, a player guesses BT.601 or BT.709 from the size, and the colours shift.
    context.color_range = ColorRange.MPEG
    context.colorspace = Colorspace.ITU709
    context.color_primaries = context.color_trc = _BT709
    return stream


def _to_yuv(frame: np.ndarray, pix_fmt: str = "yuv420p") -> av.VideoFrame:
    height, width = frame.shape[:2]
    frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    colours = {"dst_colorspace": Colorspace.ITU709, "dst_color_range": ColorRange.MPEG}
    return rgb.reformat(format=pix_fmt, interpolation=Interpolation.BICUBIC, **colours)
