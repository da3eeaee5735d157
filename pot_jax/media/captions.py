"""What stands over a movie's frames: the prompt of the nearest level, and a scale bar."""

import functools
import math
import textwrap
from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw, ImageFont

from pot_jax.config import MovieSettings
from pot_jax.errors import edge, few

_WHITE, _BLACK, _GREY = 235, 16, 128  # of Y, Y, and U and V
_FADE = 0.2  # levels; half-way between two levels, one caption has gone and the other comes
_BAR = 0.25  # of the frame's width, at most; 1, 2 and 5 make it at least 0.1
_UNITS = [("light years", 9460730472580800.0), ("AU", 149597870700.0), ("km", 1e3), ("m", 1.0)]
_UNITS += [("mm", 1e-3), ("um", 1e-6), ("nm", 1e-9), ("pm", 1e-12), ("fm", 1e-15)]  # metres


def read_font(movie: MovieSettings, size: float) -> ImageFont.FreeTypeFont:
    """Returns the movie's font of `size` pixels, else Pillow's ASCII; UserError if unreadable."""
    with edge("reading a font", movie.font):
        return ImageFont.truetype(movie.font, size) if movie.font else ImageFont.load_default(size)


def unwritable(movie: MovieSettings, prompts: Sequence[str]) -> tuple[str, ...]:
    """Returns a line that says which letters of its captions the movie's font lacks, if any."""
    if not movie.captions:
        return ()
    font, masks = read_font(movie, 16), {}
    for letter in {"\uffff", *"".join("".join(prompts).split())}:  # no font has the first
        mask = font.getmask(letter)
        masks[letter] = mask.size, bytes(mask)
    absent = masks.pop("\uffff")
    lacks = sorted(letter for letter, mask in masks.items() if mask == absent)
    line = f"movie.captions: the font lacks {few(lacks)} and shows boxes; give another movie.font"
    return (line,) if lacks else ()


def drawing(
    movie: MovieSettings, prompts: Sequence[str], zoom_factor: int, width_metres: float
) -> Callable[[float, list[Image.Image], float], None]:
    """Returns the function that draws what `movie` asks for on the planes Y, U and V of 4:2:0.

    It takes the camera's level t, the planes, and how many pixels a level's whole width takes at
    whole t; level 0 is `width_metres` wide. Level i's caption is prompt i modulo their number: full
    near t = i, and gone half-way to its neighbours.
    """
    write = functools.lru_cache(maxsize=8)(functools.partial(_written, movie))

    def draw(t, planes, level_width):
        w, h = planes[0].size
        size = max(8, min(w, h) // 28)
        level = math.floor(t + 0.5)
        shown = min(1.0, (0.5 - abs(t - level)) / _FADE)
        if movie.captions and shown > 0:
            lines = max(1, h // (3 * size))  # two fifths of the height
            words = write(prompts[level % len(prompts)], size, 0.6 * w, lines)
            opacity = shown * shown * (3 - 2 * shown)
            _laid(planes, words, (size, h - size - words.height), opacity)
        if movie.scale_bar:
            most = math.log10(_BAR * w / level_width) - t * math.log10(zoom_factor)
            text, share = scale(most + math.log10(width_metres))
            thick, words = max(2, size // 8), write(text, size, w, 1)
            bar = Image.new("LA", (round(share * _BAR * w) + 2, thick + 2), (_BLACK, 255))
            bar.paste((_WHITE, 255), (1, 1, bar.width - 1, thick + 1))
            left, low = w - size - max(bar.width, words.width), h - size - bar.height
            _laid(planes, bar, (left, low))
            _laid(planes, words, (left, low - words.height))

    return draw


def scale(exponent: float) -> tuple[str, float]:
    """Returns the largest length of 1, 2 or 5 times a power of ten within 10^exponent metres.

    As text, in the largest unit of which it is one at least, and as a share of that, 0.4 to 1.
    """
    logs = {unit: math.log10(metres) for unit, metres in _UNITS}
    unit = next((unit for unit, log in logs.items() if log <= exponent), "fm")
    power = math.floor(exponent - logs[unit])
    rest = 10 ** (exponent - logs[unit] - power)
    digit = 5 if rest >= 5 else 2 if rest >= 2 else 1
    text = f"{digit * 10.0**power:,.15g}" if power > -300 else f"{digit}e{power}"
    return f"{text} {unit.removesuffix('s' * (text == '1'))}", digit / rest


def _written(movie: MovieSettings, text: str, size: int, width: float, lines: int) -> Image.Image:
    """Returns text, white with a dark rim, as luma and opacity; beyond `lines`, dots."""
    font, rim = read_font(movie, size), max(1, size // 12)
    columns = max(1, int(width * len(text) / max(1, font.getlength(" ".join(text.split())))))
    wrapped = textwrap.wrap(text, columns, max_lines=lines, placeholder=" ...")
    text, how = "\n".join(wrapped), {"font": font, "stroke_width": rim}
    pen = ImageDraw.Draw(Image.new("LA", (1, 1)))
    left, top, right, low = pen.multiline_textbbox((0, 0), text, **how)
    words = Image.new("LA", (math.ceil(right - left), math.ceil(low - top)), (_BLACK, 0))
    how |= {"fill": (_WHITE, 255), "stroke_fill": (_BLACK, 255)}
    ImageDraw.Draw(words).multiline_text((-left, -top), text, **how)
    return words


def _laid(planes: list[Image.Image], words: Image.Image, place: tuple, opacity=1.0) -> None:
    """Lays words over the planes of a frame; colours have half its resolution."""
    x, y = (2 * (n // 2) for n in place)
    mask = words.getchannel("A").point(lambda alpha: alpha * opacity)
    planes[0].paste(words.getchannel("L"), (x, y), mask)
    for plane in planes[1:]:
        plane.paste(_GREY, (x // 2, y // 2), mask.reduce(2))
