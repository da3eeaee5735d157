import jax
import jax.numpy as jnp
import numpy as np
from initial_params import initial_params

from pot_jax.models.clip import CLIPTextConfig, CLIPTextModel
from pot_jax.weights.keys import abstract_params

SHAPES = abstract_params(
    CLIPTextModel(
        CLIPTextConfig(
            hidden_size=64,
            intermediate_size=256,
            num_attention_heads=2,
            num_hidden_layers=1,
            vocab_size=400,
        )
    )
)


def test_the_parameters_have_the_shapes_and_sizes_of_a_fresh_network():
    params = initial_params(SHAPES, np.random.default_rng(0))
    assert jax.tree.map(lambda s: (s.shape, s.dtype), SHAPES) == jax.tree.map(
        lambda p: (p.shape, p.dtype), params
    )
    text = params["text_model"]
    layer = text["encoder"]["layers_0"]
    # The deviation of n draws is known to 1 / sqrt(2n): half a percent here.
    for array, deviation in (
        (text["embeddings"]["token_embedding"]["embedding"], 0.02),
        (layer["mlp"]["fc1"]["kernel"], 64**-0.5),
        (layer["mlp"]["fc2"]["kernel"], 256**-0.5),
    ):
        np.testing.assert_allclose(np.std(array), deviation, rtol=0.03)
    assert np.all(layer["mlp"]["fc1"]["bias"] == 0)
    assert np.all(layer["layer_norm1"]["scale"] == 1)


def test_a_convolution_counts_its_window_among_its_inputs():
    kernel = {"kernel": jax.ShapeDtypeStruct((3, 3, 16, 64), jnp.float32)}
    drawn = initial_params({"conv": kernel}, np.random.default_rng(0))["conv"]["kernel"]
    np.testing.assert_allclose(np.std(drawn), 144**-0.5, rtol=0.03)


def test_the_seed_decides():
    first, again, other = (
        initial_params(SHAPES, np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, first, again)))
    kernel = first["text_model"]["encoder"]["layers_0"]["mlp"]["fc1"]["kernel"]
    assert not np.array_equal(
        kernel, other["text_model"]["encoder"]["layers_0"]["mlp"]["fc1"]["kernel"]
    )
