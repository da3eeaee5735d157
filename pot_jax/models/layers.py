"""The layers of which the UNet and the autoencoders are built.

Shapes: B batch rows, H W grid, C channels, T tokens, D width of a token, h heads. Feature maps are
[B, H, W, C], token states [B, T, D]. Parameters have their diffusers names; `name.0` of a torch
list is `name_0` here. `dtype` is that of the arithmetic, but normalisations and attention scores
are always computed in float32. Text states may have R rows for each of a feature map, one after the
other: what comes before the first attention to them is computed once for all R (`repeated`).
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.typing import DTypeLike

from pot_jax.zoom.operators import upsample_nearest

# Flax evaluates the shape of an initializer's result whenever it reads a parameter, and needs a
# fourth of all tracing for it; jit traces each shape once.
_INIT = jax.jit(nn.initializers.lecun_normal(), static_argnums=(1, 2))
Dense, Conv = partial(nn.Dense, kernel_init=_INIT), partial(nn.Conv, kernel_init=_INIT)
# The variables of `text_keys`: what attention makes of the text, the same at every step.
TEXT = "text"


class Configured(nn.Module):
    """A network, or a part of one, with the network's whole config and its arithmetic's dtype."""

    config: Any
    dtype: DTypeLike = jnp.float32


def repeated(x: jax.Array, rows: int) -> jax.Array:
    """Returns x [B, ...] with each row repeated, so that there are `rows`, a multiple of B."""
    return x if len(x) == rows else jnp.repeat(x, rows // len(x), axis=0)


def moments(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Returns mean and variance along an axis of x, whose length stays 1.

    A CPU passes over x twice: once takes as long there (within 1 %), and a third longer to compile.
    Others do it once: E[d^2] - E[d]^2 of d = x - s is as exact where |E[d]| is not far above the
    deviation, so s is the median of three values, of which one may be an outlier.
    """
    if jax.default_backend() == "cpu":
        mean = jnp.mean(x, axis, keepdims=True)
        return mean, jnp.mean(jnp.square(x - mean), axis, keepdims=True)
    places = (x.shape[axis] * quarter // 4 for quarter in (1, 2, 3))
    a, b, c = (jax.lax.slice_in_dim(x, i, i + 1, axis=axis) for i in places)
    shift = jnp.maximum(jnp.minimum(a, b), jnp.minimum(jnp.maximum(a, b), c))
    shift = jax.lax.stop_gradient(shift)  # the result does not depend on it
    mean, square = (jnp.mean(d, axis, keepdims=True) for d in (x - shift, jnp.square(x - shift)))
    return shift + mean, jnp.maximum(square - jnp.square(mean), 0)


class Norm(nn.Module):
    """Normalises each place, [..., C], or each of `groups` of channels over all, [B, H, W, C]."""

    eps: float
    dtype: DTypeLike
    groups: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels, exact = x.shape[-1], x.astype(jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        along = *(1,) * (x.ndim - 1), channels
        scale, bias = (p.astype(jnp.float32).reshape(along) for p in (scale, bias))
        if self.groups is None:
            mean, variance = moments(exact, -1)
        else:
            # Each channel by itself, then the groups: CPUs sum fastest along one axis of places.
            own, inner = moments(exact.reshape(len(x), -1, channels), 1)
            own, inner = (m.reshape(len(x), self.groups, -1) for m in (own, inner))
            mean = jnp.mean(own, -1, keepdims=True)
            variance = jnp.mean(inner + jnp.square(own - mean), -1, keepdims=True)
            mean, variance = (
                jnp.broadcast_to(m, own.shape).reshape(len(x), *along[1:]) for m in (mean, variance)
            )
        normed = (exact - mean) * (jax.lax.rsqrt(variance + self.eps) * scale) + bias
        return normed.astype(self.dtype)


def group_norm(groups: int, eps: float, dtype: DTypeLike, name: str) -> Norm:
    """Builds a group normalisation over `groups` groups of channels."""
    return Norm(eps, dtype, groups, name=name)


def conv(
    channels: int, size: int, dtype: DTypeLike, name: str, stride: int = 1, bias: bool = True
) -> nn.Conv:
    """Builds a square convolution, zero-padded by half its size on both sides, as torch pads."""
    return Conv(channels, (size, size), stride, size // 2, use_bias=bias, dtype=dtype, name=name)


# The largest T S of one head that is computed at once (1 GB of float32 scores); beyond it, queries
# are split into blocks. The autoencoder of an upscaler to 2048 x 2048 pixels attends over 512 x 512
# latents, which would be 275 GB of scores.
SCORES_AT_ONCE = 2**28


def attend(q: jax.Array, k: jax.Array, v: jax.Array, causal: bool = False) -> jax.Array:
    """Computes softmax attention of q [B, T, h, D/h] on k and v [B, S, h, D/h]: [B, T, h, D/h].

    Scores are float32. If `causal`, query t sees only the keys up to t.
    """
    fused = "cudnn" if cudnn_can(q.dtype, q.shape[-1]) else None
    block = max(1, SCORES_AT_ONCE // k.shape[1])
    if fused or causal or q.shape[1] <= block:
        return jax.nn.dot_product_attention(q, k, v, is_causal=causal, implementation=fused)
    batch, length, *heads = q.shape
    padded = jnp.pad(q, ((0, 0), (0, -length % block), (0, 0), (0, 0)))
    blocks = jnp.moveaxis(padded.reshape(batch, -1, block, *heads), 1, 0)
    out = jax.lax.map(lambda queries: jax.nn.dot_product_attention(queries, k, v), blocks)
    return jnp.moveaxis(out, 0, 1).reshape(batch, -1, *heads)[:, :length]


def cudnn_can(dtype: DTypeLike, head_size: int) -> bool:
    """Returns whether cuDNN has a fused kernel; without one, all scores are written to memory.

    It needs half precision, an Ampere GPU or later, and a head size divisible by 8 of at most 128,
    or 256 from Hopper on (jax.nn.dot_product_attention).
    """
    if jax.default_backend() != "gpu" or dtype not in (jnp.bfloat16, jnp.float16):
        return False
    try:
        generation = float(getattr(jax.devices()[0], "compute_capability", "0"))
    except ValueError:  # AMD's GPUs have names instead, and no cuDNN
        return False
    largest = 0 if generation < 8 else 128 if generation < 9 else 256
    return head_size % 8 == 0 and head_size <= largest


def text_keys(params: dict[str, Any], text_states: jax.Array, dtype: DTypeLike) -> dict[str, Any]:
    """Returns the keys and values of text states [B, T, D] in all attentions to them.

    They are variables of a network with these parameters, in the collection `TEXT`, where
    `Attention` takes them instead of computing them: in a loop, once instead of at every step.
    """
    flat, states = flatten_dict(params), text_states.astype(dtype)
    found = {path: flat[path] for path in flat if path[-2:-1] in (("to_k",), ("to_v",))}
    for path in [path for path in found if "attn1" in path]:
        # To the states themselves, but in blocks with only_cross_attention.
        if len(found[path]) == len(flat[*path[:-2], "to_q", "kernel"]):
            del found[path]
    return unflatten_dict({path[:-1]: states @ x.astype(dtype) for path, x in found.items()})


class Attention(nn.Module):
    """Multi-head attention of states [B, T, D] on context [B, S, D'], dense layers included.

    The context may have R rows for each of the states; so has the result then.
    """

    heads: int
    dtype: DTypeLike
    bias: bool = False  # of the queries, keys and values
    causal: bool = False
    names: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out_0")

    @nn.compact
    def __call__(self, states: jax.Array, context: jax.Array) -> jax.Array:
        width = states.shape[-1]

        def project(inputs, name):
            if (found := self.get_variable(TEXT, name)) is None:
                found = Dense(width, use_bias=self.bias, dtype=self.dtype, name=name)(inputs)
            return found.reshape(*inputs.shape[:2], self.heads, width // self.heads)

        q, k, v = map(project, (states, context, context), self.names[:3])
        out = attend(repeated(q, len(k)), k, v, self.causal).reshape(len(k), -1, width)
        return Dense(width, dtype=self.dtype, name=self.names[3])(out)


class GEGLU(nn.Module):
    """x W times GELU(x V), with one dense layer for both (arXiv 2002.05202), four times as wide."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, states: jax.Array) -> jax.Array:
        states = Dense(8 * states.shape[-1], dtype=self.dtype, name="proj")(states)
        value, gate = jnp.split(states, 2, axis=-1)
        # jax.nn.gelu has erfc(-x) for 1 + erf(x), which takes twice as long; float32 errors are at
        # most 1e-7 |x| in both.
        exact = gate.astype(jnp.float32)
        gelu = exact * (0.5 + 0.5 * jax.lax.erf(exact * math.sqrt(0.5)))
        return value * gelu.astype(self.dtype)


class FeedForward(nn.Module):
    """The transformer's dense block, four times as wide inside."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, states: jax.Array) -> jax.Array:
        inner = GEGLU(self.dtype, name="net_0")(states)
        return Dense(states.shape[-1], dtype=self.dtype, name="net_2")(inner)


class BasicTransformerBlock(nn.Module):
    """Adds self-attention, attention to the text and a dense block, each of normalised states."""

    heads: int
    dtype: DTypeLike
    only_cross_attention: bool = False  # the first attention is on the text, too

    @nn.compact
    def __call__(self, states: jax.Array, text_states: jax.Array) -> jax.Array:
        norm, rows = partial(Norm, 1e-5, self.dtype), len(text_states)
        attn1 = Attention(self.heads, self.dtype, name="attn1")
        attn2 = Attention(self.heads, self.dtype, name="attn2")
        normed = norm(name="norm1")(states)
        attended = attn1(normed, text_states if self.only_cross_attention else normed)
        states = repeated(states, len(attended)) + attended
        attended = attn2(norm(name="norm2")(states), text_states)
        states = repeated(states, rows) + attended
        return states + FeedForward(self.dtype, name="ff")(norm(name="norm3")(states))


class Transformer2DModel(nn.Module):
    """Transformer blocks over the places of a feature map [B, H, W, C], added to it."""

    layers: int
    heads: int
    groups: int
    linear_projection: bool  # dense layers in and out (SD 2.x) instead of 1x1 convolutions
    dtype: DTypeLike
    only_cross_attention: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, text_states: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape

        def project(states, name):
            if self.linear_projection:
                return Dense(channels, dtype=self.dtype, name=name)(states)
            return conv(channels, 1, self.dtype, name)(states)

        states = project(group_norm(self.groups, 1e-6, self.dtype, "norm")(x), "proj_in")
        states = states.reshape(batch, height * width, channels)
        built = (self.heads, self.dtype, self.only_cross_attention)
        for i in range(self.layers):
            block = BasicTransformerBlock(*built, name=f"transformer_blocks_{i}")
            states = block(states, text_states)
        states = project(states.reshape(-1, height, width, channels), "proj_out")
        return repeated(x, len(states)) + states


class ResnetBlock2D(nn.Module):
    """Two normalised 3x3 convolutions, added to the input; time states shift the middle.

    Time states are [B, D], or have fewer rows, which are repeated.
    """

    channels: int
    groups: int
    eps: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, time_states: jax.Array | None = None) -> jax.Array:
        h = nn.silu(group_norm(self.groups, self.eps, self.dtype, "norm1")(x))
        h = conv(self.channels, 3, self.dtype, "conv1")(h)
        if time_states is not None:
            shift = Dense(self.channels, dtype=self.dtype, name="time_emb_proj")
            h = h + repeated(shift(nn.silu(time_states)), len(h))[:, None, None, :]
        h = nn.silu(group_norm(self.groups, self.eps, self.dtype, "norm2")(h))
        h = conv(self.channels, 3, self.dtype, "conv2")(h)
        if x.shape[-1] != self.channels:
            x = conv(self.channels, 1, self.dtype, "conv_shortcut")(x)
        return x + h


class Downsample2D(nn.Module):
    """Halves the size by a 3x3 convolution of stride 2."""

    dtype: DTypeLike
    # ((top, bottom), (left, right)): the UNet pads all sides, the autoencoder bottom and right only
    padding: tuple[tuple[int, int], tuple[int, int]] = ((1, 1), (1, 1))

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return Conv(x.shape[-1], (3, 3), 2, padding=self.padding, dtype=self.dtype, name="conv")(x)


class Upsample2D(nn.Module):
    """Doubles the size by copying each value to 2x2, then applies a 3x3 convolution."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, shape: tuple[int, int] | None = None) -> jax.Array:
        """Upsamples to `shape`: at most twice the height and width, the rest is cut off."""
        height, width = shape or (None, None)
        # For an odd size this equals nearest interpolation to 2n - 1 samples.
        x = upsample_nearest(x, 2)[:, :height, :width]
        return conv(x.shape[-1], 3, self.dtype, "conv")(x)


def timestep_features(
    timesteps: jax.Array, width: int, flip_sin_to_cos: bool, freq_shift: float
) -> jax.Array:
    """Returns sines and cosines of timesteps [B] at `width // 2` frequencies: [B, width].

    The frequencies fall geometrically from 1 to almost 1/10000 (DDPM, arXiv 2006.11239).
    `flip_sin_to_cos` puts the cosines first; `freq_shift` 1 makes the lowest exactly 1/10000.
    """
    half = width // 2
    exponents = jnp.arange(half, dtype=jnp.float32) / (half - freq_shift)
    frequencies = jnp.exp(-math.log(10000) * exponents)
    angles = timesteps.astype(jnp.float32)[:, None] * frequencies[None]
    waves = [jnp.sin(angles), jnp.cos(angles)]
    features = jnp.concatenate(waves[::-1] if flip_sin_to_cos else waves, axis=-1)
    return jnp.pad(features, ((0, 0), (0, width % 2)))


class TimestepEmbedding(nn.Module):
    """Two dense layers from features [B, D'] to time states [B, width].

    `condition` [B, D''], the guidance scale of consistency models, is projected and added first.
    """

    width: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, features: jax.Array, condition: jax.Array | None = None) -> jax.Array:
        features = features.astype(self.dtype)
        if condition is not None:
            project = Dense(features.shape[-1], use_bias=False, dtype=self.dtype, name="cond_proj")
            features = features + project(condition)
        states = nn.silu(Dense(self.width, dtype=self.dtype, name="linear_1")(features))
        return Dense(self.width, dtype=self.dtype, name="linear_2")(states)
