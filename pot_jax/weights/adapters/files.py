"""What is added to a model as it is loaded: the user's list of files, and one file of it."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pot_jax.checks import build
from pot_jax.config import EmbeddingSettings, LoraSettings
from pot_jax.errors import UserError, shown
from pot_jax.weights.formats.safetensors import read_header
from pot_jax.weights.formats.tensors import Tensor

T = TypeVar("T")


def lora_settings(loras: Mapping[Any, float] | Sequence[Any]) -> list[LoraSettings]:
    """Returns what a user gives as `loras`: {path: strength}, or a list.

    Each item of a list is a path, (path, strength), (path, strength, sha256) or the settings.

    Raises:
      UserError: it is something else, or a strength is not a finite number.
    """
    if isinstance(loras, Mapping):
        loras = list(loras.items())
    names = ("path", "strength", "sha256")
    expected = 'a dict {"file.safetensors": 0.8} or a list of pairs'
    return _settings(loras, LoraSettings, "loras", names, expected)


def embedding_settings(embeddings: Sequence[Any]) -> list[EmbeddingSettings]:
    """Returns what a user gives as `embeddings`: a list.

    Each item is a path, (token, path), (token, path, sha256) or the settings.

    Raises:
      UserError: it is something else.
    """
    names = ("token", "path", "sha256")
    expected = 'a list of paths or pairs ("<token>", path)'
    return _settings(embeddings, EmbeddingSettings, "embeddings", names, expected)


def _settings(given: Any, cls: type[T], group: str, names: Sequence[str], expected: str) -> list[T]:
    """Builds one `cls` for each item: a path, or the values of the first few of `names`."""
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
        raise UserError(
            f"the {what} file {shown(path)} has SHA-256 {digest}, expected {shown(sha256)}; "
            "the file has changed"
        )
    return tensors, digest
