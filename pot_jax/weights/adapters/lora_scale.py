"""alpha / rank of a LoRA's layers, from every place that can state it.

    alpha tensors            in the file, one a layer (kohya)
    lora_adapter_metadata    PEFT's settings in the file's metadata (diffusers 0.34 and later)
    adapter_config.json      PEFT's settings beside the file
    ss_network_alpha, _dim   kohya's settings in the file's metadata, for most layers

Where several places speak of a layer they must agree; where none does, alpha is the rank.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pot_jax.errors import UserError, shown
from pot_jax.weights.adapters.lora_names import Target
from pot_jax.weights.formats.kinds import json_object
from pot_jax.weights.formats.safetensors import read_metadata

# PEFT's settings that make an adapter another sum than W + scale up @ down -> the values that do
# not. Others matter to training only.
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
_PEFT_ALPHA = 8  # what PEFT takes for lora_alpha if its settings leave it out


class Wrong(Exception):
    """A layer, or what is said of it, is of no use; the message is the kind of problem."""


class Said(NamedTuple):
    """What is said of one LoRA file besides its tensors."""

    peft: dict[tuple[str, str], dict[str, Any]]  # (place, component) -> PEFT's settings
    metadata: Mapping[str, str]

    def scale(self, target: Target, rank: int, alpha: float | None) -> float:
        """Returns alpha / rank of a layer, NaN if no place states it; `alpha` is its tensor's.

        Raises Wrong if places contradict each other, or what one says is of no use.
        """
        keys = (target.entry.key, *target.entry.aliases)
        names = [key.removesuffix(".weight") for key in keys]
        found = {} if alpha is None else {"alpha tensor": alpha / rank}
        for (place, component), settings in self.peft.items():
            if component == target.path[0]:
                found[place] = _peft_scale(settings, names, rank, place)
        if not all(map(math.isfinite, found.values())):
            raise Wrong("layers with an unusable alpha")
        first = next(iter(found.values()), math.nan)
        if any(not math.isclose(other, first, rel_tol=1e-5) for other in found.values()):
            raise Wrong(f"layers whose alpha is stated differently by {' and '.join(found)}")
        return first if found else _number(self.metadata, "ss_network_alpha") / rank

    def unusual(self, ranks: Sequence[float], alphas: Sequence[float]) -> str | None:
        """Says so if kohya's settings, which are for most layers, fit none of them."""
        for key, values in {"ss_network_dim": ranks, "ss_network_alpha": alphas}.items():
            stated = _number(self.metadata, key)
            if values and not math.isnan(stated) and stated not in map(float, values):
                return f"layers, none of them as its metadata say ({key} = {stated:g})"
        return None


def read_said(path: str | Path) -> Said:
    """Reads what is said of a LoRA in its file and beside it; UserError unless it is plain."""
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
        peft |= {(beside.name, component): settings for component in ("unet", "text_encoder")}
    for (place, _), settings in peft.items():
        for key, values in _PLAIN.items():
            if settings.get(key) not in values:
                what = f"{place} says {key} = {shown(settings[key])}, which is not supported"
                raise UserError(f"{shown(path)}: {what}; plain LoRA and LoCon are")
    return Said(peft, metadata)


def _peft_scale(settings: Mapping[str, Any], names: Sequence[str], rank: int, place: str) -> float:
    stated = _by_pattern(settings, "rank_pattern", names, settings.get("r"))
    if stated not in (None, rank):
        raise Wrong(f"layers of another rank than {place} says")
    usual = settings.get("lora_alpha", _PEFT_ALPHA)
    alpha = _by_pattern(settings, "alpha_pattern", names, usual)
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
