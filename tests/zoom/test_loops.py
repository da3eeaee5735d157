"""Loops: the deepest level shows level 0 again. What holds of open chains, at the joint too."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from blends import (
    consistent_jit,
    has_gradients_of_finite_differences,
    keeps_constants_and_is_linear,
    pictures,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from pot_jax.checks import to_dict
from pot_jax.errors import UserError
from pot_jax.zoom import operators
from pot_jax.zoom.agreement import BLENDS, consistent
from pot_jax.zoom.geometry import Geometry
from pot_jax.zoom.operators import downsample, observe, shared_noise
from pot_jax.zoom.photograph import ground_project

GEOMETRIES = {
    "p2": Geometry(6, 2, 16, 16, loop=True),
    "p2-off-centre": Geometry(3, 2, 16, 32, ((2, -4), (-4, 0), (1, 3)), loop=True),
    "p2-two-levels": Geometry(2, 2, 8, 8, loop=True),
    "p2-two-corners": Geometry(2, 2, 16, 8, ((4, -2), (4, -2)), loop=True),  # of one corner of F
    "p3": Geometry(2, 3, 18, 18, loop=True),
    "p3-off-centre": Geometry(3, 3, 12, 18, ((4, -6), (1, 2), (0, 3)), loop=True),
    "p4-off-centre": Geometry(2, 4, 16, 24, ((4, -3), (0, 1)), loop=True),
}
every_geometry = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
LOOPING = sorted(set(BLENDS) - {"enlarged"})
SMALL = GEOMETRIES["p2-two-levels"]

render = jax.jit(operators.render, static_argnames=("geometry", "kernel"))


@st.composite
def loops(draw):
    p = draw(st.sampled_from([2, 3]))
    height, width = (2 * p * draw(st.sampled_from([1, 2, 3])) for _ in range(2))
    levels = draw(st.integers(2, 4))
    room = [(n - n // p) // 2 for n in (height, width)]
    offsets = tuple(tuple(draw(st.integers(-r, r)) for r in room) for _ in range(levels))
    return Geometry(levels, p, height, width, offsets, loop=True)


def windows_of(images, geometry):
    """Every level's window, by plain slices, [N, h, w, C]."""
    h, w = geometry.window_shape
    return np.stack([images[i, y : y + h, x : x + w] for i, (y, x) in enumerate(geometry.corners)])


def without_windows(images, geometry):
    out, (h, w) = np.array(images), geometry.window_shape
    for level, (y, x) in enumerate(geometry.corners):
        out[level, y : y + h, x : x + w] = 0
    return out


def children_of(images, geometry, kernel="mean"):
    """D of the level that each window shows, [N, h, w, C]."""
    return np.asarray(downsample(jnp.roll(images, -1, axis=0), geometry.zoom_factor, kernel))


# Placement. -------------------------------------------------------------------------------------


@given(loops())
@settings(max_examples=30, deadline=None)
def test_every_observation_is_that_of_the_unrolled_chain(geometry):
    levels, p = geometry.levels, geometry.zoom_factor
    unrolled = np.concatenate([geometry.corners] * (geometry.depth + 1))
    for k in range(geometry.depth + 1):
        corners, exists = geometry.observation(k)
        for level in range(levels):
            place = oracles.window_in(levels * geometry.depth + level, k, unrolled, p)
            whole = all(c == int(c) for c in place)
            assert exists[level] == whole
            assert tuple(corners[level]) == (place if whole else (0, 0))


def test_a_loop_has_one_more_pair_and_scales_and_round_trips():
    geometry = GEOMETRIES["p2-off-centre"]
    assert geometry.windows == 3
    fine = geometry.scaled(4)
    np.testing.assert_array_equal(fine.corners, 4 * geometry.corners)
    assert fine.loop
    assert Geometry.from_json(geometry.to_json()) == geometry
    assert Geometry.from_json(fine.to_json()) == fine
    assert geometry.to_json()["loop"] is True


def test_an_open_chain_says_of_itself_what_it_always_said():
    geometry = Geometry(2, 2, 8, 8, ((1, 0),))
    known = {"levels": 2, "zoom_factor": 2, "height": 8, "width": 8, "offsets": [[1, 0]]}
    assert geometry.to_json() == known
    assert to_dict(geometry) == {**known, "loop": False}
    assert Geometry.from_json(known) == geometry
    assert hash(geometry) != hash(Geometry(2, 2, 8, 8, ((1, 0), (0, 0)), loop=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 2, 8, 8, None, True), "loop: expected at least 2 levels, got 1"),
        (
            (3, 5, 5, 25, None, True),
            "loop: zoom_factor 5 leaves no window: expected at least 2 x 2",
        ),
        (
            (2, 2, 8, 8, ((0, 0),), True),
            "expected 2 pairs for 2 levels, one for each in a loop, got",
        ),
        (
            (2, 2, 8, 8, ((0, 0), (3, 0)), True),
            r"offsets\[1\] = \(3, 0\) puts .* level 0 at .*level 1",
        ),
        ((2, 2, 8, 8, None, "yes"), "loop: expected true or false, got 'yes'"),
    ],
)
def test_a_loop_that_does_not_fit_is_named(arguments, message):
    with pytest.raises(UserError, match=message):
        Geometry(*arguments)


@pytest.mark.parametrize(
    "refused",
    [
        lambda x: BLENDS["enlarged"].stack(x, SMALL),
        lambda x: operators.blurred_noise(jax.random.key(0), SMALL, 2),
        lambda x: ground_project(x, {0: x[0]}, SMALL),
    ],
    ids=["enlarged", "blurred", "photograph"],
)
def test_what_needs_a_widest_level_is_refused(refused):
    with pytest.raises(UserError, match="expected an open chain of levels, got a loop"):
        refused(jnp.zeros((2, 8, 8, 2)))


# Render. ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_geometry
def test_rendered_levels_agree_to_the_last_bit_all_around(geometry, dtype):
    stack = pictures(geometry, dtype=dtype)
    with jax.enable_x64(dtype == np.float64):
        rendered = render(jnp.asarray(stack), geometry)
        assert rendered.dtype == dtype
        np.testing.assert_array_equal(
            children_of(rendered, geometry), windows_of(np.asarray(rendered), geometry)
        )
        np.testing.assert_array_equal(render(rendered, geometry), rendered)
    # Outside the windows, levels are what they alone contribute: with the above, that is all.
    np.testing.assert_array_equal(
        without_windows(rendered, geometry), without_windows(stack, geometry)
    )


@pytest.mark.parametrize("kernel", ["mean", "gaussian"])
@every_geometry
def test_render_is_the_unrolled_chain(geometry, kernel):
    stack = pictures(geometry)
    with jax.enable_x64(True):
        found = render(jnp.asarray(stack), geometry, kernel=kernel)
    slow = oracles.loop_render(stack, geometry.corners, geometry.zoom_factor, kernel)
    np.testing.assert_allclose(found, slow, rtol=0, atol=1e-14)


@given(loops(), st.integers(0, 99))
@settings(max_examples=5, deadline=None)
def test_any_loop_meets_its_ends_and_passes_through_unchanged(geometry, seed):
    with jax.enable_x64(True):
        x = consistent_jit(jnp.asarray(pictures(geometry, seed)), geometry, weight=0.3)
        np.testing.assert_allclose(
            children_of(x, geometry), windows_of(np.asarray(x), geometry), rtol=0, atol=1e-15
        )
        again = consistent_jit(x, geometry, weight=0.3)
    np.testing.assert_allclose(again, x, rtol=0, atol=1e-14)


@pytest.mark.parametrize("levels", [2, 134])
def test_passes_are_few_for_many_levels(levels):
    geometry = Geometry(levels, 2, 16, 16, loop=True)
    assert geometry.passes == {2: 22, 134: 2}[levels]
    assert Geometry(levels, 2, 16, 16).passes == 1


# Blends. ----------------------------------------------------------------------------------------


@every_geometry
def test_each_blend_is_its_slow_oracle_on_the_unrolled_chain(geometry):
    images, p, levels = pictures(geometry), geometry.zoom_factor, geometry.levels
    twice, corners = np.concatenate([images] * 2), np.concatenate([geometry.corners] * 2)
    names = ("laplacian", "average", "iterative")
    with jax.enable_x64(True):
        found = jax.jit(lambda x: [BLENDS[n].stack(x, geometry, weight=0.3) for n in names])(images)
    expected = (
        oracles.laplacian_blend(twice, corners, p, 0.3, most=levels)[levels:],
        oracles.average_blend(twice, corners, p, 0.3, most=levels)[levels:],
        oracles.iterative_blend(images, geometry.corners, p, 0.3),  # level 0 leads
    )
    for one, slow in zip(found, expected):
        np.testing.assert_allclose(one, slow, rtol=0, atol=1e-13)


@every_geometry
def test_pictures_that_agree_pass_through_unchanged(geometry):
    atol = 0 if geometry.zoom_factor in (2, 4) else 1e-14  # as of open chains
    with jax.enable_x64(True):
        agreeing = render(jnp.asarray(pictures(geometry)), geometry)
        for blend in ("laplacian", "iterative"):
            found = consistent_jit(agreeing, geometry, blend=blend, weight=0.3)
            np.testing.assert_allclose(found, agreeing, rtol=0, atol=atol)


@pytest.mark.parametrize("blend", LOOPING)
def test_constants_stay_constant_and_blends_are_linear(blend):
    keeps_constants_and_is_linear(blend, GEOMETRIES["p2-off-centre"])


@pytest.mark.parametrize("blend", LOOPING)
def test_gradients_match_finite_differences(blend):
    has_gradients_of_finite_differences(blend, SMALL)


def test_jit_equals_eager_and_loops_can_be_batched():
    stacks = jnp.asarray(np.stack([pictures(SMALL, s, np.float32) for s in range(2)]))

    def blended(stack):
        return consistent(stack, SMALL, weight=0.5)

    eager = blended(stacks[1])
    np.testing.assert_allclose(jax.jit(blended)(stacks[1]), eager, atol=2e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(blended))(stacks)[1], eager, atol=2e-6)


def test_level_0_takes_from_the_deepest_what_any_child_takes():
    geometry = GEOMETRIES["p2"]
    images = jnp.zeros((6, 16, 16, 1)).at[5].set(1.0)
    blend = jax.jit(lambda x: BLENDS["laplacian"].stack(x, geometry, weight=0.5))
    blended, turned = blend(images), blend(jnp.roll(images, 2, axis=0))
    np.testing.assert_array_equal(jnp.roll(blended, 2, axis=0), turned)  # no level is special
    assert blended[0].mean() > 0.25
    assert blended[1].mean() > 0.1


# Noise. -----------------------------------------------------------------------------------------


@every_geometry
def test_noise_is_exactly_white_and_of_unit_variance_in_every_level(geometry, monkeypatch):
    # The noise of unit draws is the matrix M of the map from draws to noise; M M^T = 1.
    shape = (geometry.levels, geometry.height, geometry.width)
    count = int(np.prod(shape))
    draws = np.eye(count).reshape(*shape, count)
    monkeypatch.setattr(operators, "independent_noise", lambda *a, **k: jnp.asarray(draws))
    with jax.enable_x64(True):
        noise = np.asarray(shared_noise(None, geometry, count))
    for level in noise.reshape(geometry.levels, -1, count):
        np.testing.assert_allclose(level @ level.T, np.eye(len(level)), atol=1e-12)


@every_geometry
def test_noise_is_shared_all_around_where_no_level_shows_itself(geometry):
    p, levels = geometry.zoom_factor, geometry.levels
    noise = shared_noise(jax.random.key(1), geometry, 4)
    shrunk, seen = p * children_of(noise, geometry), windows_of(np.asarray(noise), geometry)
    # Level i in itself, N levels down the unrolled chain; in the pixels of its window.
    for level in range(levels):
        corners = np.roll(geometry.corners, -level, axis=0)
        start = sum(corner / float(p) ** j for j, corner in enumerate(corners)) - corners[0]
        size = np.array([geometry.height, geometry.width]) / float(p) ** levels
        same = np.ones(seen.shape[1:3], bool)
        first, last = np.floor(start + 1e-9).astype(int), np.ceil(start + size - 1e-9).astype(int)
        same[first[0] : last[0], first[1] : last[1]] = False
        np.testing.assert_allclose(shrunk[level][same], seen[level][same], atol=1e-5)
        assert same.mean() >= 1 - 2 * max(1 / same.size, float(p) ** (2 - 2 * levels)) * 2
    np.testing.assert_allclose(
        jax.jit(shared_noise, static_argnums=(1, 2))(jax.random.key(1), geometry, 4),
        noise,
        atol=1e-5,
    )


def test_observe_crops_from_the_level_before():
    images = jnp.asarray(pictures(GEOMETRIES["p2"], dtype=np.float32))
    for k in range(4):
        width = 16 >> k
        first = 8 - width // 2
        seen = np.asarray(observe(images, GEOMETRIES["p2"], k))
        for level in range(6):
            expected = images[(level - k) % 6, first : first + width, first : first + width]
            np.testing.assert_array_equal(seen[level], expected)
