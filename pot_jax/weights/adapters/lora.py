"""LoRA files, merged into a model's weights as it is loaded.

A LoRA adds to a layer's weight W a product of low rank (arXiv 2106.09685):

    W' = W + strength * alpha / rank * up @ down

W is [out, in], or [out, in, h, w] for a convolution; down is [rank, in] or [rank, in, h, w]; up is
[out, rank] or [out, rank, 1, 1]. If there is a `mid` [rank, rank, h, w], down is [rank, in, 1, 1],
the product up @ mid @ down (CP in LyCORIS). alpha / rank is stated by

    alpha tensors            in the file, [], one a layer (kohya)
    lora_adapter_metadata    PEFT's settings in the file's metadata (diffusers 0.34 and later)
    adapter_config.json      PEFT's settings beside the file
    ss_network_alpha, _dim   kohya's settings in the file's metadata, for most layers

Where several places speak of a layer they must agree; where none does, alpha is the rank. Each
weight is merged in float32 and rounded once, however many LoRAs there are.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pot_jax.config import LoraSettings
from pot_jax.errors import UserError, listed, shown
from pot_jax.models.unet import UNetConfig
from pot_jax.weights.adapters.files import given_files
from pot_jax.weights.adapters.lora_names import (
    COMPONENTS,
    Target,
    find,
    layer_and_part,
    layer_table,
    plain,
)
from pot_jax.weights.formats.kinds import json_object
from pot_jax.weights.formats.safetensors import FLOATS, Tensor, read_metadata, read_tensor
from pot_jax.weights.layouts.stated import agreed, metadata_statements
from pot_jax.weights.parameters import Loaded, change_param

# kohya's trainer saves alpha as the integer it was given.
_NUMBERS = FLOATS | {"I64": np.dtype(np.int64), "I32": np.dtype(np.int32)}
# Patterns in the keys of adapters that are not the sum of a weight and a product -> what they are.
_OTHERS = {
    "dora_scale|lora_magnitude_vector": "a DoRA (weights rescaled after the sum)",
    "hada_w": "a LoHa (Hadamard product)",
    "lokr_": "a LoKr (Kronecker product)",
    r"\boft_": "an OFT (rotation of weights)",
    "on_input": "an IA3 (scales of activations)",
}
# The width of text states in a LoRA's layers -> the models that it is for.
_WIDTHS = {768: "SD 1.x", 1024: "SD 2.x", 2048: "SDXL"}
# PEFT's settings that are off, or have one of a few values, where an adapter is a plain sum
# W + scale up @ down. Others matter to training only.
_OFF = (
    "alora_invocation_tokens arrow_config fan_in_fan_out kasa_config layer_replication lora_bias "
    "modules_to_save monteclora_config target_parameters trainable_token_indices use_bdlora "
    "use_dora use_qalora velora_config"
)
_PLAIN: dict[str, tuple] = {
    "peft_type": ("LORA", None),
    "bias": ("none", None),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva", None),  # others change W
    **dict.fromkeys(_OFF.split(), (False, None, [], {})),
}
Peft = dict[tuple[str, str], dict[str, Any]]  # (place, component) -> PEFT's settings
_PEFT_ALPHA = 8  # what PEFT takes for lora_alpha if its settings leave it out


class Layer(NamedTuple):
    """What one LoRA adds to one weight: `scale` times the product of its tensors."""

    target: Target
    down: Tensor
    mid: Tensor | None
    up: Tensor
    scale: float  # strength * alpha / rank
    assumed: bool  # whether no place states alpha, so that it is the rank


class Lora(NamedTuple):
    """One LoRA file whose header has been read and checked."""

    file: LoraSettings
    layers: list[Layer]
    predicts: str | None = None  # what the model predicts that it was trained for, if it says so


def read_loras(
    loras: Mapping[Any, float] | Sequence[Any], config: UNetConfig, shapes: Mapping[str, Any]
) -> list[Lora]:
    """Reads the headers of LoRA files, as `given_files` takes them; finds each layer's weight.

    `config` is the UNet's; `shapes` has the model's parameters, nested dicts by component.
    Raises UserError as `given_files`, and one for all keys, layers and shapes that do not fit.
    """
    table: dict[tuple[str, str], Target] = {}
    found, wrong = [], []
    for file, tensors in given_files(loras, LoraSettings):
        table = table or layer_table(config, shapes)
        for pattern, what in _OTHERS.items():
            if key := next((key for key in tensors if re.search(pattern, key)), None):
                what = f"{what}, which is not supported (key {shown(key)})"
                raise UserError(f"{shown(file.path)} is {what}; plain LoRA and LoCon are")
        problems: dict[str, list[str]] = defaultdict(list)
        found.append(_fitted(file, tensors, table, problems))
        if problems:
            what = f"{shown(file.path)} does not fit the model{_meant_for(tensors, config, table)}"
            wrong.append(f"{what}: {listed(problems)}")
        elif not found[-1].layers:
            wrong.append(f"{shown(file.path)} holds no layers")
    if wrong:
        raise UserError("; ".join(wrong))
    return found


def _meant_for(tensors: Mapping[str, Tensor], config: UNetConfig, table) -> str:
    """Says what other kind of model the LoRA of these tensors is for; "" if nothing does."""
    components = {component for component, _ in table}
    for key, tensor in tensors.items():
        name, part = layer_and_part(key) or ("", "")
        component, layer = plain(name)
        if component == "text_encoder_2" not in components:
            return " (it is for SDXL, which has two text encoders)"
        # The text states' width is the number of columns in `down`.
        kind = _WIDTHS.get(tensor.shape[-1]) if part == "down" and tensor.shape else None
        if layer.endswith("attn2_to_k") and tensor.shape[-1] != config.cross_attention_dim and kind:
            return f" (it is for {kind})"
    return ""


def _fitted(file: LoraSettings, tensors, table, problems) -> Lora:
    """Returns one file with the layers that fit; adds others to `problems`."""
    # The tensors by layer, as the file spells its name, and by part.
    grouped: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in tensors.items():
        name, part = layer_and_part(key) or (None, None)
        if part is None:
            problems["keys of no known spelling"].append(f"{shown(key)} {list(tensor.shape)}")
        elif tensor.dtype not in (_NUMBERS if part == "alpha" else FLOATS):
            kind = f"tensors of a dtype not in {list(FLOATS)}"
            problems[kind].append(f"{shown(key)} {shown(tensor.dtype)}")
        elif part in grouped[name]:
            problems["keys given twice"].append(shown(key))
        else:
            grouped[name][part] = tensor
    (peft, metadata), layers, alphas = _read_said(file.path), {}, []
    for name, parts in grouped.items():
        target = find(table, name)
        try:
            _check_fit(parts, target)
            if target.path in layers:
                raise Wrong("layers given twice")
            alpha, down = None, parts["down"]
            if "alpha" in parts:
                alpha = float(read_tensor(parts["alpha"], _NUMBERS).reshape(()))
                alphas.append(alpha)
            scale = _scale(peft, metadata, target, down.shape[0], alpha)
        except Wrong as wrong:
            shapes = [f"{part} {list(tensor.shape)}" for part, tensor in parts.items()]
            wanted = f", for a weight {list(target.entry.stored_shape)}" if target else ""
            problems[str(wrong)].append(f"{shown(name)}: {', '.join(shapes)}{wanted}")
            continue
        assumed = math.isnan(scale)
        scale = file.strength * (1.0 if assumed else scale)
        layers[target.path] = Layer(target, down, parts.get("mid"), parts["up"], scale, assumed)
    ranks = [layer.down.shape[0] for layer in layers.values()]
    # kohya's settings are for most layers.
    for key, values in {"ss_network_dim": ranks, "ss_network_alpha": alphas}.items():
        said = _number(metadata, key)
        if values and not math.isnan(said) and said not in map(float, values):
            kind = f"layers, none of them as its metadata say ({key} = {said:g})"
            problems[kind].append(shown(file.path))
            break
    stated = metadata_statements(metadata).get("prediction_type", ())
    predicts = agreed("what the model predicts", stated, shown(file.path))
    return Lora(file, list(layers.values()), predicts)


def _check_fit(parts: Mapping[str, Tensor], target: Target | None) -> None:
    """Raises `Wrong` unless up @ mid @ down exists and has the shape of the target's weight."""
    if target is None:
        raise Wrong("layers that the model lacks")
    if not {"down", "up"} <= parts.keys():
        raise Wrong("layers without both down and up")
    down, up = parts["down"].shape, parts["up"].shape
    mid, alpha = (parts[part].shape if part in parts else None for part in ("mid", "alpha"))
    shape = None
    # `up` is a dense layer or a 1x1 convolution; so is `down` if there is a `mid`.
    if len(down) >= 2 and len(up) >= 2 and 0 < down[0] == up[1] and set(up[2:]) <= {1}:
        if mid is None:
            shape = (up[0], *down[1:])
        elif len(mid) == 4 and mid[:2] == (down[0],) * 2 and set(down[2:]) <= {1}:
            shape = (up[0], down[1], *mid[2:])
    if shape is None or math.prod(alpha or ()) != 1 or not target.entry.accepts(shape):
        raise Wrong("misshapen layers")


class Wrong(Exception):
    """A layer, or what is said of it, is of no use; the message is the kind of problem."""


def _scale(peft: Peft, metadata, target: Target, rank: int, alpha: float | None) -> float:
    """Returns alpha / rank of a layer, NaN if no place states it; `alpha` is its tensor's.

    Raises Wrong if places contradict each other, or what one says is of no use.
    """
    names = [key.removesuffix(".weight") for key in (target.entry.key, *target.entry.aliases)]
    found = {} if alpha is None else {"alpha tensor": alpha / rank}
    for (place, component), settings in peft.items():
        if component == target.path[0]:
            found[place] = _peft_scale(settings, names, rank, place)
    if not all(map(math.isfinite, found.values())):
        raise Wrong("layers with an unusable alpha")
    first = next(iter(found.values()), math.nan)
    if any(not math.isclose(other, first, rel_tol=1e-5) for other in found.values()):
        raise Wrong(f"layers whose alpha is stated differently by {' and '.join(found)}")
    return first if found else _number(metadata, "ss_network_alpha") / rank


def _read_said(path: str) -> tuple[Peft, Mapping[str, str]]:
    """Reads what is said of a LoRA beside its file and in its metadata; UserError unless plain."""
    file, peft = Path(path), {}
    metadata = read_metadata(file)
    if text := metadata.get("lora_adapter_metadata"):
        try:
            settings = json.loads(text)
        except (ValueError, RecursionError):
            settings = None
        if not isinstance(settings, dict):
            raise UserError(f"{shown(path)}: its lora_adapter_metadata is not a JSON object")
        for key, value in settings.items():  # "unet.lora_alpha"
            component, _, name = key.partition(".")
            peft.setdefault(("lora_adapter_metadata", component), {})[name] = value
    beside = file.with_name("adapter_config.json")
    # PEFT calls the file that belongs to it adapter_model; in its absence, any file may be meant.
    stem = "adapter_model"
    if beside.is_file() and (file.stem == stem or not list(file.parent.glob(f"{stem}.*"))):
        settings = json_object(beside)
        peft |= {(beside.name, component): settings for component in COMPONENTS}
    for (place, _), settings in peft.items():
        for key, values in _PLAIN.items():
            if settings.get(key) not in values:
                what = f"{place} says {key} = {shown(settings[key])}, which is not supported"
                raise UserError(f"{shown(path)}: {what}; plain LoRA and LoCon are")
    return peft, metadata


def _peft_scale(settings: Mapping[str, Any], names: Sequence[str], rank: int, place: str) -> float:
    if _by_pattern(settings, "rank_pattern", names, settings.get("r")) not in (None, rank):
        raise Wrong(f"layers of another rank than {place} says")
    alpha = _by_pattern(settings, "alpha_pattern", names, settings.get("lora_alpha", _PEFT_ALPHA))
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) < 1e9:
        return math.nan
    # The root is rank-stabilised LoRA (arXiv 2312.03732).
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _by_pattern(settings: Mapping[str, Any], key: str, names: Sequence[str], usual: Any) -> Any:
    """Returns the value of the first pattern that fits a layer, as PEFT's get_pattern_key does."""
    try:  # a pattern is a regular expression for the whole name, or for its end after a dot
        for pattern, value in (settings.get(key) or {}).items():
            if any(re.match(rf"(.*\.)?({pattern})$", name) for name in names):
                return value
    except (re.error, AttributeError, RecursionError):
        raise Wrong(f"layers with an unusable {key}") from None
    return usual


def _number(metadata: Mapping[str, str], key: str) -> float:
    try:
        return float(metadata.get(key, "nan"))
    except ValueError:  # "None", "Dynamic"
        return math.nan


def notices(loras: Sequence[Lora], prediction_type: str) -> tuple[str, ...]:
    """Returns what the user should be told of LoRAs for a model of that prediction type."""
    texts = []
    for lora in loras:
        path = shown(lora.file.path)
        if any(layer.assumed for layer in lora.layers):
            texts.append(f"no place states the alpha of {path}; its rank is assumed")
        if lora.predicts not in (None, prediction_type):
            what = f"was trained on a model of {shown(lora.predicts)}, this one is of"
            texts.append(f"{path} {what} {prediction_type}")
    return tuple(texts)


def merge(loras: Sequence[Lora], loaded: Loaded) -> None:
    """Adds LoRAs to their weights in place; a strength of 0 changes no bit.

    The LoRAs are from `read_loras` with the shapes of the `loaded` parameters. Raises UserError if
    a LoRA's values, or a sum in the weight's own dtype, are not finite.
    """
    by_path = defaultdict(list)
    for layer in (layer for lora in loras for layer in lora.layers if layer.scale):
        by_path[layer.target.path].append(layer)
    for path, layers in by_path.items():
        change_param(loaded, path, partial(_merged, layers=layers))


def _merged(weight: np.ndarray, layers: Sequence[Layer]) -> np.ndarray:
    """Returns a weight plus all its layers, in its own dtype."""
    total = np.array(weight, np.float32)
    with np.errstate(all="ignore"):  # values that are not finite are found below
        for layer in layers:
            total += product(layer)
        merged = total.astype(weight.dtype, copy=False)
    if not np.isfinite(merged).all():
        files = sorted({shown(layer.down.file) for layer in layers})
        wrong = f"{shown(layers[0].down.name)} is not finite in {weight.dtype.name}"
        how = "get the file again, or use a smaller strength or a wider dtype"
        raise UserError(f"the weight of {wrong} with {', '.join(files)}; {how}")
    return merged


def product(layer: Layer) -> np.ndarray:
    """Returns what a layer adds to its weight, as the parameter: [in, out] or [h, w, in, out].

    `down` is itself a weight, with `rank` outputs. Laid out like a parameter, it gives the product
    in the parameter's order; adding [out, in, h, w] to the parameter takes six times as long.
    """
    entry, rank = layer.target.entry, layer.down.shape[0]
    tensors = (layer.up, layer.mid, layer.down)
    up, mid, down = (t and read_tensor(t).astype(np.float32) for t in tensors)
    if mid is not None:
        down = np.einsum("rshw,si->rihw", mid, down.reshape(rank, -1), optimize=True)
    down = down.reshape(rank, *entry.stored_shape[1:]).transpose(entry.axes)
    return np.ascontiguousarray(down) @ (layer.scale * up.reshape(-1, rank)).T
