"""Every solver against its diffusers scheduler, at every step of a run, on the same noise.

Both run freely from the same first latents with the same stand-in for a network, so that an error
made at one step shows in all that follow.
"""

import inspect
import json
import sys
from dataclasses import replace

import diffusers
import jax
import numpy as np
import pytest
import torch

from pot_jax.diffusion.guidance import clean_from_prediction, limiter
from pot_jax.diffusion.schedule import CLASS_DEFAULTS, ScheduleConfig
from pot_jax.diffusion.solvers import SOLVERS, Denoised

# diffusers 0.42 hands torch tensors to np.array in a way that NumPy 2 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CLASSES = {
    "ddpm": diffusers.DDPMScheduler,
    "ddim": diffusers.DDIMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "euler_ancestral": diffusers.EulerAncestralDiscreteScheduler,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
    "lcm": diffusers.LCMScheduler,
    "pndm": diffusers.PNDMScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
    "heun": diffusers.HeunDiscreteScheduler,
    "dpmpp_3m": diffusers.DPMSolverMultistepScheduler,
    "dpmpp_2m_sde": diffusers.DPMSolverMultistepScheduler,
    "dpmpp_3m_sde": diffusers.DPMSolverMultistepScheduler,
    "lms": diffusers.LMSDiscreteScheduler,
    "pndm_prk": diffusers.PNDMScheduler,
}
# What makes a class of several solvers the one.
KEYS = {
    "dpmpp_2m": {"algorithm_type": "dpmsolver++"},
    "pndm": {"skip_prk_steps": True},
    "pndm_prk": {"skip_prk_steps": False},
    "dpmpp_3m": {"algorithm_type": "dpmsolver++", "solver_order": 3},
    "dpmpp_2m_sde": {"algorithm_type": "sde-dpmsolver++", "solver_order": 2},
    "dpmpp_3m_sde": {"algorithm_type": "sde-dpmsolver++", "solver_order": 3},
}
MULTISTEP = ("dpmpp_2m", "dpmpp_3m", "dpmpp_2m_sde", "dpmpp_3m_sde", "unipc")
# Their classes know no zero terminal SNR.
PLAIN = ("pndm", "pndm_prk", "heun", "lms")
SHAPE = (2, 4, 4, 3)  # N, H, W, C
SD_BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
BETAS = {
    "linear": {"beta_schedule": "linear"},
    "stable_diffusion": SD_BETAS,
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "trained": {"trained_betas": np.geomspace(1e-4, 0.03, 1000).tolist()},
}
PREDICTIONS = ("epsilon", "v_prediction", "sample")
SPACINGS = ("leading", "linspace", "trailing")
# The steps of SD 1.5's own file, which states no spacing and a class that is not among ours.
SD15 = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}


class DoubleTorch:
    """torch, but where it says float32 it means float64: diffusers casts the latents to it."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


def answer(z, alpha, sigma, prediction_type, spread=0.5):
    """A network's answer: the exact denoiser of Gaussian data around a fixed texture."""
    alpha, sigma = np.float64(alpha), np.float64(sigma)
    mean = 0.8 * np.sin(np.arange(np.prod(SHAPE))).reshape(SHAPE)
    eps = sigma * (z - alpha * mean) / (alpha**2 * spread**2 + sigma**2)
    clean = mean + alpha * spread**2 * (z - alpha * mean) / (alpha**2 * spread**2 + sigma**2)
    values = {"epsilon": eps, "sample": clean, "v_prediction": alpha * eps - sigma * clean}
    return values[prediction_type].astype(z.dtype)


def to_torch(x):
    return torch.from_numpy(np.moveaxis(x, -1, 1).copy())


def from_torch(x):
    return np.moveaxis(x.numpy(), 1, -1)


def our_run(solver, config, plan, first, noises):
    limit = limiter(config)
    latents = plan.init_scale * first
    history = solver.start(latents)
    run = [latents]
    of_dtype = first.dtype.type  # the plan's float32 numbers, exactly
    for step, noise in enumerate(noises[: len(plan.timestep)]):
        row = plan._replace(
            init_scale=None,
            coefficients={key: of_dtype(column[step]) for key, column in plan.coefficients.items()},
            **{key: of_dtype(getattr(plan, key)[step]) for key in plan._fields[:4]},
        )
        z = latents * row.input_scale
        prediction = answer(z, row.alpha, row.sigma, config.prediction_type)
        clean = clean_from_prediction(prediction, z, row.alpha, row.sigma, config.prediction_type)
        latents, history = solver.step(
            row, history, latents, Denoised(limit(clean), limit(clean)), limit(clean), noise
        )
        latents = np.asarray(latents)
        run.append(latents)
    return run


def their_run(scheduler, network_type, plan, first, noises, eta, monkeypatch):
    """`network_type` is the prediction type the network has; the scheduler sees its own."""
    times = scheduler.timesteps
    stochastic = [n for n, t in zip(noises, times) if t > 0 or not is_a(scheduler, "DDPM")]
    queue = iter(stochastic)  # DDPM draws nothing at timestep 0
    for module in ("ddpm", "euler_ancestral_discrete", "lcm"):
        monkeypatch.setattr(
            f"diffusers.schedulers.scheduling_{module}.randn_tensor",
            lambda shape, **_: to_torch(next(queue)),
        )
    latents = to_torch(first) * scheduler.init_noise_sigma
    run = [from_torch(latents)]
    # The same arithmetic, when clipping makes the implied eps differ from the network's.
    extra = {"eta": eta, "use_clipped_model_output": True} if is_a(scheduler, "DDIM") else {}
    for step, t in enumerate(times):
        z = from_torch(scheduler.scale_model_input(latents, t))
        prediction = answer(z, plan.alpha[step], plan.sigma[step], network_type)
        if eta or "sde" in str(scheduler.config.get("algorithm_type")):
            extra["variance_noise"] = to_torch(noises[step])
        latents = scheduler.step(to_torch(prediction), t, latents, **extra).prev_sample
        run.append(from_torch(latents))
    return run


def is_a(scheduler, name):
    return type(scheduler).__name__ == f"{name}Scheduler"


def compare(name, scheduler, config, monkeypatch, steps=12, eta=0.0):
    """Asserts equality at every step; returns the worst error."""
    plan = SOLVERS[name].plan(config, steps, eta=eta)
    rng = np.random.default_rng(7)
    first = rng.standard_normal(SHAPE, np.float32)
    noises = rng.standard_normal((len(plan.timestep), *SHAPE), np.float32)
    # float32 holds eps, and the latents of Euler's solvers, to 2^-24 of themselves, and x0 =
    # z - ratio eps multiplies that by the ratio: 4,000 at zero SNR, 20,000 at cosine's last
    # timestep. There diffusers' step and ours compute in float64, from its float32 table and our
    # float32 plan.
    double = plan.sigma[0] > 100 * plan.alpha[0]
    if double:
        first, noises = first.astype(np.float64), noises.astype(np.float64)
        monkeypatch.setattr(sys.modules[type(scheduler).__module__], "torch", DoubleTorch())
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)  # else it begins at the second of equal timesteps
    if double and hasattr(scheduler, "sigmas"):
        scheduler.sigmas = scheduler.sigmas.double()
    times = scheduler.timesteps.numpy().astype(np.float32)
    whole = np.all(times == times.round())  # placed sigmas have fractions, of float32 logarithms
    np.testing.assert_allclose(plan.timestep, times, rtol=0 if whole else 1e-6)
    with jax.enable_x64(True):
        run = our_run(SOLVERS[name], config, plan, first, noises)
    their_type = scheduler.config.prediction_type
    expected = their_run(scheduler, their_type, plan, first, noises, eta, monkeypatch)
    # The plan's float32 sigma of cosine's last timestep is 1 - 0 instead of 1 - 1.2e-9, and eps
    # prediction divides that by its alpha, 4.9e-5.
    tolerance = 2e-5 if double and their_type == "epsilon" else 1e-5
    if double:  # where ratios of 20,000 and 10 meet in one step, their float32 roundings show
        tolerance = 3e-3 if name in PLAIN or config.sigmas != "timesteps" else tolerance
    elif name == "unipc":  # whose coefficients diffusers computes in float32
        tolerance = 2e-5
    worst = 0.0
    for step, (x, y) in enumerate(zip(run, expected, strict=True)):
        # The latents of Euler's solvers are as large as their sigma, all others of order 1.
        error = np.abs(x - y).max() / max(1.0, y.std())
        worst = max(worst, error)
        assert error < tolerance, f"after {step} steps of {len(run) - 1}: {error:.2e}"
    return worst


def compare_facts(name, monkeypatch, steps=12, eta=0.0, **facts):
    cls = CLASSES[name]
    facts = {**KEYS.get(name, {}), **facts}
    config = ScheduleConfig.from_json({"_class_name": cls.__name__, **facts})
    return compare(name, cls(**facts), config, monkeypatch, steps, eta)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("name", CLASSES)
def test_every_step(name, betas, prediction_type, spacing, monkeypatch):
    facts = {"timestep_spacing": spacing, **BETAS[betas]}
    if name.startswith("pndm") and betas == "cosine" and spacing != "leading":
        pytest.skip("its first step, from a ratio of 20,000, multiplies rounding errors by that")
    if name in ("euler_ancestral", "pndm", "pndm_prk") and prediction_type == "sample":
        # Its class cannot; the same network, answering with eps, must give the same run.
        file = {"_class_name": "EulerDiscreteScheduler", "prediction_type": "sample", **facts}
        file |= {"set_alpha_to_one": False}  # the default of PNDM's class
        scheduler = CLASSES[name](**facts, **KEYS.get(name, {}))
        compare(name, scheduler, ScheduleConfig.from_json(file), monkeypatch)
        return
    compare_facts(name, monkeypatch, prediction_type=prediction_type, **facts)


@pytest.mark.parametrize("name", CLASSES)
def test_other_table_length(name, monkeypatch):
    compare_facts(name, monkeypatch, num_train_timesteps=200, beta_end=0.1)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 16, 30, 48])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", CLASSES)
def test_lengths(name, spacing, steps, monkeypatch):
    if name == "pndm_prk" and steps < 4:
        pytest.skip("takes at least 4")
    compare_facts(name, monkeypatch, steps, timestep_spacing=spacing, steps_offset=1, **SD_BETAS)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("betas", ["linear", "stable_diffusion"])
@pytest.mark.parametrize(
    ("name", "prediction_type"),
    [(name, "v_prediction") for name in CLASSES if name not in PLAIN]
    # EulerAncestralDiscreteScheduler knows no sample, and eps cannot stand in for it at zero SNR.
    + [(name, "sample") for name in CLASSES if name not in ("euler_ancestral", *PLAIN)],
)
def test_zero_terminal_snr(name, betas, prediction_type, spacing, monkeypatch):
    facts = {"rescale_betas_zero_snr": True, "timestep_spacing": spacing, **BETAS[betas]}
    compare_facts(name, monkeypatch, prediction_type=prediction_type, **facts)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("set_alpha_to_one", [True, False])
def test_ddim_noise(set_alpha_to_one, eta, spacing, monkeypatch):
    compare_facts(
        "ddim",
        monkeypatch,
        eta=eta,
        set_alpha_to_one=set_alpha_to_one,
        clip_sample=False,
        timestep_spacing=spacing,
        **SD_BETAS,
    )


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_small_log", "fixed_large"])
@pytest.mark.parametrize("steps_offset", [0, 1])
def test_ddpm_variance(variance_type, steps_offset, monkeypatch):
    compare_facts(
        "ddpm", monkeypatch, variance_type=variance_type, steps_offset=steps_offset, **SD_BETAS
    )


LIMITS = {
    "none": {"clip_sample": False},
    "clip": {"clip_sample": True, "clip_sample_range": 0.9},
    "threshold": {"thresholding": True, "sample_max_value": 1.5},
    "threshold_more": {
        "thresholding": True,
        "dynamic_thresholding_ratio": 0.8,
        "sample_max_value": 1.2,
    },
}


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize(
    ("name", "limit"),
    [(name, limit) for name in ("ddpm", "ddim", "lcm") for limit in LIMITS]
    # Their classes do not clip, and Heun's knows nothing else.
    + [(name, limit) for name in MULTISTEP for limit in ("threshold", "threshold_more")]
    + [("heun", "clip")],
)
def test_limits(name, limit, prediction_type, monkeypatch):
    compare_facts(name, monkeypatch, prediction_type=prediction_type, **LIMITS[limit])


@pytest.mark.parametrize("steps", [5, 12, 15, 20])
@pytest.mark.parametrize("lower_order_final", [True, False])
@pytest.mark.parametrize("euler_at_final", [True, False])
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("name", MULTISTEP[:-1])
def test_dpmpp_end(name, final, euler_at_final, lower_order_final, steps, monkeypatch):
    compare_facts(
        name,
        monkeypatch,
        steps,
        final_sigmas_type=final,
        euler_at_final=euler_at_final,
        lower_order_final=lower_order_final,
        **SD_BETAS,
    )


@pytest.mark.parametrize("steps", [12, 20])
@pytest.mark.parametrize("sde", ["", "_sde"])
@pytest.mark.parametrize("solver_order", [1, 2, 3])
@pytest.mark.parametrize("solver_type", ["midpoint", "heun", "logrho"])
def test_dpmpp_variants(solver_type, solver_order, sde, steps, monkeypatch):
    facts = {"solver_type": solver_type, "solver_order": solver_order}
    name = f"dpmpp_{max(solver_order, 2)}m{sde}"
    compare_facts(name, monkeypatch, steps, final_sigmas_type="sigma_min", **facts)


@pytest.mark.parametrize("steps", [2, 5, 20])
@pytest.mark.parametrize("lower_order_final", [True, False])
@pytest.mark.parametrize("disable_corrector", [[], [0, 3]])
@pytest.mark.parametrize("solver_order", [1, 2, 3])
@pytest.mark.parametrize("solver_type", ["bh1", "bh2", "midpoint"])
def test_unipc_variants(
    solver_type, solver_order, disable_corrector, lower_order_final, steps, monkeypatch
):
    # To sigma 0 at higher orders, and of bh1 at any, diffusers divides by zero.
    final = "zero" if lower_order_final and solver_type != "bh1" else "sigma_min"
    compare_facts(
        "unipc",
        monkeypatch,
        steps,
        solver_type=solver_type,
        solver_order=solver_order,
        disable_corrector=disable_corrector,
        lower_order_final=lower_order_final,
        final_sigmas_type=final,
        **SD_BETAS,
    )


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [4, 5, 10, 27])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("set_alpha_to_one", [True, False])
def test_pndm_that_begins_with_runge_kutta_steps(
    set_alpha_to_one, spacing, steps, prediction_type, monkeypatch
):
    compare_facts(
        "pndm_prk",
        monkeypatch,
        steps,
        timestep_spacing=spacing,
        prediction_type=prediction_type,
        set_alpha_to_one=set_alpha_to_one,
        steps_offset=1,
        **SD_BETAS,
    )


PLACED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")


@pytest.mark.parametrize("steps", [1, 2, 12, 31])
@pytest.mark.parametrize("betas", ["linear", "stable_diffusion", "cosine"])
@pytest.mark.parametrize("key", PLACED)
@pytest.mark.parametrize("name", ["euler", "heun", "lms", *MULTISTEP])
def test_placed_sigmas(name, key, betas, steps, monkeypatch):
    kind = {1: "sample", 2: "v_prediction"}.get(steps, "epsilon")
    facts = {key: True, "prediction_type": kind, **BETAS[betas]}
    compare_facts(name, monkeypatch, steps, **facts)


@pytest.mark.parametrize("key", [*PLACED, "use_lu_lambdas"])
@pytest.mark.parametrize("name", ["euler", *MULTISTEP])
def test_placed_sigmas_that_end_at_sigma_min(name, key, monkeypatch):
    if key == "use_lu_lambdas" and not name.startswith("dpmpp"):
        pytest.skip("only DPM-Solver++ has them")
    compare_facts(name, monkeypatch, final_sigmas_type="sigma_min", **{key: True}, **SD_BETAS)


@pytest.mark.parametrize("key", PLACED)
@pytest.mark.parametrize("name", ["euler", "unipc"])
def test_placed_sigmas_between_stated_ends(name, key, monkeypatch):
    ends = {"sigma_min": 0.05, "sigma_max": 10.0}
    compare_facts(name, monkeypatch, **{key: True}, **ends, **SD_BETAS)


def test_known_keys_are_those_that_diffusers_writes():
    for name in CLASS_DEFAULTS:
        if name == "DPMSolverSDEScheduler":  # diffusers needs torchsde for it
            continue
        arguments = inspect.signature(getattr(diffusers, name).__init__).parameters
        json = {key: argument.default for key, argument in arguments.items() if key != "self"}
        assert ScheduleConfig.from_json(json | {"_class_name": name}).unknown == [], name


@pytest.mark.parametrize("spacing", SPACINGS)
def test_dpmpp_2m_lambda_min_clipped(spacing, monkeypatch):
    worst = compare_facts(
        "dpmpp_2m",
        monkeypatch,
        lambda_min_clipped=-5.1,
        timestep_spacing=spacing,
        **BETAS["cosine"],
    )
    assert worst < 1e-5


def test_euler_ends_at_sigma_min(monkeypatch):
    compare_facts("euler", monkeypatch, final_sigmas_type="sigma_min", **SD_BETAS)


# Files as people have them: SD 1.x, SD 2.x (v), an old pixel model, fine-tunes of other classes.
FILES = {
    "sd15": SD15,
    "sd21_v": {**SD15, "_class_name": "DDIMScheduler", "prediction_type": "v_prediction"},
    "ddpm_pixels": {
        "_class_name": "DDPMScheduler",
        "_diffusers_version": "0.1.1",
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "beta_start": 0.0001,
        "clip_sample": True,
        "num_train_timesteps": 1000,
        "trained_betas": None,
        "variance_type": "fixed_large",
    },
    "unipc": {
        "_class_name": "UniPCMultistepScheduler",
        "solver_order": 2,
        "solver_type": "bh2",
        "disable_corrector": [],
        **SD_BETAS,
        "clip_sample": False,
        "set_alpha_to_one": True,
        "timestep_spacing": "linspace",
    },
    "lms": {"_class_name": "LMSDiscreteScheduler", "clip_sample": False, **SD_BETAS},
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("name", CLASSES)
def test_any_solver_runs_on_any_file(name, file, monkeypatch):
    """As `Scheduler.from_config` of another class does, spacing that is not stated included."""
    loaded = FILES[file]
    named = getattr(diffusers, loaded["_class_name"]).from_config(loaded)
    scheduler = CLASSES[name].from_config(named.config, **KEYS.get(name, {}))
    config = ScheduleConfig.from_json(loaded)
    if name not in ("ddpm", "ddim", "lcm", "heun"):
        config = replace(config, clip_sample=False)  # their classes ignore it; guidance.limiter
    if name in ("pndm", "pndm_prk"):
        config = replace(config, set_alpha_to_one=scheduler.config.set_alpha_to_one)
    compare(name, scheduler, config, monkeypatch)


@pytest.mark.parametrize("file", FILES)
def test_written_file_means_the_same_to_diffusers(file, tmp_path, monkeypatch):
    config = ScheduleConfig.from_json(FILES[file])
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config.to_json()))
    loaded = getattr(diffusers, config.class_name).from_pretrained(tmp_path)
    original = getattr(diffusers, config.class_name).from_config(FILES[file])
    for key, value in original.config.items():
        if key not in ("_use_default_values", "_diffusers_version"):
            assert loaded.config[key] == value, key


@pytest.mark.parametrize("name", CLASSES)
def test_what_diffusers_saves_today_reads_as_its_class_means_it(name, tmp_path):
    CLASSES[name](**SD_BETAS).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "scheduler_config.json").read_text())
    config = ScheduleConfig.from_json(saved)
    stated = {key: saved[key] for key in saved if key != "_diffusers_version"}
    bare = {"_class_name": CLASSES[name].__name__, **SD_BETAS}
    spaced = {**bare, "timestep_spacing": stated["timestep_spacing"]}
    spaced |= {"solver_type": "bh2"} if name == "unipc" else {}  # what UniPC takes any other for
    assert config == ScheduleConfig.from_json(spaced)
    assert ScheduleConfig.from_json(config.to_json()) == config
