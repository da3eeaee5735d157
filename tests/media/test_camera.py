"""The camera's flight: its rate, its rests, and its way past levels that lie anywhere."""

import math

import numpy as np
import pytest

from pot_jax.config import MovieSettings
from pot_jax.errors import UserError
from pot_jax.media.camera import course, fixed_point, zoom_path
from pot_jax.zoom.geometry import Geometry


def placed(p: int, pairs, loop: bool = False) -> Geometry:
    """Square levels, with offsets in shares of what is possible, -1 to 1."""
    side, levels = {2: 64, 3: 54, 10: 100}[p], len(pairs) + (not loop)
    most = (side - side // p) // 2
    offsets = tuple(tuple(int(round(most * float(share))) for share in pair) for pair in pairs)
    return Geometry(levels, p, side, side, offsets, loop)


def anywhere(count: int, reach: float = 1.0, loop: bool = False):
    """Placements drawn within a share of what is possible, and the extremes that alternate."""
    rng, turns = np.random.default_rng(0), np.array([1, -1] * 4)[:7]
    for index in range(count):
        p = (2, 3, 10)[index % 3]
        yield placed(p, reach * rng.uniform(-1, 1, (7, 2)), loop)
        yield placed(p, reach * rng.choice([-1, 0, 1], (7, 2)), loop)
        yield placed(p, reach * np.stack([turns, turns], -1), loop)


def pan(geometry: Geometry, t: np.ndarray) -> np.ndarray:
    """w, from where F is a little before and after."""
    look, h = course(geometry), 1e-6
    before, at, after = (np.array([look(s) for s in t + d]) for d in (-h, 0, h))
    return math.log(geometry.zoom_factor) * (at - 0.5) - (after - before) / (2 * h)


class TestCourse:
    @pytest.mark.parametrize("loop", [False, True])
    def test_at_whole_t_the_view_is_the_level(self, loop):
        for geometry in anywhere(4, loop=loop):
            look, places = course(geometry), fixed_point(geometry)
            seen = np.array([look(float(i)) for i in range(geometry.windows + 1)])
            expected = places[np.arange(geometry.windows + 1) % len(places)]
            np.testing.assert_allclose(seen, expected, atol=1e-12)

    @pytest.mark.parametrize("loop", [False, True])
    def test_its_derivative_is_continuous(self, loop):
        for geometry in anywhere(3, loop=loop):
            look, h, last = course(geometry), 1e-5, geometry.windows
            for i in range(1, last):
                rates = (look(i) - look(i - h)) / h, (look(i + h) - look(i)) / h
                np.testing.assert_allclose(*rates, atol=1e-3)
            if loop:
                rates = (look(h) - look(0)) / h, (look(last) - look(last - h)) / h
                np.testing.assert_allclose(*rates, atol=1e-3)

    def test_the_view_never_leaves_the_widest_level(self):
        for geometry in anywhere(20):
            look, p = course(geometry), geometry.zoom_factor
            t = np.linspace(0, geometry.windows, 400)
            extent = p ** t[:, None]
            begin = np.array([look(s) for s in t]) - fixed_point(geometry)[0] * extent
            assert (begin / extent).max() < 1e-12
            assert ((1 - begin) / extent).max() < 1 + 1e-12

    @pytest.mark.parametrize(("reach", "most", "widest"), [(1.0, 2.1, 4), (0.5, 1.05, 2)])
    def test_the_speed_on_the_screen(self, reach, most, widest):
        places = np.stack(np.meshgrid(*[np.linspace(-0.5, 0.5, 25)] * 2), -1)
        centred = np.hypot(places[..., 0], places[..., 1]).mean()
        for geometry in anywhere(4, reach):
            rate = math.log(geometry.zoom_factor)
            for w in pan(geometry, np.linspace(0.01, 6.99, 60)) / rate:
                assert np.abs(w).max() < most / 2 + 1e-6
                speed = np.hypot(*np.moveaxis(places - w, -1, 0)).mean() / centred
                assert 1 - 1e-6 < speed < widest

    @pytest.mark.parametrize("loop", [False, True])
    def test_levels_that_lie_alike_fix_one_point(self, loop):
        geometry = placed(2, [(0.5, -1.0)] * 7, loop)
        seen = [course(geometry)(t) for t in np.linspace(0, geometry.windows, 50)]
        np.testing.assert_allclose(seen, [fixed_point(geometry)[0]] * 50, atol=1e-12)
        assert course(Geometry(1, 2, 16, 16))(0.0).tolist() == [0.5, 0.5]


class TestTime:
    @pytest.mark.parametrize("seconds", [0.0, 9.0])
    def test_easing_is_a_ramp_of_the_rate(self, seconds):
        movie = MovieSettings(seconds_per_level=1.0, seconds=seconds, fps=200, easing=1.5, hold=0.5)
        path = zoom_path(6, movie)
        rates = 200 * np.diff(path[100:-100])
        steady = 5 / (len(rates) / 200 - 1.5)
        y = (np.arange(len(rates)) + 0.5) / 300
        smooth = np.where(y < 1, 3 * y**2 - 2 * y**3, 1)
        np.testing.assert_allclose(rates, steady * smooth * smooth[::-1], atol=1e-4 * steady)
        assert path[0] == 0
        assert path[-1] == pytest.approx(5, abs=1e-12)
        if not seconds:
            assert steady == pytest.approx(1, abs=1e-9)

    @pytest.mark.parametrize("direction", ["in", "out", "both"])
    @pytest.mark.parametrize("loop", [False, True])
    @pytest.mark.parametrize("levels", [1, 2, 20])
    def test_seconds_are_the_films(self, direction, loop, levels):
        if loop and levels == 1:
            return
        for seconds in (7.0, 7.03, 61.5):
            how = {"seconds": seconds, "direction": direction, "easing": 0.7, "hold": 0.31}
            path = zoom_path(levels, MovieSettings(**how), loop=loop)
            assert len(path) == round(seconds * 30)
            assert np.ptp(path) == pytest.approx(levels - 1 + loop, abs=loop * 1.0)

    def test_easing_touches_no_loop(self):
        usual, eased = MovieSettings(), MovieSettings(easing=5.0, hold=3.0)
        paths = (zoom_path(4, movie, loop=True) for movie in (usual, eased))
        np.testing.assert_array_equal(*paths)

    @pytest.mark.parametrize(
        ("how", "words"),
        [
            ({"seconds": 0.5}, "movie.seconds: expected at least 1.07, for the holds and the easi"),
            ({"seconds": 8.0, "easing": 4.0}, "expected at least 9.03, for the holds and the easi"),
            ({"seconds": 1e6}, "movie.seconds: expected a movie of up to 1000000 frames"),
            ({"seconds": 1e308, "direction": "both"}, "expected a movie of up to 1000000 frames"),
            ({"easing": 5.0}, "movie.easing: expected at most 4.5, the time without it, got 5"),
        ],
    )
    def test_what_cannot_be(self, how, words):
        with pytest.raises(UserError, match=words):
            zoom_path(4, MovieSettings(**how))
