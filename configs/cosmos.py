"""From a galaxy to a ladybug in eight levels, each four times as deep, with the model that ships.

    pot-jax sample --config=configs/cosmos.py --workdir=runs/cosmos      (or tools/demo)

2 CPU cores, 2 GiB of memory: half a minute to compile, half a minute to sample. Expected: eight
pictures whose overlaps agree to 58 dB after rounding to bytes, and a movie of 15 s.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns what differs from the defaults."""
    return ml_collections.ConfigDict(
        {
            "prompts": (
                "a spiral galaxy in the middle",
                "a star and its planet in a nebula",
                "a blue planet in a nebula, in the middle",
                "a pink island covered with pink trees, in the sea, in the middle",
                "a pink forest in spring with a yellow tree in a clearing in the middle",
                "a yellow tree with a yellow leaf in the middle, in a pink forest, in the middle",
                "a yellow leaf of a yellow tree with a yellow ladybug in the middle, in the middle",
                "a yellow ladybug with black spots on a yellow leaf, in the middle",
            ),
            "zoom": {"zoom_factor": 4},
            "seed": 6,
            "movie": {"seconds_per_level": 2.0},
        }
    )
