r"""Whether a Stable Diffusion model gains from the techniques of docs/study as the shipped ones do.

    pot-jax sweep --config=configs/bench/techniques.py --config.model=MODEL \
      --workdir=runs/techniques
    pot-jax report --workdir=runs/techniques --baseline=method=default

ZoomBench's 8 real scenes with 2 seeds: without the techniques, with all of them, and independent
samples, the reference for colour and detail. MODEL is as for stable_diffusion.py.
Hardware, time and what to expect: not measured yet.
"""

import ml_collections
import scenes
import stable_diffusion
import study


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings that all runs share."""
    return stable_diffusion.get_config()


def get_sweep() -> dict:
    """Returns the axes: 3 methods, 8 scenes, 2 seeds. The solver is the model's own."""
    methods = {
        name: {setting: value for setting, value in method.items() if setting != "sampler.solver"}
        for name, method in study.REPEATED.items()
    }
    return {"method": methods, "scene": scenes.stable_diffusion(), "seed": [0, 1]}
