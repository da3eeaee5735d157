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
    squared_disagreement,
)

from pot_jax.zoom.agreement import BLENDS, consistent
from pot_jax.zoom.blending import average, enlarged, iterative, laplacian, none
from pot_jax.zoom.geometry import Geometry
from pot_jax.zoom.operators import downsample, observe, render, upsample

GEOMETRIES = {
    "p2": Geometry(5, 2, 16, 32),
    "p2-off-centre": Geometry(5, 2, 16, 16, ((2, -4), (-4, 0), (1, 3), (0, 2))),
    "p3": Geometry(3, 3, 18, 18),
    "p4-off-centre": Geometry(4, 4, 32, 16, ((4, 0), (-8, 6), (3, 1))),
    "p10-off-centre": Geometry(2, 10, 20, 40, ((-9, 18),)),
    "odd-windows": Geometry(4, 2, 12, 12),
    "no-bands": Geometry(3, 5, 5, 5),
    "one-level": Geometry(1, 2, 8, 8),
}
every_geometry = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
every_blend = pytest.mark.parametrize("blend", sorted(BLENDS))
GEOMETRY = Geometry(4, 2, 8, 8, ((2, 0), (-2, 2), (0, 1)))

# Eager, every operation compiles by itself; one test below is about eager.
render = jax.jit(render, static_argnames=("geometry", "kernel"))
disagreement_jit = jax.jit(squared_disagreement, static_argnames=("geometry", "blend", "kernel"))


def blend_jit(blend, images, geometry, weight=1.0, kernel="mean"):
    return jax.jit(lambda x, w: blend(x, geometry, weight=w, kernel=kernel))(images, weight)


@every_geometry
def test_each_blend_is_its_slow_oracle(geometry):
    images, p, corners = pictures(geometry), geometry.zoom_factor, geometry.corners
    with jax.enable_x64(True):
        for weight in (1.0, 0.3, 0.0):
            found = jax.jit(
                lambda x, w: [f(x, geometry, weight=w) for f in (laplacian, average, iterative)]
            )(jnp.asarray(images), weight)
            expected = (
                oracles.laplacian_blend(images, corners, p, weight),
                oracles.average_blend(images, corners, p, weight),
                oracles.iterative_blend(images, corners, p, weight),
            )
            for one, slow in zip(found, expected):
                np.testing.assert_allclose(one, slow, atol=1e-13)


@pytest.mark.parametrize("name", ["p3", "p4-off-centre"])
def test_other_kernels_reach_the_pyramid(name):
    geometry = GEOMETRIES[name]
    images, p, corners = pictures(geometry), geometry.zoom_factor, geometry.corners
    with jax.enable_x64(True):
        x = jnp.asarray(images)
        found = [blend_jit(f, x, geometry, kernel="gaussian") for f in (laplacian, iterative)]
    slow = oracles.laplacian_blend(images, corners, p, kernel="gaussian")
    np.testing.assert_allclose(found[0], slow, atol=1e-13)
    slow = oracles.iterative_blend(images, corners, p, kernel="gaussian")
    np.testing.assert_allclose(found[1], slow, atol=1e-13)


@every_geometry
def test_pictures_that_agree_pass_through_unchanged(geometry):
    # To the last bit where p is a power of two; else D's scaling may be fused with the difference
    # that should vanish, and so be rounded once instead of twice.
    atol = 0 if geometry.zoom_factor in (2, 4) else 1e-14
    with jax.enable_x64(True):
        agreeing = render(jnp.asarray(pictures(geometry)), geometry)
        for blend in (laplacian, iterative):
            found = blend_jit(blend, agreeing, geometry, 0.3)
            np.testing.assert_allclose(found, agreeing, rtol=0, atol=atol)
        found = consistent_jit(agreeing, geometry)
        np.testing.assert_allclose(found, agreeing, rtol=0, atol=atol)


@pytest.mark.parametrize("levels", [8, 64])
def test_many_levels_agree_after_one_pass(levels):
    geometry = Geometry(levels, 2, 16, 16)
    with jax.enable_x64(True):
        x = consistent_jit(jnp.asarray(pictures(geometry)), geometry)
        np.testing.assert_array_equal(downsample(x[1:], 2), observe(x, geometry, 1)[1:])
        np.testing.assert_array_equal(consistent_jit(x, geometry), x)


@every_blend
def test_constants_stay_constant_and_blends_are_linear(blend):
    keeps_constants_and_is_linear(blend, GEOMETRY)


@pytest.mark.parametrize("blend", sorted(set(BLENDS) - {"enlarged"}))
def test_weight_zero_returns_the_pictures(blend):
    images = jnp.asarray(pictures(GEOMETRY, dtype=np.float32))
    found = blend_jit(BLENDS[blend].stack, images, GEOMETRY, weight=0.0)
    np.testing.assert_array_equal(found, images)


@every_blend
def test_jit_equals_eager_and_stacks_can_be_batched(blend):
    stacks = jnp.asarray(np.stack([pictures(GEOMETRY, s, np.float32) for s in range(2)]))

    def blended(stack):
        return consistent(stack, GEOMETRY, blend=blend, weight=0.5)

    eager = blended(stacks[1])
    assert eager.dtype == jnp.float32
    # Rounding of sums of numbers near 1, fused or not.
    np.testing.assert_allclose(jax.jit(blended)(stacks[1]), eager, atol=2e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(blended))(stacks)[1], eager, atol=2e-6)


@every_blend
def test_gradients_match_finite_differences(blend):
    has_gradients_of_finite_differences(blend, GEOMETRY)


def test_the_gradient_of_the_weight_is_finite_at_zero():
    images = jnp.asarray(pictures(GEOMETRY, dtype=np.float32))
    slope = jax.jit(jax.grad(lambda w: jnp.sum(laplacian(images, GEOMETRY, weight=w) ** 2)))(0.0)
    assert np.isfinite(slope)
    assert slope != 0


def test_what_a_level_takes_from_wider_ones_is_never_finer_than_they_resolve():
    # One disturbed pixel of level 0 reaches level 2 only as bands of 4 x 4 cells and coarser: high
    # frequencies of level 2 are its own.
    geometry = Geometry(3, 2, 16, 16)
    images = np.zeros((3, 16, 16, 1), np.float32)
    images[0, 8, 8] = 1
    deep = np.asarray(blend_jit(laplacian, jnp.asarray(images), geometry))[2, ..., 0]
    spectrum = np.abs(np.fft.fft2(deep))
    assert spectrum[:5, :5].max() > 10 * spectrum[7:10, 7:10].max()
    untouched = np.asarray(blend_jit(iterative, jnp.asarray(images[::-1].copy()), geometry))
    np.testing.assert_array_equal(untouched[:2], images[::-1][:2])  # nothing flows back


def test_none_is_independent_sampling_and_disagrees_with_nothing():
    images = jnp.asarray(pictures(GEOMETRY, dtype=np.float32))
    assert none(images, GEOMETRY) is images
    assert consistent(images, GEOMETRY, blend="none") is images
    assert squared_disagreement(images, GEOMETRY, blend="none") == 0
    assert disagreement_jit(images, GEOMETRY) > 1
    assert disagreement_jit(render(images, GEOMETRY), GEOMETRY) == 0


def test_names_and_shapes_that_do_not_fit_are_named():
    images = jnp.zeros((4, 8, 8, 1))
    with pytest.raises(
        ValueError, match="unknown blend 'median'; known: average, enlarged, gradient"
    ):
        consistent(images, GEOMETRY, blend="median")
    with pytest.raises(ValueError, match="unknown kernel 'box'"):
        consistent(images, GEOMETRY, kernel="box")
    for blend in BLENDS.values():
        with pytest.raises(ValueError, match=r"\(4, 8, 8\), got \(4, 4, 4, 1\)"):
            blend.stack(images[:, :4, :4], GEOMETRY)


def slow_enlarged(picture, geometry):
    """Level by level, from each pixel's centre in level 0, edges held."""
    p, out = geometry.zoom_factor, []
    corner, (height, width, _) = np.zeros(2), picture.shape
    for level in range(geometry.levels):
        rows, columns = (
            (np.arange(size) + 0.5) / p**level + start - 0.5
            for size, start in zip((height, width), corner)
        )
        across = np.stack([[np.interp(columns, np.arange(width), c) for c in r.T] for r in picture])
        down = [
            [np.interp(rows, np.arange(height), c) for c in r.T] for r in across.transpose(2, 0, 1)
        ]
        out.append(np.stack(down).transpose(2, 0, 1))
        if level < geometry.levels - 1:
            corner = corner + geometry.corners[level] / p**level
    return np.stack(out)


@every_geometry
def test_enlarged_levels_are_bilinear_enlargements_of_the_widest(geometry):
    images = pictures(geometry)
    with jax.enable_x64(True):
        found = blend_jit(enlarged, jnp.asarray(images), geometry, 0.3)
    np.testing.assert_array_equal(found[0], images[0])
    np.testing.assert_allclose(found, slow_enlarged(images[0], geometry), atol=1e-12)


def test_an_enlarged_level_is_its_upsampled_window_and_passes_nothing_back():
    images = jnp.asarray(pictures(GEOMETRIES["p2"], dtype=np.float32))
    found = consistent_jit(images, GEOMETRIES["p2"], blend="enlarged", weight=0.3)
    np.testing.assert_array_equal(found[0], images[0])
    whole = upsample(images[0], 2)[8:24, 16:48]  # edges come from outside the window
    np.testing.assert_allclose(found[1], whole, atol=1e-6)


def test_enlarged_levels_stay_finite_at_any_depth():
    geometry = Geometry(60, 10, 20, 20)
    found = blend_jit(enlarged, jnp.asarray(pictures(geometry, dtype=np.float32)), geometry)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(
        found[-1], np.broadcast_to(found[-1, :1, :1], (20, 20, 2)), atol=1e-5
    )


# The strip along a window's border. ---------------------------------------------------------------


def strip_jit(images, geometry, weight, strip, own_colour=0.0):
    f = jax.jit(lambda x, w, s, m: laplacian(x, geometry, weight=w, strip=s, own_colour=m))
    return f(images, weight, strip, own_colour)


@every_geometry
def test_the_strip_is_its_slow_oracle(geometry):
    images, p, corners = pictures(geometry), geometry.zoom_factor, geometry.corners
    with jax.enable_x64(True):
        for numbers in ((0.0, 0.15), (0.3, 0.25), (1.0, 0.5), (0.3, 0.0, 0.5), (0.0, 0.15, 1.0)):
            found = strip_jit(jnp.asarray(images), geometry, *numbers)
            slow = oracles.strip_blend(images, corners, p, *numbers)
            np.testing.assert_allclose(found, slow, atol=1e-6)  # the cosine is of 32 bits


@every_geometry
def test_pictures_that_agree_pass_the_strip_unchanged(geometry):
    with jax.enable_x64(True):
        agreeing = render(jnp.asarray(pictures(geometry)), geometry)
        for weight, own_colour in ((0.0, 0.0), (0.3, 0.5)):
            found = strip_jit(agreeing, geometry, weight, 0.2, own_colour)
            np.testing.assert_allclose(found, agreeing, rtol=0, atol=1e-13)


@every_geometry
def test_the_strip_is_linear_and_keeps_constants(geometry):
    with jax.enable_x64(True):
        a, b = (jnp.asarray(pictures(geometry, seed)) for seed in range(2))
        f = jax.jit(lambda x: consistent(x, geometry, weight=0.0, strip=0.15, own_colour=0.5))
        np.testing.assert_allclose(f(2.0 * a - 3.0 * b), 2.0 * f(a) - 3.0 * f(b), atol=1e-12)
    constant = jnp.full((geometry.levels, geometry.height, geometry.width, 2), 0.3, jnp.float32)
    found = consistent_jit(constant, geometry, weight=0.0, strip=0.15, own_colour=0.5)
    rounding = 0 if geometry.zoom_factor in (2, 4) else 1e-7  # D's own
    np.testing.assert_allclose(found, constant, rtol=0, atol=rounding)


def test_without_a_strip_not_a_bit_changes():
    images = jnp.asarray(pictures(GEOMETRY, dtype=np.float32))
    for weight in (0.0, 0.3, 1.0):
        found = strip_jit(images, GEOMETRY, weight, 0.0)
        np.testing.assert_array_equal(found, blend_jit(laplacian, images, GEOMETRY, weight))


@every_geometry
@pytest.mark.parametrize("strip", [0.0, 0.15])
def test_all_of_a_levels_mean_colour_can_be_its_own(geometry, strip):
    with jax.enable_x64(True):
        images = jnp.asarray(pictures(geometry))
        means = [
            strip_jit(images, geometry, 0.3 * (geometry.depth < 2), strip, own_colour).mean((1, 2))
            for own_colour in (0.0, 0.5, 1.0)
        ]
        pulled, half, own = means
        np.testing.assert_allclose(own, images.mean((1, 2)), atol=1e-9)
        np.testing.assert_allclose(half, (pulled + own) / 2, atol=1e-9)
    exists = geometry.observation(1)[1] if geometry.depth else np.zeros(geometry.levels, bool)
    assert (np.abs(pulled - own).max(-1) > 1e-4)[exists].all() or not strip


def test_at_its_border_a_child_has_its_parents_colours_and_inside_its_own():
    geometry = Geometry(2, 2, 64, 64)
    images = jnp.stack([jnp.zeros((64, 64, 1)), jnp.ones((64, 64, 1))])
    found = strip_jit(images, geometry, 0.0, 0.25)
    low = np.asarray(downsample(found[1], 2))[..., 0]  # 32 x 32: a strip of 8
    assert max(low[0].max(), low[:, -1].max()) < 0.02
    np.testing.assert_array_equal(low[10:22, 10:22], 1)  # bilinear enlargement reaches a pixel on
    inwards = low[16, :16]
    assert (np.diff(inwards) >= 0).all()
    np.testing.assert_array_equal(found[0], images[0])


def test_one_compilation_serves_all_strips():
    f = jax.jit(lambda x, s: consistent(x, GEOMETRY, weight=0.0, strip=s, own_colour=s / 0.3))
    images = jnp.asarray(pictures(GEOMETRY, dtype=np.float32))
    jitted = [f(images, s) for s in (0.0, 0.1, 0.15, 0.5)]
    assert f._cache_size() == 1
    eager = consistent(images, GEOMETRY, weight=0.0, strip=0.15, own_colour=0.5)
    np.testing.assert_allclose(jitted[2], eager, atol=1e-6)


def test_the_strip_has_finite_gradients():
    images = jnp.asarray(pictures(GEOMETRY, dtype=np.float32))
    loss = jax.jit(
        jax.grad(lambda x: jnp.sum(consistent(x, GEOMETRY, weight=0.0, strip=0.15) ** 2))
    )
    assert np.isfinite(loss(images)).all()
