import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from initial_params import initial_params

from pot_jax.errors import UserError
from pot_jax.models.layers import text_keys
from pot_jax.models.unet import UNet2DConditionModel, UNetConfig
from pot_jax.weights.keys import abstract_params

TINY = UNetConfig(
    block_out_channels=(8, 16),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("UpBlock2D", "UpBlock2D"),  # without text: half the compiling
    layers_per_block=1,
    norm_num_groups=4,
    cross_attention_dim=6,
    attention_head_dim=2,
)
MODEL = UNet2DConditionModel(TINY)
predict = jax.jit(MODEL.apply)
in_half_precision = pytest.mark.loose_promotion(
    "flax and jax promote half precision in norms and attention"
)


def inputs(size=(8, 4)):
    rng = np.random.default_rng(1)
    return {
        "latents": jnp.asarray(rng.normal(size=(3, *size, 4)), jnp.float32),
        "timesteps": jnp.array([10.0, 500.5, 999.0]),
        "text_states": jnp.asarray(rng.normal(size=(3, 5, 6)), jnp.float32),
    }


@pytest.fixture(scope="module")
def variables():
    return {"params": initial_params(abstract_params(MODEL), np.random.default_rng(0))}


@in_half_precision
def test_bfloat16_is_float32_to_its_own_precision(variables):
    exact = predict(variables, **inputs())
    halved = UNet2DConditionModel(TINY, jnp.bfloat16)
    rough = jax.jit(halved.apply)(variables, **inputs())
    assert rough.dtype == jnp.float32
    # bfloat16 has 8 significant bits; some thirty roundings in a row lie between.
    np.testing.assert_allclose(rough, exact, atol=0.1 * float(jnp.std(exact)))


def test_nothing_is_promoted_silently(variables):
    out = jax.eval_shape(MODEL.apply, variables, **inputs())
    assert (out.shape, out.dtype) == ((3, 8, 4, 4), jnp.float32)


@in_half_precision
def test_parameters_are_float32_whatever_the_dtype():
    halved = UNet2DConditionModel(TINY, jnp.bfloat16)
    params = jax.eval_shape(halved.init, jax.random.key(0), **inputs())
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_batch_rows_do_not_see_each_other(variables):
    given = inputs()
    whole = predict(variables, **given)
    for i in range(3):
        # The others are replaced by something else; batch row i must not notice.
        mixed = jax.tree.map(lambda a, i=i: jnp.zeros_like(a).at[i].set(a[i]), given)
        np.testing.assert_allclose(predict(variables, **mixed)[i], whole[i], atol=1e-5)


def test_one_timestep_serves_the_whole_batch(variables):
    each = predict(variables, **inputs() | {"timesteps": jnp.full(3, 7.0)})
    one = predict(variables, **inputs() | {"timesteps": jnp.float32(7)})
    np.testing.assert_allclose(one, each, atol=1e-6)


@pytest.mark.parametrize("argument", ["latents", "timesteps", "text_states"])
def test_the_prediction_depends_on_every_input(variables, argument):
    given = inputs()
    # Not a constant: the normalisations would take it out of the latents again.
    changed = predict(variables, **given | {argument: given[argument] * 0.5})
    assert float(jnp.max(jnp.abs(changed - predict(variables, **given)))) > 1e-3


def test_sizes_that_do_not_halve_evenly_are_kept(variables):
    assert jax.eval_shape(MODEL.apply, variables, **inputs((7, 5))).shape == (3, 7, 5, 4)


def test_gradients_reach_every_parameter_and_are_finite(variables):
    def loss(params):
        return jnp.mean((MODEL.apply({"params": params}, **inputs()) - 1) ** 2)

    gradients = jax.jit(jax.grad(loss))(variables["params"])
    for path, gradient in jax.tree.leaves_with_path(gradients):
        assert np.all(np.isfinite(gradient)), path
        assert np.any(gradient != 0), path


@pytest.mark.parametrize(
    "change",
    [
        {"num_class_embeds": 10},
        {"class_embed_type": "timestep"},
        {"time_cond_proj_dim": 3},
        {"only_cross_attention": (False, True), "use_linear_projection": True},
        {"layers_per_block": (1, 2), "transformer_layers_per_block": (2, 1)},
        {"up_block_types": ("CrossAttnUpBlock2D",) * 2},
        {"sample_size": (8, 16)},
    ],
)
def test_variants_build_from_their_written_configs(change):
    model = UNet2DConditionModel(dataclasses.replace(TINY, **change))
    given = model.example_inputs()
    out, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), **given)
    assert out.shape == given["latents"].shape
    assert UNetConfig.from_json(model.config.to_json()) == model.config


def test_wrong_inputs_are_refused_with_the_shapes(variables):
    given = inputs()
    with pytest.raises(ValueError, match=r"latents have shape \(3, 8, 4, 3\).*\[B, H, W, 4\]"):
        MODEL.apply(variables, **given | {"latents": given["latents"][..., :3]})
    with pytest.raises(ValueError, match=r"text states have shape \(1, 5, 6\).*\[3, T, 6\]"):
        MODEL.apply(variables, **given | {"text_states": given["text_states"][:1]})
    with pytest.raises(ValueError, match="does not know class_labels"):
        MODEL.apply(variables, **given, class_labels=jnp.zeros(3, jnp.int32))
    labelled = UNet2DConditionModel(dataclasses.replace(TINY, num_class_embeds=4))
    with pytest.raises(ValueError, match="needs class_labels"):
        labelled.apply(variables, **given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"act_fn": "gelu"}, "act_fn is 'gelu', expected one of .*silu"),
        ({"addition_embed_type": "text"}, "addition_embed_type is 'text'"),
        ({"class_embed_type": "projection"}, "class_embed_type is 'projection'"),
        ({"down_block_types": ["AttnDownBlock2D", "DownBlock2D"]}, "'AttnDownBlock2D"),
        ({"down_block_types": ["DownBlock2D"]}, "down_block_types"),
        ({"block_out_channels": [8, 18]}, "multiples of norm_num_groups, 4"),
        ({"block_out_channels": [8, 16, 16]}, "expected 3 of"),
        ({"block_out_channels": 8}, "block_out_channels is 8, expected a list"),
        ({"block_out_channels": [8, 10**9]}, "whole number from 1 to"),
        ({"block_out_channels": []}, r"block_out_channels is \(\), expected a list"),
        ({"norm_eps": 10**400}, "norm_eps is 1000+.*, expected a number"),
        ({"layers_per_block": 0}, "layers_per_block is 0"),
        ({"layers_per_block": [1, 1, 1]}, "one value or 2"),
        ({"norm_eps": "1e-5"}, "norm_eps is '1e-5', expected a number"),
        ({"in_channels": True}, "in_channels is True"),
        ({"in_channels": None}, "in_channels is None"),
        ({"use_linear_projection": "yes"}, "use_linear_projection is 'yes', expected true or"),
        ({"class_embed_type": {}}, "class_embed_type is {}"),
        ({"a_setting_of_the_future": 3}, "does not know a_setting_of_the_future"),
    ],
)
def test_configs_that_do_not_fit_are_refused(change, message):
    with pytest.raises(UserError, match=message) as refusal:
        UNetConfig.from_json(TINY.to_json() | change)
    assert "\n" not in str(refusal.value)


def test_a_whole_number_serves_where_a_number_is_expected():
    config = UNetConfig.from_json(TINY.to_json() | {"freq_shift": 1})
    assert type(config.freq_shift) is float
    assert config == dataclasses.replace(TINY, freq_shift=1.0)


def test_private_unused_and_empty_keys_are_ignored():
    extra = {"_diffusers_version": "0.42.0", "dropout": 0.1, "a_setting_of_the_future": None}
    assert UNetConfig.from_json(TINY.to_json() | extra) == TINY


SHARING = {
    "begins_with_text": {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D")},
    "begins_without": {},
    "only_cross_attention": {
        "down_block_types": ("CrossAttnDownBlock2D",) * 2,
        "only_cross_attention": (True, False),
    },
    "classes": {"num_class_embeds": 10},
}


@pytest.mark.parametrize("change", SHARING.values(), ids=SHARING.keys())
def test_rows_that_differ_in_text_alone_share_what_comes_before_it(change):
    model = UNet2DConditionModel(dataclasses.replace(TINY, **change))
    params = initial_params(abstract_params(model), np.random.default_rng(0))
    given = inputs() | {"timesteps": jnp.float32(500)}
    given["text_states"] = jnp.asarray(np.random.default_rng(2).normal(size=(6, 5, 6)), jnp.float32)
    if "num_class_embeds" in change:
        given["class_labels"] = jnp.array([1, 5, 7])
    twice = {name: jnp.repeat(given[name], 2, 0) for name in given.keys() - {"timesteps"}}
    twice |= {name: given[name] for name in ("timesteps", "text_states")}
    (shared, fewer), (apart, all_flops) = (
        (program({"params": params}, **rows), program.cost_analysis()["flops"])
        for rows in (given, twice)
        for program in [jax.jit(model.apply).lower({"params": params}, **rows).compile()]
    )
    np.testing.assert_allclose(shared, apart, atol=1e-5)
    assert float(jnp.max(jnp.abs(shared[0] - shared[1]))) > 1e-3
    assert fewer < 0.97 * all_flops


@pytest.mark.parametrize("change", SHARING.values(), ids=SHARING.keys())
def test_text_keys_replace_all_that_is_computed_from_text_states(change):
    model = UNet2DConditionModel(dataclasses.replace(TINY, **change))
    params = initial_params(abstract_params(model), np.random.default_rng(0))
    given = inputs()
    if "num_class_embeds" in change:
        given["class_labels"] = jnp.array([1, 5, 7])
    expected = jax.jit(model.apply)({"params": params}, **given)
    keys = text_keys(params, given["text_states"], jnp.float32)
    variables = {"params": params, "text": keys}
    ignored = given | {"text_states": jnp.full_like(given["text_states"], jnp.nan)}
    np.testing.assert_array_equal(jax.jit(model.apply)(variables, **ignored), expected)
