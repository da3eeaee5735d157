import json

import pytest
from transformers import CLIPTokenizer

from pot_jax.training.descriptions import END, START, train_tokenizer
from pot_jax.training.settings import TokenizerSettings
from pot_jax.weights.tokenization import write_tokenizer

CAPTIONS = [
    "a spiral galaxy with violet arms, seen from afar",
    "a red ladybug on a green leaf, close up",
    "an island in a blue sea, from above",
] * 4
# Never seen in training: digits, punctuation, other scripts, odd spacing, the empty prompt.
STRANGE = ["", "Zebra  42!", "don't\tPANIC", "é 漢字 😀", "a<|endoftext|>b"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(CAPTIONS, TokenizerSettings(700, 16))


def test_common_words_become_one_token(tokenizer):
    ids = tokenizer("a red ladybug on a green leaf")["input_ids"]
    assert len(ids) == 7 + 2
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id


def test_the_specials_come_last_as_in_clip(tokenizer):
    assert tokenizer.convert_tokens_to_ids([START, END]) == [len(tokenizer) - 2, len(tokenizer) - 1]
    assert tokenizer.pad_token == END


def test_the_same_captions_give_the_same_vocabulary(tokenizer):
    assert (
        train_tokenizer(CAPTIONS, TokenizerSettings(700, 16)).get_vocab() == tokenizer.get_vocab()
    )


@pytest.mark.parametrize("size", [514, 530, 5000])
def test_the_vocabulary_never_exceeds_its_size(size):
    learned = train_tokenizer(CAPTIONS, TokenizerSettings(size, 16))
    assert 514 <= len(learned) <= size
    assert sorted(learned.get_vocab().values()) == list(range(len(learned)))


def test_any_text_is_known_byte_by_byte(tokenizer):
    ids = tokenizer("é 漢字 😀 Zebra", add_special_tokens=False)["input_ids"]
    assert tokenizer.eos_token_id not in ids  # which is also "unknown"


def test_transformers_reads_it_back_the_same(tokenizer, tmp_path):
    write_tokenizer(tokenizer, tmp_path)
    found = CLIPTokenizer.from_pretrained(tmp_path)
    settings = {"padding": "max_length", "truncation": True, "max_length": 16}
    texts = CAPTIONS + STRANGE
    assert found(texts, **settings)["input_ids"] == tokenizer(texts, **settings)["input_ids"]
    assert found.model_max_length == 16
    assert json.loads((tmp_path / "vocab.json").read_text()) == tokenizer.get_vocab()


@pytest.mark.parametrize(("size", "length", "words"), [(513, 16, "514"), (600, 2, "at least 3")])
def test_impossible_sizes_are_refused(size, length, words):
    with pytest.raises(ValueError, match=words):
        train_tokenizer(CAPTIONS, TokenizerSettings(size, length))
