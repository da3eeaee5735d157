import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from pot_jax.zoom.geometry import Geometry
from pot_jax.zoom.operators import render
from pot_jax.zoom.photograph import PHOTOGRAPH_METHODS, ground_adam, ground_project

CENTRED = Geometry(6, 2, 16, 16)
SMALL = Geometry(3, 2, 8, 8)
GEOMETRIES = {
    "p2": CENTRED,
    "p2-off-centre": Geometry(4, 2, 16, 32, ((2, -4), (-4, 6), (2, 8))),
    "p3": Geometry(4, 3, 18, 18, ((3, -3), (0, 6), (-6, 3))),
    "p10": Geometry(3, 10, 20, 40),
}
# Eager, every operation compiles by itself; one test below is about eager.
adam_jit, project_jit = (
    jax.jit(ground, static_argnames="geometry") for ground in (ground_adam, ground_project)
)
render = jax.jit(render, static_argnames=("geometry",))

by_adam = pytest.mark.loose_promotion("optax's Adam raises a float to its integer step count")
every_geometry = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)


def pictures(geometry, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (geometry.levels, geometry.height, geometry.width, 3)).astype(dtype)


def ties(images, photo, geometry, level):
    """Yields (i, what level i shows of the photograph, what it should), by slow oracles."""
    p, corners = geometry.zoom_factor, geometry.corners
    stack = np.broadcast_to(photo, (geometry.levels, *photo.shape))
    for i in range(geometry.levels):
        k = abs(i - level)
        if k > oracles.pyramid_depth(geometry.height, geometry.width, p):
            continue
        deeper, wider = max(i, level), min(i, level)
        if oracles.observation(stack, deeper, k, corners, p) is None:
            continue
        if i >= level:
            yield (
                i,
                oracles.downsample(images[i], p**k),
                oracles.observation(stack, deeper, k, corners, p),
            )
        else:
            whole = np.broadcast_to(images[i], (geometry.levels, *photo.shape))
            assert wider == i
            yield (
                i,
                oracles.observation(whole, deeper, k, corners, p),
                oracles.downsample(photo, p**k),
            )


@every_geometry
def test_projection_meets_the_photograph_at_every_level_that_sees_it(geometry):
    images, photo = pictures(geometry), pictures(geometry, 1)[0]
    for level in {0, 1, geometry.levels - 1}:
        found = np.asarray(project_jit(jnp.asarray(images), {level: jnp.asarray(photo)}, geometry))
        tied = list(ties(found, photo, geometry, level))
        assert level in [i for i, _, _ in tied]
        for _, seen, wanted in tied:
            np.testing.assert_allclose(seen, wanted, atol=5e-7)  # float32 rounding of D
        for i in set(range(geometry.levels)) - {i for i, _, _ in tied}:
            np.testing.assert_array_equal(found[i], images[i])


def test_a_centred_photograph_ties_the_levels_whose_windows_keep_two_pixels():
    images, photo = pictures(CENTRED), pictures(CENTRED, 1)[0]
    tied = [i for i, _, _ in ties(images, photo, CENTRED, 0)]
    assert tied == [0, 1, 2, 3]
    assert [i for i, _, _ in ties(images, photo, CENTRED, 3)] == [0, 1, 2, 3, 4, 5]


@every_geometry
def test_projection_is_idempotent_and_changes_as_little_as_can_be(geometry):
    with jax.enable_x64(True):
        images = jnp.asarray(pictures(geometry, dtype=np.float64))
        photo = jnp.asarray(pictures(geometry, 1, np.float64)[0])
        found = project_jit(images, {1: photo}, geometry)
        again = project_jit(found, {1: photo}, geometry)
        # Pythagoras: the change is orthogonal to every way of staying on the photograph.
        other = project_jit(jnp.asarray(pictures(geometry, 2, np.float64)), {1: photo}, geometry)
        np.testing.assert_allclose(again, found, atol=1e-14)
        assert abs(float(jnp.sum((found - images) * (other - found)))) < 1e-9


def test_deeper_detail_that_the_photograph_cannot_show_stays():
    images, photo = pictures(CENTRED), pictures(CENTRED, 1)[0]
    found = np.asarray(project_jit(jnp.asarray(images), {0: jnp.asarray(photo)}, CENTRED))

    def detail(image):
        return image - oracles.replicate(oracles.downsample(image, 4), 4)

    np.testing.assert_allclose(detail(found[2]), detail(images[2]), atol=1e-6)
    assert not np.allclose(found[2], images[2], atol=0.1)


@by_adam
@every_geometry
def test_adam_moves_towards_the_photograph_and_leaves_other_levels_alone(geometry):
    images, photo = pictures(geometry), pictures(geometry, 1)[0]
    found = np.asarray(adam_jit(jnp.asarray(images), {0: jnp.asarray(photo)}, geometry))

    def misfit(x):
        return sum(np.sum((seen - wanted) ** 2) for _, seen, wanted in ties(x, photo, geometry, 0))

    # 0.4 of a typical distance of 0.66: five steps of at most 0.1 go about half the way.
    assert misfit(found) < 0.5 * misfit(images)
    assert np.abs(found - images).max() < 0.5 + 1e-4
    for i in set(range(geometry.levels)) - {i for i, _, _ in ties(images, photo, geometry, 0)}:
        np.testing.assert_array_equal(found[i], images[i])


@by_adam
def test_adam_is_optax_in_longhand():
    # Kingma and Ba's update with bias correction, b1 = 0.9, b2 = 0.999, eps = 1e-8, on one level.
    geometry = Geometry(1, 2, 4, 4)
    x, photo = pictures(geometry, 0, np.float64)[0], pictures(geometry, 1, np.float64)[0]
    with jax.enable_x64(True):
        found = adam_jit(jnp.asarray(x)[None], {0: jnp.asarray(photo)}, geometry)
    first = second = 0
    for t in range(1, 6):
        slope = 2 * (x - photo)
        first = 0.9 * first + 0.1 * slope
        second = 0.999 * second + 0.001 * slope**2
        x = x - 0.1 * (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(found[0], x, atol=1e-12)


@by_adam
def test_adam_has_an_error_floor_and_projection_has_none():
    # Almost right everywhere, as at the last steps of sampling: wrong by up to 0.002.
    agreeing = np.asarray(render(jnp.asarray(pictures(CENTRED)), CENTRED))
    photo = agreeing[0]
    nearly = jnp.asarray(agreeing + 0.002 * pictures(CENTRED, 1))
    adam = np.abs(np.asarray(adam_jit(nearly, {0: jnp.asarray(photo)}, CENTRED))[0] - photo)
    exact = np.abs(np.asarray(project_jit(nearly, {0: jnp.asarray(photo)}, CENTRED))[0] - photo)
    assert 0.03 < adam.max() < 0.1
    assert exact.max() == 0


def test_pictures_that_already_meet_the_photograph_stay():
    agreeing = render(jnp.asarray(pictures(CENTRED)), CENTRED)
    found = project_jit(agreeing, {2: agreeing[2]}, CENTRED)
    np.testing.assert_allclose(found, agreeing, atol=1e-6)


@pytest.mark.parametrize("method", [pytest.param("adam", marks=by_adam), "project"])
def test_jit_equals_eager_and_gradients_are_finite(method):
    # SMALL: eager, every operation compiles by itself.
    images, photo = (jnp.asarray(x) for x in (pictures(SMALL), pictures(SMALL, 1)[0]))
    ground = PHOTOGRAPH_METHODS[method]
    eager = ground(images, {1: photo}, SMALL)
    compiled = jax.jit(lambda x, xi: ground(x, {1: xi}, SMALL))(images, photo)
    np.testing.assert_allclose(compiled, eager, atol=1e-5)  # Adam divides rounding by small slopes
    slopes = jax.jit(
        jax.grad(lambda x, xi: jnp.sum(ground(x, {0: xi}, SMALL) ** 2), argnums=(0, 1))
    )(images, photo)
    assert all(bool(jnp.isfinite(slope).all()) for slope in slopes)


# Photographs known in parts, and several. --------------------------------------------------------


def slow_projection(images, photographs, geometry):
    """Cell by cell, the deepest photograph first: each changes what no deeper one has fixed."""
    p, shape = geometry.zoom_factor, images.shape[1:3]
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    grids = np.broadcast_to(grid, (geometry.levels, *grid.shape))
    x, fixed = np.array(images, np.float64), np.zeros(images.shape[:3], bool)
    for level in sorted(photographs, reverse=True):
        for i in range(geometry.levels):
            k = abs(i - level)
            if k > oracles.pyramid_depth(*shape, p):
                continue
            place = oracles.observation(grids, max(i, level), k, geometry.corners, p)
            for row, column in [] if place is None else np.ndindex(place.shape[:2]):
                pixel = tuple(place[row, column].astype(int))  # of the wider of the two
                cell = tuple(slice(n * p**k, (n + 1) * p**k) for n in (row, column))  # the deeper's
                shown = photographs[level][cell if i < level else pixel]
                mine, done = (a[i][pixel if i < level else cell] for a in (x, fixed))
                target = shown.mean((0, 1)) if i < level else shown
                if np.isnan(target).any() or done.all():
                    continue
                if i < level:
                    x[i][pixel] = target
                    fixed[i][pixel] = True
                    continue
                if not done.any():  # a cell is met as a whole, or not at all
                    mine += target - mine.mean((0, 1))
                done[:] = True
    return x


def with_holes(photo, seed):
    """The photograph without a border on two sides, and without some pixels inside."""
    holes = np.random.default_rng(seed).uniform(size=photo.shape[:2]) < 0.1
    holes[:3] = holes[:, -2:] = True
    return np.where(holes[..., None], photo.dtype.type(np.nan), photo)


def test_a_wide_photograph_does_not_blow_up_what_a_deeper_one_leaves_free():
    deep = np.zeros((16, 16, 3), np.float32)
    deep[:, [0, -1]] = np.nan  # padded: the outer columns are free
    images, wide = np.zeros((4, 16, 16, 3), np.float32), np.full_like(deep, 0.3)
    found = np.asarray(project_jit(images, {0: wide, 3: deep}, Geometry(4, 2, 16, 16)))
    assert np.abs(found).max() <= 0.3 + 1e-6


@pytest.mark.parametrize(
    ("name", "levels"),
    [("p2", (0, 2, 3)), ("p2-off-centre", (0, 2)), ("p3", (1, 2)), ("p10", (1,))],
)
def test_projection_is_that_of_the_slow_oracle(name, levels):
    geometry = GEOMETRIES[name]
    images = pictures(geometry, dtype=np.float64)
    whole = {level: pictures(geometry, 5 + level, np.float64)[0] for level in levels}
    holed = {level: with_holes(photo, level) for level, photo in whole.items()}
    with jax.enable_x64(True):
        for photographs in (whole, holed):
            found = project_jit(images, photographs, geometry)
            assert not np.isnan(found).any()
            wanted = slow_projection(images, photographs, geometry)
            np.testing.assert_allclose(found, wanted, atol=1e-12)


@by_adam
def test_adam_moves_only_what_is_known():
    geometry = GEOMETRIES["p3"]
    images, photo = pictures(geometry), pictures(geometry, 1)[0]
    photo = np.where(np.abs(photo[..., :1]) < 1e-3, 0.5, photo)
    holed = with_holes(photo, 3)
    found, whole = (np.asarray(adam_jit(images, {1: xi}, geometry)) for xi in (holed, photo))
    marks = np.zeros_like(images)  # a pixel moves as with the whole photograph, or not at all
    marked = slow_projection(marks, {1: np.where(np.isnan(holed), np.nan, 1)}, geometry)
    np.testing.assert_allclose(found, np.where(marked > 0, whole, images), atol=1e-6)
    assert 0 < (marked > 0).mean() < 1


@by_adam
def test_of_two_photographs_the_deeper_one_prevails_for_adam_too():
    images = pictures(SMALL)
    wide, deep = pictures(SMALL, 1)[0], pictures(SMALL, 2)[0]
    given = {"both": {0: wide, 1: deep}, "wide": {0: wide}, "deep": {1: deep}}
    found = {name: np.asarray(adam_jit(images, g, SMALL)) for name, g in given.items()}
    inside = np.zeros((8, 8, 1), bool)
    inside[2:6, 2:6] = True  # level 1 in level 0
    joined = np.where(inside, found["deep"][0], found["wide"][0])
    np.testing.assert_allclose(found["both"][0], joined, atol=1e-6)
    np.testing.assert_allclose(found["both"][1:], found["deep"][1:], atol=1e-6)


@pytest.mark.parametrize("method", [pytest.param("adam", marks=by_adam), "project"])
def test_gradients_are_finite_where_photographs_have_holes(method):
    images, photo = pictures(SMALL), pictures(SMALL, 1)[0]
    photographs = {0: with_holes(photo, 0), 1: with_holes(photo, 1)}
    ground = PHOTOGRAPH_METHODS[method]
    slope = jax.jit(jax.grad(lambda x: jnp.sum(ground(x, photographs, SMALL) ** 2)))(images)
    assert bool(jnp.isfinite(slope).all())


def test_a_photograph_of_which_nothing_is_known_changes_nothing():
    images = pictures(SMALL)
    found = project_jit(images, {1: np.full((8, 8, 3), np.nan, np.float32)}, SMALL)
    np.testing.assert_array_equal(found, images)


@pytest.mark.parametrize("method", sorted(PHOTOGRAPH_METHODS))
def test_photographs_that_do_not_fit_are_named(method):
    images = jnp.zeros((6, 16, 16, 3))
    ground = PHOTOGRAPH_METHODS[method]
    with pytest.raises(ValueError, match=r"\(16, 16, 3\), got \(8, 8, 3\)"):
        ground(images, {0: jnp.zeros((8, 8, 3))}, CENTRED)
    for level in (-1, 6):
        with pytest.raises(ValueError, match=f"a level from 0 to 5, got {level}"):
            ground(images, {level: images[0]}, CENTRED)
    with pytest.raises(ValueError, match="expected all levels"):
        ground(images[:2], {0: images[0]}, CENTRED)
