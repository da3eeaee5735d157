import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pot_jax.errors import UserError
from pot_jax.models.unet import UNet2DConditionModel, UNetConfig

TINY = UNetConfig(
    block_out_channels=(8, 16),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=1,
    norm_num_groups=4,
    cross_attention_dim=6,
    attention_head_dim=2,
)


def inputs(config=TINY, batch=3, size=(8, 4), tokens=5):
    keys = iter(jax.random.split(jax.random.key(1), 4))
    given = {
        "latents": jax.random.normal(next(keys), (batch, *size, config.in_channels)),
        "timesteps": jnp.array([10.0, 500.5, 999.0])[:batch],
        "text_states": jax.random.normal(next(keys), (batch, tokens, config.cross_attention_dim)),
    }
    if config.time_cond_proj_dim is not None:
        given["timestep_cond"] = jax.random.normal(next(keys), (batch, config.time_cond_proj_dim))
    if config.has_classes:
        given["class_labels"] = jnp.arange(batch)
    return given


@pytest.fixture(scope="module")
def variables():
    return UNet2DConditionModel(TINY).init(jax.random.key(0), **inputs())


def test_a_forward_pass_has_the_shape_of_its_latents_and_is_float32(variables, strict_promotion):
    for dtype in (jnp.float32, jnp.bfloat16):
        out = UNet2DConditionModel(TINY, dtype).apply(variables, **inputs())
        assert out.shape == (3, 8, 4, 4)
        assert out.dtype == jnp.float32
        assert np.all(np.isfinite(out))


def test_parameters_are_float32_whatever_the_dtype():
    params = UNet2DConditionModel(TINY, jnp.bfloat16).init(jax.random.key(0), **inputs())
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_bfloat16_is_float32_to_its_own_precision(variables):
    exact = UNet2DConditionModel(TINY).apply(variables, **inputs())
    rough = UNet2DConditionModel(TINY, jnp.bfloat16).apply(variables, **inputs())
    # bfloat16 has 8 significant bits; some thirty roundings in a row lie between.
    np.testing.assert_allclose(rough, exact, atol=0.1 * float(jnp.std(exact)))


def test_jit_equals_eager(variables):
    model = UNet2DConditionModel(TINY)
    eager = model.apply(variables, **inputs())
    jitted = jax.jit(model.apply)(variables, **inputs())
    np.testing.assert_allclose(jitted, eager, atol=1e-5)


def test_pictures_of_a_batch_do_not_see_each_other(variables):
    model = UNet2DConditionModel(TINY)
    whole = model.apply(variables, **inputs())
    for i in range(3):
        alone = model.apply(variables, **{k: v[i : i + 1] for k, v in inputs().items()})
        np.testing.assert_allclose(alone[0], whole[i], atol=1e-5)


def test_one_timestep_serves_the_whole_batch(variables):
    model = UNet2DConditionModel(TINY)
    given = inputs()
    each = model.apply(variables, **given | {"timesteps": jnp.full(3, 7)})
    one = model.apply(variables, **given | {"timesteps": 7})
    np.testing.assert_array_equal(one, each)


@pytest.mark.parametrize("argument", ["latents", "timesteps", "text_states"])
def test_the_prediction_depends_on_every_input(variables, argument):
    model = UNet2DConditionModel(TINY)
    given = inputs()
    changed = model.apply(variables, **given | {argument: given[argument] + 0.5})
    # A picture of random weights moves by far more than rounding when what it is made from moves.
    assert float(jnp.max(jnp.abs(changed - model.apply(variables, **given)))) > 1e-3


def test_sizes_that_do_not_halve_evenly_are_kept(variables):
    out = UNet2DConditionModel(TINY).apply(variables, **inputs(size=(7, 5)))
    assert out.shape == (3, 7, 5, 4)


def test_gradients_reach_every_parameter_and_are_finite(variables):
    def loss(params):
        out = UNet2DConditionModel(TINY).apply({"params": params}, **inputs())
        return jnp.mean((out - 1) ** 2)

    for path, gradient in jax.tree.leaves_with_path(jax.grad(loss)(variables["params"])):
        assert np.all(np.isfinite(gradient)), path
        assert np.any(gradient != 0), path


@pytest.mark.parametrize(
    "change",
    [
        {"num_class_embeds": 10},
        {"class_embed_type": "timestep"},
        {"time_cond_proj_dim": 3},
        {"only_cross_attention": (True, False), "use_linear_projection": True},
        {"layers_per_block": (1, 2), "transformer_layers_per_block": (2, 1)},
        {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2},
    ],
)
def test_variants_build_and_run_on_their_own_example_inputs(change):
    config = dataclasses.replace(TINY, **change)
    model = UNet2DConditionModel(config)
    given = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), model.example_inputs())
    out, variables = model.init_with_output(jax.random.key(0), **given)
    assert out.shape == given["latents"].shape
    assert UNetConfig.from_json(config.to_json()) == config
    assert model.apply(variables, **inputs(config)).shape == (3, 8, 4, 4)


def test_wrong_inputs_are_refused_with_the_shapes(variables):
    model = UNet2DConditionModel(TINY)
    given = inputs()
    with pytest.raises(ValueError, match=r"latents have shape \(3, 8, 4, 3\).*\[B, H, W, 4\]"):
        model.apply(variables, **given | {"latents": given["latents"][..., :3]})
    with pytest.raises(ValueError, match=r"text states have shape \(1, 5, 6\).*\[3, T, 6\]"):
        model.apply(variables, **given | {"text_states": given["text_states"][:1]})
    with pytest.raises(ValueError, match="does not know class_labels"):
        model.apply(variables, **given, class_labels=jnp.zeros(3, jnp.int32))
    labelled = UNet2DConditionModel(dataclasses.replace(TINY, num_class_embeds=4))
    with pytest.raises(ValueError, match="needs class_labels"):
        labelled.init(jax.random.key(0), **given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"act_fn": "gelu"}, "act_fn is 'gelu', expected one of .*silu"),
        ({"addition_embed_type": "text_time"}, "addition_embed_type is 'text_time'"),
        ({"class_embed_type": "projection"}, "class_embed_type is 'projection'"),
        ({"down_block_types": ["AttnDownBlock2D", "DownBlock2D"]}, "AttnDownBlock2D"),
        ({"down_block_types": ["DownBlock2D"]}, "down_block_types"),
        ({"block_out_channels": [8, 18]}, "multiples of norm_num_groups, 4"),
        ({"block_out_channels": [8, 16, 16]}, "expected 3 of"),
        ({"block_out_channels": 8}, "block_out_channels is 8, expected a list"),
        ({"block_out_channels": [8, 10**9]}, "whole number from 1 to"),
        ({"layers_per_block": 0}, "layers_per_block is 0"),
        ({"layers_per_block": [1, 1, 1]}, "one value or 2"),
        ({"norm_eps": "1e-5"}, "norm_eps is '1e-5', expected float"),
        ({"in_channels": True}, "in_channels is True"),
        ({"a_setting_of_the_future": 3}, "a_setting_of_the_future is 3"),
    ],
)
def test_configs_that_do_not_fit_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        UNetConfig.from_json(TINY.to_json() | change)


def test_private_unused_and_empty_keys_are_ignored():
    extra = {"_diffusers_version": "0.42.0", "dropout": 0.1, "a_setting_of_the_future": None}
    assert UNetConfig.from_json(TINY.to_json() | extra) == TINY
