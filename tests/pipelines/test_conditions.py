"""What the networks are told: rows in their order, and calls that hand them over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from tiny_models import tiny_consistency_model, tiny_model

import pot_jax
from pot_jax.diffusion.guidance import CLASSIFIER_FREE, Numbers, guide
from pot_jax.diffusion.schedule import ScheduleConfig
from pot_jax.diffusion.solvers import Plan
from pot_jax.errors import UserError
from pot_jax.evaluation.metrics.overlap import overlap_psnr
from pot_jax.parallel.mesh import device_mesh, on_devices
from pot_jax.pipelines import conditions

PROMPTS = ["a", "star"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def consistency_model(tmp_path_factory):
    return tiny_consistency_model(tmp_path_factory.mktemp("tokenizer"))


def test_text_rows_are_unconditional_then_conditional(model):
    def rows(scale, negative=""):
        told = conditions.text_conditions(model, PROMPTS, negative, scale, guided=scale != 1)
        return told.arrays["text_states"]

    whole, alone = rows(4.0, "st"), rows(1.0, "st")
    assert whole.shape == (4, 8, 16)
    np.testing.assert_array_equal(whole[0], whole[1])
    np.testing.assert_array_equal(whole[2:], alone)
    assert np.abs(whole[0] - rows(4.0)[0]).max() > 1e-3


def test_a_network_with_guidance_built_in_has_one_row_a_level(consistency_model):
    told = conditions.text_conditions(consistency_model, PROMPTS, "", 8.0, True).arrays
    assert told["text_states"].shape == (2, 8, 16)
    assert told["timestep_cond"].shape == (2, 16)
    with pytest.raises(UserError, match="takes no negative prompt"):
        conditions.text_conditions(consistency_model, PROMPTS, "a", 8.0, True)


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.0])
def test_a_scale_of_1_or_less_is_no_guidance_and_is_said(model, consistency_model, scale):
    told = conditions.text_conditions(model, PROMPTS, "st", scale)
    assert not told.guided
    assert told.arrays["text_states"].shape == (2, 8, 16)
    assert told.notices[0] == "words that the model does not know: st"
    notice = told.notices[1]
    assert notice.startswith(f"guidance_scale {scale:g}, being 1 or less, means no guidance, so")
    assert conditions.text_conditions(model, PROMPTS, "", 1.01).notices == ()
    # Guidance of the caller's own needs both halves, and guidance built in takes any scale.
    for which, negative, own in ((model, "a", True), (consistency_model, "", False)):
        told = conditions.text_conditions(which, PROMPTS, negative, scale, own)
        assert (told.guided, told.notices) == (own, ())


def test_prompts_that_do_not_mean_what_they_seem_are_said(model):
    notices = conditions.text_conditions(model, ["a (t:2)"], "", 4.0).notices
    assert len(notices) == 1
    assert "(t:2) in a prompt is read as words" in notices[0]
    notices = conditions.text_conditions(model, ["a"], "zz", 4.0).notices
    assert notices == ("words that the model does not know: zz",)


def test_the_guidance_embedding_holds_waves_of_1000_w():
    embedding = np.asarray(conditions.guidance_embedding(jnp.array([1.0, 1.002]), 9))
    np.testing.assert_array_equal(embedding[0], [0] * 4 + [1] * 4 + [0])
    frequencies = 10_000.0 ** -(np.arange(4) / 3)
    np.testing.assert_allclose(embedding[1, :4], np.sin(2 * frequencies), atol=1e-3)
    np.testing.assert_allclose(embedding[1, 4:8], np.cos(2 * frequencies), atol=1e-3)


class Toy:
    """A "UNet" that answers with what it is told."""

    def apply(self, variables, z, timestep, *, text_states, class_labels=0.0):
        each = len(text_states) // len(z)
        seen, label = (jnp.repeat(x, each, 0) for x in (z.sum(-1, keepdims=True), class_labels))
        told = text_states * label * timestep
        return variables["params"] * seen + told[:, None, None, None]


@pytest.mark.parametrize("devices", [1, 2, 4])  # of four, each has half of a level
@pytest.mark.parametrize(
    ("rows_at_once", "rescale"), [(None, 0.0), (1, 0.0), (2, 0.0), (None, 0.6)]
)
def test_every_condition_reaches_its_row(rows_at_once, rescale, devices):
    z = jnp.arange(8.0).reshape(2, 2, 2, 1)
    told = {
        "text_states": jnp.array([1.0, 2.0, 3.0, 4.0]),
        "class_labels": jnp.array([1.0, 10.0, 1.0, 10.0]),
        "channels": jnp.tile(10 * z, (2, 1, 1, 1)),
    }
    mesh = device_mesh(devices=jax.devices()[:devices])
    schedule = ScheduleConfig(prediction_type="sample")
    denoise = conditions.denoiser(Toy(), schedule, CLASSIFIER_FREE, True, mesh, rows_at_once)
    weights = {"unet": 2.0, "conditions": told, "guidance": Numbers(3.0, rescale)}
    row = Plan(jnp.float32(5), 1.0, 1.0, 0.0, {}, None)
    everywhere = on_devices(mesh, denoise, (P(),) * 4, P())
    denoised, memory = everywhere(weights, z, row, ())
    out = denoised.clean
    np.testing.assert_array_equal(denoised.renoise, out)
    assert memory == ()
    for level, label in enumerate((1, 10)):
        unconditional, conditional = (
            5 * label * told["text_states"][level + half] for half in (0, 2)
        )
        halves = (22 * z[level] + half for half in (unconditional, conditional))
        np.testing.assert_allclose(out[level], guide(*halves, 3.0, rescale), rtol=1e-6)


def test_there_is_nothing_to_rescale_in_guidance_built_in(consistency_model):
    with pytest.raises(UserError, match="guidance_rescale: .* so there is nothing to change"):
        pot_jax.sample(consistency_model, PROMPTS, solver="lcm", steps=4, guidance_rescale=0.7)


def test_a_consistency_model_zooms_in_four_steps(consistency_model):
    def zoom(scale):
        return pot_jax.sample(
            consistency_model,
            PROMPTS,
            solver="lcm",
            steps=4,
            guidance_scale=scale,
            space="latent",
            devices=jax.devices()[:1],
        )

    mild, strong = zoom(1.5), zoom(9.0)
    assert overlap_psnr(mild.images, mild.geometry).min() > 100
    assert np.abs(mild.images - strong.images).max() > 1e-3, "guidance reaches the network"
