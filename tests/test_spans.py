"""Prompts by span: every level has exactly one prompt, or the mistake is one line."""

import json
import pathlib
import random
import re

import pytest
from mistakes import SPANS

from pot_jax import checks, config, spans
from pot_jax.config import RunSettings
from pot_jax.errors import UserError
from pot_jax.evaluation import points

SCENES = sorted(pathlib.Path(config.CONFIGS, "scenes").glob("*.toml"))


def built(**given):
    return spans.resolved(checks.build(RunSettings, given))


def cut(rng: random.Random, levels: int) -> list[tuple[int, int]]:
    """Levels cut into spans, (first, last), in any order."""
    ends = sorted({*rng.sample(range(levels), rng.randint(0, min(levels, 9))), levels - 1})
    found = [(first, last) for first, last in zip([0, *(end + 1 for end in ends)], ends)]
    rng.shuffle(found)
    return found


def written(rng: random.Random, first: int, last: int, levels: int) -> str:
    ways = [f"{first}-{last}", f" {first} - {last} "]
    ways += [f"{first}"] * (first == last) + [f"{first}-"] * (last == levels - 1)
    return rng.choice(ways)


@pytest.mark.parametrize("seed", range(50))
def test_every_level_is_in_one_span(seed):
    rng = random.Random(seed)
    levels = rng.randint(1, 140)
    owners = cut(rng, levels)
    texts = {written(rng, *owner, levels): f"p{owner[0]}" for owner in owners}
    found = built(prompts=texts, zoom={"levels": levels}, view_words=[])
    wanted = [next(f"p{a}" for a, b in owners if a <= level <= b) for level in range(levels)]
    assert list(found.prompts) == wanted
    # One that is left out is a gap, and one that is twice there overlaps.
    a, b = rng.choice(owners)
    less = {text: prompt for text, prompt in texts.items() if prompt != f"p{a}"}
    for other, words in ((less, "no span has level"), ({**texts, f"{b}-{b}  ": "x"}, "is in the")):
        if other:
            with pytest.raises(UserError, match=words):
                built(prompts=other, zoom={"levels": levels})


@pytest.mark.parametrize(
    ("length", "words", "wanted"),
    [
        (1, ["far", "", "close"], "|"),
        (2, ["far", "", "close"], "far|close"),
        (3, ["far", "", "close"], "far||close"),
        (4, ["far", "", "close"], "far|||close"),
        (5, ["far", "", "close"], "far|far||close|close"),
        (7, ["far", "", "close"], "far|far||||close|close"),
        (2, ["far", "closer", "close", "close-up"], "far|close-up"),
        (4, ["one"], "one|one|one|one"),
        (4, [], "|||"),
    ],
)
def test_view_words_go_from_a_spans_widest_level_to_its_deepest(length, words, wanted):
    prompts = built(prompts={f"0-{length - 1}": "a star"}, view_words=words).prompts
    said = [prompt.removeprefix("a star").removeprefix(", ") for prompt in prompts]
    assert said == wanted.split("|")[:length]


def test_what_is_resolved_is_recorded_and_never_applied_twice():
    given = {"prompts": {"0-1": "a star", "2-": "a planet"}, "zoom": {"levels": 4}}
    settings = built(**given, prefix="photo of", suffix=", sharp", view_words=["far", "near"])
    assert settings.prompts == (
        *("photo of a star, far, sharp", "photo of a star, near, sharp"),
        *("photo of a planet, far, sharp", "photo of a planet, near, sharp"),
    )
    assert built(prompts=settings.prompts) == settings, "what made them is spent"
    record = json.loads(json.dumps(checks.to_dict(settings)))
    assert spans.resolved(checks.build(RunSettings, record)) == settings
    assert built(prompts=["a"], prefix="(", suffix=":1.2)").prompts == ("(a:1.2)",)


def test_values_by_level():
    by_span = {"negative_prompt": {"0": "", "1-": "blur"}}
    settings = built(prompts=["a"] * 3, **by_span, sampler={"guidance_scale": {"0-1": 3, "2": 7}})
    assert settings.negative_prompt == ("", "blur", "blur")
    assert settings.sampler.guidance_scale == (3.0, 3.0, 7.0)
    assert spans.lines(settings)[2] == "level 2: a (guidance 7.0; not blur)"
    assert built(prompts=["a"] * 3).sampler.guidance_scale == 4.0
    assert isinstance(hash(settings), int)


@pytest.mark.parametrize(("given", "words"), SPANS)
def test_a_mistake_is_one_line(given, words):
    with pytest.raises(UserError, match=re.escape(words)) as raised:
        built(**given)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "wrap", [str.encode, lambda t: t.replace("\n", "\r\n").encode("utf-8-sig")]
)
def test_a_scene_file(tmp_path, wrap):
    file = tmp_path / "scene.toml"
    file.write_bytes(wrap('suffix = "é"\n[prompts]\n0-1 = "a"\n2- = "b"\n[zoom]\nlevels = 3\n'))
    settings = built(**config.read(str(file)), view_words=[])
    assert settings.prompts == ("a é", "a é", "b é")


def test_the_points_of_a_sweep_may_have_spans():
    scenes = {"stars": {"prompts": {"0-1": "a star", "2-": "a planet"}, "zoom.levels": 3}}
    scales = {"mild": {"sampler.guidance_scale": {"0": 2, "1-": 3}}, "usual": {}}
    found = points.points({}, (), {"scene": scenes, "guidance": scales})
    assert [point.settings.sampler.guidance_scale for point in found] == [(2.0, 3.0, 3.0), 4.0]
    assert all(point.settings.prompts[2] == "a planet" for point in found)


@pytest.mark.parametrize("scene", SCENES, ids=lambda path: path.stem)
def test_scenes_that_ship_are_sound_and_have_their_facts(scene):
    assert scene.stem in config.shipped_names()
    settings = built(**config.read(scene.stem))
    assert len(set(settings.prompts)) > 1
    head = scene.read_text().split("\n\n", 3)
    text = "".join(line for line in scene.read_text().splitlines() if line.startswith("#"))
    for fact in (f"--config={scene.stem}", "Device:", "Time:", "Memory:", "Expect:"):
        assert fact in text, (scene.stem, fact, head[0])
