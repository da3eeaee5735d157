"""LoRA files of random values for layers of the tiny model, in kohya's and PEFT's spelling."""

import numpy as np
from safetensors.numpy import save_file

# Layers of the tiny model as torch names them, and the shapes of their weights there.
DENSE = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
OUT = "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0"
PROJECTION = "up_blocks.0.attentions.1.proj_in"
CONV = "down_blocks.0.resnets.0.conv1"
STRIDED = "down_blocks.0.downsamplers.0.conv"
TEXT = "text_model.encoder.layers.1.self_attn.q_proj"
MLP = "text_model.encoder.layers.0.mlp.fc1"
SHAPES = {
    DENSE: (32, 32),
    OUT: (32, 32),
    PROJECTION: (32, 32, 1, 1),
    CONV: (16, 16, 3, 3),
    STRIDED: (16, 16, 3, 3),
    TEXT: (16, 16),
    MLP: (32, 16),
}


def parts(layer, rank=3, alpha=2.0, mid=False, seed=0, dtype=np.float32):
    """Random tensors of one layer, by part."""
    rng = np.random.default_rng((seed, *layer.encode()))
    outputs, inputs, *space = SHAPES[layer]
    ones = [1] * len(space)
    shapes = {"down": (rank, inputs, *(ones if mid else space)), "up": (outputs, rank, *ones)}
    if mid:
        shapes["mid"] = (rank, rank, *space)
    tensors = {part: rng.normal(size=shape).astype(dtype) for part, shape in shapes.items()}
    return tensors if alpha is None else tensors | {"alpha": np.asarray(alpha, dtype)}


def kohya(layer, part):
    owner = "te" if layer.startswith("text_model") else "unet"
    end = "alpha" if part == "alpha" else f"lora_{part}.weight"
    return f"lora_{owner}_{layer.replace('.', '_')}.{end}"


def write(path, layers, spell=kohya, metadata=None):
    """A LoRA file of {layer: parts}."""
    tensors = {spell(layer, part): t for layer, ts in layers.items() for part, t in ts.items()}
    save_file(tensors, path, metadata)
    return path


ENDS = {"down": "A", "up": "B"}  # PEFT's letters


def owner(layer):
    return "text_encoder." if layer.startswith("text_model") else "unet."


def peft(layer, part):
    return f"{owner(layer)}{layer}.lora_{ENDS[part]}.weight"
