"""Textual inversion: learned words (arXiv 2208.01618), added to a model as it is loaded.

A file holds n vectors of the text encoder's width D, [D] or [n, D], for one token; for SDXL, n
vectors for each of its text encoders, `clip_l` and `clip_g`. The token is added to the tokenizers,
its vectors to the embedding tables. If n > 1, the other vectors have tokens of their own,
`<token>_1`, `<token>_2`, ..., as in diffusers; a prompt with the first token gets all of them
(`tokenization.tokenize`).
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pot_jax.config import EmbeddingSettings
from pot_jax.errors import UserError, shown
from pot_jax.weights.adapters.files import given_files
from pot_jax.weights.formats.safetensors import Tensor, read_tensor
from pot_jax.weights.model import FAMILIES, Parts
from pot_jax.weights.parameters import Loaded, change_param

_TABLE = ("text_model", "embeddings", "token_embedding", "embedding")
_NAMELESS = "emb_params"  # the key in a file that does not name its token
# The keys in a file for two text encoders, by component.
_PAIR = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}


class Embedding(NamedTuple):
    """One file whose header has been read and checked."""

    file: EmbeddingSettings  # with its token
    tensors: dict[str, Tensor]  # by text encoder
    tokens: list[str]  # one for each vector


def read_embeddings(embeddings: Sequence[Any], parts: Parts) -> list[Embedding]:
    """Reads the headers of embedding files and checks that the tokenizer can take their tokens.

    `embeddings` are as for `given_files`. The default token is the file's own or, if it has none
    (`emb_params`), the file's name without its extension. Raises UserError as `given_files`, if
    there are not vectors of its width for each text encoder, or the tokenizer has the token.
    """
    found: list[Embedding] = []
    encoders = _encoders(parts)
    widths = {name: parts.modules[name].config.hidden_size for name, _ in encoders}
    vocabulary = [word for _, tokenizer in encoders for word in tokenizer.get_vocab()]
    others = [word for _, tokenizer in encoders for word in tokenizer.added_tokens_encoder]
    another = 'give another: ("<token>", path), or --embedding=path:<token>'
    for file, tensors in given_files(embeddings, EmbeddingSettings):
        where = shown(file.path)
        held = _vectors(where, tensors, widths)
        key = next(iter(tensors)) if len(held) == 1 else _NAMELESS
        token = file.token or (Path(file.path).stem if key == _NAMELESS else key)
        if not token.isprintable() or not token or " " in token:
            wrong = f"the token {shown(repr(token))} is not one printable word"
            raise UserError(f"{where}: {wrong}; {another}")
        tokens = [token, *(f"{token}_{i}" for i in range(1, _count(held["text_encoder"])))]
        # Prompts are lower-cased, and "</w>" ends a word.
        earlier = [word for embedding in found for word in embedding.tokens]
        known = {word.lower() for word in (*vocabulary, *earlier)}
        taken = [t for t in tokens if {t.lower(), f"{t.lower()}</w>"} & known]
        # The next token would pass for one of this word's vectors, or this for one of another's.
        added = {word.lower() for word in (*others, *earlier)}
        neighbours = (f"{token}_{len(tokens)}", re.sub(r"_\d+$", "", token))
        taken += [t for t in neighbours if t.lower() in added]
        if taken:
            raise UserError(f"{where}: the tokenizer already has {shown(taken[0])}; {another}")
        found.append(Embedding(dataclasses.replace(file, token=token), held, tokens))
    return found


def _vectors(
    where: str, tensors: Mapping[str, Tensor], widths: Mapping[str, int]
) -> dict[str, Tensor]:
    """Returns an embedding's vectors by text encoder; UserError unless they have its `widths`."""
    pair = {*_PAIR.values()} & tensors.keys()
    if len(tensors) != len(widths) or bool(pair) != (len(widths) > 1) or len(pair) == 1:
        sdxl = "is an embedding for SDXL, which has two text encoders"
        what = sdxl if pair and len(widths) == 1 else f"holds {len(tensors)} tensors"
        keys = ", ".join(map(shown, sorted(tensors)[:3]))
        expected = f"one, named {_NAMELESS} or by its token"
        if len(widths) > 1:
            expected = f"two, {' and '.join(_PAIR.values())}, one for each text encoder"
        raise UserError(f"{where} {what} ({keys}); an embedding for this model is {expected}")
    held = {name: tensors[_PAIR[name]] if pair else [*tensors.values()][0] for name in widths}
    for name, width in widths.items():
        shape = held[name].shape
        if len(shape) not in (1, 2) or shape[-1] != width or 0 in shape:
            expected = f"expected [{width}] or [n, {width}], the {name}'s width"
            wrong = f"{where}: the embedding has shape {list(shape)}, {expected}"
            raise UserError(f"{wrong}; it is for another kind of model")
    counts = {_PAIR[name]: _count(tensor) for name, tensor in held.items()}
    if len({*counts.values()}) > 1:
        has = " and ".join(f"{count} vectors in {key}" for key, count in counts.items())
        raise UserError(f"{where} has {has}, of which one half is missing; get the file again")
    return held


def _count(vectors: Tensor) -> int:
    return math.prod(vectors.shape[:-1])


def _encoders(parts: Parts) -> list[tuple[str, Any]]:
    """Returns the text encoders' names, and their tokenizers."""
    encoders = FAMILIES[parts.pipeline].encoders
    return [(encoder.component, getattr(parts, encoder.tokenizer)) for encoder in encoders]


def add_tokens(embeddings: Sequence[Embedding], parts: Parts) -> Parts:
    """Adds the tokens to the parts' tokenizers in place; returns parts whose encoders have room."""
    if not embeddings:
        return parts
    tokens = [token for embedding in embeddings for token in embedding.tokens]
    modules = dict(parts.modules)
    for name, tokenizer in _encoders(parts):
        tokenizer.add_tokens(tokens)
        config = modules[name].config
        highest = max(tokenizer.convert_tokens_to_ids(tokens))
        config = dataclasses.replace(config, vocab_size=max(config.vocab_size, highest + 1))
        modules[name] = modules[name].clone(config=config)
    return dataclasses.replace(parts, modules=modules)


def add_vectors(embeddings: Sequence[Embedding], parts: Parts, loaded: Loaded) -> None:
    """Writes the vectors into the embedding tables, which are replaced in the `loaded` parameters.

    The parts are from `add_tokens`. Raises UserError if a vector is not finite in its dtype.
    """

    def lengthened(old: np.ndarray, name: str, tokenizer: Any) -> np.ndarray:
        table = np.zeros((parts.modules[name].config.vocab_size, old.shape[1]), old.dtype)
        table[: len(old)] = old
        for file, tensors, tokens in embeddings:
            ids = tokenizer.convert_tokens_to_ids(tokens)
            with np.errstate(all="ignore"):
                table[ids] = read_tensor(tensors[name]).astype(old.dtype)
            if not np.isfinite(table[ids]).all():
                raise UserError(f"{shown(file.path)} has values not finite in {old.dtype.name}")
        return table

    for name, tokenizer in _encoders(parts) if embeddings else ():
        change = partial(lengthened, name=name, tokenizer=tokenizer)
        change_param(loaded, (name, *_TABLE), change)
