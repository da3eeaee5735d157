"""The whole walk with a model of a few thousand random parameters."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blends import BY_GRADIENT
from PIL import Image
from tiny_models import tiny_model

import pot_jax
from pot_jax import config
from pot_jax.config import RunSettings, SamplerSettings, ZoomSettings
from pot_jax.diffusion.guidance import Guidance, Guided
from pot_jax.diffusion.sampler import keys_of
from pot_jax.diffusion.solvers import SOLVERS, Solver
from pot_jax.errors import UserError
from pot_jax.evaluation.metrics.overlap import overlap_psnr
from pot_jax.pipelines import zoom as pipeline
from pot_jax.pipelines.job import begin
from pot_jax.runs.record import model_identity, own_part
from pot_jax.runs.zoom import read_record
from pot_jax.zoom import agreement, blending, operators

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


@pytest.fixture
def compilations(monkeypatch):
    """A list that grows by one at every compilation by XLA."""
    seen = []

    def listen(event, duration, **facts):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(facts.get("fun_name", event))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


def test_runs_that_differ_in_numbers_compile_once(model, zoom, compilations):
    pot_jax.sample(model, PROMPTS, steps=7, devices=one_device())
    compilations.clear()
    for i, steps in enumerate((20, 25, 50, 7)):
        pot_jax.sample(
            model,
            [f"{'ab'[i % 2]}{i}", "star", "st"],
            steps=steps,
            seed=i,
            guidance_scale=2.0 + i,
            guidance_rescale=0.2 * i,
            blend_weight=0.1 * i,
            eta=0.3 * i,
            gradient_steps=1 + i,
            devices=one_device(),
        )
    assert compilations == []
    pot_jax.sample(model, PROMPTS, **own(kernel="gaussian"))
    assert compilations, "the counter counts"


def test_given_latents_are_the_initial_noise(model, zoom):
    settings = RunSettings(prompts=PROMPTS, sampler=SamplerSettings(steps=7))
    job = pipeline.prepare(model, settings, devices=one_device()).job
    noise = np.asarray(begin(job, keys_of(np.uint32([0]))).latents[0]) / job.plan.init_scale
    given = pot_jax.sample(model, PROMPTS, steps=7, latents=noise, devices=one_device())
    np.testing.assert_allclose(given.images, zoom.images, atol=1e-5)


def test_each_step_meets_a_photograph_whatever_the_schedule(model):
    photograph = np.linspace(-0.8, 0.8, 16 * 16 * 3, dtype=np.float32).reshape(16, 16, 3)
    given = own(photograph=photograph, agree_first=0.0, blend_release=1.0) | {"steps": 6}
    every, third = (
        pot_jax.sample(model, PROMPTS[:2], **given, agree_every=k).images for k in (1, 3)
    )
    np.testing.assert_array_equal(every, third)


def test_samples_are_those_of_their_seeds(model, zoom):
    settings = RunSettings(prompts=PROMPTS, num_samples=2, sampler=SamplerSettings(steps=7))
    zooms = pipeline.sample_run(pipeline.prepare(model, settings, devices=one_device()))
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
        BY_GRADIENT,
        {"pixel_every": 2, "solver": "dpmpp_2m"},
        {"blend": "iterative", "space": "latent", "solver": "euler_ancestral"},
        {"space": "delivery"},
        {"initial_noise": "per_level", "space": "latent", "guidance_scale": 1.0},
    ],
)
def test_choices_run_and_end_in_agreement(model, sampler):
    zoom = pot_jax.sample(model, PROMPTS, steps=2, devices=one_device(), **sampler)
    assert overlap_psnr(zoom.images, zoom.geometry).min() > 100


def test_a_schedule_decides_at_which_steps_levels_agree(model, compilations):
    given = {"steps": 5, "space": "latent", "strip": 0.15, "devices": one_device()}
    every = pot_jax.sample(model, PROMPTS, **given)
    # Every second of the last steps, and the last two: 0, 1, 2, 3, 4.
    same = pot_jax.sample(model, PROMPTS, **given, agree_first=0.6, agree_every=2)
    np.testing.assert_allclose(same.images, every.images, atol=1e-4)
    compilations.clear()
    other = pot_jax.sample(model, PROMPTS, **given, agree_first=0.0, agree_every=4)  # 0, 3, 4
    released = pot_jax.sample(model, PROMPTS, **given, agree_first=0.6, blend_release=1.0)
    assert not compilations, "numbers share a program"
    assert np.abs(released.images - every.images).max() > 1e-3
    assert np.abs(other.images - every.images).max() > 1e-3
    assert overlap_psnr(other.images, other.geometry).min() > 100


@pytest.mark.parametrize(
    "sampler", [{"eta": 1.0}, {"space": "latent", "solver": "ddpm", "blend": "iterative"}]
)
def test_a_loop_agrees_all_around_and_its_folder_is_read_back(model, sampler, tmp_path):
    given = {"steps": 2, "devices": one_device(), "placement": [(0, 2), (-4, 0), (2, 2)]}
    given |= {"solver": "ddim", "loop": True, "workdir": tmp_path / "run", **sampler}
    zoom = pot_jax.sample(model, PROMPTS, **given)
    found = overlap_psnr(zoom.images, zoom.geometry)
    assert len(found) == 3
    assert found.min() > 100
    assert overlap_psnr(zoom.before_render, zoom.geometry).max() < 60
    record = read_record(tmp_path / "run")
    assert record.geometry == zoom.geometry
    assert record.geometry.loop
    again = pot_jax.sample(model, PROMPTS, **given, progress=lambda *steps: pytest.fail("it ran"))
    np.testing.assert_array_equal(again.images, zoom.images)
    opened = {**given, "loop": False, "placement": []}
    with pytest.raises(UserError, match="zoom.loop is True there, False here"):
        pot_jax.sample(model, PROMPTS, **opened)


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
        ("a star", {}, "expected a list of prompts"),
        (["a", " "], {}, "the prompt of level 1 is empty"),
        (["a", "abcdefghijk"], {}, "has 11 tokens, the model takes 6"),
        (["a"], {"steps": 5000}, "5000"),
        (["a"], {"solver": "dpm_fast"}, "one of ddpm, ddim"),
        (["a"], {"blend": "mean"}, "one of laplacian"),
        (["a"], {"space": "fourier"}, "one of latent, pixel"),
        (["a"], {"guidence_scale": 3}, "unknown setting 'sampler.guidence_scale'; known: solver"),
        (["a"], {"blend": 3}, "blend: expected a function, or a Blend, got 3"),
        (["a"], {"guidance": 3}, "guidance: expected a Guidance, got 3"),
        (
            ["a", "b"],
            {"zoom_factor": 3},
            "zoom.height: expected a multiple of 12 pixels at zoom_factor 3",
        ),
        (["a", "b"], {"height": 18}, "zoom.height: expected a multiple of 8"),
        (["a", "b"], {"placement": [(2, 2), (2, 2)]}, "expected 1 pairs"),
        (["a", "b"], {"placement": [(3, 0)]}, "multiples of 2 pixels"),
        (["a", "b"], {"placement": [(0, 14)]}, "outside"),
        (
            ["a"],
            {"latents": np.zeros((2, 8, 8, 4))},
            "latents: expected unit noise of (1, 8, 8, 4)",
        ),
        (["a"], {"photograph": np.zeros((8, 8, 3))}, "photograph: expected pixels of (16, 16, 3)"),
        (
            ["a"],
            {"photograph": np.full((16, 16, 3), 255)},
            "floats in [-1, 1], got int64 from 255 to 255",
        ),
        (
            ["a"],
            {"photograph": np.full((16, 16, 3), np.nan)},
            "floats in [-1, 1], got float32 from nan to nan",
        ),
        (["a", "b"], {"placement": [3]}, "zoom.placement[0]: expected a list"),
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


def my_blend(images, geometry, *, weight, kernel):
    return blending.laplacian(images, geometry, weight=weight, kernel=kernel)


def my_agreement(blend, latents, pixels):
    return agreement.in_latents(blend, latents, pixels)


def twice_the_unconditional(unconditional, conditional, numbers, memory):
    return Guided(conditional, 2 * unconditional), memory


def own(**parts):
    return {"steps": 2, "space": "latent", "devices": one_device(), **parts}


@pytest.mark.parametrize(
    "parts",
    [
        {"blend": my_blend},
        {"blend": agreement.Blend(my_blend)},
        {"agreement": my_agreement},
        {"solver": Solver("mine", SOLVERS["ddim"].plan)},
        {"guidance": pipeline.guidance.CLASSIFIER_FREE},
    ],
    ids=lambda parts: next(iter(parts)),
)
def test_an_own_part_does_what_the_named_one_does(model, parts):
    usual = pot_jax.sample(model, PROMPTS, **own())
    zoom = pot_jax.sample(model, PROMPTS, **own(**parts))
    np.testing.assert_array_equal(zoom.images, usual.images)
    (record,) = zoom.settings.own_parts
    assert record.part in parts
    assert len(record.sha256) == 64
    assert zoom.identity["own parts"] != usual.identity["own parts"]


def test_an_own_guidance_says_whose_noise_is_put_back(model):
    plain = Guidance(lambda u, c, numbers, memory: (Guided(c, None), memory))
    other = Guidance(twice_the_unconditional)
    a, b = (pot_jax.sample(model, PROMPTS, **own(guidance=g)) for g in (plain, other))
    assert np.abs(a.images - b.images).max() > 1e-3


def test_an_own_part_without_source_is_recorded_as_unchecked(model, tmp_path):
    namespace = {"stack": blending.none}
    blend = eval("lambda images, geometry, *, weight, kernel: stack(images, geometry)", namespace)
    zoom = pot_jax.sample(model, PROMPTS, **own(blend=blend, workdir=tmp_path / "run"))
    (part,) = read_record(tmp_path / "run").settings.own_parts
    assert (part.part, part.sha256) == ("blend", "")
    assert part.name.endswith("<lambda>")
    again = pot_jax.sample(model, PROMPTS, **own(blend=blend, workdir=tmp_path / "run"))
    np.testing.assert_array_equal(again.images, zoom.images)


def test_another_own_part_is_another_run(model, tmp_path):
    pot_jax.sample(model, PROMPTS, **own(blend=my_blend, workdir=tmp_path / "run"))
    with pytest.raises(UserError, match="holds another run"):
        pot_jax.sample(model, PROMPTS, **own(workdir=tmp_path / "run"))

    def changed(images, geometry, *, weight, kernel):
        return images

    with pytest.raises(UserError, match=r"holds another run \(other own parts\)"):
        pot_jax.sample(model, PROMPTS, **own(blend=changed, workdir=tmp_path / "run"))


@pytest.mark.parametrize(
    ("scheduler", "solver", "said"),
    [
        ("EulerDiscreteScheduler", "euler", 0),
        ("DDIMScheduler", "ddim", 0),
        ("PNDMScheduler", "pndm_prk", 0),
        ("DEISMultistepScheduler", "ddim", 1),
    ],
)
def test_the_models_own_solver_is_used_and_recorded(model, scheduler, solver, said):
    schedule = dataclasses.replace(model.schedule, class_name=scheduler)
    scheduled = dataclasses.replace(model, schedule=schedule, notices=("a default was taken",))
    settings = RunSettings(prompts=("a",), sampler=SamplerSettings(steps=4))
    prepared = pipeline.prepare(scheduled, settings, devices=one_device())
    assert prepared.settings.sampler.solver == solver
    assert prepared.record.to_json()["config"]["sampler"]["solver"] == solver
    assert prepared.notices[0] == "a default was taken"
    assert len(prepared.notices) == 1 + said
    named = dataclasses.replace(settings, sampler=SamplerSettings(steps=4, solver=solver))
    same = pipeline.prepare(scheduled, named, devices=one_device())
    assert same.identity == prepared.identity
    assert same.notices == prepared.notices[:1]


def test_own_parts_that_differ_have_digests_that_differ():
    def closure(scale):
        def blend(images, geometry, *, weight, kernel):
            return scale * images

        return blend

    def keyword(scale):
        def blend(images, geometry, *, weight, kernel, scale=scale):
            return scale * images

        return blend

    def two(images, geometry, *, weight, kernel):
        return 2 * images

    class Stateful:
        def __call__(self, images, geometry, *, weight, kernel):
            return images

    def digest(part):
        return own_part("blend", part).sha256

    for first, second in (
        (closure(1.0), closure(2.0)),
        (keyword(1.0), keyword(2.0)),
        (functools.partial(two, a=1), functools.partial(two, a=2)),
        (functools.partial(two), functools.partial(my_blend)),
        (agreement.Blend(closure(1.0)), agreement.Blend(closure(2.0))),
        (jax.jit(closure(1.0)), jax.jit(closure(2.0))),
    ):
        assert len(digest(first)) == len(digest(second)) == 64
        assert digest(first) != digest(second)
    assert digest(closure(1.0)) == digest(closure(1.0))
    for unreadable in (Stateful(), Stateful().__call__, closure(np.zeros(3))):
        assert digest(unreadable) == "", "not checked, rather than checked wrongly"


def test_an_own_guidance_is_asked_at_any_scale(model):
    other = Guidance(twice_the_unconditional)
    a, b = (
        pot_jax.sample(model, PROMPTS, **own(guidance_scale=1.0, **g))
        for g in ({}, {"guidance": other})
    )
    assert np.abs(a.images - b.images).max() > 1e-3


def test_wrong_latents_leave_no_folder_behind(model, tmp_path):
    given = own(workdir=tmp_path / "run")
    with pytest.raises(UserError, match="latents: expected"):
        pot_jax.sample(model, PROMPTS, **given, latents=np.zeros((3, 4, 4, 4)))
    assert not (tmp_path / "run").exists()


def test_a_run_with_arrays_from_python_is_not_repeated_without_them(model, tmp_path):
    given = own(workdir=tmp_path / "run", latents=np.zeros((3, 8, 8, 4), np.float32))
    pot_jax.sample(model, PROMPTS, **given)
    with pytest.raises(
        UserError, match="used latents given as an array; run it again with pot_jax"
    ):
        config.read(str(tmp_path / "run" / "config.json"))


@pytest.mark.loose_promotion("flax and jax promote half precision in norms and attention")
def test_the_record_says_the_precision_that_the_model_has(model):
    half = {
        name: getattr(model, name).clone(dtype=jnp.bfloat16) for name in ("unet", "autoencoder")
    }
    prepared = pipeline.prepare(
        pot_jax.Model(**{**model.__dict__, **half}),
        RunSettings(prompts=tuple(PROMPTS)),
        devices=one_device(),
    )
    assert prepared.settings.dtype == "bfloat16"
    assert prepared.record.to_json()["config"]["dtype"] == "bfloat16"


def test_a_callback_sees_every_step(model):
    seen = []
    zoom = pot_jax.sample(
        model, PROMPTS, steps=7, devices=one_device(), callback=lambda watched: seen.append(watched)
    )
    assert np.concatenate([watched.steps for watched in seen]).tolist() == list(range(7))
    assert [watched.clean.shape for watched in seen] == [(5, 1, 3, 8, 8, 4), (2, 1, 3, 8, 8, 4)]
    measured = np.concatenate([watched.disagreement for watched in seen])
    assert measured.shape == (7, 1)
    assert (measured > 0).all()
    np.testing.assert_array_equal(
        zoom.images, pot_jax.sample(model, PROMPTS, steps=7, devices=one_device()).images
    )


def test_the_photograph_is_met_under_the_kernel_of_the_run(model):
    photograph = np.linspace(-0.4, 0.4, 16 * 16 * 3, dtype=np.float32).reshape(16, 16, 3)
    zoom = pot_jax.sample(
        model,
        PROMPTS[:2],
        steps=2,
        zoom_factor=4,
        kernel="gaussian",
        space="latent",
        photograph=photograph,
        devices=one_device(),
    )
    window = photograph[6:10, 6:10]
    shrunk = operators.downsample(zoom.images[1], 4, "gaussian")
    inside = (np.abs(zoom.images[1]).reshape(4, 4, 4, 4, 3) < 1).all(axis=(1, 3))
    assert inside.mean() > 0.5
    np.testing.assert_allclose(shrunk[inside], window[inside], atol=1e-5)
    np.testing.assert_allclose(zoom.images[0][:6], photograph[:6], atol=1e-5)


def test_a_run_from_python_leaves_a_folder_and_resumes_it(model, zoom, tmp_path):
    given = {"steps": 7, "devices": one_device(), "workdir": tmp_path / "run"}
    first = pot_jax.sample(model, PROMPTS, **given)
    np.testing.assert_array_equal(first.images, zoom.images)
    again = pot_jax.sample(model, PROMPTS, **given, progress=lambda *steps: pytest.fail("it ran"))
    np.testing.assert_array_equal(again.images, zoom.images)
    assert again.settings == first.settings
    with pytest.raises(UserError, match="seed is 0 there, 1 here"):
        pot_jax.sample(model, PROMPTS, **given, seed=1)


def test_what_a_run_is_lies_in_its_contents_not_its_paths(model, tmp_path, monkeypatch):
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    given = own(workdir=tmp_path / "run", photograph=str(tmp_path / "a.png"))
    pot_jax.sample(model, PROMPTS, **given)
    (tmp_path / "a.png").rename(tmp_path / "b.png")
    moved = {**given, "photograph": str(tmp_path / "b.png")}
    elsewhere = pot_jax.Model(**{**model.__dict__, "source": "another/path"})
    pot_jax.sample(elsewhere, PROMPTS, **moved, progress=lambda *steps: pytest.fail("it ran"))
    Image.fromarray(picture[::-1]).save(tmp_path / "b.png")
    with pytest.raises(UserError, match=r"holds another run \(other photograph\)"):
        pot_jax.sample(model, PROMPTS, **moved)
    noise = np.zeros((3, 8, 8, 4), np.float32)
    with pytest.raises(UserError, match=r"other given latents; other photograph"):
        pot_jax.sample(model, PROMPTS, **moved, latents=noise)


def test_an_offset_that_no_step_reads_is_not_part_of_what_a_run_is(model):
    def schedule(spacing, offset):
        facts = {"timestep_spacing": spacing, "steps_offset": offset}
        changed = dataclasses.replace(model, schedule=dataclasses.replace(model.schedule, **facts))
        return model_identity(changed)["schedule"]

    assert schedule("trailing", 0) == schedule("trailing", 1) != schedule("leading", 0)
    assert schedule("leading", 0) != schedule("leading", 1)
    assert schedule(None, 0) != schedule(None, 1)


def test_other_ids_of_the_negative_prompt_are_another_run(model):
    """As after an edit of the tokenizer's files."""

    def prompts(negative):
        settings = RunSettings(prompts=("a",), negative_prompt=negative)
        return pipeline.prepare(model, settings, devices=one_device()).identity["prompts"]

    assert prompts("st") != prompts("t") != prompts("")


def test_a_resumed_run_whose_steps_are_done_compiles_none(model, monkeypatch):
    settings = RunSettings(prompts=tuple(PROMPTS), sampler=SamplerSettings(steps=7))
    job = pipeline.prepare(model, settings, devices=one_device()).job
    states = begin(job, keys_of(np.uint32([0])))._replace(step=jnp.int32(7))
    monkeypatch.setattr(type(job.program), "compiled", None)
    after, _ = pipeline.run(job, states)
    assert after.step == 7
    np.testing.assert_array_equal(after.latents, states.latents)


@pytest.mark.parametrize("samples", [1, 2])
def test_a_finished_run_still_says_what_it_assumed(model, tmp_path, samples):
    sampler = SamplerSettings(steps=2, space="latent", guidance_scale=1.0)
    settings = RunSettings(prompts=tuple(PROMPTS), num_samples=samples, sampler=sampler)
    prepared = pipeline.prepare(model, settings, devices=one_device())
    zooms = pipeline.sample_run(prepared, tmp_path)
    assert any("means no guidance" in notice for notice in prepared.notices)
    folders = [tmp_path] if samples == 1 else [tmp_path, *sorted(tmp_path.glob("stack_*"))]
    for folder in folders:
        assert read_record(folder).notices == prepared.notices
    zooms[0].save(tmp_path / "saved")
    assert read_record(tmp_path / "saved").notices == prepared.notices


def test_enlarged_levels_come_from_a_level_0_that_was_sampled_alone(model):
    given = {"steps": 2, "space": "latent", "devices": one_device()}
    zoom = pot_jax.sample(model, PROMPTS, blend="enlarged", **given)
    alone = pot_jax.sample(model, PROMPTS, blend="none", **given)
    # Other programs round differently; that is all.
    scale = np.abs(alone.latents[0]).max()
    np.testing.assert_allclose(zoom.latents[0] / scale, alone.latents[0] / scale, atol=1e-5)
    whole = np.clip(blending.enlarged(zoom.before_render, zoom.geometry), -1, 1)
    np.testing.assert_allclose(zoom.images, whole, atol=1e-5)
