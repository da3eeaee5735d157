"""What is said about a model besides its tensors, and the check that all places say the same.

modelspec.*, ss_*   metadata in a safetensors file (Stability AI's ModelSpec; kohya's trainer)
NAME.yaml           Stable Diffusion's original settings, beside the file NAME.safetensors
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pot_jax.errors import UserError, one_line, shown

_MAX_YAML = 1_000_000  # bytes; Stable Diffusion's own have 3 kB
_PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
_TRUTHS = {"true": True, "false": False}


class Statement(NamedTuple):
    """One place that states a fact."""

    place: str
    value: Any


Statements = dict[str, list[Statement]]  # fact -> who states it


def agreed(fact: str, statements: Iterable[Statement], where: str) -> Any:
    """Returns what all statements say, None if there are none.

    Raises:
      UserError: two of them contradict each other; `where` is the model.
    """
    statements = list(statements)
    first = statements[0] if statements else Statement("", None)
    for other in statements[1:]:
        if other.value != first.value:
            raise UserError(
                f"{where}: {first.place} says that {fact} is {shown(first.value)}, {other.place} "
                f"that it is {shown(other.value)}; correct the wrong one, or remove it"
            )
    return first.value


def assumed(path: Path, prediction_type: str) -> str:
    """Returns the notice that no place states what the model of the file `path` predicts."""
    return f"{shown(path)} does not say what the model predicts; {prediction_type} is assumed"


def _prediction(text: str | None) -> str | None:
    return _PREDICTIONS.get(text, text)


def _architecture_prediction(text: str) -> str | None:
    found = re.match(r"stable-diffusion-v2-\d+(-v)?", text)
    return found and ("v_prediction" if found[1] else "epsilon")


def _architecture_generation(text: str) -> Any:
    found = re.match(r"stable-diffusion-v([12])", text)
    return int(found[1]) if found else text.partition("/")[0]


def _base_version(group: int, values: Mapping[str | None, Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        found = re.match(r"sd_v([12]).*?(_v)?$", text)
        return found and values[found[group]]

    return read


def _when(values: Mapping[bool, Any]) -> Callable[[str], Any]:
    return lambda text: values.get(_TRUTHS.get(text.lower()))


# (key of the metadata, fact, what its text says of it; None: nothing)
_METADATA: tuple[tuple[str, str, Callable[[str], Any]], ...] = (
    ("modelspec.prediction_type", "prediction_type", _prediction),
    ("modelspec.architecture", "prediction_type", _architecture_prediction),
    ("modelspec.architecture", "generation", _architecture_generation),
    (
        "ss_v_parameterization",
        "prediction_type",
        _when({True: "v_prediction", False: "epsilon"}),
    ),
    (
        "ss_base_model_version",
        "prediction_type",
        _base_version(2, {"_v": "v_prediction", None: "epsilon"}),
    ),
    ("ss_base_model_version", "generation", _base_version(1, {"1": 1, "2": 2})),
    ("ss_v2", "generation", _when({True: 2, False: 1})),
)


def metadata_statements(metadata: Mapping[str, str]) -> Statements:
    """Returns what a file's metadata say of "prediction_type" and "generation" (1 or 2)."""
    found: Statements = {}
    for key, fact, read in _METADATA:
        text = metadata.get(key, "").strip()
        if text and (value := read(text)) is not None:
            found.setdefault(fact, []).append(Statement(f"its metadata ({key})", value))
    return found


def yaml_statements(path: Path) -> Statements:
    """Returns what the yaml file beside a checkpoint says, if there is one.

    The facts are "prediction_type", "num_train_timesteps", "beta_start", "beta_end",
    "scaling_factor", "context_dim" and "in_channels".

    Raises:
      UserError: the file is not the settings of a Stable Diffusion.
    """
    path = path.with_suffix(".yaml")
    if not path.is_file():
        return {}
    where = shown(path)
    try:
        if path.stat().st_size > _MAX_YAML:
            raise ValueError("it is too large")
        params = yaml.safe_load(path.read_bytes())["model"]["params"]
        unet = params.get("unet_config", {}).get("params", {})
        usual = (
            "eps" if "linear_start" in params else None
        )  # of the original code's LatentDiffusion
        values = {
            "prediction_type": _prediction(params.get("parameterization", usual)),
            "num_train_timesteps": params.get("timesteps"),
            "beta_start": params.get("linear_start"),
            "beta_end": params.get("linear_end"),
            "scaling_factor": params.get("scale_factor"),
            "context_dim": unet.get("context_dim"),
            "in_channels": unet.get("in_channels"),
        }
    except (
        *(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError),
        yaml.YAMLError,
    ) as error:
        raise UserError(
            f"{where} is not the settings of a Stable Diffusion ({one_line(error)}); correct it, "
            "or remove it"
        ) from None
    return {fact: [Statement(where, v)] for fact, v in values.items() if v is not None}
