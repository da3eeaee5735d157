"""Levels in turn, driven by denoisers whose answers are known, and by a tiny model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import tiny_model

import pot_jax
from pot_jax import config
from pot_jax.config import RunSettings, SamplerSettings
from pot_jax.diffusion.sampler import (
    Parts,
    chunks,
    keys_of,
    make_chunk,
    over_samples,
    start,
    start_samples,
)
from pot_jax.diffusion.schedule import ScheduleConfig
from pot_jax.diffusion.solvers import SOLVERS, Denoised, in_turns, resampled
from pot_jax.errors import UserError
from pot_jax.evaluation.metrics.overlap import overlap_psnr
from pot_jax.pipelines import zoom as pipeline
from pot_jax.pipelines.sequential import METHODS, outpainting, sampled_in_turns, super_resolution
from pot_jax.runs.folder import SavedStates
from pot_jax.zoom.agreement import SPACES, Numbers, latent_view, pixel_view
from pot_jax.zoom.blending import iterative
from pot_jax.zoom.geometry import Geometry
from pot_jax.zoom.operators import (
    KERNELS,
    downsample,
    shared_noise,
    upsample,
    upsample_nearest,
)

TURNS = ("outpainting", "super_resolution")
every_method = pytest.mark.parametrize("method", TURNS)
LEVELS, STEPS = 4, 6
GEOMETRY = Geometry(LEVELS, 2, 16, 16, ((2, -4), (-4, 0), (1, 3)))
CONFIG = ScheduleConfig(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
WANTED = jax.random.uniform(jax.random.key(3), (LEVELS, 16, 16, 3), minval=-1.0)


def test_the_names_that_settings_know_are_those_of_the_table():
    assert tuple(METHODS) == config.METHODS
    assert METHODS["joint"] is None


def test_outpainting_replaces_the_window_and_nothing_else():
    picture, known = np.asarray(WANTED[0]), np.asarray(WANTED[1, :8, :8])
    met = np.array(outpainting(picture, known, np.array([3, 5]), "mean"))
    np.testing.assert_array_equal(met[3:11, 5:13], known)
    met[3:11, 5:13] = picture[3:11, 5:13]
    np.testing.assert_array_equal(met, picture)


@pytest.mark.parametrize("kernel", KERNELS)
def test_super_resolution_meets_what_is_known_and_keeps_finer_detail(kernel):
    picture = jax.random.normal(jax.random.key(0), (12, 12, 2))
    known = jax.random.normal(jax.random.key(1), (4, 4, 2))
    met = super_resolution(picture, known, None, kernel)
    np.testing.assert_allclose(downsample(met, 3, kernel), known, atol=1e-6)
    # Only constants of cells were added: within a cell, differences are those of the picture.
    added = np.asarray(met - picture).reshape(4, 3, 4, 3, 2)
    np.testing.assert_allclose(added, np.broadcast_to(added[:, :1, :, :1], added.shape), atol=1e-6)


# A toy: "latents" are pictures at half the size, decoded by copying each value over its cell.


def decode(weights, latents):
    return upsample_nearest(latents, 2)


def encode(weights, images):
    return downsample(images, 2)


def towards(weights, z, row, memory):
    """A network that knows its picture, whatever z is: a condition tells it which."""
    clean = weights["conditions"]["picture"]
    return Denoised(clean, clean), memory


def toy(
    method, space="latent", solver="ddim", times=1, denoise=towards, memory=None, decode=decode
):
    """The parts, step and plan of levels in turn."""
    latents = latent_view(GEOMETRY, lambda weights, images: images)
    ground = latents.ground
    pixels = pixel_view(GEOMETRY.scaled(2), decode, encode, ground, ground)
    noise = functools.partial(shared_noise, geometry=GEOMETRY, channels=3)
    turns = METHODS[method]
    agree = turns.space(SPACES[space], turns.delivery, latents, pixels)
    parts = Parts(denoise, agree, noise, noise, SOLVERS[solver], memory or (lambda latents: ()))
    parts, step = sampled_in_turns(turns, parts, latents, pixels, encode)
    plan = resampled(SOLVERS[solver].plan(CONFIG, STEPS), times)
    return parts, step, in_turns(plan, turns.order(LEVELS))


WEIGHTS = {"conditions": {"picture": WANTED}, "agreement": Numbers(1.0, 1, None, None)}


def run(parts, step, plan, weights=WEIGHTS, length=5, key=0):
    """All states of a run, a chunk of steps apart."""
    states = [start(parts, plan.init_scale, jax.random.key(key))]
    chunk = jax.jit(make_chunk(step))
    for rows, active, _ in chunks(plan, length):
        states.append(chunk(weights, states[-1], rows, active)[0])
    assert chunk._cache_size() == 1, "a run is traced once"
    return states


several_ways = pytest.mark.parametrize(
    ("space", "solver", "times"),
    [("latent", "ddim", 1), ("pixel", "ddpm", 2), ("latent", "dpmpp_2m", 1)],
)


def window(level):
    (y, x), (h, w) = GEOMETRY.corners[level], GEOMETRY.window_shape
    return slice(y, y + h), slice(x, x + w)


@several_ways
def test_outpainting_keeps_the_finished_child_in_its_window(space, solver, times):
    found = run(*toy("outpainting", space, solver, times))[-1].latents
    # DDIM's last step ends at the table's first alpha (0.9996), where 0.03 of noise is left.
    atol = 0.1 if solver == "ddim" else 1e-3
    np.testing.assert_allclose(found[-1], WANTED[-1], atol=atol)
    for level in range(LEVELS - 1):
        inside = np.zeros((16, 16, 1), bool)
        inside[window(level)] = True
        child = downsample(found[level + 1], 2)
        np.testing.assert_allclose(found[level][window(level)], child, atol=atol)
        outside = np.where(inside, 0, found[level] - WANTED[level])
        np.testing.assert_allclose(outside, np.zeros_like(outside), atol=atol)


@several_ways
def test_super_resolution_keeps_the_finished_parents_window(space, solver, times):
    found = run(*toy("super_resolution", space, solver, times))[-1].latents
    atol = 0.1 if solver == "ddim" else 1e-3
    np.testing.assert_allclose(found[0], WANTED[0], atol=atol)
    for level in range(1, LEVELS):
        known = found[level - 1][window(level - 1)]
        if space == "latent":  # D of the latents that the window's enlargement would have
            known = downsample(encode({}, upsample(decode({}, known), 2)), 2)
        else:  # D of the toy's pictures are its latents: nothing is left for detail
            np.testing.assert_allclose(found[level], decode({}, known), atol=atol)
            continue
        np.testing.assert_allclose(downsample(found[level], 2), known, atol=atol)
        low = upsample_nearest(downsample(WANTED[level] - found[level], 2), 2)
        detail = WANTED[level] - found[level] - low
        np.testing.assert_allclose(detail, np.zeros_like(detail), atol=atol)


@every_method
def test_levels_wait_with_their_first_noise_and_are_left_alone_when_done(method):
    parts, step, plan = toy(method)
    states = run(parts, step, plan, length=STEPS)
    order = METHODS[method].order(LEVELS)
    assert sorted(order) == list(range(LEVELS))
    for turn, state in enumerate(states):
        for place, level in enumerate(order):
            other = states[-1] if place < turn else states[0]
            np.testing.assert_array_equal(state.latents[level], other.latents[level])
    np.testing.assert_array_equal(plan.turn[0], np.repeat(list(order), STEPS))
    np.testing.assert_array_equal(plan.turn[1], np.tile(np.arange(STEPS), LEVELS))


@every_method
def test_a_step_costs_one_level_and_the_neighbour_is_decoded_once(method):
    rows, decoded = [], []

    def counted(weights, z, row, memory):
        rows.append(z.shape)
        return towards(weights, z, row, memory)

    def watched(weights, latents):
        jax.debug.callback(lambda z: decoded.append(z.shape), latents)
        return decode(weights, latents)

    parts, step, plan = toy(method, denoise=counted, decode=watched)
    run(parts, step, plan, length=7)
    jax.effects_barrier()
    assert set(rows) == {(1, 16, 16, 3)}
    assert len(plan.timestep) == LEVELS * STEPS
    assert decoded == [(1, 16, 16, 3)] * LEVELS


@every_method
def test_jit_equals_eager(method):
    parts, step, plan = toy(method, "pixel", "ddpm")
    # From the last step of one level to the first of the next.
    first = run(parts, step, plan, length=STEPS - 1)[1]
    rows, active, _ = next(chunks(plan, 2, done=STEPS - 1))
    jitted, _ = jax.jit(make_chunk(step))(WEIGHTS, first, rows, active)
    with jax.disable_jit():
        eager, _ = make_chunk(step)(WEIGHTS, first, rows, active)
    np.testing.assert_allclose(eager.latents, jitted.latents, atol=1e-5)


@every_method
def test_samples_together_equal_samples_alone(method):
    parts, step, plan = toy(method, "pixel", "ddpm")
    states = start_samples(parts, plan.init_scale, keys_of(np.uint32([1, 2])))
    chunk = jax.jit(over_samples(make_chunk(step, watch=True)))
    for rows, active, _ in chunks(plan, 5):
        states, seen = chunk(WEIGHTS, states, rows, active)
        assert seen.clean.shape == (5, 2, LEVELS, 16, 16, 3)
        assert seen.disagreement.shape == (5, 2)
    for index, seed in enumerate((1, 2)):
        alone = run(parts, step, plan, key=seed)[-1]
        np.testing.assert_allclose(states.latents[index], alone.latents, atol=1e-5)


@every_method
def test_the_disagreement_is_with_what_is_known(method):
    parts, step, plan = toy(method)
    state = start(parts, plan.init_scale, jax.random.key(0))
    rows, active, _ = next(chunks(plan, LEVELS * STEPS))
    chunk = jax.jit(make_chunk(step, watch=True))
    _, seen = chunk(WEIGHTS, state, rows, active)
    first, later = np.split(np.asarray(seen.disagreement), [STEPS])
    np.testing.assert_array_equal(first, np.zeros(STEPS))
    assert later.min() > 0.1, "random pictures contradict each other"


@every_method
def test_a_guidances_memory_begins_anew_with_every_level(method):
    def denoise(weights, z, row, memory):
        return towards(weights, z, row, memory)[0], memory + jnp.float32(1)

    parts, step, plan = toy(method, denoise=denoise, memory=lambda z: jnp.zeros(len(z)))
    for done, state in enumerate(run(parts, step, plan, length=4)):
        carried, _ = state.memory
        expected = 4 * done % STEPS or (STEPS if done else 0)
        np.testing.assert_array_equal(carried, [expected])


# With a model. ------------------------------------------------------------------------------------

PROMPTS = ["a", "star", "t r"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tokenizer"))


@functools.cache
def known_zoom(model, method, space="latent"):
    return sample(model, method=method, space=space)


def sample(model, prompts=PROMPTS, **settings):
    given = {"steps": 2, "space": "latent", "devices": jax.devices()[:1]}
    return pot_jax.sample(model, prompts, **given | settings)


@pytest.mark.parametrize(
    ("method", "space"), [("outpainting", "latent"), ("super_resolution", "pixel")]
)
def test_delivered_pictures_agree(model, method, space):
    zoom = known_zoom(model, method, space)
    assert overlap_psnr(zoom.images, zoom.geometry).min() > 100
    assert np.isfinite(zoom.latents).all()


def test_super_resolved_levels_take_their_low_bands_from_their_parents(model):
    zoom = known_zoom(model, "super_resolution")
    before, after = np.clip(zoom.before_render, -1, 1), zoom.images
    stack = iterative(zoom.before_render, zoom.geometry, weight=1.0)
    np.testing.assert_allclose(after[2], np.clip(stack[2], -1, 1), atol=1e-5)
    np.testing.assert_allclose(after[0, :4], before[0, :4], atol=1e-6)


def test_outpainting_delivers_the_deepest_level_as_it_is(model):
    zoom = known_zoom(model, "outpainting")
    np.testing.assert_allclose(zoom.images[2], np.clip(zoom.before_render[2], -1, 1), atol=1e-6)


@pytest.mark.parametrize(("method", "changed"), [("outpainting", 0), ("super_resolution", 2)])
def test_a_level_knows_its_own_prompt_and_those_before_it_only(model, method, changed):
    prompts = [*PROMPTS]
    prompts[changed] = "t"
    settings = {"method": method, "guidance_scale": 7.0}
    a, b = (sample(model, p, **settings).latents for p in (PROMPTS, prompts))
    others = [level for level in range(3) if level != changed]
    np.testing.assert_array_equal(a[others], b[others])
    assert np.abs(a[changed] - b[changed]).max() > 1e-3
    # The first in turn is followed by all.
    prompts = [*PROMPTS]
    prompts[2 - changed] = "t"
    c = sample(model, prompts, **settings).latents
    assert np.abs(a - c).max(axis=(1, 2, 3)).min() > 1e-4


def test_eight_devices_give_what_one_gives(model):
    one = known_zoom(model, "outpainting")
    eight = sample(model, method="outpainting", devices=jax.devices())
    scale = np.abs(one.latents).max()
    np.testing.assert_allclose(eight.latents / scale, one.latents / scale, atol=1e-5)


@every_method
def test_a_killed_run_resumes_to_the_same_bytes(model, method, tmp_path, monkeypatch):
    whole = sample(model, method=method, steps=4)
    with monkeypatch.context() as patch:
        saved = SavedStates.save

        def killed(self, states, done, **last):
            saved(self, states, done, **last)
            if done == 5:
                raise KeyboardInterrupt

        patch.setattr(SavedStates, "save", killed)
        settings = RunSettings(
            prompts=PROMPTS,
            save_every=5,
            sampler=SamplerSettings(steps=4, space="latent", method=method),
        )
        prepared = pipeline.prepare(model, settings, devices=jax.devices()[:1])
        with pytest.raises(KeyboardInterrupt):
            pipeline.sample_run(prepared, tmp_path)
    seen = []
    (resumed,) = pipeline.sample_run(
        prepared, tmp_path, progress=lambda done, total: seen.append((done, total))
    )
    assert seen[0] == (5, 12)
    assert resumed.images.tobytes() == whole.images.tobytes()


def test_one_level_is_the_same_by_every_method(model):
    joint, *others = (sample(model, ["star"], method=m) for m in config.METHODS)
    for other in others:
        np.testing.assert_array_equal(other.images, joint.images)


@every_method
@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"photograph": np.zeros((16, 16, 3))}, "photograph: expected none with sampler.method"),
        ({"blend": lambda images, *_, **__: images}, "blend: expected none with sampler.method"),
        ({"agreement": SPACES["latent"]}, "agreement: expected none with sampler.method"),
        ({"space": "delivery"}, "sampler.space: expected latent or pixel with method"),
        ({"time_travel": 2, "solver": "dpmpp_2m"}, "sampler.time_travel: expected 1 with a solver"),
    ],
)
def test_what_does_not_combine_is_refused(model, method, given, named):
    with pytest.raises(UserError, match=named) as raised:
        sample(model, method=method, **given)
    assert "\n" not in str(raised.value)
