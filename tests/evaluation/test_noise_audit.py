import jax
import numpy as np
import pytest

from pot_jax.errors import UserError
from pot_jax.evaluation.metrics.noise import noise_audit
from pot_jax.zoom import operators
from pot_jax.zoom.geometry import Geometry

GEOMETRIES = [Geometry(4, 2, 64, 64), Geometry(3, 4, 80, 80, ((4, -8), (0, 12)))]


def slow_audit(noise, geometry):
    p, (h, w) = geometry.zoom_factor, geometry.window_shape
    square, beside, ours, theirs = [], [], [], []
    for i, (top, left) in enumerate(geometry.corners):
        window = noise[i, top : top + h, left : left + w]
        square.extend((window**2).ravel())
        for y in range(h):
            for x in range(w):
                beside += [window[y, x] * window[y + 1, x]] if y + 1 < h else []
                beside += [window[y, x] * window[y, x + 1]] if x + 1 < w else []
                cell = noise[i + 1, p * y : p * y + p, p * x : p * x + p]
                ours.append(window[y, x])
                theirs.append(cell.mean((0, 1)))
    ours, theirs = np.ravel(ours), np.ravel(theirs)
    shared = ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs)
    return [np.mean(square), np.mean(beside) / np.mean(square), shared]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("draw", [operators.shared_noise, operators.independent_noise])
def test_against_a_slow_oracle(geometry, draw):
    noise = np.asarray(draw(jax.random.key(3), geometry, 2), np.float64)
    np.testing.assert_allclose(
        list(noise_audit(noise, geometry).values()), slow_audit(noise, geometry), atol=1e-9
    )


@pytest.mark.parametrize("kernel", sorted(operators.KERNELS))
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_shared_and_independent_noise(geometry, kernel):
    draws = operators.shared_noise, operators.independent_noise
    shared, alone = (
        noise_audit(
            np.asarray(draw(jax.random.key(0), geometry, 4, kernel=kernel)), geometry, kernel
        )
        for draw in draws
    )
    sigma = 1 / np.sqrt((geometry.levels - 1) * np.prod(geometry.window_shape) * 4)
    for found in (shared, alone):
        assert abs(found["variance"] - 1) < 5 * np.sqrt(2) * sigma
        assert abs(found["neighbour_correlation"]) < 5 * sigma
    assert shared["shared_correlation"] == pytest.approx(1, abs=1e-6)
    assert abs(alone["shared_correlation"]) < 5 * sigma


def test_a_kernel_that_loses_variance_is_found():
    """Cell means without the gain p have 1/p^2 of the variance; doubled values are alike."""
    geometry = GEOMETRIES[0]
    draws = operators.independent_noise(jax.random.key(1), geometry, 4)
    faded = noise_audit(np.asarray(operators.render(draws, geometry)), geometry)
    # A window holds 3/4 single means (1/4), 3/16 means of means (1/16), ...: 0.2 in the end.
    assert 0.15 < faded["variance"] < 0.25
    alike = np.asarray(operators.upsample_nearest(draws[:, :32, :32], 2))
    assert noise_audit(alike, geometry)["neighbour_correlation"] == pytest.approx(0.5, abs=0.05)


def test_zeros_and_one_level():
    geometry, one = GEOMETRIES[0], Geometry(1, 2, 64, 64)
    found = noise_audit(np.zeros((4, 64, 64, 2)), geometry)
    assert max(map(abs, found.values())) < 1e-9
    noise = np.random.default_rng(0).normal(size=(1, 64, 64, 4))
    found = noise_audit(noise, one)
    assert list(found) == ["variance", "neighbour_correlation"]
    assert found["variance"] == pytest.approx(np.mean(noise**2))


def test_errors():
    with pytest.raises(UserError, match="expected all levels"):
        noise_audit(np.zeros((2, 8, 8, 1)), Geometry(3, 2, 8, 8))
    with pytest.raises(UserError, match="unknown kernel"):
        noise_audit(np.zeros((2, 8, 8, 1)), Geometry(2, 2, 8, 8), "box")
