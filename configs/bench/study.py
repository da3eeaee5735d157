"""The study of docs/study: every axis of the sampler alone, and all baselines, with cosmos64.

    pot-jax sweep --config=configs/bench/study.py --workdir=runs/study --keep=metrics
    pot-jax report --workdir=runs/study --baseline=method=default

24 scenes of 6 levels, 56 methods, 20 steps of DDIM unless steps or solver are the axis, 2 seeds
(default, independent and the full set of techniques: 8), and other spaces, zoom factors and
placements in every sixth scene; a quarter of it with --every=4. If it is killed, the same command
resumes; more workers on other hosts share the work. docs/study says how long it took, and what it
teaches.
"""

import pathlib
import tempfile

import ml_collections
import scenes

from pot_jax import world
from pot_jax.media.images import save_png
from pot_jax.media.pixels import to_bytes
from pot_jax.world.captions import scene_prompts

# Method -> the settings in which it differs from the default: laplacian, weight 0.3, agreement in
# pixels at each step, shared noise.
METHODS = {
    # The baselines of the paper's Table 1 and others.
    "enlarged": {"sampler.blend": "enlarged", "sampler.space": "delivery"},
    "outpainting": {"sampler.method": "outpainting", "sampler.time_travel": 3},
    "super-resolution": {"sampler.method": "super_resolution"},
    # blend, and blend x weight
    "average": {"sampler.blend": "average"},
    "iterative": {"sampler.blend": "iterative"},
    "gradient": {"sampler.blend": "gradient"},
    "average-w1": {"sampler.blend": "average", "sampler.blend_weight": 1.0},
    "iterative-w1": {"sampler.blend": "iterative", "sampler.blend_weight": 1.0},
    # blend_weight
    "w0": {"sampler.blend_weight": 0.0},
    "w0.1": {"sampler.blend_weight": 0.1},
    "w0.6": {"sampler.blend_weight": 0.6},
    "w1": {"sampler.blend_weight": 1.0},
    # space and pixel_every
    "latent": {"sampler.space": "latent"},
    "delivery": {"sampler.space": "delivery"},
    "pixel-every-2": {"sampler.pixel_every": 2},
    "pixel-every-4": {"sampler.pixel_every": 4},
    # noise, and space x noise
    "noise-per-level": {"sampler.noise": "per_level"},
    "noise-blurred": {"sampler.noise": "blurred"},
    "first-noise-per-level": {"sampler.initial_noise": "per_level"},
    "latent-noise-per-level": {"sampler.space": "latent", "sampler.noise": "per_level"},
    "latent-noise-blurred": {"sampler.space": "latent", "sampler.noise": "blurred"},
    "delivery-noise-per-level": {"sampler.space": "delivery", "sampler.noise": "per_level"},
    "delivery-noise-blurred": {"sampler.space": "delivery", "sampler.noise": "blurred"},
    # solver and steps
    "ddpm": {"sampler.solver": "ddpm"},
    "ddpm-noise-per-level": {"sampler.solver": "ddpm", "sampler.noise": "per_level"},
    "euler-ancestral": {"sampler.solver": "euler_ancestral"},
    "dpmpp-2m": {"sampler.solver": "dpmpp_2m"},
    "dpmpp-2m-10-steps": {"sampler.solver": "dpmpp_2m", "sampler.steps": 10},
    "10-steps": {"sampler.steps": 10},
    "40-steps": {"sampler.steps": 40},
}
# What the embedded models do by default since this study: the full set of techniques.
FULL = {
    "sampler.strip": 0.14,
    "sampler.own_colour": 0.2,
    "sampler.blend_release": 1.0,
    "sampler.agree_first": 0.5,
    "sampler.agree_every": 3,
    "sampler.solver": "dpmpp_2m",
}
TECHNIQUES = {
    # Each technique alone; the solver is above.
    "strip": {"sampler.strip": 0.14},
    "own-colour": {"sampler.own_colour": 0.2},
    "release": {"sampler.agree_first": 0.5, "sampler.blend_release": 1.0},
    "sparse": {"sampler.agree_first": 0.5, "sampler.agree_every": 3},
    # Each left out.
    "full-no-strip": FULL | {"sampler.strip": 0.0},
    "full-no-own-colour": FULL | {"sampler.own_colour": 0.0},
    "full-no-release": FULL | {"sampler.blend_release": 0.0},
    "full-every-step": FULL | {"sampler.agree_every": 1},
    "full-ddim": FULL | {"sampler.solver": "ddim"},
}
# With 8 seeds, since all are compared with them.
REPEATED = {
    "full": FULL,
    "default": {},
    "independent": {"sampler.blend": "none", "sampler.space": "latent"},
}
SEEDS, MORE_SEEDS = [0, 1], list(range(8))


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings that all runs share."""
    # As they were before the study, whatever the model's own defaults are.
    sampler = {"steps": 20, "solver": "ddim", "space": "pixel", "blend": "laplacian"}
    sampler |= {"blend_weight": 0.3, "strip": 0.0, "agree_first": 1.0, "agree_every": 1}
    sampler |= {"blend_release": 0.0, "own_colour": 0.0}
    return ml_collections.ConfigDict({"model": "cosmos64", "sampler": sampler})


def get_sweep() -> list[dict]:
    """Returns the sweeps whose union the study is."""
    every = scenes.world_scenes()
    return [
        {"method": REPEATED, "scene": every, "seed": MORE_SEEDS},
        {"method": METHODS | TECHNIQUES, "scene": every, "seed": SEEDS},
        {"method": {"zoom-factor-4": {}}, "scene": factor_4(every), "seed": SEEDS},
        {"method": photograph_methods(), "scene": photographs(every), "seed": SEEDS},
        *({"method": m, "scene": s, "seed": SEEDS} for m, s in elsewhere(every)),
    ]


def elsewhere(every: dict[str, dict]) -> list[tuple[dict, dict]]:
    """Returns (methods, scenes) in every sixth scene: other spaces, solvers and geometries."""
    some = dict([*every.items()][::6])
    corner = {"zoom.placement": [[8, -8]] * (scenes.LEVELS - 1)}
    large = {"zoom.zoom_factor": 3, "zoom.height": 96, "zoom.width": 96}
    thirds = {}
    for name in some:
        seed, start = scenes.world_places()[name]
        thirds[name] = {"prompts": scene_prompts(4, seed, start=start, zoom_factor=3)} | large
    places = {
        "p3": thirds,
        "p4": factor_4(some),
        "off-centre": {name: scene | corner for name, scene in some.items()},
    }
    apart = {name: FULL | METHODS[name] for name in ("latent", "ddpm")}
    return [
        ({f"full-{name}": method for name, method in apart.items()}, some),
        *(
            ({f"{place}-{name}": method for name, method in REPEATED.items()}, there)
            for place, there in places.items()
        ),
    ]


def factor_4(every: dict[str, dict]) -> dict[str, dict]:
    """Returns the scenes with every second level left out, and so with the zoom factor 4."""
    return {
        name: {"prompts": scene["prompts"][::2], "zoom.zoom_factor": 4}
        for name, scene in every.items()
    }


def photograph_methods() -> dict[str, dict]:
    """Returns both ways to agree with a photograph."""
    return {f"photograph-{m}": {"photograph.method": m} for m in ("project", "adam")}


def photographs(every: dict[str, dict]) -> dict[str, dict]:
    """Returns the scenes with the world's own picture of the widest level as their photograph."""
    folder = pathlib.Path(tempfile.gettempdir()) / "pot_jax_photographs"
    found = {}
    for name, (seed, start) in scenes.world_places().items():
        path = folder / f"{name}.png"
        if not path.exists():
            save_png(path, to_bytes(world.picture(seed, start, 64)))
        found[name] = every[name] | {"photograph.path": str(path)}
    return found
