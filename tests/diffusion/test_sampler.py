"""The joint sampler, driven by denoisers whose answers are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pot_jax.diffusion import guidance
from pot_jax.diffusion.sampler import (
    Parts,
    chunks,
    make_chunk,
    over_stacks,
    stack_states,
    start,
)
from pot_jax.diffusion.schedule import ScheduleConfig
from pot_jax.diffusion.solvers import SOLVERS
from pot_jax.zoom import agreement, blending, operators
from pot_jax.zoom.geometry import Geometry

LEVELS, SIZE, CHANNELS = 5, 16, 3
GEOMETRY = Geometry(LEVELS, 2, SIZE, SIZE)
CONFIG = ScheduleConfig(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="epsilon"
)
TABLE = jnp.asarray(np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2), jnp.float32)


def noise_levels(timestep):
    squared = jnp.interp(timestep, jnp.arange(1000.0), TABLE)
    return jnp.sqrt(squared), jnp.sqrt(1 - squared)


def denoiser_towards(weights, z, timestep):
    """Predicts the noise that leads to the pictures `weights` [N, H, W, C], whatever z is."""
    alpha, sigma = noise_levels(timestep)
    return (z - alpha * weights) / sigma


def gaussian_denoiser(weights, z, timestep):
    """The exact E[eps | z] for pixels that are independent normal N(mean, deviation^2)."""
    mean, deviation = weights
    alpha, sigma = noise_levels(timestep)
    variance = alpha**2 * deviation**2 + sigma**2
    clean = mean + alpha * deviation**2 / variance * (z - alpha * mean)
    return (z - alpha * clean) / sigma


def parts_for(denoise, blend="laplacian", solver="ddim", geometry=GEOMETRY):
    draw = functools.partial(operators.shared_noise, geometry=geometry, channels=CHANNELS)
    alone = functools.partial(operators.independent_noise, geometry=geometry, channels=CHANNELS)
    noise = alone if blend == "none" else draw
    return Parts(
        denoise=denoise,
        to_clean=functools.partial(guidance.clean_from_prediction, prediction_type="epsilon"),
        agree=agreement.in_latents(
            functools.partial(blending.consistent, geometry=geometry, blend=blend)
        ),
        first_noise=noise,
        step_noise=noise,
        solver=SOLVERS[solver],
    )


def sample(parts, weights, steps=20, key=0, length=5, latents=None):
    plan = parts.solver.plan(CONFIG, steps)
    state = start(parts, plan, jax.random.key(key), latents)
    chunk = jax.jit(make_chunk(parts))
    for rows, active, _ in chunks(plan, length):
        state = chunk(weights, state, rows, active)
    assert chunk._cache_size() == 1, "a run is traced once"
    return state


def world():
    """Pictures of one place at every level: an agreeing stack, and not a constant one."""
    stack = jax.random.uniform(jax.random.key(7), (LEVELS, SIZE, SIZE, CHANNELS), minval=-1.0)
    return operators.render(stack, GEOMETRY)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_known_world_is_returned(solver):
    state = sample(parts_for(denoiser_towards, solver=solver), world())
    assert int(state.step) == 20
    # The last step ends at the table's first alpha (0.9996), or at a residue that a float32
    # division by sigma_0 = 0.03 leaves.
    np.testing.assert_allclose(state.latents, world(), atol=0.04 if solver == "ddim" else 2e-3)


@pytest.mark.parametrize("solver", SOLVERS)
def test_levels_that_disagree_still_end_in_pictures_that_agree(solver):
    wanted = jax.random.uniform(jax.random.key(3), (LEVELS, SIZE, SIZE, CHANNELS), minval=-1.0)
    latents = sample(parts_for(denoiser_towards, solver=solver), wanted).latents
    corner, size = SIZE // 4, SIZE // 2
    windows = latents[:-1, corner : corner + size, corner : corner + size]
    # Clean estimates and noise agree; what z keeps of the noise at the last timestep is sqrt(1 -
    # 0.9996) = 0.03 of a unit, and noise is shared at p times the picture's scale.
    np.testing.assert_allclose(windows, operators.downsample(latents[1:], 2), atol=0.1)
    expected = blending.consistent(wanted, GEOMETRY)
    np.testing.assert_allclose(latents, expected, atol=0.1)


def test_independent_levels_have_the_statistics_of_their_model():
    geometry = Geometry(4, 2, 64, 64)
    mean, deviation = 0.3, 0.5
    parts = parts_for(gaussian_denoiser, blend="none", solver="ddpm", geometry=geometry)
    latents = np.asarray(sample(parts, (mean, deviation), steps=20).latents)
    # Every step is linear in z, clean and noise, and clean is linear in z: the mean and the
    # variance that 20 steps end with follow exactly. (They are not yet the model's own; that takes
    # more.)
    plan = parts.solver.plan(CONFIG, 20)
    c = plan.coefficients
    m, v = 0.0, 1.0
    for row in range(20):
        a, s = plan.alpha[row], plan.sigma[row]
        pull = a * deviation**2 / (a**2 * deviation**2 + s**2)
        slope = c["latents"][row] + c["clean"][row] * pull
        m = slope * m + c["clean"][row] * mean * (1 - pull * a)
        v = slope**2 * v + c["noise"][row] ** 2
    count = latents[0].size
    for level in latents:
        assert abs(level.mean() - m) < 5 * np.sqrt(v / count)
        assert abs(level.var() / v - 1) < 5 * np.sqrt(2 / count)
    cross = np.corrcoef(latents.reshape(4, -1))
    assert np.abs(cross - np.eye(4)).max() < 5 / np.sqrt(count)


def test_jit_equals_eager():
    parts, weights = parts_for(denoiser_towards), world()
    plan = parts.solver.plan(CONFIG, 3)
    state = start(parts, plan, jax.random.key(0))
    rows, active, _ = next(chunks(plan, 3))
    with jax.disable_jit():
        eager = make_chunk(parts)(weights, state, rows, active)
    jitted = jax.jit(make_chunk(parts))(weights, state, rows, active)
    np.testing.assert_allclose(eager.latents, jitted.latents, atol=1e-6)


@pytest.mark.parametrize("length", [1, 3, 20])
def test_the_length_of_a_chunk_changes_nothing(length):
    parts = parts_for(denoiser_towards, solver="ddpm")
    weights = jnp.zeros((LEVELS, SIZE, SIZE, CHANNELS))
    a, b = (sample(parts, weights, length=n) for n in (5, length))
    np.testing.assert_allclose(a.latents, b.latents, atol=1e-6)


def test_a_run_goes_on_from_a_saved_state_to_the_same_bytes():
    parts, weights = parts_for(denoiser_towards, solver="dpmpp_2m"), world()
    plan = parts.solver.plan(CONFIG, 20)
    chunk = jax.jit(make_chunk(parts))
    state = start(parts, plan, jax.random.key(0))
    kept = None
    for rows, active, done in chunks(plan, 5):
        state = chunk(weights, state, rows, active)
        kept = state if done == 10 else kept
    resumed = jax.tree.map(lambda x: x, kept)
    for rows, active, _ in chunks(plan, 5, done=10):
        resumed = chunk(weights, resumed, rows, active)
    assert np.asarray(resumed.latents).tobytes() == np.asarray(state.latents).tobytes()


def test_stacks_together_equal_stacks_alone():
    parts, weights = parts_for(denoiser_towards, solver="euler_ancestral"), world()
    plan = parts.solver.plan(CONFIG, 10)
    states = stack_states([start(parts, plan, jax.random.key(seed)) for seed in (1, 2)])
    chunk = jax.jit(over_stacks(make_chunk(parts)))
    for rows, active, _ in chunks(plan, 5):
        states = chunk(weights, states, rows, active)
    for index, seed in enumerate((1, 2)):
        alone = sample(parts, weights, steps=10, key=seed)
        np.testing.assert_allclose(states.latents[index], alone.latents, atol=1e-5)


def test_given_noise_is_what_the_run_starts_from():
    parts = parts_for(denoiser_towards, solver="euler")
    plan = parts.solver.plan(CONFIG, 10)
    noise = np.ones((LEVELS, SIZE, SIZE, CHANNELS), np.float32)
    state = start(parts, plan, jax.random.key(0), noise)
    np.testing.assert_allclose(state.latents, noise * plan.init_scale)


def test_noise_of_the_steps_differs():
    parts = parts_for(lambda weights, z, timestep: z, solver="ddpm")
    plan = parts.solver.plan(CONFIG, 4)
    seen = []
    parts = parts._replace(
        step_noise=lambda key: seen.append(np.asarray(jax.random.key_data(key))) or 0.0
    )
    with jax.disable_jit():
        state = start(parts, plan, jax.random.key(0))
        for rows, active, _ in chunks(plan, 4):
            make_chunk(parts)(None, state, rows, active)
    assert len({key.tobytes() for key in seen}) == 4


def test_gradients_through_a_run_are_finite():
    parts = parts_for(denoiser_towards)
    plan = parts.solver.plan(CONFIG, 4)
    rows, active, _ = next(chunks(plan, 4))

    def end(weights):
        state = start(parts, plan, jax.random.key(0))
        return make_chunk(parts)(weights, state, rows, active).latents.sum()

    gradient = jax.grad(end)(world())
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0
