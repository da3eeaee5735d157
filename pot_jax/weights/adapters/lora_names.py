"""How LoRA files name the layers of a Stable Diffusion, and which parameter each name means.

The spellings of one layer:

    lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight   kohya
    lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q.lora_down.weight           kohya, LDM
    unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight           PEFT
    unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora.down.weight        diffusers
    mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight   older

LDM is the original code of Stable Diffusion. Dots and underscores count as the same, so that after
a prefix and a suffix are cut off, all of these are one name. The prefix says the component; text
encoders' are lora_te_, lora_te1_ or text_encoder., and lora_te2_ or text_encoder_2.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pot_jax.models.unet import UNetConfig
from pot_jax.weights.keys import Entry, key_table
from pot_jax.weights.layouts.original_names import respelled, unet_names


class Target(NamedTuple):
    """The weight that a layer is added to."""

    path: tuple[str, ...]  # component first
    entry: Entry


COMPONENTS = ("unet", "text_encoder", "text_encoder_2")  # that LoRAs change
# The suffix after a layer's name; "_lora.down" is that of old diffusers' attention processors.
_SUFFIX = re.compile(
    r"(.+?)(?:[._]lora(?:_linear_layer)?[._](down|up|mid|A|B)(?:\.default)?\.weight|\.(alpha))"
)
_PARTS = {"A": "down", "B": "up"}
_PREFIX = re.compile(
    r"(?:base_model_model_)?(lora_unet_|lora_te[12]?_|unet_|text_encoder_(?:2_)?"
    r"|(?:model_)?diffusion_model_)?"
)
_TEXT_PREFIXES = {"lora_te2_": "text_encoder_2", "text_encoder_2_": "text_encoder_2"}
_TEXT_PREFIXES |= dict.fromkeys(("lora_te_", "lora_te1_", "text_encoder_"), "text_encoder")
# The names of attention's layers in old diffusers, in both networks.
_OLD = {"to_out_0": "to_out"} | {f"{part}_proj": f"to_{part}" for part in ("q", "k", "v", "out")}


def layer_and_part(key: str) -> tuple[str, str] | None:
    """Splits a key into the layer's name and "down", "up", "mid" or "alpha"; None for others."""
    if match := _SUFFIX.fullmatch(key):
        name, part, alpha = match.groups()
        return name, alpha or _PARTS.get(part, part)
    return None


def plain(name: str) -> tuple[str | None, str]:
    """Returns a layer's component, None if it does not say, and its name as in `layer_table`."""
    name = name.replace(".", "_")
    prefix = _PREFIX.match(name)
    component = prefix[1] and _TEXT_PREFIXES.get(prefix[1], "unet")
    return component, name[prefix.end() :].replace("_processor_", "_")


def find(table: Mapping[tuple[str, str], Target], name: str) -> Target | None:
    """Returns what a layer's name in a file means; None if that is nothing, or more than one."""
    component, layer = plain(name)
    keys = [(one, layer) for one in ([component] if component else COMPONENTS)]
    found = [table[key] for key in keys if key in table]
    return found[0] if len(found) == 1 else None


def layer_table(config: UNetConfig, shapes: Mapping[str, Any]) -> dict[tuple[str, str], Target]:
    """Returns every layer that a LoRA can change, by its component and each name.

    Arguments as for `lora.read_loras`.
    """
    table, ldm = {}, unet_names(config)
    for component in (name for name in COMPONENTS if name in shapes):
        for path, entry in key_table(shapes[component]).items():
            if path[-1] != "kernel":  # dense layers and convolutions only
                continue
            target, keys = Target((component, *path), entry), [entry.key, *entry.aliases]
            if component == "unet":
                keys += [respelled(key, ldm) for key in keys]
            for key in keys:
                name = key.removesuffix(".weight").replace(".", "_")
                table[component, name] = target
                for new, old in _OLD.items():
                    if name.endswith(f"_{new}"):
                        table[component, name.removesuffix(new) + old] = target
    return table
