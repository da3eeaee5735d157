r"""ZoomBench in the real world: 8 scenes of 4 to 16 levels, 2 seeds, with a Stable Diffusion.

    pot-jax sweep --config=configs/bench/stable_diffusion.py --config.model=MODEL \
      --workdir=runs/photographs
    pot-jax report --workdir=runs/photographs

MODEL is the folder, file or hub id of any that was trained on photographs; none is named here. Each
prompt says what is seen at its level's true width (`scenes.REAL`).
Hardware: a GPU with 16 GiB for the scene of 16 levels at 512 px. Time: not measured yet.
Expected: not measured yet.
"""

import ml_collections
import scenes


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings that all runs share."""
    return ml_collections.ConfigDict({"sampler": {"steps": 50}})


def get_sweep() -> dict:
    """Returns the axes: every scene with every seed."""
    return {"scene": scenes.stable_diffusion(), "seed": [0, 1]}
