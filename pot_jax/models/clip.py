"""The text encoder: CLIP's causal transformer, as SD 1.x (OpenAI) and SD 2.x (OpenCLIP) use it.

SD 2.x conditions on the next-to-last layer of a 24-layer OpenCLIP. Its checkpoints hold only the
first 23 layers, so it needs no special case here.
Shapes: B prompts, T tokens, D width.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from pot_jax.models.config import Depth, ModelConfig, Positive, Size
from pot_jax.models.layers import Attention, Configured, Dense, LayerNorm

ACTIVATIONS = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),  # with which OpenAI trained CLIP
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}
_CAUSAL = {"bias": True, "causal": True, "names": ("q_proj", "k_proj", "v_proj", "out_proj")}


@dataclass(frozen=True)
class CLIPTextConfig(ModelConfig):
    """The text encoder's `config.json`; the defaults are SD 1.x's."""

    CLASS_NAME: ClassVar[str] = "CLIPTextModel"
    # transformers writes some forty keys of generation and training into every config.
    REFUSE_UNKNOWN: ClassVar[bool] = False

    vocab_size: Size = 49408
    hidden_size: Size = 768
    intermediate_size: Size = 3072
    projection_dim: Size | None = 768  # of the pooled output, which is not used here
    num_hidden_layers: Depth = 12
    num_attention_heads: Size = 12
    max_position_embeddings: Size = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: Positive = 1e-5
    pad_token_id: int | None = 1
    bos_token_id: int | None = 49406
    eos_token_id: int | None = 49407

    def __post_init__(self):
        super().__post_init__()
        self.require("hidden_act", self.hidden_act in ACTIVATIONS, f"one of {list(ACTIVATIONS)}")
        divides = self.hidden_size % self.num_attention_heads == 0
        expected = f"a divisor of hidden_size, {self.hidden_size}"
        self.require("num_attention_heads", divides, expected)

    def to_json(self) -> dict[str, Any]:
        """Returns the content of a `config.json` from which transformers builds the same model."""
        fields = super().to_json()
        kind = {"architectures": [fields.pop("_class_name")], "model_type": "clip_text_model"}
        return kind | fields


class CLIPMLP(Configured):
    """The dense block, [B, T, D] -> [B, T, D]."""

    @nn.compact
    def __call__(self, states: jax.Array) -> jax.Array:
        states = Dense(self.config.intermediate_size, dtype=self.dtype, name="fc1")(states)
        states = ACTIVATIONS[self.config.hidden_act](states)
        return Dense(self.config.hidden_size, dtype=self.dtype, name="fc2")(states)


class CLIPEncoderLayer(Configured):
    """Adds causal attention and a dense block, each of normalised states [B, T, D]."""

    @nn.compact
    def __call__(self, states: jax.Array) -> jax.Array:
        eps = self.config.layer_norm_eps
        normed = LayerNorm(eps, self.dtype, name="layer_norm1")(states)
        heads = self.config.num_attention_heads
        attention = Attention(heads, self.dtype, **_CAUSAL, name="self_attn")
        states = states + attention(normed, normed)
        normed = LayerNorm(eps, self.dtype, name="layer_norm2")(states)
        return states + CLIPMLP(self.config, self.dtype, name="mlp")(normed)


class CLIPEncoder(Configured):
    """All layers, one after the other, [B, T, D] -> [B, T, D]."""

    @nn.compact
    def __call__(self, states: jax.Array) -> jax.Array:
        for i in range(self.config.num_hidden_layers):
            states = CLIPEncoderLayer(self.config, self.dtype, name=f"layers_{i}")(states)
        return states


class CLIPTextEmbeddings(Configured):
    """Token ids [B, T] -> embeddings of the tokens plus those of their positions, [B, T, D]."""

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        def table(rows, name):
            # 0.02 is transformers' initializer_range; it matters only for training from scratch.
            width, init = self.config.hidden_size, nn.initializers.normal(0.02)
            return nn.Embed(rows, width, dtype=self.dtype, embedding_init=init, name=name)

        tokens = table(self.config.vocab_size, "token_embedding")(ids)
        positions = table(self.config.max_position_embeddings, "position_embedding")
        return tokens + positions(jnp.arange(ids.shape[1]))[None]


class CLIPTextTransformer(Configured):
    """Token ids [B, T] -> text states [B, T, D], normalised."""

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        states = CLIPTextEmbeddings(self.config, self.dtype, name="embeddings")(ids)
        states = CLIPEncoder(self.config, self.dtype, name="encoder")(states)
        eps = self.config.layer_norm_eps
        return LayerNorm(eps, self.dtype, name="final_layer_norm")(states)


class CLIPTextModel(Configured):
    """The text encoder: token ids [B, T] int32 -> text states [B, T, D] float32.

    Calls raise ValueError if T exceeds the number of the model's positions.
    """

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        most = self.config.max_position_embeddings
        if ids.ndim != 2 or ids.shape[1] > most:
            raise ValueError(f"token ids have shape {ids.shape}, expected [B, T] with T <= {most}")
        states = CLIPTextTransformer(self.config, self.dtype, name="text_model")(ids)
        return states.astype(jnp.float32)

    def example_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shapes of the smallest inputs, by argument, for building the parameters."""
        return {"ids": jax.ShapeDtypeStruct((1, 1), jnp.int32)}
