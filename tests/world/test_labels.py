import numpy as np
import pytest

from pot_jax.errors import UserError
from pot_jax.world import Views, captions
from pot_jax.world.labels import Labels


def views(seeds, scales) -> Views:
    return Views(np.asarray(seeds), np.asarray(scales, np.float64))


def test_numbers_stand_for_the_attributes():
    some = views(np.arange(400), np.linspace(0.1, 19.9, 400))
    labels = Labels(some)
    assert labels.classes["concept"] == sorted(labels.classes["concept"])
    for i, (seed, scale) in enumerate(zip(*some)):
        named = {
            head: names[labels.numbers[head][i]]
            for head, names in labels.classes.items()
            if labels.numbers[head][i] >= 0
        }
        assert named == captions.attributes(int(seed), float(scale))


def test_labels_of_other_views_use_the_same_classes():
    seeds = np.arange(400)
    labels = Labels(views(seeds, np.linspace(0.1, 19.9, 400)))
    few = views(seeds[395:], np.full(5, 19.0))
    numbers = labels.like(few)
    names = [labels.classes["ladybug.colour"][n] for n in numbers["ladybug.colour"]]
    assert names == [captions.attributes(int(seed), 19.0)["ladybug.colour"] for seed in few.seeds]


def test_what_no_view_shows_has_no_number():
    labels = Labels(views([1, 2], [0.5, 0.5]))
    with pytest.raises(UserError, match="make them from more views"):
        labels.like(views([3], [19.0]))
