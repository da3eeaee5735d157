"""The whole walk with a model of a few thousand random parameters."""

import jax
import numpy as np
import pytest
from tiny_models import tiny_model

import pot_jax
from pot_jax.config import RunSettings, SamplerSettings, ZoomSettings
from pot_jax.errors import UserError
from pot_jax.evaluation.metrics.overlap import overlap_psnr
from pot_jax.pipelines import zoom as pipeline

PROMPTS = ["a", "star", "st"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tokenizer"))


def one_device():
    return jax.devices()[:1]


@pytest.fixture(scope="module")
def zoom(model):
    return pot_jax.sample(model, PROMPTS, steps=7, devices=one_device())


def test_pictures_agree_and_lie_in_range(zoom):
    assert zoom.images.shape == (3, 16, 16, 3)
    assert zoom.latents.shape == (3, 8, 8, 4)
    assert zoom.images.dtype == np.float32
    assert np.abs(zoom.images).max() <= 1
    assert zoom.images.std() > 0.05
    assert overlap_psnr(zoom.images, zoom.geometry).min() > 100
    assert overlap_psnr(zoom.before_render, zoom.geometry).max() < 60


def test_the_same_seed_gives_the_same_bytes_and_another_another_picture(model, zoom):
    again = pot_jax.sample(model, PROMPTS, steps=7, devices=one_device())
    assert again.images.tobytes() == zoom.images.tobytes()
    other = pot_jax.sample(model, PROMPTS, steps=7, seed=1, devices=one_device())
    assert np.abs(other.images - zoom.images).max() > 0.1


def test_eight_devices_give_what_one_gives(model, zoom):
    split = pot_jax.sample(model, PROMPTS, steps=7)
    # Of their scale: guidance drives an untrained network's latents to about 12.
    scale = np.abs(zoom.latents).max()
    np.testing.assert_allclose(split.latents / scale, zoom.latents / scale, atol=1e-5)
    np.testing.assert_allclose(split.images, zoom.images, atol=1e-5)


def test_progress_begins_before_compilation_and_counts_every_step(model):
    seen = []
    pot_jax.sample(
        model,
        PROMPTS,
        steps=7,
        devices=one_device(),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(0, 7), (5, 7), (7, 7)]


def test_equal_jobs_compile_once(model, zoom):
    again = pot_jax.sample(model, PROMPTS, steps=7, devices=one_device())
    # Compiling takes seconds, finding the compiled program none.
    assert again.timings["compile_seconds"] < 0.1 * zoom.timings["compile_seconds"] + 0.05


def test_given_latents_are_the_initial_noise(model, zoom):
    job = pipeline.prepare(
        model,
        RunSettings(prompts=PROMPTS, sampler=SamplerSettings(steps=7)),
        devices=one_device(),
    )
    noise = np.asarray(pipeline.begin(job).latents[0]) / job.plan.init_scale
    given = pot_jax.sample(model, PROMPTS, steps=7, latents=noise, devices=one_device())
    np.testing.assert_allclose(given.images, zoom.images, atol=1e-5)


def test_stacks_are_those_of_their_seeds(model, zoom):
    settings = RunSettings(prompts=PROMPTS, stacks=2, sampler=SamplerSettings(steps=7))
    job = pipeline.prepare(model, settings, devices=one_device())
    zooms = pipeline.finish(job, *pipeline.run(job, pipeline.begin(job)))
    assert [z.settings.seed for z in zooms] == [0, 1]
    np.testing.assert_allclose(zooms[0].images, zoom.images, atol=1e-4)
    assert np.abs(zooms[1].images - zoom.images).max() > 0.1


def test_a_photograph_is_met_exactly(model):
    photograph = np.linspace(-0.8, 0.8, 16 * 16 * 3, dtype=np.float32).reshape(16, 16, 3)
    zoom = pot_jax.sample(
        model,
        PROMPTS[:2],
        steps=2,
        space="latent",
        photograph=photograph,
        devices=one_device(),
    )
    # But where level 1 would have to leave [-1, 1] for it: an untrained decoder saturates.
    window = np.abs(zoom.images[1]).reshape(8, 2, 8, 2, 3).max(axis=(1, 3)) < 1
    reachable = np.ones((16, 16, 3), bool)
    reachable[4:12, 4:12] = window
    assert window.mean() > 0.9
    np.testing.assert_allclose(zoom.images[0][reachable], photograph[reachable], atol=1e-5)


@pytest.mark.parametrize(
    "sampler",
    [
        {"blend": "gradient", "gradient_steps": 2},
        {"pixel_every": 2, "solver": "dpmpp_2m"},
        {"blend": "iterative", "space": "latent", "solver": "euler_ancestral"},
        {"space": "delivery"},
        {"initial_noise": "per_level", "space": "latent", "guidance_scale": 1.0},
    ],
)
def test_choices_run_and_end_in_agreement(model, sampler):
    zoom = pot_jax.sample(model, PROMPTS, steps=2, devices=one_device(), **sampler)
    assert overlap_psnr(zoom.images, zoom.geometry).min() > 100


def test_independent_sampling_shares_nothing(model):
    alone = pot_jax.sample(model, PROMPTS, steps=2, blend="none", devices=one_device())
    other = pot_jax.sample(
        model, [*PROMPTS[:2], "t r"], steps=2, blend="none", devices=one_device()
    )
    np.testing.assert_array_equal(alone.images[:2], other.images[:2])
    assert np.abs(alone.images[2] - other.images[2]).max() > 1e-3


def test_one_prompt_is_text_to_image(model):
    zoom = pot_jax.sample(model, ["star"], steps=2, space="latent", devices=one_device())
    np.testing.assert_allclose(zoom.images, np.clip(zoom.before_render, -1, 1), atol=1e-6)


@pytest.mark.parametrize(
    ("prompts", "arguments", "message"),
    [
        ([], {}, "expected at least one, got none"),
        ("a star", {}, "expected a list of texts"),
        (["a", " "], {}, "the prompt of level 1 is empty"),
        (["a", "abcdefghijk"], {}, "has 11 tokens, the model takes 6"),
        (["a"], {"steps": 5000}, "5000"),
        (["a"], {"solver": "heun"}, "one of ddpm, ddim"),
        (["a"], {"blend": "mean"}, "one of laplacian"),
        (["a"], {"space": "fourier"}, "one of latent, pixel"),
        (["a"], {"guidance": 3}, "unknown setting 'guidance'"),
        (["a", "b"], {"zoom_factor": 3}, "zoom_factor 3 must divide the height"),
        (["a", "b"], {"height": 18}, "zoom.height: expected a multiple of 4"),
        (["a", "b"], {"placement": [(2, 2), (2, 2)]}, "expected 1 pairs"),
        (["a", "b"], {"placement": [(3, 0)]}, "multiples of 2 pixels"),
        (["a", "b"], {"placement": [(0, 14)]}, "outside"),
        (
            ["a"],
            {"latents": np.zeros((2, 8, 8, 4))},
            "latents: expected unit noise of (1, 8, 8, 4)",
        ),
        (["a"], {"photograph": np.zeros((8, 8, 3))}, "photograph: expected pixels of (16, 16, 3)"),
        (["a"], {"photograph": "no.png"}, "no.png"),
        (["a"], {"photograph": np.zeros((16, 16, 3)), "photograph_level": 1}, "expected 0 to 0"),
    ],
)
def test_a_mistake_is_one_line(model, prompts, arguments, message):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the message is looked at below
        pot_jax.sample(model, prompts, devices=one_device(), **arguments)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_pictures_with_nan_are_refused(model):
    broken = jax.tree.map(lambda x: x * np.float32("nan"), model.params["unet"])
    params = {**model.params, "unet": broken}
    with pytest.raises(UserError, match="hold NaN"):
        pot_jax.sample(
            pot_jax.Model(**{**model.__dict__, "params": params}),
            PROMPTS,
            steps=7,
            devices=one_device(),
        )


def test_off_centre_levels_lie_where_they_should(model):
    settings = ZoomSettings(placement=((4, -4), (0, 2)))
    geometry = pipeline.latent_geometry(model, 3, settings)
    assert geometry.offsets == ((2, -2), (0, 1))
    assert geometry.scaled(2).offsets == ((4, -4), (0, 2))
