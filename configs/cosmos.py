"""From a galaxy to a ladybug in twenty levels, each magnified twice as much as the one before,
with the shipped model cosmos128.

    pot-jax sample --config=configs/cosmos.py --workdir=runs/cosmos      (or tools/demo)

2 CPU cores, 2 GiB of memory: about a minute, two thirds of it sampling. Expected: twenty pictures
of ten concepts, two levels each, whose overlaps agree to 55 dB or more after rounding to 8 bits,
and a movie of 24 s.
"""

import ml_collections

# Each concept, far away and close. Prompts name the parent's colours, as the training captions do.
PROMPTS = [
    f"{words}, {view}"
    for words, views in (
        ("a turquoise spiral galaxy", ("far away", "close")),
        ("a violet nebula with a yellow star in the middle", ("wide view", "close")),
        (
            "a yellow star and its planets, a blue one in the middle, in a violet nebula",
            ("far away", "close"),
        ),
        ("a blue planet in a violet nebula", ("far away", "close")),
        (
            "a continent of a blue planet with a green island in the sea in the middle",
            ("wide view", "close"),
        ),
        (
            "a green island covered with green trees, in the sea of a blue planet",
            ("far away", "close"),
        ),
        (
            "a green forest in summer with an orange tree in a clearing in the middle",
            ("wide view", "close"),
        ),
        ("an orange tree with a red leaf in the middle, in a green forest", ("far away", "close")),
        (
            "a red leaf of an orange tree with a yellow ladybug in the middle",
            ("far away", "close"),
        ),
        ("a yellow ladybug with four black spots on a red leaf", ("far away", "close")),
    )
    for view in views
]


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings that differ from the defaults."""
    return ml_collections.ConfigDict(
        {
            "prompts": tuple(PROMPTS),
            "zoom": {"zoom_factor": 2},
            "seed": 3,
            "movie": {"seconds_per_level": 1.2},
        }
    )
