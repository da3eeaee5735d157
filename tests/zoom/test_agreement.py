"""Agreement in latents, in pixels and by gradient, with toy autoencoders."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blends import squared_disagreement

from pot_jax import config
from pot_jax.zoom import agreement, operators
from pot_jax.zoom.agreement import BLENDS, Numbers, consistent
from pot_jax.zoom.geometry import Geometry

GEOMETRY = Geometry(4, 2, 8, 8)
PIXELS = GEOMETRY.scaled(2)
CLEAN = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
LAPLACIAN = BLENDS["laplacian"]


def weights(scale=2.0, **numbers):
    given = {"blend_weight": 1.0, "pixel_every": 1, "gradient_steps": 10, "gradient_rate": 0.05}
    return {"scale": scale, "agreement": Numbers(**given | numbers)}


def decode(weights, latents):  # a linear autoencoder without loss on what it decodes
    return weights["scale"] * operators.upsample_nearest(latents, 2)


def encode(weights, images):
    return operators.downsample(images, 2) / weights["scale"]


def lossy_encode(weights, images):
    return 0.9 * encode(weights, images)


def as_it_is(weights, images):
    return images


LATENTS = agreement.latent_view(GEOMETRY, as_it_is)
DECODED = agreement.pixel_view(PIXELS, decode, encode, as_it_is, as_it_is)


def test_the_names_that_settings_know_are_those_of_the_tables():
    assert set(config.BLENDS) == set(BLENDS)
    assert set(config.SPACES) == set(agreement.SPACES)
    assert set(config.KERNELS) == set(operators.KERNELS)


def test_delivery_changes_nothing_before_it():
    agree = agreement.at_delivery(LAPLACIAN, LATENTS, DECODED)
    found = agree(weights(), CLEAN, 0)
    np.testing.assert_array_equal(found.clean, CLEAN)
    rms = np.sqrt(squared_disagreement(CLEAN, GEOMETRY) / CLEAN.size)
    np.testing.assert_allclose(found.disagreement, rms, rtol=1e-6)


def test_residuals_are_put_back_up_to_their_limit():
    view = agreement.pixel_view(PIXELS, decode, lossy_encode, as_it_is, as_it_is)
    seen, images = decode(weights(), CLEAN), decode(weights(), CLEAN[::-1])
    before, after = (lossy_encode(weights(), x) for x in (seen, images))
    for limit in (np.inf, 0.1, 1e-9):
        found = view.bring_back(weights(residual_limit=limit), CLEAN, seen, images)
        wanted = after + jnp.clip(CLEAN - before, -limit, limit)
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    unlimited = view.bring_back(weights(), CLEAN, seen, images)
    np.testing.assert_array_equal(unlimited, CLEAN + (after - before))


def test_only_the_last_step_is_exact():
    exact, rough = (agreement.in_latents, agreement.at_delivery)
    exact, rough = (space(LAPLACIAN, LATENTS, DECODED) for space in (exact, rough))
    agree = jax.jit(agreement.through_two(exact, rough))
    numbers = weights(exact_from=jnp.int32(3))
    for step in range(4):
        wanted = (exact if step == 3 else rough)(numbers, CLEAN, step).clean
        np.testing.assert_allclose(agree(numbers, CLEAN, jnp.int32(step)).clean, wanted, atol=1e-6)


def test_levels_agree_at_the_steps_of_the_schedule():
    agrees, alone = (
        space(LAPLACIAN, LATENTS, DECODED)
        for space in (agreement.in_latents, agreement.at_delivery)
    )
    scheduled = jax.jit(agreement.when_due(agrees, alone))
    cases = {
        (10, 1): range(10),
        (5, 3): [0, 1, 2, 3, 4, 6, 8, 9],
        (0, 4): [0, 4, 8, 9],
        (0, 100): [0, 8, 9],
    }
    for (first, every), expected in cases.items():
        numbers = weights(agree_first=first, agree_every=every, exact_from=9, late_weight=1.0)
        for step in range(10):
            found = scheduled(numbers, CLEAN, step)
            changed = bool((found.clean != CLEAN).any())
            assert changed == (step in expected), (first, every, step)
            np.testing.assert_allclose(
                found.disagreement, agrees(numbers, CLEAN, step).disagreement, rtol=1e-6
            )
    assert scheduled._cache_size() == 1


def test_the_weight_is_released_after_the_first_steps_and_in_delivery():
    agrees = agreement.in_latents(LAPLACIAN, LATENTS, DECODED)
    scheduled = agreement.when_due(agrees, agreement.at_delivery(LAPLACIAN, LATENTS, DECODED))
    numbers = weights(agree_first=5, agree_every=1, exact_from=9, blend_weight=0.8, late_weight=0.2)
    early, late = (agrees(weights(blend_weight=w), CLEAN, 0).clean for w in (0.8, 0.2))
    assert np.abs(early - late).max() > 1e-2
    for step in range(10):
        found = scheduled(numbers, CLEAN, step).clean
        np.testing.assert_allclose(found, early if step < 5 else late, atol=1e-6)
        always = agreement.when_due(agrees, None)(numbers, CLEAN, step)
        np.testing.assert_allclose(always.clean, found, atol=1e-6)
    delivered, _ = agreement.delivery(LAPLACIAN, DECODED)(numbers, CLEAN)
    wanted, _ = agreement.delivery(LAPLACIAN, DECODED)(weights(blend_weight=0.2), CLEAN)
    np.testing.assert_array_equal(delivered, wanted)


def test_latents_are_blended_and_rendered():
    found = agreement.in_latents(LAPLACIAN, LATENTS, DECODED)(weights(), CLEAN, 0)
    np.testing.assert_array_equal(found.clean, consistent(CLEAN, GEOMETRY))
    rms = np.sqrt(squared_disagreement(CLEAN, GEOMETRY) / CLEAN.size)
    np.testing.assert_allclose(found.disagreement, rms, rtol=1e-6)


def test_in_pixels_agrees_after_decoding():
    found = agreement.in_pixels(LAPLACIAN, LATENTS, DECODED)(weights(), CLEAN, 0)
    images, before = decode(weights(), found.clean), decode(weights(), CLEAN)
    assert float(squared_disagreement(images, PIXELS)) < 0.5 * float(
        squared_disagreement(before, PIXELS)
    )
    rms = np.sqrt(squared_disagreement(before, PIXELS) / before.size)
    np.testing.assert_allclose(found.disagreement, rms, rtol=1e-6)


def test_the_residual_form_cancels_what_the_autoencoder_loses():
    world = consistent(CLEAN, GEOMETRY)
    images = operators.render(decode(weights(), world), PIXELS)
    latents = encode(weights(), images)
    view = agreement.pixel_view(PIXELS, decode, lossy_encode, as_it_is, as_it_is)
    exact = agreement.in_pixels(BLENDS["none"], LATENTS, view)
    np.testing.assert_allclose(exact(weights(), latents, 0).clean, latents, atol=1e-6)


def test_a_photograph_reaches_the_latents_through_pixels():
    """With a perfect autoencoder, agreeing in pixels is agreeing in latents."""

    def towards_half(weights, images):
        return images.at[0].set(0.5)

    pixels = agreement.pixel_view(PIXELS, decode, encode, towards_half, as_it_is)
    for blend in (LAPLACIAN, BLENDS["none"]):
        found = agreement.in_pixels(blend, LATENTS, pixels)(weights(), CLEAN, 0).clean
        grounded = encode(weights(), towards_half(None, decode(weights(), CLEAN)))
        images = decode(weights(), grounded)
        expected = encode(weights(), consistent(images, PIXELS, blend=blend))
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert np.abs(found[0] - CLEAN[0]).mean() > 0.1


@pytest.mark.parametrize("deliver", [False, True])
def test_the_photograph_comes_before_the_blend(deliver):
    order = []

    def ground(weights, images):
        order.append("ground")
        return images + 0.25 * weights["scale"]

    def blend(images, geometry, *, weight, kernel):
        order.append("blend")
        return 2 * images

    def stacked(stack, geometry, *, kernel):
        order.append("render")
        return stack

    view = agreement.latent_view(GEOMETRY, ground)
    blend = agreement.Blend(blend, render=stacked)
    if deliver:
        small = 0.1 * CLEAN
        out, before = agreement.delivery(blend, view)(weights(), small)
        np.testing.assert_array_equal(before, small)
        np.testing.assert_allclose(out, np.clip(2 * (small + 0.5), -1, 1), rtol=1e-6)
    else:
        out = agreement.in_latents(blend, view, view)(weights(), CLEAN, 0).clean
        np.testing.assert_allclose(out, 2 * (CLEAN + 0.5), rtol=1e-6)
    assert order == ["ground", "blend", "render"]


@pytest.mark.loose_promotion("optax's Adam raises a float to its integer step count")
def test_descent_through_the_decoder_lowers_the_disagreement():
    agree = jax.jit(agreement.in_pixels(BLENDS["gradient"], LATENTS, DECODED))
    told = weights(1.0)
    before = float(squared_disagreement(decode(told, CLEAN), PIXELS))
    after = float(squared_disagreement(decode(told, agree(told, CLEAN, 0).clean), PIXELS))
    assert after < 0.6 * before


def test_pixels_and_latents_take_turns():
    def plus_one_in_pixels(blend, view, weights, x):
        return agreement.Agreed(x + 1 if view is DECODED else x, jnp.zeros(()))

    plus_one = agreement.Blend(lambda x, g, *, weight, kernel: x + 1, render=lambda x, g, **k: x)
    pixels = dataclasses.replace(plus_one, agree=plus_one_in_pixels)
    agree = agreement.in_pixels(pixels, LATENTS, DECODED)
    zero = jnp.zeros((4, 8, 8, 3))
    taken = [
        float(agree(weights(pixel_every=3), zero, jnp.int32(step)).clean.max()) for step in range(7)
    ]
    assert taken == [1, 0, 0, 1, 0, 0, 1]


def test_the_kernel_of_the_run_reaches_every_view():
    geometry = Geometry(2, 4, 8, 8)
    view = agreement.latent_view(geometry, as_it_is, "gaussian")
    clean = CLEAN[:2]
    found = agreement.in_latents(LAPLACIAN, view, view)(weights(), clean, 0).clean
    np.testing.assert_array_equal(found, consistent(clean, geometry, kernel="gaussian"))
    assert np.abs(found - consistent(clean, geometry)).max() > 1e-3
