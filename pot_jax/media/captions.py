"""What stands over a movie's frames: the prompt of the nearest level, and a scale bar."""

import functools
import math
from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw, ImageFont

from pot_jax.config import MovieSettings
from pot_jax.errors import edge, few

_WHITE, _BLACK, _GREY = 235, 16, 128  # of Y, Y, and U and V
_FADE = 0.2  # levels; half-way between two levels, one caption has gone and the other comes
_BAR = 0.25  # of the picture's width, at most; 1, 2 and 5 make it at least 0.1
# Metres; of those from the metre up, the longer names read well with millions before them.
_UNITS = {
    "fm": 1e-15, "pm": 1e-12, "nm": 1e-9, "um": 1e-6, "mm": 1e-3, "cm": 1e-2, "m": 1.0,
    "km": 1e3, "AU": 149597870700.0, "light years": 9460730472580800.0,
}  # fmt: skip


def read_font(movie: MovieSettings, size: float) -> ImageFont.FreeTypeFont:
    """Returns the movie's font of a size in pixels; Pillow's own, of Latin letters, if it has none.

    Raises UserError if its file cannot be read as a font.
    """
    if not movie.font:
        return ImageFont.load_default(size)
    with edge("reading a font", movie.font):
        return ImageFont.truetype(movie.font, size)


def unwritable(movie: MovieSettings, prompts: Sequence[str]) -> tuple[str, ...]:
    """Returns a line that says which letters the movie's font lacks for its captions, if any."""
    if not movie.captions:
        return ()
    font = read_font(movie, 16)
    drawn = {letter: _drawn(font, letter) for letter in sorted({*"".join(prompts)} - {*" \n\t"})}
    lacks = [letter for letter, drawing in drawn.items() if drawing == _drawn(font, "\uffff")]
    which = "the movie's font" if movie.font else "the built-in font"
    line = f"movie.captions: {which} lacks {few(lacks)} and shows boxes; give another movie.font"
    return (line,) if lacks else ()


def _drawn(font, letter: str) -> tuple:
    mask = font.getmask(letter)  # of a letter that is not there: that of one that never is
    return mask.size, bytes(mask)


def drawing(
    movie: MovieSettings,
    frame: tuple[int, int],
    width: tuple[int, float],
    prompts: Sequence[str],
    zoom_factor: int,
) -> Callable[[float, list[Image.Image]], None]:
    """Returns the function that draws what `movie` asks for on the planes Y, U and V of 4:2:0.

    It takes the camera's level t. The frame is (h, w) pixels; `width` is that of the view at
    t = 0, in pixels and in metres. Level i's caption is prompt i modulo their number: full near
    t = i, and gone half-way to its neighbours. Long ones are wrapped, and smaller where they would
    take more than a third of the frame.
    """
    h, w = frame
    size = max(8, min(h, w) // 27)
    fonts = functools.cache(functools.partial(read_font, movie))

    @functools.lru_cache(maxsize=4)
    def caption(level):
        for pixels in range(size, 5, -1):
            lines = _wrapped(prompts[level], fonts(pixels), 0.6 * w)
            words = _written("\n".join(lines), fonts(pixels))
            if words.height <= h / 3:
                break
        return words

    @functools.lru_cache(maxsize=4)
    def label(text):
        return _written(text, fonts(size))

    def draw(t, planes):
        if movie.captions:
            level = math.floor(t + 0.5)
            shown = max(0.0, min(1.0, (0.5 - abs(t - level)) / _FADE))
            words = caption(level % len(prompts))
            _laid(planes, words, (size, h - size - words.height), shown * shown * (3 - 2 * shown))
        if movie.scale_bar:
            text, share = scale(math.log10(_BAR * width[1]) - t * math.log10(zoom_factor))
            words, length = label(text), round(share * _BAR * width[0])
            thick = max(2, size // 8)
            bar = Image.new("LA", (length + 2, thick + 2), (_BLACK, 255))
            bar.paste((_WHITE, 255), (1, 1, length + 1, thick + 1))
            left, low = w - size - max(bar.width, words.width), h - size - bar.height
            _laid(planes, bar, (left, low), 1)
            _laid(planes, words, (left, low - words.height), 1)

    return draw


def scale(exponent: float) -> tuple[str, float]:
    """Returns the largest length of 1, 2 or 5 times a power of ten within 10^exponent metres.

    As text, in the largest unit of which it is one at least, and as a share of that, 0.4 to 1.
    """
    sizes = {name: math.log10(metres) for name, metres in _UNITS.items()}
    unit = max((n for n in sizes if sizes[n] <= exponent), key=sizes.get, default="fm")
    power = math.floor(exponent - sizes[unit])
    rest = 10 ** (exponent - sizes[unit] - power)
    digit = max(d for d in (1, 2, 5) if d <= rest)
    group = next((g for g in (12, 9, 6) if g <= power < 15), 0)
    name = {12: " trillion", 9: " billion", 6: " million"}.get(group, "")
    plain = -4 < power < 15
    number = f"{digit * 10.0 ** (power - group):,g}" if plain else f"{digit}e{power}"
    if plain and power - group >= 3:
        number = f"{digit * 10 ** (power - group):,}"
    return f"{number}{name} {unit}", digit / rest


def _wrapped(prompt: str, font, width: float) -> list[str]:
    """Breaks a prompt between words or, where one is too long, inside it."""
    lines = [""]
    for word in prompt.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        lines += [""] if lines[-1] else []
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def _written(text: str, font) -> Image.Image:
    """Returns text in white with a dark rim, as luma and opacity."""
    rim = max(1, round(font.size / 12))
    pen = ImageDraw.Draw(Image.new("LA", (1, 1)))
    left, top, right, low = pen.multiline_textbbox((0, 0), text, font, stroke_width=rim)
    words = Image.new("LA", (math.ceil(right - left), math.ceil(low - top)), (_BLACK, 0))
    how = {"fill": (_WHITE, 255), "stroke_width": rim, "stroke_fill": (_BLACK, 255)}
    ImageDraw.Draw(words).multiline_text((-left, -top), text, font=font, **how)
    return words


def _laid(planes: list[Image.Image], words: Image.Image, place: tuple, opacity: float) -> None:
    """Lays words over the planes of a frame; colours have half its resolution."""
    if opacity <= 0:
        return
    x, y = (2 * (n // 2) for n in place)
    mask = words.getchannel("A").point(lambda alpha: alpha * opacity)
    planes[0].paste(words.getchannel("L"), (x, y), mask)
    for plane in planes[1:]:
        plane.paste(_GREY, (x // 2, y // 2), mask.reduce(2))
