"""The model's own vocabulary: byte-level BPE as CLIP's, learnt from captions.

CLIP's 49408 tokens would be most of a small model's weights, and nearly all of them never seen. The
tokenizer that comes out has CLIP's rules (lower case, one word at a time, `</w>` at a word's end)
and CLIP's files, so transformers' `CLIPTokenizer` and any diffusers pipeline load it as it is.

Ids: 256 bytes, the same 256 at a word's end, the learnt merges in order, then the two specials,
`<|startoftext|>` and `<|endoftext|>`, which also pads; CLIP numbers its own in the same order.
"""

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from pot_jax.errors import UserError

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
# Every byte, and every byte ending a word, is a token, so that no text is unknown.
BASE_TOKENS = 2 * 256


def check_sizes(vocabulary: int, length: int) -> None:
    """Raises UserError where the vocabulary or a prompt has no room for what must be in it."""
    least = BASE_TOKENS + 2
    if vocabulary < least:
        raise UserError(
            f"tokenizer.vocabulary must be at least {least} (all bytes, all bytes ending a word, "
            f"two specials), got {vocabulary}"
        )
    if length < 3:
        raise UserError(f"tokenizer.length must be at least 3 (start, one word, end), got {length}")


def train_tokenizer(captions: Iterable[str], vocabulary_size: int, length: int) -> CLIPTokenizer:
    """Learn a vocabulary from captions.

    Args:
      captions: the texts to learn from; the same captions give the same vocabulary.
      vocabulary_size: the most tokens it may have, the two specials among them. It may come out
        smaller: once every word of the captions is one token there is nothing left to merge.
      length: tokens in a prompt (`model_max_length`), the two specials among them.

    Returns:
      A `CLIPTokenizer`.

    Raises:
      UserError: as `check_sizes`.
    """
    check_sizes(vocabulary_size, length)
    rules = CLIPTokenizer().backend_tokenizer
    learner = Tokenizer(models.BPE(end_of_word_suffix=WORD_END))
    learner.normalizer, learner.pre_tokenizer = rules.normalizer, rules.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    word_ends = [letter + WORD_END for letter in alphabet]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - 2,
        initial_alphabet=alphabet,
        # Declared beforehand, or the trainer numbers the word ends in a hash map's order, and the
        # merges of equal count would come out differently every time.
        special_tokens=word_ends,
        end_of_word_suffix=WORD_END,
        show_progress=False,
    )
    learner.train_from_iterator(captions, trainer)
    merges = json.loads(learner.to_str())["model"]["merges"]
    tokens = [*alphabet, *word_ends, *(left + right for left, right in merges), START, END]
    vocabulary = {token: id for id, token in enumerate(tokens)}
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=[tuple(merge) for merge in merges],
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=length,
    )
