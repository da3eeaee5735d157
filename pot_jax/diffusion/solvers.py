"""Solvers: from z_t and an estimate of x0 to the next, less noisy z.

Every solver is linear in its inputs,

    z' = a z + b agreed + d (clean - renoise) + c noise + e agreed_before

with coefficients that depend only on the schedule. They are computed beforehand in float64, one row
per step, so that a step is this line and a run is a `lax.scan` over the rows. Symbols: alpha and
sigma, the signal and noise of a timestep, alpha^2 + sigma^2 = 1; ratio = sigma / alpha; a prime
marks the value after the step; S is the number of steps.

`agreed` is the clean estimate after the levels were made to agree. eps is therefore never the
network's, but what z and agreed imply: eps = (z - alpha agreed) / sigma. `clean` and `renoise` are
the two estimates before that (`Denoised`). Where they differ, the noise put back is
that of `renoise`: eps' = eps + alpha (clean - renoise) / sigma. A step that is A x0 + B eps has
a = B / sigma, so d = a alpha, with the alpha of the solver's own latents.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pot_jax.checks import require
from pot_jax.diffusion import schedule
from pot_jax.diffusion.schedule import ScheduleConfig, alphas_cumprod
from pot_jax.errors import UserError, shown


class Plan(NamedTuple):
    """What a run's steps need, float32 [S, ...]; a row is a `Plan` without S and `init_scale`."""

    timestep: Any  # the network's input, [S]; fractional for Euler's linspace
    input_scale: Any  # the network sees latents * input_scale, [S]
    alpha: Any  # signal of the scaled latents, [S]: latents * input_scale = alpha x0 + sigma eps
    sigma: Any  # noise of the scaled latents, [S]
    # The coefficients of the step, [S] each: "latents" a, "agreed" b, "renoise" d; "noise" c if any
    # is added; "agreed_before" e if the solver remembers.
    coefficients: dict[str, Any]
    init_scale: float | None  # the first latents are unit noise times this
    # Where levels are sampled in turn: which level takes the step, and how many it has taken, [S].
    turn: tuple[Any, Any] | None = None


class Denoised(NamedTuple):
    """A denoiser's two estimates of x0, [N, h, w, c]."""

    clean: jax.Array  # after guidance and thresholding
    renoise: jax.Array  # whose noise is put back; `clean` unless the guidance returns another


@dataclass(frozen=True)
class Solver:
    """One way to step; hashable."""

    name: str  # as in settings
    plan: Callable[..., Plan]  # (config, steps, *, eta=0.0); only DDIM takes an eta other than 0
    remembers: int = 0  # how many earlier agreed estimates a step uses: 0, or 1

    def start(self, latents: jax.Array) -> tuple[jax.Array, ...]:
        """Returns the history before the first step, at which its coefficients are 0."""
        return (jnp.zeros_like(latents),) * self.remembers

    def step(
        self,
        row: Plan,
        history: tuple[jax.Array, ...],
        latents: jax.Array,
        denoised: Denoised,
        agreed: jax.Array,
        noise: jax.Array,
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Takes one step, a row of the plan; returns the latents after it, and the next history.

        History holds earlier agreed estimates, the latest first; latents are z as the solver holds
        it, [N, h, w, c]; noise is unit normal, and ignored by deterministic solvers.
        """
        c = row.coefficients
        after = c["latents"] * latents + c["agreed"] * agreed
        if denoised.renoise is not denoised.clean:
            after = after + c["renoise"] * (denoised.clean - denoised.renoise)
        if "noise" in c:
            after = after + c["noise"] * noise
        if self.remembers:
            after = after + c["agreed_before"] * history[0]
        return after, (agreed,) * self.remembers


def resampled(plan: Plan, times: int) -> Plan:
    """Returns the plan with every step taken `times` times: RePaint's resampling.

    Between two of them, the result is noised back from s to t, by the forward process (arXiv
    2201.09865, section 4.2, with jump length 1; once more after the last step, as in its code).
    UserError if the solver remembers earlier estimates, which do not exist after going back.
    """
    if times == 1:
        return plan
    c = plan.coefficients
    if "agreed_before" in c:
        raise UserError(
            "sampler.time_travel: expected 1 with a solver that remembers earlier steps, such as "
            f"dpmpp_2m, got {times}; choose another, such as ddpm"
        )
    # With z = alpha x0 + sigma eps in the solver's own scaling, a step whose estimates are right
    # ends at z' = (a alpha + b) x0 + a sigma eps + c noise, which is alpha' and sigma'. Going back,
    # z'' = f z' + g noise has alpha again with f = alpha / alpha', and sigma with
    # g^2 = sigma^2 - f^2 sigma'^2. Both noises are one, of variance f^2 c^2 + g^2.
    scale = plan.input_scale.astype(np.float64)
    alpha, sigma = plan.alpha / scale, plan.sigma / scale
    noise = c.get("noise", np.zeros_like(plan.alpha))
    back = alpha / (c["latents"] * alpha + c["agreed"])
    added = sigma**2 - back**2 * (c["latents"] ** 2 * sigma**2 + noise**2)
    again = {name: back * values for name, values in c.items()}
    again["noise"] = np.sqrt(back**2 * noise**2 + np.maximum(added, 0))
    last = {**c, "noise": noise}

    def repeated(first, last):
        rows = np.stack([first] * (times - 1) + [last], axis=1)
        return rows.reshape(-1).astype(last.dtype)

    columns = (repeated(column, column) for column in plan[:4])
    return Plan(*columns, {name: repeated(again[name], last[name]) for name in last}, plan[5])


def in_turns(plan: Plan, order: Sequence[int]) -> Plan:
    """Returns the plan of levels that take all its steps one after another, in this order."""
    count, steps = len(order), len(plan.timestep)
    columns = jax.tree.map(lambda column: np.tile(column, count), plan._replace(init_scale=None))
    turn = np.repeat(np.int32(order), steps), np.tile(np.arange(steps, dtype=np.int32), count)
    return columns._replace(init_scale=plan.init_scale, turn=turn)


def _refuse_eta(name: str, eta: float) -> None:
    if eta != 0:
        reason = "takes no eta (only ddim does)"
        raise UserError(f"solver {name} {reason}, got {eta}; choose solver ddim")


def _plan(timesteps, alpha, sigma, coefficients, input_scale=1.0, init_scale=1.0) -> Plan:
    """Returns the plan in float32; `alpha` and `sigma` [S] are of what the network sees."""
    # The default d; a solver that puts no noise back overrides it.
    coefficients = {"renoise": coefficients["latents"] * alpha / input_scale, **coefficients}
    coefficients = {name: np.asarray(c, np.float32) for name, c in coefficients.items()}
    columns = (np.full(len(alpha), column, np.float32) for column in (input_scale, alpha, sigma))
    return Plan(timesteps, *columns, coefficients, init_scale)


def plan_ddpm(config: ScheduleConfig, steps: int, *, eta: float = 0.0) -> Plan:
    """Returns the plan of ancestral sampling (DDPM, arXiv 2006.11239, equation 7)."""
    _refuse_eta("ddpm", eta)
    if config.variance_type.startswith("learned"):
        raise UserError(
            f"solver ddpm cannot use a network that learned its variance (variance_type="
            f"{config.variance_type}); choose another solver"
        )
    timesteps = schedule.spaced_timesteps(config, steps, config.timestep_spacing or "leading")
    table = alphas_cumprod(config)[timesteps.astype(int)]
    after = np.append(table[1:], 1.0)
    alpha_step = table / after  # alpha_t^2 / alpha_t'^2: the product of 1 - beta over the stride
    beta_step = 1 - alpha_step
    variance = beta_step
    if config.variance_type != "fixed_large":
        variance = beta_step * (1 - after) / (1 - table)  # that of q(z' | z, x0)
    coefficients = {
        "latents": np.sqrt(alpha_step) * (1 - after) / (1 - table),
        "agreed": np.sqrt(after) * beta_step / (1 - table),
        "noise": np.where(timesteps > 0, np.sqrt(variance), 0.0),
    }
    return _plan(timesteps, np.sqrt(table), np.sqrt(1 - table), coefficients)


def plan_ddim(config: ScheduleConfig, steps: int, *, eta: float = 0.0) -> Plan:
    """Returns the plan of DDIM (arXiv 2010.02502, equation 12); `eta` 0 (deterministic) to 1."""
    require(0 <= eta <= 1, "eta", "0 to 1", eta)
    timesteps = schedule.spaced_timesteps(config, steps, config.timestep_spacing or "leading")
    whole = timesteps.astype(int)
    everything = alphas_cumprod(config)
    table = everything[whole]
    # As in diffusers, T // S timesteps back: of trailing and linspace spacing not always the next.
    target = whole - config.num_train_timesteps // steps
    end = 1.0 if config.set_alpha_to_one else everything[0]
    after = np.where(target >= 0, everything[np.maximum(target, 0)], end)
    # Equation 16.
    deviation = eta * np.sqrt((1 - after) / (1 - table) * (1 - table / after))
    # z' = alpha' x0 + sqrt(sigma'^2 - deviation^2) eps + deviation noise, with the implied eps.
    alpha, sigma = np.sqrt(table), np.sqrt(1 - table)
    kept = np.sqrt(np.maximum(1 - after - deviation**2, 0)) / sigma
    agreed = np.sqrt(after) - alpha * kept
    coefficients = {"latents": kept, "agreed": agreed, "noise": deviation}
    return _plan(timesteps, alpha, sigma, coefficients)


def _check_request(name: str, config: ScheduleConfig, supported: Mapping[str, tuple]) -> None:
    """Raises UserError if the file asks solver `name` for unsupported values or other sigmas."""
    values = {key: getattr(config, key) for key in supported}
    wrong = [f"{key}={v!r}" for key, v in values.items() if v not in supported[key]]
    wrong += [config.sigma_request] if config.sigma_request else []
    if wrong:
        raise UserError(
            f"the scheduler config asks for {', '.join(wrong)}, which solver {name} does not "
            "support; remove it from scheduler_config.json or use ddpm, ddim or euler_ancestral"
        )


def _ratios(config: ScheduleConfig, timesteps: np.ndarray, final: str) -> np.ndarray:
    """Returns noise to signal at each timestep (interpolated) and after the last, [S + 1]."""
    everything = schedule.noise_to_signal(config)
    ratio = np.interp(timesteps, np.arange(len(everything)), everything)
    return np.append(ratio, everything[0] if final == "sigma_min" else 0.0)


def plan_euler(
    config: ScheduleConfig, steps: int, *, eta: float = 0.0, ancestral: bool = False
) -> Plan:
    """Returns the plan of Euler's method on dz/d ratio = eps (arXiv 2206.00364, algorithm 1).

    Its latents are x0 + ratio eps; the network sees them times alpha. An `ancestral` step goes to
    below its end, and adds noise (k-diffusion).
    """
    _refuse_eta("euler_ancestral" if ancestral else "euler", eta)
    if not ancestral:
        _check_request("euler", config, {})
    spacing = config.timestep_spacing or "linspace"
    timesteps = schedule.spaced_timesteps(config, steps, spacing, whole=False)
    ratio = _ratios(config, timesteps, "zero" if ancestral else config.final_sigmas_type)
    before, after = ratio[:-1], ratio[1:]
    # z' = z + (ratio' - ratio) (z - x0) / ratio, where an ancestral step goes to below ratio'.
    kept, noise = after / before, {}
    if ancestral:
        noise = {"noise": after * np.sqrt(1 - kept**2)}
        kept = np.sqrt(after**2 - noise["noise"] ** 2) / before  # (after / before)^2
    alpha = 1 / np.sqrt(before**2 + 1)
    # Leading spacing starts below pure noise: unit data make the deviation sqrt(ratio^2 + 1).
    init_scale = float(ratio[0] if spacing != "leading" else np.sqrt(ratio[0] ** 2 + 1))
    coefficients = {"latents": kept, "agreed": 1 - kept, **noise}
    return _plan(timesteps, alpha, before * alpha, coefficients, alpha, init_scale)


# How far DPM-Solver++ extrapolates the estimate in a step of length h, in units of its slope over
# the step before: midpoint takes it half a step ahead; heun, exactly for an estimate that is linear
# in lambda (arXiv 2211.01095, appendix B).
_EXTRAPOLATIONS = {"midpoint": lambda h: h / 2, "heun": lambda h: h / -np.expm1(-h) - 1}
# In files of DEIS and UniPC; diffusers, too, takes midpoint for them.
_EXTRAPOLATIONS |= dict.fromkeys(("logrho", "bh1", "bh2"), _EXTRAPOLATIONS["midpoint"])
_DPM_SUPPORTED = {
    "algorithm_type": ("dpmsolver++", "deis"),  # DEIS's own name for its steps; as above
    "solver_order": (1, 2),
    "solver_type": tuple(_EXTRAPOLATIONS),
}


def plan_dpmpp_2m(config: ScheduleConfig, steps: int, *, eta: float = 0.0) -> Plan:
    """Returns the plan of DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2)."""
    _refuse_eta("dpmpp_2m", eta)
    _check_request("dpmpp_2m", config, _DPM_SUPPORTED)
    timesteps = schedule.interval_timesteps(config, steps, config.timestep_spacing or "linspace")
    steps = len(timesteps)
    ratio = _ratios(config, timesteps, config.final_sigmas_type)
    if ratio[-1] == ratio[-2]:
        raise UserError(
            "solver dpmpp_2m would end with a step of length zero: with final_sigmas_type "
            "sigma_min the last timestep must not be 0; use fewer steps or another spacing"
        )
    alpha = 1 / np.sqrt(ratio**2 + 1)
    sigma = ratio * alpha
    # With lambda = log(alpha / sigma) and h = lambda' - lambda, the exact solution for a clean
    # estimate that is constant in lambda is z' = (sigma' / sigma) z + alpha' (1 - e^-h) x0, where
    # e^-h = ratio' / ratio. Second order extrapolates x0, as `_EXTRAPOLATIONS` says.
    gain = alpha[1:] * (1 - ratio[1:] / ratio[:-1])
    with np.errstate(divide="ignore"):
        length = np.log(ratio[:-1]) - np.log(ratio[1:])  # h; infinite for a last step to sigma = 0
    slope = np.zeros(steps)
    if config.solver_order == 2:
        slope[1:] = _EXTRAPOLATIONS[config.solver_type](length[1:]) / length[:-1]
    endless = config.final_sigmas_type == "zero"  # h is infinite there: no extrapolation exists
    if endless or config.euler_at_final or (config.lower_order_final and steps < 15):
        slope[-1] = 0.0
    estimates = {"agreed": gain * (1 + slope), "agreed_before": -gain * slope}
    coefficients = {"latents": sigma[1:] / sigma[:-1], **estimates}
    return _plan(timesteps, alpha[:-1], sigma[:-1], coefficients)


# The deviation of the data that a consistency model's boundary condition assumes; a constant in
# LCM's own code and in diffusers, like EDM's (arXiv 2206.00364, table 1).
_SIGMA_DATA = 0.5


def plan_lcm(config: ScheduleConfig, steps: int, *, eta: float = 0.0) -> Plan:
    """Returns the plan of multistep consistency sampling (arXiv 2310.04378, algorithm 3).

    The network, whose boundary condition makes it the identity at timestep 0, predicts the end of
    the trajectory, which is noised again to the next timestep:

        f = c_skip z + c_out x0,    z' = alpha' f + sigma' noise,    after the last step z' = f
    """
    _refuse_eta("lcm", eta)
    timesteps = schedule.distilled_timesteps(config, steps)
    table = alphas_cumprod(config)[timesteps.astype(int)]
    after = np.append(table[1:], 1.0)
    scaled = timesteps.astype(np.float64) * config.timestep_scaling
    skip = _SIGMA_DATA**2 / (scaled**2 + _SIGMA_DATA**2)
    out = scaled / np.sqrt(scaled**2 + _SIGMA_DATA**2)
    coefficients = {
        "latents": np.sqrt(after) * skip,
        "agreed": np.sqrt(after) * out,
        "renoise": np.zeros(len(table)),  # all noise is fresh
        "noise": np.sqrt(1 - after),
    }
    return _plan(timesteps, np.sqrt(table), np.sqrt(1 - table), coefficients)


SOLVERS = {
    "ddpm": Solver("ddpm", plan_ddpm),
    "ddim": Solver("ddim", plan_ddim),
    "euler": Solver("euler", plan_euler),
    "euler_ancestral": Solver("euler_ancestral", partial(plan_euler, ancestral=True)),
    "dpmpp_2m": Solver("dpmpp_2m", plan_dpmpp_2m, remembers=1),
    "lcm": Solver("lcm", plan_lcm),
}

# diffusers' scheduler class -> the solver that does the same; DDIM stands in for all others.
CLASS_SOLVERS = {
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "EulerDiscreteScheduler": "euler",
    "LCMScheduler": "lcm",
}


def resolved_solver(config: ScheduleConfig, name: str = "") -> tuple[str, tuple[str, ...]]:
    """Returns the solver of that name, or for "" of the schedule's file; and notices for users."""
    notices, solver = [], name or CLASS_SOLVERS.get(config.class_name, "ddim")
    if not name and config.class_name not in CLASS_SOLVERS:
        notices.append(
            f"the model's scheduler is {shown(config.class_name)}, which is not implemented here; "
            f"solver {solver} takes its place"
        )
    elif config.sigma_request and solver not in ("euler", "dpmpp_2m"):  # which refuse it
        notices.append(
            f"solver {solver} does not use {config.sigma_request} of the model's scheduler config"
        )
    if config.unknown:
        keys = ", ".join(map(shown, config.unknown))
        notices.append(f"the model's scheduler config has keys that are not known here: {keys}")
    return solver, tuple(notices)
