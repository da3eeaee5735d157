"""Stable Diffusion XL at tiny size: two encoders, a pooled state, sizes; and its real numbers.

`tests/reference/test_sdxl_reference.py` compares it with diffusers.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import POSITIONS, tiny_model, tiny_xl, tiny_xl_inpainting

import pot_jax
from pot_jax.config import SIZES, RunSettings, SamplerSettings
from pot_jax.errors import UserError
from pot_jax.models.clip import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTextProjectionConfig,
)
from pot_jax.models.unet import UNet2DConditionModel, UNetConfig
from pot_jax.models.vae import AutoencoderKL, AutoencoderKLConfig
from pot_jax.parallel.mesh import device_mesh
from pot_jax.pipelines import zoom as pipeline
from pot_jax.pipelines.conditions import text_conditions, with_sizes
from pot_jax.pipelines.program import rows_that_fit
from pot_jax.runs.zoom import read_zoom
from pot_jax.weights.export import convert, export
from pot_jax.weights.keys import abstract_params
from pot_jax.weights.load import load, open_model
from pot_jax.zoom.geometry import Geometry

PROMPTS = ("a", "star")
SETTINGS = RunSettings(
    prompts=PROMPTS,
    seed=3,
    sampler=SamplerSettings(steps=10, solver="euler_ancestral", space="latent", crop=(8, 4)),
    save_every=5,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_xl(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "xl"
    export(model, folder)
    return folder


def prepared(model, settings=SETTINGS, count=1):
    return pipeline.prepare(model, settings, devices=jax.devices()[:count])


@pytest.fixture(scope="module")
def usual(model):
    (zoom,) = pipeline.sample_run(prepared(model))
    return zoom.images


def told(model, negative="", guidance=4.0, prompts=PROMPTS, **how):
    return text_conditions(model, prompts, negative, guidance, **how)


def test_several_devices_change_the_rounding_only(model, usual):
    (zoom,) = pipeline.sample_run(prepared(model, count=3))  # of which 4 batch rows are no multiple
    np.testing.assert_allclose(zoom.images, usual, rtol=0, atol=1e-5)


def test_a_killed_run_resumes_to_the_same_bytes(model, usual, tmp_path):
    def kill(done, total):
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.sample_run(prepared(model), tmp_path, progress=kill)
    steps = []
    again = prepared(model)
    pipeline.sample_run(again, tmp_path, progress=lambda done, _: steps.append(done))
    assert steps[0] == 5
    assert read_zoom(tmp_path).images.tobytes() == usual.tobytes()


@pytest.mark.parametrize("negative", ["", " ", ("", "a")])
@pytest.mark.parametrize("how", [{}, {"weighted": True, "long": True}])
def test_an_empty_negative_prompt_is_zeros(model, negative, how):
    long = how.get("long", False)
    prompts = ("a (b:1.3) c d e f g star", "a") if long else PROMPTS
    rows = told(model, negative, prompts=prompts, **how)
    arrays = {name: np.asarray(values) for name, values in rows.arrays.items()}
    chunks = 2 if long else 1
    assert arrays["text_states"].shape == (4, chunks * POSITIONS, 40)
    assert arrays["pooled"].shape == (4, 20)
    assert not any(values[0].any() for values in arrays.values())
    last = isinstance(negative, tuple)  # whose second level has a negative prompt
    assert all(values[1].any() == last for values in arrays.values())
    assert all(values[2].any() for values in arrays.values())
    # It is part of what is digested, because the ids do not show it.
    plain = dataclasses.replace(model, zeros=False)
    other = told(plain, negative, prompts=prompts, **how)
    assert all(np.asarray(values[0]).any() for values in other.arrays.values())
    assert rows.read != other.read


def test_unguided_rows_are_the_conditional_half(model):
    whole, alone = told(model, "b").arrays, told(model, "b", 1.0).arrays
    for name in ("text_states", "pooled"):
        np.testing.assert_array_equal(whole[name][2:], alone[name])


def test_pooled_of_a_long_prompt_is_the_first_chunks(model):
    rows = told(model, guidance=1.0, prompts=("a b c d e f star", "star"), long=True).arrays
    first = told(model, guidance=1.0, prompts=("a b c d e f", "star")).arrays
    np.testing.assert_allclose(rows["pooled"], first["pooled"], atol=1e-6)
    # Weights change the states and not the pooled one, as in AUTOMATIC1111.
    heavy = told(model, guidance=1.0, prompts=("(a:1.4) b", "star"), weighted=True).arrays
    plain = told(model, guidance=1.0, prompts=("a b", "star")).arrays
    np.testing.assert_allclose(heavy["pooled"], plain["pooled"], atol=1e-6)
    assert np.abs(heavy["text_states"] - plain["text_states"]).max() > 1e-3


def test_encoders_pad_each_with_its_own_token(model):
    first, second = told(model).token_ids
    assert (first[0, 3:] == 79).all()
    assert (second[0, 3:] == 76).all()
    np.testing.assert_array_equal(first[0, :3], second[0, :3])


def test_sizes_are_the_pictures_unless_stated(model):
    def ids(scale=4.0, **sizes):
        settings = SamplerSettings(**sizes)
        return with_sizes(told(model, "b", scale), model, settings, 16, 32).arrays["time_ids"]

    np.testing.assert_array_equal(ids(), [[16, 32, 0, 0, 16, 32]] * 4)
    np.testing.assert_array_equal(ids(1.0, crop=(1, 2)), [[16, 32, 1, 2, 16, 32]] * 2)
    sizes = {name: (2 * i, 2 * i + 1) for i, name in enumerate(SIZES)}
    rows = [[6, 7, 8, 9, 10, 11]] * 2 + [[0, 1, 2, 3, 4, 5]] * 2
    np.testing.assert_array_equal(ids(**sizes), rows)
    # Negative ones are as the others.
    rows = [[5, 6, 0, 0, 16, 32]] * 4
    np.testing.assert_array_equal(ids(original_size=(5, 6)), rows)


def test_each_size_changes_the_pictures_and_the_identity(model, usual):
    known = prepared(model).identity
    for name in SIZES:
        sampler = dataclasses.replace(SETTINGS.sampler, **{name: (48, 24)})
        other = prepared(model, dataclasses.replace(SETTINGS, sampler=sampler))
        assert other.identity["sampler"] != known["sampler"]
        ids = other.job.weights["conditions"]["time_ids"]
        assert np.any(ids != prepared(model).job.weights["conditions"]["time_ids"])
    (zoom,) = pipeline.sample_run(other)
    assert np.abs(zoom.images - usual).max() > 1e-3


def test_a_model_that_is_told_no_sizes_refuses_them(tmp_path):
    other = tiny_model(tmp_path)
    with pytest.raises(UserError, match=r"sampler.crop: .* is not told of sizes.* leave it out"):
        pot_jax.sample(other, PROMPTS, crop=(1, 2))
    painter, image = tiny_xl_inpainting(tmp_path / "xl"), np.zeros((16, 16, 3))
    with pytest.raises(UserError, match="no setting blend_weight; besides, it has original_size"):
        pot_jax.inpaint(painter, "a", image, image[..., 0], blend_weight=1)


def test_the_spacing_of_timesteps_can_be_stated(model, exported, tmp_path):
    def steps(**stated):
        settings = dataclasses.replace(SETTINGS.sampler, steps=4, **stated)
        return prepared(model, dataclasses.replace(SETTINGS, sampler=settings)).job.plan.timestep

    np.testing.assert_array_equal(steps(), [751, 501, 251, 1])  # the file's: leading
    np.testing.assert_array_equal(steps(timestep_spacing="trailing"), [999, 749, 499, 249])
    one = prepared(
        model,
        dataclasses.replace(
            SETTINGS, sampler=SamplerSettings(steps=4, timestep_spacing="trailing")
        ),
    )
    assert one.recipe == prepared(model, dataclasses.replace(one.settings, seed=1)).recipe


def test_a_model_that_is_not_read_has_the_same_shapes(exported):
    opened, read = (prepared(m) for m in (open_model(exported).model, load(exported)))
    for one in (opened, read):
        assert one.job.weights["conditions"].keys() == {"text_states", "pooled", "time_ids"}
    shapes = (jax.tree.map(jnp.shape, one.job.weights) for one in (opened, read))
    assert next(shapes) == next(shapes)


def test_one_step_is_enough(model):
    """As Turbo models are run; 5 or more would be whole chunks."""
    how = {"timestep_spacing": "trailing", "guidance_scale": 0.0, "space": "latent"}
    how |= {"solver": "euler_ancestral", "devices": jax.devices()[:1]}
    zoom = pot_jax.sample(model, PROMPTS, steps=1, **how)
    assert np.isfinite(zoom.images).all()
    assert zoom.images.std() > 0.01


def test_a_spacing_that_lcm_does_not_take_is_said(model):
    sampler = SamplerSettings(steps=4, solver="lcm", timestep_spacing="trailing")
    notices = prepared(model, dataclasses.replace(SETTINGS, sampler=sampler)).notices
    assert "sampler.timestep_spacing has no effect with solver lcm" in notices


def test_an_inpainting_model_paints(tmp_path):
    painter = tiny_xl_inpainting(tmp_path)
    image, mask = np.zeros((16, 16, 3), np.float32), np.ones((16, 16))
    how = {"steps": 4, "timestep_spacing": "trailing", "devices": jax.devices()[:1]}
    painted = pot_jax.inpaint(painter, "a", image, mask, **how)
    moved = pot_jax.inpaint(painter, "a", image, mask, crop=(8, 8), **how)
    assert painted.shape == (16, 16, 3)
    assert np.abs(painted - moved).max() > 1e-4


@pytest.mark.loose_promotion("flax and jax promote half precision in norms and attention")
@pytest.mark.parametrize(("dtype", "precise"), [("float16", "float32"), ("bfloat16", "bfloat16")])
def test_precision_is_a_components(exported, tmp_path, dtype, precise):
    convert(exported, tmp_path / "kept", dtype=dtype)
    for folder in (exported, tmp_path / "kept"):
        again = load(folder, dtype=dtype)
        dtypes = {n: {str(x.dtype) for x in jax.tree.leaves(p)} for n, p in again.params.items()}
        assert dtypes.pop("autoencoder") == {precise}
        assert jnp.dtype(again.autoencoder.dtype) == precise
        assert {name for found in dtypes.values() for name in found} == {dtype}
        assert jnp.dtype(again.text_encoder_2.dtype) == dtype


def test_only_a_family_that_needs_it_is_upcast(tmp_path):
    export(tiny_model(tmp_path / "tokenizer"), tmp_path / "model")
    again = load(tmp_path / "model", dtype="float16")
    assert jnp.dtype(again.autoencoder.dtype) == jnp.float16  # though diffusers' default is true


def test_an_autoencoder_that_was_repaired_says_so(model, tmp_path):
    repaired = dataclasses.replace(model.autoencoder.config, force_upcast=False)
    other = dataclasses.replace(model, autoencoder=AutoencoderKL(repaired))
    export(other, tmp_path / "model")
    again = load(tmp_path / "model", dtype="float16")
    assert not again.autoencoder.config.force_upcast
    assert jnp.dtype(again.autoencoder.dtype) == jnp.float16


UNET = UNetConfig(
    sample_size=128,
    block_out_channels=(320, 640, 1280),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=(1, 2, 10),
    attention_head_dim=(5, 10, 20),
    cross_attention_dim=2048,
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)
VAE = AutoencoderKLConfig(sample_size=1024, scaling_factor=0.13025)


def test_the_real_sizes():
    big = {"hidden_size": 1280, "intermediate_size": 5120, "projection_dim": 1280}
    big |= {"num_hidden_layers": 32, "num_attention_heads": 20, "hidden_act": "gelu"}
    networks = {
        "unet": UNet2DConditionModel(UNET),
        "text_encoder": CLIPTextModel(CLIPTextConfig()),
        "text_encoder_2": CLIPTextModelWithProjection(CLIPTextProjectionConfig(**big)),
        "autoencoder": AutoencoderKL(VAE),
    }
    shapes = {name: jax.tree.leaves(abstract_params(net)) for name, net in networks.items()}
    counts = {name: sum(leaf.size for leaf in leaves) for name, leaves in shapes.items()}
    assert counts["unet"] == 2_567_463_684
    assert sum(counts.values()) == 3_468_837_867


@pytest.mark.parametrize(("side", "expected"), [(128, 6.761e12), (64, 1.589e12)])
def test_the_real_cost_of_a_batch_row(side, expected):
    unet = UNet2DConditionModel(UNET)
    shapes = {"z": (1, side, side, 4), "text_states": (1, 77, 2048), "timesteps": (1,)}
    shapes |= {"pooled": (1, 1280), "time_ids": (1, 6)}
    given = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in shapes.items()}

    def network(params, z, timesteps, **conditions):
        return unet.apply({"params": params}, z, timesteps, **conditions)

    cost = jax.jit(network).lower(abstract_params(unet), **given).cost_analysis()["flops"]
    assert abs(cost / expected - 1) < 0.03


def test_batch_rows_count_the_largest_attention():
    """SDXL's outermost block has none: the second one's is what needs memory."""
    device = device_mesh(devices=jax.devices()[:1]).local_devices[0]
    grid = Geometry(64, 2, 128, 128)
    rows = rows_that_fit(UNet2DConditionModel(UNET), AutoencoderKL(VAE), grid, device)
    flat = dataclasses.replace(UNET, down_block_types=("DownBlock2D",) * 3)
    more = rows_that_fit(UNet2DConditionModel(flat), AutoencoderKL(VAE), grid, device)
    few, many = (found["network_rows"] or 128 for found in (rows, more))
    assert few < many
