"""Textual inversion: learned words (arXiv 2208.01618), joined to a model as it is loaded.

A file holds n vectors of the text encoder's width D, [D] or [n, D], for one token. The token joins
the tokenizer and its vectors the embedding table. Where n > 1 the others are tokens of their own,
`<token>_1`, `<token>_2`, ..., as in diffusers, and a prompt with the first has them all
(`tokenization.tokenize`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from pot_jax.errors import UserError, shown
from pot_jax.weights.adapters.files import EmbeddingFile, embedding_files, read_file
from pot_jax.weights.digests import array_digest
from pot_jax.weights.formats.tensors import Tensor, read_tensor
from pot_jax.weights.model import Parts

_TABLE = ("text_encoder", "text_model", "embeddings", "token_embedding", "embedding")
_NAMELESS = "emb_params"  # the key where a file does not say its token


class Embedding(NamedTuple):
    """One file, its header read and checked."""

    file: EmbeddingFile  # with its token
    tensor: Tensor
    tokens: list[str]  # one for each vector


def read_embeddings(embeddings: Sequence[Any], parts: Parts) -> list[Embedding]:
    """Reads the headers of embedding files and checks that their tokens can join the tokenizer.

    Args:
      embeddings: paths or (token, path); without a token it is the file's own, or, where the file
        has none (`emb_params`), the file's name without its ending.
      parts: the model without its weights.

    Raises:
      UserError: a file is missing, damaged or of another kind, its vectors are not of the text
        encoder's width, or its token is a word that the tokenizer has.
    """
    found = []
    for file in embedding_files(embeddings):
        tensors, sha256 = read_file(file.path, "embedding", file.sha256)
        key, tensor = _only_tensor(file, tensors)
        own = Path(file.path).stem if key == _NAMELESS else key
        file = EmbeddingFile(file.token or own, file.path, sha256)
        count = _vectors(file, tensor, parts.modules["text_encoder"].config.hidden_size)
        tokens = [file.token, *(f"{file.token}_{i}" for i in range(1, count))]
        _check_new(file, tokens, parts.tokenizer, [t for other in found for t in other.tokens])
        found.append(Embedding(file, tensor, tokens))
    return found


def _only_tensor(file: EmbeddingFile, tensors: dict[str, Tensor]) -> tuple[str, Tensor]:
    where, keys = shown(file.path), sorted(tensors)
    if {"clip_l", "clip_g"} & tensors.keys():
        raise UserError(
            f"{where} is an embedding for SDXL ({', '.join(keys[:3])}), which has two text "
            f"encoders; one for this model holds one tensor, {_NAMELESS} or named by its token"
        )
    if len(tensors) != 1:
        raise UserError(
            f"{where} holds {len(tensors)} tensors ({', '.join(map(shown, keys[:3]))}); an "
            f"embedding is one, {_NAMELESS} or named by its token"
        )
    return next(iter(tensors.items()))


def _vectors(file: EmbeddingFile, tensor: Tensor, width: int) -> int:
    """How many vectors a tensor [D] or [n, D] holds."""
    shape = tensor.shape
    if len(shape) not in (1, 2) or shape[-1] != width or 0 in shape:
        raise UserError(
            f"{shown(file.path)}: the embedding has shape {list(shape)}, expected [{width}] or "
            f"[n, {width}], the text encoder's width; it is for another kind of model"
        )
    return 1 if len(shape) == 1 else shape[0]


def _check_new(
    file: EmbeddingFile, tokens: Sequence[str], tokenizer: Any, earlier: Sequence[str]
) -> None:
    """Raises UserError unless the tokens are single words that mean nothing yet."""
    where, another = (
        shown(file.path),
        'give another: ("<token>", path), or --embedding=path:<token>',
    )
    if not file.token.isprintable() or not file.token or " " in file.token:
        raise UserError(
            f"{where}: the token {shown(repr(file.token))} is not one printable word; {another}"
        )
    # Prompts are taken in lower case, and "</w>" ends a word.
    known = {token.lower() for token in (*tokenizer.get_vocab(), *earlier)}
    taken = [t for t in tokens if {t.lower(), f"{t.lower()}</w>"} & known]
    # The token after the last would be taken for one of its vectors, and it perhaps for another's.
    added = {token.lower() for token in (*tokenizer.added_tokens_encoder, *earlier)}
    neighbours = (f"{file.token}_{len(tokens)}", re.sub(r"_\d+$", "", file.token))
    taken += [t for t in neighbours if t.lower() in added]
    if taken:
        raise UserError(f"{where}: the tokenizer knows {shown(taken[0])} already; {another}")


def add_embeddings(
    embeddings: Sequence[Embedding], parts: Parts, params: dict[str, Any], digests: dict[str, str]
) -> Parts:
    """The parts with a tokenizer that knows the tokens and a text encoder with room for them.

    The parts' tokenizer and both dicts are changed in place.

    Args:
      embeddings: from `read_embeddings` with these parts.
      parts: the model without its weights.
      params: nested dict of arrays, component first; its embedding table is replaced.
      digests: of each array of `params`, by its path joined by "/".

    Raises:
      UserError: a vector is not finite, or beyond the range of the table's dtype.
    """
    if not embeddings:
        return parts
    tokens = [token for embedding in embeddings for token in embedding.tokens]
    parts.tokenizer.add_tokens(tokens)
    ids = parts.tokenizer.convert_tokens_to_ids(tokens)
    encoder = parts.modules["text_encoder"]
    rows = max(encoder.config.vocab_size, max(ids) + 1)

    *parents, leaf = _TABLE
    owner = params
    for name in parents:
        owner = owner[name]
    old = np.asarray(owner[leaf])
    table = np.zeros((rows, old.shape[1]), old.dtype)
    table[: len(old)] = old
    table[ids] = np.concatenate([_values(embedding, old.dtype) for embedding in embeddings])
    owner[leaf] = jax.device_put(table, owner[leaf].sharding)
    digests["/".join(_TABLE)] = array_digest(table)

    config = dataclasses.replace(encoder.config, vocab_size=rows)
    return dataclasses.replace(
        parts, modules={**parts.modules, "text_encoder": encoder.clone(config=config)}
    )


def _values(embedding: Embedding, dtype: np.dtype) -> np.ndarray:
    """The vectors, [n, D]."""
    values = read_tensor(embedding.tensor)
    with np.errstate(all="ignore"):
        values = values.astype(dtype).reshape(-1, values.shape[-1])
    if not np.isfinite(values).all():
        raise UserError(f"{shown(embedding.file.path)} has values not finite in {dtype.name}")
    return values
