"""Whether cosmos128 confirms the study of cosmos64: its extremes, in every third scene.

    pot-jax sweep --config=configs/bench/confirm.py --workdir=runs/confirm --keep=metrics
    pot-jax report --workdir=runs/confirm --baseline=method=default

Default, independent, the three best and three worst by docs/study's ranking, of methods that cost
no more than the default; and the techniques against squares, together and apart. Steps and solver
are the study's; else cosmos128's own defaults, so that levels agree through its tiny autoencoder.

Hardware: 2 CPU cores, 2 GiB of memory. Time: docs/study says.
"""

import ml_collections
import scenes
import study

BEST = ("dpmpp-2m", "noise-blurred", "iterative")
WORST = ("super-resolution", "delivery-noise-per-level", "average-w1")
TECHNIQUES = ("full-no-own-colour",)


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings that all runs share."""
    config = study.get_config()
    config.model = "cosmos128"
    return config


def get_sweep() -> dict:
    """Returns the axes: 12 methods, 8 scenes, 2 seeds."""
    known = {**study.REPEATED, **study.METHODS, **study.TECHNIQUES}
    chosen = {name: known[name] for name in (*study.REPEATED, *BEST, *WORST, *TECHNIQUES)}
    chosen["full-unlimited"] = study.FULL | {"sampler.residual_limit": 0.0}
    return {"method": chosen, "scene": dict([*scenes.world_scenes().items()][::3]), "seed": [0, 1]}
