"""Weights and chunks of prompts, against a second reading of AUTOMATIC1111's rules."""

import json
import random

import emphasis_oracle as oracle
import numpy as np
import pytest
from tiny_models import POSITIONS, tiny_model, write_tiny_tokenizer

from pot_jax.config import RunSettings
from pot_jax.errors import UserError
from pot_jax.pipelines.conditions import text_conditions
from pot_jax.weights.emphasis import plain_prompts, read_prompts, weighted_texts
from pot_jax.weights.tokenization import read_tokenizer, tokenize


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The tiny tokenizer with CLIP's 77 tokens."""
    folder = tmp_path_factory.mktemp("long")
    write_tiny_tokenizer(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": 77}))
    return read_tokenizer(folder, 77, 80)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tokenizer"))


def test_the_published_examples():
    def read(text):
        return [[t, pytest.approx(w, abs=1e-12)] for t, w in weighted_texts(text)]

    assert read("normal text") == [["normal text", 1.0]]
    assert read("an (important) word") == [["an ", 1.0], ["important", 1.1], [" word", 1.0]]
    assert read("(unbalanced") == [["unbalanced", 1.1]]
    assert read(r"\(literal\]") == [["(literal]", 1.0]]
    assert read("(unnecessary)(parens)") == [["unnecessaryparens", 1.1]]
    assert read("a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).") == [
        ["a ", 1.0], ["house", 1.573], [" ", 1.1], ["on", 1.0], [" a ", 1.1], ["hill", 0.55],
        [", sun, ", 1.1], ["sky", 1.4641], [".", 1.1],
    ]  # fmt: skip
    assert read("") == [["", 1.0]]


def test_any_text_has_the_oracles_weights():
    rng = random.Random(0)
    pieces = [*"ab ,():[]\\", ":1.2)", ": .5 )", ":-1)", ":2", "\\(", "\\]", "((", "))"]
    for _ in range(3000):
        text = "".join(rng.choices(pieces, k=rng.randint(0, 14)))
        read = [(letter, w) for part, w in weighted_texts(text) for letter in part]
        wanted = oracle.letters(text)
        assert [letter for letter, _ in read] == [letter for letter, _ in wanted], text
        np.testing.assert_allclose([w for _, w in read], [w for _, w in wanted], err_msg=text)


def test_any_prompt_has_the_oracles_chunks(tokenizer):
    rng, comma = random.Random(1), tokenizer.get_vocab()[",</w>"]
    several = 0
    for _ in range(300):
        parts = [
            " ".join(rng.choices(["a", "star", "b", ","], [9, 9, 9, rng.choice([0, 1, 9])], k=n))
            for n in rng.choices([0, 3, 74, 75, 76, 95, 160], k=rng.choice([1, 1, 2, 3]))
        ]
        prompt = " BREAK ".join(parts)
        encoded = [
            tokenizer(p, add_special_tokens=False, verbose=False)["input_ids"] for p in parts
        ]
        wanted = oracle.chunks(encoded, comma, 75)
        ids, weights = read_prompts(tokenizer, [prompt, ""], weighted=True, long=True)
        ids = ids.reshape(2, -1, 77)
        assert weights is None
        assert len(ids[0]) == len(wanted)
        end = tokenizer.eos_token_id
        for row, tokens in zip(ids[0], wanted):
            assert row.tolist() == [tokenizer.bos_token_id, *tokens] + [end] * (76 - len(tokens))
        assert (ids[1] == tokenize(tokenizer, [""])[0]).all(), "filled up with the empty prompt"
        several += len(wanted) > 1
    assert several > 100


def test_weights_go_with_their_tokens(tokenizer):
    ids, weights = read_prompts(tokenizer, ["a (star b:1.5) [a]"], weighted=True, long=False)
    np.testing.assert_array_equal(ids, tokenize(tokenizer, ["a star b a"]))
    np.testing.assert_allclose(weights[0, :7], [1, 1, 1.5, 1.5, 1 / 1.1, 1, 1], rtol=1e-6)
    assert (weights[0, 7:] == 1).all()


def test_without_flags_or_use_nothing_changes(model):
    prompts = ["a (b)", "star"]
    ids, weights = read_prompts(model.tokenizer, prompts, weighted=False, long=False)
    np.testing.assert_array_equal(ids, tokenize(model.tokenizer, prompts))
    assert weights is None
    usual = text_conditions(model, ["a", "star"], "t", 4.0)
    used = text_conditions(model, ["a", "star"], "t", 4.0, weighted=True, long=True)
    assert used.read == usual.read
    states = (np.asarray(c.arrays["text_states"]) for c in (used, usual))
    np.testing.assert_array_equal(*states)


def test_states_are_weighted_and_their_mean_restored(model):
    plain_states = text_conditions(model, ["a star", "b"], "", 1.0).arrays["text_states"]
    told = text_conditions(model, ["a (star:1.4)", "[b]"], "", 1.0, weighted=True)
    for level, weights in enumerate(([1, 1, 1.4, 1, 1, 1, 1, 1], [1, 1 / 1.1, 1, 1, 1, 1, 1, 1])):
        wanted = oracle.weighted(np.asarray(plain_states[level]), np.array(weights))
        np.testing.assert_allclose(told.arrays["text_states"][level], wanted, rtol=1e-4, atol=1e-5)
    assert told.read != text_conditions(model, ["a star", "b"], "", 1.0).read


def test_chunks_are_encoded_apart_and_laid_side_by_side(model):
    told = text_conditions(model, ["a b c d e f star", "a"], "t", 4.0, long=True)
    states = np.asarray(told.arrays["text_states"])
    assert states.shape == (4, 2 * POSITIONS, 16)
    alone = text_conditions(model, ["a b c d e f", "star", "a", ""], "t", 4.0).arrays["text_states"]
    first, second, short, empty = np.asarray(alone)[4:]
    np.testing.assert_allclose(states[2], np.concatenate([first, second]), atol=1e-5)
    np.testing.assert_allclose(states[3], np.concatenate([short, empty]), atol=1e-5)


@pytest.mark.parametrize(
    ("prompt", "how", "words"),
    [
        ("a b c d e f star", {}, "'star' would be cut: shorten the prompt, or read it in chunks"),
        ("a b c d (e f:1.2) star", {"weighted": True}, "has 7 tokens, the model takes 6"),
        ("(a:1.2.3)", {"weighted": True}, "a weight in a prompt: expected a number such as 1.2"),
        ("(a:.)", {"weighted": True}, "a weight in a prompt: expected a number"),
        ("(a:999)", {"weighted": True}, "expected a number from -100 to 100"),
        ("(" * 60 + "a", {"weighted": True}, "expected a number from -100 to 100"),
    ],
)
def test_mistakes_are_one_line(model, prompt, how, words):
    with pytest.raises(UserError) as raised:
        read_prompts(model.tokenizer, [prompt], **{"weighted": False, "long": False, **how})
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_words_alone():
    told = {"prompts": ["a (star:1.2) BREAK [b] \\(c\\)"]}
    assert plain_prompts(RunSettings(**told)) == tuple(told["prompts"])
    read = RunSettings(**told, prompt_weights=True, long_prompts=True)
    assert plain_prompts(read) == ("a star b (c)",)
