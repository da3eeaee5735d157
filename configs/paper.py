"""The paper's own settings (arXiv 2312.02149, sections 4.1 to 4.4 and 5), with the embedded model.

    pot-jax sample --config=paper --workdir=runs/paper

DDPM, 256 steps, factor 2 between levels, the plain average of all views (weight 1), z_T drawn for
each level alone, the truncated Gaussian kernel, and, where a photograph is given
(--photograph=picture.png), five Adam steps of rate 0.1 towards it at each step; none by default.
The paper used a cascaded pixel model, so levels agree in pixels. Its guidance scale is not stated;
4 is this model's own.

Expected: FILL_IN
"""

import cosmos
import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns what differs from the defaults."""
    return ml_collections.ConfigDict(
        {
            "prompts": tuple(cosmos.PROMPTS[4:10]),
            "zoom": {"zoom_factor": 2},
            "sampler": {
                "solver": "ddpm",
                "steps": 256,
                "guidance_scale": 4.0,
                "space": "pixel",
                "blend": "laplacian",
                "blend_weight": 1.0,
                "kernel": "gaussian",
                "initial_noise": "per_level",
            },
            "photograph": {"method": "adam"},
        }
    )
