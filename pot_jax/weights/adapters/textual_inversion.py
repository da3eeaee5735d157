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
    (`emb_params`), the file's name without its extension. Raises UserError as `given_files`, if the
    vectors do not have the text encoder's width, or if the tokenizer already has the token.
    """
    found: list[Embedding] = []
    width = parts.modules["text_encoder"].config.hidden_size
    another = 'give another: ("<token>", path), or --embedding=path:<token>'
    for file, tensors in given_files(embeddings, EmbeddingSettings):
        where = shown(file.path)
        two = {"clip_l", "clip_g"} & tensors.keys()
        if two or len(tensors) != 1:
            sdxl = "is an embedding for SDXL, which has two text encoders"
            what = sdxl if two else f"holds {len(tensors)} tensors"
            keys = ", ".join(map(shown, sorted(tensors)[:3]))
            expected = f"an embedding for this model is one, named {_NAMELESS} or by its token"
            raise UserError(f"{where} {what} ({keys}); {expected}")
        ((key, tensor),) = tensors.items()
        shape = tensor.shape
        if len(shape) not in (1, 2) or shape[-1] != width or 0 in shape:
            expected = f"expected [{width}] or [n, {width}], the text encoder's width"
            wrong = f"{where}: the embedding has shape {list(shape)}, {expected}"
            raise UserError(f"{wrong}; it is for another kind of model")
        token = file.token or (Path(file.path).stem if key == _NAMELESS else key)
        if not token.isprintable() or not token or " " in token:
            wrong = f"the token {shown(repr(token))} is not one printable word"
            raise UserError(f"{where}: {wrong}; {another}")
        tokens = [token, *(f"{token}_{i}" for i in range(1, math.prod(shape[:-1])))]
        # Prompts are lower-cased, and "</w>" ends a word.
        earlier = [word for embedding in found for word in embedding.tokens]
        known = {word.lower() for word in (*parts.tokenizer.get_vocab(), *earlier)}
        taken = [t for t in tokens if {t.lower(), f"{t.lower()}</w>"} & known]
        # The next token would pass for one of this word's vectors, or this for one of another's.
        added = {word.lower() for word in (*parts.tokenizer.added_tokens_encoder, *earlier)}
        neighbours = (f"{token}_{len(tokens)}", re.sub(r"_\d+$", "", token))
        taken += [t for t in neighbours if t.lower() in added]
        if taken:
            raise UserError(f"{where}: the tokenizer already has {shown(taken[0])}; {another}")
        found.append(Embedding(dataclasses.replace(file, token=token), tensor, tokens))
    return found


def add_tokens(embeddings: Sequence[Embedding], parts: Parts) -> Parts:
    """Adds the tokens to the parts' tokenizer in place; returns parts whose encoder has room."""
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
