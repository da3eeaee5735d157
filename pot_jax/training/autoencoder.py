"""Training of the autoencoder: reconstruct pixels and edges, with latents that can be zoomed.

Symbols: x pictures [B, S, S, 3] in [-1, 1], z latents [B, S/f, S/f, c], E and dec the two halves,
D the 2 x 2 mean.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh

from pot_jax.media.pixels import from_bytes
from pot_jax.models.vae import AutoencoderKL, AutoencoderTiny, decode_latents, encode_latents
from pot_jax.parallel.mesh import replicate, replicated, split_over
from pot_jax.training.loop import Ahead, Loss
from pot_jax.training.settings import AutoencoderLoss
from pot_jax.weights.keys import abstract_params
from pot_jax.zoom.operators import downsample, upsample

AT_ONCE = 64  # pictures: at 128 pixels and float32, activations of a quarter of a gigabyte


def picture_error(decoded: jax.Array, images: jax.Array, weights: AutoencoderLoss) -> jax.Array:
    """Returns the mean |error| of pixels, neighbour differences at two sizes, and coarse colours.

    Soft edges cost little in the mean error of pixels, but much in the differences. Edges alone
    would come at the cost of hues: without the colour term, violet nebulae came out grey.
    """
    error = decoded - images
    total = jnp.mean(jnp.abs(error)) + weights.colour * jnp.mean(jnp.abs(downsample(error, 4)))
    for scaled in (error, downsample(error, 2)):
        down = jnp.mean(jnp.abs(scaled[:, 1:] - scaled[:, :-1]))
        right = jnp.mean(jnp.abs(scaled[:, :, 1:] - scaled[:, :, :-1]))
        total = total + weights.edges * 0.5 * (down + right)
    return total


def make_loss(module: AutoencoderKL, weights: AutoencoderLoss) -> Loss:
    """Returns the loss over a batch {"pictures": uint8 [B, S, S, 3]}."""

    def loss(params, batch, key):
        images = from_bytes(batch["pictures"])
        mean, logvar = module.apply({"params": params}, images, method="encode")
        latents = mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape)
        decoded = module.apply({"params": params}, latents, method="decode")
        kl = 0.5 * jnp.mean(mean**2 + jnp.exp(logvar) - 1.0 - logvar)
        total = picture_error(decoded, images, weights) + weights.kl * kl
        parts = {"psnr": psnr(jnp.mean((decoded - images) ** 2)), "kl": kl, "spread": jnp.std(mean)}
        if weights.zoom:  # a second decoder in the program, which takes a third longer to compile
            # A strided quarter, so that a batch split over devices stays split evenly.
            smaller = downsample(latents[::4], 2)
            smaller = module.apply({"params": params}, smaller, method="decode")
            zoom = picture_error(smaller, downsample(images[::4], 2), weights)
            total, parts = total + weights.zoom * zoom, {**parts, "zoom": zoom}
        return total, parts

    return loss


def make_distillation(tiny: AutoencoderTiny, teacher: AutoencoderKL) -> Loss:
    """Returns the loss of a tiny autoencoder that learns to do as `teacher` does.

    Its batches are {"pictures": uint8 [B, S, S, 3], "teacher": its parameters}. The latents are
    like a sampler's clean estimates: blurred, and under guidance stronger than a picture's own.
    """

    def loss(params, batch, key):
        images, theirs = from_bytes(batch["pictures"]), batch["teacher"]
        part_key, noise_key = jax.random.split(key)
        blur, noise, gain = jax.random.uniform(part_key, (3, len(images), 1, 1, 1))
        known = encode_latents(teacher, theirs, images)
        latents = known + blur * (upsample(downsample(known, 4), 4) - known)
        grain = 0.15 * noise * jax.random.normal(noise_key, latents.shape)
        latents = (0.8 + 0.5 * gain) * latents + grain
        decoded = decode_latents(teacher, theirs, latents)
        wanted = jnp.concatenate([known, encode_latents(teacher, theirs, decoded)])
        encoded = encode_latents(tiny, params, jnp.concatenate([images, decoded]))
        ours = decode_latents(tiny, params, latents)
        total = picture_error(ours, decoded, AutoencoderLoss())
        parts = {"psnr": psnr(jnp.mean((ours - decoded) ** 2))}
        parts["latents"] = jnp.sqrt(jnp.mean((encoded - wanted) ** 2))
        return total + jnp.mean(jnp.abs(encoded - wanted)), parts

    return loss


def psnr(mean_square: jax.Array) -> jax.Array:
    """Returns the decibels of pictures in [-1, 1], whose range is 2."""
    return 10.0 * jnp.log10(4.0 / mean_square)


def zero_residuals(params: dict[str, Any]) -> dict[str, Any]:
    """Returns parameters whose residual branches end in zeros: high learning rates are stable."""
    lasts = ("conv2", "to_out_0", "net_2", "proj_out", "conv_4")
    return traverse_util.path_aware_map(lambda path, x: x * 0 if path[-2] in lasts else x, params)


def initialise_logvar(params: dict[str, Any]) -> dict[str, Any]:
    """Returns parameters whose log-variances start at -6: noise of 0 would drown the latents."""
    layer = params["quant_conv"]
    bias = layer["bias"].at[len(layer["bias"]) // 2 :].set(-6.0)
    return {**params, "quant_conv": {**layer, "bias": bias}}


CARRIERS = 8  # channels: red, green and blue, each once positive and once negative, and a constant
CONSTANT = 8.0  # of the last two: well above the colours, so that it sets the group's deviation
# What a convolution does with a carrier: keeps it, takes means of 2 x 2 pixels, interpolates.
_TAPS = {
    "conv_shortcut": np.ones((1, 1)),
    "downsamplers_0": np.pad(np.full((2, 2), 0.25), ((0, 1), (0, 1))),
    "upsamplers_0": np.outer([1, 2, 1], [1, 2, 1]) / 16,
}


def initialise_carriers(module: AutoencoderKL, params: dict[str, Any]) -> dict[str, Any]:
    """Returns an autoencoder that starts as cell means and their smooth enlargement.

    Normalisation removes the mean colour, and random initial parameters need many steps to bring it
    back: 22.4 dB after 1860 steps of 8 pictures, where these reach 22.7 dB after 300. The first
    channels carry the three colours along the shortcuts, past the residual branches (which
    `zero_residuals` has set to zero): each colour c twice, as c and -c, and a constant likewise. A
    group that holds just these has mean 0 and nearly the constant's deviation, so that its
    normalisation only divides; and silu(c) - silu(-c) = c exactly, so that the last convolution
    recovers the colours. With groups of fewer than eight channels, or latents of fewer than three,
    the parameters are returned unchanged.
    """
    config = module.config
    groups, latents = config.norm_num_groups, config.latent_channels
    if min(config.block_out_channels) < CARRIERS * groups or latents < 3:
        return params
    flat = {path: np.array(x) for path, x in traverse_util.flatten_dict(params).items()}
    for half in ("encoder", "decoder"):
        enter, leave = flat[half, "conv_in", "kernel"], flat[half, "conv_out", "kernel"]
        width = leave.shape[2] // groups
        enter[..., :width] = 0  # the carriers' group holds nothing else
        for path in [p for p in flat if p[0] == half and p[-1] == "kernel"]:
            for kind in _TAPS.keys() & set(path):
                flat[path][..., :width] = 0
                for carrier in range(CARRIERS):
                    flat[path][:, :, carrier, carrier] = _TAPS[kind]
        flat[half, "conv_in", "bias"][6:CARRIERS] = CONSTANT, -CONSTANT
        leave[..., :3] = 0
        deviation = np.sqrt(2 * CONSTANT**2 / width)
        for colour in range(3):
            pair = slice(2 * colour, 2 * colour + 2)
            enter[1, 1, colour, pair], leave[1, 1, pair, colour] = (1, -1), (deviation, -deviation)
    flat["quant_conv", "kernel"][0, 0] = np.diag([1.0] * latents + [0.0] * latents)
    flat["post_quant_conv", "kernel"][0, 0] = np.eye(latents)
    return traverse_util.unflatten_dict({path: jnp.asarray(x) for path, x in flat.items()})


def standardise(params: dict[str, Any], latents: np.ndarray) -> dict[str, Any]:
    """Returns the same autoencoder with latents of mean 0 and variance 1 in each channel.

    Stable Diffusion has one scaling factor for all channels and none for their means. Instead, an
    affine map per channel goes into the two 1 x 1 convolutions on either side of the latents. It is
    exact, and `scaling_factor` stays 1. Mean and variance are those of `latents`, [n, h, w, c].
    """
    mean = latents.mean(axis=(0, 1, 2), dtype=np.float64).astype(np.float32)
    std = latents.std(axis=(0, 1, 2), dtype=np.float64).astype(np.float32)
    # quant_conv gives (mean, logvar): the means are shifted and divided, the spreads divided.
    quant, post = params["quant_conv"], params["post_quant_conv"]
    shrink = np.concatenate([1 / std, np.ones_like(std)])
    shift = np.concatenate([-mean / std, -2 * np.log(std)])
    kernel = quant["kernel"] * shrink[None, None, None]  # [1, 1, channels in, channels out]
    quant = {"kernel": kernel, "bias": quant["bias"] * shrink + shift}
    bias = post["bias"] + jnp.einsum("i,io->o", mean, post["kernel"][0, 0])
    post = {"kernel": post["kernel"] * std[None, None, :, None], "bias": bias}
    return {**params, "quant_conv": quant, "post_quant_conv": post}


class Codec:
    """A trained autoencoder, bytes <-> latents on all devices; compiled ahead, for AT_ONCE rows."""

    def __init__(self, module: AutoencoderKL, mesh: Mesh):
        self._mesh, self._rows = mesh, AT_ONCE + -AT_ONCE % mesh.size
        config, split, whole = module.config, split_over(mesh), replicated(mesh)
        size, side = config.sample_size, config.sample_size // config.downsample_factor
        self.shape = (side, side, config.latent_channels)  # of a picture's latents

        def ahead(function, dtype, *shape):
            jitted = jax.jit(function, in_shardings=(whole, split), out_shardings=whole)
            rows = jax.ShapeDtypeStruct((self._rows, *shape), dtype)
            return Ahead(jitted, abstract_params(module), rows)

        def encode(params, pictures):
            return encode_latents(module, params, from_bytes(pictures))

        self._encode = ahead(encode, jnp.uint8, size, size, 3)
        self._decode = ahead(partial(decode_latents, module), jnp.float32, *self.shape)

    def encode(self, params: dict[str, Any], parts: Iterable[np.ndarray]) -> jax.Array:
        """Returns the latents [n, h, w, c] of pictures, parts of uint8 [m, S, S, 3]."""
        params = replicate(params, self._mesh)
        return jnp.concatenate([self._all(self._encode, params, part) for part in parts])

    def decode(self, params: dict[str, Any], latents: np.ndarray) -> np.ndarray:
        """Returns the pictures of latents [n, h, w, c]: float32 [n, S, S, 3], about in [-1, 1]."""
        return np.asarray(self._all(self._decode, replicate(params, self._mesh), latents))

    def _all(self, function: Ahead, params: dict[str, Any], rows: np.ndarray) -> jax.Array:
        rows, count = np.asarray(rows), len(rows)
        batches = -(-count // self._rows)
        whole = np.resize(rows, (batches, self._rows, *rows.shape[1:]))  # repeats rows to fill it
        return jnp.concatenate([function(params, batch) for batch in whole])[:count]
