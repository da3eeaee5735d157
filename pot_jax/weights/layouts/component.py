"""A component's folder: which of its files hold the weights, in one file or in shards."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from pot_jax.errors import UserError, shown
from pot_jax.weights.formats.kinds import json_object
from pot_jax.weights.formats.safetensors import read_header
from pot_jax.weights.formats.tensors import Tensor
from pot_jax.weights.problems import few, listed


def component_tensors(folder: Path, stem: str, variant: str | None = None) -> dict[str, Tensor]:
    """Reads where the tensors of one component of a diffusers folder lie, by name.

    `stem` is "diffusion_pytorch_model" (diffusers) or "model" (transformers); `variant` says which
    of several copies to read, such as "fp16". None means the copy without a variant or, if there is
    none, the only variant.

    Raises:
      UserError: there are no such weights (the message names what there is), or a file is damaged.
    """
    where = shown(folder)
    if not folder.is_dir():
        raise UserError(f"{where} does not exist; the model folder is incomplete")
    source = folder / choose_weights([path.name for path in folder.iterdir()], stem, variant, where)
    return read_header(source) if source.suffix == ".safetensors" else _sharded(source)


def choose_weights(names: Iterable[str], stem: str, variant: str | None, where: str) -> str:
    """Returns the name of the file with a component's weights, or of the index of their shards.

    `names` are the files in the component's folder, which messages call `where`; the rest is as for
    `component_tensors`.
    """
    names = sorted(names)
    # The one file, or else the index, of each variant (None: no variant).
    index = rf"{stem}\.safetensors\.index(?:\.(.+))?\.json"
    whole = rf"{stem}(?:\.((?!.*-of-).+))?\.safetensors"
    matches = [re.fullmatch(kind, name) for kind in (index, whole) for name in names]
    sources = {match[1]: match[0] for match in matches if match}
    if variant is None and len(sources) == 1:
        (variant,) = sources
    if variant in sources:
        return sources[variant]
    if sources:
        known = sorted("none" if name is None else shown(name) for name in sources)
        wanted = shown(variant or "none")
        raise UserError(f"{where} has no weights of variant {wanted}; there are: {known}")
    others = [name for name in names if name.endswith((".bin", ".ckpt", ".msgpack", ".h5"))]
    other = f"only {shown(others[0])}: save the model as safetensors" if others else "no weights"
    raise UserError(f"{where} has {other}; {stem}.safetensors was expected")


def read_weight_map(index: Path) -> dict[str, str]:
    """Reads which shard holds each tensor from an index; shards are in the index's folder.

    Raises:
      UserError: the index is damaged, or names a file elsewhere or of another kind.
    """
    where = shown(index)
    places = json_object(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(p, str) for p in places.values()):
        raise UserError(f"{where} has no weight_map from tensor names to file names; get it again")
    for place in sorted(set(places.values())):
        plain = Path(place).name == place and place.isprintable() and "\\" not in place
        if not plain or not place.endswith(".safetensors"):
            expected = "a plain .safetensors file name, in the folder of the index"
            raise UserError(f"{where} names the shard {shown(place)!r}; expected {expected}")
    return places


def _sharded(index: Path) -> dict[str, Tensor]:
    """Reads where the tensors in the shards of an index lie."""
    where, places = shown(index), read_weight_map(index)
    shards = sorted(set(places.values()))
    absent = [shown(place) for place in shards if not (index.parent / place).is_file()]
    if absent:
        count = f"{len(absent)} of {len(shards)} shards"
        raise UserError(f"{where} names {count} that are missing ({few(absent)}); get them")
    headers = {place: read_header(index.parent / place) for place in shards}
    count = Counter(name for tensors in headers.values() for name in tensors)
    wrong = {
        "tensors that lie in two shards": [n for n in count if count[n] > 1],
        "tensors that its shards lack": [n for n in places if n not in headers[places[n]]],
        "tensors that it leaves out": [n for n in count if n not in places],
    }
    wrong = {kind: list(map(shown, sorted(names))) for kind, names in wrong.items() if names}
    if wrong:
        raise UserError(f"{where} does not fit its shards: {listed(wrong)}; get all of them again")
    return {name: headers[place][name] for name, place in places.items()}
