"""Pretraining of the text encoder: classify, from its caption, what a view shows.

Stable Diffusion's text encoder was trained on pictures before its UNet; ours is trained on the
world's labels. Without them it learns late which colour belongs to which object, because a small
object's colour is a small part of the UNet's loss: after 138,000 examples of joint training alone,
the colour of a forest's middle tree was still random.

Symbols: ids [B, T] token ids, states [B, T, D] the text encoder's, k answers of a head.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from pot_jax.models.clip import CLIPTextModel
from pot_jax.training.loop import Loss


def initialise_heads(width: int, classes: dict[str, list[str]]) -> dict[str, Any]:
    """Returns a linear classifier of states [..., width] for each head of `classes`, all zero."""
    return {
        head: {"kernel": jnp.zeros((width, len(names))), "bias": jnp.zeros(len(names))}
        for head, names in classes.items()
    }


def log_likelihood(logits: jax.Array, numbers: jax.Array) -> jax.Array:
    """Returns log-probabilities of the right answers: [..., k], [...] -> [...]; 0 for answer -1."""
    answers = jnp.maximum(numbers, 0)[..., None]
    chosen = jnp.take_along_axis(nn.log_softmax(logits), answers, axis=-1)[..., 0]
    return chosen * (numbers >= 0).astype(chosen.dtype)


def make_loss(module: CLIPTextModel) -> Loss:
    """Returns the cross entropy of all heads over a batch {"ids": [B, T], "numbers": {head: [B]}}.

    params: {"text_encoder": ..., "heads": `initialise_heads`}. Every head classifies the caption's
    end and all the padding after it: these states have seen the whole caption, and the UNet's
    attention finds them at the same places whatever the caption's length.
    """

    def loss(params, batch, key):
        states = module.apply({"params": params["text_encoder"]}, batch["ids"])
        ended = (batch["ids"] == module.config.eos_token_id).astype(jnp.float32)
        ended /= jnp.maximum(ended.sum(1, keepdims=True), 1)
        total, right, asked = 0.0, 0, 0
        for head, numbers in batch["numbers"].items():
            layer = params["heads"][head]
            logits = states @ layer["kernel"] + layer["bias"][None, None]
            everywhere = jnp.broadcast_to(numbers[:, None], ended.shape)
            total -= jnp.mean(jnp.sum(log_likelihood(logits, everywhere) * ended, axis=1))
            # At the last place, which is padding or the end itself; -1 is no head's answer.
            right += jnp.sum(jnp.argmax(logits[:, -1], axis=-1) == numbers)
            asked += jnp.sum(numbers >= 0)
        return total, {"accuracy": right / jnp.maximum(asked, 1)}

    return loss
