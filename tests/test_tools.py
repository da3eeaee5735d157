"""The parts of tools/score_model and train_classifier; the tools themselves are run by hand."""

import dataclasses
import importlib.machinery
import importlib.util
import pathlib

import jax
import numpy as np
import pytest
from absl.testing.flagsaver import flagsaver

from pot_jax.config import SamplerSettings
from pot_jax.world import captions


def tool(name):
    tools = pathlib.Path(__file__).parents[1] / "tools"
    loader = importlib.machinery.SourceFileLoader(name, str(tools / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tools)
        loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def score_model():
    return tool("score_model")


@pytest.fixture(scope="module")
def train_classifier():
    return tool("train_classifier")


def test_the_frechet_distance_of_known_gaussians(score_model):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(200_000, 3))
    b = rng.normal(size=(200_000, 3)) * [1.0, 2.0, 3.0] + [1.0, 0.0, -2.0]
    # |mean|^2 + sum (deviation difference)^2, as the covariances are diagonal; 2 % is the sample's.
    assert score_model.frechet(a, b) == pytest.approx(5 + 0 + 1 + 4, rel=0.02)
    assert score_model.frechet(a, a) == pytest.approx(0, abs=1e-8)


def test_a_head_counts_where_it_applies(score_model):
    seen = [{"concept": "tree", "leaf.colour": "red"}, {"concept": "leaf", "leaf.colour": "red"}]
    wanted = [{"concept": "tree"}, {"concept": "leaf", "leaf.colour": "green"}]
    found = score_model.heads(seen, wanted)
    assert found == {"concept": 1.0, "attribute": 0.0, "all": 0.5, "leaf.colour": 0.0}


def test_scored_views_keep_from_the_borders(score_model):
    views = score_model.inner_views(100, 1)
    seeds, scales = zip(*views)
    assert len(set(seeds)) == 100
    concepts = [captions.concept(scale) for scale in scales]
    for shift in (-0.24, 0.24):
        assert [captions.concept(scale + shift) for scale in scales] == concepts
    assert {concepts.count(name) for name in set(concepts)} == {10}


def test_variation_moves_pixels_and_tints_them(train_classifier):
    images = np.random.default_rng(0).uniform(-1, 1, (64, 4, 4, 3)).astype(np.float32)
    found = np.asarray(train_classifier.varied(images, jax.random.key(0)))

    def values(x):
        """Of each channel, sorted, about their mean."""
        return np.sort((x - x.mean((1, 2), keepdims=True)).reshape(len(x), -1, 3), axis=1)

    np.testing.assert_allclose(values(found), values(images), atol=1e-6)
    assert np.abs(found.mean((1, 2)) - images.mean((1, 2))).max() <= 0.06
    # Where the first pixel goes: to each of the four corners, by eight ways.
    first = images[:, 0, 0] - images.mean((1, 2))
    centred = found - found.mean((1, 2), keepdims=True)
    at = [np.abs(centred[i] - first[i]).sum(-1).argmin() for i in range(len(images))]
    assert set(at) == {0, 3, 12, 15}


def test_a_mistake_is_one_line(score_model, capsys):
    score_model.FLAGS(["score_model"])
    with flagsaver(model="nowhere/"), pytest.raises(SystemExit) as stopped:
        score_model.main([])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("score_model: ")
    assert said.count("\n") == 1


def test_what_is_compared_with_a_models_own_settings_states_every_setting(score_model):
    score_model.FLAGS(["score_model"])
    found = score_model.stated({"space": "latent"})
    assert found.keys() == {field.name for field in dataclasses.fields(SamplerSettings)}
    assert (found["solver"], found["steps"], found["space"]) == ("ddim", 30, "latent")
    assert score_model.stated({"space": "latent", "steps": 50})["steps"] == 50


def test_what_was_sampled_is_not_sampled_again(score_model, tmp_path):
    made = []

    def make():
        made.append(0)
        return {"pictures": np.full((2, 4, 4, 3), len(made), np.uint8), "overlap": np.ones(1)}

    path = tmp_path / "model" / "samples_0.npz"
    for _ in range(2):
        found = score_model.kept(path, make)
        np.testing.assert_array_equal(found["pictures"], np.ones((2, 4, 4, 3)))
        assert found.keys() == {"pictures", "overlap"}
    assert len(made) == 1
    assert [file.name for file in path.parent.iterdir()] == ["samples_0.npz"]
