"""What cures squares: the strip, its width, its weight and its schedule, each alone and left out.

    pot-jax sweep --config=configs/bench/techniques.py --workdir=runs/techniques --keep=metrics
    pot-jax report --workdir=runs/techniques --baseline=method=default

24 scenes of 6 levels with 2 seeds on cosmos64, 20 steps of DDIM; methods that differ in space,
solver, zoom factor or placement have a default of their own beside them, such as latent and
strip-latent. With --config.model=cosmos128, and --every=3 for every third scene, it is the slice of
the larger model.

Hardware: 2 CPU cores, 2 GiB of memory. Not run yet: about an hour by its operations, a third of
that with --every=3.
"""

import ml_collections
import scenes
import study

STRIP = {"sampler.strip": 0.15, "sampler.blend_weight": 0.0}
SPARSE = {"sampler.agree_first": 0.5, "sampler.agree_every": 3}
METHODS = {
    **study.REPEATED,
    "strip": STRIP,
    "strip-sparse": STRIP | SPARSE,
    # One part left out, or changed.
    "sparse": SPARSE,
    "w0": {"sampler.blend_weight": 0.0},
    "w0-sparse": {"sampler.blend_weight": 0.0} | SPARSE,
    "strip-w0.1": STRIP | {"sampler.blend_weight": 0.1},
    "strip-w0.3": STRIP | {"sampler.blend_weight": 0.3},
    "strip-0.08": STRIP | {"sampler.strip": 0.08},
    "strip-0.12": STRIP | {"sampler.strip": 0.12},
    "strip-0.25": STRIP | {"sampler.strip": 0.25},
    "strip-every-2": STRIP | {"sampler.agree_first": 0.0, "sampler.agree_every": 2},
    # Elsewhere.
    "latent": {"sampler.space": "latent"},
    "strip-latent": STRIP | {"sampler.space": "latent"},
    "ddpm": {"sampler.solver": "ddpm"},
    "strip-ddpm": STRIP | {"sampler.solver": "ddpm"},
}
# At other zoom factors and placements.
GEOMETRIES = {name: METHODS[name] for name in (*study.REPEATED, "strip", "strip-sparse")}


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings that all runs share."""
    return study.get_config()


def get_sweep() -> list[dict]:
    """Returns the sweeps: methods in the benchmark's scenes, and some at p = 4 and off-centre."""
    every = scenes.world_scenes()
    corner = {
        name: scene | {"zoom.placement": [[8, -8]] * (len(scene["prompts"]) - 1)}
        for name, scene in every.items()
    }
    other = {"p4": study.factor_4(every), "off-centre": corner}
    return [{"method": METHODS, "scene": every, "seed": [0, 1]}] + [
        {
            "method": {f"{kind}-{name}": one for name, one in GEOMETRIES.items()},
            "scene": places,
            "seed": [0, 1],
        }
        for kind, places in other.items()
    ]
