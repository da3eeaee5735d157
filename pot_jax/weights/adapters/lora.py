"""LoRA files, merged into a model's weights as it is loaded.

A LoRA adds to a layer's weight W a product of low rank (arXiv 2106.09685):

    W' = W + strength * alpha / rank * up @ down

W is [out, in], or [out, in, h, w] for a convolution; down [rank, in] or [rank, in, h, w]; up
[out, rank] or [out, rank, 1, 1]; alpha [], the rank where a file has none. Where there is a `mid`
[rank, rank, h, w], down is [rank, in, 1, 1] and the product up @ mid @ down (LyCORIS calls it CP
decomposition).

Headers are checked before the model is read, every file's, so that all that does not fit is known
at once. Merging goes weight by weight, in float32, and rounds once however many LoRAs there are.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors import safe_open

from pot_jax.errors import UserError, shown
from pot_jax.models.unet import UNetConfig
from pot_jax.weights.adapters.files import LoraFile, lora_files, read_file
from pot_jax.weights.adapters.lora_names import Target, layer_and_part, layer_table, plain
from pot_jax.weights.digests import array_digest
from pot_jax.weights.formats.tensors import FLOATS, Tensor, read_tensor
from pot_jax.weights.problems import listed

# kohya's trainer keeps alpha as the integer it was given.
_NUMBERS = FLOATS | {"I64": np.dtype(np.int64), "I32": np.dtype(np.int32)}
# Relatives that are no sum of a weight and a product, by what is in their keys.
_OTHERS = {
    "dora_scale|lora_magnitude_vector": "a DoRA (weights rescaled after the sum)",
    "hada_w": "a LoHa (Hadamard product)",
    "lokr_": "a LoKr (Kronecker product)",
    r"\boft_": "an OFT (rotation of weights)",
    "on_input": "an IA3 (scales of activations)",
    "lora_te2_|text_encoder_2": "a LoRA for SDXL, which has a second text encoder",
}


class Layer(NamedTuple):
    """What one LoRA adds to one weight: `scale` times the product of its tensors."""

    target: Target
    down: Tensor
    mid: Tensor | None
    up: Tensor
    scale: float  # strength * alpha / rank


class Lora(NamedTuple):
    """One LoRA file, its headers read and checked."""

    file: LoraFile
    layers: list[Layer]


# Reading ----------------------------------------------------------------------------------------


def read_loras(
    loras: Mapping[Any, float] | Sequence[Any], config: UNetConfig, shapes: Mapping[str, Any]
) -> list[Lora]:
    """Reads the headers of LoRA files and finds the weight of each layer.

    Args:
      loras: {path: strength}, or a list of paths or (path, strength).
      config: the UNet's.
      shapes: of the parameters of "unet" and "text_encoder", nested dicts.

    Raises:
      UserError: a file is missing, damaged or of another kind, or has keys, layers or shapes that
        do not fit the model: all of them, of all files, in one message.
    """
    files = lora_files(loras)
    table = layer_table(config, shapes) if files else {}
    found, wrong = [], []
    for file in files:
        tensors, sha256 = read_file(file.path, "LoRA", file.sha256)
        _refuse_others(file, tensors)
        problems: dict[str, list[str]] = defaultdict(list)
        layers = _layers(file, tensors, table, problems)
        if problems:
            wrong.append(f"{shown(file.path)} does not fit the model: {listed(problems)}")
        elif not layers:
            wrong.append(f"{shown(file.path)} holds no layers")
        found.append(Lora(file._replace(sha256=sha256), layers))
    if wrong:
        raise UserError("; ".join(wrong))
    return found


def _refuse_others(file: LoraFile, tensors: Mapping[str, Tensor]) -> None:
    for pattern, what in _OTHERS.items():
        if key := next((key for key in tensors if re.search(pattern, key)), None):
            raise UserError(
                f"{shown(file.path)} is {what}, which is not supported (key {shown(key)}); plain "
                "LoRA and LoCon are"
            )


def _layers(
    file: LoraFile,
    tensors: Mapping[str, Tensor],
    table: Mapping[str, Target],
    problems: dict[str, list[str]],
) -> list[Layer]:
    """The layers of one file; what is wrong with the others is added to the problems."""
    settings = _adapter_settings(file)
    layers = {}
    for name, parts in _grouped(tensors, problems).items():
        target = table.get(plain(name))
        kind = _misfit(parts, target)
        if not kind:
            scale = _alpha_over_rank(name, parts, target.path[0], settings)
            kind = None if math.isfinite(scale) else "layers whose alpha is no usable number"
        if not kind and target.path in layers:
            kind = "layers given twice"
        if kind:
            shapes = [f"{part} {list(tensor.shape)}" for part, tensor in parts.items()]
            wanted = f", for a weight {list(target.entry.stored_shape)}" if target else ""
            problems[kind].append(f"{shown(name)}: {', '.join(shapes)}{wanted}")
            continue
        layers[target.path] = Layer(
            target, parts["down"], parts.get("mid"), parts["up"], file.strength * scale
        )
    return list(layers.values())


def _grouped(
    tensors: Mapping[str, Tensor], problems: dict[str, list[str]]
) -> dict[str, dict[str, Tensor]]:
    """The tensors of each layer by part; layers by their names as spelled in the file."""
    layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in tensors.items():
        name, part = layer_and_part(key) or (None, None)
        if part is None:
            problems["keys of no known spelling"].append(f"{shown(key)} {list(tensor.shape)}")
        elif tensor.dtype not in (_NUMBERS if part == "alpha" else FLOATS):
            kind = f"tensors of a dtype not in {list(FLOATS)}"
            problems[kind].append(f"{shown(key)} {shown(tensor.dtype)}")
        elif part in layers[name]:
            problems["keys given twice"].append(shown(key))
        else:
            layers[name][part] = tensor
    return layers


def _misfit(parts: Mapping[str, Tensor], target: Target | None) -> str | None:
    """What kind of problem a layer is, if it is one."""
    if target is None:
        return "layers that the model lacks"
    if not {"down", "up"} <= parts.keys():
        return "layers without both down and up"
    shape = _product_shape(parts)
    if shape is None or not target.entry.accepts(shape):
        return "misshapen layers"
    return None


def _product_shape(parts: Mapping[str, Tensor]) -> tuple[int, ...] | None:
    """The shape of up @ mid @ down; None where they do not fit each other."""
    down, up = parts["down"].shape, parts["up"].shape
    alpha, mid = parts.get("alpha"), parts.get("mid")
    if len(down) < 2 or len(up) < 2 or down[0] != up[1] or not down[0] or not _point(up):
        return None
    if alpha is not None and math.prod(alpha.shape) != 1:
        return None
    if mid is None:
        return (up[0], *down[1:])
    if len(mid.shape) != 4 or mid.shape[:2] != (down[0],) * 2 or not _point(down):
        return None
    return (up[0], down[1], *mid.shape[2:])


def _point(shape: tuple[int, ...]) -> bool:
    """Whether a shape is that of a dense layer or of a convolution of one pixel."""
    return set(shape[2:]) <= {1}


# alpha / rank -----------------------------------------------------------------------------------


def _adapter_settings(file: LoraFile) -> dict[str, Any]:
    """PEFT's settings as diffusers 0.34 and later keep them in the file's metadata.

    Names begin with their component: "unet.lora_alpha". Empty where a file has none.
    """
    with safe_open(Path(file.path).expanduser(), framework="np") as opened:
        text = (opened.metadata() or {}).get("lora_adapter_metadata")
    try:
        settings = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise UserError(f"{shown(file.path)}: its lora_adapter_metadata is no JSON object")
    return settings


def _alpha_over_rank(
    name: str, parts: Mapping[str, Tensor], component: str, settings: Mapping[str, Any]
) -> float:
    """The tensor alpha over the rank; else what PEFT's settings say; else 1. NaN if unusable."""
    rank = parts["down"].shape[0]
    if "alpha" in parts:
        return float(read_tensor(parts["alpha"], _NUMBERS).reshape(())) / rank
    alpha = settings.get(f"{component}.lora_alpha")
    if alpha is None:
        return 1.0
    patterns = settings.get(f"{component}.alpha_pattern")
    for ending, special in patterns.items() if isinstance(patterns, dict) else ():
        if f".{name}".endswith(f".{ending.removeprefix('^')}"):
            alpha = special
            break
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) < 1e9:
        return math.nan
    # The root is rank-stabilised LoRA (arXiv 2312.03732).
    return alpha / (math.sqrt(rank) if settings.get(f"{component}.use_rslora") else rank)


# Merging ----------------------------------------------------------------------------------------


def merge(loras: Sequence[Lora], params: dict[str, Any], digests: dict[str, str]) -> None:
    """Adds LoRAs to the weights they are for; a strength of 0 leaves every bit as it is.

    Both dicts are changed in place: a new tree would hold each old weight until the last is merged.

    Args:
      loras: from `read_loras` with the shapes of `params`.
      params: nested dict of arrays, component first.
      digests: of each array of `params`, by its path joined by "/".

    Raises:
      UserError: a LoRA's values, or a sum in the weight's own dtype, are not finite.
    """
    by_path = defaultdict(list)
    for lora in loras:
        for layer in lora.layers:
            if layer.scale:
                by_path[layer.target.path].append(layer)
    for path, layers in by_path.items():
        *parents, leaf = path
        owner = params
        for name in parents:
            owner = owner[name]
        merged = _merged(np.asarray(owner[leaf]), layers)
        owner[leaf] = jax.device_put(merged, owner[leaf].sharding)
        digests["/".join(path)] = array_digest(merged)


def _merged(weight: np.ndarray, layers: Sequence[Layer]) -> np.ndarray:
    """A weight with all that is added to it, in its own dtype."""
    total = np.array(weight, np.float32)
    with np.errstate(all="ignore"):  # what is not finite is found below
        for layer in layers:
            total += product(layer)
        merged = total.astype(weight.dtype, copy=False)
    if not np.isfinite(merged).all():
        files = sorted({shown(str(layer.down.file)) for layer in layers})
        raise UserError(
            f"the weight of {shown(layers[0].down.name)} is not finite in {weight.dtype.name} with "
            f"{', '.join(files)}; get the file again, or take a smaller strength or a wider dtype"
        )
    return merged


def product(layer: Layer) -> np.ndarray:
    """What a layer adds to its weight, laid out as the parameter is: [in, out] or [h, w, in, out].

    `down` is itself a weight, of `rank` outputs: laid out as one, it leaves the product in order.
    Adding [out, in, h, w] to the parameter instead takes six times as long.
    """
    entry, rank = layer.target.entry, layer.down.shape[0]
    up = _float32(layer.up).reshape(-1, rank)
    down = _float32(layer.down)
    if layer.mid is not None:
        mid = _float32(layer.mid)
        down = np.einsum("rshw,si->rihw", mid, down.reshape(rank, -1), optimize=True)
    down = entry.to_param(down.reshape(rank, *entry.stored_shape[1:]))
    return np.ascontiguousarray(down) @ (layer.scale * up).T


def _float32(tensor: Tensor) -> np.ndarray:
    return read_tensor(tensor).astype(np.float32)
