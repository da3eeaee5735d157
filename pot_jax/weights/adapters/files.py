"""What is added to a model as it is loaded: LoRA files and embeddings, as given and as read.

The two records are what `load` hands to the model, and what a run's config.json says of it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

from pot_jax.errors import UserError, shown
from pot_jax.weights.formats.safetensors import read_header
from pot_jax.weights.formats.tensors import Tensor


class LoraFile(NamedTuple):
    """One LoRA, and how much of it."""

    path: str
    strength: float = 1.0
    sha256: str = ""  # of the whole file; "" before it is read


class EmbeddingFile(NamedTuple):
    """One textual inversion, and the word that stands for it in a prompt."""

    token: str  # "" before the file is read: its own
    path: str
    sha256: str = ""


def lora_files(loras: Mapping[Any, float] | Sequence[Any]) -> list[LoraFile]:
    """What a user gives as `loras`: {path: strength}, or a list of paths or (path, strength).

    Raises:
      UserError: it is something else, or a strength is no finite number.
    """
    files = []
    for item in _items(loras, "loras", 'a dict {"file.safetensors": 0.8} or a list of pairs'):
        path, strength, sha256 = (*item, *LoraFile("")[len(item) :])
        if not isinstance(strength, Real) or isinstance(strength, bool):
            raise UserError(
                f"loras: the strength of {shown(str(path))} is {shown(repr(strength))}; a number "
                "was expected"
            )
        if not math.isfinite(strength):
            raise UserError(f"loras: the strength of {shown(str(path))} is {strength}")
        files.append(LoraFile(str(path), float(strength), sha256))
    return files


def embedding_files(embeddings: Sequence[Any]) -> list[EmbeddingFile]:
    """What a user gives as `embeddings`: a list of paths or (token, path).

    Raises:
      UserError: it is something else.
    """
    expected = 'a list of paths or pairs ("<token>", path)'
    if isinstance(embeddings, Mapping):
        raise UserError(f"embeddings: expected {expected}, got a dict")
    files = []
    for item in _items(embeddings, "embeddings", expected):
        token, path, sha256 = {1: ("", *item, ""), 2: (*item, "")}.get(len(item), item)
        files.append(EmbeddingFile(str(token), str(path), sha256))
    return files


def _items(given: Any, name: str, expected: str) -> list[tuple[Any, ...]]:
    """One tuple of 1 to 3 values for each file."""
    if isinstance(given, Mapping):
        given = list(given.items())
    if not isinstance(given, list | tuple):
        raise UserError(f"{name}: expected {expected}, got {shown(repr(given))}")
    items = [(item,) if isinstance(item, str | Path) else item for item in given]
    for item in items:
        if not isinstance(item, list | tuple) or not 1 <= len(item) <= 3:
            raise UserError(f"{name}: expected {expected}, got the entry {shown(repr(item))}")
    return [tuple(item) for item in items]


def read_file(path: str, what: str, sha256: str) -> tuple[dict[str, Tensor], str]:
    """The tensors of an adapter's file by name, and the SHA-256 of all its bytes.

    Args:
      path: of a safetensors file.
      what: "LoRA" or "embedding", for messages.
      sha256: what the file has to have; "" for any.

    Raises:
      UserError: the file is missing, damaged, of another kind or of another digest.
    """
    file = Path(path).expanduser()
    if "\0" in path or not file.is_file():
        raise UserError(f"there is no {what} file {shown(path)}")
    tensors = read_header(file)
    with file.open("rb") as bytes_:
        digest = hashlib.file_digest(bytes_, "sha256").hexdigest()
    if sha256 not in ("", digest):
        raise UserError(
            f"the {what} file {shown(path)} has SHA-256 {digest}, expected {shown(str(sha256))}; "
            "it is another file than it was"
        )
    return tensors, digest
