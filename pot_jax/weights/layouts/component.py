"""A component's folder: which of its files hold the weights, whole or in shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from pot_jax.errors import UserError, shown
from pot_jax.weights.formats.json import json_object
from pot_jax.weights.formats.safetensors import read_header
from pot_jax.weights.formats.tensors import Tensor
from pot_jax.weights.problems import few


def component_tensors(folder: Path, stem: str, variant: str | None = None) -> dict[str, Tensor]:
    """All tensors of one component of a diffusers folder, in one file or in shards.

    Args:
      folder: the component's folder, such as `model/unet`.
      stem: "diffusion_pytorch_model" (diffusers) or "model" (transformers).
      variant: "fp16" and the like: which of several copies to read. None means the copy without a
        variant, or, where that is absent, the only variant there is.

    Raises:
      UserError: no such weights (what there is instead is named), or a file is damaged.
    """
    where = shown(str(folder))
    if not folder.is_dir():
        raise UserError(f"{where} does not exist; the model folder is incomplete")
    source = folder / choose_weights([path.name for path in folder.iterdir()], stem, variant, where)
    return read_header(source) if source.suffix == ".safetensors" else _sharded(source)


def choose_weights(names: Iterable[str], stem: str, variant: str | None, where: str) -> str:
    """Of a component's file names, the one that holds its weights, or the index of their shards.

    Args:
      names: in the component's folder.
      stem: as for `component_tensors`.
      variant: as for `component_tensors`.
      where: the folder, as it is called in messages.

    Raises:
      UserError: no such weights; what there is instead is named.
    """
    names = sorted(names)
    sources = _sources(names, stem)
    if variant is None and variant not in sources and len(sources) == 1:
        variant = next(iter(sources))
    if variant in sources:
        return sources[variant]
    if sources:
        known = sorted("none" if name is None else shown(name) for name in sources)
        raise UserError(
            f"{where} has no weights of variant {shown(variant or 'none')}; there are: {known}"
        )
    others = [name for name in names if name.endswith((".bin", ".ckpt", ".msgpack", ".h5"))]
    if others:
        raise UserError(
            f"{where} has only {shown(others[0])}, which is not read; save the model as "
            f"safetensors ({stem}.safetensors was expected)"
        )
    raise UserError(f"{where} has no weights; {stem}.safetensors was expected")


def _sources(names: list[str], stem: str) -> dict[str | None, str]:
    """The whole file or, failing that, the index of each variant (None: no variant)."""
    sources: dict[str | None, str] = {}
    index = f"{stem}.safetensors.index"
    for name in names:
        if name.startswith(index) and name.endswith(".json"):
            middle = name.removeprefix(index).removesuffix(".json")
            sources.setdefault(middle.removeprefix(".") or None, name)
    for name in names:
        if not (name.startswith(stem) and name.endswith(".safetensors")):
            continue
        middle = name.removeprefix(stem).removesuffix(".safetensors")
        if not middle or (middle.startswith(".") and "-of-" not in middle):
            sources[middle.removeprefix(".") or None] = name
    return sources


def shard_of_each(index: Path) -> dict[str, str]:
    """Of each tensor, the shard that an index says it is in: a plain name in the index's folder.

    Raises:
      UserError: the index is damaged, or names a file elsewhere or of another kind.
    """
    where = shown(str(index))
    places = json_object(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(p, str) for p in places.values()):
        raise UserError(f"{where} has no weight_map from tensor names to file names; get it again")
    for place in sorted(set(places.values())):
        if (
            Path(place).name != place
            or not place.isprintable()
            or "\\" in place
            or not place.endswith(".safetensors")
        ):
            raise UserError(
                f"{where} names the shard {shown(place)!r}; a plain .safetensors file name beside "
                "the index was expected"
            )
    return places


def _sharded(index: Path) -> dict[str, Tensor]:
    """The tensors of all the shards that an index names, and of no other file."""
    where, places = shown(str(index)), shard_of_each(index)
    shards = sorted(set(places.values()))
    absent = [place for place in shards if not (index.parent / place).is_file()]
    if absent:
        raise UserError(
            f"{where} names {len(absent)} of {len(shards)} shards that are not there "
            f"({few(absent)}); get them"
        )
    headers = {place: read_header(index.parent / place) for place in shards}
    count = Counter(name for tensors in headers.values() for name in tensors)
    twice = sorted(name for name in count if count[name] > 1)
    if twice:
        raise UserError(
            f"{where}: {len(twice)} tensors lie in two shards ({few(twice)}); get all again"
        )
    lost = [name for name, place in places.items() if name not in headers[place]]
    if lost:
        raise UserError(
            f"{where} names {len(lost)} tensors that its shards lack ({few(lost)}); get it again"
        )
    unnamed = [name for tensors in headers.values() for name in tensors if name not in places]
    if unnamed:
        raise UserError(
            f"{where} leaves out {len(unnamed)} tensors of its shards ({few(unnamed)}); "
            "get it again"
        )
    return {name: headers[place][name] for name, place in places.items()}
