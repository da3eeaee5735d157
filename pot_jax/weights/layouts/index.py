"""`model_index.json`: which components a model folder has, and of which classes."""

from pathlib import Path
from typing import Any

from pot_jax.errors import UserError, shown
from pot_jax.weights.formats.json import json_object
from pot_jax.weights.layouts.families import FAMILIES
from pot_jax.weights.model import COMPONENTS

_LIBRARIES = ("diffusers", "transformers")  # only their layout is read; neither is imported
_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
# Entries of model_index.json that are not components, or have no effect on the pictures.
_IGNORED = (
    *("safety_checker", "feature_extractor", "requires_safety_checker"),
    *("watermarker", "max_noise_level"),
)


def known_classes(pipeline: str) -> dict[str, tuple[str, ...] | None]:
    """Returns the classes that each component of a pipeline may have, by its folder.

    None stands for a schedule's: it knows its own classes.
    """
    classes = {c.folder: tuple(c.classes) for c in COMPONENTS.values()}
    return {**classes, "tokenizer": _TOKENIZERS, **dict.fromkeys(FAMILIES[pipeline].schedules)}


def read_index(folder: Path) -> dict[str, Any]:
    """Reads `model_index.json` and checks that it names every component, each of a known class.

    Raises:
      UserError: the folder is not a model folder, or its model is of an unsupported kind.
    """
    path = folder / "model_index.json"
    where = shown(path)
    if not path.exists():
        raise UserError(
            f"{shown(folder)} is not a model folder: it has no model_index.json (the layout "
            "that diffusers saves was expected)"
        )
    index = json_object(path)
    pipeline = index.get("_class_name")
    if not isinstance(pipeline, str) or pipeline not in FAMILIES:
        raise UserError(
            f"{where}: models of {shown(pipeline)} are not supported; supported: "
            f"{', '.join(FAMILIES)}"
        )
    known = known_classes(pipeline)
    for name in known:
        if name not in index:
            raise UserError(f"{where} names no {name}; the model is incomplete")
    for name, entry in index.items():
        if name.startswith("_") or name in _IGNORED or entry in ([None, None], None):
            if name in known:
                raise UserError(f"{where}: the {name} is left out; the model is incomplete")
            continue
        if name not in known:
            raise UserError(
                f"{where}: the component {shown(name)} ({shown(entry)}) is not supported; "
                f"supported: {', '.join(known)}"
            )
        if not isinstance(entry, list) or len(entry) != 2:
            raise UserError(f"{where}: {name} is {shown(entry)}; [library, class] was expected")
        if entry[0] not in _LIBRARIES:
            raise UserError(
                f"{where}: the {name} is of the library {shown(entry[0])}, which is not "
                f"supported; supported: {', '.join(_LIBRARIES)}"
            )
        if known[name] is not None and entry[1] not in known[name]:
            raise UserError(
                f"{where}: the {name} is of class {shown(entry[1])}, which is not supported; "
                f"supported: {', '.join(known[name])}"
            )
    return index
