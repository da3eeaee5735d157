"""Which tensor of a file in the original layout is which tensor of a diffusers folder.

A table maps a prefix of diffusers' name (whole components: a module, or a parameter) to its
replacement in the file; the rest of the name is the same in both.

    down_blocks.1.resnets.0.norm1.weight  ->  input_blocks.4.0.in_layers.0.weight
"""

from collections.abc import Iterable, Mapping

from pot_jax.models.clip import CLIPTextConfig
from pot_jax.models.unet import UNetConfig
from pot_jax.models.vae import AutoencoderKLConfig


def respelled(key: str, table: Mapping[str, str]) -> str:
    """Returns the file's name of diffusers' `key`: its longest prefix in the table is replaced."""
    parts = key.split(".")
    for i in range(len(parts), -1, -1):
        found = table.get(".".join(parts[:i]))
        if found is not None:
            return ".".join([found, *parts[i:]])
    return key


_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def unet_names(config: UNetConfig) -> dict[str, str]:
    """Returns the UNet's modules: diffusers' names -> the file's without its prefix."""
    table = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "class_embedding": "label_emb",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "mid_block.attentions.0": "middle_block.1",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    resnets = {"mid_block.resnets.0": "middle_block.0", "mid_block.resnets.1": "middle_block.2"}

    def layers(ours: str, theirs: str, numbers: Iterable[int]) -> None:
        for layer, number in enumerate(numbers):
            resnets[f"{ours}.resnets.{layer}"] = f"{theirs}.{number}.0"
            table[f"{ours}.attentions.{layer}"] = f"{theirs}.{number}.1"

    counts = config.per_block("layers_per_block")
    first = 1
    for block, count in enumerate(counts):
        layers(f"down_blocks.{block}", "input_blocks", range(first, first + count))
        table[f"down_blocks.{block}.downsamplers.0.conv"] = f"input_blocks.{first + count}.0.op"
        first += count + 1
    first = 0
    for block, (count, kind) in enumerate(zip(counts[::-1], config.up_block_types)):
        layers(f"up_blocks.{block}", "output_blocks", range(first, first + count + 1))
        place = 2 if kind == "CrossAttnUpBlock2D" else 1  # after the ResNet and the transformer
        table[f"up_blocks.{block}.upsamplers.0"] = f"output_blocks.{first + count}.{place}"
        first += count + 1
    for ours, theirs in resnets.items():
        table |= {f"{ours}.{a}": f"{theirs}.{b}" for a, b in _UNET_RESNET.items()}
    return table


_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def autoencoder_names(config: AutoencoderKLConfig) -> dict[str, str]:
    """Returns the autoencoder's modules: diffusers' names -> the file's without its prefix."""
    table = {}
    for side in ("encoder", "decoder"):
        table[f"{side}.conv_norm_out"] = f"{side}.norm_out"
        table[f"{side}.mid_block.resnets.0"] = f"{side}.mid.block_1"
        table[f"{side}.mid_block.resnets.1"] = f"{side}.mid.block_2"
        for ours, theirs in _ATTENTION.items():
            table[f"{side}.mid_block.attentions.0.{ours}"] = f"{side}.mid.attn_1.{theirs}"
    levels = len(config.block_out_channels)
    for level in range(levels):
        # In the file, the decoder's levels, too, are counted from the outermost inwards.
        for ours, theirs, layers, sampler in (
            (f"encoder.down_blocks.{level}", f"encoder.down.{level}", 0, "downsample"),
            (f"decoder.up_blocks.{levels - 1 - level}", f"decoder.up.{level}", 1, "upsample"),
        ):
            table[f"{ours}.{sampler}rs.0"] = f"{theirs}.{sampler}"
            for layer in range(config.layers_per_block + layers):
                resnet, block = f"{ours}.resnets.{layer}", f"{theirs}.block.{layer}"
                table |= {resnet: block, f"{resnet}.conv_shortcut": f"{block}.nin_shortcut"}
    return table


_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
# In this order in OpenCLIP's `in_proj_weight`, whose thirds are called `in_proj_weight.q`, ...
QKV = ("q", "k", "v")


def open_clip_names(config: CLIPTextConfig) -> dict[str, str]:
    """Returns the text encoder's modules: transformers' names -> OpenCLIP's without its prefix."""
    table = {
        "text_model.embeddings.token_embedding": "token_embedding",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.final_layer_norm": "ln_final",
    }
    for layer in range(config.num_hidden_layers):
        ours, theirs = f"text_model.encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        table |= {f"{ours}.{a}": f"{theirs}.{b}" for a, b in _OPEN_CLIP_LAYER.items()}
        for part in QKV:
            for leaf in ("weight", "bias"):
                key = f"{ours}.self_attn.{part}_proj.{leaf}"
                table[key] = f"{theirs}.attn.in_proj_{leaf}.{part}"
    return table
