"""The solvers on data whose denoiser is known: x0 normal with mean m and deviation s.

Then x0 given z is normal too, the exact estimate is linear in z, and the exact answers are known:
for the deterministic solvers the ODE's solution, for the stochastic ones mean and variance of z.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pot_jax import config as settings
from pot_jax.diffusion.schedule import ScheduleConfig, signal_and_noise
from pot_jax.diffusion.solvers import SOLVERS, Denoised, Plan, resampled, resolved_solver
from pot_jax.errors import UserError

MEAN, SPREAD = 0.4, 0.6
# Many training timesteps, so that rounding to whole ones does not limit the convergence.
FINE = {"num_train_timesteps": 100_000, "beta_start": 1e-6, "beta_end": 2e-4}
STOCHASTIC = {"ddpm": 0.0, "ddim": 1.0, "euler_ancestral": 0.0}  # eta
DETERMINISTIC = {"ddim": 1, "euler": 1, "dpmpp_2m": 2, "heun": 2}  # order
# Begin in low order, and so show no whole order of convergence.
DETERMINISTIC_TOO = ("dpmpp_3m", "unipc", "lms", "pndm", "pndm_prk")
ROWS = {"pndm": lambda steps: steps + 1, "pndm_prk": lambda steps: steps + 9}
ROWS["heun"] = lambda steps: 2 * steps - 1


def estimate(z, alpha, sigma):
    gain = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2)
    return MEAN + gain * (z - alpha * MEAN)


def advance(solver, row, history, latents, clean, noise):
    """One step of a denoiser without guidance, of levels that agree."""
    return solver.step(row, history, latents, Denoised(clean, clean), clean, noise)


def rows_of(plan):
    for i in range(len(plan.timestep)):
        yield jax.tree.map(lambda column, i=i: column[i], plan._replace(init_scale=None))


def run(solver, plan, latents, noises=None):
    """All latents of a run, scaled as the network sees them: [S, ...]."""
    history, seen = solver.start(latents), []
    for i, row in enumerate(rows_of(plan)):
        z = latents * row.input_scale
        seen.append(np.asarray(z))
        noise = jnp.zeros_like(latents) if noises is None else noises[i]
        clean = estimate(z, row.alpha, row.sigma)
        latents, history = advance(solver, row, history, latents, clean, noise)
    return np.stack(seen), np.asarray(latents)


def exact_flow(plan, start):
    """The probability flow's solution at every row of the plan: z keeps its place in the bell."""
    deviation = np.sqrt(plan.alpha**2 * SPREAD**2 + plan.sigma**2).astype(np.float64)
    place = (start - plan.alpha[0] * MEAN) / deviation[0]
    return plan.alpha * MEAN + deviation * place


def worst_error(name, steps, **facts):
    config = ScheduleConfig(**FINE, timestep_spacing="trailing", **facts)
    with jax.enable_x64(True):
        plan = SOLVERS[name].plan(config, steps)
        plan = jax.tree.map(lambda column: np.asarray(column, np.float64), plan)
        seen, _ = run(SOLVERS[name], plan, jnp.asarray([plan.init_scale * 1.3]))
    # Towards sigma = 0 equal steps of time are ever longer steps of log sigma, however many.
    far = plan.sigma > 0.3
    return np.abs(seen[:, 0] - exact_flow(plan, seen[0, 0]))[far].max()


@pytest.mark.parametrize(("name", "order"), DETERMINISTIC.items())
def test_order_of_convergence(name, order):
    errors = np.array([worst_error(name, steps) for steps in (20, 40, 80, 160)])
    measured = np.log2(errors[:-1] / errors[1:])
    np.testing.assert_allclose(measured, order, atol=0.1)


def test_second_order_pays():
    assert worst_error("dpmpp_2m", 20) < 0.2 * worst_error("ddim", 20)


@pytest.mark.parametrize("name", ["dpmpp_3m", "unipc", "lms"])
def test_higher_orders_pay(name):
    coarse, fine = worst_error(name, 40), worst_error(name, 80)
    assert fine < worst_error("dpmpp_2m", 80) / 1.5
    assert np.log2(coarse / fine) > 2.2


def final_moments(name, steps, eta):
    """Mean and variance after the run, exactly: every step is linear in z and adds c noise."""
    plan = SOLVERS[name].plan(ScheduleConfig(**FINE, timestep_spacing="trailing"), steps, eta=eta)
    mean, variance = 0.0, float(plan.init_scale) ** 2
    for row in rows_of(plan):

        def advanced(z, noise, row=row):
            clean = estimate(z * row.input_scale, row.alpha, row.sigma)
            return float(advance(SOLVERS[name], row, (), z, clean, noise)[0])

        base = advanced(0.0, 0.0)
        gain, added = advanced(1.0, 0.0) - base, advanced(0.0, 1.0) - base
        mean, variance = gain * mean + base, gain**2 * variance + added**2
    return mean, variance


@pytest.mark.parametrize(("name", "eta"), STOCHASTIC.items())
def test_stochastic_solvers_converge_to_the_data(name, eta):
    moments = np.array([final_moments(name, steps, eta) for steps in (25, 50, 100, 200)])
    errors = np.abs(moments - [MEAN, SPREAD**2])
    # Weak order 1, seen in the variance; the mean of Gaussian data is nearly exact anyway.
    order = np.log2(errors[-2, 1] / errors[-1, 1])
    assert 0.8 < order < 1.3
    assert np.all(errors[-1] < 0.07 * np.array([MEAN, SPREAD**2]))


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_plan_describes_the_latents(name, spacing):
    """alpha and sigma are those of the timestep, and of latents * input_scale."""
    config = ScheduleConfig(timestep_spacing=spacing, beta_schedule="scaled_linear")
    plan = SOLVERS[name].plan(config, 20)
    columns = jax.tree.leaves(plan._replace(init_scale=None))
    rows = ROWS.get(name, lambda steps: steps)(20)
    assert all(c.dtype == np.float32 and c.shape == (rows,) for c in columns)
    assert type(plan.init_scale) is float  # NumPy's own would not be weakly typed in JAX
    np.testing.assert_allclose(plan.alpha**2 + plan.sigma**2, 1, rtol=1e-6)
    betas = np.linspace(0.01, np.sqrt(0.02), 1000) ** 2
    sigma = np.sqrt(1 - np.cumprod(1 - betas))
    np.testing.assert_allclose(
        plan.sigma, np.interp(plan.timestep, np.arange(1000), sigma), rtol=2e-3
    )


@pytest.mark.parametrize("name", SOLVERS)
def test_a_perfect_estimate_is_reached_and_its_noise_kept(name):
    """With the true x0 at every step the run keeps z = alpha x0 + sigma eps and ends at x0.

    For the deterministic solvers eps stays the first noise; for all of them the result is x0.
    """
    # Trailing by a whole stride, where DDIM's own target is the next timestep of the run.
    config = ScheduleConfig(beta_schedule="scaled_linear", timestep_spacing="trailing")
    solver = SOLVERS[name]
    plan = solver.plan(config, 20)
    rng = np.random.default_rng(3)
    clean, eps = rng.standard_normal((2, 1, 4, 4, 3)).astype(np.float32)
    row = next(rows_of(plan))
    latents = (row.alpha * clean + row.sigma * eps) / row.input_scale
    history = solver.start(latents)
    for row in rows_of(plan):
        if name in DETERMINISTIC or name in DETERMINISTIC_TOO:
            z = latents * row.input_scale
            np.testing.assert_allclose(z, row.alpha * clean + row.sigma * eps, atol=2e-5)
        noise = rng.standard_normal(clean.shape).astype(np.float32)
        latents, history = advance(solver, row, history, latents, clean, noise)
    # LCM's boundary condition keeps c_skip, 1e-6, of the last noisy latents.
    np.testing.assert_allclose(latents, clean, atol=1e-5 if name == "lcm" else 1e-6)


@pytest.mark.parametrize("name", SOLVERS)
def test_scan_under_jit_equals_the_plain_loop(name):
    plan = SOLVERS[name].plan(ScheduleConfig(), 10)
    noises = jax.random.normal(jax.random.key(0), (1 + len(plan.timestep), 2, 4, 4, 3))
    start = noises[0] * np.float32(plan.init_scale)
    _, expected = run(SOLVERS[name], plan, start, noises[1:])
    traces = []

    @jax.jit
    def scanned(plan: Plan, start, noises):
        traces.append(name)

        def body(carry, row_noise):
            (latents, history), (row, noise) = carry, row_noise
            clean = estimate(latents * row.input_scale, row.alpha, row.sigma)
            return advance(SOLVERS[name], row, history, latents, clean, noise), None

        first = (start, SOLVERS[name].start(start))
        return jax.lax.scan(body, first, (plan._replace(init_scale=None), noises))[0][0]

    for _ in range(2):
        result = scanned(plan, start, noises[1:])
    assert result.dtype == jnp.float32
    assert len(traces) == 1
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("name", SOLVERS)
def test_gradients_through_a_run_are_finite(name):
    plan = SOLVERS[name].plan(
        ScheduleConfig(rescale_betas_zero_snr=True, prediction_type="v_prediction"), 5
    )

    def end(start):
        history = SOLVERS[name].start(start)
        latents = start
        for row in rows_of(plan):
            clean = estimate(latents * row.input_scale, row.alpha, row.sigma)
            latents, history = advance(SOLVERS[name], row, history, latents, clean, start)
        return jnp.sum(latents**2)

    assert np.all(np.isfinite(jax.grad(end)(jnp.ones((2, 2)))))


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 250])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_plans_are_finite(name, steps, zero_snr):
    for spacing in ("leading", "linspace", "trailing"):
        config = ScheduleConfig(
            timestep_spacing=spacing,
            rescale_betas_zero_snr=zero_snr,
            prediction_type="v_prediction",
            beta_schedule="squaredcos_cap_v2",
            original_inference_steps=250,
        )
        if name == "pndm_prk" and steps < 4:
            with pytest.raises(UserError, match="steps: expected at least 4 with solver pndm_prk"):
                SOLVERS[name].plan(config, steps)
            continue
        plan = SOLVERS[name].plan(config, steps)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(plan))


def test_only_stochastic_solvers_use_their_noise():
    config = ScheduleConfig()
    for name, solver in SOLVERS.items():
        plan = solver.plan(config, 10)
        uses = np.any(plan.coefficients.get("noise", np.zeros(10)) != 0)
        assert uses == (name in settings.STOCHASTIC_SOLVERS)
    assert np.any(SOLVERS["ddim"].plan(config, 10, eta=1.0).coefficients["noise"] != 0)


def test_ddim_with_eta_1_is_ddpm():
    """arXiv 2010.02502, section 4.1; where DDIM's target is the next timestep of the run."""
    config = ScheduleConfig(timestep_spacing="trailing")
    ddpm = SOLVERS["ddpm"].plan(config, 20).coefficients
    ddim = SOLVERS["ddim"].plan(config, 20, eta=1.0).coefficients
    for key, column in ddpm.items():
        np.testing.assert_allclose(ddim[key], column, atol=1e-6)


def test_ddim_goes_back_by_whole_strides():
    """From timestep 966 of trailing 30 of 1000 to 933, though the next of the run is 932."""
    plan = SOLVERS["ddim"].plan(ScheduleConfig(timestep_spacing="trailing"), 30)
    np.testing.assert_array_equal(plan.timestep[1:3], [966, 932])
    alpha, sigma = signal_and_noise(ScheduleConfig())
    kept = plan.coefficients["latents"][1]
    np.testing.assert_allclose(kept, sigma[933] / sigma[966], rtol=1e-6)
    moved = alpha[933] - alpha[966] * sigma[933] / sigma[966]
    np.testing.assert_allclose(plan.coefficients["agreed"][1], moved, rtol=1e-5)


def test_ddim_may_end_at_the_first_alpha():
    alpha, sigma = signal_and_noise(ScheduleConfig())
    end = SOLVERS["ddim"].plan(ScheduleConfig(set_alpha_to_one=False, steps_offset=1), 20)
    kept = sigma[0] / sigma[1]
    np.testing.assert_allclose(end.coefficients["latents"][-1], kept, rtol=1e-6)
    np.testing.assert_allclose(
        end.coefficients["agreed"][-1], alpha[0] - alpha[1] * kept, rtol=1e-4
    )


def test_ddpm_noise():
    """The two choices of arXiv 2006.11239, section 3.2: beta, and that of q(z' | z, x0)."""
    alpha, sigma = signal_and_noise(ScheduleConfig())
    now, after = slice(50, None, 50), slice(0, -50, 50)
    beta = (1 - (alpha[now] / alpha[after]) ** 2)[::-1]
    ratio = (sigma[after] / sigma[now])[::-1]
    large = SOLVERS["ddpm"].plan(ScheduleConfig(variance_type="fixed_large"), 20)
    small = SOLVERS["ddpm"].plan(ScheduleConfig(), 20)
    np.testing.assert_allclose(large.coefficients["noise"][:-1], np.sqrt(beta), rtol=1e-5)
    np.testing.assert_allclose(small.coefficients["noise"][:-1], np.sqrt(beta) * ratio, rtol=1e-5)
    assert large.coefficients["noise"][-1] == small.coefficients["noise"][-1] == 0


def test_lcm_noises_its_answer_anew():
    """4 of 50 steps: f = c_skip z + c_out x0, then alpha' f + sigma' noise; at the end f alone."""
    config = ScheduleConfig()
    plan = SOLVERS["lcm"].plan(config, 4)
    np.testing.assert_array_equal(plan.timestep, [999, 759, 499, 259])
    alpha, sigma = signal_and_noise(config)
    c = plan.coefficients
    np.testing.assert_allclose(c["noise"], [*sigma[[759, 499, 259]], 0], rtol=1e-6)
    skip, out = 0.25 / (9990**2 + 0.25), 9990 / np.sqrt(9990**2 + 0.25)
    np.testing.assert_allclose(c["latents"][0], alpha[759] * skip, rtol=1e-6)
    np.testing.assert_allclose(c["agreed"][0], alpha[759] * out, rtol=1e-6)


def test_lcm_is_the_identity_at_timestep_0():
    """Its boundary condition; the tables of no published model begin there."""
    config = ScheduleConfig(num_train_timesteps=50, beta_start=1e-3)
    c = SOLVERS["lcm"].plan(config, 50).coefficients
    assert (c["latents"][-1], c["agreed"][-1], c["noise"][-1]) == (1, 0, 0)


def test_lcm_takes_no_more_steps_than_it_was_distilled_from():
    with pytest.raises(ValueError, match="expected 1 to 50 steps, the scheduler's original_inf"):
        SOLVERS["lcm"].plan(ScheduleConfig(), 51)
    with pytest.raises(ValueError, match="original_inference_steps: expected 1 to 1000"):
        SOLVERS["lcm"].plan(ScheduleConfig(original_inference_steps=1001), 4)


@pytest.mark.parametrize("name", ["euler", "euler_ancestral"])
def test_euler_starts_as_noisy_as_its_first_timestep(name):
    for spacing in ("leading", "linspace", "trailing"):
        plan = SOLVERS[name].plan(ScheduleConfig(timestep_spacing=spacing), 10)
        expected = plan.sigma[0] / plan.alpha[0]
        # Unit data included, where the run starts below pure noise.
        expected = np.hypot(expected, 1) if spacing == "leading" else expected
        assert plan.init_scale == pytest.approx(expected, rel=1e-6)


def test_dpmpp_2m_ends_in_first_order_where_asked():
    def ends_in_first_order(steps, **facts):
        plan = SOLVERS["dpmpp_2m"].plan(ScheduleConfig(**facts), steps)
        assert np.all(plan.coefficients["agreed_before"][1:-1] < 0)
        return plan.coefficients["agreed_before"][-1] == 0

    to_sigma_min = {"final_sigmas_type": "sigma_min"}
    assert ends_in_first_order(20)
    assert not ends_in_first_order(15, **to_sigma_min)
    assert ends_in_first_order(14, **to_sigma_min)
    assert not ends_in_first_order(14, lower_order_final=False, **to_sigma_min)
    assert ends_in_first_order(20, euler_at_final=True, **to_sigma_min)


@pytest.mark.parametrize("name", sorted(set(SOLVERS) - {"ddim"}))
def test_eta_is_ddims(name):
    with pytest.raises(ValueError, match=rf"solver {name} takes no eta \(only ddim does\), got 1"):
        SOLVERS[name].plan(ScheduleConfig(), 10, eta=1)


@pytest.mark.parametrize("eta", [-0.1, 1.1])
def test_eta_range(eta):
    with pytest.raises(ValueError, match="eta: expected 0 to 1"):
        SOLVERS["ddim"].plan(ScheduleConfig(), 10, eta=eta)


@pytest.mark.parametrize("name", settings.PLACED_SOLVERS)
def test_requests_that_are_not_implemented(name):
    with pytest.raises(ValueError, match=f"interpolation_type, which solver {name} does not supp"):
        SOLVERS[name].plan(ScheduleConfig(sigma_request="interpolation_type"), 10)
    if not name.startswith("dpmpp"):
        with pytest.raises(ValueError, match=f"use_lu_lambdas, which solver {name} does not"):
            SOLVERS[name].plan(ScheduleConfig(sigmas="lu"), 10)


def test_what_solvers_cannot_do():
    for name in ("ddpm", "ddim", "euler_ancestral", "pndm", "lcm"):
        placed = SOLVERS[name].plan(ScheduleConfig(sigmas="karras", sigma_request="x"), 10)
        plain = SOLVERS[name].plan(ScheduleConfig(), 10)
        jax.tree.map(np.testing.assert_array_equal, placed, plain)
    for name, key, value in [
        ("dpmpp_2m", "algorithm_type", "sde-dpmsolver"),
        ("dpmpp_2m_sde", "solver_order", 4),
        ("dpmpp_3m", "solver_type", "bh3"),
        ("unipc", "predict_x0", False),
        ("unipc", "solver_order", 4),
    ]:
        message = re.escape(f"asks for {key}={value!r}, which solver {name} ")
        with pytest.raises(ValueError, match=message):
            SOLVERS[name].plan(ScheduleConfig(**{key: value}), 10)
        SOLVERS["euler"].plan(ScheduleConfig(**{key: value}), 10)
    with pytest.raises(ValueError, match="sigma_min: expected 0 to sigma_max, which is 1.0, got 2"):
        SOLVERS["euler"].plan(ScheduleConfig(sigmas="beta", sigma_min=2, sigma_max=1), 10)
    with pytest.raises(ValueError, match="learned its variance"):
        SOLVERS["ddpm"].plan(ScheduleConfig(variance_type="learned_range"), 10)
    with pytest.raises(ValueError, match="a step of length zero"):
        SOLVERS["dpmpp_2m"].plan(
            ScheduleConfig(final_sigmas_type="sigma_min", timestep_spacing="trailing"), 1000
        )


@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
@pytest.mark.parametrize(("order", "rate"), [(1, 2), (2, 4)])
def test_dpm_solver_converges_in_the_order_that_the_file_states(solver_type, order, rate):
    facts = {"solver_order": order, "solver_type": solver_type}
    coarse, fine = (worst_error("dpmpp_2m", steps, **facts) for steps in (50, 100))
    assert coarse / fine == pytest.approx(rate, rel=0.25)


def scheduler(name, **facts):
    return ScheduleConfig.from_json({"_class_name": f"{name}Scheduler", **facts})


@pytest.mark.parametrize(
    ("named", "solver"),
    [
        ("DDIM", "ddim"),
        ("DDPM", "ddpm"),
        ("EulerDiscrete", "euler"),
        ("EulerAncestralDiscrete", "euler_ancestral"),
        ("DPMSolverMultistep", "dpmpp_2m"),
        ("LCM", "lcm"),
        ("PNDM", "pndm_prk"),
        ("UniPCMultistep", "unipc"),
        ("HeunDiscrete", "heun"),
        ("LMSDiscrete", "lms"),
    ],
)
def test_a_file_names_its_solver(named, solver):
    assert resolved_solver(scheduler(named)) == (solver, ())
    assert resolved_solver(scheduler(named), "euler") == ("euler", ())


@pytest.mark.parametrize(
    ("named", "solver", "facts"),
    [
        ("PNDM", "pndm", {"skip_prk_steps": True}),
        ("DPMSolverMultistep", "dpmpp_3m", {"solver_order": 3}),
        ("DPMSolverMultistep", "dpmpp_2m_sde", {"algorithm_type": "sde-dpmsolver++"}),
        (
            "DPMSolverMultistep",
            "dpmpp_3m_sde",
            {"algorithm_type": "sde-dpmsolver++", "solver_order": 3},
        ),
    ],
)
def test_a_file_names_its_solver_by_other_keys(named, solver, facts):
    assert resolved_solver(scheduler(named, **facts)) == (solver, ())


@pytest.mark.parametrize("named", ["KDPM2Discrete", "DPMSolverSinglestep", "DEISMultistep"])
def test_ddim_stands_in_and_says_so(named):
    solver, (notice,) = resolved_solver(scheduler(named, skip_prk_steps=True))
    assert solver == "ddim"
    assert f"{named}Scheduler, which is not implemented here; solver ddim" in notice
    assert resolved_solver(scheduler(named), "lcm") == ("lcm", ())


def test_what_a_solver_does_not_read_is_said():
    karras = scheduler("EulerDiscrete", use_karras_sigmas=True, sigma_min=0.03)
    assert resolved_solver(karras) == ("euler", ())  # which does
    _, (notice,) = resolved_solver(karras, "ddim")
    assert notice == "solver ddim does not use use_karras_sigmas of the model's scheduler config"
    lu = scheduler("EulerDiscrete", use_lu_lambdas=True)
    assert "does not use use_lu_lambdas" in resolved_solver(lu, "pndm")[1][0]
    _, (notice,) = resolved_solver(scheduler("DDIM", new_trick=3, old_trick=None))
    assert "keys that are not known here: new_trick" in notice


def test_the_names_that_settings_know_are_those_of_the_table():
    assert tuple(SOLVERS) == settings.SOLVERS


def schedules():
    zero = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    for solver in SOLVERS.values():
        if not solver.remembers:
            yield pytest.param(solver, {}, id=solver.name)
            yield pytest.param(solver, zero, id=f"{solver.name}-zero-snr")


@pytest.mark.parametrize(("solver", "facts"), list(schedules()))
@pytest.mark.parametrize("times", [2, 4])
def test_time_travel_keeps_the_marginals(solver, facts, times):
    """A denoiser that knows x0: z stays alpha x0 + sigma eps before every step.

    The mean's factor and the variance follow exactly, since a step is linear.
    """
    config = ScheduleConfig(beta_start=0.00085, beta_end=0.012, **facts)
    plan = solver.plan(config, 10)
    long = resampled(plan, times)
    assert len(long.timestep) == 10 * times
    c = {name: np.float64(values) for name, values in long.coefficients.items()}
    scale = np.float64(long.input_scale)
    alpha, variance = long.alpha / scale, (long.sigma / scale) ** 2
    for row in range(10 * times - 1):
        mean = c["latents"][row] * alpha[row] + c["agreed"][row]
        spread = c["latents"][row] ** 2 * variance[row] + c["noise"][row] ** 2
        if (row + 1) % times:
            assert long.timestep[row + 1] == long.timestep[row]
            # float32 coefficients, of numbers to 4096 where Euler starts.
            np.testing.assert_allclose(mean, alpha[row], atol=2e-6 * max(1, scale[row] ** -1))
            np.testing.assert_allclose(spread, variance[row], rtol=5e-6)
    once = jax.tree.map(lambda column: column[times - 1 :: times], long._replace(init_scale=None))
    for name, values in plan.coefficients.items():
        np.testing.assert_array_equal(once.coefficients[name], values)
    np.testing.assert_array_equal(once.timestep, plan.timestep)


def test_taken_once_a_plan_is_left_as_it_is():
    for solver in SOLVERS.values():
        plan = solver.plan(ScheduleConfig(), 5)
        assert resampled(plan, 1) is plan


def test_a_solver_that_remembers_does_not_travel():
    with pytest.raises(UserError, match="sampler.time_travel: expected 1 with a solver that rem"):
        resampled(SOLVERS["dpmpp_2m"].plan(ScheduleConfig(), 5), 2)


def test_histories_are_of_agreed_estimates():
    """What agreement changed is what a later step extrapolates, not what the network said."""
    for name in ("dpmpp_2m", "dpmpp_3m", "unipc", "heun"):
        solver = SOLVERS[name]
        row = next(rows_of(solver.plan(ScheduleConfig(), 10)))
        z, clean, agreed = np.float32([3]), np.float32([1]), np.float32([2])
        _, history = solver.step(row, solver.start(z), z, Denoised(clean, clean), agreed, z)
        assert (history[0], len(history)) == (agreed, solver.remembers)


def test_directions_follow_agreed_estimates_and_the_noise_that_is_put_back():
    """PNDM and LMS keep eps, that of z, agreed, and clean - renoise, as the other terms have it."""
    for name in ("pndm", "pndm_prk", "lms"):
        solver = SOLVERS[name]
        row = next(rows_of(solver.plan(ScheduleConfig(), 10)))
        z, clean, renoise, agreed = (np.float32([value]) for value in (3, 1, 0.5, 2))
        denoised = Denoised(clean, renoise)
        _, history = solver.step(row, solver.start(z), z, denoised, agreed, z)
        eps = (z * row.input_scale - row.alpha * agreed) / row.sigma
        eps += row.alpha * (clean - renoise) / row.sigma
        np.testing.assert_allclose(history[0], eps, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(settings.PLACED_SOLVERS))
def test_placed_sigmas_change_where_steps_end_and_nothing_else(name):
    """With the true estimate the run still ends at it, whatever the sigmas."""
    for sigmas in settings.SIGMAS[1:]:
        solver = SOLVERS[name]
        plan = solver.plan(ScheduleConfig(sigmas=sigmas), 12)
        assert np.any(plan.timestep != solver.plan(ScheduleConfig(), 12).timestep)
        clean, latents = np.float32([0.7]), np.float32([plan.init_scale])
        history = solver.start(latents)
        for row in rows_of(plan):
            latents, history = advance(solver, row, history, latents, clean, latents)
        np.testing.assert_allclose(latents, clean, atol=1e-5)
