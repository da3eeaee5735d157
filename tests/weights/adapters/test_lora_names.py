"""Every spelling of a layer means that layer; LDM's names are those of its own checkpoints."""

import pytest
from flax.traverse_util import flatten_dict
from lora_files import (
    CONV,
    DENSE,
    ENDS,
    MLP,
    OUT,
    PROJECTION,
    SHAPES,
    STRIDED,
    TEXT,
    kohya,
    owner,
    peft,
)
from tiny_models import UNET

from pot_jax.models.unet import UNetConfig
from pot_jax.weights.adapters.lora_names import find, layer_and_part, layer_table, plain
from pot_jax.weights.layouts.original_names import respelled, unet_names

LDM = {
    DENSE: "input_blocks_3_1_transformer_blocks_0_attn1_to_q",
    OUT: "middle_block_1_transformer_blocks_0_attn2_to_out_0",
    PROJECTION: "output_blocks_1_1_proj_in",
    CONV: "input_blocks_1_0_in_layers_2",
    STRIDED: "input_blocks_2_0_op",
}


def peft_itself(layer, part):
    return f"base_model.model.{layer}.lora_{ENDS[part]}.default.weight"


def diffusers(layer, part):
    infix = "lora_linear_layer" if layer.startswith("text_model") else "lora"
    return f"{owner(layer)}{layer}.{infix}.{part}.weight"


def processor(layer, part):
    old = {"to_out.0": "to_out", "q_proj": "to_q"}
    for new, name in old.items():
        layer = layer.replace(new, name) if layer.endswith(new) else layer
    layer = layer.replace("attn1.", "attn1.processor.").replace("attn2.", "attn2.processor.")
    return f"{owner(layer)}{layer}_lora.{part}.weight"


def without_prefixes(layer, part):
    return processor(layer, part).removeprefix("unet.").replace("text_model.", "")


SPELLINGS = {
    "kohya": (kohya, SHAPES),
    "kohya, LDM": (lambda layer, part: kohya(LDM.get(layer, layer), part), LDM),
    "SDXL's first": (lambda la, part: kohya(la, part).replace("lora_te_", "lora_te1_"), [MLP]),
    "LDM's own": (
        lambda la, part: (
            f"diffusion_model.{LDM[la].replace('_blocks_', '_blocks.')}.lora_{part}.weight"
        ),
        LDM,
    ),
    "PEFT": (peft, SHAPES),
    "PEFT's own": (peft_itself, SHAPES),
    "diffusers": (diffusers, SHAPES),
    "processors": (processor, [DENSE, OUT, TEXT]),
    "without prefixes": (without_prefixes, [DENSE, OUT, TEXT]),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings(model, name):
    spell, layers = SPELLINGS[name]
    table = layer_table(UNET, model.params)
    for layer in layers:
        for part in ("down", "up"):
            key = spell(layer, part)
            spelled, came = layer_and_part(key)
            assert came == part, key
            assert find(table, spelled).entry.key == f"{layer}.weight", key


def test_every_layer_has_its_own_names(model):
    table = layer_table(UNET, model.params)
    by_target = {target.path for target in table.values()}
    kernels = [path for path in flatten_dict(model.params) if path[-1] == "kernel"]
    assert by_target == {path for path in kernels if path[0] != "autoencoder"}
    assert all(plain(name) == (None, name) for _, name in table)


def test_ldm_names_of_stable_diffusion_1():
    names = {
        "conv_in": "input_blocks.0.0",
        "down_blocks.0.resnets.0.conv1": "input_blocks.1.0.in_layers.2",
        "down_blocks.0.downsamplers.0.conv": "input_blocks.3.0.op",
        "down_blocks.1.attentions.0.proj_in": "input_blocks.4.1.proj_in",
        "down_blocks.1.resnets.0.conv_shortcut": "input_blocks.4.0.skip_connection",
        "down_blocks.3.resnets.1.conv2": "input_blocks.11.0.out_layers.3",
        "mid_block.resnets.1.time_emb_proj": "middle_block.2.emb_layers.1",
        "up_blocks.0.upsamplers.0.conv": "output_blocks.2.1.conv",
        "up_blocks.1.upsamplers.0.conv": "output_blocks.5.2.conv",
        "up_blocks.3.attentions.2.proj_out": "output_blocks.11.1.proj_out",
        "time_embedding.linear_2": "time_embed.2",
        "conv_out": "out.2",
    }
    table = unet_names(UNetConfig(cross_attention_dim=768))
    assert {name: respelled(name, table) for name in names} == names
