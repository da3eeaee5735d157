"""CLIP (arXiv 2103.00020): the text encoder, as Stable Diffusion uses it, and the whole.

SD 2.x conditions on the next-to-last layer of a 24-layer OpenCLIP. Its checkpoints hold only the
first 23 layers, so it needs no special case here. SDXL takes states without the last layer
from two encoders, and from the second the projected state of the prompt's end as well. A whole CLIP
scores pictures against prompts.
Shapes: B prompts or pictures, T tokens (of pictures: patches), D width, E size of an embedding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from flax import linen as nn

from pot_jax.checks import checked
from pot_jax.models.config import Depth, ModelConfig, Positive, Size
from pot_jax.models.layers import Attention, Configured, Conv, Dense, Norm

ACTIVATIONS = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),  # with which OpenAI trained CLIP
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}
_NAMES = ("q_proj", "k_proj", "v_proj", "out_proj")
_INIT = nn.initializers.normal(0.02)  # transformers' initializer_range, for training from scratch


@dataclass(frozen=True)
class CLIPEncoderConfig(ModelConfig):
    """What the configs of both towers hold."""

    # transformers writes some forty keys of generation and training into every config.
    REFUSE_UNKNOWN: ClassVar[bool] = False
    CAUSAL: ClassVar[bool]  # whether a token sees only itself and those before

    hidden_size: Size = 768
    intermediate_size: Size = 3072
    num_hidden_layers: Depth = 12
    num_attention_heads: Size = 12
    hidden_act: str = "quick_gelu"
    layer_norm_eps: Positive = 1e-5

    def __post_init__(self):
        super().__post_init__()
        self.require("hidden_act", self.hidden_act in ACTIVATIONS, f"one of {list(ACTIVATIONS)}")
        divides = self.hidden_size % self.num_attention_heads == 0
        expected = f"a divisor of hidden_size, {self.hidden_size}"
        self.require("num_attention_heads", divides, expected)


@dataclass(frozen=True)
class CLIPTextConfig(CLIPEncoderConfig):
    """The text encoder's `config.json`; the defaults are SD 1.x's."""

    CLASS_NAME: ClassVar[str] = "CLIPTextModel"
    CAUSAL: ClassVar[bool] = True

    vocab_size: Size = 49408
    projection_dim: Size | None = 768  # of the pooled output; a whole CLIP states it once for both
    max_position_embeddings: Size = 77
    pad_token_id: int | None = 1
    bos_token_id: int | None = 49406
    eos_token_id: int | None = 49407

    def to_json(self) -> dict[str, Any]:
        """Returns the content of a `config.json` from which transformers builds the same model."""
        fields = super().to_json()
        kind = {"architectures": [fields.pop("_class_name")], "model_type": "clip_text_model"}
        return kind | fields


@dataclass(frozen=True)
class CLIPTextProjectionConfig(CLIPTextConfig):
    """The `config.json` of a text encoder with its projection."""

    CLASS_NAME: ClassVar[str] = "CLIPTextModelWithProjection"

    def __post_init__(self):
        super().__post_init__()
        self.require("projection_dim", self.projection_dim is not None, "a number")


@dataclass(frozen=True)
class CLIPVisionConfig(CLIPEncoderConfig):
    """The vision tower's part of a whole CLIP's `config.json`; the defaults are ViT-B/32's."""

    CLASS_NAME: ClassVar[str] = "CLIPVisionModel"
    CAUSAL: ClassVar[bool] = False
    FIXED: ClassVar[Mapping[str, tuple]] = {"num_channels": (3,)}

    image_size: Size = 224
    patch_size: Size = 32


@dataclass(frozen=True)
class CLIPConfig(ModelConfig):
    """A whole CLIP's `config.json`; what it leaves out is ViT-B/32's."""

    CLASS_NAME: ClassVar[str] = "CLIPModel"
    REFUSE_UNKNOWN: ClassVar[bool] = False

    text_config: CLIPTextConfig
    vision_config: CLIPVisionConfig
    projection_dim: Size = 512  # E

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> Self:
        """Reads the content of a `config.json`; errors are those of `ModelConfig.from_json`."""

        def tower(name, kind, **usual):
            stated = settings.get(f"{name}_dict") or settings.get(name) or {}  # the former is older
            return {name: kind.from_json(usual | checked(stated, dict, f"CLIPModel's {name}"))}

        small = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
        towers = tower("text_config", CLIPTextConfig, **small)
        towers |= tower("vision_config", CLIPVisionConfig)
        return super().from_json({**settings, **towers})


class CLIPMLP(Configured):
    """The dense block, [B, T, D] -> [B, T, D]."""

    @nn.compact
    def __call__(self, states: jax.Array) -> jax.Array:
        states = Dense(self.config.intermediate_size, dtype=self.dtype, name="fc1")(states)
        states = ACTIVATIONS[self.config.hidden_act](states)
        return Dense(self.config.hidden_size, dtype=self.dtype, name="fc2")(states)


class CLIPEncoderLayer(Configured):
    """Adds attention and a dense block, each of normalised states [B, T, D]."""

    @nn.compact
    def __call__(self, states: jax.Array) -> jax.Array:
        norm = partial(Norm, self.config.layer_norm_eps, self.dtype)
        normed = norm(name="layer_norm1")(states)
        built = (self.config.num_attention_heads, self.dtype, True, self.config.CAUSAL, _NAMES)
        states = states + Attention(*built, name="self_attn")(normed, normed)
        normed = norm(name="layer_norm2")(states)
        return states + CLIPMLP(self.config, self.dtype, name="mlp")(normed)


class CLIPEncoder(Configured):
    """All layers, one after the other: states [B, T, D] -> those and the ones after each layer."""

    @nn.compact
    def __call__(self, states: jax.Array) -> list[jax.Array]:
        every = [states]
        for i in range(self.config.num_hidden_layers):
            every.append(CLIPEncoderLayer(self.config, self.dtype, name=f"layers_{i}")(every[-1]))
        return every


def _table(part: Configured, rows: int, name: str) -> nn.Embed:
    """Builds a table of `rows` embeddings of a part's width."""
    width = part.config.hidden_size
    return nn.Embed(rows, width, dtype=part.dtype, embedding_init=_INIT, name=name)


class CLIPTextEmbeddings(Configured):
    """Token ids [B, T] -> embeddings of the tokens plus those of their positions, [B, T, D]."""

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        tokens = _table(self, self.config.vocab_size, "token_embedding")(ids)
        positions = _table(self, self.config.max_position_embeddings, "position_embedding")
        return tokens + positions(jnp.arange(ids.shape[1]))[None]


class CLIPTextTransformer(Configured):
    """Token ids [B, T] -> text states [B, T, D], normalised, and those of `CLIPEncoder`."""

    @nn.compact
    def __call__(self, ids: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        most = self.config.max_position_embeddings
        if ids.ndim != 2 or ids.shape[1] > most:
            raise ValueError(f"token ids have shape {ids.shape}, expected [B, T] with T <= {most}")
        states = CLIPTextEmbeddings(self.config, self.dtype, name="embeddings")(ids)
        every = CLIPEncoder(self.config, self.dtype, name="encoder")(states)
        norm = Norm(self.config.layer_norm_eps, self.dtype, name="final_layer_norm")
        return norm(every[-1]), every


class CLIPTextModel(Configured):
    """The text encoder: token ids [B, T] int32 -> text states [B, T, D] float32.

    They are the normalised ones of the last layer or, with `skip`, those before that many of the
    last layers, which are not normalised. Calls raise ValueError if T exceeds the number of the
    model's positions.
    """

    @nn.compact
    def __call__(self, ids: jax.Array, *, skip: int | None = None) -> jax.Array:
        normed, every = CLIPTextTransformer(self.config, self.dtype, name="text_model")(ids)
        return (normed if skip is None else every[-1 - skip]).astype(jnp.float32)

    def example_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shapes of the smallest inputs, by argument, for building the parameters."""
        return {"ids": jax.ShapeDtypeStruct((1, 1), jnp.int32)}


class CLIPTextModelWithProjection(Configured):
    """The text encoder and its projection: token ids -> text states, and pooled [B, E] float32.

    The states are as `CLIPTextModel` gives them; pooled is the projection of the normalised ones of
    the last layer at `ends` [B] int32, the place of each prompt's first end token.
    """

    @nn.compact
    def __call__(
        self, ids: jax.Array, ends: jax.Array, *, skip: int | None = None
    ) -> tuple[jax.Array, jax.Array]:
        normed, every = CLIPTextTransformer(self.config, self.dtype, name="text_model")(ids)
        pooled = jnp.take_along_axis(normed, ends[:, None, None], axis=1)[:, 0]
        width = self.config.projection_dim
        project = Dense(width, use_bias=False, dtype=self.dtype, name="text_projection")
        states = normed if skip is None else every[-1 - skip]
        return states.astype(jnp.float32), project(pooled).astype(jnp.float32)

    def example_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shapes of the smallest inputs, by argument, for building the parameters."""
        shapes = {"ids": (1, 1), "ends": (1,)}
        return {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name, shape in shapes.items()}


class CLIPVisionEmbeddings(Configured):
    """Pictures [B, S, S, 3] -> a class token and patches, plus their positions, [B, T, D]."""

    @nn.compact
    def __call__(self, pictures: jax.Array) -> jax.Array:
        rows, width, patch = len(pictures), self.config.hidden_size, (self.config.patch_size,) * 2
        cut = {"padding": "VALID", "use_bias": False, "dtype": self.dtype}
        patches = Conv(width, patch, patch, **cut, name="patch_embedding")(pictures)
        token = self.param("class_embedding", _INIT, (width,)).astype(self.dtype)
        token = jnp.broadcast_to(token, (rows, 1, width))
        states = jnp.concatenate([token, patches.reshape(rows, -1, width)], axis=1)
        positions = _table(self, states.shape[1], "position_embedding")
        return states + positions(jnp.arange(states.shape[1]))[None]


class CLIPVisionTransformer(Configured):
    """Pictures [B, S, S, 3] -> states of the class token [B, D], normalised."""

    @nn.compact
    def __call__(self, pictures: jax.Array) -> jax.Array:
        norm = partial(Norm, self.config.layer_norm_eps, self.dtype)
        states = CLIPVisionEmbeddings(self.config, self.dtype, name="embeddings")(pictures)
        states = norm(name="pre_layrnorm")(states)  # the checkpoints' spelling
        states = CLIPEncoder(self.config, self.dtype, name="encoder")(states)[-1]
        return norm(name="post_layernorm")(states[:, 0])


class CLIPModel(Configured):
    """Token ids [A, T] int32 and pictures [B, S, S, 3], normalised -> what a whole CLIP sees.

    That is embeddings [A, E] and [B, E], of length 1, and logits [A, B], their cosines times
    exp(logit_scale), float32. `ends` [A] int32 are the places of the prompts' first end tokens.
    """

    @nn.compact
    def __call__(
        self, ids: jax.Array, ends: jax.Array, pictures: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        project = partial(Dense, self.config.projection_dim, use_bias=False, dtype=self.dtype)

        def embedded(states, name):
            values = project(name=name)(states).astype(jnp.float32)
            return values / jnp.linalg.norm(values, axis=-1, keepdims=True)

        states, _ = CLIPTextTransformer(self.config.text_config, self.dtype, name="text_model")(ids)
        states = jnp.take_along_axis(states, ends[:, None, None], axis=1)[:, 0]
        tower = CLIPVisionTransformer(self.config.vision_config, self.dtype, name="vision_model")
        texts = embedded(states, "text_projection")
        images = embedded(tower(pictures), "visual_projection")
        scale = self.param("logit_scale", nn.initializers.constant(2.6592), ())  # transformers'
        return texts, images, jnp.exp(scale.astype(jnp.float32)) * (texts @ images.T)

    def example_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shapes of the smallest inputs, by argument, for building the parameters."""
        side = self.config.vision_config.image_size
        ids, ends = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((1, 1), (1,)))
        pictures = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        return {"ids": ids, "ends": ends, "pictures": pictures}
