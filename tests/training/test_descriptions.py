import dataclasses
import json

import numpy as np
import pytest

from pot_jax.checks import build
from pot_jax.config import read
from pot_jax.errors import UserError
from pot_jax.training.data import draw_views, worker_processes
from pot_jax.training.descriptions import Table, train_tokenizer
from pot_jax.training.settings import TokenizerSettings, TrainSettings
from pot_jax.weights.tokenization import tokenize
from pot_jax.world import captions
from pot_jax.world.captions import answers, labels


@pytest.fixture(scope="module")
def settings():
    config = read("cosmos64", "train")
    config["data"] |= {"pictures": 620, "held_out": 20, "phrasings": 2}
    config["tokenizer"] |= {"vocabulary": 640, "length": 160}
    return build(TrainSettings, config)


@pytest.fixture(scope="module")
def tokenizer(settings):
    return train_tokenizer(["a green leaf", "a star field"], settings.tokenizer)


@pytest.fixture(scope="module")
def made(settings, tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "descriptions.npz"
    with worker_processes(2) as processes:
        return path, Table(path, settings, processes).read(tokenizer)


def test_every_phrasing_of_every_view_is_there(settings, tokenizer, made):
    _, described = made
    views = draw_views(settings.data, settings.seed)[:600]
    for phrasing in (0, 1):
        texts = [captions.caption(*view, phrasing) for view in views]
        np.testing.assert_array_equal(described.ids[phrasing], tokenize(tokenizer, texts))
    assert described.ids.dtype == np.int16
    classes, numbers = labels(answers(views))
    assert described.classes == classes
    for head, expected in numbers.items():
        np.testing.assert_array_equal(described.numbers[head], expected)


def test_they_are_made_once(settings, tokenizer, made):
    path, described = made
    again = Table(path, settings, None).read(tokenizer)  # no processes are asked
    np.testing.assert_array_equal(again.ids, described.ids)
    assert again.classes == described.classes
    for head, numbers in described.numbers.items():
        np.testing.assert_array_equal(again.numbers[head], numbers)


def refused(path, settings, tokenizer, words):
    kept = path.read_bytes()
    with pytest.raises(UserError, match=words) as caught:
        Table(path, settings, None).read(tokenizer)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == kept


def test_a_table_of_another_tokenizer_is_refused(settings, made):
    other = train_tokenizer(["a red ladybug"], settings.tokenizer)
    refused(made[0], settings, other, "tokenizer is .* there, .* here")


def test_a_table_of_other_views_is_refused(settings, tokenizer, made):
    refused(made[0], dataclasses.replace(settings, seed=5), tokenizer, "seed is 0 there, 5 here")
    fewer = dataclasses.replace(settings.data, pictures=619)
    fewer = dataclasses.replace(settings, data=fewer)
    refused(made[0], fewer, tokenizer, "views is 600 there, 599 here")


def test_a_prompt_of_another_length_is_refused(settings, made):
    longer = TokenizerSettings(vocabulary=640, length=161)
    tokenizer = train_tokenizer(["a green leaf", "a star field"], longer)
    refused(made[0], settings, tokenizer, "length is 160 there, 161 here")


@pytest.mark.parametrize("change", ["empty", "cut", "no ids", "other ids", "no record"])
def test_a_damaged_table_is_refused(settings, tokenizer, made, tmp_path, change):
    path = tmp_path / "descriptions.npz"
    whole = made[0].read_bytes()
    with np.load(made[0]) as file:
        arrays = dict(file)
    match change:
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(whole[: len(whole) // 2])
        case "no ids":
            np.savez(path, **{name: x for name, x in arrays.items() if name != "ids"})
        case "other ids":
            np.savez(path, **{**arrays, "ids": arrays["ids"][:, :-1]})
        case "no record":
            np.savez(path, **{**arrays, "record": json.dumps([1])})
    refused(
        path, settings, tokenizer, "cannot be read|holds no descriptions, or not all: delete it"
    )
