"""A film of 1080p and a minute: from a galaxy to a ladybug, with captions.

pot-jax sample --config=film --workdir=runs/film

"""

import cosmos
import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings of `cosmos`, with its pictures filmed at 1920 x 1080."""
    config = cosmos.get_config()
    config.movie = {
        "size": 1080,
        "aspect": "16:9",
        "seconds": 60.0,
        "easing": 2.0,
        "hold": 1.0,
        "captions": True,
    }
    return config
