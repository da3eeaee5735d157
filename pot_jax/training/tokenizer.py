"""The model's own vocabulary: byte-level BPE as in CLIP, learned from captions.

CLIP's 49408 tokens would be most of a small model's weights, and nearly all of them unused. The
resulting tokenizer has CLIP's rules (lower case, one word at a time, `</w>` at a word's end)
and CLIP's files, so transformers' `CLIPTokenizer` and any diffusers pipeline load it unchanged.

Ids: 256 bytes, the same 256 at a word's end, the learned merges in order, then the two specials,
`<|startoftext|>` and `<|endoftext|>`, which also pads; CLIP numbers its own in the same order.
"""

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from pot_jax.training.settings import TokenizerSettings

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"


def train_tokenizer(captions: Iterable[str], settings: TokenizerSettings) -> CLIPTokenizer:
    """Learns a vocabulary from captions; the same captions give the same one.

    Its size and a prompt's length, in `settings`, include the two specials. It may come out
    smaller: once every word of the captions is one token there is nothing left to merge.
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
