"""What is added to a model as it is loaded: the user's list of files, and one file of it."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pot_jax.checks import build
from pot_jax.config import EmbeddingSettings, LoraSettings
from pot_jax.errors import UserError, shown
from pot_jax.weights.formats.safetensors import read_header
from pot_jax.weights.formats.tensors import Tensor

T = TypeVar("T", LoraSettings, EmbeddingSettings)
# Settings -> the argument, the values that an item of its list gives, and the list in words.
_LISTS: dict[type, tuple[str, tuple[str, ...], str]] = {
    LoraSettings: (
        *("loras", ("path", "strength", "sha256")),
        'a dict {"file.safetensors": 0.8} or a list of pairs',
    ),
    EmbeddingSettings: (
        *("embeddings", ("token", "path", "sha256")),
        'a list of paths or pairs ("<token>", path)',
    ),
}


def given_files(given: Any, cls: type[T]) -> list[T]:
    """Returns what a user gives as `loras` or `embeddings`, as settings.

    Args:
      given: a list, each item a path, the settings, or their values: (path, strength) or
        (path, strength, sha256) of a LoRA, (token, path) or (token, path, sha256) of an embedding.
        LoRAs may also be {path: strength}.
      cls: LoraSettings or EmbeddingSettings.

    Raises:
      UserError: it is something else, or a strength is not a finite number.
    """
    group, names, expected = _LISTS[cls]
    if cls is LoraSettings and isinstance(given, Mapping):
        given = list(given.items())
    if not isinstance(given, list | tuple):
        raise UserError(f"{group}: expected {expected}, got {shown(repr(given))}")
    found = []
    for number, item in enumerate(given):
        if not isinstance(item, cls):
            values = [item] if isinstance(item, str | Path) else item
            if not isinstance(values, list | tuple) or not 1 <= len(values) <= len(names):
                raise UserError(f"{group}: expected {expected}, got the entry {shown(repr(item))}")
            fields = dict(zip(names if len(values) > 1 else ["path"], values))
            item = build(cls, fields, f"{group}[{number}].")
        found.append(item)
    return found


def read_file(path: str, what: str, sha256: str) -> tuple[dict[str, Tensor], str]:
    """Reads where the tensors in an adapter's file lie, and the SHA-256 of all its bytes.

    Args:
      path: of a safetensors file.
      what: "LoRA" or "embedding", for messages.
      sha256: the digest that the file must have; "" for any.

    Raises:
      UserError: the file is missing, damaged, of another kind or has another digest.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"there is no {what} file {shown(path)}")
    tensors = read_header(file)
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if sha256 not in ("", digest):
        digests = f"SHA-256 {digest}, expected {shown(sha256)}"
        raise UserError(f"the {what} file {shown(path)} has {digests}; the file has changed")
    return tensors, digest
