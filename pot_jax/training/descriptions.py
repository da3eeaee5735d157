"""What is said of the training views: a vocabulary, every caption as token ids, and the labels.

Ids and labels are made once, by several processes, and kept in the run's folder, so that no step
has to make any.

Symbols: n views, P phrasings of each, T tokens of a prompt.
"""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from pot_jax.errors import UserError, edge
from pot_jax.media.files import write_atomically
from pot_jax.runs.claims import named_differences
from pot_jax.training.data import describe_views, finished
from pot_jax.training.settings import TokenizerSettings, TrainSettings
from pot_jax.weights.tokenization import tokenize
from pot_jax.world.captions import labels

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"


def train_tokenizer(captions: Iterable[str], settings: TokenizerSettings) -> CLIPTokenizer:
    """Learns a vocabulary from captions, byte-level BPE as in CLIP; the same give the same one.

    CLIP's 49408 tokens would be most of a small model's weights, and nearly all of them unused. The
    resulting tokenizer has CLIP's rules (lower case, one word at a time, `</w>` at a word's end)
    and CLIP's files, so transformers' `CLIPTokenizer` and any diffusers pipeline load it unchanged.

    Ids: 256 bytes, the same 256 at a word's end, the learned merges in order, then the two
    specials, `<|startoftext|>` and `<|endoftext|>`, which also pads; CLIP numbers its own in the
    same order. The size and a prompt's length, in `settings`, include the specials. The vocabulary
    may be smaller: once every word of the captions is one token there is nothing left to merge.
    """
    rules = CLIPTokenizer().backend_tokenizer
    learner = Tokenizer(models.BPE(end_of_word_suffix=WORD_END))
    learner.normalizer, learner.pre_tokenizer = rules.normalizer, rules.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    word_ends = [letter + WORD_END for letter in alphabet]
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary - 2,
        initial_alphabet=alphabet,
        # Declared in advance: in a hash map's order, merges of equal count would differ every time.
        special_tokens=word_ends,
        end_of_word_suffix=WORD_END,
        show_progress=False,
    )
    learner.train_from_iterator(captions, trainer)
    merges = json.loads(learner.to_str())["model"]["merges"]
    tokens = [*alphabet, *word_ends, *(left + right for left, right in merges), START, END]
    specials = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    return CLIPTokenizer(
        vocab={token: id for id, token in enumerate(tokens)},
        merges=[tuple(merge) for merge in merges],
        model_max_length=settings.length,
        **specials,
    )


class Descriptions(NamedTuple):
    """What is said of n views."""

    ids: np.ndarray  # int16 [P, n, T], the token ids of every phrasing
    classes: dict[str, list[str]]  # of `labels`
    numbers: dict[str, np.ndarray]  # int32 [n] by head, of `labels`


class Table:
    """The file that descriptions are kept in, and, until it is there, the jobs that make them."""

    def __init__(self, path: Path, settings: TrainSettings, processes: Executor):
        """Starts describing the views unless the file is there."""
        self._path, self._settings = path, settings
        found = path.exists()
        self._jobs = [] if found else describe_views(settings.data, settings.seed, processes)

    def read(self, tokenizer: Any) -> Descriptions:
        """Returns the descriptions, made and written if new; UserError if the file has others."""
        words = tokenizer.backend_tokenizer.to_str()
        record = {
            "tokenizer": hashlib.sha256(words.encode()).hexdigest()[:16],
            "phrasings": self._settings.data.phrasings,
            "views": self._settings.data.trained_on,
            "length": tokenizer.model_max_length,
            "seed": self._settings.seed,
        }
        if not self._jobs:
            return self._load(record)
        numbers_of: dict[str, int] = {}  # a text of many views is tokenized once
        chosen, answers = [], []
        for job in self._jobs:
            texts, places, found = finished(job)
            numbers = [numbers_of.setdefault(text, len(numbers_of)) for text in texts]
            chosen.append(np.array(numbers)[places])
            answers += found
        ids = tokenize(tokenizer, list(numbers_of)).astype(np.int16)
        described = Descriptions(ids[np.concatenate(chosen, axis=1)], *labels(answers))
        record = json.dumps(record | {"classes": described.classes})
        with write_atomically(self._path) as temporary:
            np.savez(temporary, record=record, ids=described.ids, **described.numbers)
        return described

    def _load(self, record: dict[str, Any]) -> Descriptions:
        with edge("reading arrays", self._path), open(self._path, "rb") as file:
            arrays = dict(np.load(file))
        try:
            found = json.loads(str(arrays.pop("record")))
            described = Descriptions(arrays.pop("ids"), found.pop("classes"), arrays)
            shape = found["phrasings"], found["views"], found["length"]
            whole = described.ids.shape == shape and described.ids.dtype == np.int16
        except (ValueError, TypeError, LookupError):
            whole = False
        if not whole:
            raise UserError(f"{self._path} holds no descriptions, or not all: delete it")
        if different := named_differences(found, record):
            other = f"describes other views, or in other words ({'; '.join(different)})"
            raise UserError(f"{self._path} {other}: delete it, and it is made again")
        return described
