"""Learned words: their vectors reach the text encoder, in their places, and nothing else moves."""

import dataclasses

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_models import POSITIONS, TEXT

from pot_jax.weights.export import convert, export
from pot_jax.weights.load import load
from pot_jax.weights.tokenization import tokenize

WIDTH = TEXT.hidden_size
WORDS = TEXT.vocab_size


def vectors(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def write(path, values, key="<cat-toy>"):
    save_file({key: values}, path)
    return path


def table(model):
    text = model.params["text_encoder"]["text_model"]
    return np.asarray(text["embeddings"]["token_embedding"]["embedding"])


def ids_of(model, prompt):
    """The ids between the beginning and the end."""
    row = tokenize(model.tokenizer, [prompt])[0].tolist()
    return row[1 : row.index(model.tokenizer.eos_token_id)]


@pytest.mark.parametrize("shape", [(WIDTH,), (1, WIDTH)])
def test_a_word_of_one_vector(exported, model, tmp_path, shape):
    file = write(tmp_path / "a.safetensors", vectors(*shape))
    learned = load(exported, embeddings=[file])
    assert ids_of(learned, "a <cat-toy> star") == [
        *ids_of(model, "a"),
        WORDS,
        *ids_of(model, "star"),
    ]
    np.testing.assert_array_equal(table(learned)[:WORDS], table(model))
    np.testing.assert_array_equal(table(learned)[WORDS:], vectors(*shape).reshape(1, WIDTH))
    assert learned.text_encoder.config.vocab_size == WORDS + 1
    assert learned.digest != model.digest
    (word,) = learned.embeddings
    assert (word.token, word.path, len(word.sha256)) == ("<cat-toy>", str(file), 64)
    assert load(exported, embeddings=[word]).embeddings == (word,)
    assert load(exported, embeddings=[dataclasses.astuple(word)]).embeddings == (word,)


def test_the_text_encoder_sees_the_vectors(exported, model, tmp_path):
    # A word that learned another's vector says the same as the other.
    star = ids_of(model, "star")
    file = write(tmp_path / "a.safetensors", table(model)[star])
    learned = load(exported, embeddings=[file])
    states = jax.jit(learned.text_encoder.apply)(
        {"params": learned.params["text_encoder"]},
        tokenize(learned.tokenizer, ["a star", "a <cat-toy>", "a a"]),
    )
    np.testing.assert_array_equal(states[0], states[1])
    assert np.abs(states[0] - states[2]).max() > 0.1


def test_a_word_of_several_vectors_is_all_of_them(exported, model, tmp_path):
    file = write(tmp_path / "a.safetensors", vectors(3, WIDTH))
    learned = load(exported, embeddings=[file])
    three = [WORDS, WORDS + 1, WORDS + 2]
    a = ids_of(model, "a")
    assert ids_of(learned, "a <cat-toy> a") == [*a, *three, *a]
    assert ids_of(learned, "<CAT-TOY><cat-toy>") == three * 2
    assert ids_of(learned, "<cat-toy>_1 <cat-toy>") == [WORDS + 1, *three]
    np.testing.assert_array_equal(table(learned)[WORDS:], vectors(3, WIDTH))


def test_what_does_not_fit_any_more_is_reported(exported, tmp_path, one_line):
    file = write(tmp_path / "a.safetensors", vectors(POSITIONS - 3, WIDTH))
    learned = load(exported, embeddings=[file])
    assert len(ids_of(learned, "a <cat-toy>")) == POSITIONS - 2
    one_line(lambda: tokenize(learned.tokenizer, ["a <cat-toy> star"]), "star", "would be cut")


def test_the_token_given_the_files_and_the_files_name(exported, tmp_path):
    named = write(tmp_path / "a.safetensors", vectors(WIDTH))
    nameless = write(tmp_path / "EasyNegative.safetensors", vectors(2, WIDTH), "emb_params")
    learned = load(exported, embeddings=[named, nameless, ("<other>", nameless), ("<4th>", named)])
    assert [file.token for file in learned.embeddings] == [
        "<cat-toy>",
        "EasyNegative",
        "<other>",
        "<4th>",
    ]
    assert ids_of(learned, "<cat-toy> easynegative <other>")[:5] == list(range(WORDS, WORDS + 5))
    assert ids_of(learned, "<4th>") == [WORDS + 5]


def test_in_half_precision(exported, tmp_path):
    file = write(tmp_path / "a.safetensors", vectors(WIDTH, dtype=np.float64))
    learned = load(exported, dtype="bfloat16", embeddings=[file])
    assert table(learned).dtype.name == "bfloat16"
    assert learned.text_encoder.dtype.name == "bfloat16"
    np.testing.assert_allclose(table(learned)[-1].astype(np.float32), vectors(WIDTH), rtol=2**-8)


def test_a_kept_model_takes_them(exported, tmp_path):
    convert(exported, tmp_path / "kept")
    file = write(tmp_path / "a.safetensors", vectors(2, WIDTH))
    kept, plain = (load(m, embeddings=[file]) for m in (tmp_path / "kept", exported))
    assert kept.digest == plain.digest
    assert ids_of(kept, "<cat-toy>") == ids_of(plain, "<cat-toy>")


def test_exported_and_loaded_again(exported, tmp_path):
    file = write(tmp_path / "a.safetensors", vectors(2, WIDTH))
    learned = load(exported, embeddings=[file])
    export(learned, tmp_path / "learned")
    again = load(tmp_path / "learned")
    assert again.digest == learned.digest
    prompt = "a <cat-toy> star"
    assert ids_of(again, prompt) == ids_of(learned, prompt)


def test_a_loaded_model_does_not_know_the_words_of_another(exported, tmp_path):
    load(exported, embeddings=[write(tmp_path / "a.safetensors", vectors(WIDTH))])
    assert "<cat-toy>" not in load(exported).tokenizer.get_vocab()


# What does not fit --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("star", ["already has star"]),
        ("STAR", ["already has STAR"]),
        ("st", ["already has st"]),
        ("<|endoftext|>", ["already has <|endoftext|>"]),
        ("two words", ["'two words' is not one printable word"]),
        ("a\nb", ["not one printable word"]),
    ],
)
def test_tokens_that_cannot_join(exported, tmp_path, token, words, one_line):
    file = write(tmp_path / "a.safetensors", vectors(WIDTH))
    one_line(lambda: load(exported, embeddings=[(token, file)]), str(file), *words, "<token>")


@pytest.mark.parametrize("second", ["<cat>", "<CAT>", "<cat>_1", "<cat>_2", "<cat>_9"])
def test_tokens_that_get_in_each_others_way(exported, tmp_path, second, one_line):
    file = write(tmp_path / "a.safetensors", vectors(2, WIDTH))
    pair = [("<cat>", file), (second, file)]
    one_line(lambda: load(exported, embeddings=pair), "already")
    if second == "<cat>_2":
        one_line(lambda: load(exported, embeddings=pair[::-1]), "already has <cat>_2")


def test_a_number_at_the_end_is_no_matter_by_itself(exported, tmp_path):
    file = write(tmp_path / "a.safetensors", vectors(WIDTH))
    learned = load(exported, embeddings=[("star_2", file)])
    assert ids_of(learned, "star_2") == [WORDS]


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"<cat>": (WIDTH + 1,)}, [f"shape [{WIDTH + 1}]", f"[n, {WIDTH}]", "another kind"]),
        ({"<cat>": (1, 2, WIDTH)}, ["shape [1, 2, 16]"]),
        ({"<cat>": (0, WIDTH)}, ["shape [0, 16]"]),
        ({"<cat>": ()}, ["shape []"]),
        ({"clip_l": (2, WIDTH), "clip_g": (2, WIDTH)}, ["SDXL", "clip_g, clip_l"]),
        ({"clip_g": (2, WIDTH)}, ["SDXL"]),
        ({"<a>": (WIDTH,), "<b>": (WIDTH,)}, ["2 tensors (<a>, <b>)", "emb_params"]),
        ({}, ["0 tensors"]),
    ],
)
def test_files_that_do_not_fit(exported, tmp_path, tensors, words, one_line):
    file = tmp_path / "a.safetensors"
    save_file({key: vectors(*shape) for key, shape in tensors.items()}, file)
    one_line(lambda: load(exported, embeddings=[file]), str(file), *words)


def test_values_that_are_none(exported, tmp_path, one_line):
    values = vectors(WIDTH)
    values[3] = 1e6
    file = write(tmp_path / "a.safetensors", values)
    load(exported, embeddings=[file])
    one_line(lambda: load(exported, dtype="float16", embeddings=[file]), "finite in float16")
    values[3] = np.nan
    write(file, values)
    one_line(lambda: load(exported, embeddings=[file]), "not finite in float32")
    write(file, np.ones(WIDTH, np.int32))
    one_line(lambda: load(exported, embeddings=[file]), "I32")


def test_files_that_are_none(exported, tmp_path, one_line):
    (tmp_path / "a.pt").write_bytes(b"PK\x03\x04" + bytes(100))
    one_line(lambda: load(exported, embeddings=[tmp_path / "a.pt"]), "pickled", "safetensors")
    one_line(lambda: load(exported, embeddings=["nowhere"]), "no embedding file nowhere")


@pytest.mark.parametrize("given", ["a.safetensors", {"<cat>": "a"}, [3], [("a", "b", "c", "d")]])
def test_what_is_no_list_of_embeddings(exported, given, one_line):
    one_line(lambda: load(exported, embeddings=given), "embeddings: expected", "<token>")
