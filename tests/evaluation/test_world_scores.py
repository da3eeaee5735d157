"""What the classifier sees: shrinking, accuracies, distances, digests, and the world's renders."""

import hashlib

import jax
import numpy as np
import pytest

from pot_jax import world
from pot_jax.errors import UserError
from pot_jax.evaluation.metrics.world import CLASSIFIER, SHA256, accuracy, look, shrunk
from pot_jax.media.pixels import from_bytes, to_bytes
from pot_jax.world import captions

NUMBERS = np.random.default_rng(0)


def test_larger_pictures_are_shrunk_by_the_mean_of_cells():
    pictures = NUMBERS.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    cells = pictures.reshape(3, 8, 2, 8, 2, 3).mean((2, 4)) / 127.5 - 1
    np.testing.assert_allclose(shrunk(pictures, 8), cells, atol=1e-6)
    np.testing.assert_array_equal(shrunk(pictures, 16), from_bytes(pictures))


@pytest.mark.parametrize("shape", [(1, 65, 65, 3), (1, 64, 128, 3), (1, 32, 32, 3)])
def test_other_sizes_are_refused(shape):
    with pytest.raises(UserError, match="pictures: expected squares of a multiple of 64 pixels"):
        look(np.zeros(shape, np.uint8))


def test_accuracies_count_what_is_named():
    seen = [
        {"concept": "tree", "tree.colour": "red", "tree.leaf": "green", "leaf.colour": "red"},
        {"concept": "leaf", "tree.colour": "red", "tree.leaf": "green", "leaf.colour": "red"},
        {"concept": "tree", "tree.colour": "red", "tree.leaf": "green", "leaf.colour": "red"},
    ]
    wanted = [
        {"concept": "tree", "tree.colour": "red", "tree.leaf": "blue"},
        {"concept": "leaf", "leaf.colour": "red"},
        {"concept": "leaf"},
    ]
    assert accuracy(seen, wanted) == {"concept": 2 / 3, "attribute": 2 / 3, "all": 1 / 3}
    nothing = accuracy(seen, [{}] * 3)
    assert all(np.isnan(value) for value in nothing.values())


def inner_views(count):
    """Views a quarter of a scale and more from the borders between concepts."""
    rng = np.random.default_rng(5)
    span = world.SCALES_PER_CONCEPT
    scales = (
        span * (np.arange(count) % len(world.CONCEPTS)) + 0.25 + rng.random(count) * (span - 0.5)
    )
    return [(812_000_000 + i, scale) for i, scale in enumerate(scales.tolist())]


def test_the_worlds_own_renders_are_recognised():
    views = inner_views(120)
    pictures = to_bytes(np.stack([world.picture(*view, 64) for view in views]))
    _, seen = look(pictures)
    found = accuracy(seen, captions.answers(views))
    # Its ceiling is over 99 % of concepts and 97 % of attributes: of 120, a few may be wrong.
    assert found["concept"] > 0.95
    assert found["attribute"] > 0.93


def test_control_pictures_of_one_colour_and_of_noise_are_right_by_chance_only():
    views = inner_views(60)
    for pictures in (
        np.full((60, 64, 64, 3), 128, np.uint8),
        NUMBERS.integers(0, 256, (60, 64, 64, 3), np.uint8),
    ):
        found = accuracy(look(pictures)[1], captions.answers(views))
        assert found["concept"] < 0.35
        assert found["all"] < 0.1


def test_features_do_not_depend_on_the_batch_or_the_form():
    pictures = NUMBERS.integers(0, 256, (3, 128, 128, 3), np.uint8)
    together, seen = look(pictures)
    alone, one = look(pictures[1:2])
    floats, _ = look(np.float32(from_bytes(pictures)))
    np.testing.assert_allclose(alone[0], together[1], atol=1e-4)
    np.testing.assert_allclose(floats, together, atol=1e-4)
    assert one[0] == seen[1]


def test_a_classifier_with_another_digest_is_refused(tmp_path):
    assert hashlib.sha256(CLASSIFIER.read_bytes()).hexdigest() == SHA256
    path = tmp_path / "classifier.safetensors"
    data = bytearray(CLASSIFIER.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"expected the classifier with the digest {SHA256[:12]}"):
        look(np.zeros((1, 64, 64, 3), np.uint8), path=path)


def test_the_classifier_ships_under_two_megabytes():
    assert CLASSIFIER.stat().st_size < 2e6


def test_jit_and_eager_are_the_same():
    from pot_jax.evaluation.metrics import world as metric

    apply, _ = metric._loaded(CLASSIFIER, SHA256)
    pictures = np.float32(NUMBERS.uniform(-1, 1, (2, 64, 64, 3)))
    jitted, _ = apply(pictures)
    with jax.disable_jit():
        eager, _ = apply(pictures)
    np.testing.assert_allclose(jitted, eager, atol=1e-4)
