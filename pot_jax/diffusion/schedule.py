"""Noise schedules: what a diffusion model was trained with, and the timesteps that a run takes.

A variance-preserving process mixes a clean picture with unit noise,

    z_t = alpha_t x0 + sigma_t eps,    alpha_t^2 + sigma_t^2 = 1,    t = 0 .. T-1 (T - 1: noisiest)

and its training fixed the table alpha_t^2 = prod_{s <= t} (1 - beta_s), which diffusers calls
`alphas_cumprod`. All is float64 NumPy, computed once before a run; solvers' plans are float32.

Names and meanings are those of diffusers' `scheduler_config.json`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

import numpy as np
from scipy.special import betaincinv

from pot_jax.checks import Settings, Within, checked, require
from pot_jax.config import PREDICTION_TYPES, SIGMAS, TIMESTEP_SPACINGS
from pot_jax.errors import UserError, shown

# Of arXiv 2305.08891, table 2: `linspace` includes both ends of the schedule, `leading` (with an
# offset of 0) its clean end, `trailing` its noisy end.
VARIANCE_TYPES = ("fixed_small", "fixed_small_log", "fixed_large", "learned", "learned_range")


def _scaled_linear_betas(config: "ScheduleConfig") -> np.ndarray:
    """Returns betas linear in sqrt(beta), as in latent diffusion (arXiv 2112.10752)."""
    ends = math.sqrt(config.beta_start), math.sqrt(config.beta_end)
    return np.linspace(*ends, config.num_train_timesteps) ** 2


def _cosine_betas(config: "ScheduleConfig") -> np.ndarray:
    """Returns improved DDPM's cosine (arXiv 2102.09672, equation 17), each beta <= 0.999."""
    times = np.arange(config.num_train_timesteps + 1) / config.num_train_timesteps
    alpha_squared = np.cos((times + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - alpha_squared[1:] / alpha_squared[:-1], 0.999)


BETA_SCHEDULES = {
    "linear": lambda c: np.linspace(c.beta_start, c.beta_end, c.num_train_timesteps),
    "scaled_linear": _scaled_linear_betas,
    "squaredcos_cap_v2": _cosine_betas,
}

# What a missing key means depends on the class that the file names: the defaults of diffusers'
# scheduler classes, where they differ from those of `ScheduleConfig`.
_KARRAS_CLASS = {"beta_start": 0.00085, "beta_end": 0.012}
_GROUPS = (
    ("DDIM DDPM", {"clip_sample": True}),
    ("DEISMultistep DPMSolverMultistep EulerAncestralDiscrete EulerDiscrete", {}),
    ("LMSDiscrete UniPCMultistep", {}),
    ("DPMSolverSDE HeunDiscrete KDPM2AncestralDiscrete KDPM2Discrete", _KARRAS_CLASS),
    ("DPMSolverSinglestep", {"lower_order_final": False}),
    ("LCM TCD", {**_KARRAS_CLASS, "beta_schedule": "scaled_linear"}),
    ("PNDM", {"set_alpha_to_one": False}),
)
CLASS_DEFAULTS: dict[str, dict[str, Any]] = {
    f"{name}Scheduler": facts for names, facts in _GROUPS for name in names.split()
}

# Keys that ask for sigmas placed in another way than by the timesteps -> the placement.
PLACEMENTS = {f"use_{name}_sigmas": name for name in SIGMAS[1:]} | {"use_lu_lambdas": "lu"}
_SIGMA_REQUESTS = {"interpolation_type": "linear"} | dict.fromkeys(sorted(PLACEMENTS), False)
# Fields read from keys that stay in `other`, so that `to_json`, and with it digests of runs from
# before these fields, writes them as the file did.
_READ = ("skip_prk_steps", "disable_corrector", "predict_x0", "sigma_min", "sigma_max")
# Keys of another kind of process; with other values it is not a variance-preserving one.
_REQUIRED_VALUES = {
    "predict_epsilon": True,  # of diffusers before 0.10; today's key is prediction_type
    "timestep_type": "discrete",
    "use_dynamic_shifting": False,
    "use_flow_sigmas": False,
}
_DERIVED = {"other", "class_name", "sigmas", "sigma_request", *_READ}
# What else diffusers' classes write: keys of other solvers, or without effect but with one above.
_OF_OTHER_SOLVERS = {
    *("flow_shift", "noise_sampler_seed", "shift_terminal", "solver_p", "time_shift_type"),
    *("tensor_format", "timestep_values"),  # of diffusers before 0.3
}


@dataclass(frozen=True)
class ScheduleConfig(Settings):
    """A model's noise schedule, as its checkpoint states it; hashable. UserError if it makes none.

    Any solver runs on any, as with diffusers' `from_config`, and ignores fields it does not use.
    """

    # A longer table is a mistake in a file, not a schedule (training uses 1000, rarely 4000).
    num_train_timesteps: Annotated[int, Within("2 to 1000000", 2, 1_000_000)] = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: Literal[tuple(BETA_SCHEDULES)] = "linear"
    trained_betas: tuple[float, ...] | None = None  # the table itself; overrides the three above
    prediction_type: Literal[PREDICTION_TYPES] = "epsilon"
    # None: each solver spaces as its diffusers class: DDPM and DDIM "leading", others "linspace".
    timestep_spacing: Literal[TIMESTEP_SPACINGS] | None = None
    steps_offset: Annotated[int, Within("at least 0", 0)] = 0  # added by leading spacing
    rescale_betas_zero_snr: bool = False  # the noisiest timestep is pure noise (arXiv 2305.08891)
    # Limits of the clean estimates. False unless stated: latents have no fixed range.
    clip_sample: bool = False
    clip_sample_range: Annotated[float, Within("above 0", math.ulp(0))] = 1.0
    thresholding: bool = False  # Imagen's dynamic thresholding (arXiv 2205.11487, section 2.3)
    dynamic_thresholding_ratio: Annotated[float, Within("0 to 1", 0, 1)] = 0.995
    # Below 1 diffusers' clamp(min=1, max=sample_max_value) contradicts itself.
    sample_max_value: Annotated[float, Within("at least 1", 1)] = 1.0
    set_alpha_to_one: bool = True  # DDIM ends at alpha = 1; if False at the alpha of timestep 0
    variance_type: Literal[VARIANCE_TYPES] = "fixed_small"  # DDPM's noise
    # Euler, DPM-Solver++ and UniPC end at sigma 0 ("zero"), or at that of timestep 0 ("sigma_min").
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    lower_order_final: bool = True  # DPM-Solver++: last step of first order in runs under 15 steps
    euler_at_final: bool = False  # DPM-Solver++: last step of first order in every run
    # Which DPM-Solver the file means; other classes use the same keys for their own variants.
    algorithm_type: str = "dpmsolver++"
    solver_order: int = 2
    solver_type: str = "midpoint"
    lambda_min_clipped: float | None = None  # DPM-Solver++ starts with log(alpha/sigma) above it
    # LCM: number of steps it was distilled from; a run uses some of them.
    original_inference_steps: Annotated[int, Within("at least 1", 1)] = 50
    timestep_scaling: float = 10.0  # LCM: scale of timesteps in its boundary condition
    sigmas: Literal[(*SIGMAS, "lu")] = "timesteps"  # where they lie: at the timesteps, or `placed`
    sigma_min: float | None = None  # ends of placed sigmas other than the schedule's
    sigma_max: float | None = None
    sigma_request: str | None = None  # what of the json asks for sigmas not implemented here
    skip_prk_steps: bool = False  # PNDM: no Runge-Kutta steps first
    disable_corrector: tuple[int, ...] = ()  # UniPC: steps whose result is not corrected
    predict_x0: bool = True  # UniPC: the variant in x0
    class_name: str = "DDIMScheduler"  # the diffusers class of the file
    # Keys of the file that no solver here reads, kept for `to_json`.
    other: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def _check_ranges(self) -> None:
        count, table = self.num_train_timesteps, self.trained_betas
        whole = table is None or len(table) == count
        self.require("trained_betas", whole, f"num_train_timesteps = {count} numbers")
        betas = np.asarray(table or (self.beta_start, self.beta_end), np.float64)
        # A smaller beta is lost in float32's 1 - beta, and the schedule would start without noise.
        if not np.all((betas >= 1e-7) & (betas <= 1)):
            what = "beta_start and beta_end" if table is None else "trained_betas"
            raise UserError(f"{what}: expected 1e-7 to 1, got {betas.min()} to {betas.max()}")
        *_, before, last = alphas_cumprod(self)
        if before == 0:
            raise UserError("the betas leave no signal before the last training timestep")
        # eps says nothing about x0 where alpha = 0: x0 = (z - sigma eps) / alpha.
        if last == 0 and self.prediction_type == "epsilon":
            raise UserError(
                "a schedule with zero terminal SNR needs prediction_type v_prediction or sample, "
                "got epsilon; correct rescale_betas_zero_snr or prediction_type"
            )

    @classmethod
    def from_json(cls, json: Mapping[str, Any]) -> "ScheduleConfig":
        """Reads the contents of a `scheduler_config.json`.

        The class it names (`_class_name`) only supplies defaults; a file of no or an unknown class
        must state its betas and prediction type. Raises UserError if a value is of the wrong type
        or unsupported, or the process is of another kind (flow matching, continuous time).
        """
        if not isinstance(json, Mapping):
            raise UserError(f"scheduler config: expected a JSON object, got {shown(repr(json))}")
        name = str(json.get("_class_name", "(none)"))
        # Where diffusers writes null, it means "not stated".
        stated = {key: value for key, value in json.items() if not key.startswith("_")}
        present = {key: value for key, value in stated.items() if value is not None}
        if name not in CLASS_DEFAULTS:
            needed = {"num_train_timesteps", "prediction_type"}
            if "trained_betas" not in present:
                needed |= {"beta_start", "beta_end", "beta_schedule"}
            if missing := sorted(needed - present.keys()):
                raise UserError(
                    f"scheduler class {name} is not known, and its file does not state "
                    f"{', '.join(missing)}; known classes: {', '.join(sorted(CLASS_DEFAULTS))}"
                )
        for key, wanted in _REQUIRED_VALUES.items():
            if present.get(key, wanted) != wanted:
                what = f"{key}={present[key]!r} is not supported, only {wanted!r}"
                raise UserError(f"scheduler {name}: {what}")
        asked = [key for key, usual in _SIGMA_REQUESTS.items() if present.get(key, usual) != usual]
        read = {key: present[key] for key in _READ if key in present}
        if len(asked) == 1 and present[asked[0]] is True:
            read["sigmas"] = PLACEMENTS[asked[0]]
        elif asked:
            read["sigma_request"] = " and ".join(asked)
        if "_class_name" in json:
            read["class_name"] = name
        known = {item.name for item in fields(cls)} - _DERIVED
        facts = {key: present[key] for key in known & set(present)}
        if facts.get("lambda_min_clipped") == -math.inf:
            del facts["lambda_min_clipped"]
        other = {key: value for key, value in stated.items() if key not in known}
        return cls(**{**CLASS_DEFAULTS.get(name, {}), **facts}, **read, other=other)

    @property
    def unknown(self) -> list[str]:
        """The keys of the file that no scheduler of diffusers is known to have."""
        known = {*_SIGMA_REQUESTS, *_REQUIRED_VALUES, *_OF_OTHER_SOLVERS, *_READ}
        return [key for key, value in self.other.items() if key not in known and value is not None]

    def to_json(self) -> dict[str, Any]:
        """Returns the `scheduler_config.json` that means the same schedule to diffusers."""
        # Written even where they are the class's defaults: the reader's class may have others.
        always = {"num_train_timesteps", "beta_start", "beta_end", "beta_schedule"}
        always |= {"prediction_type", "steps_offset", "clip_sample", "set_alpha_to_one"}
        usual = CLASS_DEFAULTS.get(self.class_name)
        json = {"_class_name": self.class_name, **self.other}
        for item in fields(self):
            value = getattr(self, item.name)
            if value is None or item.name in _DERIVED:
                continue
            silent = usual is not None and value == usual.get(item.name, item.default)
            if item.name in always or not silent:
                json[item.name] = list(value) if isinstance(value, tuple) else value
        return json


def alphas_cumprod(config: ScheduleConfig) -> np.ndarray:
    """Returns alpha_t^2, float64 [T]; the last is 0 at zero terminal SNR."""
    if config.trained_betas is not None:
        betas = np.asarray(config.trained_betas, np.float64)
    else:
        betas = BETA_SCHEDULES[config.beta_schedule](config)
    # Training rounded beta and 1 - beta to float32, and so does this: with cosine's last beta,
    # 0.999, the noisiest sigma would otherwise differ by 3e-5.
    alpha_steps = np.float32(1) - betas.astype(np.float32)
    table = np.cumprod(alpha_steps, dtype=np.float64)
    if not config.rescale_betas_zero_snr:
        return table
    # arXiv 2305.08891, algorithm 1: alpha, shifted to end at 0 and scaled to start where it did.
    root = np.sqrt(table)
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


def signal_and_noise(config: ScheduleConfig) -> tuple[np.ndarray, np.ndarray]:
    """Returns alpha_t and sigma_t of every training timestep, float64 [T] each."""
    table = alphas_cumprod(config)
    return np.sqrt(table), np.sqrt(1 - table)


def positive_alphas_cumprod(config: ScheduleConfig) -> np.ndarray:
    """Returns alpha_t^2, with 2^-24 for zero SNR as in diffusers, so that ratios are finite."""
    table = alphas_cumprod(config)
    return np.where(table > 0, table, 2.0**-24)


def noise_to_signal(config: ScheduleConfig) -> np.ndarray:
    """Returns sigma_t / alpha_t by timestep, float64 [T], Euler's "sigmas"; 4096 at zero SNR."""
    table = positive_alphas_cumprod(config)
    return np.sqrt((1 - table) / table)


def placed(
    config: ScheduleConfig, timesteps: np.ndarray, steps: int, final: str, whole: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns timesteps float32 [S], and noise to signal at each and after the last, [S + 1].

    Where `config.sigmas` places sigmas, between those of the first and last timestep, timesteps
    follow from them, in diffusers' precision. For DPM-Solver++ and UniPC, whose `whole` rounds
    timesteps, sigmas span the schedule, and a last step to sigma_min has length zero.
    """
    everything = noise_to_signal(config)
    end = everything[0] if final == "sigma_min" else 0.0
    if config.sigmas == "timesteps":
        ratio = np.interp(timesteps, np.arange(len(everything)), everything)
        return timesteps, np.append(ratio, end)
    table = positive_alphas_cumprod(config).astype(np.float32)
    table = np.sqrt((1 - table) / table)
    ends = timesteps[[0, -1]] if whole is None else [len(table) - 1, 0]
    high, low = np.interp(ends, np.arange(len(table)), table)
    high, low = config.sigma_max or high, config.sigma_min or low
    if not 0 < low <= high:
        raise UserError(f"sigma_min: expected 0 to sigma_max, which is {high}, got {low}")
    share = np.linspace(0, 1, steps)
    if config.sigmas == "karras":  # arXiv 2206.00364, equation 5
        ratio = (high ** (1 / 7) + share * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    elif config.sigmas == "beta":  # arXiv 2407.12173; alpha and beta as in diffusers
        ratio = low + betaincinv(0.6, 0.6, 1 - share) * (high - low)
    else:
        ratio = np.exp(np.linspace(math.log(high), math.log(low), steps))
    log, table = np.log(ratio), np.log(table)
    below = np.clip(np.searchsorted(table, log, "right") - 1, 0, len(table) - 2)
    part = np.clip((table[below] - log) / (table[below] - table[below + 1]), 0, 1)
    timesteps = (1 - part) * below + part * (below + 1)
    if whole is not None:
        timesteps, end = whole(timesteps), end and ratio[-1]
    return timesteps.astype(np.float32), np.append(ratio, end)


def spaced_timesteps(
    config: ScheduleConfig, steps: int, spacing: str, *, whole: bool = True
) -> np.ndarray:
    """Returns the training timesteps of a run of S steps: float32 [S], noisiest first.

    `spacing` is one of TIMESTEP_SPACINGS; the schedule's `steps_offset` shifts leading spacing;
    `whole` rounds linspace's, which Euler's solvers leave fractional. UserError if S does not fit.
    """
    return _spaced(config, steps, spacing, config.num_train_timesteps, whole=whole)


def interval_timesteps(config: ScheduleConfig, steps: int, spacing: str) -> np.ndarray:
    """Returns the timesteps for DPM-Solver++: the noisy ends of S intervals of the table.

    float32 [S], noisiest first. Unlike `spaced_timesteps`, linspace and leading spacing omit the
    cleanest of S + 1 timesteps, and `lambda_min_clipped` may remove the noisy end (trailing spacing
    then keeps its stride, and the run is shorter). Raises UserError if S does not fit the schedule.
    """
    log_snr = -np.log(noise_to_signal(config))  # falls with t
    lowest = -np.inf if config.lambda_min_clipped is None else config.lambda_min_clipped
    if not (last := int(np.sum(log_snr >= lowest))):
        end = f"the schedule's log(alpha/sigma) ends at {log_snr[0]:.3f}"
        raise UserError(f"lambda_min_clipped={lowest} leaves no timestep: {end}")
    return _spaced(config, steps, spacing, last, omitted=1)


def distilled_timesteps(config: ScheduleConfig, steps: int) -> np.ndarray:
    """Returns the timesteps for latent consistency models.

    The model was distilled at timesteps k-1, 2k-1, ..., with k = T // `original_inference_steps`.
    Returns S of them, evenly spaced from the noisiest on: float32 [S]; UserError if S does not fit.
    """
    _check_steps(config, steps)
    original, total = config.original_inference_steps, config.num_train_timesteps
    expected = f"1 to {total}, the number of training timesteps"
    require(original <= total, "original_inference_steps", expected, original)
    expected = f"1 to {original} steps, the scheduler's original_inference_steps"
    require(steps <= original, "solver lcm", expected, steps)
    stride = total // original
    every = np.arange(original, 0, -1) * stride - 1
    chosen = np.floor(np.linspace(0, original, steps, endpoint=False)).astype(int)
    return every[chosen].astype(np.float32)


def _check_steps(config: ScheduleConfig, steps: int) -> None:
    most = config.num_train_timesteps
    fits = 1 <= checked(steps, int, "steps") <= most
    require(fits, "steps", f"1 to {most}, the number of training timesteps", steps)


def _spaced(config, steps, spacing, last, *, omitted=0, whole=True) -> np.ndarray:
    """Spaces S of the first `last` timesteps; `omitted` more, at the clean end, are left out."""
    _check_steps(config, steps)
    count = steps + omitted
    if spacing == "linspace":
        timesteps = np.linspace(0, last - 1, count)[omitted:][::-1]
        timesteps = timesteps.round() if whole else timesteps
    elif spacing == "leading":
        timesteps = np.arange(omitted, count)[::-1] * (last // count) + config.steps_offset
    else:
        # The rounding errors of np.arange matter, since diffusers rounds its result to whole
        # timesteps, so the same call is made here. It may return one too many, near 0: dropped.
        timesteps = np.arange(last, 0, -config.num_train_timesteps / steps)[:steps].round() - 1
        timesteps = timesteps[timesteps >= 0]
    total = config.num_train_timesteps
    if timesteps[0] > total - 1:
        raise UserError(
            f"{steps} steps with steps_offset {config.steps_offset} start at timestep "
            f"{timesteps[0]:g}, past the last of the schedule ({total - 1}); use fewer steps"
        )
    if np.any(np.diff(timesteps) >= 0):
        reason = f"the schedule has only {total}"
        raise UserError(f"{steps} steps visit a timestep twice: {reason}; use fewer steps")
    return timesteps.astype(np.float32)
