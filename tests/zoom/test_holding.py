from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from pot_jax.media.pixels import from_bytes, to_bytes
from pot_jax.zoom import holding
from pot_jax.zoom.geometry import Geometry
from pot_jax.zoom.operators import render
from pot_jax.zoom.photograph import ground_project

CENTRED = Geometry(6, 2, 16, 16)
GEOMETRIES = {
    "p2": CENTRED,
    # Windows begin on odd pixels: cells of wider levels show held and free pixels together.
    "p2-off-centre": Geometry(5, 2, 16, 32, ((1, -3), (-3, 5), (2, 7), (-1, -1))),
    "p3": Geometry(4, 3, 18, 18, ((3, -3), (0, 5), (-6, 3))),
    "p10": Geometry(3, 10, 20, 40, ((3, 0), (-5, 9))),
}
# Several runs of held levels, the ends held and not.
HELD = [{0}, {1, 2}, {0, 2}, {0, 1}, {2}]
every_geometry = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
every_choice = pytest.mark.parametrize("held", HELD, ids=str)
fit_jit = jax.jit(holding.fit, static_argnames=("geometry", "kernel", "bounded"))
render_jit = jax.jit(render, static_argnames=("geometry", "kernel"))


def pictures(geometry, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (geometry.levels, geometry.height, geometry.width, 3)).astype(dtype)


def agreeing(geometry, seed=1, kernel="mean"):
    return np.asarray(render_jit(jnp.asarray(pictures(geometry, seed)), geometry, kernel=kernel))


def marks(geometry, held):
    return jnp.asarray([level in held for level in range(geometry.levels)])


def fitted(images, held, known, geometry, **options):
    given = jnp.asarray(images), marks(geometry, held), jnp.asarray(known)
    return np.asarray(fit_jit(*given, geometry, **options))


def gaps(images, geometry, kernel="mean"):
    """The largest difference of each pair of neighbours where they show the same place."""
    images, corners, p = np.asarray(images, np.float64), geometry.corners, geometry.zoom_factor
    for level in range(1, geometry.levels):
        seen = oracles.observation(images, level, 1, corners, p)
        yield np.abs(seen - oracles.downsample(images[level], p, kernel)).max()


@pytest.mark.parametrize("kernel", ["mean", "gaussian"])
@every_choice
@every_geometry
def test_all_levels_agree_and_held_ones_keep_their_bits(geometry, held, kernel):
    known = agreeing(geometry, kernel=kernel)
    found = fitted(pictures(geometry), held, known, geometry, kernel=kernel)
    for level in held:
        assert found[level].tobytes() == known[level].tobytes()
    # Float32 rounding, times p^2 where one pixel of a cell is free, level after level.
    assert max(gaps(found, geometry, kernel)) < 1e-6 * geometry.zoom_factor**2 * geometry.levels


@pytest.mark.parametrize("kernel", ["mean", "gaussian"])
@every_choice
@every_geometry
def test_it_is_the_oracles(geometry, held, kernel):
    known, images = agreeing(geometry, kernel=kernel), pictures(geometry)
    chosen = {level: known[level] for level in held}
    wanted = oracles.fit(images, chosen, geometry.corners, geometry.zoom_factor, kernel)
    found = fitted(images, held, known, geometry, kernel=kernel)
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_the_examples_have_cells_known_in_part():
    assert (GEOMETRIES["p2-off-centre"].corners % 2).any(axis=1).all()
    assert (GEOMETRIES["p3"].corners % 3).any()


@every_choice
@every_geometry
def test_pictures_that_agree_are_left_alone(geometry, held):
    known = agreeing(geometry)
    for bounded in (False, True):
        found = fitted(known, held, known, geometry, bounded=bounded)
        np.testing.assert_allclose(found, known, atol=1e-6 * geometry.zoom_factor**2)


@every_geometry
def test_a_second_fit_changes_nothing(geometry):
    known = agreeing(geometry)
    once = fitted(pictures(geometry), {0, 2}, known, geometry)
    again = fitted(once, {0, 2}, known, geometry)
    np.testing.assert_allclose(again, once, atol=1e-6 * geometry.zoom_factor**2)


def test_known_pixels_are_those_of_the_nearest_held_level():
    known = agreeing(CENTRED)
    found = fitted(pictures(CENTRED), {0, 3}, known, CENTRED)
    for level, k in ((2, 1), (1, 2)):
        whole = np.broadcast_to(found[level], known.shape)
        seen = oracles.observation(whole, 3, k, CENTRED.corners, 2)
        np.testing.assert_allclose(seen, oracles.downsample(known[3], 2**k), atol=1e-6)


def test_a_child_of_a_held_level_is_the_nearest_that_fits_as_with_a_photograph():
    geometry = Geometry(2, 2, 16, 16, ((2, -4),))
    images, known = pictures(geometry), agreeing(geometry)
    found = fitted(images, {0}, known, geometry)
    photo = jax.jit(ground_project, static_argnames="geometry")(
        jnp.asarray(images), {0: jnp.asarray(known[0])}, geometry
    )
    np.testing.assert_allclose(found, photo, atol=1e-6)


@every_choice
@every_geometry
def test_bounded_levels_agree_exactly_in_range(geometry, held):
    # Black and white: half of all values are at a bound, where clipping alone would miss the band.
    extremes = np.sign(pictures(geometry)).astype(np.float32)
    images = np.asarray(render_jit(jnp.asarray(extremes), geometry))
    known = np.asarray(render_jit(jnp.asarray(-np.abs(pictures(geometry, 3))), geometry))
    found = fitted(images, held, known, geometry, bounded=True)
    assert np.abs(found).max() <= 1
    for level in held:
        assert found[level].tobytes() == known[level].tobytes()
    loose = np.clip(fitted(images, held, known, geometry), -1, 1)
    assert max(gaps(found, geometry)) < 2e-6 * geometry.zoom_factor**2 * geometry.levels
    if held == {0}:
        assert max(gaps(loose, geometry)) > 0.01


@every_geometry
def test_held_levels_of_8_bits_leave_their_rounding_and_no_more(geometry):
    known = from_bytes(to_bytes(agreeing(geometry)))
    found = fitted(pictures(geometry), {0, 2}, known, geometry)
    # Half a byte of the wide level, half of the deep one's mean, in cells known as a whole.
    assert max(gaps(found, geometry)) < 1.01 * 2 / 255


def test_jit_equals_eager_and_gradients_are_finite():
    geometry = Geometry(3, 2, 8, 8, ((1, -1), (0, 2)))
    known, images = jnp.asarray(agreeing(geometry)), jnp.asarray(pictures(geometry))
    held = marks(geometry, {0, 2})
    for bounded in (False, True):
        fit = partial(holding.fit, geometry=geometry, bounded=bounded)
        eager = fit(images, held, known)
        np.testing.assert_allclose(jax.jit(fit)(images, held, known), eager, atol=1e-6)
        slope = jax.grad(lambda x, fit=fit: jnp.sum(fit(x, held, known) ** 2))(images)
        assert bool(jnp.isfinite(slope).all())


def test_levels_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="expected all levels"):
        holding.fit(jnp.zeros((2, 8, 8, 3)), jnp.ones(2, bool), jnp.zeros((2, 8, 8, 3)), CENTRED)
