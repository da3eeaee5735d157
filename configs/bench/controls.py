"""ZoomBench's negative controls: 6 scenes whose prompts no zoom can follow, 2 seeds, cosmos64.

    pot-jax sweep --config=configs/bench/controls.py --workdir=runs/controls
    pot-jax report --workdir=runs/controls

Hardware: 2 CPU cores, 2 GiB of memory. Time: 2 minutes on 2 shared cores.
Expected: all of a prompt right in 21 % of levels, where `world.py` has 82 %; but a seam excess of
0.01 and an overlap of 58.4 dB. Levels must agree here too, and the strip hides their borders: it is
the prompts that pay.
"""

import ml_collections
import scenes
import world


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings that all runs share."""
    return world.get_config()


def get_sweep() -> dict:
    """Returns the axes: every control with every seed."""
    return {"scene": scenes.controls(), "seed": [0, 1]}
