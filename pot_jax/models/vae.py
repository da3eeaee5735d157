"""The autoencoders: diffusers' `AutoencoderKL`, and `AutoencoderTiny` (TAESD), 50 times cheaper.

Shapes: B batch rows, H W pixels, h w the latents' grid (H / downsample_factor), c latent channels.
The module's latents are as the encoder makes them; the UNet's are scaled to about unit variance.
Only `encode_latents` and `decode_latents` convert between the two.
"""

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from pot_jax.models import layers
from pot_jax.models.config import Depth, ModelConfig, Natural, Positive, Size
from pot_jax.models.layers import Configured, conv, group_norm
from pot_jax.zoom.operators import upsample_nearest

EPS = 1e-6  # of every normalisation; a constant in diffusers, too


@dataclass(frozen=True)
class AutoencoderKLConfig(ModelConfig):
    """The autoencoder's `config.json`; the defaults are those of SD 1.x and 2.x."""

    CLASS_NAME: ClassVar[str] = "AutoencoderKL"
    FIXED: ClassVar = {
        "act_fn": ("silu", "swish"),
        **{"latents_mean": (None,), "latents_std": (None,), "mid_block_add_attention": (True,)},
        **{"use_post_quant_conv": (True,), "use_quant_conv": (True,)},
    }

    sample_size: Size | tuple[Size, ...] = 32  # height and width in training, in pixels
    in_channels: Size = 3
    out_channels: Size = 3
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",) * 4
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",) * 4
    block_out_channels: tuple[Size, ...] = (128, 256, 512, 512)
    layers_per_block: Depth = 2
    latent_channels: Size = 4
    norm_num_groups: Size = 32
    scaling_factor: Positive = 0.18215
    shift_factor: float | None = None
    force_upcast: bool = True  # whether it overflows in float16; some families follow it

    def to_json(self) -> dict[str, Any]:
        """Returns the content of a `config.json`, in which `force_upcast` is left to the default.

        Digests of runs from before it was read go without it; the precision is theirs by itself.
        """
        return {key: value for key, value in super().to_json().items() if key != "force_upcast"}

    def __post_init__(self):
        super().__post_init__()
        blocks = len(self.block_out_channels)
        kinds = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}
        for key, name in kinds.items():
            self.require(key, getattr(self, key) == (name,) * blocks, f"{blocks} times {name}")
        divisible = not any(channels % self.norm_num_groups for channels in self.block_out_channels)
        expected = f"multiples of norm_num_groups, {self.norm_num_groups}"
        self.require("block_out_channels", divisible, expected)

    @property
    def downsample_factor(self) -> int:
        """Pixels per latent along each axis."""
        return 2 ** (len(self.block_out_channels) - 1)


class Moments(NamedTuple):
    """The Gaussian that the encoder gives for each latent."""

    mean: jax.Array  # [B, h, w, c] float32
    logvar: jax.Array  # [B, h, w, c] float32, within -30 and 20


class PixelAttention(Configured):
    """One head of attention over all places of [B, H, W, C], added to them."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        states = group_norm(self.config.norm_num_groups, EPS, self.dtype, "group_norm")(x)
        states = states.reshape(len(x), -1, x.shape[3])
        attention = layers.Attention(1, self.dtype, bias=True)
        nn.share_scope(self, attention)  # in a checkpoint, its layers and the norm are siblings
        return x + attention(states, states).reshape(x.shape)


class UNetMidBlock2D(Configured):
    """ResNet block, attention, ResNet block at the smallest size."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        built = (x.shape[-1], self.config.norm_num_groups, EPS, self.dtype)
        x = layers.ResnetBlock2D(*built, name="resnets_0")(x)
        x = PixelAttention(self.config, self.dtype, name="attentions_0")(x)
        return layers.ResnetBlock2D(*built, name="resnets_1")(x)


class ResnetBlocks2D(Configured):
    """diffusers' `DownEncoderBlock2D` and `UpDecoderBlock2D`: ResNet blocks, then another size."""

    channels: int = 0
    count: int = 1  # of ResNet blocks
    resample: Literal["half", "double"] | None = None  # None in the last block

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        built = (self.channels, self.config.norm_num_groups, EPS, self.dtype)
        for i in range(self.count):
            x = layers.ResnetBlock2D(*built, name=f"resnets_{i}")(x)
        if self.resample == "half":
            x = layers.Downsample2D(self.dtype, ((0, 1), (0, 1)), name="downsamplers_0")(x)
        elif self.resample == "double":
            x = layers.Upsample2D(self.dtype, name="upsamplers_0")(x)
        return x


class Encoder(Configured):
    """Images [B, H, W, 3] -> mean and log-variance before `quant_conv`, [B, h, w, 2c]."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        c, last = self.config, len(self.config.block_out_channels) - 1
        x = conv(c.block_out_channels[0], 3, self.dtype, "conv_in")(images.astype(self.dtype))
        for i, channels in enumerate(c.block_out_channels):
            resample = "half" if i < last else None
            built = (c, self.dtype, channels, c.layers_per_block, resample)
            x = ResnetBlocks2D(*built, name=f"down_blocks_{i}")(x)
        x = UNetMidBlock2D(c, self.dtype, name="mid_block")(x)
        x = nn.silu(group_norm(c.norm_num_groups, EPS, self.dtype, "conv_norm_out")(x))
        return conv(2 * c.latent_channels, 3, self.dtype, "conv_out")(x)


class Decoder(Configured):
    """Latents after `post_quant_conv`, [B, h, w, c] -> images [B, H, W, 3]."""

    @nn.compact
    def __call__(self, latents: jax.Array) -> jax.Array:
        c, last = self.config, len(self.config.block_out_channels) - 1
        x = conv(c.block_out_channels[-1], 3, self.dtype, "conv_in")(latents)
        x = UNetMidBlock2D(c, self.dtype, name="mid_block")(x)
        for i, channels in enumerate(reversed(c.block_out_channels)):
            resample = "double" if i < last else None
            built = (c, self.dtype, channels, c.layers_per_block + 1, resample)
            x = ResnetBlocks2D(*built, name=f"up_blocks_{i}")(x)
        x = nn.silu(group_norm(c.norm_num_groups, EPS, self.dtype, "conv_norm_out")(x))
        return conv(c.out_channels, 3, self.dtype, "conv_out")(x)


class Autoencoder(Configured):
    """What all autoencoders share, around their `encoder` and `decoder`."""

    def __call__(self, images: jax.Array) -> jax.Array:
        """Encodes images, and decodes the latents or their mean."""
        return self.decode(_latents(self.encode(images)))

    def example_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shapes of the smallest inputs, by argument, for building the parameters."""
        side = self.config.downsample_factor
        shape = (1, side, side, self.config.in_channels)
        return {"images": jax.ShapeDtypeStruct(shape, jnp.float32)}

    def encode(self, images: jax.Array) -> jax.Array:
        """Encodes images [B, H, W, 3] in [-1, 1] as latents [B, h, w, c] float32.

        Raises ValueError unless H and W are multiples of `downsample_factor`: borders would be cut.
        """
        factor, channels = self.config.downsample_factor, self.config.in_channels
        fits = images.ndim == 4 and images.shape[3] == channels
        if not fits or images.shape[1] % factor or images.shape[2] % factor:
            expected = f"[B, H, W, {channels}] with H and W multiples of {factor}"
            raise ValueError(f"images have shape {images.shape}, expected {expected}")
        return self.encoder(images).astype(jnp.float32)

    def decode(self, latents: jax.Array) -> jax.Array:
        """Decodes unscaled latents [B, h, w, c] to images [B, H, W, 3], about within [-1, 1]."""
        return self.decoder(latents.astype(self.dtype)).astype(jnp.float32)


class AutoencoderKL(Autoencoder):
    """Images to latents and back: `module.apply(variables, ..., method="encode")` or "decode"."""

    def setup(self):
        """Names the parts as in the checkpoint."""
        c = self.config
        self.encoder = Encoder(c, self.dtype)
        self.decoder = Decoder(c, self.dtype)
        self.quant_conv = layers.Conv(2 * c.latent_channels, (1, 1), dtype=self.dtype)
        self.post_quant_conv = layers.Conv(c.latent_channels, (1, 1), dtype=self.dtype)

    def encode(self, images: jax.Array) -> Moments:
        """Encodes images, as `Autoencoder` does, as the latents' Gaussian, [B, h, w, c] each."""
        moments = self.quant_conv(super().encode(images)).astype(jnp.float32)
        mean, logvar = jnp.split(moments, 2, axis=-1)
        return Moments(mean, jnp.clip(logvar, -30.0, 20.0))

    def decode(self, latents: jax.Array) -> jax.Array:
        """Decodes unscaled latents [B, h, w, c] to images [B, H, W, 3], about within [-1, 1]."""
        return super().decode(self.post_quant_conv(latents))


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
    scaling_factor: Positive = 1.0  # it is trained on latents as the UNet sees them
    shift_factor: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        stages = len(self.encoder_block_out_channels)
        for key in ("decoder_block_out_channels", "num_encoder_blocks", "num_decoder_blocks"):
            self.require(key, len(getattr(self, key)) == stages, f"{stages} numbers")
        for key in ("encoder_block_out_channels", "decoder_block_out_channels"):
            self.require(key, len(set(getattr(self, key))) == 1, "the same number for each stage")

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


def encode_latents(module: nn.Module, params: dict[str, Any], images: jax.Array) -> jax.Array:
    """Encodes images [B, H, W, 3] in [-1, 1] as the UNet's latents, [B, h, w, c] float32.

    `module` is an `AutoencoderTiny`, or an `AutoencoderKL`, whose Gaussian's mean is taken.
    """
    latents = _latents(module.apply({"params": params}, images, method="encode"))
    return (latents - (module.config.shift_factor or 0.0)) * module.config.scaling_factor


def _latents(encoded: Moments | jax.Array) -> jax.Array:
    return encoded.mean if isinstance(encoded, Moments) else encoded


def decode_latents(module: nn.Module, params: dict[str, Any], latents: jax.Array) -> jax.Array:
    """Decodes the UNet's latents, [B, h, w, c], to images [B, H, W, 3], about within [-1, 1]."""
    latents = latents / module.config.scaling_factor + (module.config.shift_factor or 0.0)
    return module.apply({"params": params}, latents, method="decode")
