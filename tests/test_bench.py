"""ZoomBench's scenes: what they promise, and that the page about them shows what works."""

import contextlib
import io
import itertools
import json
import pathlib
import re
import runpy
import sys

import numpy as np
import pytest

from pot_jax import checks, config
from pot_jax.weights.load import SHIPPED
from pot_jax.weights.tokenization import prompt_notices, read_tokenizer, tokenize
from pot_jax.world import CONCEPTS, DEEPEST, imagine
from pot_jax.world.captions import attributes, concept
from pot_jax.zoom.geometry import Geometry

BENCH = config.CONFIGS / "bench"
FILES = {"world": "world_scenes", "controls": "controls", "stable_diffusion": "stable_diffusion"}
PAGE = pathlib.Path(__file__).parents[1] / "docs" / "zoombench.md"
# The most worlds that one training draws (configs/bench/scenes.py).
TRAINED = 600_000


def run(name, monkeypatch):
    """A file of the benchmark, which imports its neighbours by name."""
    monkeypatch.syspath_prepend(BENCH)
    before = set(sys.modules)
    found = runpy.run_path(str(BENCH / f"{name}.py"))
    for module in set(sys.modules) - before & {"scenes", *FILES}:
        monkeypatch.delitem(sys.modules, module)
    return found


@pytest.fixture
def scenes(monkeypatch):
    return run("scenes", monkeypatch)


@pytest.fixture
def tables(scenes):
    return {name: scenes[name]() for name in FILES.values()}


def built(overrides, base=None):
    """Settings of dotted names, as a sweep lays them over a config's."""
    data = checks.overlay(config.RunSettings, checks.defaults(config.RunSettings), base or {})
    for name, value in overrides.items():
        for part in reversed(name.split(".")):
            value = {part: value}
        data = checks.overlay(config.RunSettings, data, value)
    return checks.build(config.RunSettings, data)


def test_how_many_scenes_and_levels(tables):
    assert [len(tables[name]) for name in FILES.values()] == [24, 6, 8]
    names = [name for table in tables.values() for name in table]
    assert len(names) == len(set(names)) == 38
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in names)  # they become folders
    for table in ("world_scenes", "controls"):
        levels = {len(scene["prompts"]) for scene in tables[table].values()}
        factors = {scene["zoom.zoom_factor"] for scene in tables[table].values()}
        assert (levels, factors) == ({6}, {2})
    real = tables["stable_diffusion"].values()
    assert {scene["zoom.zoom_factor"] for scene in real} == {2, 4}
    levels = {len(scene["prompts"]) for scene in real}
    assert (min(levels), max(levels)) == (4, 16)


@pytest.mark.parametrize("file", FILES)
def test_every_scene_is_a_run(file, tables, monkeypatch):
    sweep = run(file, monkeypatch)["get_sweep"]()
    assert sweep == {"scene": tables[FILES[file]], "seed": [0, 1]}
    base = config.read(str(BENCH / f"{file}.py"))
    size = 512 if file == "stable_diffusion" else 64
    for overrides in sweep["scene"].values():
        settings = built(overrides, base)
        assert config.checked_prompts(settings.prompts) == overrides["prompts"]
        Geometry(len(settings.prompts), settings.zoom.zoom_factor, size, size)
    if file == "stable_diffusion":
        assert "model" not in base
        assert settings.sampler.steps == 50
    else:
        assert (settings.model, settings.sampler.steps) == ("cosmos64", 20)


@pytest.mark.parametrize("model", SHIPPED)
def test_shipped_models_know_every_word_of_the_worlds_scenes(model, tables):
    folder = SHIPPED[model]
    text = json.loads((folder / "text_encoder" / "config.json").read_text())
    positions = text["max_position_embeddings"]
    tokenizer = read_tokenizer(folder / "tokenizer", positions, text["vocab_size"])
    for table in ("world_scenes", "controls"):
        for scene in tables[table].values():
            # Raises where a prompt is too long.
            assert tokenize(tokenizer, scene["prompts"]).shape == (6, positions)
            assert prompt_notices(tokenizer, scene["prompts"]) == ()


def test_no_training_has_seen_the_worlds(scenes):
    seeds = {seed for seed, _ in scenes["world_places"]().values()}
    assert len(seeds) == 24
    many = {scene["prompts"] for scene in scenes["many_scenes"]().values()}
    assert len(many) > 100  # two worlds may be described alike
    seeds |= set(range(scenes["MANY_WORLDS"], scenes["MANY_WORLDS"] + scenes["MANY"]))
    assert len(seeds) == 24 + 112
    seeds |= {seed for views in scenes["control_views"]().values() for seed, _ in views}
    assert min(seeds) > 5_000_000
    for training in range(20):
        first = 1_000_003 * training  # pot_jax.training.data.draw_views
        assert not seeds & set(range(first, first + TRAINED))
    for file in ("cosmos64", "cosmos128"):
        assert config.read(file, "train")["data"]["pictures"] <= TRAINED


def test_the_worlds_scenes_are_true_zooms_from_everywhere(scenes, tables):
    places = scenes["world_places"]()
    starts = [start for _, start in places.values()]
    np.testing.assert_allclose(np.diff(starts), 15 / 23)
    assert (starts[0], starts[-1] + 5) == (0, DEEPEST)
    seen = set()
    for name, scene in tables["world_scenes"].items():
        seed, start = places[name]
        assert name.endswith(f"-{concept(start + 3)}")
        for level, prompt in enumerate(scene["prompts"]):
            facts = attributes(seed, start + level)
            seen.add(facts.pop("concept"))
            words = {word for word in facts.values() if word not in ("rings", "no rings", "none")}
            assert words <= set(re.findall(r"\w+", prompt)), (prompt, facts)
    assert seen == set(CONCEPTS)


def test_controls_cannot_be_followed(scenes, tables):
    """Either neighbours share no attribute, or the child does not lie deeper in its parent."""
    coloured = ("galaxy", "galaxy_kind", "nebula", "sun", "planet", "forest", "tree", "leaf")
    coloured += ("beetle", "spots", "ringed")
    views = scenes["control_views"]()
    assert views.keys() == tables["controls"].keys()
    contradictions = 0
    for name, control in views.items():
        prompts = tables["controls"][name]["prompts"]
        pairs = list(itertools.pairwise(zip(control, prompts)))
        for ((seed, scale), prompt), ((other, deeper), next_prompt) in pairs:
            if seed != other:
                contradictions += 1
                a, b = vars(imagine(seed)), vars(imagine(other))
                assert all(a[field] != b[field] for field in coloured), name
                assert a["cloudy"]
                assert b["cloudy"]  # a star field has no colour
                assert deeper == scale + 1  # nothing else is wrong
            elif name.endswith("one-prompt"):
                assert prompt == next_prompt
            else:
                steps = CONCEPTS.index(concept(deeper)) - CONCEPTS.index(concept(scale))
                assert steps not in (0, 1), name
    assert contradictions == 15


def test_the_real_scenes_magnify_by_their_factor(scenes, tables):
    for name, (factor, levels) in scenes["REAL"].items():
        widths = [width for width, _ in levels]
        # Widths are rounded to two digits.
        np.testing.assert_allclose(np.divide(widths[:-1], widths[1:]), factor, rtol=0.08)
        prompts = tables["stable_diffusion"][name]["prompts"]
        assert len(set(prompts)) == len(prompts)
        # CLIP's tokenizer takes 75 tokens; words as common as these have one or two.
        assert max(len(prompt.split()) for prompt in prompts) <= 25
    assert (
        len(
            {prompt for scene in tables["stable_diffusion"].values() for prompt in scene["prompts"]}
        )
        == 85
    )


def test_the_page_shows_how_to_get_the_scenes(tables):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, str(PAGE), "exec"), {})
    assert json.loads(out.getvalue()) == json.loads(json.dumps(tables))


def test_the_page_shows_a_record_of_a_zoom(tables):
    """Its scene is one of the benchmark's, as it is written there."""
    (text,) = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    record = json.loads(text)
    scene = {name: value for table in tables.values() for name, value in table.items()}
    scene = scene[record["scene"]]
    assert tuple(record["prompts"]) == scene["prompts"]
    assert record["zoom_factor"] == scene["zoom.zoom_factor"]
    assert len(record["pictures"]) == len(record["prompts"])
