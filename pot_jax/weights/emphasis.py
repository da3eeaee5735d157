r"""Weighted words in prompts, and prompts longer than the text encoder, as AUTOMATIC1111 has them.

    (word)  1.1     (word:1.3)  1.3     [word]  1/1.1     \( \) \[ \] \\  the character
    BREAK   begins the next chunk

Brackets nest: weights multiply. A chunk is what the text encoder takes at once, T tokens, of which
two are the start and the end. Rules: AUTOMATIC1111's wiki, "Features: attention/emphasis, infinite
prompt length"; `tests/emphasis_oracle.py` has them a second time.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from pot_jax.checks import require
from pot_jax.config import RunSettings
from pot_jax.weights.tokenization import require_fits, tokenize, words_of_several_tokens

_BREAK = re.compile(r"\s*\bBREAK\b\s*")
_PARTS = re.compile(r"\\([][\\()]?)|([([])|:\s*([+-]?[.\d]+)\s*\)|([])])|[^][\\():]+|:")
_BACKTRACK = 20  # tokens after a comma that go into the next chunk with it (A1111's default)
_HIGHEST = 100  # weight; far above it the network sees nothing but that word, or overflows


def weighted_texts(prompt: str) -> list[tuple[str, float]]:
    """Returns the texts of a prompt with their weights; neighbours of one weight are one text.

    Raises UserError if a weight is no number, or above 100.
    """
    texts: list[tuple[str, float]] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}  # bracket -> the first text in each

    def close(bracket: str, factor: float) -> None:
        first = opened[bracket].pop()
        texts[first:] = [(text, weight * factor) for text, weight in texts[first:]]

    usual = {"(": 1.1, "[": 1 / 1.1}
    for part in _PARTS.finditer(prompt):
        escaped, opening, weight, closing = part.groups()
        bracket = "(" if weight or closing == ")" else "["
        if opening:
            opened[opening].append(len(texts))
        elif (weight or closing) and opened[bracket]:
            number = re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", weight or "1")
            require(bool(number), "a weight in a prompt", "a number such as 1.2", weight)
            close(bracket, float(weight) if weight else usual[bracket])
        else:
            texts.append((part[0] if escaped is None else escaped, 1.0))
    for bracket in usual:  # those left open reach to the end
        while opened[bracket]:
            close(bracket, usual[bracket])
    joined: list[tuple[str, float]] = []
    for text, weight in texts or [("", 1.0)]:
        expected = f"a number from -{_HIGHEST} to {_HIGHEST}, brackets multiplied"
        require(abs(weight) <= _HIGHEST, "a weight in a prompt", expected, weight)
        if joined and joined[-1][1] == weight:
            text = joined.pop()[0] + text
        joined.append((text, weight))
    return joined


def plain_prompts(settings: RunSettings) -> tuple[str, ...]:
    """Returns a run's prompts without the marks that it reads as weights and chunks."""
    texts = settings.prompts
    if settings.prompt_weights:
        texts = ("".join(text for text, _ in weighted_texts(prompt)) for prompt in texts)
    return tuple(_BREAK.sub(" ", text) if settings.long_prompts else text for text in texts)


def _chunks(tokenizer, prompt: str, weighted: bool, long: bool) -> list[list[tuple[int, float]]]:
    """Returns the (id, weight) of a prompt's tokens by chunk: one, or if `long`, T - 2 in each."""
    room, comma = tokenizer.model_max_length - 2, tokenizer.get_vocab().get(",</w>")
    several = words_of_several_tokens(tokenizer)
    done, chunk, after_comma = [], [], 0

    def end(length: int) -> None:
        nonlocal chunk, after_comma
        done.append(chunk[:length])
        chunk, after_comma = chunk[length:], 0

    for text, weight in weighted_texts(prompt) if weighted else [(prompt, 1.0)]:
        for number, piece in enumerate(_BREAK.split(text) if long else [text]):
            if number:
                end(len(chunk))
            for first in tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"]:
                word = several.get(first, [first])  # stays together
                full, near = len(chunk) == room, room - after_comma < _BACKTRACK
                if first == comma:
                    after_comma = len(chunk) + 1
                elif long and full and after_comma and near:
                    end(after_comma)
                if long and chunk and len(chunk) + len(word) > room:
                    end(len(chunk))
                chunk += [(token, weight) for token in word]
    return [*done, chunk] if chunk or not done else done


def read_prompts(
    tokenizer: Any, prompts: Sequence[str], *, weighted: bool, long: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the token ids of n prompts, and their weights, None if all are 1.

    Brackets weigh words if `weighted`; prompts may have several chunks, and BREAK begins one, if
    `long`. int32 and float32 [n, T], or, where a prompt has several chunks, [n, k, T]: shorter ones
    are filled up with the empty prompt. Prompts that use neither have the ids of
    `tokenization.tokenize`. Raises UserError if a prompt is too long, or a weight is no number.
    """
    instead = "shorten the prompt, or read it in chunks with --long_prompts"
    if not weighted and not long:
        return tokenize(tokenizer, prompts, instead), None
    start, end, pad = (getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad"))
    chunked = [_chunks(tokenizer, prompt, weighted, long) for prompt in prompts]
    most, length = max(map(len, chunked), default=1), tokenizer.model_max_length
    ids = np.full((len(prompts), most, length), pad, np.int32)
    weights = np.ones(ids.shape, np.float32)
    ids[..., 0], ids[..., 1] = start, end
    for row, chunks in enumerate(chunked):
        for number, chunk in enumerate(chunks):
            tokens = [start, *(token for token, _ in chunk), end]
            require_fits(tokenizer, tokens, row, prompts[row], instead)
            ids[row, number, : len(tokens)] = tokens
            weights[row, number, 1 : len(chunk) + 1] = [weight for _, weight in chunk]
    if most == 1:
        ids, weights = ids[:, 0], weights[:, 0]
    return ids, weights if (weights != 1).any() else None
