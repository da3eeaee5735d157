"""The full loops of diffusers' own scheduler tests: the sums and means of |sample| at their end.

Of tests/schedulers/ in diffusers' repository: every `test_full_loop*` and `test_switch` of the
classes that have a solver here, except custom timesteps, which the tests compare with themselves.
The numbers are theirs; diffusers 0.42 is run beside, so that each is known to be still true.

Their loops of Euler, Heun and LMS scale the sample for the network, and then go on with the scaled
one. So do these, since the numbers are of that.
"""

from typing import Any, NamedTuple

import diffusers
import numpy as np
import pytest
import torch

from pot_jax.diffusion import schedule, solvers
from pot_jax.diffusion.guidance import clean_from_prediction, limiter
from pot_jax.diffusion.schedule import ScheduleConfig
from pot_jax.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LINEAR = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}
SHORT = {"num_train_timesteps": 1000, **LINEAR}
LONG = {"num_train_timesteps": 1100, **LINEAR}
# The tests' own configs, by class.
BASES = {
    "DDIM": {**SHORT, "clip_sample": True},
    "DDPM": {**SHORT, "variance_type": "fixed_small", "clip_sample": True},
    "PNDM": SHORT,
    "DPMSolverMultistep": {
        **SHORT,
        "solver_order": 2,
        "lower_order_final": False,
        "final_sigmas_type": "sigma_min",
    },
    "UniPCMultistep": {
        **SHORT,
        "solver_order": 2,
        "solver_type": "bh2",
        "final_sigmas_type": "sigma_min",
    },
    "EulerDiscrete": LONG,
    "EulerAncestralDiscrete": LONG,
    "HeunDiscrete": LONG,
    "LMSDiscrete": LONG,
    "LCM": {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
}


class Loop(NamedTuple):
    name: str  # of the class
    total: float | None  # the sum, if the test has one
    mean: float
    facts: dict[str, Any] = {}
    steps: int = 10
    first: int = 0  # the row it begins at, from the sample with noise
    shape: tuple[int, ...] = (3, 8, 8)


V = {"prediction_type": "v_prediction"}
KARRAS = {"use_karras_sigmas": True}
ONE = {"set_alpha_to_one": True, "beta_start": 0.01}
NOT_ONE = {"set_alpha_to_one": False, "beta_start": 0.01}
LOOPS = [
    Loop("DDIM", 172.0067, 0.223967),
    Loop("DDIM", 52.5302, 0.0684, V),
    Loop("DDIM", 149.8295, 0.1951, ONE),
    Loop("DDIM", 149.0784, 0.1941, NOT_ONE),
    Loop("DDIM", 354.5418, 0.4616, first=8),
    Loop("DDPM", 258.9606, 0.3372, steps=1000),
    Loop("DDPM", 202.0296, 0.2631, V, steps=1000),
    Loop("DDPM", 387.9466, 0.5051, steps=1000, first=998),
    Loop("PNDM", 198.1318, 0.2580),
    Loop("PNDM", 67.3986, 0.0878, V),
    Loop("PNDM", 230.0399, 0.2995, ONE),
    Loop("PNDM", 186.9482, 0.2434, NOT_ONE),
    Loop("DPMSolverMultistep", None, 0.3301),
    Loop("DPMSolverMultistep", 318.4111, 0.4146, first=5),
    Loop("DPMSolverMultistep", None, 0.2251, V),
    Loop("DPMSolverMultistep", None, 0.2096, {**V, **KARRAS}),
    Loop("DPMSolverMultistep", None, 0.1554, {**V, "use_lu_lambdas": True}),
    Loop("UniPCMultistep", None, 0.2464),
    Loop("UniPCMultistep", None, 0.2925, KARRAS),
    Loop("UniPCMultistep", None, 0.1014, V),
    Loop("UniPCMultistep", None, 0.1966, {**V, **KARRAS}),
    Loop("UniPCMultistep", 315.5757, 0.4109, first=8),
    Loop("UniPCMultistep", None, 0.2441, shape=(3, 8)),
    Loop("UniPCMultistep", None, 0.2898, KARRAS, shape=(3, 8)),
    Loop("UniPCMultistep", None, 0.1014, V, shape=(3, 8)),
    Loop("UniPCMultistep", None, 0.1944, {**V, **KARRAS}, shape=(3, 8)),
    Loop("UniPCMultistep", 39.0870, 0.4072, first=8, shape=(3, 8)),
    Loop("EulerDiscrete", 10.0807, 0.0131),
    Loop("EulerDiscrete", 0.0002, 2.2676e-06, V),
    Loop("EulerDiscrete", 124.52299499511719, 0.16213932633399963, KARRAS),
    Loop("EulerDiscrete", 57062.9297, 74.3007, first=8),
    Loop("EulerAncestralDiscrete", 152.3192, 0.1983),
    Loop("EulerAncestralDiscrete", 108.4439, 0.1412, V),
    Loop("EulerAncestralDiscrete", 56163.0508, 73.1290, first=8),
    Loop("LCM", 18.7097, 0.0244, steps=1),
    Loop("LCM", 197.7616, 0.2575),
    Loop("HeunDiscrete", 0.1233, 0.0002),
    Loop("HeunDiscrete", 4.6934e-07, 6.1112e-10, V),
    Loop("HeunDiscrete", 0.00015, 1.9869554535034695e-07, KARRAS),
    Loop("HeunDiscrete", 75074.8906, 97.7538, first=16),
    Loop("LMSDiscrete", 1006.388, 1.31),
    Loop("LMSDiscrete", 0.0017, 2.2676e-06, V),
    Loop("LMSDiscrete", 3812.9927, 4.9648, KARRAS),
    Loop("LMSDiscrete", 27663.6895, 36.0204, first=8),
]
# Sums that are not met within 0.01, but within 0.025 (their means are), and why.
NEARLY = {
    # The noise of the last but one of 1000 timesteps: diffusers subtracts alphas_cumprod, 0.9999,
    # from 1 in float32, which leaves three digits of its variance; here it is float64.
    387.9466,
    # In float32 75,074 has steps of 0.008, and the sum is of numbers rounded in another order.
    75074.8906,
}
# Not met, and why.
THRESHOLD = {"thresholding": True, "dynamic_thresholding_ratio": 0.87, "sample_max_value": 0.5}
UNMET = [
    (
        Loop("DPMSolverMultistep", None, 1.1364, THRESHOLD),
        # Estimates of up to 1 are left alone, and larger ones scaled to at most 0.5, at once.
        "sample_max_value: expected at least 1, got 0.5",
    )
]


def samples(loop):
    """The tests' sample and noise, of shape (4, *loop.shape)."""
    count = 4 * int(np.prod(loop.shape))
    rising = np.arange(count, dtype=np.float32) / np.float32(count)
    return [np.moveaxis(order.reshape(*loop.shape, 4), -1, 0) for order in (rising, rising[::-1])]


def network(sample, t):
    return sample * t / (t + 1)


def their_loop(loop):
    scheduler = getattr(diffusers, f"{loop.name}Scheduler")(**BASES[loop.name] | loop.facts)
    scheduler.set_timesteps(loop.steps)
    sample, noise = (torch.from_numpy(x.copy()) for x in samples(loop))
    sample = sample * scheduler.init_noise_sigma
    timesteps = scheduler.timesteps[loop.first :]
    if loop.first:
        sample = scheduler.add_noise(sample, noise, timesteps[:1])
    draws = loop.name in ("DDPM", "EulerAncestralDiscrete", "LCM")
    extra = {"generator": torch.manual_seed(0)} if draws else {}
    for t in timesteps:
        sample = scheduler.scale_model_input(sample, t)
        sample = scheduler.step(network(sample, t), t, sample, **extra).prev_sample
    return sample.numpy()


def our_loop(loop, monkeypatch):
    facts = {"_class_name": f"{loop.name}Scheduler", **BASES[loop.name], **loop.facts}
    config = ScheduleConfig.from_json(facts)
    solver = solvers.SOLVERS[solvers.resolved_solver(config)[0]]
    first = loop.first
    if first and loop.name in ("DPMSolverMultistep", "UniPCMultistep"):
        # They begin there with a history of nothing: in low order, as a run of the rest.
        whole = schedule.interval_timesteps
        rest = lambda *args: whole(*args)[loop.first :]  # noqa: E731
        monkeypatch.setattr(solvers.schedule, "interval_timesteps", rest)
        first = 0
    plan, limit = solver.plan(config, loop.steps), limiter(config)
    sample, noise = samples(loop)
    sample, scale = sample * plan.init_scale, plan.input_scale
    if loop.first:
        sample = (plan.alpha[first] * sample + plan.sigma[first] * noise) / scale[first]
    of_ratios = np.any(scale != 1)
    generator, history = torch.manual_seed(0), solver.start(sample)
    for i in range(first, len(plan.timestep)):
        row = plan._replace(
            init_scale=None,
            coefficients={key: x[i] for key, x in plan.coefficients.items()},
            **{key: getattr(plan, key)[i] for key in plan._fields[:4]},
        )
        z = sample * row.input_scale
        prediction = network(z, row.timestep)
        kind, alpha, sigma = config.prediction_type, row.alpha, row.sigma
        if of_ratios:
            ratio = sigma / alpha
            clean = z - ratio * prediction
            if kind == "v_prediction":
                clean = z / (ratio**2 + 1) - prediction * ratio / np.sqrt(ratio**2 + 1)
            if loop.name != "HeunDiscrete" or i % 2 == 0:
                sample = z
            # In Heun's second rows their direction is of the scaled sample, their start is not.
            clean = sample - (z - clean)
            denoised = solvers.Denoised(clean, clean)
        else:
            clean = clean_from_prediction(prediction, z, alpha, sigma, kind)
            limited = np.asarray(limit(clean))
            # DDIM's loop puts back the network's own noise where the estimate is clipped.
            denoised = solvers.Denoised(limited, clean if loop.name == "DDIM" else limited)
        drawn = np.float32(0)
        if row.coefficients.get("noise", 0) > 0:
            drawn = torch.randn(sample.shape, generator=generator).numpy()
        sample, history = solver.step(row, history, sample, denoised, denoised.clean, drawn)
        sample = np.asarray(sample)
    return sample


def check(loop, sample, within=None):
    theirs = 1e-3 if loop.name == "LCM" else 2e-2 if loop.mean == 4.9648 else 1e-2
    within = within or theirs
    if loop.total is not None:
        assert abs(np.abs(sample).sum(dtype=np.float64) - loop.total) < within
    assert abs(np.abs(sample).mean() - loop.mean) < 1e-3


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: f"{loop.name}-{loop.mean}")
def test_full_loop(loop, monkeypatch):
    check(loop, their_loop(loop))
    check(loop, our_loop(loop, monkeypatch), within=0.025 if loop.total in NEARLY else None)


@pytest.mark.parametrize(("loop", "message"), UNMET)
def test_what_is_not_met_is_refused(loop, message, monkeypatch):
    check(loop, their_loop(loop))
    with pytest.raises(UserError, match=message):
        our_loop(loop, monkeypatch)


def test_at_least_95_percent_are_met():
    numbers = [number for loop in LOOPS for number in loop[1:3] if number is not None]
    assert len(numbers) - len(NEARLY) >= 0.95 * (len(numbers) + len(UNMET))
    assert {*numbers} > NEARLY
