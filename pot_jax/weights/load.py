"""The way in: a model from a folder, a file, the hub, or the package."""

import operator
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from jax.typing import DTypeLike

from pot_jax import checks
from pot_jax.diffusion.schedule import PREDICTION_TYPES
from pot_jax.errors import UserError, edge, shown
from pot_jax.parallel.devices import fixed_settings
from pot_jax.weights.adapters import lora, textual_inversion
from pot_jax.weights.digests import combined_digest
from pot_jax.weights.formats import kept
from pot_jax.weights.layouts import hub
from pot_jax.weights.layouts.component import component_source
from pot_jax.weights.layouts.folder import folder_source, read_parts
from pot_jax.weights.layouts.single_file import file_source
from pot_jax.weights.model import COMPONENTS, FAMILIES, Model, check_fit, checked_dtype
from pot_jax.weights.parameters import (
    Placement,
    matched,
    read_params,
    restored_params,
    shapes_of,
)

# The models that ship with the package, by name.
SHIPPED = {name: Path(__file__).parents[1] / "assets" / name for name in ("cosmos64", "cosmos128")}


class OpenedModel(NamedTuple):
    """A model that fits together so far: its settings and headers are read, its weights are not."""

    model: Model  # its parameters are shapes, `jax.ShapeDtypeStruct`, and its digest is empty
    read: Callable[[Placement], Model]  # reads the weights; its argument is `load`'s sharding


@fixed_settings()
def load(
    path_or_name: str | Path,
    *,
    dtype: DTypeLike = jnp.float32,
    variant: str | None = None,
    tokenizer: str | Path | None = None,
    prediction_type: str | None = None,
    allow_pickle: bool = False,
    unet: str | Path | None = None,
    vae: str | Path | None = None,
    loras: Mapping[str, float] | Sequence[Any] = (),
    embeddings: Sequence[Any] = (),
    sharding: Placement = None,
) -> Model:
    """Loads a model.

    Args:
      path_or_name: a folder in diffusers' layout (with a `model_index.json`), a folder made by
        `pot-jax convert`, a file in Stable Diffusion's original layout, the name of a shipped model
        (`cosmos128`), or a repository of the Hugging Face hub as `owner/name` or
        `owner/name@revision`. A path that exists takes precedence; "./" rules out the others.
      dtype: of the parameters and the networks' arithmetic: float32, bfloat16 or float16, in which
        SDXL's autoencoder overflows and stays float32 if its config says `force_upcast`.
      variant: which of several copies of the weights to read, such as "fp16"; by default the one
        without a variant, or the only one.
      tokenizer: another folder to take the tokenizer from. A single file has none: its default is
        the folder `tokenizer` next to it, or CLIP's in the Hugging Face cache.
      prediction_type: "epsilon", "v_prediction" or "sample", if not what the files say. A single
        file of SD 2.x does not say; its default is "v_prediction".
      allow_pickle: also reads a pickled file (`.ckpt`); nothing in it is run.
      unet: a UNet to use instead of the model's own: a folder with its `config.json`, or a file
        with weights of the same sizes, in diffusers' names or the original layout's.
      vae: an autoencoder instead of the model's own, likewise.
      loras: LoRA files to merge into the weights: {path: strength}, or a list of paths,
        (path, strength) or `LoraSettings`.
      embeddings: textual inversions to add: a list of paths, (token, path) or `EmbeddingSettings`.
      sharding: where the parameters go, by default the first device: one sharding for all, such as
        `parallel.mesh.replicated(mesh)`, or a function of a parameter's path
        ("unet/conv_in/kernel") and shape. Each device receives only its part of an array.

    Raises:
      UserError: there is no such model, it is of an unsupported kind, or its files are missing,
        damaged, or do not fit it: one message names everything that does not fit.
    """
    what = locals()
    checks.checked(sharding, Placement, "sharding")
    return open_model(**{name: what[name] for name in what if name != "sharding"}).read(sharding)


@fixed_settings()
def open_model(
    path_or_name: str | Path,
    *,
    dtype=jnp.float32,
    variant=None,
    tokenizer=None,
    prediction_type=None,
    allow_pickle=False,
    unet=None,
    vae=None,
    loras=(),
    embeddings=(),
) -> OpenedModel:
    """As `load`, but reads only settings and headers, which show whether the model fits."""
    with edge("reading a model", path_or_name):
        dtype = checked_dtype(dtype)
        checks.checked(prediction_type, Literal[*PREDICTION_TYPES] | None, "prediction_type")
        is_id = isinstance(path_or_name, str) and hub.is_id(path_or_name)
        on_hub = is_id and not os.path.lexists(path_or_name)
        snapshot = hub.fetch_settings(path_or_name) if on_hub else None
        path = snapshot.folder if snapshot else _find(path_or_name)
        wishes = {"tokenizer": tokenizer, "prediction_type": prediction_type}
        is_file, is_kept = path.is_file(), (path / kept.MARKER).is_file()
        if variant is not None and (is_file or is_kept):
            kind = "one file" if is_file else "a converted copy"
            raise UserError(f"{shown(path)} is {kind}, which has no variants")
        source = file_source(path, dtype, **wishes, allow_pickle=allow_pickle) if is_file else None
        own = source.parts if source else read_parts(path, dtype, **wishes)
        wanted = {name: one for name, one in (("unet", unet), ("vae", vae)) if one is not None}
        given = [component_source(name, wanted[name], own, dtype, allow_pickle) for name in wanted]
        modules = {name: one for part in given for name, one in part.parts.modules.items()}
        stored = replace(own, modules=own.modules | modules)
        where = [shown(path), *(f"{name} {shown(wanted[name])}" for name in wanted)]
        check_fit(" with ".join(where), stored.modules, FAMILIES[stored.pipeline])
        rest = {name: one for name, one in own.modules.items() if name not in modules}
        left = replace(own, modules=rest)  # what is read from the model itself
        shapes = {name: shapes_of(module) for name, module in stored.modules.items()}
        merges = lora.read_loras(loras, stored.modules["unet"].config, shapes)
        words = textual_inversion.read_embeddings(embeddings, stored)
        parts = textual_inversion.add_tokens(words, stored)
        source = replace(source, parts=left) if source else None
        if not snapshot and not is_kept:
            source = source or folder_source(path, left, variant)
            matched(source)
        for part in given:
            matched(part)
    name = snapshot.source if snapshot else str(path_or_name)
    told = sum((part.parts.notices for part in given), parts.notices)
    told += lora.notices(merges, parts.schedule.prediction_type)
    if snapshot:  # whose place in the cache is the machine's own
        told = tuple(notice.replace(str(snapshot.folder), name) for notice in told)
    facts = vars(parts) | {"name": Path(name).name, "source": name, "notices": told}
    model = Model(
        **facts.pop("modules"),
        **facts,
        params={name: shapes_of(module) for name, module in parts.modules.items()},
        digest="",
        loras=tuple(merge.file for merge in merges),
        embeddings=tuple(word.file for word in words),
        given={name: str(one) for name, one in wanted.items()},
    )

    @edge("reading a model", path_or_name)
    def read(sharding: Placement = None) -> Model:
        if snapshot:
            hub.fetch_weights(snapshot, rest, variant)
        if is_kept:
            whole = {name: shapes_of(module) for name, module in own.modules.items()}
            loaded = restored_params(path, whole, sharding, rest)
        else:
            loaded = read_params(source or folder_source(path, left, variant), sharding)
        for part in given:
            loaded = tuple(map(operator.or_, loaded, read_params(part, sharding)))
        lora.merge(merges, loaded)
        textual_inversion.add_vectors(words, parts, loaded)
        params, digests = loaded
        params = {name: params[name] for name in parts.modules}
        return replace(model, params=params, digest=combined_digest(digests))

    return OpenedModel(model, read)


def _find(path_or_name: str | Path) -> Path:
    name = checks.checked(path_or_name, checks.Path, "model")
    path = Path(name)
    # A folder without any part of a model, such as a run's, does not hide a shipped model.
    parts = ("model_index.json", *(component.folder for component in COMPONENTS.values()))
    hidden = path.is_file() or any((path / part).exists() for part in parts)
    if name in SHIPPED and not hidden:
        return SHIPPED[name]
    if path.is_dir() or path.is_file():
        return path
    none = f"there is no model folder {shown(name)} and no such file, and the package has no model"
    how = "write a model of the hub as owner/name@revision"
    raise UserError(f"{none} of that name (it has: {', '.join(SHIPPED)}); {how}")
