"""How right the default is, to 2 points: 112 scenes that are not ZoomBench's, 8 seeds, cosmos64.

    pot-jax sweep --config=configs/bench/many.py --workdir=runs/many --keep=metrics
    pot-jax report --workdir=runs/many

Scenes differ in how hard they are, by 10 points of concept accuracy (standard deviation), so that
24 of them leave its mean open by 4 points to each side, whatever the number of seeds.

Hardware: 2 CPU cores, 2 GiB of memory. Time: 5 s a zoom on one core, so 40 minutes in all.
Expected: 94.8 % of concepts right, [93.3, 96.2].
"""

import ml_collections
import scenes


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings that all runs share: the model's defaults."""
    return ml_collections.ConfigDict({"model": "cosmos64", "sampler": {"steps": 20}})


def get_sweep() -> dict:
    """Returns the axes: every scene with every seed."""
    return {"scene": scenes.many_scenes(), "seed": list(range(8))}
