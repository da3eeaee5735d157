"""A model from its folder or file: files -> checked tensors -> parameters, tensor by tensor.

Settings and all headers are read first, so that everything that does not fit is known, over all
components, before gigabytes are read. Then each tensor is read, cast and laid out as its parameter
wants it and given to JAX, and its buffers are freed: a host holds one model and two tensors.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from pot_jax.diffusion.schedule import PREDICTION_TYPES
from pot_jax.errors import UserError, shown
from pot_jax.weights.adapters import lora, textual_inversion
from pot_jax.weights.digests import combined_digest
from pot_jax.weights.formats import kept
from pot_jax.weights.layouts import hub
from pot_jax.weights.layouts.families import FAMILIES
from pot_jax.weights.layouts.folder import folder_source, read_parts
from pot_jax.weights.layouts.single_file import file_source
from pot_jax.weights.model import Model, Parts, check_fit, checked_dtype
from pot_jax.weights.parameters import (
    Placement,
    Put,
    param_shapes,
    put_on,
    read_params,
    restored_params,
)

# The models that ship with the package, by name.
EMBEDDED = {"cosmos64": Path(__file__).parents[1] / "assets" / "cosmos64"}


def load(
    path_or_name: str | Path,
    *,
    dtype: DTypeLike = jnp.float32,
    variant: str | None = None,
    tokenizer: str | Path | None = None,
    prediction_type: str | None = None,
    allow_pickle: bool = False,
    loras: Mapping[str, float] | Sequence[Any] = (),
    embeddings: Sequence[Any] = (),
    sharding: Placement = None,
) -> Model:
    """Loads a model: a folder, a single-file checkpoint, one that ships, or one of the hub.

    Args:
      path_or_name: a folder in the diffusers layout (with a `model_index.json`), a folder made by
        `pot-jax convert`, a file in the original layout of Stable Diffusion, a name of `EMBEDDED`,
        or a repository of the Hugging Face hub as `owner/name` or `owner/name@revision`. What is
        there on disk is taken as a path; "./" before it says so.
      dtype: of the parameters and the networks' arithmetic: float32, bfloat16 or float16.
      variant: which of several copies of the weights to read ("fp16"); by default the one without
        a variant, or the only one there is.
      tokenizer: folder to take the tokenizer from instead; a file holds none, and takes that of the
        folder `tokenizer` beside it or of the Hugging Face cache.
      prediction_type: "epsilon", "v_prediction" or "sample", instead of what the files say or, for
        a single file of SD 2.x, leave open ("v_prediction" is taken then).
      allow_pickle: read a pickled file (`.ckpt`) too; nothing in it is run.
      loras: LoRA files to merge into the weights, as {path: strength} or a list of paths or
        (path, strength).
      embeddings: textual inversions to join, as a list of paths or (token, path).
      sharding: where the parameters go, by default the first device: one sharding for all, such as
        `parallel.mesh.replicated(mesh)`, or a function of a parameter's path
        ("unet/conv_in/kernel") and shape. A device gets its part of an array and nothing else.

    Raises:
      UserError: there is no such model, it is of an unsupported kind, or its files are missing,
        damaged, or do not fit it: everything that does not fit is in the one message.
    """
    dtype = checked_dtype(dtype)
    snapshot = hub.fetch_settings(str(path_or_name)) if _on_hub(path_or_name) else None
    path = snapshot.folder if snapshot else _find(path_or_name)
    wishes = {"tokenizer": tokenizer, "prediction_type": _checked_prediction(prediction_type)}
    put = partial(put_on, sharding)
    if variant is not None and (path.is_file() or kept.is_kept(path)):
        kind = "one file" if path.is_file() else "a kept copy"
        raise UserError(f"{shown(str(path))} is {kind}, which has no variants")
    if path.is_file():
        source = file_source(path, dtype, **wishes, allow_pickle=allow_pickle)
        parts = source.parts
        check_fit(path, parts.modules, FAMILIES[parts.pipeline])
        read = partial(read_params, source, dtype, put)
    else:
        parts = read_parts(path, dtype, **wishes)
        read = partial(_read_folder, path, parts, snapshot, variant, dtype, put)
    # Before gigabytes are read: everything that does not fit.
    shapes = {name: param_shapes(module) for name, module in parts.modules.items()}
    merges = lora.read_loras(loras, parts.modules["unet"].config, shapes)
    words = textual_inversion.read_embeddings(embeddings, parts)
    params, digests = read()
    lora.merge(merges, params, digests)
    parts = textual_inversion.add_embeddings(words, parts, params, digests)
    name = snapshot.source if snapshot else str(path_or_name)
    return dataclasses.replace(
        parts.model(params, combined_digest(digests), name),
        loras=tuple(merge.file for merge in merges),
        embeddings=tuple(word.file for word in words),
    )


def _checked_prediction(prediction_type: str | None) -> str | None:
    if prediction_type not in (None, *PREDICTION_TYPES):
        raise UserError(
            f"prediction_type is {shown(str(prediction_type))}, expected one of "
            f"{', '.join(PREDICTION_TYPES)}"
        )
    return prediction_type


def _on_hub(path_or_name: str | Path) -> bool:
    """Whether it names a repository of the hub: written as one, and nothing like it on disk."""
    return (
        isinstance(path_or_name, str)
        and hub.is_id(path_or_name)
        and not os.path.lexists(path_or_name)
    )


def _find(path_or_name: str | Path) -> Path:
    name = str(path_or_name)
    if "\0" in name:
        raise UserError(f"no model is called {shown(name)}")
    path = Path(name).expanduser()
    if name in EMBEDDED and not path.is_dir():
        return EMBEDDED[name]
    if path.is_dir() or path.is_file():
        return path
    raise UserError(
        f"there is no model folder {shown(name)} and no such file, and the package has no model of "
        f"that name (it has: {', '.join(EMBEDDED)}); models of the hub are written "
        "owner/name@revision"
    )


def _read_folder(
    path: Path,
    parts: Parts,
    snapshot: hub.Snapshot | None,
    variant: str | None,
    dtype: jnp.dtype,
    put: Put,
) -> tuple[dict[str, Any], dict[str, str]]:
    if snapshot:  # whatever its settings say that is not supported has been said by now
        hub.fetch_weights(snapshot, variant)
    if kept.is_kept(path):
        return restored_params(path, parts, dtype, put)
    return read_params(folder_source(path, parts, variant), dtype, put)
