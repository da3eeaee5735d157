import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pot_jax.errors import UserError
from pot_jax.models.vae import (
    AutoencoderKL,
    AutoencoderKLConfig,
    AutoencoderTiny,
    AutoencoderTinyConfig,
    decode_latents,
    encode_latents,
)
from pot_jax.parallel.mesh import device_mesh
from pot_jax.training import autoencoder
from pot_jax.training.autoencoder import (
    Codec,
    initialise_carriers,
    initialise_logvar,
    make_distillation,
    make_loss,
    picture_error,
    psnr,
    standardise,
    zero_residuals,
)
from pot_jax.training.settings import AutoencoderLoss
from pot_jax.zoom.operators import downsample

MODULE = AutoencoderKL(
    AutoencoderKLConfig(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=3,
        norm_num_groups=4,
        scaling_factor=1.0,
    )
)


@jax.jit
def encoded(params, images):
    return MODULE.apply({"params": params}, images, method="encode")


@pytest.fixture(scope="module")
def params():
    return jax.jit(MODULE.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)


def images_of(pictures):
    return pictures.astype(np.float32) / 127.5 - 1


def test_a_perfect_picture_has_no_error(pictures):
    images = images_of(pictures)
    assert float(picture_error(images, images, AutoencoderLoss())) == 0


def test_edges_and_colours_see_what_pixels_do_not(pictures):
    """The same mean |error| of 0.1: a shift of everything has no edges, noise hardly a colour."""
    images = jnp.asarray(images_of(pictures))
    noise = 0.1 * jax.random.rademacher(jax.random.key(1), images.shape, jnp.float32)

    def error(added, **weights):
        weights = AutoencoderLoss(**{"edges": 0.0, "colour": 0.0, **weights})
        return float(picture_error(images + added, images, weights))

    # Summed one by one, as unoptimised code does, 7680 float32 terms lose their fifth digit.
    for added in (0.1, noise):
        assert error(added) == pytest.approx(0.1, rel=1e-3)
    assert error(0.1, edges=1.0) == pytest.approx(0.1, rel=1e-3)
    assert error(noise, edges=1.0) > 0.2
    assert error(0.1, colour=1.0) == pytest.approx(0.2, rel=1e-3)
    assert error(noise, colour=1.0) < 0.13


def test_a_tiny_autoencoder_learns_to_do_as_its_teacher(params, pictures):
    stages = {"encoder_block_out_channels": (16, 16), "decoder_block_out_channels": (16, 16)}
    blocks = {"num_encoder_blocks": (0, 1), "num_decoder_blocks": (1, 0)}
    tiny = AutoencoderTiny(AutoencoderTinyConfig(**stages, **blocks, latent_channels=3))
    theirs = initialise_carriers(MODULE, params)
    ours = zero_residuals(jax.jit(tiny.init)(jax.random.key(2), jnp.zeros((1, 8, 8, 3)))["params"])
    optimizer, loss = optax.adam(3e-3), make_distillation(tiny, MODULE)
    batch = {"pictures": pictures[:8], "teacher": theirs}

    @jax.jit
    def step(ours, state, key):
        gradients, parts = jax.grad(loss, has_aux=True)(ours, batch, key)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(ours, updates), state, parts

    state, seen = optimizer.init(ours), []
    # optax's Adam raises a float to its integer step count.
    with jax.numpy_dtype_promotion("standard"):
        for number in range(60):
            ours, state, parts = step(ours, state, jax.random.key(number))
            seen.append({name: float(value) for name, value in parts.items()})
    assert seen[-1]["psnr"] > seen[0]["psnr"] + 6
    assert seen[-1]["latents"] < 0.6 * seen[0]["latents"]


def test_psnr_of_a_known_error():
    # An error of 0.02 in a range of 2 is one part in a hundred: 40 dB.
    assert float(psnr(jnp.float32(0.02**2))) == pytest.approx(40.0, abs=1e-4)


def test_the_loss_has_finite_gradients_everywhere(params, pictures):
    gradient = jax.jit(jax.grad(make_loss(MODULE, AutoencoderLoss()), has_aux=True))
    gradients, parts = gradient(params, {"pictures": pictures[:4]}, jax.random.key(0))
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((gradients, parts)))
    assert all(jnp.abs(x).max() > 0 for x in jax.tree.leaves(gradients["quant_conv"]))


def test_initial_latents_have_little_noise_and_the_same_means(params, pictures):
    images = images_of(pictures)
    before, after = encoded(params, images), encoded(initialise_logvar(params), images)
    np.testing.assert_array_equal(after.mean, before.mean)
    np.testing.assert_allclose(after.logvar, before.logvar - 6, atol=1e-5)


def test_zero_residuals_leave_the_shortcuts(params):
    quiet = zero_residuals(params)
    block = quiet["encoder"]["mid_block"]["resnets_0"]
    assert not block["conv2"]["kernel"].any()
    np.testing.assert_array_equal(
        block["conv1"]["kernel"], params["encoder"]["mid_block"]["resnets_0"]["conv1"]["kernel"]
    )


def test_standardised_latents_decode_to_the_same_pictures(params, pictures):
    images = images_of(pictures)
    decode = jax.jit(lambda p, z: MODULE.apply({"params": p}, z, method="decode"))
    before = encoded(params, images)
    standard = standardise(params, np.asarray(before.mean))
    after = encoded(standard, images)
    np.testing.assert_allclose(after.mean.mean((0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(after.mean.std((0, 1, 2)), 1, atol=1e-4)
    # The spread of each Gaussian shrinks with its mean.
    shrunk = after.logvar - before.logvar
    np.testing.assert_allclose(shrunk, jnp.broadcast_to(shrunk[0, 0, 0], shrunk.shape), atol=1e-4)
    np.testing.assert_allclose(shrunk[0, 0, 0], -2 * jnp.log(before.mean.std((0, 1, 2))), atol=1e-3)
    # Two float32 affine maps that undo each other, then a decoder: rounding only.
    np.testing.assert_allclose(decode(standard, after.mean), decode(params, before.mean), atol=1e-3)


@pytest.fixture(scope="module")
def at_once(params, pictures):
    """A module, and the latents and pictures that it makes of nine at once."""
    module = AutoencoderKL(dataclasses.replace(MODULE.config, sample_size=8, scaling_factor=0.5))
    encode, decode = (
        jax.jit(functools.partial(f, module)) for f in (encode_latents, decode_latents)
    )
    latents = encode(params, images_of(pictures[:9]))
    return module, latents, decode(params, latents)


@pytest.mark.parametrize("devices", [1, 8])
def test_latents_and_pictures_do_not_depend_on_how_many_are_made_at_once(
    params, pictures, at_once, devices
):
    module, latents, decoded = at_once
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autoencoder, "AT_ONCE", 4)  # rounded up to 8 on 8 devices
        codec = Codec(module, device_mesh(devices=jax.devices()[:devices]))
        assert codec.shape == latents.shape[1:]
        found = codec.encode(params, [pictures[:7], pictures[7:9]])
        np.testing.assert_allclose(found, latents, atol=1e-5)
        np.testing.assert_allclose(codec.decode(params, latents), decoded, atol=1e-5)


def test_negative_weights_are_refused():
    with pytest.raises(UserError, match="autoencoder.loss.kl"):
        AutoencoderLoss(kl=-1.0)


def test_initial_carriers_are_cell_means_smoothly_enlarged():
    config = dataclasses.replace(
        MODULE.config, block_out_channels=(16, 32), norm_num_groups=2, latent_channels=4
    )
    module = AutoencoderKL(config)
    drawn = jax.jit(module.init)(jax.random.key(5), jnp.zeros((1, 8, 8, 3)))["params"]
    start = initialise_carriers(module, zero_residuals(drawn))
    images = jax.random.uniform(jax.random.key(6), (2, 64, 64, 3), minval=-1.0)
    means = np.asarray(downsample(images, 2))
    moments = jax.jit(functools.partial(module.apply, method="encode"))({"params": start}, images)
    # The colours are in the group's deviation too, besides the constant 8: up to 2 % of it.
    np.testing.assert_allclose(moments.mean[..., :3], means, atol=0.03)
    decoded = jax.jit(module.apply)({"params": start}, images)
    smooth = np.asarray(jax.image.resize(means, images.shape, "linear"))
    # Convolutions pad with zeros, which the border shows, and the deviation by another 2 %.
    inner = np.s_[:, 1:-1, 1:-1]
    np.testing.assert_allclose(decoded[inner], smooth[inner], atol=0.04)


def test_initial_carriers_need_wide_groups(params):
    assert initialise_carriers(MODULE, params) is params
