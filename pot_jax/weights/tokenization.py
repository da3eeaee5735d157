"""Prompts -> token ids, with the tokenizer of the model's folder or another one.

Symbols: n prompts, T tokens each (the text encoder's positions, 77 for Stable Diffusion).
"""

import codecs
import contextlib
import itertools
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pot_jax import checks
from pot_jax.errors import UserError, edge, shown
from pot_jax.weights.formats.kinds import json_object, regular_file

# transformers warns at import that torch is missing; a tokenizer does not need it.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

_SPARE = 128  # fewer embeddings than this may lack a token: a table padded to suit hardware
# Where a user's cache may hold CLIP's vocabulary; all of these are the same.
_MODELS = (
    *("stable-diffusion-v1-5/stable-diffusion-v1-5", "runwayml/stable-diffusion-v1-5"),
    *("CompVis/stable-diffusion-v1-4", "stabilityai/stable-diffusion-2-1"),
    *("stabilityai/stable-diffusion-2-1-base", "stabilityai/stable-diffusion-2"),
    "stabilityai/stable-diffusion-2-base",
)
_CACHED = {"openai/clip-vit-large-patch14": "", **dict.fromkeys(_MODELS, "tokenizer/")}


def given_tokenizer(folder: str | Path, name: str = "tokenizer") -> Path:
    """Returns a tokenizer's folder in what a user gives, it or a model's; UserError if absent.

    Of a model, that is its `name`, or if it has none, its `tokenizer`.
    """
    folder = Path(checks.checked(folder, checks.Path, "tokenizer"))
    if not folder.is_dir():
        raise UserError(f"there is no tokenizer folder {shown(folder)}")
    inside = [folder / part for part in (name, "tokenizer") if (folder / part).is_dir()]
    return (*inside, folder)[0]


def cached_tokenizer() -> Path | None:
    """Returns the folder of CLIP's tokenizer in the local Hugging Face cache, if it is there."""
    from huggingface_hub import try_to_load_from_cache

    names = ("vocab.json", "merges.txt")
    for repository, folder in _CACHED.items():
        files = [try_to_load_from_cache(repository, folder + name) for name in names]
        if all(isinstance(file, str) for file in files):  # others are absent, or known not to exist
            return Path(files[0]).parent
    return None


def read_tokenizer(folder: Path, positions: int, vocabulary: int, pad: str | None = None) -> Any:
    """Reads the `CLIPTokenizer` in a folder; fetches nothing, and runs no code in the folder.

    Args:
      folder: holds `tokenizer.json`, or `vocab.json` and `merges.txt`.
      positions: how many tokens the text encoder takes; limits `model_max_length`.
      vocabulary: how many tokens the text encoder has an embedding for.
      pad: the token that prompts are padded with; by default the folder's own.

    Raises UserError if files are missing or damaged, or tokens and embeddings are not of one model.
    """
    # Importing transformers takes two seconds, so only those who need tokens wait for it.
    from transformers import CLIPTokenizer

    where, whole = shown(folder), folder / "tokenizer.json"
    how = {} if pad is None else {"pad_token": pad}
    for path in [whole] if whole.exists() else [folder / "vocab.json", folder / "merges.txt"]:
        regular_file(path, "tokenizer file")
        if path.suffix == ".json":
            json_object(path)
    path = folder / "tokenizer_config.json"
    settings = json_object(path) if path.exists() else {}
    if "auto_map" in settings:
        raise UserError(f"{shown(path)} asks to run code (auto_map); remove that entry")
    for key in ("vocab_file", "merges_file", "tokenizer_file"):
        place = settings.get(key)
        if place is not None and (not isinstance(place, str) or Path(place).name != place):
            expected = "expected a file name in the tokenizer's own folder"
            raise UserError(f"{shown(path)}: {key} is {shown(place)!r}; {expected}")
    with edge("reading a tokenizer", folder), _without_marks(folder) as place:
        tokenizer = CLIPTokenizer.from_pretrained(str(place), local_files_only=True, **how)
        ids = tokenizer.get_vocab().values()
        highest = max(ids)
    # Otherwise ids would stand for other words than in training.
    if len(ids) + _SPARE <= vocabulary or highest >= vocabulary:
        has = f"{len(ids)} tokens with ids up to {highest}, the text encoder embeddings for"
        belong = f"{vocabulary}; the two do not belong together"
        raise UserError(f"the tokenizer in {where} has {has} {belong}")
    for key in ("local_files_only", "is_local"):  # transformers would save them as settings
        tokenizer.init_kwargs.pop(key, None)
    tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    return tokenizer


@contextlib.contextmanager
def _without_marks(folder: Path) -> Iterator[Path]:
    """Yields a folder whose text has no byte order marks, which transformers cannot read."""
    files = [*folder.glob("*.json"), *folder.glob("*.txt")]
    texts = {path.name: path.read_bytes() for path in files if path.is_file()}
    if not any(text.startswith(codecs.BOM_UTF8) for text in texts.values()):
        yield folder
        return
    with tempfile.TemporaryDirectory() as copy:
        for name, text in texts.items():
            (Path(copy) / name).write_bytes(text.removeprefix(codecs.BOM_UTF8))
        yield Path(copy)


def write_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Writes a `CLIPTokenizer`'s files: those of transformers 5, and two for older readers."""
    tokenizer.save_pretrained(str(folder))
    tokenizer.backend_tokenizer.model.save(str(folder))


def tokenize(
    tokenizer: Any, prompts: Sequence[str], instead: str = "shorten the prompt"
) -> np.ndarray:
    """Returns the token ids of n prompts, int32 [n, T], with start and end tokens and padding.

    `tokenizer` is a model's `CLIPTokenizer`; T is its `model_max_length`. "" gives the ids of the
    empty prompt. A learned word of several vectors becomes all its tokens (`textual_inversion.py`).
    Raises UserError, with what would be cut and what to do `instead`, if a prompt is too long.
    """
    if isinstance(prompts, str) or not all(isinstance(prompt, str) for prompt in prompts):
        raise UserError(f"a list of prompts was expected, got {shown(repr(prompts))}")
    length = tokenizer.model_max_length
    ids = np.full((len(prompts), length), tokenizer.pad_token_id, np.int32)
    encoded = tokenizer(list(prompts), verbose=False)["input_ids"] if len(prompts) else []
    several = words_of_several_tokens(tokenizer)
    for number, (prompt, tokens) in enumerate(zip(prompts, encoded)):
        tokens = [part for token in tokens for part in several.get(token, (token,))]
        require_fits(tokenizer, tokens, number, prompt, instead)
        ids[number, : len(tokens)] = tokens
    return ids


def require_fits(
    tokenizer: Any, tokens: Sequence[int], number: int, prompt: str, instead: str
) -> None:
    """Raises UserError if a prompt's tokens are too many, start and end included; as `tokenize`."""
    length = tokenizer.model_max_length
    if len(tokens) > length:
        # The end token stays, so what would be cut lies before it.
        cut = " ".join(tokenizer.decode(tokens[length - 1 : -1]).split())
        counts = f"has {len(tokens) - 2} tokens, the model takes {length - 2}"
        how = f"'{shown(cut)}' would be cut: {instead}"
        raise UserError(f"prompt {number} ({shown(prompt[:60])}...) {counts}; {how}")


_WEIGHTED = r"\([^()]*:\s*[-+]?[\d.]+\s*\)|\(\([^()]*\)\)|\[\[[^][]*\]\]"
# What other programs read in prompts, and CLIP as words -> what to do instead.
_SYNTAX = (
    (r"<(?:lora|lyco):([^:>]+):?([^:>]*)[^>]*>", "merge it with --lora={}:{}, {} being its path"),
    (r"<hypernet:[^>]*>", "hypernetworks are not supported"),
    (r"\bembedding:(\S+)", "add it with --embedding=PATH:{}"),
    (_WEIGHTED, "words have no weights without --prompt_weights"),
    (r"\bBREAK\b", "chunks begin there with --long_prompts"),
    (r"\[[^][]*:[^][]*[\d.]+\s*\]|\[[^][|]*\|[^][]*\]", "a prompt is the same in all steps"),
)
_WHOLE_WORDS = 10_000  # a vocabulary smaller than this has every word of its captions as one token


def prompt_notices(
    tokenizer: Any, prompts: Sequence[str], *, weighted: bool = False, long: bool = False
) -> tuple[str, ...]:
    """Returns what the user should be told of prompts, a line each.

    That is syntax of other programs, which is read as words, and words that the model does not
    know: those with the tokenizer's unknown token, and if its vocabulary is small, those in pieces.
    Weights and chunks are not told of where they are read (`emphasis.read_prompts`).
    """
    notices = []
    meant = ("words have no weights",) * weighted + ("chunks begin",) * long
    for pattern, instead in (row for row in _SYNTAX if not row[1].startswith(meant)):
        for match in (match for prompt in prompts for match in re.finditer(pattern, prompt)):
            name, strength = (*match.groups(), "", "")[:2]
            how = instead.format(name, strength or "1", name)
            notices.append(f"{shown(match[0])} in a prompt is read as words; {how}")
    unknown: dict[str, None] = {}  # in their order
    small = len(tokenizer.get_vocab()) < _WHOLE_WORDS
    for prompt in (re.sub(r"\bBREAK\b", " ", p) if long else p for p in prompts):
        encoding = tokenizer(prompt, verbose=False).encodings[0]
        for word in dict.fromkeys(word for word in encoding.word_ids if word is not None):
            text = prompt[slice(*encoding.word_to_chars(word))]
            ids = [t for t, w in zip(encoding.ids, encoding.word_ids) if w == word]
            if text.isalpha() and (small and len(ids) > 1 or tokenizer.unk_token_id in ids):
                unknown[text] = None
    if unknown:
        notices.append(f"words that the model does not know: {shown(', '.join(unknown))}")
    return tuple(dict.fromkeys(notices))


def words_of_several_tokens(tokenizer: Any) -> dict[int, list[int]]:
    """Returns the ids of `word`, `word_1`, `word_2`, ... by the first, for every added word."""
    added, words = tokenizer.added_tokens_encoder, {}
    for word, first in added.items():
        rest = itertools.takewhile(added.__contains__, (f"{word}_{i}" for i in itertools.count(1)))
        words[first] = [first, *(added[name] for name in rest)]
    return words
