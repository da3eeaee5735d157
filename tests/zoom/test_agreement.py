"""Agreement in latents, in pixels and by gradient, with toy autoencoders."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pot_jax.zoom import agreement, blending, operators
from pot_jax.zoom.geometry import Geometry

GEOMETRY = Geometry(4, 2, 8, 8)
PIXELS = GEOMETRY.scaled(2)
CLEAN = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))


def decode(weights, latents):  # a linear autoencoder without loss on what it decodes
    return weights * operators.replicate(latents, 2)


def encode(weights, images):
    return operators.downsample(images, 2) / weights


def lossy_encode(weights, images):
    return 0.9 * encode(weights, images)


def consistent(geometry):
    return functools.partial(blending.consistent, geometry=geometry)


def test_none_changes_nothing():
    np.testing.assert_array_equal(agreement.none(None, CLEAN, 0), CLEAN)


def test_latents_are_blended_and_rendered():
    agree = agreement.in_latents(consistent(GEOMETRY))
    np.testing.assert_array_equal(agree(None, CLEAN, 0), blending.consistent(CLEAN, GEOMETRY))


def test_in_pixels_agrees_after_decoding():
    agree = agreement.in_pixels(decode, encode, consistent(PIXELS))
    images = decode(2.0, agree(2.0, CLEAN, 0))
    before = float(blending.disagreement(decode(2.0, CLEAN), PIXELS))
    assert float(blending.disagreement(images, PIXELS)) < 0.5 * before


def test_the_residual_form_cancels_what_the_autoencoder_loses():
    world = blending.consistent(CLEAN, GEOMETRY)
    images = operators.render(decode(2.0, world), PIXELS)
    latents = encode(2.0, images)
    exact = agreement.in_pixels(decode, lossy_encode, lambda images: images)
    np.testing.assert_allclose(exact(2.0, latents, 0), latents, atol=1e-6)


def test_the_photograph_comes_before_the_blend():
    order = []

    def ground(weights, images):
        order.append("ground")
        return images + weights

    def blend(images):
        order.append("blend")
        return 2 * images

    out = agreement.in_latents(blend, ground)(1.0, CLEAN, 0)
    assert order == ["ground", "blend"]
    np.testing.assert_allclose(out, 2 * (CLEAN + 1))


def test_descent_through_the_decoder_lowers_the_disagreement():
    descend = functools.partial(
        blending.descend, geometry=PIXELS, optimizer=optax.adam(0.05), steps=10
    )
    agree = agreement.by_gradient(descend, decode)
    before = float(blending.disagreement(decode(1.0, CLEAN), PIXELS))
    after = float(blending.disagreement(decode(1.0, agree(1.0, CLEAN, 0)), PIXELS))
    assert after < 0.6 * before


def test_every_takes_turns():
    agree = agreement.every(3, lambda w, x, s: x + 1, lambda w, x, s: x)
    taken = [float(agree(None, jnp.zeros(()), jnp.int32(step))) for step in range(7)]
    assert taken == [1, 0, 0, 1, 0, 0, 1]
