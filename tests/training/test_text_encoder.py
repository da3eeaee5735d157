import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pot_jax.models.clip import CLIPTextConfig, CLIPTextModel
from pot_jax.training import text_encoder

END = 9
MODULE = CLIPTextModel(
    CLIPTextConfig(
        vocab_size=10,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=6,
        eos_token_id=END,
    )
)
CLASSES = {"thing": ["a", "b"], "b.colour": ["red", "blue", "green"]}


@functools.cache
def start():
    encoder = jax.jit(MODULE.init)(jax.random.key(0), jnp.zeros((1, 6), jnp.int32))["params"]
    return {"text_encoder": encoder, "heads": text_encoder.initialise_heads(16, CLASSES)}


def batch():
    """Captions of 1 to 4 tokens: the first says the thing, the last, for a "b", its colour."""
    rng = np.random.default_rng(0)
    ids = np.full((64, 6), END, np.int32)
    thing, colour = rng.integers(2, size=64), rng.integers(3, size=64)
    length = rng.integers(2, 5, size=64)
    ids[:, 0] = thing
    for row, size in enumerate(length):
        ids[row, 1:size] = 7
        ids[row, size - 1] = 2 + colour[row]
    numbers = {"thing": thing, "b.colour": np.where(thing == 1, colour, -1)}
    return {"ids": ids, "numbers": {k: v.astype(np.int32) for k, v in numbers.items()}}


def test_at_first_every_answer_is_as_likely():
    examples = batch()
    value, _ = jax.jit(text_encoder.make_loss(MODULE))(start(), examples, None)
    asked = (examples["numbers"]["b.colour"] >= 0).mean()
    np.testing.assert_allclose(value, np.log(2) + asked * np.log(3), rtol=1e-5)


@pytest.mark.loose_promotion("optax's Adam raises a float to its integer step count")
def test_the_encoder_learns_to_answer_at_the_end_and_behind_it():
    examples, loss = batch(), text_encoder.make_loss(MODULE)
    params, optimizer = start(), optax.adam(1e-2)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        (value, parts), gradients = jax.value_and_grad(loss, has_aux=True)(params, examples, None)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, value, parts["accuracy"]

    for _ in range(150):
        params, state, value, accuracy = step(params, state)
    assert float(accuracy) == 1.0
    assert float(value) < 0.1


def test_a_head_that_does_not_apply_changes_nothing():
    examples, loss = batch(), text_encoder.make_loss(MODULE)
    nothing = np.full(64, -1, np.int32)
    silent = {**examples, "numbers": {**examples["numbers"], "b.colour": nothing}}
    gradients = jax.jit(jax.grad(lambda p: loss(p, silent, None)[0]))(start())
    assert not np.any(gradients["heads"]["b.colour"]["kernel"])
    assert np.any(gradients["heads"]["thing"]["kernel"])
