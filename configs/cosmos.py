"""From a galaxy to a ladybug in eight levels, each four times as deep, with the model that ships.

    pot-jax sample --config=configs/cosmos.py --workdir=runs/cosmos      (or tools/demo)

2 CPU cores, 2 GiB of memory: about a minute to compile, seconds to sample. Expected: eight pictures of
their prompts whose overlaps agree to 57 dB and more, and a movie of 12 s.
"""

import ml_collections

from pot_jax.training.captions import scene_prompts

WORLD = 7  # its colours are the prompts' colours


def get_config() -> ml_collections.ConfigDict:
    """Returns what differs from the defaults."""
    return ml_collections.ConfigDict(
        {
            "prompts": scene_prompts(8, WORLD, start=0.8, zoom_factor=4),
            "zoom": {"zoom_factor": 4},
            "movie": {"seconds_per_level": 2.0, "direction": "in"},
        }
    )
