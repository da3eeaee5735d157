"""Movie files: a film's frames as MP4 or MOV (H.264), WebM (VP9) or GIF, by the file's ending."""

import fractions
import itertools
import os
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from pot_jax.checks import require
from pot_jax.errors import UserError, edge, shown
from pot_jax.media.files import write_atomically

LARGEST = 16384  # pixels of a side, x264's limit

# The bytes that encoders write depend on their thread count; a file must not depend on the machine.
_THREADS = 2
_BT709 = 1  # both as primaries and as transfer curve (ITU-T H.273, tables 2 and 3)


class Format(NamedTuple):
    """What a movie of one ending is."""

    name: str  # FFmpeg's
    codec: str
    muxing: Mapping[str, str]  # options of the container
    encoding: Mapping[str, str] = {}  # and of the codec
    pix_fmt: str = "yuv420p"
    fps: int = 240  # at most


_H264 = {
    "crf": "16",
    "preset": "ultrafast",
    # With these three, "ultrafast" takes a third of veryfast's time at its size and fidelity (52 dB
    # on the demo's frames). Its trees of macroblocks are off: they differ where a CPU has AVX-512.
    "x264-params": "cabac=1:deblock=0,0:subme=1",
}
_VP9 = {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "5", "row-mt": "1"}
FORMATS = {
    # Faststart puts the index first, so that browsers play while they load.
    ".mp4": Format("mp4", "libx264", {"movflags": "+faststart"}, _H264),
    # MOV's own comments end after 64 KiB.
    ".mov": Format("mov", "libx264", {"movflags": "+faststart+use_metadata_tags"}, _H264),
    ".webm": Format("webm", "libvpx-vp9", {"fflags": "+bitexact"}, _VP9),  # else a random number
    # Its clock ticks 100 times a second, and players slow down what is shown for less than 2.
    ".gif": Format("gif", "gif", {"loop": "0"}, pix_fmt="pal8", fps=50),
}


def movie_format(path: str | os.PathLike, fps: float = 1) -> Format:
    """Returns a movie name's format; UserError if unknown, its encoder absent, `fps` too high."""
    known, ending = " or ".join(FORMATS), os.path.splitext(path)[1].lower()
    if ending not in FORMATS:
        raise UserError(f"expected the name of a movie to end in {known}, got {shown(path)}")
    found = FORMATS[ending]
    try:
        av.Codec(found.codec, "w")
    except av.codec.codec.UnknownCodecError:
        what = f"{ending} needs {found.codec}, which this PyAV lacks; choose another of {known}"
        raise UserError(what) from None
    require(fps <= found.fps, "movie.fps", f"at most {found.fps} for a {ending}", fps)
    return found


def write_video(
    path: str | os.PathLike, frames: Iterable[np.ndarray], fps: float, *, comment: str = ""
) -> None:
    """Writes a film (BT.709; a GIF in sRGB), atomically; equal frames give equal bytes.

    The path's ending is one of `FORMATS`. Frames are uint8, all of one shape: RGB [h, w, 3], where
    an odd side is padded with its last pixels, or YUV 4:2:0 planes [3/2 h, w] as from
    `video.zoom_frames`. The `comment` is kept in the file's metadata. A GIF repeats without end;
    its frames have 256 colours each, and last whole hundredths of a second, on average as they
    should. UserError without frames, for one too large or of another shape, or if it cannot write.
    """
    kind, frames = movie_format(path, fps), iter(frames)
    if (first := next(frames, None)) is None:
        raise UserError("a movie needs at least one frame, got none")
    height, width = first.shape[:2]
    shape = (height, width) if first.ndim == 3 else (height * 2 // 3, width)
    if max(shape) > LARGEST:
        raise UserError(f"expected frames of up to {LARGEST} pixels a side, got {shape}")
    with write_atomically(path) as temporary, edge("writing a movie", path):
        # "file:", because FFmpeg takes what is before a colon for a protocol.
        name, options = f"file:{temporary}", dict(kind.muxing)
        with av.open(name, "w", format=kind.name, container_options=options) as container:
            if comment:
                container.metadata["comment"] = comment
            stream = _stream(container, kind, shape, fps)
            finished = _paletted(stream) if kind.codec == "gif" else lambda yuv: yuv
            for index, frame in enumerate(itertools.chain([first], frames)):
                if frame.shape != first.shape:
                    shapes = f"has shape {frame.shape}, frame 0 has {first.shape}"
                    raise UserError(f"frame {index} {shapes}")
                planes = frame.ndim == 2
                yuv = av.VideoFrame.from_ndarray(frame, "yuv420p") if planes else to_yuv(frame)
                yuv.pts, yuv.time_base = index, stream.codec_context.time_base
                container.mux(stream.encode(finished(yuv)))
            container.mux(stream.encode(None))
        if comment and kind.codec == "gif":  # FFmpeg writes none: blocks of up to 255, at the end
            data, file = comment.encode(), temporary.read_bytes()[:-1]
            blocks = (data[i : i + 255] for i in range(0, len(data), 255))
            blocks = b"".join(bytes([len(block)]) + block for block in blocks)
            temporary.write_bytes(file + b"\x21\xfe" + blocks + b"\x00;")


def _stream(container, kind: Format, shape: tuple[int, ...], fps: float):
    rate = fractions.Fraction(fps).limit_denominator(1001)
    stream = container.add_stream(kind.codec, rate=rate)
    stream.height, stream.width = (side + side % 2 for side in shape)
    stream.pix_fmt, stream.options = kind.pix_fmt, dict(kind.encoding)
    context = stream.codec_context
    context.thread_count, context.time_base = _THREADS, 1 / rate
    if kind.pix_fmt == "yuv420p":
        # Without these, a player guesses BT.601 or BT.709 from the size, and the colours shift.
        context.color_range = ColorRange.MPEG
        context.colorspace = Colorspace.ITU709
        context.color_primaries = context.color_trc = _BT709
    return stream


def _paletted(stream) -> Callable[[av.VideoFrame], av.VideoFrame]:
    """Returns FFmpeg's filter that gives every frame a palette of its own."""
    graph, size = av.filter.Graph(), {"width": stream.width, "height": stream.height}
    time_base, rgb = stream.codec_context.time_base, av.VideoFormat("rgb24")
    split, make = graph.add("split"), graph.add("palettegen", "stats_mode=single")
    # A regular pattern rests where the picture rests, and is smaller than diffused errors.
    use = graph.add("paletteuse", "new=1:dither=bayer:bayer_scale=3")
    graph.add_buffer(format=rgb, time_base=time_base, **size).link_to(split)
    split.link_to(make)
    split.link_to(use, 1)
    make.link_to(use, 0, 1)
    use.link_to(graph.add("buffersink"))
    graph.configure()

    def paletted(yuv):
        colours = {"src_colorspace": Colorspace.ITU709, "src_color_range": ColorRange.MPEG}
        graph.push(yuv.reformat(format="rgb24", interpolation=Interpolation.BICUBIC, **colours))
        return graph.pull()

    return paletted


def to_yuv(frame: np.ndarray, pix_fmt: str = "yuv420p") -> av.VideoFrame:
    """Returns a frame [h, w, 3] uint8 as Y, U and V of BT.709; an odd side gets one pixel more."""
    height, width = frame.shape[:2]
    frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    colours = {"dst_colorspace": Colorspace.ITU709, "dst_color_range": ColorRange.MPEG}
    return rgb.reformat(format=pix_fmt, interpolation=Interpolation.BICUBIC, **colours)
