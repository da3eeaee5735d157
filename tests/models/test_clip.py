import jax
import jax.numpy as jnp
import numpy as np
import pytest
from initial_params import initial_params

from pot_jax.errors import UserError
from pot_jax.models.clip import ACTIVATIONS, CLIPTextConfig, CLIPTextModel
from pot_jax.weights.keys import abstract_params

TINY = CLIPTextConfig(
    vocab_size=30,
    hidden_size=8,
    intermediate_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=6,
)
MODEL = CLIPTextModel(TINY)
encode = jax.jit(MODEL.apply)
IDS = jnp.array([[28, 3, 4, 5, 29, 29], [28, 7, 29, 29, 29, 29]], jnp.int32)


@pytest.fixture(scope="module")
def variables():
    return {"params": initial_params(abstract_params(MODEL), np.random.default_rng(0))}


def test_a_token_sees_only_itself_and_those_before(variables):
    states = encode(variables, IDS)
    assert (states.shape, states.dtype) == ((2, 6, 8), jnp.float32)
    changed = encode(variables, IDS.at[0, 3].set(11))
    np.testing.assert_allclose(changed[0, :3], states[0, :3], atol=1e-6)
    np.testing.assert_allclose(changed[1], states[1], atol=1e-6)
    assert np.all(np.max(np.abs(changed[0, 3:] - states[0, 3:]), axis=-1) > 1e-3)


def test_jit_equals_eager(variables):
    np.testing.assert_allclose(encode(variables, IDS), MODEL.apply(variables, IDS), atol=1e-5)


def test_a_shorter_prompt_has_the_states_of_its_beginning(variables):
    np.testing.assert_allclose(
        encode(variables, IDS[:, :4]), encode(variables, IDS)[:, :4], atol=1e-6
    )


def test_the_states_are_normalised(variables):
    states = encode(variables, IDS)
    np.testing.assert_allclose(np.mean(states, axis=-1), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(states, axis=-1), 1, atol=1e-3)


@pytest.mark.loose_promotion("flax and jax promote half precision in norms and attention")
def test_bfloat16_is_float32_to_its_own_precision(variables):
    rough = jax.jit(CLIPTextModel(TINY, jnp.bfloat16).apply)(variables, IDS)
    assert rough.dtype == jnp.float32
    np.testing.assert_allclose(rough, encode(variables, IDS), atol=0.1)


def test_quick_gelu_is_near_gelu():
    x = jnp.linspace(-6, 6, 200)
    # Their largest difference is 0.0204 (Hendrycks and Gimpel, arXiv 1606.08415).
    np.testing.assert_allclose(ACTIVATIONS["quick_gelu"](x), ACTIVATIONS["gelu"](x), atol=0.021)


def test_too_many_tokens_are_refused(variables):
    with pytest.raises(ValueError, match=r"shape \(2, 7\).*T <= 6"):
        MODEL.apply(variables, jnp.zeros((2, 7), jnp.int32))


def test_a_written_config_is_read_back_and_transformers_own_keys_are_ignored():
    assert CLIPTextConfig.from_json(TINY.to_json()) == TINY
    extra = {"torch_dtype": "float32", "attention_dropout": 0.0, "eos_token_id": 2}
    assert CLIPTextConfig.from_json(TINY.to_json() | extra).eos_token_id == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act is 'relu', expected one of"),
        ({"num_attention_heads": 3}, "num_attention_heads is 3, expected a divisor"),
        ({"vocab_size": -1}, "vocab_size is -1"),
        ({"layer_norm_eps": None}, "layer_norm_eps is None, expected a number"),
    ],
)
def test_configs_that_do_not_fit_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        CLIPTextConfig.from_json(TINY.to_json() | change)
