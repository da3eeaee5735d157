"""The paper's own settings (arXiv 2312.02149, sections 4.1 to 4.4 and 5), with a shipped model.

    pot-jax sample --config=paper --model=cosmos64 --workdir=runs/paper

DDPM, 256 steps, zoom factor 2, the plain average of all observations (weight 1), z_T drawn for each
level alone, the truncated Gaussian kernel, and, with --photograph=picture.png, five Adam steps of
rate 0.1 towards it at each step; there is no photograph by default. The paper used a cascaded pixel
model, so levels agree in pixels. Its guidance scale is not stated; 4 is pot_jax's default.

Measured on 2 shared CPU cores: 0.37 s a step, two and a half minutes in all, 0.9 GiB. cosmos128,
the default, takes several times as long.
Expected: six levels from a star to a continent; adjacent ones agree to 33 to 35 dB before the last
render and to 58 dB or more as delivered. The plain average makes them soft.
"""

import cosmos
import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings that are the paper's, whatever a model's own defaults are."""
    return ml_collections.ConfigDict(
        {
            "prompts": tuple(cosmos.PROMPTS[4:10]),
            "zoom": {"zoom_factor": 2},
            "sampler": {
                "solver": "ddpm",
                "steps": 256,
                "time_travel": 1,
                "method": "joint",
                "guidance_scale": 4.0,
                "space": "pixel",
                "pixel_every": 1,
                "agreement_vae": "vae",
                "residual_limit": 0.0,
                "blend": "laplacian",
                "blend_weight": 1.0,
                "blend_release": 0.0,
                "strip": 0.0,
                "own_colour": 0.0,
                "agree_first": 1.0,
                "agree_every": 1,
                "kernel": "gaussian",
                "noise": "shared",
                "initial_noise": "per_level",
            },
            "photograph": {"method": "adam"},
        }
    )
