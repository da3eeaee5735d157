import jax.numpy as jnp
import numpy as np
import pytest

from pot_jax.diffusion.guidance import CLASSIFIER_FREE, Numbers, guide


def draw(seed, shape=(2, 4, 4, 3)):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def test_guide():
    u, c = draw(0), draw(1)
    np.testing.assert_array_equal(guide(u, c, 0.0), u)
    np.testing.assert_allclose(guide(u, c, 1.0), c, atol=1e-6)
    np.testing.assert_allclose(guide(u, c, 7.5), -6.5 * u + 7.5 * c, atol=1e-5)


@pytest.mark.parametrize("rescale", [0.0, 0.7, 1.0])
def test_rescaling_brings_the_deviation_back(rescale):
    u, c = draw(0), draw(1)
    guided, found = guide(u, c, 7.5), guide(u, c, 7.5, rescale)
    over = (-3, -2, -1)
    wanted = rescale * np.std(c, over) + (1 - rescale) * np.std(guided, over)
    np.testing.assert_allclose(np.std(found, over), wanted, rtol=1e-5)
    # Each picture by one factor.
    factors = np.asarray(found / guided).reshape(2, -1)
    np.testing.assert_allclose(factors, factors[:, :1].repeat(factors.shape[1], 1), rtol=1e-5)


def test_rescaling_leaves_a_picture_without_variation_alone():
    flat = jnp.ones((1, 4, 4, 3))
    np.testing.assert_array_equal(guide(flat, flat, 7.5, 0.7), flat)
    np.testing.assert_array_equal(guide(0 * flat, flat, 7.5, 0.0), 7.5 * flat)


def test_classifier_free_guidance_remembers_nothing():
    guided, memory = CLASSIFIER_FREE.combine(draw(0), draw(1), Numbers(7.5, 0.7), ())
    np.testing.assert_array_equal(guided.prediction, guide(draw(0), draw(1), 7.5, 0.7))
    assert guided.renoise is None
    assert memory == CLASSIFIER_FREE.start(draw(0)) == ()
