"""Values by level: each level is told its own, and runs without them are as they were."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny_models import tiny_model, tiny_upscaler

import pot_jax
from pot_jax.config import CONFIGS, RunSettings, read
from pot_jax.errors import UserError
from pot_jax.pipelines import upscale
from pot_jax.pipelines import zoom as pipeline
from pot_jax.pipelines.continued import continued
from pot_jax.runs.zoom import read_record
from pot_jax.weights.load import open_model

PROMPTS = ["a", "star"]
CLOSE = 1e-4  # the same sums in another order


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tokenizer"))


def given(**more):
    usual = {"steps": 2, "space": "latent", "blend": "none", "devices": jax.devices()[:1]}
    return {**usual, **more}


def images(model, scale, negative="", **more):
    more = given(guidance_scale=scale, negative_prompt=negative, **more)
    return pot_jax.sample(model, PROMPTS, **more).images


def test_each_level_has_its_own_guidance_and_negative_prompt(model):
    # Without a blend levels are independent, so each is as in a run where all have its values.
    found = images(model, [3.0, 6.0], ["t", "st"])
    for level, (scale, negative) in enumerate(((3.0, "t"), (6.0, "st"))):
        whole = images(model, scale, negative)
        np.testing.assert_allclose(found[level], whole[level], atol=CLOSE)
        assert np.abs(found[1 - level] - whole[1 - level]).max() > 10 * CLOSE
    by_span = images(model, {"0": 3, "1-": 6}, {"0-0": "t", "1": "st"})
    np.testing.assert_array_equal(by_span, found)


def test_no_guidance_at_one_level(model):
    found = images(model, [1.0, 6.0])
    np.testing.assert_allclose(found[0], images(model, 1.0)[0], atol=CLOSE)
    np.testing.assert_allclose(images(model, [0.5, 6.0]), found, atol=0)
    np.testing.assert_allclose(found[1], images(model, 6.0)[1], atol=CLOSE)


def test_levels_in_turn(model):
    turns = {"method": "outpainting", "blend": ""}
    ours = images(model, [3.0, 3.0], ["t", "t"], **turns)
    np.testing.assert_allclose(ours, images(model, 3.0, "t", **turns), atol=CLOSE)
    # The deepest level comes first, and knows nothing of its parent's values.
    other = images(model, [6.0, 3.0], ["st", "t"], **turns)
    np.testing.assert_allclose(other[1], ours[1], atol=CLOSE)
    assert np.abs(other[0] - ours[0]).max() > 10 * CLOSE


def prepared(model, **settings):
    settings = {"model": "tiny", "prompts": PROMPTS, **settings}
    settings = pipeline.build(RunSettings, settings)
    return pipeline.prepare(model, settings, stated=(), devices=jax.devices()[:1])


def identity(model, **settings):
    return prepared(model, **settings).identity


def test_scales_share_a_program_and_make_other_runs(model):
    one, other = (
        prepared(model, sampler={"guidance_scale": scales}) for scales in ([3.0, 6.0], [1.0, 2.0])
    )
    assert one.job.program is other.job.program
    shapes = [jax.tree.map(jax.typeof, run.job.weights) for run in (one, other)]
    assert shapes[0] == shapes[1]
    assert one.identity["sampler"] != other.identity["sampler"]
    assert one.notices == ()
    assert "the guidance_scale of level 0, being 1 or less" in other.notices[0]


def test_what_is_not_used_leaves_the_run_the_same(model):
    usual = identity(model)
    spans = {"prompts": {"0": "a", "1": "star"}}
    unused = {"prompt_weights": True, "long_prompts": True, "view_words": ["x"]}
    for settings in (spans, unused):
        assert identity(model, **settings) == usual
    with pytest.raises(UserError, match="level 0 is empty"):
        identity(model, prompts=["", "star"], prefix="a")
    assert identity(model, prompts=["(a)", "star"], prompt_weights=True) != usual
    assert identity(model, prompts=["(a)", "star"]) != identity(
        model, prompts=["(a)", "star"], prompt_weights=True
    )
    assert identity(model, negative_prompt=["t", "t"]) != usual


def test_long_and_weighted_prompts_are_sampled(model):
    prompts = ["a b c d e f (star:1.3)", "a"]
    told = given(prompt_weights=True, long_prompts=True)
    zoom = pot_jax.sample(model, prompts, **told)
    assert np.isfinite(zoom.images).all()
    assert zoom.settings.prompts == tuple(prompts)


def test_the_upscaler_reads_prompts_as_the_zoom_does(model, tmp_path_factory):
    upscaler = tiny_upscaler(tmp_path_factory.mktemp("tokenizer"))

    def states(**told):
        run = prepared(model, upscaler={"steps": 1}, **told)
        found = upscale.prepare(upscaler, run.settings, run.geometry, "", run.job.mesh)
        return np.asarray(found.conditions.arrays["text_states"])

    told = states(negative_prompt=["t", "st"])
    assert np.abs(told[0] - told[1]).max() > 1e-3, "the levels' own negative prompts"
    long = {"prompts": ["a (b:1.3) c d e f star", "a"], "prompt_weights": True}
    assert states(**long, long_prompts=True).shape[1] == 2 * told.shape[1]
    with pytest.raises(UserError, match=r"upscaler\.guidance_scale: expected a number"):
        prepared(model, upscaler={"guidance_scale": [1, 2]})


def test_a_run_is_extended_with_the_values_of_the_level_that_new_ones_join(model, tmp_path):
    run = tmp_path / "run"
    told = given(guidance_scale=[2.0, 5.0], negative_prompt=["t", "st"], workdir=run)
    pot_jax.sample(model, {"0": "a", "1": "star"}, prefix="a", **told)
    settings = read_record(run).settings
    assert settings.prompts == ("a a", "a star")
    over = dataclasses.replace(settings, prefix="b")
    for side, scales, prompts in (
        ("deep", (2.0, 5.0, 5.0), ("a a", "a star", "b st")),
        ("wide", (2.0, 2.0, 5.0), ("b st", "a a", "a star")),
    ):
        found, _, _ = continued(over, str(run), ["st"], "extend", side)
        assert found.sampler.guidance_scale == scales
        assert found.prompts == prompts
        assert len(found.negative_prompt) == 3
        assert pipeline.spans.resolved(found) == found
    found, _, _ = continued(settings, str(run), [], "revise", "1")
    assert found.sampler == settings.sampler
    assert found.negative_prompt == settings.negative_prompt


OURS = ("autumn", "endless_night", "islands", "ladybug", "planet_to_forest")


@pytest.fixture(scope="module")
def shipped():
    return open_model("cosmos128").model


@pytest.mark.parametrize("scene", [p.stem for p in (CONFIGS / "scenes").glob("*.toml")])
def test_every_scene_can_be_run(model, request, scene):
    settings = pipeline.spans.resolved(pipeline.build(RunSettings, read(scene)))
    which = request.getfixturevalue("shipped") if scene in OURS else model
    if which is model:  # its tokenizer knows letters, so that every prompt is long
        settings = dataclasses.replace(settings, long_prompts=True)
    run = pipeline.prepare(which, settings, stated=(), devices=jax.devices()[:1])
    assert run.settings.prompts == settings.prompts
    assert len(pipeline.spans.lines(run.settings)) == run.geometry.levels
    if which is not model:
        assert not [n for n in run.notices if "does not know" in n or "no effect" in n], run.notices
