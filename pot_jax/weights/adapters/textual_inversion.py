"""Textual inversion: learned words (arXiv 2208.01618), added to a model as it is loaded.

A file holds n vectors of the text encoder's width D, [D] or [n, D], for one token. The token is
added to the tokenizer, its vectors to the embedding table. If n > 1, the other vectors have tokens
of their own, `<token>_1`, `<token>_2`, ..., as in diffusers; a prompt with the first token gets all
of them (`tokenization.tokenize`).
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pot_jax.config import EmbeddingSettings
from pot_jax.errors import UserError, shown
from pot_jax.weights.adapters.files import given_files
from pot_jax.weights.formats.safetensors import Tensor, read_tensor
from pot_jax.weights.model import Parts
from pot_jax.weights.parameters import Loaded, change_param

_TABLE = ("text_encoder", "text_model", "embeddings", "token_embedding", "embedding")
_NAMELESS = "emb_params"  # the key in a file that does not name its token


class Embedding(NamedTuple):
    """One file whose header has been read and checked."""

    file: EmbeddingSettings  # with its token
    tensor: Tensor
    tokens: list[str]  # one for each vector


def read_embeddings(embeddings: Sequence[Any], parts: Parts) -> list[Embedding]:
    """Reads the headers of embedding files and checks that the tokenizer can take their tokens.

    `embeddings` are as for `given_files`. The default token is the file's own or, if it has none
    (`emb_params`), the file's name without its extension. Raises UserError if a file is missing,
    damaged or of another kind, its vectors do not have the text encoder's width, or its token is a
    word that the tokenizer already has.
    """
    found = []
    for file, tensors in given_files(embeddings, EmbeddingSettings):
        width = parts.modules["text_encoder"].config.hidden_size
        key, tensor = _only_tensor(file, tensors, width)
        own = Path(file.path).stem if key == _NAMELESS else key
        file = dataclasses.replace(file, token=file.token or own)
        count = math.prod(tensor.shape[:-1])
        tokens = [file.token, *(f"{file.token}_{i}" for i in range(1, count))]
        _check_new(file, tokens, parts.tokenizer, [t for other in found for t in other.tokens])
        found.append(Embedding(file, tensor, tokens))
    return found


def _only_tensor(file: EmbeddingSettings, tensors, width) -> tuple[str, Tensor]:
    """Returns a file's one tensor, [width] or [n, width], and its key."""
    where, keys = shown(file.path), sorted(tensors)
    two = {"clip_l", "clip_g"} & tensors.keys()
    if two or len(tensors) != 1:
        sdxl = "is an embedding for SDXL, which has two text encoders"
        what = sdxl if two else f"holds {len(tensors)} tensors"
        expected = f"an embedding for this model is one, named {_NAMELESS} or by its token"
        raise UserError(f"{where} {what} ({', '.join(map(shown, keys[:3]))}); {expected}")
    ((key, tensor),) = tensors.items()
    shape = tensor.shape
    if len(shape) not in (1, 2) or shape[-1] != width or 0 in shape:
        expected = f"expected [{width}] or [n, {width}], the text encoder's width"
        wrong = f"{where}: the embedding has shape {list(shape)}, {expected}"
        raise UserError(f"{wrong}; it is for another kind of model")
    return key, tensor


def _check_new(file: EmbeddingSettings, tokens, tokenizer, earlier) -> None:
    """Raises UserError unless the tokens are single words that are not in use."""
    where = shown(file.path)
    another = 'give another: ("<token>", path), or --embedding=path:<token>'
    if not file.token.isprintable() or not file.token or " " in file.token:
        token = f"the token {shown(repr(file.token))}"
        raise UserError(f"{where}: {token} is not one printable word; {another}")
    # Prompts are lower-cased, and "</w>" ends a word.
    known = {token.lower() for token in (*tokenizer.get_vocab(), *earlier)}
    taken = [t for t in tokens if {t.lower(), f"{t.lower()}</w>"} & known]
    # The next token would pass for one of this word's vectors, or this word for one of another's.
    added = {token.lower() for token in (*tokenizer.added_tokens_encoder, *earlier)}
    neighbours = (f"{file.token}_{len(tokens)}", re.sub(r"_\d+$", "", file.token))
    taken += [t for t in neighbours if t.lower() in added]
    if taken:
        raise UserError(f"{where}: the tokenizer already has {shown(taken[0])}; {another}")


def add_tokens(embeddings: Sequence[Embedding], parts: Parts) -> Parts:
    """Returns the parts with a text encoder that has a place for each token of `embeddings`.

    The tokens are added to the parts' tokenizer in place.
    """
    if not embeddings:
        return parts
    tokens = [token for embedding in embeddings for token in embedding.tokens]
    parts.tokenizer.add_tokens(tokens)
    encoder = parts.modules["text_encoder"]
    highest = max(parts.tokenizer.convert_tokens_to_ids(tokens))
    size = max(encoder.config.vocab_size, highest + 1)
    encoder = encoder.clone(config=dataclasses.replace(encoder.config, vocab_size=size))
    return dataclasses.replace(parts, modules={**parts.modules, "text_encoder": encoder})


def add_vectors(embeddings: Sequence[Embedding], parts: Parts, loaded: Loaded) -> None:
    """Writes the vectors into the embedding table, which is replaced in the `loaded` parameters.

    The parts are from `add_tokens`. Raises UserError if a vector is not finite in its dtype.
    """
    size = parts.modules["text_encoder"].config.vocab_size

    def lengthened(old: np.ndarray) -> np.ndarray:
        table = np.zeros((size, old.shape[1]), old.dtype)
        table[: len(old)] = old
        for file, tensor, tokens in embeddings:
            ids = parts.tokenizer.convert_tokens_to_ids(tokens)
            with np.errstate(all="ignore"):
                table[ids] = read_tensor(tensor).astype(old.dtype)
            if not np.isfinite(table[ids]).all():
                raise UserError(f"{shown(file.path)} has values not finite in {old.dtype.name}")
        return table

    if embeddings:
        change_param(loaded, _TABLE, lengthened)
