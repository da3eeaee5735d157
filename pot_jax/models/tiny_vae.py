"""The tiny autoencoder: diffusers' `AutoencoderTiny` (TAESD), about fifty times cheaper.

It is trained on latents as the UNet sees them, so its scaling factor is 1. Shapes as in `vae`.
"""

import itertools
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from pot_jax.models.config import ModelConfig, Natural, Positive, Size
from pot_jax.models.layers import Configured, conv
from pot_jax.models.vae import Autoencoder
from pot_jax.zoom.operators import upsample_nearest


@dataclass(frozen=True)
class AutoencoderTinyConfig(ModelConfig):
    """The tiny autoencoder's `config.json`; the defaults are TAESD's."""

    CLASS_NAME: ClassVar[str] = "AutoencoderTiny"
    FIXED: ClassVar = {
        "act_fn": ("relu",),
        "upsample_fn": ("nearest",),
        "upsampling_scaling_factor": (2,),
    }
    # The latents' magnitude and shift serve to store them as bytes; diffusers writes
    # block_out_channels, a copy of the decoder's, for its pipelines.
    UNUSED: ClassVar = frozenset(
        {"block_out_channels", "force_upcast", "latent_magnitude", "latent_shift"}
    )

    in_channels: Size = 3
    out_channels: Size = 3
    encoder_block_out_channels: tuple[Size, ...] = (64, 64, 64, 64)
    decoder_block_out_channels: tuple[Size, ...] = (64, 64, 64, 64)
    num_encoder_blocks: tuple[Natural, ...] = (1, 3, 3, 3)
    num_decoder_blocks: tuple[Natural, ...] = (3, 3, 3, 1)
    latent_channels: Size = 4
    scaling_factor: Positive = 1.0
    shift_factor: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        stages = len(self.encoder_block_out_channels)
        for key in ("decoder_block_out_channels", "num_encoder_blocks", "num_decoder_blocks"):
            self.require(key, len(getattr(self, key)) == stages, f"{stages} numbers")
        for key in ("encoder_block_out_channels", "decoder_block_out_channels"):
            one_width = len(set(getattr(self, key))) == 1
            self.require(key, one_width, "the same number for each stage")

    @property
    def downsample_factor(self) -> int:
        """Pixels per latent along each axis."""
        return 2 ** (len(self.encoder_block_out_channels) - 1)


class AutoencoderTinyBlock(nn.Module):
    """Three 3x3 convolutions, added to the input, [B, H, W, C] -> [B, H, W, C]."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = x
        for i in (0, 2, 4):  # torch counts the activations in between as layers
            h = conv(x.shape[-1], 3, self.dtype, f"conv_{i}")(h if i == 0 else nn.relu(h))
        return nn.relu(x + h)


class EncoderTiny(Configured):
    """Images [B, H, W, 3] in [-1, 1] -> latents [B, h, w, c]."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        c = self.config
        x = (images.astype(self.dtype) + 1) / 2  # the network itself sees [0, 1]
        names = (f"layers_{i}" for i in itertools.count())
        for i, blocks in enumerate(c.num_encoder_blocks):
            channels, stride = c.encoder_block_out_channels[i], 1 if i == 0 else 2
            x = conv(channels, 3, self.dtype, next(names), stride, bias=i == 0)(x)
            for _ in range(blocks):
                x = AutoencoderTinyBlock(self.dtype, name=next(names))(x)
        return conv(c.latent_channels, 3, self.dtype, next(names))(x)


class DecoderTiny(Configured):
    """Latents [B, h, w, c] -> images [B, H, W, 3]."""

    @nn.compact
    def __call__(self, latents: jax.Array) -> jax.Array:
        c = self.config
        x = jnp.tanh(latents / 3) * 3  # outliers would saturate the picture
        x = nn.relu(conv(c.decoder_block_out_channels[0], 3, self.dtype, "layers_0")(x))
        # torch counts the activation, and below the upsampling, as a layer.
        names = (f"layers_{i}" for i in itertools.count(2))
        for i, blocks in enumerate(c.num_decoder_blocks):
            last = i == len(c.num_decoder_blocks) - 1
            for _ in range(blocks):
                x = AutoencoderTinyBlock(self.dtype, name=next(names))(x)
            if not last:
                x = upsample_nearest(x, 2)
                next(names)
            channels = c.out_channels if last else c.decoder_block_out_channels[i]
            x = conv(channels, 3, self.dtype, next(names), bias=last)(x)
        return 2 * x - 1


class AutoencoderTiny(Autoencoder):
    """Images to latents and back: `module.apply(variables, ..., method="encode")` or "decode"."""

    def setup(self):
        """Names the parts as in the checkpoint."""
        self.encoder = EncoderTiny(self.config, self.dtype)
        self.decoder = DecoderTiny(self.config, self.dtype)
