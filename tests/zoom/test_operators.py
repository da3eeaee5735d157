import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.test_util import check_grads

from pot_jax.zoom.geometry import Geometry
from pot_jax.zoom.operators import (
    crop,
    downsample,
    noise_gain,
    observe,
    paste,
    render,
    upsample,
    upsample_nearest,
)

# (levels, zoom_factor, height, width), every zoom factor of the design, squares and not, one far
# deeper than any window reaches.
SHAPES = [
    (5, 2, 16, 32),
    (4, 3, 18, 36),
    (3, 4, 32, 16),
    (3, 10, 40, 20),
    (40, 2, 8, 8),
    (1, 2, 8, 8),
]


def placements(levels, p, height, width):
    """The centred geometry, and one whose levels all lie elsewhere, to the very edges."""
    rng = np.random.default_rng(levels)
    room = [(n - n // p) // 2 for n in (height, width)]
    offsets = [[int(rng.integers(-limit, limit + 1)) for limit in room] for _ in range(levels - 1)]
    if levels > 2:
        offsets[0], offsets[1] = [room[0], -room[1]], [-room[0], room[1]]
    return [Geometry(levels, p, height, width), Geometry(levels, p, height, width, offsets)]


def in_short(geometry):
    where = "centred" if geometry.offsets is None else "off-centre"
    shape = f"{geometry.levels}x{geometry.height}x{geometry.width}"
    return f"{shape}-p{geometry.zoom_factor}-{where}"


# All off-centre; centred ones of one usual stack and of the deepest.
GEOMETRIES = [placements(*shape)[1] for shape in SHAPES]
GEOMETRIES += [placements(*shape)[0] for shape in (SHAPES[0], SHAPES[4])]


def pictures(geometry, channels=2, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    shape = (geometry.levels, geometry.height, geometry.width, channels)
    return rng.normal(size=shape).astype(dtype)


def windows_of(images, geometry):
    """Level i's window of level i+1, by plain slices, [N-1, h, w, C]."""
    h, w = geometry.window_shape
    return np.stack([images[i, y : y + h, x : x + w] for i, (y, x) in enumerate(geometry.corners)])


@pytest.mark.parametrize("kernel", ["mean", "gaussian"])
@pytest.mark.parametrize("p", [2, 3, 4, 10])
def test_downsample_is_the_weighted_mean_of_each_cell(p, kernel):
    image = np.random.default_rng(p).normal(size=(2 * p, 3 * p, 2))
    with jax.enable_x64(True):
        small = downsample(jnp.asarray(image), p, kernel)
    np.testing.assert_allclose(small, oracles.downsample(image, p, kernel), atol=1e-14)


@pytest.mark.parametrize("p", [2, 3])
def test_downsampling_twice_is_the_mean_over_p_squared(p):
    image = np.random.default_rng(p).normal(size=(p**2 * 2, p**2, 1))
    with jax.enable_x64(True):
        twice = downsample(downsample(jnp.asarray(image), p), p)
    np.testing.assert_allclose(twice, oracles.downsample(image, p**2), atol=1e-14)


def test_at_zoom_factor_two_the_gaussian_is_the_mean():
    image = jnp.asarray(np.random.default_rng(0).normal(size=(8, 8, 3)), jnp.float32)
    np.testing.assert_allclose(
        downsample(image, 2, "gaussian"), downsample(image, 2), atol=1e-6
    )  # float32 rounding of values near 1


@pytest.mark.parametrize("p", [2, 3, 4, 10])
def test_upsample_is_bilinear_with_half_pixel_centres(p):
    image = np.random.default_rng(p).normal(size=(3, 5, 2))
    with jax.enable_x64(True):
        large = upsample(jnp.asarray(image), p)
        batched = upsample(jnp.asarray(image)[None, None], p)
    np.testing.assert_allclose(large, oracles.upsample(image, p), atol=1e-14)
    np.testing.assert_array_equal(batched[0, 0], large)


def test_upsample_reproduces_a_slope_away_from_the_edges():
    ramp = jnp.broadcast_to(jnp.arange(8.0)[:, None, None], (8, 8, 1))
    fine = upsample(ramp, 3)[2:-2, :, 0]
    expected = (jnp.arange(2.0, 22.0) + 0.5) / 3 - 0.5
    np.testing.assert_allclose(fine, jnp.broadcast_to(expected[:, None], fine.shape), atol=1e-6)


@pytest.mark.parametrize("kernel", ["mean", "gaussian"])
@pytest.mark.parametrize("p", [2, 3, 4, 10])
def test_replicate_is_a_right_inverse_of_downsample(p, kernel):
    image = np.random.default_rng(p).normal(size=(3, 2, 2))
    with jax.enable_x64(True):
        large = upsample_nearest(jnp.asarray(image), p)
        back = downsample(large, p, kernel)
    np.testing.assert_array_equal(large, oracles.replicate(image, p))
    np.testing.assert_allclose(back, image, atol=1e-14)


def test_crop_and_paste_are_slices():
    image = np.arange(60.0, dtype=np.float32).reshape(6, 5, 2)
    corner = np.array([2, 1], np.int32)
    np.testing.assert_array_equal(crop(jnp.asarray(image), corner, (3, 4)), image[2:5, 1:5])
    expected = image.copy()
    expected[2:5, 1:5] = -1
    pasted = paste(jnp.asarray(image), -jnp.ones((3, 4, 2)), corner)
    np.testing.assert_array_equal(pasted, expected)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=in_short)
def test_observe_crops_every_window_from_its_level(geometry):
    images = pictures(geometry, dtype=np.float32)
    for k in range(min(geometry.depth, geometry.levels - 1) + 1):
        seen = np.asarray(observe(jnp.asarray(images), geometry, k))
        for level in range(geometry.levels):
            expected = oracles.observation(images, level, k, geometry.corners, geometry.zoom_factor)
            if expected is not None:
                np.testing.assert_array_equal(seen[level], expected)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=in_short)
def test_rendered_levels_agree_to_the_last_bit(geometry, compiled):
    with jax.enable_x64(True):
        stack = jnp.asarray(pictures(geometry))
        rendered = (jax.jit(render, static_argnums=1) if compiled else render)(stack, geometry)
        assert rendered.dtype == jnp.float64
        children = downsample(rendered[1:], geometry.zoom_factor)
    if geometry.levels > 1:
        np.testing.assert_array_equal(children, windows_of(np.asarray(rendered), geometry))


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=in_short)
def test_render_keeps_what_no_deeper_level_shows(geometry):
    stack = pictures(geometry, dtype=np.float32)
    rendered = np.array(render(jnp.asarray(stack), geometry))
    np.testing.assert_array_equal(rendered[-1], stack[-1])
    h, w = geometry.window_shape
    for level, (y, x) in enumerate(geometry.corners):
        stack[level, y : y + h, x : x + w] = rendered[level, y : y + h, x : x + w] = 0
    np.testing.assert_array_equal(rendered, stack)


@pytest.mark.parametrize("gain", [1.0, "noise"])
@pytest.mark.parametrize(
    ("levels", "p", "height", "width"),
    [(4, 2, 16, 32), (3, 3, 18, 36), (2, 4, 16, 8), (2, 10, 20, 40)],
)
def test_render_is_the_papers_algorithm_1(levels, p, height, width, gain):
    # Windows of at least 2 pixels at every depth: as far as the paper's algorithm goes.
    geometry = Geometry(levels, p, height, width)
    gain = noise_gain(p) if gain == "noise" else gain
    stack = pictures(geometry)
    with jax.enable_x64(True):
        rendered = render(jnp.asarray(stack), geometry, gain=gain)
    np.testing.assert_allclose(rendered, oracles.paper_render(stack, p, gain), atol=1e-13)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=in_short)
def test_render_is_linear_and_idempotent(geometry):
    with jax.enable_x64(True):
        a, b = (jnp.asarray(pictures(geometry, seed=seed)) for seed in range(2))
        rendered = render(a, geometry)
        both = render(2.0 * a - 3.0 * b, geometry)
        apart = 2.0 * rendered - 3.0 * render(b, geometry)
        np.testing.assert_allclose(both, apart, atol=1e-14)
        np.testing.assert_array_equal(render(rendered, geometry), rendered)


@pytest.mark.parametrize("p", [2, 4])
def test_constant_pictures_stay_constant_to_the_last_bit(p):
    # p^2 a power of two: the mean of equal numbers then is exact in floating point.
    geometry = Geometry(4, p, 4 * p, 8 * p)
    stack = jnp.full((4, 4 * p, 8 * p, 3), 0.3, jnp.float32)
    np.testing.assert_array_equal(render(stack, geometry), stack)
    np.testing.assert_array_equal(upsample(stack, p), jnp.full((4, 4 * p**2, 8 * p**2, 3), 0.3))


@pytest.mark.parametrize("kernel", ["mean", "gaussian"])
@pytest.mark.parametrize("p", [3, 10])
def test_constant_pictures_stay_constant(p, kernel):
    geometry = Geometry(4, p, 2 * p, 4 * p)
    stack = jnp.full((4, 2 * p, 4 * p, 3), 0.3, jnp.float32)
    np.testing.assert_allclose(render(stack, geometry, kernel=kernel), stack, rtol=1e-6)


@pytest.mark.parametrize("geometry", GEOMETRIES[1:2], ids=in_short)
def test_jit_equals_eager_and_stacks_can_be_batched(geometry):
    stacks = jnp.asarray(np.stack([pictures(geometry, seed=s) for s in range(2)]), jnp.float32)

    def operators(stack):
        return render(stack, geometry), upsample(stack, 3), upsample_nearest(stack, 3)

    batched = jax.vmap(operators)(stacks)
    compiled = jax.jit(operators)(stacks[1])
    for one, many, fast in zip(operators(stacks[1]), batched, compiled):
        np.testing.assert_array_equal(one, many[1])
        np.testing.assert_allclose(
            one, fast, atol=1e-6
        )  # fused multiply-adds round once, not twice


@pytest.mark.parametrize("kernel", ["mean", "gaussian"])
def test_gradients_match_finite_differences(kernel):
    geometry = Geometry(3, 2, 8, 8, ((1, 0), (-2, 2)))
    with jax.enable_x64(True):
        stack = jnp.asarray(pictures(geometry))
        for operator in (
            lambda x: render(x, geometry, kernel=kernel),
            lambda x: downsample(x, 4, kernel),
            lambda x: upsample(x, 3),
            lambda x: upsample_nearest(x, 3),
            lambda x: observe(x, geometry, 1),
        ):
            check_grads(jax.jit(operator), (stack,), order=1, modes=("fwd", "rev"))


@pytest.mark.parametrize("kernel", ["mean", "gaussian"])
@pytest.mark.parametrize("p", [2, 3, 4, 10])
def test_noise_gain_is_one_over_the_norm_of_the_kernel(p, kernel):
    expected = 1 / np.linalg.norm(oracles.kernel_taps(p, kernel))
    assert noise_gain(p, kernel) == pytest.approx(expected, rel=1e-12)
    if kernel == "mean" or p == 2:
        assert noise_gain(p, kernel) == pytest.approx(p, rel=1e-12)


def test_shapes_and_names_that_do_not_fit_are_named():
    image = jnp.zeros((8, 9, 1))
    with pytest.raises(ValueError, match="zoom_factor 2 .* height 8 .* width 9"):
        downsample(image, 2)
    with pytest.raises(ValueError, match="unknown kernel 'box'; known: gaussian, mean"):
        downsample(jnp.zeros((8, 8, 1)), 2, "box")
    with pytest.raises(ValueError, match="unknown kernel 'box'"):
        noise_gain(2, "box")
    geometry = Geometry(3, 2, 8, 8)
    for shape in ((2, 8, 8, 1), (3, 8, 4, 1), (3, 8, 8)):
        with pytest.raises(ValueError, match=r"\(3, 8, 8\), got \(") as error:
            render(jnp.zeros(shape), geometry)
        assert str(shape) in str(error.value)
        with pytest.raises(ValueError, match="expected all levels"):
            observe(jnp.zeros(shape), geometry, 1)
    with pytest.raises(ValueError, match="k: expected 0 to 2 "):
        observe(jnp.zeros((3, 8, 8, 1)), geometry, 3)
