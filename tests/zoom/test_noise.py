"""Shared noise: white, of unit variance, the same for every level that sees a place."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pot_jax import config
from pot_jax.zoom.geometry import Geometry
from pot_jax.zoom.operators import (
    NOISES,
    blurred_noise,
    downsample,
    independent_noise,
    observe,
    shared_noise,
)

KEYS = jax.random.split(jax.random.key(7), 256)
CENTRED = Geometry(5, 2, 16, 16)
CASES = [
    (CENTRED, "mean"),
    (Geometry(4, 3, 18, 18, ((6, -6), (1, 2), (0, 3))), "mean"),
    (Geometry(3, 10, 20, 20, ((9, -9), (3, 1))), "gaussian"),
]


@functools.cache
def draw_many(geometry, kernel):
    draw = jax.jit(jax.vmap(lambda key: shared_noise(key, geometry, 2, kernel=kernel)))
    return np.asarray(draw(KEYS), np.float64)  # [draws, N, H, W, C]


@pytest.mark.parametrize(
    ("geometry", "kernel"), CASES, ids=["p2-centred", "p3-off-centre", "p10-gaussian"]
)
def test_every_level_is_white_and_of_unit_variance(geometry, kernel):
    noise = draw_many(geometry, kernel)
    for level in range(geometry.levels):
        values = noise[:, level]
        # Five standard errors of n independent normals: mean, variance (sqrt(2/n)), correlation.
        five_sigma = 5 / np.sqrt(values.size)
        assert abs(values.mean()) < five_sigma
        assert abs(values.var() - 1) < five_sigma * np.sqrt(2)
        for shifted, own in (
            (values[:, 1:], values[:, :-1]),
            (values[:, :, 1:], values[:, :, :-1]),
            (values[:, 1:, 1:], values[:, :-1, :-1]),
            (values[..., 1:], values[..., :-1]),
        ):
            assert abs((shifted * own).mean()) < 5 / np.sqrt(own.size)


def test_every_pixel_has_unit_variance_not_only_their_mean():
    noise = draw_many(CENTRED, "mean")
    variance = noise.var(axis=(0, 4))  # 512 numbers a pixel
    # 1280 pixels are looked at: 6 sigma of sqrt(2/512), so that one in a thousand million errs.
    assert np.abs(variance - 1).max() < 6 * np.sqrt(2 / 512)


@pytest.mark.parametrize(("geometry", "kernel"), CASES[:2], ids=["p2-centred", "p3-off-centre"])
def test_each_window_is_the_childs_noise_shrunk_and_scaled(geometry, kernel):
    draw = jax.jit(lambda key: shared_noise(key, geometry, 4, kernel=kernel))
    noise = draw(jax.random.key(1))
    p = geometry.zoom_factor
    shrunk = downsample(noise[1:], p) * p
    np.testing.assert_allclose(shrunk, observe(noise, geometry, 1)[1:], atol=1e-6)


def test_adding_a_level_leaves_the_others_own_draws_alone():
    key = jax.random.key(3)
    few, many = (independent_noise(key, Geometry(n, 2, 8, 8), 4) for n in (3, 5))
    np.testing.assert_array_equal(many[:3], few)
    assert few.dtype == jnp.float32
    for level in range(3):  # and a level's draw is what its own key gives by itself
        alone = jax.random.normal(jax.random.fold_in(key, level), (8, 8, 4))
        np.testing.assert_array_equal(few[level], alone)


def test_adding_a_level_changes_shared_noise_only_where_the_new_level_is_seen():
    key = jax.random.key(3)
    few, many = (shared_noise(key, Geometry(n, 2, 8, 8), 4) for n in (3, 4))
    seen = np.zeros((3, 8, 8, 4), bool)
    seen[2, 2:6, 2:6] = seen[1, 3:5, 3:5] = True
    seen[0, 3:5, 3:5] = True  # below 2 pixels: the cells that hold the window
    np.testing.assert_array_equal(np.where(seen, 0, many[:3]), np.where(seen, 0, few))
    assert not np.allclose(many[2, 2:6, 2:6], few[2, 2:6, 2:6])


def test_keys_and_levels_give_different_noise():
    noise = np.asarray(independent_noise(jax.random.key(0), CENTRED, 1))
    other = np.asarray(independent_noise(jax.random.key(1), CENTRED, 1))
    rows = np.concatenate([noise, other]).reshape(10, -1)
    correlation = np.corrcoef(rows) - np.eye(10)
    assert np.abs(correlation).max() < 5 / np.sqrt(rows.shape[1])


def test_jit_draws_the_same_noise():
    key = jax.random.key(5)
    eager = shared_noise(key, CENTRED, 3)
    compiled = jax.jit(shared_noise, static_argnums=(1, 2))(key, CENTRED, 3)
    np.testing.assert_allclose(compiled, eager, atol=1e-6)  # erf_inv fused or not: rounding


def test_the_names_that_settings_know_are_those_of_the_table():
    assert set(config.NOISES) == set(NOISES)


def test_blurred_noise_loses_half_its_variance_where_windows_are():
    """What the public ports draw: the numbers are their kernel's, worked out by hand.

    Taps (0.274, 0.452, 0.274) at p = 2: the squared norm of a row is 0.3544, so that 4 * 0.3544^2 =
    0.5024 of the variance is left. Neighbours, two pixels apart, share one tap: 0.0751 / 0.3544 =
    0.212.
    """
    geometry = Geometry(2, 2, 64, 64)
    draw = jax.jit(jax.vmap(lambda key: blurred_noise(key, geometry, 2)))
    noise = np.asarray(draw(KEYS), np.float64)
    window = noise[:, 0, 16:48, 16:48]
    inner = window[:, 1:-1, 1:-1]  # the first row and column lie at a reflected edge
    # Neighbours correlate, by at most 0.22 in 8 places: half as many independent numbers, or more.
    count = inner.size / 2
    variance = inner.var()
    assert abs(variance - 0.5024) < 5 * 0.5024 * np.sqrt(2 / count)
    for other, one in ((inner[:, 1:], inner[:, :-1]), (inner[:, :, 1:], inner[:, :, :-1])):
        assert abs((other * one).mean() / variance - 0.212) < 5 / np.sqrt(count)
    outside = np.delete(noise[:, 0], np.s_[16:48], axis=1)
    for white in (outside, noise[:, 1]):
        assert abs(white.var() - 1) < 5 * np.sqrt(2 / white.size)
        assert abs((white[:, :, 1:] * white[:, :, :-1]).mean()) < 5 / np.sqrt(white.size)
    # And the window is the child's noise, seen from afar: of taps (0, 0.5, 0.5) and the above, the
    # correlation along an axis is 0.363 / sqrt(0.5 * 0.3544), squared for both.
    seen = np.asarray(downsample(noise[:, 1].astype(np.float32), 2))[:, 1:-1, 1:-1]
    assert abs(np.corrcoef(seen.ravel(), inner.ravel())[0, 1] - 0.7437) < 5 / np.sqrt(count)


def slow_blurred(draws, geometry):
    """The ports' loop, tap by tap."""
    out, p = np.array(draws, np.float64), geometry.zoom_factor
    for k in range(1, min(geometry.depth, geometry.levels - 1) + 1):
        scale = p**k
        reach = scale // 2
        taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (scale / 2)) ** 2)
        taps /= taps.sum()
        corners, exists = geometry.observation(k)
        for level in range(geometry.levels - k):
            if not exists[level + k]:
                continue
            padded = np.pad(draws[level + k], [(reach, reach)] * 2 + [(0, 0)], mode="reflect")
            y, x = corners[level + k]
            for row in range(geometry.height // scale):
                for column in range(geometry.width // scale):
                    top, left = row * scale, column * scale
                    seen = padded[top : top + len(taps), left : left + len(taps)]
                    blurred = np.einsum("a,b,abc->c", taps, taps, seen)
                    out[level, y + row, x + column] = scale * blurred
    return out


@pytest.mark.parametrize(
    "geometry",
    [CENTRED, Geometry(3, 3, 18, 18, ((6, -6), (1, 2))), Geometry(4, 2, 16, 8, ((2, 0),) * 3)],
    ids=["p2", "p3-off-centre", "oblong"],
)
def test_blurred_noise_is_the_ports_loop(geometry):
    key = jax.random.key(11)
    draws = np.asarray(independent_noise(key, geometry, 2), np.float64)
    found = jax.jit(blurred_noise, static_argnums=(1, 2))(key, geometry, 2)
    np.testing.assert_allclose(found, slow_blurred(draws, geometry), atol=1e-5)
    np.testing.assert_allclose(found, blurred_noise(key, geometry, 2), atol=1e-5)


def test_a_noise_per_level_shares_nothing():
    noise = np.asarray(NOISES["per_level"](jax.random.key(2), Geometry(2, 2, 128, 128), 4))
    seen, window = np.asarray(downsample(noise[1], 2)), noise[0, 32:96, 32:96]
    assert abs(np.corrcoef(seen.ravel(), window.ravel())[0, 1]) < 5 / np.sqrt(seen.size)
