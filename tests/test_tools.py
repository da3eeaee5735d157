"""The measures of tools/score_model; the tools themselves are run by hand."""

import importlib.machinery
import importlib.util
import pathlib

import numpy as np
import pytest

from pot_jax.training import captions


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
