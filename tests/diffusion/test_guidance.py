import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pot_jax import config
from pot_jax.diffusion.guidance import (
    CLASSIFIER_FREE,
    Numbers,
    clean_from_prediction,
    guide,
    limiter,
    prediction_target,
    threshold,
)
from pot_jax.diffusion.schedule import PREDICTION_TYPES, ScheduleConfig


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


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("angle", [0.1, 0.8, 1.5])
def test_clean_estimate_of_a_perfect_prediction(prediction_type, angle):
    clean, eps = draw(0), draw(1)
    alpha, sigma = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    z = alpha * clean + sigma * eps
    prediction = prediction_target(clean, eps, alpha, sigma, prediction_type)
    estimate = clean_from_prediction(prediction, z, alpha, sigma, prediction_type)
    # eps prediction divides by alpha, 0.07 at the last angle.
    np.testing.assert_allclose(estimate, clean, atol=2e-5)


@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
def test_zero_snr_is_finite(prediction_type):
    clean, eps = draw(0), draw(1)
    prediction = prediction_target(clean, eps, 0.0, 1.0, prediction_type)
    estimate = clean_from_prediction(prediction, eps, 0.0, 1.0, prediction_type)
    np.testing.assert_array_equal(estimate, clean)


def test_alpha_and_sigma_may_differ_by_sample():
    clean, eps, angle = draw(0), draw(1), jnp.array([0.3, 1.2])[:, None, None, None]
    alpha, sigma = jnp.cos(angle), jnp.sin(angle)
    v = prediction_target(clean, eps, alpha, sigma, "v_prediction")
    estimate = clean_from_prediction(v, alpha * clean + sigma * eps, alpha, sigma, "v_prediction")
    np.testing.assert_allclose(estimate, clean, atol=1e-6)


@pytest.mark.parametrize("function", [clean_from_prediction, prediction_target])
def test_unknown_prediction_type(function):
    with pytest.raises(
        ValueError, match="expected one of epsilon, v_prediction, sample, got 'flow'"
    ):
        function(draw(0), draw(1), 0.6, 0.8, "flow")


def threshold_by_hand(clean, ratio, maximum):
    out = np.empty_like(clean)
    for i, picture in enumerate(clean):
        ordered = np.sort(np.abs(picture).ravel())
        place = ratio * (ordered.size - 1)
        low = int(place)
        high = min(low + 1, ordered.size - 1)
        bound = ordered[low] + (place - low) * (ordered[high] - ordered[low])
        bound = min(max(bound, 1.0), maximum)
        out[i] = np.clip(picture, -bound, bound) / bound
    return out


@pytest.mark.parametrize(("ratio", "maximum"), [(0.995, 1.0), (0.9, 3.0), (0.5, 2.0), (1.0, 9.0)])
def test_threshold(ratio, maximum):
    clean = np.array(draw(0)) * np.float32([1.0, 3.0])[:, None, None, None]
    expected = threshold_by_hand(clean, ratio, maximum)
    np.testing.assert_allclose(threshold(clean, ratio, maximum), expected, atol=1e-6)
    stacks = jnp.stack([clean, clean[::-1]])
    np.testing.assert_allclose(
        threshold(stacks, ratio, maximum), np.stack([expected, expected[::-1]]), atol=1e-6
    )


def test_limiter_follows_the_schedule():
    clean = 2 * draw(0)
    np.testing.assert_array_equal(limiter(ScheduleConfig())(clean), clean)
    clipped = limiter(ScheduleConfig(clip_sample=True, clip_sample_range=0.7))(clean)
    np.testing.assert_array_equal(clipped, jnp.clip(clean, -0.7, 0.7))
    assert float(jnp.abs(clipped).max()) == pytest.approx(0.7)
    # Thresholding comes before clipping, as in diffusers.
    both = ScheduleConfig(
        clip_sample=True, thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=2.0
    )
    np.testing.assert_array_equal(limiter(both)(clean), threshold(clean, 0.9, 2.0))


@pytest.mark.parametrize("limits", [{"clip_sample": True}, {"thresholding": True}])
def test_gradients_are_finite_and_jit_changes_nothing(limits):
    limit = limiter(ScheduleConfig(sample_max_value=3.0, **limits))
    clean = 2 * draw(0)
    gradient = jax.grad(lambda x: jnp.sum(limit(x) ** 2))(clean)
    assert bool(jnp.all(jnp.isfinite(gradient)))
    np.testing.assert_allclose(jax.jit(limit)(clean), limit(clean), rtol=1e-6)


def test_the_names_that_settings_know_are_those_of_the_schedule():
    assert config.PREDICTION_TYPES == PREDICTION_TYPES
