"""Shared noise: white, of unit variance, the same for every level that sees a place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pot_jax.zoom.geometry import Geometry
from pot_jax.zoom.operators import downsample, independent_noise, observe, shared_noise

KEYS = jax.random.split(jax.random.key(7), 256)
CENTRED = Geometry(5, 2, 16, 16)
CASES = [
    (CENTRED, "mean"),
    (Geometry(4, 3, 18, 18, ((6, -6), (1, 2), (0, 3))), "mean"),
    (Geometry(3, 10, 20, 20, ((9, -9), (3, 1))), "gaussian"),
]


def draw_many(geometry, kernel):
    return np.asarray(
        jax.vmap(lambda key: shared_noise(key, geometry, 2, kernel=kernel))(KEYS), np.float64
    )  # [draws, N, H, W, C]


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
    noise = shared_noise(jax.random.key(1), geometry, 4, kernel=kernel)
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
