"""Prompts to ids: as transformers pads them, nothing cut in silence, no torch needed."""

import codecs
import json
import subprocess
import sys

import numpy as np
import pytest
from tiny_models import POSITIONS, write_tiny_tokenizer

from pot_jax.weights.tokenization import (
    prompt_notices,
    read_tokenizer,
    tokenize,
    write_tokenizer,
)

PROMPTS = ["a star", "", "A  Star, 7", "zzz!", "a b c d e f"]


@pytest.fixture
def tokenizer_folder(tmp_path):
    write_tiny_tokenizer(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


@pytest.fixture
def tokenizer(tokenizer_folder):
    return read_tokenizer(tokenizer_folder, POSITIONS, 80)


def test_ids_are_those_of_transformers(tokenizer):
    ids = tokenize(tokenizer, PROMPTS)
    assert ids.dtype == np.int32
    expected = tokenizer(
        PROMPTS, padding="max_length", max_length=POSITIONS, truncation=False, return_tensors="np"
    )
    np.testing.assert_array_equal(ids, expected["input_ids"])


def test_ids_of_a_known_prompt(tokenizer):
    vocabulary = tokenizer.get_vocab()
    start, end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
    words = [vocabulary["a</w>"], vocabulary["star</w>"]]
    assert tokenize(tokenizer, ["a STAR"]).tolist() == [[start, *words, end, end, end, end, end]]


def test_the_pad_token_is_the_models_own(tokenizer_folder):
    # SD 2.x pads with "!", SD 1.x with the end token.
    path = tokenizer_folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pad_token": "!"}))
    ids = tokenize(read_tokenizer(tokenizer_folder, POSITIONS, 80), ["a"])
    assert ids[0].tolist() == [78, 36, 79] + [76] * 5


def test_no_prompts(tokenizer):
    assert tokenize(tokenizer, []).shape == (0, POSITIONS)


def test_the_longest_prompt_fits_and_one_more_is_reported(tokenizer, one_line):
    assert tokenize(tokenizer, ["a b c d e f"])[0, -1] == tokenizer.eos_token_id
    one_line(
        lambda: tokenize(tokenizer, ["a", "a b c d e f star 9"]),
        "prompt 1 (a b c d e f star 9...)",
        "8 tokens",
        "takes 6",
        "'star 9' would be cut",
    )


def test_a_prompt_of_many_lines_is_reported_in_one(tokenizer, one_line):
    one_line(lambda: tokenize(tokenizer, ["a\nb\n" * 1000]), "prompt 0", "takes 6")


@pytest.mark.parametrize("prompts", ["a star", [None], [b"a"], [["a"]]])
def test_what_is_no_list_of_prompts(tokenizer, prompts, one_line):
    one_line(lambda: tokenize(tokenizer, prompts), "list of prompts")


def test_the_text_encoders_positions_limit_the_length(tokenizer_folder):
    assert tokenize(read_tokenizer(tokenizer_folder, 5, 80), ["a"]).shape == (1, 5)
    path = tokenizer_folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    del settings["model_max_length"]
    path.write_text(json.dumps(settings))
    assert tokenize(read_tokenizer(tokenizer_folder, 7, 80), ["a"]).shape == (1, 7)


def test_a_tokenizer_of_another_text_encoder(tokenizer_folder, one_line):
    one_line(
        lambda: read_tokenizer(tokenizer_folder, POSITIONS, 79), "ids up to 79", "embeddings for 79"
    )


def test_written_and_read_again(tokenizer, tmp_path):
    folder = tmp_path / "again"
    folder.mkdir()
    write_tokenizer(tokenizer, folder)
    expected = tokenize(tokenizer, PROMPTS)
    np.testing.assert_array_equal(
        tokenize(read_tokenizer(folder, POSITIONS, 80), PROMPTS), expected
    )
    # The two files alone are what older readers know.
    (folder / "tokenizer.json").unlink()
    np.testing.assert_array_equal(
        tokenize(read_tokenizer(folder, POSITIONS, 80), PROMPTS), expected
    )


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("vocab.json", None, ["vocab.json", "does not exist"]),
        ("merges.txt", None, ["merges.txt", "does not exist"]),
        ("vocab.json", "[1, 2]", ["vocab.json", "not usable JSON"]),
        ("vocab.json", '{"a": "b"}', ["cannot be read"]),
        ("vocab.json", '{"a": -1}', ["cannot be read"]),
        ("vocab.json", "version https://git-lfs.github.com/spec/v1", ["git lfs pull"]),
        ("merges.txt", "#version: 0.2\nq x\n", ["cannot be read"]),
        ("tokenizer.json", "{}", ["cannot be read"]),
        ("tokenizer.json", "<html>", ["tokenizer.json", "not usable JSON"]),
        ("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": "evil.T"}}', ["auto_map"]),
        ("tokenizer_config.json", '{"vocab_file": "/etc/passwd"}', ["vocab_file", "/etc/passwd"]),
        ("tokenizer_config.json", '{"merges_file": "../merges.txt"}', ["merges_file", "../merges"]),
        ("tokenizer_config.json", '{"tokenizer_file": 3}', ["tokenizer_file", "3"]),
    ],
)
def test_bad_files(tokenizer_folder, file, content, words, one_line):
    if content is None:
        (tokenizer_folder / file).unlink()
    else:
        (tokenizer_folder / file).write_text(content)
    one_line(lambda: read_tokenizer(tokenizer_folder, POSITIONS, 80), *words)


def test_no_torch_is_needed_and_none_is_missed(tokenizer_folder):
    program = f"""
import sys
sys.modules.update(torch=None, diffusers=None, tensorflow=None)  # importing them fails
from pathlib import Path
from pot_jax.weights.tokenization import read_tokenizer, tokenize
print(tokenize(read_tokenizer(Path({str(tokenizer_folder)!r}), {POSITIONS}, 80), ["a"]).tolist())
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "[[78, 36, 79, 79, 79, 79, 79, 79]]\n"
    assert run.stderr == ""


# What the user is told ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "notice"),
    [
        (
            "a <lora:x:0.8>",
            "<lora:x:0.8> in a prompt is read as words; merge it with --lora=x:0.8,",
        ),
        ("a <lora:x>", "<lora:x> in a prompt is read as words; merge it with --lora=x:1,"),
        ("a <lyco:x:1:te=0>", "merge it with --lora=x:1"),
        ("a <hypernet:x:1>", "hypernetworks are not supported"),
        (
            "a embedding:x",
            "embedding:x in a prompt is read as words; add it with --embedding=PATH:x",
        ),
        ("a (star:1.3)", "(star:1.3) in a prompt is read as words; words have no weights"),
        ("a ((star))", "((star)) in a prompt is read as words"),
        ("a [[star]]", "[[star]] in a prompt is read as words"),
        (
            "a [a:star:0.5]",
            "[a:star:0.5] in a prompt is read as words; a prompt is the same in all",
        ),
        ("a [a|star]", "[a|star] in a prompt is read as words"),
    ],
)
def test_syntax_of_other_programs_is_named(tokenizer, prompt, notice):
    first = prompt_notices(tokenizer, ["a", prompt, prompt])[0]
    assert notice in first
    assert "\n" not in first


def test_words_that_are_not_known_are_named(tokenizer):
    (notice,) = prompt_notices(tokenizer, ["a star", "star zz, a", "zz é"])
    assert notice == "words that the model does not know: zz, é"
    assert prompt_notices(tokenizer, ["a star, (star) star: a!", ""]) == ()


def test_a_learned_word_is_known(tokenizer):
    tokenizer.add_tokens(["<toy>", "toy"])
    assert prompt_notices(tokenizer, ["a <toy> toy"]) == ()


def test_a_large_vocabulary_may_take_words_apart(tokenizer, monkeypatch):
    monkeypatch.setattr("pot_jax.weights.tokenization._WHOLE_WORDS", 10)
    (notice,) = prompt_notices(tokenizer, ["zz é"])
    assert notice == "words that the model does not know: é"


@pytest.mark.parametrize("old", [True, False])
def test_byte_order_marks_do_not_matter(tokenizer, tmp_path_factory, old):
    tmp_path = tmp_path_factory.mktemp("marked")
    write_tiny_tokenizer(tmp_path) if old else write_tokenizer(tokenizer, tmp_path)
    for file in tmp_path.iterdir():
        file.write_bytes(codecs.BOM_UTF8 + file.read_bytes())
    marked = read_tokenizer(tmp_path, 8, 80)
    np.testing.assert_array_equal(tokenize(marked, ["a zz"]), tokenize(tokenizer, ["a zz"]))
