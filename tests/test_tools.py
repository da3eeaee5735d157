"""The measures of tools/score_model; the tools themselves are run by hand."""

import dataclasses
import importlib.machinery
import importlib.util
import pathlib

import jax
import numpy as np
import pytest
from absl.testing.flagsaver import flagsaver

from pot_jax.config import SamplerSettings
from pot_jax.errors import UserError
from pot_jax.world import Views, captions
from pot_jax.world.captions import Labels


@pytest.fixture(scope="module")
def score_model():
    path = str(pathlib.Path(__file__).parents[1] / "tools" / "score_model")
    loader = importlib.machinery.SourceFileLoader("score_model", path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("score_model", loader))
    loader.exec_module(module)
    return module


def test_the_frechet_distance_of_known_gaussians(score_model):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(200_000, 3))
    b = rng.normal(size=(200_000, 3)) * [1.0, 2.0, 3.0] + [1.0, 0.0, -2.0]
    # |mean|^2 + sum (deviation difference)^2, as the covariances are diagonal; 1 % is the sample's.
    assert score_model.frechet(a, b) == pytest.approx(5 + 0 + 1 + 4, rel=0.02)
    assert score_model.frechet(a, a) == pytest.approx(0, abs=1e-8)


def test_a_head_counts_where_it_applies(score_model):
    numbers = {"concept": np.array([0, 1, 1]), "leaf.colour": np.array([-1, 2, 0])}
    answers = {"concept": np.array([0, 1, 0]), "leaf.colour": np.array([2, 2, 1])}
    found = score_model.accuracies(answers, numbers)
    assert found["concept"] == pytest.approx(2 / 3)
    assert found["attribute"] == found["leaf.colour"] == 0.5


def test_scored_views_keep_from_the_borders(score_model):
    views = score_model.inner_views(100, 1)
    assert len(set(views.seeds)) == 100
    concepts = [captions.concept(scale) for scale in views.scales]
    for shift in (-0.24, 0.24):
        assert [captions.concept(scale + shift) for scale in views.scales] == concepts
    assert {concepts.count(name) for name in set(concepts)} == {10}


def test_variation_moves_pixels_and_tints_them(score_model):
    images = np.random.default_rng(0).uniform(-1, 1, (64, 4, 4, 3)).astype(np.float32)
    found = np.asarray(score_model.varied(images, jax.random.key(0)))

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


def test_a_classifier_of_other_settings_is_refused(score_model, tmp_path):
    score_model.FLAGS(["score_model"])
    labels = Labels(Views(np.arange(20), np.linspace(0.5, 19.5, 20)))
    score_model.claim_folder(tmp_path, labels)
    score_model.claim_folder(tmp_path, labels)
    with flagsaver(epochs=1), pytest.raises(UserError, match="classifier .epochs is 5 there, 1 he"):
        score_model.claim_folder(tmp_path, labels)
    fewer = Labels(Views(np.arange(3), np.full(3, 0.5)))
    with pytest.raises(UserError, match="another classifier .classes.*; give another folder"):
        score_model.claim_folder(tmp_path, fewer)


def test_a_mistake_is_one_line(score_model, capsys):
    score_model.FLAGS(["score_model"])
    with flagsaver(model="nowhere/"), pytest.raises(SystemExit) as stopped:
        score_model.main([])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("score_model: ")
    assert said.count("\n") == 1


def test_larger_pictures_are_shrunk_by_the_mean_of_cells(score_model):
    pictures = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    cells = pictures.reshape(3, 8, 2, 8, 2, 3).mean((2, 4))
    np.testing.assert_allclose(score_model.shrunk(pictures, 8), cells, atol=0.5001)
    assert score_model.shrunk(pictures, 16) is pictures


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
