"""ZoomBench in the procedural world: 24 scenes of 6 levels, 2 seeds, with cosmos64.

    pot-jax sweep --config=configs/bench/world.py --workdir=runs/bench
    pot-jax report --workdir=runs/bench

Hardware: 2 CPU cores, 2 GiB of memory. Time: about 9 s a zoom on 2 shared cores, so 8 minutes for
the 48; a quarter of them with --every=4.
Expected: seam excess 0.02 (true zooms: -0.12), overlap 58.5 dB, all of a prompt right in 82 % of
levels. docs/zoombench.md says what the scores mean, `controls.py` what becomes of them where
prompts contradict each other.
"""

import ml_collections
import scenes


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings that all runs share."""
    return ml_collections.ConfigDict({"model": "cosmos64", "sampler": {"steps": 20}})


def get_sweep() -> dict:
    """Returns the axes: every scene with every seed."""
    return {"scene": scenes.world_scenes(), "seed": [0, 1]}
