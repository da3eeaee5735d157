import dataclasses

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pot_jax.zoom.geometry import Geometry


@st.composite
def geometries(draw):
    p = draw(st.sampled_from([2, 3, 4, 10]))
    height, width = (p * draw(st.sampled_from([2, 4, 2 * p])) for _ in range(2))
    levels = draw(st.integers(1, 6))
    room = [(n - n // p) // 2 for n in (height, width)]
    offsets = tuple(
        tuple(draw(st.integers(-limit, limit)) for limit in room) for _ in range(levels - 1)
    )
    return Geometry(levels, p, height, width, offsets)


@given(geometries())
@settings(max_examples=50, deadline=None)
def test_every_observation_is_where_exact_fractions_put_it(geometry):
    for k in range(geometry.depth + 1):
        corners, exists = geometry.observation(k)
        assert corners.dtype == np.int32
        assert exists.dtype == np.bool_
        for level in range(geometry.levels):
            place = oracles.window_in(level, k, geometry.corners, geometry.zoom_factor)
            whole = place is not None and all(c == int(c) for c in place)
            assert exists[level] == whole
            assert tuple(corners[level]) == (place if whole else (0, 0))


@given(geometries())
@settings(max_examples=50, deadline=None)
def test_depth_is_the_largest_whole_window_of_two_pixels(geometry):
    expected = oracles.pyramid_depth(geometry.height, geometry.width, geometry.zoom_factor)
    assert geometry.depth == expected


def test_centred_windows_are_seen_from_every_level_within_the_depth():
    geometry = Geometry(8, 2, 64, 64)
    assert geometry.window_shape == (32, 32)
    assert geometry.depth == 5
    np.testing.assert_array_equal(geometry.corners, np.full((7, 2), 16))
    for k, corner in enumerate([0, 16, 24, 28, 30, 31]):
        corners, exists = geometry.observation(k)
        np.testing.assert_array_equal(exists, np.arange(8) >= k)
        np.testing.assert_array_equal(corners[k:], corner)


def test_a_window_between_two_pixels_is_left_out_with_all_wider_views():
    geometry = Geometry(4, 2, 16, 16, ((0, 0), (0, 0), (1, 0)))
    assert [geometry.observation(k)[1][3] for k in range(4)] == [True, True, False, False]
    assert [geometry.observation(k)[1][2] for k in range(3)] == [True, True, True]


def test_no_offsets_is_all_offsets_zero():
    given_none, zero = Geometry(3, 2, 8, 12), Geometry(3, 2, 8, 12, ((0, 0), (0, 0)))
    np.testing.assert_array_equal(given_none.corners, zero.corners)
    assert Geometry(1, 2, 8, 8).corners.shape == (0, 2)
    assert Geometry(1, 2, 8, 8, ()).corners.shape == (0, 2)


def test_a_scaled_geometry_places_the_same_windows_on_a_finer_grid():
    geometry = Geometry(3, 2, 8, 16, ((1, -2), (2, 4)))
    fine = geometry.scaled(8)
    assert (fine.height, fine.width, fine.levels) == (64, 128, 3)
    np.testing.assert_array_equal(fine.corners, 8 * geometry.corners)
    assert geometry.scaled(1) == geometry
    assert Geometry(3, 2, 8, 8).scaled(4) == Geometry(3, 2, 32, 32)


def test_is_hashable_even_when_made_from_lists_as_json_gives_them():
    geometry = Geometry(2, 2, 8, 8, [[1, -1]])
    assert geometry == Geometry(2, 2, 8, 8, ((1, -1),))
    assert hash(geometry) == hash(dataclasses.replace(geometry))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, 2, 8, 8), ["levels", "whole number >= 1, got 0"]),
        ((2.0, 2, 8, 8), ["levels", "whole", "got 2.0"]),
        ((True, 2, 8, 8), ["levels", "True"]),
        ((2, 1, 8, 8), ["zoom_factor", "whole number >= 2, got 1"]),
        ((2, 1.5, 8, 8), ["zoom_factor", "1.5"]),
        ((2, 2, 0, 8), ["height", "0"]),
        ((2, 3, 8, 9), ["zoom_factor 3", "height", "8 = 2 * 3 + 2", "6 or 9"]),
        ((2, 3, 9, 8), ["zoom_factor 3", "width", "8"]),
        ((2, 10, 8, 20), ["zoom_factor 10", "8", "height of 10"]),
        ((2, 2, 10, 8), ["height 5", "10", "even", "divisible by 4"]),
        ((2, 2, 8, 6), ["width 3", "6", "even", "divisible by 4"]),
        ((3, 2, 8, 8, ((0, 0),)), ["expected 2 pairs for 3 levels", "got 1"]),
        ((2, 2, 8, 8, ((0.5, 0),)), ["offsets", "whole", "0.5"]),
        ((2, 2, 8, 8, (3,)), ["offsets", "pairs"]),
        ((2, 2, 8, 8, 3), ["offsets", "pairs"]),
        ((2, 2, 8, 8, ((3, 0),)), ["offsets[0] = (3, 0)", "level 1", "5..9", "8 x 8"]),
        ((3, 2, 8, 8, ((0, 0), (0, -3))), ["offsets[1]", "level 2", "-1..3"]),
    ],
)
def test_numbers_that_do_not_fit_are_named(arguments, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the message is what is tested
        Geometry(*arguments)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_an_observation_beyond_the_depth_is_refused():
    with pytest.raises(
        ValueError, match="k: expected 0 to 2 for 8 x 8 pixels at zoom_factor 2, got 3"
    ):
        Geometry(8, 2, 8, 8).observation(3)
    with pytest.raises(ValueError, match="got -1"):
        Geometry(8, 2, 8, 8).observation(-1)
