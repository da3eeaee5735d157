import subprocess
import sys

import numpy as np
import pytest

from pot_jax.errors import UserError
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


def overlap(images, geometry, level, k=1):
    """D^k of level + k, and its window in `level`, pixel by pixel."""
    p, (top, left) = geometry.zoom_factor**k, geometry.corners[level]
    for i in range(1, k):  # the corners of deeper windows, each in its own parent's pixels
        top, left = np.array([top, left]) + geometry.corners[level + i] / geometry.zoom_factor**i
    h, w = geometry.height // p, geometry.width // p
    child, parent = np.empty((2, h, w, 3))
    for y in range(h):
        for x in range(w):
            cell = images[level + k][p * y : p * y + p, p * x : p * x + p]
            child[y, x] = cell.mean((0, 1))
            parent[y, x] = images[level][int(top) + y, int(left) + x]
    return child, parent


def slow_ssim(a, b):
    """11 x 11 taps; a smaller overlap is continued by its mirror image."""
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    weights = np.outer(taps, taps)[..., None] / taps.sum() ** 2
    middle = (min(11, *a.shape[:2]) - 1) // 2  # pixels left out at the edges
    values, around = [], ((5, 5), (5, 5), (0, 0))
    height, width = a.shape[:2]
    a, b = np.pad(a, around, "symmetric"), np.pad(b, around, "symmetric")
    for y in range(middle, height - middle):
        for x in range(middle, width - middle):
            u, v = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
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
        np.testing.assert_allclose(ssim[level], slow_ssim(a, b), rtol=1e-9)


OFF_CENTRE = Geometry(4, 2, 64, 64, ((4, -8), (8, 4), (0, -4)))


@pytest.mark.parametrize("geometry", [*GEOMETRIES, OFF_CENTRE], ids=str)
def test_levels_farther_apart(geometry):
    images = noise(geometry)
    for k in range(1, min(geometry.depth, geometry.levels - 1) + 1):
        _, exists = geometry.observation(k)
        psnr = consistency.overlap_psnr(images, geometry, k=k)
        ssim = consistency.overlap_ssim(images, geometry, k=k)
        levels = np.flatnonzero(exists) - k
        assert len(psnr) == len(ssim) == len(levels)
        for i, level in enumerate(levels):
            a, b = overlap(images, geometry, level, k)
            np.testing.assert_allclose(psnr[i], -10 * np.log10(((a - b) ** 2).mean() / 4))
            np.testing.assert_allclose(ssim[i], slow_ssim(a, b), rtol=1e-9)


def test_commands_start_without_scikit_image():
    code = "import sys, pot_jax.evaluation.evaluate; sys.exit('skimage' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_ssim_is_that_of_the_paper():
    """The number of the implementation before scikit-image's, for overlaps of 11 and more."""
    geometry = Geometry(2, 2, 48, 64)
    images, window = noise(geometry, seed=5), (slice(0, 1), slice(12, 36), slice(16, 48))
    images[1:] = 0.5 * images[1:] + 0.5 * np.asarray(operators.upsample(images[window], 2))
    found = consistency.overlap_ssim(images, geometry)
    np.testing.assert_allclose(found, 0.4268686615317504, rtol=1e-9)


def test_photograph():
    geometry = OFF_CENTRE
    images = noise(geometry)
    for level in range(4):
        photograph = noise(geometry, 9)[0]
        found = consistency.photograph_psnr(images, photograph, geometry, level, "mean")
        known = np.concatenate([images[:level], photograph[None], images[level + 1 :]])
        expected = [((images[level] - photograph) ** 2).mean()]
        for k in range(1, 4 - level):
            if geometry.observation(k)[1][level + k]:
                a, b = overlap(known, geometry, level, k)
                expected.append(((a - b) ** 2).mean())
        np.testing.assert_allclose(found, -10 * np.log10(np.array(expected) / 4))
    holed = np.where(np.arange(photograph.shape[0])[:, None, None] < 3, np.nan, photograph)
    found = consistency.photograph_psnr(images, holed, geometry, 3, "mean")
    below = ((images[3] - photograph)[3:] ** 2).mean()  # only where there are pixels
    np.testing.assert_allclose(found, [-10 * np.log10(below / 4)])
    itself = np.asarray(operators.render(np.float32(images), geometry))
    assert consistency.photograph_psnr(itself, itself[1], geometry, 1, "mean").min() > 130


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("kernel", sorted(operators.KERNELS))
def test_a_render_agrees(geometry, kernel):
    images = np.asarray(
        operators.render(noise(geometry, scale=1.0).astype(np.float32), geometry, kernel=kernel)
    )
    # float32 rounds at 6e-8 of values below 1: about 150 dB.
    assert consistency.overlap_psnr(images, geometry, kernel=kernel).min() > 130
    np.testing.assert_allclose(consistency.overlap_ssim(images, geometry, kernel=kernel), 1)


def test_a_loop_has_one_pair_more_at_its_joint():
    geometry = Geometry(4, 2, 16, 24, ((2, -6), (-4, 0), (0, 5), (1, 1)), loop=True)
    images = noise(geometry)
    joint = np.concatenate([images[3:], images])
    shifted = Geometry(5, 2, 16, 24, (geometry.offsets[3], *geometry.offsets[:3]))
    for measure in (consistency.overlap_psnr, consistency.overlap_ssim):
        expected = measure(joint, shifted)
        np.testing.assert_allclose(measure(images, geometry), [*expected[1:], expected[0]])


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
    with pytest.raises(UserError, match="k: expected 0 to 2 for 8 x 8 pixels"):
        consistency.overlap_ssim(np.zeros((3, 8, 8, 3)), Geometry(3, 2, 8, 8), k=3)
    with pytest.raises(ValueError, match="unknown kernel 'box'; known: gaussian, mean"):
        consistency.overlap_psnr(np.zeros((3, 8, 8, 3)), Geometry(3, 2, 8, 8), kernel="box")
