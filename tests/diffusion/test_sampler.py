"""The joint sampler, driven by denoisers whose answers are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blends import consistent_jit

from pot_jax.diffusion.guidance import clean_from_prediction
from pot_jax.diffusion.sampler import (
    Parts,
    chunks,
    keys_of,
    make_chunk,
    make_step,
    over_samples,
    start,
    start_samples,
)
from pot_jax.diffusion.schedule import ScheduleConfig
from pot_jax.diffusion.solvers import SOLVERS, Denoised, resampled
from pot_jax.zoom import operators
from pot_jax.zoom.agreement import BLENDS, Numbers, in_latents, latent_view
from pot_jax.zoom.geometry import Geometry

LEVELS, SIZE, CHANNELS = 5, 16, 3
GEOMETRY = Geometry(LEVELS, 2, SIZE, SIZE)
# For what is not jitted: there, every operation is compiled for every shape.
SMALL = Geometry(3, 2, 8, 8)
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


def denoiser(predict):
    """The sampler's denoiser of a network that predicts noise: (weights, z, timestep) -> eps."""

    def denoise(weights, z, row, memory):
        eps = predict(weights["network"], z, row.timestep)
        clean = clean_from_prediction(eps, z, row.alpha, row.sigma, "epsilon")
        return Denoised(clean, clean), memory

    return denoise


def told(network):
    """The weights of a run: those of the network, and the numbers of the agreement."""
    return {"network": network, "agreement": Numbers(jnp.float32(1), 1, 0, 0.0)}


def parts_for(predict, blend="laplacian", solver="ddim", geometry=GEOMETRY):
    noise = functools.partial(BLENDS[blend].noise, geometry=geometry, channels=CHANNELS)
    view = latent_view(geometry, lambda weights, images: images)
    return Parts(
        denoise=denoiser(predict),
        agree=in_latents(BLENDS[blend], view, view),
        first_noise=noise,
        step_noise=noise,
        solver=SOLVERS[solver],
    )


def sample(parts, weights, steps=20, key=0, length=5, latents=None):
    plan = parts.solver.plan(CONFIG, steps)
    state = start(parts, plan.init_scale, jax.random.key(key), latents)
    chunk = jax.jit(make_chunk(make_step(parts)))
    for rows, active, _ in chunks(plan, length):
        state, _ = chunk(told(weights), state, rows, active)
    assert chunk._cache_size() == 1, "a run is traced once"
    return state


@functools.cache
def world():
    """Pictures of one place at every level: an agreeing stack, and not a constant one."""
    stack = jax.random.uniform(jax.random.key(7), (LEVELS, SIZE, SIZE, CHANNELS), minval=-1.0)
    return jax.jit(operators.render, static_argnums=1)(stack, GEOMETRY)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_known_world_is_returned(solver):
    state = sample(parts_for(denoiser_towards, solver=solver), world())
    assert int(state.step) == len(SOLVERS[solver].plan(CONFIG, 20).timestep)
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
    expected = consistent_jit(wanted, GEOMETRY)
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
        slope = c["latents"][row] + c["agreed"][row] * pull
        m = slope * m + c["agreed"][row] * mean * (1 - pull * a)
        v = slope**2 * v + c["noise"][row] ** 2
    count = latents[0].size
    for level in latents:
        assert abs(level.mean() - m) < 5 * np.sqrt(v / count)
        assert abs(level.var() / v - 1) < 5 * np.sqrt(2 / count)
    cross = np.corrcoef(latents.reshape(4, -1))
    assert np.abs(cross - np.eye(4)).max() < 5 / np.sqrt(count)


def test_jit_equals_eager():
    parts = parts_for(denoiser_towards, geometry=SMALL)
    plan = parts.solver.plan(CONFIG, 3)
    state = start(parts, plan.init_scale, jax.random.key(0))
    weights = told(jax.random.uniform(jax.random.key(7), state.latents.shape, minval=-1.0))
    rows, active, _ = next(chunks(plan, 3))
    with jax.disable_jit():
        eager, _ = make_chunk(make_step(parts))(weights, state, rows, active)
    jitted, _ = jax.jit(make_chunk(make_step(parts)))(weights, state, rows, active)
    np.testing.assert_allclose(eager.latents, jitted.latents, atol=1e-6)


@pytest.mark.parametrize("length", [1, 3, 20])
def test_the_length_of_a_chunk_changes_nothing(length):
    parts = parts_for(denoiser_towards, solver="ddpm")
    weights = jnp.zeros((LEVELS, SIZE, SIZE, CHANNELS))
    a, b = (sample(parts, weights, length=n) for n in (5, length))
    np.testing.assert_allclose(a.latents, b.latents, atol=1e-6)


def test_a_run_resumes_from_a_saved_state_to_the_same_bytes():
    parts, weights = parts_for(denoiser_towards, solver="dpmpp_2m"), told(world())
    plan = parts.solver.plan(CONFIG, 20)
    chunk = jax.jit(make_chunk(make_step(parts)))
    state = start(parts, plan.init_scale, jax.random.key(0))
    kept = None
    for rows, active, done in chunks(plan, 5):
        state, _ = chunk(weights, state, rows, active)
        kept = state if done == 10 else kept
    resumed = jax.tree.map(lambda x: x, kept)
    for rows, active, _ in chunks(plan, 5, done=10):
        resumed, _ = chunk(weights, resumed, rows, active)
    assert np.asarray(resumed.latents).tobytes() == np.asarray(state.latents).tobytes()


def test_samples_together_equal_samples_alone():
    parts, weights = parts_for(denoiser_towards, solver="euler_ancestral"), world()
    plan = parts.solver.plan(CONFIG, 10)
    states = start_samples(parts, plan.init_scale, keys_of(np.uint32([1, 2])))
    chunk = jax.jit(over_samples(make_chunk(make_step(parts), watch=True)))
    for rows, active, _ in chunks(plan, 5):
        states, seen = chunk(told(weights), states, rows, active)
        assert seen.clean.shape == (5, 2, LEVELS, SIZE, SIZE, CHANNELS)
        assert seen.disagreement.shape == (5, 2)
        assert np.asarray(seen.disagreement).max() < 1e-3, "the world agrees"
    for index, seed in enumerate((1, 2)):
        alone = sample(parts, weights, steps=10, key=seed)
        np.testing.assert_allclose(states.latents[index], alone.latents, atol=1e-5)


def test_given_noise_is_what_the_run_starts_from():
    parts = parts_for(denoiser_towards, solver="euler")
    plan = parts.solver.plan(CONFIG, 10)
    noise = np.ones((LEVELS, SIZE, SIZE, CHANNELS), np.float32)
    state = start(parts, plan.init_scale, jax.random.key(0), noise)
    np.testing.assert_allclose(state.latents, noise * plan.init_scale)


def test_noise_of_the_steps_differs():
    parts = parts_for(lambda weights, z, timestep: z, solver="ddpm", geometry=SMALL)
    plan = parts.solver.plan(CONFIG, 4)
    seen = []
    parts = parts._replace(
        step_noise=lambda key: seen.append(np.asarray(jax.random.key_data(key))) or 0.0
    )
    with jax.disable_jit():
        state = start(parts, plan.init_scale, jax.random.key(0))
        for rows, active, _ in chunks(plan, 4):
            make_chunk(make_step(parts))(told(None), state, rows, active)
    assert len({key.tobytes() for key in seen}) == 4


def test_gradients_through_a_run_are_finite():
    parts = parts_for(denoiser_towards)
    plan = parts.solver.plan(CONFIG, 4)
    rows, active, _ = next(chunks(plan, 4))

    def end(weights):
        state = start(parts, plan.init_scale, jax.random.key(0))
        return make_chunk(make_step(parts))(told(weights), state, rows, active)[0].latents.sum()

    gradient = jax.grad(end)(world())
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


@pytest.mark.parametrize("seed", [0, 1, 7, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_seed_means_the_same_key_in_a_batch_and_alone(seed):
    (together,) = jax.random.key_data(keys_of(np.uint32([seed])))
    np.testing.assert_array_equal(together, jax.random.key_data(jax.random.key(seed)))


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_noise_put_back_is_that_of_the_renoise_estimate(solver):
    """One step from z = alpha x0 + sigma eps, seen as clean, with the noise of another estimate."""
    plan = SOLVERS[solver].plan(CONFIG, 20)
    row = jax.tree.map(lambda column: column[7], plan._replace(init_scale=None))
    rng = np.random.default_rng(0)
    clean, other, latents, noise = rng.normal(size=(4, 2, 4, 4, 3)).astype(np.float32)
    history = SOLVERS[solver].start(latents)

    def stepped(latents, renoise):
        return SOLVERS[solver].step(row, history, latents, Denoised(clean, renoise), clean, noise)[
            0
        ]

    # eps of `other` in the same z is eps of `clean` in a z that lies alpha (clean - other) higher.
    moved = latents + row.alpha / row.input_scale * (clean - other)
    expected = stepped(latents if solver == "lcm" else moved, clean)
    np.testing.assert_allclose(stepped(latents, other), expected, atol=2e-5)


def test_a_guidance_with_memory_carries_it_through_the_state():
    parts = parts_for(denoiser_towards)._replace(memory=lambda latents: jnp.zeros(()))

    def denoise(weights, z, row, memory):
        clean = weights["network"]
        return Denoised(clean, clean), memory + row.timestep

    parts = parts._replace(denoise=denoise)
    plan = parts.solver.plan(CONFIG, 10)
    state = sample(parts, world(), steps=10)
    np.testing.assert_allclose(state.memory, plan.timestep.sum(), rtol=1e-6)


def test_time_travel_keeps_the_variance_at_every_step():
    """A denoiser that knows that x0 is 0: z is sigma times a unit normal, whatever the row."""
    geometry = Geometry(2, 2, 64, 64)
    parts = parts_for(denoiser_towards, blend="none", solver="ddpm", geometry=geometry)
    plan = resampled(parts.solver.plan(CONFIG, 6), 3)
    state = start(parts, plan.init_scale, jax.random.key(1))
    # The first row's sigma is nearly 1, but the run starts from unit noise.
    state = state._replace(latents=state.latents * plan.sigma[0])
    chunk = jax.jit(make_chunk(make_step(parts)))
    zero = jnp.zeros((2, 64, 64, CHANNELS))
    for row, (rows, active, _) in enumerate(chunks(plan, 1)):
        size = state.latents.size
        variance = float(jnp.var(state.latents))
        assert abs(variance / plan.sigma[row] ** 2 - 1) < 5 * np.sqrt(2 / size), row
        state, _ = chunk(told(zero), state, rows, active)
    np.testing.assert_allclose(state.latents, np.zeros(state.latents.shape), atol=1e-3)
