"""The table by rule; that it equals diffusers' own names is proved in tests/reference."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pot_jax.models.clip import CLIPTextConfig, CLIPTextModel
from pot_jax.models.unet import UNet2DConditionModel, UNetConfig
from pot_jax.models.vae import AutoencoderKL, AutoencoderKLConfig
from pot_jax.weights.keys import IGNORED, abstract_params, key_table

UNET = UNetConfig(
    block_out_channels=(8, 16),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=1,
    norm_num_groups=4,
    cross_attention_dim=6,
    attention_head_dim=2,
)


def table_of(module):
    return key_table(abstract_params(module))


@pytest.fixture(scope="module")
def unet_table():
    return table_of(UNet2DConditionModel(UNET))


@pytest.mark.parametrize(
    ("path", "key", "stored_shape"),
    [
        ("conv_in/kernel", "conv_in.weight", (8, 4, 3, 3)),
        ("time_embedding/linear_1/kernel", "time_embedding.linear_1.weight", (32, 8)),
        ("time_embedding/linear_2/bias", "time_embedding.linear_2.bias", (32,)),
        (
            "down_blocks_0/resnets_0/norm1/scale",
            "down_blocks.0.resnets.0.norm1.weight",
            (8,),
        ),
        (
            "up_blocks_1/attentions_1/transformer_blocks_0/attn2/to_k/kernel",
            "up_blocks.1.attentions.1.transformer_blocks.0.attn2.to_k.weight",
            (8, 6),
        ),
        (
            "mid_block/attentions_0/transformer_blocks_0/attn1/to_out_0/bias",
            "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.bias",
            (16,),
        ),
        (
            "mid_block/attentions_0/transformer_blocks_0/ff/net_0/proj/kernel",
            "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.weight",
            (128, 16),
        ),
    ],
)
def test_a_path_is_its_key(unet_table, path, key, stored_shape):
    entry = unet_table[tuple(path.split("/"))]
    assert (entry.key, entry.aliases, entry.stored_shape) == (key, (), stored_shape)


def test_a_parameter_of_no_layer_has_its_own_name():
    scalar, vector = jax.ShapeDtypeStruct((), float), jax.ShapeDtypeStruct((5,), float)
    shapes = {"logit_scale": scalar, "vision_model": {"embeddings": {"class_embedding": vector}}}
    found = {entry.key: entry.stored_shape for entry in key_table(shapes).values()}
    assert found == {"logit_scale": (), "vision_model.embeddings.class_embedding": (5,)}


def test_every_parameter_has_a_key_of_its_own(unet_table):
    keys = [key for entry in unet_table.values() for key in (entry.key, *entry.aliases)]
    assert len(keys) == len(set(keys)) == len(unet_table)
    assert not any(IGNORED.fullmatch(key) for key in keys)


def test_a_tensor_is_read_into_its_parameter_and_written_back_without_copies(unet_table):
    shapes = abstract_params(UNet2DConditionModel(UNET))
    flat = {tuple(k.key for k in p): leaf for p, leaf in jax.tree.leaves_with_path(shapes)}
    for path, entry in unet_table.items():
        tensor = np.arange(np.prod(entry.stored_shape)).reshape(entry.stored_shape)
        param = entry.read(tensor)
        assert param.shape == flat[path].shape
        assert np.shares_memory(param, tensor)
        np.testing.assert_array_equal(entry.write(param), tensor)


def test_axes_go_where_they_belong(unet_table):
    convolution = unet_table["conv_in", "kernel"]
    tensor = np.random.default_rng(0).normal(size=convolution.stored_shape)
    assert convolution.read(tensor)[1, 2, 3, 5] == tensor[5, 3, 1, 2]  # HWIO from OIHW
    dense = unet_table["time_embedding", "linear_1", "kernel"]
    tensor = np.random.default_rng(0).normal(size=dense.stored_shape)
    assert dense.read(tensor)[3, 5] == tensor[5, 3]


def test_dense_layers_saved_as_convolutions_load_and_the_reverse():
    path = ("mid_block", "attentions_0", "proj_in", "kernel")
    by_convolution = table_of(UNet2DConditionModel(UNET))[path]
    by_dense = table_of(
        UNet2DConditionModel(dataclasses.replace(UNET, use_linear_projection=True))
    )[path]
    matrix = np.arange(256.0).reshape(16, 16)
    assert by_convolution.stored_shape == (16, 16, 1, 1)
    assert by_dense.stored_shape == (16, 16)
    for tensor in (matrix, matrix[:, :, None, None]):
        assert by_dense.accepts(tensor.shape)
        assert by_convolution.accepts(tensor.shape)
        np.testing.assert_array_equal(by_dense.read(tensor), matrix.T)
        np.testing.assert_array_equal(by_convolution.read(tensor)[0, 0], matrix.T)


def test_other_shapes_are_not_accepted(unet_table):
    convolution = unet_table["conv_in", "kernel"]
    assert not convolution.accepts((8, 4))
    assert not convolution.accepts((3, 3, 4, 8))
    assert not unet_table["conv_in", "bias"].accepts((8, 1))


def test_the_text_encoder_is_read_with_and_without_its_component():
    config = CLIPTextConfig(
        hidden_size=8, intermediate_size=8, num_attention_heads=1, num_hidden_layers=1
    )
    table = table_of(CLIPTextModel(config))
    entry = table["text_model", "encoder", "layers_0", "self_attn", "q_proj", "kernel"]
    assert entry.key == "text_model.encoder.layers.0.self_attn.q_proj.weight"
    assert entry.aliases == ("encoder.layers.0.self_attn.q_proj.weight",)
    embedding = table["text_model", "embeddings", "token_embedding", "embedding"]
    assert embedding.stored_shape == (49408, 8)


def test_autoencoders_are_read_in_both_spellings_of_attention():
    config = AutoencoderKLConfig(
        block_out_channels=(4,),
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        norm_num_groups=2,
    )
    table = table_of(AutoencoderKL(config))
    attention = ("decoder", "mid_block", "attentions_0")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out_0": "proj_attn"}
    for new, name in old.items():
        for leaf, suffix in (("kernel", "weight"), ("bias", "bias")):
            entry = table[*attention, new, leaf]
            new_key = f"decoder.mid_block.attentions.0.{new.replace('_0', '.0')}.{suffix}"
            assert entry.key == new_key
            assert entry.aliases == (f"decoder.mid_block.attentions.0.{name}.{suffix}",)
    assert table[*attention, "group_norm", "scale"].aliases == ()
    assert table["quant_conv", "kernel"].stored_shape == (8, 8, 1, 1)


@pytest.mark.parametrize(
    ("key", "ignored"),
    [
        ("text_model.embeddings.position_ids", True),
        ("embeddings.position_ids", True),
        ("text_projection.weight", True),
        ("vision_model.encoder.layers.0.mlp.fc1.weight", True),
        ("text_model.embeddings.position_embedding.weight", False),
        ("conv_in.weight", False),
        ("decoder.embeddings.position_ids", False),
    ],
)
def test_only_what_no_picture_needs_may_be_left_over(key, ignored):
    assert bool(IGNORED.fullmatch(key)) == ignored


def test_building_the_shapes_computes_nothing():
    shapes = abstract_params(UNet2DConditionModel(UNET, jnp.bfloat16))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(shapes))
