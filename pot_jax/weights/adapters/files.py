"""What is added to a model as it is loaded: the user's list of files."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from pot_jax.checks import build
from pot_jax.config import EmbeddingSettings, LoraSettings
from pot_jax.errors import UserError, shown
from pot_jax.weights.formats.safetensors import Tensor, read_header

T = TypeVar("T", LoraSettings, EmbeddingSettings)
# Settings -> the argument, a file, the list in words.
_LISTS = {
    LoraSettings: ("loras", "LoRA", 'a dict {"file.safetensors": 0.8} or a list of pairs'),
    EmbeddingSettings: ("embeddings", "embedding", 'a list of paths or pairs ("<token>", path)'),
}
# What PEFT and diffusers call the file in a folder that they save.
_IN_FOLDERS = "adapter_model", "pytorch_lora_weights", "learned_embeds"


def given_files(given: Any, cls: type[T]) -> Iterator[tuple[T, dict[str, Tensor]]]:
    """Yields what a user gives as `loras` or `embeddings`: settings, and where the tensors lie.

    `given` is a list, each item a path (of a file, or of a folder as PEFT saves it), the settings,
    or their first values in order: (path, strength) of a LoRA, (token, path) of an embedding. LoRAs
    may also be {path: strength}. The settings that come out have their file's SHA-256. UserError if
    it is anything else, a strength not finite, a file missing, damaged, of another kind or digest.
    """
    group, what, expected = _LISTS[cls]
    names = [field.name for field in fields(cls)]
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
            pairs = zip(names if len(values) > 1 else ["path"], values)
            item = build(cls, dict(pairs), f"{group}[{number}].")
        found.append(item)
    for item in found:
        file = Path(item.path)
        inside = [file / f"{name}.safetensors" for name in _IN_FOLDERS]
        if inside := [path for path in inside if path.is_file()]:
            file, item = inside[0], replace(item, path=str(inside[0]))
        if not file.is_file():
            names = f"; it would be named {' or '.join(_IN_FOLDERS)}, .safetensors" * file.is_dir()
            raise UserError(f"there is no {what} file {shown(item.path)}{names}")
        tensors = read_header(file)
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        if item.sha256 not in ("", digest):
            where, expected = shown(item.path), shown(item.sha256)
            digests = f"SHA-256 {digest}, expected {expected}"
            raise UserError(f"the {what} file {where} has {digests}; the file has changed")
        yield replace(item, sha256=digest), tensors
