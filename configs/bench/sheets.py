"""The pictures of docs/study: every method that runs in all its scenes, in two, with one seed.

    pot-jax sweep --config=configs/bench/sheets.py --workdir=runs/sheets --keep=pictures

Hardware: 2 CPU cores, 2 GiB of memory. Time: about 5 minutes.
"""

import ml_collections
import study

SCENES = ("world-07-planet", "world-17-tree")


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings that all runs share."""
    return study.get_config()


def get_sweep() -> list[dict]:
    """Returns the study's sweeps with fewer scenes and one seed."""
    return [
        axes | {"scene": {name: axes["scene"][name] for name in SCENES}, "seed": [0]}
        for axes in study.get_sweep()
        if axes["scene"].keys() >= {*SCENES}
    ]
