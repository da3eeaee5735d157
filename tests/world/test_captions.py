from collections import Counter

import numpy as np
import pytest

from pot_jax.world import CONCEPTS, DEEPEST, captions

SCALES = np.linspace(0, DEEPEST, 41)


def test_every_concept_has_two_scales():
    assert [captions.concept(s) for s in range(20)] == [c for c in CONCEPTS for _ in range(2)]
    assert captions.concept(DEEPEST) == CONCEPTS[-1]


def test_captions_are_short_tidy_and_of_their_concept():
    words_of = {
        "galaxy": "galaxy",
        "forest": ("forest", "tree"),
        "nebula": ("nebula", "star"),
        "continent": ("continent", "planet"),
    }
    for seed in range(40):
        for scale in SCALES:
            for variant in range(6):
                words = captions.caption(seed, float(scale), variant)
                assert len(words.split()) <= 28
                assert words == words.strip(" ,")
                for slip in ("  ", " ,", ",,", "a a ", " a i", " a o", " a e"):
                    assert slip not in words
                name = captions.concept(scale)
                kinds = words_of.get(name, name)
                assert any(k in words for k in ((kinds,) if isinstance(kinds, str) else kinds))


def test_plain_captions_name_the_attributes():
    said_otherwise = {"none": "star field", "no rings": "planet"}
    for seed in range(40):
        for scale in (1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0, 17.0, 19.0):
            found = captions.attributes(seed, scale)
            words = captions.caption(seed, scale)
            assert found.pop("concept") == captions.concept(scale)
            named = " ".join(said_otherwise.get(value, value) for value in found.values())
            assert not Counter(named.split()) - Counter(words.replace(",", "").split())


def test_captions_repeat_and_vary():
    assert captions.caption(3, 7.2, 5) == captions.caption(3, 7.2, 5)
    assert len({captions.caption(3, 7.2, v) for v in range(12)}) >= 5
    assert captions.caption(1, 18.1) != captions.caption(1, 19.9)  # far and near


def test_scene_prompts_follow_one_world():
    prompts = captions.scene_prompts(20, seed=5)
    assert len(prompts) == 20
    assert prompts[19] == captions.caption(5, 19.0)
    assert captions.scene_prompts(4, 5, start=2, zoom_factor=4)[3] == captions.caption(5, 8.0)


def test_impossible_requests_are_refused():
    with pytest.raises(ValueError, match="between 0 and 20"):
        captions.concept(21)
    with pytest.raises(ValueError, match="start wider or ask for fewer"):
        captions.scene_prompts(40)


def test_numbers_stand_for_the_attributes():
    answers = captions.answers(list(enumerate(np.linspace(0.1, 19.9, 400).tolist())))
    classes, numbers = captions.labels(answers)
    assert classes["concept"] == sorted(classes["concept"])
    for i, answer in enumerate(answers):
        named = {
            head: names[numbers[head][i]]
            for head, names in classes.items()
            if numbers[head][i] >= 0
        }
        assert named == answer == captions.attributes(i, float(np.linspace(0.1, 19.9, 400)[i]))


def test_a_prompt_names_what_its_world_has():
    some_word = 0
    for seed in range(300):
        for scale in np.random.default_rng(seed).uniform(0, DEEPEST, 4).tolist():
            shown = captions.attributes(seed, scale)
            for variant in range(6):
                prompt = captions.caption(seed, scale, variant)
                named = captions.named(prompt)
                assert named.items() <= shown.items(), prompt
                assert named["concept"] == shown["concept"], prompt
                assert variant or named == shown, prompt
                some_word += len(named) > 1
    assert some_word > 7000  # nearly all of 7200 name an attribute


@pytest.mark.parametrize("name", CONCEPTS)
def test_every_phrasing_can_be_read(name):
    for pattern, concept, says in captions._patterns():
        assert concept in CONCEPTS
        assert set(says) <= {"rings", "nebula"}
        assert pattern.groups or concept != name or says
    third = captions._NEARNESS if name in captions._OUTLINED else captions._FIELD
    words = {word: next(iter(known)) for word, known in captions._WORDS.items()}
    for phrase in captions._PHRASES[name]:
        for near in {"", *(word for words in third for word in words)}:
            for cloudy, ringed in ((True, False), (False, True)):
                prompt = captions._filled(phrase, words, near, cloudy, ringed)
                assert captions.named(prompt)["concept"] == name, prompt


def test_other_texts_name_nothing():
    for text in ("", "a stone", "a plaid leaf close", "a red leaf close.", "A red leaf close"):
        assert captions.named(text) == {}
    assert captions.named("a red leaf close") == {"concept": "leaf", "leaf.colour": "red"}
    # Of a planet without rings, and of any planet.
    assert captions.named("a blue planet close") == {"concept": "planet", "planet.colour": "blue"}
    season = captions.named("a winter forest with a red tree in the middle close")
    assert season == {"concept": "forest", "forest.colour": "white", "forest.tree": "red"}
