import numpy as np
import pytest

from pot_jax.evaluation.metrics import overlap as consistency
from pot_jax.zoom import operators
from pot_jax.zoom.geometry import Geometry

GEOMETRIES = [
    Geometry(5, 2, 16, 24),
    Geometry(4, 2, 16, 24, ((2, -6), (-4, 0), (0, 5))),
    Geometry(3, 3, 18, 36),
    Geometry(3, 4, 40, 40),
    Geometry(3, 10, 60, 60),
]


def noise(geometry, seed=0, scale=0.3):
    shape = (geometry.levels, geometry.height, geometry.width, 3)
    return np.random.default_rng(seed).uniform(-scale, scale, shape)


def overlap(images, geometry, level):
    """Child and parent of a pair, pixel by pixel."""
    p, (h, w), (top, left) = geometry.zoom_factor, geometry.window_shape, geometry.corners[level]
    child, parent = np.empty((2, h, w, 3))
    for y in range(h):
        for x in range(w):
            cell = images[level + 1][p * y : p * y + p, p * x : p * x + p]
            child[y, x] = cell.mean((0, 1))
            parent[y, x] = images[level][top + y, left + x]
    return child, parent


def slow_ssim(a, b, count):
    taps = np.exp(-0.5 * ((np.arange(count) - count // 2) / 1.5) ** 2)
    weights = np.outer(taps, taps)[..., None] / taps.sum() ** 2
    values = []
    for y in range(a.shape[0] - count + 1):
        for x in range(a.shape[1] - count + 1):
            u, v = a[y : y + count, x : x + count], b[y : y + count, x : x + count]
            mu, mv = (weights * u).sum((0, 1)), (weights * v).sum((0, 1))
            su, sv = (weights * (u - mu) ** 2).sum((0, 1)), (weights * (v - mv) ** 2).sum((0, 1))
            suv = (weights * (u - mu) * (v - mv)).sum((0, 1))
            c1, c2 = 0.02**2, 0.06**2
            top = (2 * mu * mv + c1) * (2 * suv + c2)
            values.append(top / ((mu**2 + mv**2 + c1) * (su + sv + c2)))
    return np.mean(values)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_against_slow_oracles(geometry):
    images = noise(geometry)
    images[1:] += 0.1 * noise(geometry, 1)[1:]
    psnr, ssim = (f(images, geometry) for f in (consistency.overlap_psnr, consistency.overlap_ssim))
    assert psnr.shape == ssim.shape == (geometry.levels - 1,)
    for level in range(geometry.levels - 1):
        a, b = overlap(images, geometry, level)
        np.testing.assert_allclose(psnr[level], -10 * np.log10(((a - b) ** 2).mean() / 4))
        count = min(11, *a.shape[:2])
        count = count if count % 2 else count - 1
        np.testing.assert_allclose(ssim[level], slow_ssim(a, b, count), rtol=1e-9)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("kernel", sorted(operators.KERNELS))
def test_a_render_agrees(geometry, kernel):
    images = np.asarray(
        operators.render(noise(geometry, scale=1.0).astype(np.float32), geometry, kernel=kernel)
    )
    # float32 rounds at 6e-8 of values below 1: about 150 dB.
    assert consistency.overlap_psnr(images, geometry, kernel=kernel).min() > 130
    np.testing.assert_allclose(consistency.overlap_ssim(images, geometry, kernel=kernel), 1)


def test_known_values():
    geometry = Geometry(3, 2, 24, 24)
    images = np.zeros((3, 24, 24, 3))
    images[1] = 0.2
    images[2] = 0.2
    np.testing.assert_allclose(consistency.overlap_psnr(images, geometry), [20, np.inf])
    np.testing.assert_allclose(
        consistency.overlap_ssim(images, geometry), [4e-4 / (0.04 + 4e-4), 1]
    )


def test_one_level_has_no_pairs():
    geometry, images = Geometry(1, 2, 8, 8), np.zeros((1, 8, 8, 3))
    assert consistency.overlap_psnr(images, geometry).shape == (0,)
    assert consistency.overlap_ssim(images, geometry).shape == (0,)


def test_errors():
    with pytest.raises(ValueError, match="expected all levels"):
        consistency.overlap_psnr(np.zeros((2, 8, 8, 3)), Geometry(3, 2, 8, 8))
    with pytest.raises(ValueError, match="unknown kernel 'box'; known: gaussian, mean"):
        consistency.overlap_psnr(np.zeros((3, 8, 8, 3)), Geometry(3, 2, 8, 8), kernel="box")
