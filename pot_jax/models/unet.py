"""The denoiser: diffusers' `UNet2DConditionModel` as SD 1.x and 2.x and their relatives use it.

Shapes: B batch rows (all levels, both halves of guidance), H W the latents' grid, T tokens, D width
of the text states. `x` is the feature map that passes through, [B, h, w, C]. On the way down each
layer's output is kept; on the way up they are concatenated to `x`, the last one first.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from pot_jax.models import layers
from pot_jax.models.config import Depth, ModelConfig, Positive, Size
from pot_jax.models.layers import Configured, conv, group_norm

DOWN_BLOCKS = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}  # name -> attends to the text
UP_BLOCKS = {"CrossAttnUpBlock2D": True, "UpBlock2D": False}
# Settings of diffusers' UNet that no supported model turns on. Of those of `UNetConfig`'s fields
# that are among them, this only keeps the order in written files, which digests of old files know.
_FALSE = "center_input_sample class_embeddings_concat dual_cross_attention resnet_skip_time_act"
_NULL = (
    "addition_embed_type addition_time_embed_dim cross_attention_norm encoder_hid_dim "
    "encoder_hid_dim_type num_attention_heads projection_class_embeddings_input_dim "
    "reverse_transformer_layers_per_block time_embedding_act_fn time_embedding_dim "
    "timestep_post_act"
)


@dataclasses.dataclass(frozen=True)
class UNetConfig(ModelConfig):
    """The UNet's `config.json`; the defaults are diffusers' (SD 1.x except cross_attention_dim).

    A setting per block is one number for all blocks or a list, from the outermost block inwards.
    Despite its name, `attention_head_dim` is the number of heads (diffusers issue 2011).
    """

    CLASS_NAME: ClassVar[str] = "UNet2DConditionModel"
    FIXED: ClassVar = {
        "act_fn": ("silu", "swish"),
        "attention_type": ("default",),
        **dict.fromkeys(("conv_in_kernel", "conv_out_kernel"), (3,)),
        **dict.fromkeys(("downsample_padding", "mid_block_scale_factor"), (1,)),
        "mid_block_type": ("UNetMidBlock2DCrossAttn",),
        "resnet_out_scale_factor": (1.0,),
        "resnet_time_scale_shift": ("default",),
        "time_embedding_type": ("positional",),
        **dict.fromkeys(_FALSE.split(), (False,)),
        **dict.fromkeys(_NULL.split(), (None,)),
    }
    # diffusers' UNetMidBlock2DCrossAttn ignores mid_block_only_cross_attention, too. The others are
    # what its EMAModel leaves in files, such as those of SDXL's inpainting model.
    UNUSED: ClassVar = frozenset(
        {"dropout", "addition_embed_type_num_heads", "mid_block_only_cross_attention"}
        | {"decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step"}
        | {"use_ema_warmup"}
    )

    sample_size: Size | tuple[Size, ...] | None = None  # latents' height and width in training
    in_channels: Size = 4
    out_channels: Size = 4
    flip_sin_to_cos: bool = True
    freq_shift: float = 0
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up_block_types: tuple[str, ...] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    block_out_channels: tuple[Size, ...] = (320, 640, 1280, 1280)
    layers_per_block: Depth | tuple[Depth, ...] = 2
    norm_num_groups: Size = 32
    norm_eps: Positive = 1e-5
    cross_attention_dim: Size = 1280
    transformer_layers_per_block: Depth | tuple[Depth, ...] = 1
    attention_head_dim: Size | tuple[Size, ...] = 8
    only_cross_attention: bool | tuple[bool, ...] = False
    use_linear_projection: bool = False
    # Attention scores are always float32 here. SDXL's own file says null.
    upcast_attention: bool | None = False
    class_embed_type: str | None = None  # None or "timestep"
    num_class_embeds: Size | None = None
    time_cond_proj_dim: Size | None = None
    addition_embed_type: str | None = None  # "text_time": a pooled text state, and sizes (SDXL)
    addition_time_embed_dim: Size | None = None  # sines of each size
    projection_class_embeddings_input_dim: Size | None = None  # width of both together

    def __post_init__(self):
        super().__post_init__()
        blocks = len(self.block_out_channels)
        for key, known in (("down_block_types", DOWN_BLOCKS), ("up_block_types", UP_BLOCKS)):
            names = getattr(self, key)
            fits = len(names) == blocks and set(names) <= set(known)
            self.require(key, fits, f"{blocks} of {list(known)}")
        keys = "layers_per_block transformer_layers_per_block attention_head_dim"
        for key in (*keys.split(), "only_cross_attention"):
            self.require(key, len(self.per_block(key)) == blocks, f"one value or {blocks}")
        known = self.class_embed_type in (None, "timestep")
        self.require("class_embed_type", known, "null or 'timestep'")
        known, sizes = self.addition_embed_type, "addition_time_embed_dim"
        self.require("addition_embed_type", known in (None, "text_time"), "null or 'text_time'")
        for key in (sizes, "projection_class_embeddings_input_dim") if known else ():
            self.require(key, getattr(self, key) is not None, "a number, with text_time")
        for channels, heads in zip(self.block_out_channels, self.per_block("attention_head_dim")):
            expected = f"multiples of norm_num_groups, {self.norm_num_groups}, and of the heads of "
            expected += f"their block, {self.attention_head_dim}"
            fits = channels % self.norm_num_groups == channels % heads == 0
            self.require("block_out_channels", fits, expected)

    @property
    def has_classes(self) -> bool:
        """Whether it takes a class, or an upscaler's noise level, besides the timestep."""
        return self.class_embed_type is not None or self.num_class_embeds is not None

    @property
    def added_width(self) -> int | None:
        """The width of what it embeds besides the timestep, None if that is nothing."""
        return self.projection_class_embeddings_input_dim if self.addition_embed_type else None

    def per_block(self, key: str) -> tuple:
        """Returns the setting `key` of each block, from the outermost inwards."""
        value = getattr(self, key)
        return value if isinstance(value, tuple) else (value,) * len(self.block_out_channels)


class UNetBlock(Configured):
    """What all blocks share: their place in the network, and their layers by number."""

    place: int = 0  # counted from the outermost block
    count: int = 1  # of ResNet blocks, or in the middle of pairs
    attends: bool = True  # to the text

    def resnet(self, i: int) -> layers.ResnetBlock2D:
        """Builds ResNet block `i`."""
        c, channels = self.config, self.config.block_out_channels[self.place]
        built = (channels, c.norm_num_groups, c.norm_eps, self.dtype)
        return layers.ResnetBlock2D(*built, name=f"resnets_{i}")

    def attend(self, i: int, x: jax.Array, text_states: jax.Array) -> jax.Array:
        """Applies transformer `i`, if the block has any."""
        if not self.attends:
            return x
        c, keys = self.config, ("transformer_layers_per_block", "attention_head_dim")
        depth, heads = (c.per_block(key)[self.place] for key in keys)
        crossing = c.per_block("only_cross_attention")[self.place]
        built = (depth, heads, c.norm_num_groups, c.use_linear_projection, self.dtype, crossing)
        return layers.Transformer2DModel(*built, name=f"attentions_{i}")(x, text_states)


class DownBlock2D(UNetBlock):
    """diffusers' `DownBlock2D` and `CrossAttnDownBlock2D`; returns x and what to keep for later."""

    downsample: bool = True

    @nn.compact
    def __call__(
        self, x: jax.Array, time_states: jax.Array, text_states: jax.Array
    ) -> tuple[jax.Array, list[jax.Array]]:
        kept = []
        for i in range(self.count):
            x = self.attend(i, self.resnet(i)(x, time_states), text_states)
            kept.append(x)
        if self.downsample:
            x = layers.Downsample2D(self.dtype, name="downsamplers_0")(x)
            kept.append(x)
        return x, kept


class UNetMidBlock2DCrossAttn(UNetBlock):
    """A ResNet block, then `count` pairs of a transformer and a ResNet block."""

    @nn.compact
    def __call__(self, x: jax.Array, time_states: jax.Array, text_states: jax.Array) -> jax.Array:
        x = self.resnet(0)(x, time_states)
        for i in range(self.count):
            x = self.resnet(i + 1)(self.attend(i, x, text_states), time_states)
        return x


class UpBlock2D(UNetBlock):
    """diffusers' `UpBlock2D`, or `CrossAttnUpBlock2D` if it attends.

    `kept` holds one feature map for each layer, the last kept at its end. `shape` is the height and
    width to upsample to, None in the outermost block.
    """

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        kept: list[jax.Array],
        time_states: jax.Array,
        text_states: jax.Array,
        shape: tuple[int, int] | None,
    ) -> jax.Array:
        for i in range(self.count):
            x = jnp.concatenate([x, kept[-1 - i]], axis=-1)
            x = self.attend(i, self.resnet(i)(x, time_states), text_states)
        if shape is not None:
            x = layers.Upsample2D(self.dtype, name="upsamplers_0")(x, shape)
        return x


class UNet2DConditionModel(Configured):
    """The denoiser; the scheduler's config says what it predicts (eps, v or x0)."""

    @nn.compact
    def __call__(
        self,
        latents: jax.Array,
        timesteps: jax.Array,
        text_states: jax.Array,
        *,
        class_labels: jax.Array | None = None,
        timestep_cond: jax.Array | None = None,
        pooled: jax.Array | None = None,
        time_ids: jax.Array | None = None,
    ) -> jax.Array:
        """Evaluates the network once; returns the prediction, [B, H, W, out_channels] float32.

        Args:
          latents: [B, H, W, in_channels], of about unit variance.
          timesteps: [B] or [], training index from 0 to 999; fractions are allowed.
          text_states: [B, T, D].
          class_labels: [B] int32, or noise levels [B] if class_embed_type is "timestep"; given to
            models that have them (the upscaler) and to no others.
          timestep_cond: [B, time_cond_proj_dim], given to models that have it and to no others.
          pooled: [B, E], the text's pooled state, given to models with "text_time" and no others.
          time_ids: [B, 6], likewise: original height and width, top and left of the crop, target
            height and width, in pixels.

        Raises ValueError if a shape does not fit, or a condition is missing or unknown.
        """
        c = self.config
        given = class_labels, timestep_cond, pooled, time_ids
        _check_inputs(c, latents, text_states, *given)
        text_states = text_states.astype(self.dtype)
        time_states = self._time_states(latents, timesteps, *given)

        x = conv(c.block_out_channels[0], 3, self.dtype, "conv_in")(latents.astype(self.dtype))
        kept, counts = [x], c.per_block("layers_per_block")
        last = len(counts) - 1
        for i, kind in enumerate(c.down_block_types):
            built = (c, self.dtype, i, counts[i], DOWN_BLOCKS[kind], i < last)
            x, outputs = DownBlock2D(*built, name=f"down_blocks_{i}")(x, time_states, text_states)
            kept += outputs

        # In diffusers the middle always starts with self-attention, even if the config says
        # only_cross_attention.
        plain = dataclasses.replace(c, only_cross_attention=False)
        mid_block = UNetMidBlock2DCrossAttn(plain, self.dtype, last, name="mid_block")
        x = mid_block(x, time_states, text_states)

        for i, kind in enumerate(c.up_block_types):
            place, count = last - i, counts[last - i] + 1
            kept, taken = kept[:-count], kept[-count:]
            built = (c, self.dtype, place, count, UP_BLOCKS[kind])
            shape = kept[-1].shape[1:3] if place > 0 else None
            x = UpBlock2D(*built, name=f"up_blocks_{i}")(x, taken, time_states, text_states, shape)

        x = nn.silu(group_norm(c.norm_num_groups, c.norm_eps, self.dtype, "conv_norm_out")(x))
        return conv(c.out_channels, 3, self.dtype, "conv_out")(x).astype(jnp.float32)

    def _time_states(
        self, latents, timesteps, class_labels, timestep_cond, pooled, time_ids
    ) -> jax.Array:
        c = self.config
        channels = c.block_out_channels[0]
        width = 4 * channels

        def features(values):
            values = jnp.broadcast_to(values, latents.shape[:1])
            return layers.timestep_features(values, channels, c.flip_sin_to_cos, c.freq_shift)

        embed = layers.TimestepEmbedding(width, self.dtype, name="time_embedding")
        states = embed(features(timesteps), timestep_cond)
        if c.addition_embed_type is not None:
            how = c.addition_time_embed_dim, c.flip_sin_to_cos, c.freq_shift
            sizes = layers.timestep_features(time_ids.reshape(-1), *how)
            added = jnp.concatenate([pooled, sizes.reshape(len(pooled), -1)], axis=1)
            states = states + layers.TimestepEmbedding(width, self.dtype, name="add_embedding")(
                added
            )
        if c.class_embed_type == "timestep":
            embed = layers.TimestepEmbedding(width, self.dtype, name="class_embedding")
            return states + embed(features(class_labels))
        if c.num_class_embeds is not None:
            embed = nn.Embed(c.num_class_embeds, width, dtype=self.dtype, name="class_embedding")
            return states + embed(class_labels)
        return states

    def example_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shapes of the smallest inputs, by argument, for building the parameters."""
        c = self.config
        side = 2 ** (len(c.block_out_channels) - 1)
        shapes = {"latents": (1, side, side, c.in_channels), "timesteps": (1,)}
        shapes["text_states"] = (1, 1, c.cross_attention_dim)
        if c.time_cond_proj_dim is not None:
            shapes["timestep_cond"] = (1, c.time_cond_proj_dim)
        if c.addition_embed_type is not None:
            shapes["time_ids"] = 1, 6
            shapes["pooled"] = 1, max(1, c.added_width - 6 * c.addition_time_embed_dim)
        inputs = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
        if c.has_classes:
            inputs["class_labels"] = jax.ShapeDtypeStruct((1,), jnp.int32)
        return inputs


def _check_inputs(config, latents, text_states, class_labels, timestep_cond, pooled, time_ids):
    if latents.ndim != 4 or latents.shape[-1] != config.in_channels:
        fitting = f"[B, H, W, {config.in_channels}]"
        raise ValueError(f"latents have shape {latents.shape}, expected {fitting}")
    expected = (latents.shape[0], config.cross_attention_dim)
    if text_states.ndim != 3 or (text_states.shape[0], text_states.shape[2]) != expected:
        fitting = f"[{expected[0]}, T, {expected[1]}]"
        raise ValueError(f"text states have shape {text_states.shape}, expected {fitting}")
    for name, value, wanted in (
        ("class_labels", class_labels, config.has_classes),
        ("timestep_cond", timestep_cond, config.time_cond_proj_dim is not None),
        ("pooled", pooled, config.addition_embed_type is not None),
        ("time_ids", time_ids, config.addition_embed_type is not None),
    ):
        if (value is not None) != wanted:
            raise ValueError(f"this UNet {'needs' if wanted else 'does not know'} {name}")
