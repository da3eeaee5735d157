"""Captions and scale bars: read back from the planes that they are drawn on."""

import pathlib

import numpy as np
import pytest
from PIL import Image, features

from pot_jax.config import MovieSettings
from pot_jax.errors import UserError
from pot_jax.media.captions import drawing, read_font, scale, unwritable

GREY = 100


def drawn(movie, prompts, t, width_metres=0.0, shape=(180, 320), level_width=320.0):
    """Y of a grey frame after drawing; U and V, which stay without colour, are checked."""
    h, w = shape
    sizes = [(w, h), (w // 2, h // 2), (w // 2, h // 2)]
    planes = [Image.new("L", size, value) for size, value in zip(sizes, (GREY, 90, 170))]
    drawing(movie, prompts, 2, width_metres)(t, planes, level_width)
    touched = np.asarray(planes[0]) != GREY
    for plane, value in zip(planes[1:], (90, 170)):
        chroma = np.asarray(plane)
        assert {*np.unique(chroma)} <= {*range(min(value, 128), max(value, 128) + 1)}
        coarse = touched.reshape(h // 2, 2, w // 2, 2).any((1, 3))
        assert not (chroma != value)[~coarse].any()
    return np.asarray(planes[0]).astype(int)


class TestCaptions:
    MOVIE = MovieSettings(captions=True)

    def test_the_nearest_levels_fades(self):
        prompts = ["a galaxy", "a star"]
        whole = [drawn(self.MOVIE, prompts, t) for t in (0.0, 1.0)]
        large = drawn(self.MOVIE, prompts, 0.0, shape=(540, 960))
        assert (whole[0] != whole[1]).any()
        assert {large.min(), large.max()} == {16, 235}
        strength = [np.abs(drawn(self.MOVIE, prompts, t) - GREY).sum() for t in (0, 0.29, 0.4, 0.5)]
        assert strength[0] == strength[1] > strength[2] > strength[3] == 0
        np.testing.assert_array_equal(drawn(self.MOVIE, prompts, 0.8), whole[1])
        np.testing.assert_array_equal(drawn(self.MOVIE, prompts, 2.0), whole[0])  # of a loop

    def test_long_prompts_are_wrapped_inside_the_frame(self):
        for words in ("a yellow ladybug with four black spots on a red leaf " * 4, "w" * 120):
            frame = drawn(self.MOVIE, [words], 0.0) != GREY
            assert not frame[:, int(0.75 * 320) :].any()
            assert not frame[:5].any()
            lines = np.diff(frame.any(1).astype(int)) == 1
            assert frame.sum() > 2000
            assert lines.sum() >= 1

    def test_letters_that_the_font_lacks_are_told(self):
        assert unwritable(self.MOVIE, ["a galaxy", "its eye?"]) == ()
        (line,) = unwritable(self.MOVIE, ["a galaxy", "星 and \U0001f31f"])
        assert line.startswith("movie.captions: the font lacks 星, \U0001f31f and shows boxes;")
        assert (drawn(self.MOVIE, ["星"], 0.0) != GREY).any()
        assert unwritable(MovieSettings(), ["星"]) == ()

    def test_a_font_of_ones_own(self, tmp_path):
        # matplotlib brings one with Greek letters; Pillow's own has none.
        matplotlib = pytest.importorskip("matplotlib")
        path = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
        assert unwritable(self.MOVIE, ["Ωμέγα"])
        assert unwritable(MovieSettings(captions=True, font=str(path)), ["Ωμέγα"]) == ()
        (tmp_path / "x.ttf").write_bytes(path.read_bytes()[:1000])
        for name in ("x.ttf", "nowhere.ttf"):
            movie = MovieSettings(font=str(tmp_path / name))
            with pytest.raises(UserError, match="movie.font: .* cannot be read as a font"):
                read_font(movie, 16)


class TestScale:
    @pytest.mark.parametrize(
        ("metres", "text"),
        [
            (1.05e21, "100,000 light years"),
            (9.5e15, "1 light year"),
            (9.4e15, "50,000 AU"),
            (1.6e11, "1 AU"),
            (1.4e11, "100,000,000 km"),
            (6.0e6, "5,000 km"),
            (999.0, "500 m"),
            (2.0001, "2 m"),
            (0.3, "200 mm"),
            (4e-5, "20 um"),
            (1.1e-9, "1 nm"),
            (1.7e-15, "1 fm"),
            (3e-18, "0.002 fm"),
        ],
    )
    def test_units(self, metres, text):
        found, share = scale(np.log10(metres))
        assert found == text
        assert share + 1e-9 >= 0.4
        assert share <= 1 + 1e-9

    def test_every_length_is_what_it_says(self):
        units = {"fm": -15, "pm": -12, "nm": -9, "um": -6, "mm": -3, "m": 0, "km": 3}
        units |= {"AU": np.log10(149597870700), "light years": np.log10(9460730472580800)}
        units["light year"] = units["light years"]
        for exponent in np.linspace(-40, 40, 801):
            text, share = scale(exponent)
            number, unit = text.split(" ", 1)
            said = np.log10(float(number.replace(",", ""))) + units[unit]
            assert said == pytest.approx(exponent + np.log10(share), abs=1e-9)

    @pytest.mark.parametrize("exponent", [-1000.0, 308.0])
    def test_no_depth_is_too_deep(self, exponent):
        drawn(MovieSettings(scale_bar=True), [], 2000.0, 5e-324)
        text, share = scale(exponent)
        assert 0.4 <= share <= 1
        assert not text.startswith("0 ")

    @pytest.mark.parametrize("t", [0.0, 0.4, 3.7])
    def test_the_bar_is_as_long_as_it_says(self, t):
        movie, view = MovieSettings(scale_bar=True), 320 / 400 * 1000.0 / 2**t
        frame = drawn(movie, [], t, 1000.0, level_width=400.0)
        row = np.flatnonzero((frame == 235).sum(1) > 20)[-1]  # the bar is below its text
        length = (frame[row] == 235).sum()
        text, _ = scale(np.log10(0.25 * view))
        metres = float(text.split()[0]) * {"m": 1, "mm": 1e-3}[text.split()[1]]
        assert length == pytest.approx(metres / view * 320, abs=1)


def test_pillow_has_freetype():
    # Without it, its own font has no size.
    assert features.check("freetype2")
