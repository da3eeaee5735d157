"""What is said about a model besides its tensors, and the check that all places say the same.

modelspec.*, ss_*   metadata in a safetensors file (Stability AI's ModelSpec; kohya's trainer)
NAME.yaml           Stable Diffusion's original settings, beside the file NAME.safetensors
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pot_jax.errors import UserError, one_line, shown

_MAX_YAML = 1_000_000  # bytes; Stable Diffusion's own have 3 kB
_STRUCTURE = (TypeError, LookupError, AttributeError)  # what a file of another structure raises
_PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
_PREDICTIONS |= {"EpsScaling": "epsilon", "VScaling": "v_prediction"}
_V = dict.fromkeys(("-v", "_v", "true"), "v_prediction") | dict.fromkeys((None, "false"), "epsilon")
_GENERATIONS = {"stable-diffusion-v1": 1, "stable-diffusion-v2": 2, "true": 2, "false": 1}
_GENERATIONS |= {"stable-diffusion-xl": "XL", "_v1": 1, "_v2": 2, "xl": "XL"}
# (key of the metadata, fact, pattern, what its group means if not what it says).
_METADATA: tuple[tuple[str, str, str, Mapping[str | None, Any]], ...] = (
    ("modelspec.prediction_type", "prediction_type", "(.*)", _PREDICTIONS),
    ("modelspec.architecture", "prediction_type", r"stable-diffusion-v2-\d+(-v)?", _V),
    ("modelspec.architecture", "generation", "(stable-diffusion-(?:v[12]|xl)|[^/]+)", _GENERATIONS),
    ("ss_v_parameterization", "prediction_type", "(true|false)$", _V),
    ("ss_base_model_version", "prediction_type", "sd_v[12].*?(_v)?$", _V),
    ("ss_base_model_version", "generation", "sd(_v[12]|xl)", _GENERATIONS),
    ("ss_v2", "generation", "(true|false)$", _GENERATIONS),
)


class Statement(NamedTuple):
    """One place that states a fact."""

    place: str
    value: Any


Statements = Mapping[str, list[Statement]]  # fact -> who states it


def agreed(fact: str, statements: Iterable[Statement], where: str) -> Any:
    """Returns what all statements say, or None; UserError, naming `where`, if two contradict."""
    first, *others = [*statements] or [Statement("", None)]
    for other in others:
        if other.value != first.value:
            one = f"{first.place} says that {fact} is {shown(first.value)}"
            two = f"{other.place} that it is {shown(other.value)}"
            raise UserError(f"{where}: {one}, {two}; correct the wrong one, or remove it")
    return first.value


def assumed(path: Path, prediction_type: str) -> str:
    """Returns the notice that no place states what the model of the file `path` predicts."""
    return f"{shown(path)} does not say what the model predicts; {prediction_type} is assumed"


def metadata_statements(metadata: Mapping[str, str]) -> dict[str, list[Statement]]:
    """Returns what a file's metadata say of "prediction_type" and "generation" (1 or 2)."""
    found: dict[str, list[Statement]] = {}
    for key, fact, pattern, values in _METADATA:
        text = metadata.get(key, "").strip().lower()
        if text and (match := re.match(pattern, text)):
            value = values.get(match[1], match[1])
            found.setdefault(fact, []).append(Statement(f"its metadata ({key})", value))
    return found


def yaml_statements(path: Path) -> Statements:
    """Returns what the yaml file beside the checkpoint `path` says, if there is one.

    The facts are those of a scheduler's config, "scaling_factor", "context_dim", "in_channels".
    Raises UserError if the file is not the settings of a Stable Diffusion.
    """
    path = path.with_suffix(".yaml")
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > _MAX_YAML:
            raise ValueError("it is too large")
        params = yaml.safe_load(path.read_bytes())["model"]["params"]
        unet = params.get("unet_config", {}).get("params", {})
        noise = params.get("denoiser_config", {}).get("params", {})  # of SDXL's code
        scaled = noise.get("scaling_config", {}).get("target", "").rpartition(".")[2] or None
        # The original code predicts eps by default; other code, without linear_start, says nothing.
        predicts = params.get("parameterization", "eps" if "linear_start" in params else scaled)
        values = {
            "prediction_type": _PREDICTIONS.get(predicts, predicts),
            "num_train_timesteps": params.get("timesteps", noise.get("num_idx")),
            "beta_start": params.get("linear_start"),
            "beta_end": params.get("linear_end"),
            "scaling_factor": params.get("scale_factor"),
            "context_dim": unet.get("context_dim"),
            "in_channels": unet.get("in_channels"),
        }
    except (*_STRUCTURE, OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        wrong = f"{shown(path)} is not the settings of a Stable Diffusion ({one_line(error)})"
        raise UserError(f"{wrong}; correct it, or remove it") from None
    return {fact: [Statement(shown(path), v)] for fact, v in values.items() if v is not None}
