"""Whether cosmos128 confirms the study of cosmos64: its extremes, in every third scene.

    pot-jax sweep --config=configs/bench/confirm.py --workdir=runs/confirm --keep=metrics
    pot-jax report --workdir=runs/confirm --baseline=method=default

Default, independent samples, the three best and the three worst methods by the study's ranking
before it had the techniques, of those that cost no more than the default; and the full set of
techniques, whole, without own_colour, and without the residual's limit. Steps and solver are the
study's; else cosmos128's own defaults, so that levels agree through its tiny autoencoder.

Hardware: 2 CPU cores, 2 GiB of memory. Time: 30 s a zoom on one core, so 45 minutes in all.
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
    """Returns the axes: 11 methods, 8 scenes, 2 seeds."""
    known = {**study.REPEATED, **study.METHODS, **study.TECHNIQUES}
    chosen = {name: known[name] for name in (*study.REPEATED, *BEST, *WORST, *TECHNIQUES)}
    chosen["full-unlimited"] = study.FULL | {"sampler.residual_limit": 0.0}
    return {"method": chosen, "scene": dict([*scenes.world_scenes().items()][::3]), "seed": [0, 1]}
