"""Solvers: from z_t and an estimate of x0 to the next, less noisy z.

Every solver is linear in its inputs,

    z' = a z + b agreed + d (clean - renoise) + c noise + sum_k e_k kept_k

with coefficients that depend only on the schedule. They are computed beforehand in float64, one row
per step, so that a step is this line and a run is a `lax.scan` over the rows. Symbols: alpha and
sigma, the signal and noise of a timestep, alpha^2 + sigma^2 = 1; ratio = sigma / alpha; a prime
marks the value after the step; S is the number of steps.

`agreed` is the clean estimate after the levels were made to agree. eps is therefore never the
network's, but what z and agreed imply: eps = (z - alpha agreed) / sigma. `clean` and `renoise` are
the two estimates before that (`Denoised`). Where they differ, the noise put back is
that of `renoise`: eps' = eps + alpha (clean - renoise) / sigma. A step that is A x0 + B eps has
a = B / sigma, so d = a alpha, with the alpha of the solver's own latents.

`kept_k` is what the k-th last step kept: its agreed estimate or, for PNDM and LMS, the direction
p z + q agreed that it implies. What else a step begins with is recovered from its z and these.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pot_jax.checks import require
from pot_jax.config import PLACED_SOLVERS
from pot_jax.diffusion import schedule
from pot_jax.diffusion.schedule import PLACEMENTS, ScheduleConfig, alphas_cumprod
from pot_jax.errors import UserError, shown


class Plan(NamedTuple):
    """What a run's steps need, float32 [S, ...]; a row is a `Plan` without S and `init_scale`."""

    timestep: Any  # the network's input, [S]; fractional for Euler's linspace
    input_scale: Any  # the network sees latents * input_scale, [S]
    alpha: Any  # signal of the scaled latents, [S]: latents * input_scale = alpha x0 + sigma eps
    sigma: Any  # noise of the scaled latents, [S]
    # The coefficients of the step, [S] each: "latents" a, "agreed" b, "renoise" d; "noise" c if any
    # is added; of a solver that remembers, `BEFORE`: e_k. "keep_latents" p and "keep_agreed" q, if
    # it keeps a direction.
    coefficients: dict[str, Any]
    init_scale: float | None  # the first latents are unit noise times this
    # Where levels are sampled in turn: which level takes the step, and how many it has taken, [S].
    turn: tuple[Any, Any] | None = None


BEFORE = ("agreed_before", *(f"before_{rows}" for rows in range(2, 13)))


class Denoised(NamedTuple):
    """A denoiser's two estimates of x0, [N, h, w, c]."""

    clean: jax.Array  # after guidance and thresholding
    renoise: jax.Array  # whose noise is put back; `clean` unless the guidance returns another


@dataclass(frozen=True)
class Solver:
    """One way to step; hashable."""

    name: str  # as in settings
    plan: Callable[..., Plan]  # (config, steps, *, eta=0.0); only DDIM takes an eta other than 0
    remembers: int = 0  # how many arrays it keeps between steps

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

        History holds what earlier steps kept, the latest first; latents are z as the solver holds
        it, [N, h, w, c]; noise is unit normal, and ignored by deterministic solvers.
        """
        c, kept = row.coefficients, agreed
        after = c["latents"] * latents + c["agreed"] * agreed
        if denoised.renoise is not denoised.clean:
            after = after + c["renoise"] * (denoised.clean - denoised.renoise)
        if "noise" in c:
            after = after + c["noise"] * noise
        for name, earlier in zip(BEFORE, history, strict=False):
            after = after + c[name] * earlier
        if "keep_latents" in c:  # by the latents, less the noise of `clean`, with that of `renoise`
            put_back = row.alpha / row.input_scale * (denoised.clean - denoised.renoise)
            kept = c["keep_latents"] * (latents + put_back) + c["keep_agreed"] * agreed
        return after, (kept, *history)[: self.remembers]


def resampled(plan: Plan, times: int) -> Plan:
    """Returns the plan with every step taken `times` times: RePaint's resampling.

    Between two of them, the result is noised back from s to t, by the forward process (arXiv
    2201.09865, section 4.2, with jump length 1; once more after the last step, as in its code).
    UserError if the solver remembers earlier estimates, which do not exist after going back.
    """
    if times == 1:
        return plan
    c = plan.coefficients
    if BEFORE[0] in c:
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


def _check_request(name: str, config: ScheduleConfig, eta: float = 0, **supported: tuple) -> None:
    """Raises UserError if there is an eta, or the file asks for unsupported values or sigmas."""
    _refuse_eta(name, eta)
    values = {key: getattr(config, key) for key in supported}
    wrong = [f"{key}={v!r}" for key, v in values.items() if v not in supported[key]]
    wrong += [config.sigma_request] if config.sigma_request else []
    wrong += ["use_lu_lambdas"] * (config.sigmas == "lu" and not name.startswith("dpmpp"))
    if wrong:
        raise UserError(
            f"the scheduler config asks for {', '.join(wrong)}, which solver {name} does not "
            "support; remove it from scheduler_config.json or use ddpm, ddim or euler_ancestral"
        )


def _earlier(weights: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(BEFORE, weights, strict=False))


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


def _ratios(name, config, steps, eta, final) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns timesteps [S], ratios [S + 1] and init_scale of latents that are x0 + ratio eps."""
    _check_request(name, config, eta)
    spacing = config.timestep_spacing or "linspace"
    timesteps = schedule.spaced_timesteps(config, steps, spacing, whole=False)
    timesteps, ratio = schedule.placed(config, timesteps, steps, final)
    # Leading spacing starts below pure noise: unit data make the deviation sqrt(ratio^2 + 1).
    start = float(ratio[0] if spacing != "leading" else np.sqrt(ratio[0] ** 2 + 1))
    return timesteps, ratio, start


def _plan_of_ratios(timesteps, ratio, coefficients, init_scale) -> Plan:
    alpha = 1 / np.sqrt(ratio**2 + 1)  # the network sees the latents times alpha
    return _plan(timesteps, alpha, ratio * alpha, coefficients, alpha, init_scale)


def plan_euler(
    config: ScheduleConfig, steps: int, *, eta: float = 0.0, ancestral: bool = False
) -> Plan:
    """Returns the plan of Euler's method on dz/d ratio = eps (arXiv 2206.00364, algorithm 1).

    An `ancestral` step goes to below its end, and adds noise (k-diffusion).
    """
    name, final = "euler", config.final_sigmas_type
    if ancestral:  # which places no sigmas
        name, final = "euler_ancestral", "zero"
        config = replace(config, sigmas="timesteps", sigma_request=None)
    timesteps, ratio, start = _ratios(name, config, steps, eta, final)
    before, after = ratio[:-1], ratio[1:]
    # z' = z + (ratio' - ratio) (z - x0) / ratio, where an ancestral step goes to below ratio'.
    kept, noise = after / before, {}
    if ancestral:
        noise = {"noise": after * np.sqrt(1 - kept**2)}
        kept = np.sqrt(after**2 - noise["noise"] ** 2) / before  # (after / before)^2
    coefficients = {"latents": kept, "agreed": 1 - kept, **noise}
    return _plan_of_ratios(timesteps, before, coefficients, start)


def plan_heun(config: ScheduleConfig, steps: int, *, eta: float = 0.0) -> Plan:
    """Returns the plan of Heun's method (arXiv 2206.00364, algorithm 1), of 2 S - 1 rows."""
    timesteps, ratio, start = _ratios("heun", config, steps, eta, "zero")
    # A row goes to z1 = z + (ratio' - ratio) eps, and the next, but for the last step, from there:
    # z' = z1 + (ratio' - ratio) (eps1 - eps) / 2, where eps1 = (z1 - x1) / ratio', and
    # eps = (z1 - x0) / ratio' too, since z1 lies on its line.
    latents = np.repeat(ratio[1:] / ratio[:-1], 2)[:-1]
    agreed, before, half = 1 - latents, 0 * latents, (ratio[:-2] / ratio[1:-1] - 1) / 2
    latents[1::2], agreed[1::2], before[1::2] = 1, half, -half
    visited = (np.repeat(column, 2)[1:] for column in (timesteps, ratio[:-1]))
    coefficients = {"latents": latents, "agreed": agreed, BEFORE[0]: before}
    return _plan_of_ratios(*visited, coefficients, start)


def plan_lms(config: ScheduleConfig, steps: int, *, eta: float = 0.0) -> Plan:
    """Returns the plan of the linear multistep method of order 4 (k-diffusion's `sample_lms`).

    z' = z + the integral from ratio to ratio' of the polynomial through the newest directions.
    """
    timesteps, ratio, start = _ratios("lms", config, steps, eta, "zero")
    before, weights = ratio[:-1], np.zeros((4, steps))
    for i in range(steps):
        step = ratio[i + 1] - before[i]
        points = (before[max(i - 3, 0) : i][::-1] - before[i]) / step
        weights[: len(points) + 1, i] = step * _weights(1.0, (1 / 2, 1 / 3, 1 / 4), points)
    coefficients = {"latents": 1 + weights[0] / before, "agreed": -weights[0] / before}
    coefficients |= {"keep_latents": 1 / before, "keep_agreed": -1 / before}
    return _plan_of_ratios(timesteps, before, coefficients | _earlier(weights[1:]), start)


def _multistep(name: str, config: ScheduleConfig, steps: int, whole: Callable) -> tuple:
    """Returns timesteps [S], alpha and sigma [S + 1], and steps' lengths in log(alpha / sigma)."""
    timesteps = schedule.interval_timesteps(config, steps, config.timestep_spacing or "linspace")
    timesteps, ratio = schedule.placed(config, timesteps, steps, config.final_sigmas_type, whole)
    if ratio[-1] == ratio[-2] and config.sigmas == "timesteps":
        raise UserError(
            f"solver {name} would end with a step of length zero: with final_sigmas_type "
            "sigma_min the last timestep must not be 0; use fewer steps or another spacing"
        )
    alpha = 1 / np.sqrt(ratio**2 + 1)
    with np.errstate(divide="ignore"):
        return timesteps, alpha, ratio * alpha, -np.diff(np.log(ratio))


def _weights(gain: float, moments: Sequence[float], points: np.ndarray) -> np.ndarray:
    """Returns weights of the estimates at a step's start and at `points`, in units of the step.

    Of a polynomial through them they give its start times gain, plus moments times coefficients.
    """
    powers = np.vander(points, len(points) + 1, increasing=True)[:, 1:].T
    weights = np.linalg.solve(powers, np.array(moments[: len(points)]))
    return np.append(gain - weights.sum(), weights)


_DPM_SUPPORTED = {
    "algorithm_type": ("dpmsolver++", "sde-dpmsolver++", "deis"),  # deis: as in diffusers
    "solver_order": (1, 2, 3),
    "solver_type": ("midpoint", "heun", "logrho", "bh1", "bh2"),  # of DEIS and UniPC: midpoint
}


def plan_dpmpp(
    config: ScheduleConfig, steps: int, *, eta: float = 0.0, name: str, order: int, sde: bool
) -> Plan:
    """Returns the plan of multistep DPM-Solver++ (arXiv 2211.01095), an ODE's or an SDE's."""
    _check_request(name, config, eta, **_DPM_SUPPORTED)
    whole = config.sigmas in ("karras", "lu") and config.beta_schedule != "squaredcos_cap_v2"
    whole = np.round if whole else np.trunc
    timesteps, alpha, sigma, h = _multistep(name, config, steps, whole)
    steps, order = len(timesteps), order if order == 3 else min(config.solver_order, order)
    # The exact solution for an estimate that is constant in lambda = log(alpha / sigma) is
    # z' = (sigma' / sigma) e^(h-H) z + alpha' (1 - e^-H) x0 + sigma' sqrt(1 - e^-2h) noise, H = 2h
    # for the SDE; for the ODE, H = h, without noise. Higher orders add the estimate's slope and
    # curvature: "heun" weighs the slope exactly, midpoint takes half a step of it.
    inner = (h > 0) & np.isfinite(h)  # elsewhere of first order
    gain, length = -np.expm1(-h * (1 + sde)), np.where(inner, h * (1 + sde), 1.0)
    exact = 1 + np.expm1(-length) / length
    # diffusers' SDE of order 3 subtracts the half that k-diffusion adds; here as in diffusers.
    bend = (-0.5 if sde else 0.5) - (np.expm1(-length) + length) / length**2
    weights = np.zeros((3, steps))  # of the agreed estimates: this step's, the last's, ...
    for i in range(steps):
        left, early = steps - 1 - i, config.lower_order_final and steps < 15
        ends = left == 0 and (config.euler_at_final or early or not inner[i])
        taken = min(order, i + 1, 1 if ends else 2 if left == 1 and early else 3)
        points = -np.cumsum(h[i - taken + 1 : i][::-1]) / h[i]
        slope = exact[i] if taken == 3 or config.solver_type == "heun" else gain[i] / 2
        weights[:taken, i] = alpha[i + 1] * _weights(gain[i], (slope, bend[i]), points)
    coefficients = {"latents": sigma[1:] / sigma[:-1] * np.exp(-h) ** sde, "agreed": weights[0]}
    coefficients |= {"noise": sigma[1:] * np.sqrt(-np.expm1(-2 * h))} if sde else {}
    coefficients |= _earlier(weights[1 : max(order, 2)])
    return _plan(timesteps, alpha[:-1], sigma[:-1], coefficients)


def _unipc_weights(h: float, points: np.ndarray, kind: str) -> np.ndarray:
    """Equation 5 of arXiv 2302.04867, with diffusers' 1/2 where there is a single point."""
    gain, moments = -np.expm1(-h), []
    phi = gain / h - 1 if len(points) else 0.0
    for k in range(1, len(points) + 1):
        moments.append(-phi * math.factorial(k))
        phi = -phi / h - 1 / math.factorial(k + 1)
    if len(points) == 1:
        moments = [(h if kind == "bh1" else gain) / 2]
    return _weights(gain, moments, points)


def plan_unipc(config: ScheduleConfig, steps: int, *, eta: float = 0.0) -> Plan:
    """Returns the plan of UniPC, in x0, its corrector included (arXiv 2302.04867).

    The corrector takes a step again, with the estimate at its end. It begins with the same latents
    as the predictor, so that it only adds estimates, before the next step begins.
    """
    _check_request("unipc", config, eta, solver_order=(1, 2, 3), predict_x0=(True,))
    whole = np.round if config.sigmas == "karras" else np.trunc
    timesteps, alpha, sigma, h = _multistep("unipc", config, steps, whole)
    steps, kept = len(timesteps), sigma[1:] / sigma[:-1]
    weights, corrected = np.zeros((4, steps)), np.zeros(4)  # by how many rows ago
    for i in range(steps):
        order = min(config.solver_order, i + 1, steps - i if config.lower_order_final else 3)
        order = order if 0 < h[i] < np.inf else 1
        points, predicted = -np.cumsum(h[i - order + 1 : i][::-1]) / h[i], np.zeros(4)
        predicted[:order] = alpha[i + 1] * _unipc_weights(h[i], points, config.solver_type)
        weights[:, i], corrected = kept[i] * corrected + predicted, np.zeros(4)
        if i < steps - 1 and i not in config.disable_corrector:
            found = _unipc_weights(h[i], np.append(points, 1.0), config.solver_type)
            corrected[: order + 1] = alpha[i + 1] * np.roll(found, 1)
            corrected[1:] -= predicted[:-1]
    coefficients = {"latents": kept, "agreed": weights[0], **_earlier(weights[1:])}
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


_ADAMS_BASHFORTH = ([24], [36, -12], [46, -32, 10], [55, -59, 37, -9])  # 24ths


def plan_pndm(config: ScheduleConfig, steps: int, *, eta: float = 0.0, prk: bool = False) -> Plan:
    """Returns the plan of PNDM (arXiv 2202.09778, algorithm 2), as diffusers takes its steps.

    Directions are eps, or v of a network that predicts v. With `prk`, the first three steps are
    Runge-Kutta's, of four rows each. Without (PLMS), the first step is taken twice.
    """
    _refuse_eta("pndm_prk" if prk else "pndm", eta)
    require(steps > 3 or not prk, "steps", "at least 4 with solver pndm_prk", steps)
    times = schedule.spaced_timesteps(config, steps, config.timestep_spacing or "leading")
    times = times.astype(int)
    table = schedule.positive_alphas_cumprod(config)
    end = 1.0 if config.set_alpha_to_one else table[0]
    stride = config.num_train_timesteps // steps
    is_v = config.prediction_type == "v_prediction"
    # A row: the network's timestep, the step's start and end, the weights of directions, by how
    # many rows ago, and whether the step begins where the one of the row before did.
    rows, whole, half = [], [0, 4, 8] if prk else [], stride // 2
    for start, stop in zip(times[:3], times[1:4], strict=False) if prk else ():
        rows.append((start, start, start - half, [1], False))
        rows += [(stop + half, start, to, [1], True) for to in (stop + half, stop)]
        rows.append((stop, start, stop, [1 / 6, 1 / 3, 1 / 3, 1 / 6], True))
    for now in times[len(whole) :]:
        if len(rows) == 1:
            rows.append((now, now + stride, now, [1 / 2, 1 / 2], True))
        ago = len(rows) - np.array([len(rows), *whole[:-4:-1]])
        weights = np.zeros(13)
        weights[ago] = np.divide(_ADAMS_BASHFORTH[len(ago) - 1], 24)
        whole.append(len(rows))
        rows.append((now, now, now - stride, weights, False))
    visited = np.array([row[0] for row in rows])
    alpha, sigma = np.sqrt(table[visited]), np.sqrt(1 - table[visited])
    held, agreed = (alpha / sigma, -1 / sigma) if is_v else (1 / sigma, -alpha / sigma)
    latents, weights, before = np.zeros(len(rows)), np.zeros((13, len(rows))), (1.0, 0.0)
    for i, (_, start, to, directions, again) in enumerate(rows):
        # Equation 11: z' = P z + Q direction.
        now, after = table[start], table[to] if to >= 0 else end
        across = np.sqrt(after / now)
        along = np.sqrt(1 - after) - across * np.sqrt(1 - now)
        if is_v:  # eps = alpha v + sigma z
            across, along = across + along * np.sqrt(1 - now), along * np.sqrt(now)
        latents[i], weights[: len(directions), i] = across, np.multiply(along, directions)
        if again:  # z = (z' - Q direction) / P of the row before
            latents[i] /= before[0]
            weights[1, i] -= latents[i] * before[1]
        before = across, along
    coefficients = {"latents": latents + weights[0] * held, "agreed": weights[0] * agreed}
    coefficients |= {"keep_latents": held, "keep_agreed": agreed}
    coefficients |= _earlier(weights[1 : 13 if prk else 5])
    return _plan(visited.astype(np.float32), alpha, sigma, coefficients)


def _dpmpp(name: str, order: int, sde: bool = False) -> Solver:
    plan = partial(plan_dpmpp, name=name, order=order, sde=sde)
    return Solver(name, plan, remembers=order - 1)


SOLVERS = {
    "ddpm": Solver("ddpm", plan_ddpm),
    "ddim": Solver("ddim", plan_ddim),
    "euler": Solver("euler", plan_euler),
    "euler_ancestral": Solver("euler_ancestral", partial(plan_euler, ancestral=True)),
    "dpmpp_2m": _dpmpp("dpmpp_2m", 2),
    "lcm": Solver("lcm", plan_lcm),
    "pndm": Solver("pndm", plan_pndm, remembers=4),
    "unipc": Solver("unipc", plan_unipc, remembers=3),
    "heun": Solver("heun", plan_heun, remembers=1),
    "dpmpp_3m": _dpmpp("dpmpp_3m", 3),
    "dpmpp_2m_sde": _dpmpp("dpmpp_2m_sde", 2, sde=True),
    "dpmpp_3m_sde": _dpmpp("dpmpp_3m_sde", 3, sde=True),
    "lms": Solver("lms", plan_lms, remembers=3),
    "pndm_prk": Solver("pndm_prk", partial(plan_pndm, prk=True), remembers=12),
}

# diffusers' scheduler class -> the solver that does the same; DDIM stands in for all others.
CLASS_SOLVERS = {
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "DPMSolverMultistepScheduler": "dpmpp_2m",  # or, by its other keys, another dpmpp
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "EulerDiscreteScheduler": "euler",
    "HeunDiscreteScheduler": "heun",
    "LCMScheduler": "lcm",
    "LMSDiscreteScheduler": "lms",
    "PNDMScheduler": "pndm",  # or pndm_prk, likewise
    "UniPCMultistepScheduler": "unipc",
}


def resolved_solver(config: ScheduleConfig, name: str = "") -> tuple[str, tuple[str, ...]]:
    """Returns the solver of that name, or for "" of the schedule's file; and notices for users."""
    notices, solver = [], name or CLASS_SOLVERS.get(config.class_name, "ddim")
    if not name and solver == "dpmpp_2m":
        sde = config.algorithm_type == "sde-dpmsolver++"
        solver = f"dpmpp_{3 if config.solver_order == 3 else 2}m" + "_sde" * sde
    elif not name and solver == "pndm" and not config.skip_prk_steps:
        solver = "pndm_prk"
    asked = config.sigma_request or {v: k for k, v in PLACEMENTS.items()}.get(config.sigmas)
    if not name and config.class_name not in CLASS_SOLVERS:
        notices.append(
            f"the model's scheduler is {shown(config.class_name)}, which is not implemented here; "
            f"solver {solver} takes its place"
        )
    elif asked and solver not in PLACED_SOLVERS:  # which use it, or refuse it
        notices.append(f"solver {solver} does not use {asked} of the model's scheduler config")
    if config.unknown:
        keys = ", ".join(map(shown, config.unknown))
        notices.append(f"the model's scheduler config has keys that are not known here: {keys}")
    return solver, tuple(notices)
