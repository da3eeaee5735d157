import jax
import numpy as np
import pytest
from zooms import CHAINS, GEOMETRIES, constant, enlarged, noise, world

from pot_jax.errors import UserError
from pot_jax.evaluation.metrics.detail import detail, dots, repetition, top_octaves
from pot_jax.evaluation.metrics.seams import lab
from pot_jax.zoom import operators
from pot_jax.zoom.geometry import Geometry

GOLDEN = Geometry(3, 2, 32, 32)


def slow_octave(picture, p):
    """b = x - up(D(x)) of one picture, pixel by pixel."""
    height, width, _ = picture.shape
    small = np.zeros((height // p, width // p, 3))
    for y in range(height // p):
        for x in range(width // p):
            small[y, x] = picture[p * y : p * y + p, p * x : p * x + p].mean((0, 1))
    out = np.zeros_like(picture)
    for y in range(height):
        for x in range(width):
            v, u = (y + 0.5) / p - 0.5, (x + 0.5) / p - 0.5
            rows, columns = int(np.floor(v)), int(np.floor(u))
            for j, a in ((rows, rows + 1 - v), (rows + 1, v - rows)):
                for i, b in ((columns, columns + 1 - u), (columns + 1, u - columns)):
                    held = min(max(j, 0), height // p - 1), min(max(i, 0), width // p - 1)
                    out[y, x] += a * b * small[held]
    return picture - out


def slow_detail(octave, geometry, level):
    values = []
    for y in range(geometry.height):
        for x in range(geometry.width):
            near = level < geometry.levels - 1
            if near:
                (top, left), (h, w) = geometry.corners[level], geometry.window_shape
                near = top - 3 <= y < top + h + 3 and left - 3 <= x < left + w + 3
            if not near:
                values.extend(octave[y, x] ** 2)
    return np.mean(values) if values else np.nan


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_against_slow_oracles(geometry):
    colours = lab(noise(geometry))
    octaves = top_octaves(colours, geometry.zoom_factor)
    found = detail(octaves, geometry)
    for level in range(geometry.levels):
        expected = slow_octave(colours[level], geometry.zoom_factor)
        # float32 rounds colours of 100 at 4e-6.
        np.testing.assert_allclose(octaves[level], expected, atol=5e-5)
        np.testing.assert_allclose(found[level], slow_detail(expected, geometry, level), rtol=1e-5)
        flat = [octave.ravel() for octave in octaves[level : level + 2]]
        if len(flat) == 2:
            cosine = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
            np.testing.assert_allclose(repetition(octaves)[level], cosine)


def test_golden_values():
    octaves = top_octaves(lab(noise(GOLDEN)), 2)  # default_rng(0).integers(0, 256, (3, 32, 32, 3))
    np.testing.assert_allclose(
        detail(octaves, GOLDEN), [1182.0082, 1201.2892, 1166.5058], rtol=1e-5
    )
    np.testing.assert_allclose(repetition(octaves), [0.0333762, -0.0144202], atol=1e-6)


def test_what_is_pasted_into_the_window_does_not_count():
    colours = lab(constant(GOLDEN)).copy()
    colours[0, 8:24, 8:24] = lab(noise(GOLDEN))[0, 8:24, 8:24]
    assert detail(top_octaves(colours, 2), GOLDEN)[0] < 1e-6
    colours[2, 8:24, 8:24] = colours[0, 8:24, 8:24]  # the deepest has no window
    assert detail(top_octaves(colours, 2), GOLDEN)[2] > 100


def test_controls():
    g = Geometry(8, 2, 64, 64)

    def measured(pictures):
        octaves = top_octaves(lab(pictures), 2)
        return detail(octaves, g), repetition(octaves)

    power, repeated = measured(constant(g))
    assert power.max() < 1e-6
    assert np.abs(repeated).max() < 1e-3
    power, repeated = measured(noise(g))
    assert 1100 < power.min() < power.max() < 1300
    assert np.abs(repeated).max() < 0.05  # 12288 values: 1 / sqrt is 0.009
    sharp, repeated = measured(world(*CHAINS[4]))
    assert np.abs(repeated).max() < 0.15
    blurred, _ = measured(enlarged(world(*CHAINS[4]), g))
    assert (blurred[1:] < 0.2 * sharp[1:]).all()
    same = np.stack([noise(g)[0]] * 8)
    np.testing.assert_allclose(measured(same)[1], 1)


def test_a_window_that_leaves_nothing_has_no_detail():
    small = Geometry(2, 2, 8, 8)
    found = detail(top_octaves(lab(noise(small)), 2), small)
    assert np.isnan(found[0])
    assert found[1] > 0


def test_jit_equals_eager():
    x = np.float32(lab(noise(GOLDEN)))

    def up_and_down(x):
        return operators.upsample(operators.downsample(x, 2), 2)

    found = x - np.asarray(jax.jit(up_and_down)(x))
    np.testing.assert_allclose(top_octaves(x, 2), found, atol=2e-5)


def test_errors():
    with pytest.raises(UserError, match="expected all levels"):
        detail(np.zeros((2, 8, 8, 3)), GOLDEN)


# Dots at the grid of the latents. -----------------------------------------------------------------


def dark(size=64, level=12, seed=0):
    """A dark picture with a soft gradient and some noise: lightness [1, size, size]."""
    rng = np.random.default_rng(seed)
    slope = np.linspace(-4, 4, size)
    return (level + slope[:, None] + slope / 2 + rng.normal(size=(size, size)))[None]


def dotted(lightness, period, strength):
    y, x = np.indices(lightness.shape[1:])
    grid = (y % period == period // 2) & (x % period == period // 2)
    return lightness + strength * grid


@pytest.mark.parametrize("period", [4, 8])
def test_dots_of_the_grid_are_seen_and_no_others(period):
    def share(lightness):
        at, beside = dots(lightness, period)
        return at.sum() / beside.sum()

    plain = share(dark(128))
    assert 0.8 < plain < 1.2
    assert share(dotted(dark(128), period, period)) > 3 * plain
    assert share(dotted(dark(128), 5, 5)) < 1.5 * plain
    stronger = [share(dotted(dark(128), period, s)) for s in (0, 1, 2, 4)]
    assert stronger == sorted(stronger)


def test_dots_against_a_slow_oracle():
    lightness, period = dotted(dark(40), 4, 2), 4
    side = 4 * period
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1, side + 1) / (side + 1))
    expected = np.zeros(2)
    waves = {k: np.exp(-2j * np.pi * k * np.arange(side) / side) for k in range(-6, 7)}
    for top in range(0, 40 - side + 1, side // 2):
        for left in range(0, 40 - side + 1, side // 2):
            block = lightness[0, top : top + side, left : left + side]
            block = (block - block.mean()) * np.outer(taper, taper)
            for column, k, share in ((0, 4, 1), (1, 2, 0.5), (1, 6, 0.5)):
                for u, v in ((k, 0), (0, k), (k, k), (k, -k)):
                    expected[column] += share * abs(waves[u] @ block @ waves[v]) ** 2 / side**2
    np.testing.assert_allclose(np.ravel(dots(lightness, period)), expected)


def test_only_the_dark_counts_and_small_pictures_have_no_block():
    assert not np.any(dots(dotted(dark(level=60), 4, 5), 4))
    assert not np.any(dots(dark(24), 8))
    both = np.concatenate([dark(), dark(level=60)], axis=2)
    np.testing.assert_allclose(dots(both, 4), dots(dark(), 4), rtol=0.2)  # less, or one block more
