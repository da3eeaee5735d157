"""Eight virtual devices, however they are used, give what one device gives."""

import collections
import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from tiny_models import tiny_model

from pot_jax.config import MovieSettings, RunSettings, SamplerSettings, mesh_axes
from pot_jax.diffusion.sampler import keys_of
from pot_jax.errors import UserError
from pot_jax.parallel import mesh as meshes
from pot_jax.parallel.devices import fixed_settings
from pot_jax.parallel.mesh import device_mesh, on_devices, replicate, split_rows
from pot_jax.pipelines import zoom as pipeline
from pot_jax.pipelines.job import begin, executables

WEIGHTS = jax.random.normal(jax.random.key(0), (6, 6))
PROMPTS = ("a", "star", "st")


def function(weights, x, t):
    return jnp.tanh(x @ weights) + t[:, None]


def split(function, mesh, *arguments, rows_at_once=None):
    """The result of batch rows that the devices of a mesh share."""
    rows = split_rows(function, mesh, rows_at_once)
    whole = (P(),) * len(arguments)
    return on_devices(mesh, rows, whole, P())(*replicate(arguments, mesh))


@pytest.mark.parametrize("axes", ["", "levels:2,params:4", "samples:2,levels:4"])
@pytest.mark.parametrize(
    ("rows", "rows_at_once"), [(1, None), (16, None), (13, None), (3, 1), (37, 2), (16, 2)]
)
def test_eight_devices_equal_one(rows, rows_at_once, axes):
    mesh = device_mesh(axes=axes, samples=2)
    assert mesh.size == 8
    x = jax.random.normal(jax.random.key(1), (rows, 6))
    t = jnp.arange(rows, dtype=jnp.float32)
    out = split(function, mesh, WEIGHTS, x, t, rows_at_once=rows_at_once)
    np.testing.assert_allclose(out, function(WEIGHTS, x, t), atol=1e-6)


@pytest.mark.parametrize(("rows", "rows_at_once"), [(13, None), (37, 2)])
def test_rows_may_be_trees(rows, rows_at_once):
    x = jax.random.normal(jax.random.key(1), (rows, 6))
    t = jnp.arange(rows, dtype=jnp.float32)

    def named(weights, x, named):
        return function(weights, x, named["t"])

    out = split(named, device_mesh(), WEIGHTS, x, {"t": t}, rows_at_once=rows_at_once)
    np.testing.assert_allclose(out, function(WEIGHTS, x, t), atol=1e-6)


def test_the_rows_really_are_split():
    seen = []

    def spy(weights, x):
        seen.append(x.shape)
        return x @ weights

    split(spy, device_mesh(), WEIGHTS, jnp.ones((16, 6)))
    assert seen == [(2, 6)]


def test_under_vmap():
    mesh = device_mesh()
    x = jax.random.normal(jax.random.key(1), (3, 5, 6))
    rows = jax.vmap(split_rows(function, mesh), in_axes=(None, 0, 0))
    out = on_devices(mesh, rows, (P(),) * 3, P())(WEIGHTS, x, jnp.zeros((3, 5)))
    np.testing.assert_allclose(out, jnp.tanh(x @ WEIGHTS), atol=1e-6)


def test_gradients_are_those_of_one_device():
    # JAX's own derivative of an all-gather would be eight times that.
    x = jax.random.normal(jax.random.key(1), (13, 6))
    mesh = device_mesh()

    def slope(rows):
        return jax.grad(lambda x: jnp.sum(jnp.square(rows(WEIGHTS, x, x[:, 0]))))

    out = on_devices(mesh, slope(split_rows(function, mesh)), (P(),), P())(x)
    np.testing.assert_allclose(out, slope(function)(x), atol=1e-5)


# Which mesh --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axes", "samples", "shape"),
    [
        ("", 1, (1, 8, 1)),
        ("auto", 2, (2, 4, 1)),
        ("", 6, (2, 4, 1)),
        ("", 16, (8, 1, 1)),
        ("samples:2,levels:4,params:1", 2, (2, 4, 1)),
        ("params:2,levels:4", 1, (1, 4, 2)),
        ("params:2,levels", 3, (1, 4, 2)),
        ("samples,params:4", 2, (2, 1, 4)),
        ("levels", 3, (1, 8, 1)),
    ],
)
def test_the_axes_that_are_stated_or_chosen(axes, samples, shape):
    mesh = device_mesh(axes=axes, samples=samples)
    assert mesh.devices.shape == shape
    assert [*mesh.devices.flat] == jax.devices()


def test_parameters_are_split_where_one_device_has_no_room(monkeypatch):
    monkeypatch.setattr("pot_jax.parallel.memory.free_and_total", lambda device: (0, 100))
    shapes = [device_mesh(samples=4, parameters=n).devices.shape for n in (50, 51, 101, 10**6)]
    assert shapes == [(4, 2, 1), (4, 1, 2), (2, 1, 4), (1, 1, 8)]


@pytest.mark.parametrize(
    ("axes", "samples", "words"),
    [
        (
            "levels:4",
            1,
            "mesh: expected a product of 8, the number of devices, got '4 in levels:4'",
        ),
        ("params:3,levels", 1, "product of 8"),
        ("levels:16", 1, "'16 in levels:16'"),
        ("samples:2,levels:4", 3, "samples that divide the 3 seeds"),
        ("samples,levels:2", 6, "samples that divide the 6 seeds"),
    ],
)
def test_axes_that_do_not_fit_are_one_line(axes, samples, words):
    with pytest.raises(UserError, match=re.escape(words)) as raised:
        device_mesh(axes=axes, samples=samples)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "axes", ["level:8", "levels:0", "levels:8,", "samples,levels", "levels:2,levels:4", "8", "a b"]
)
def test_axes_that_are_misspelt(axes):
    with pytest.raises(UserError, match="mesh: expected auto, or sizes of samples, levels, params"):
        mesh_axes(axes)


# Whole runs --------------------------------------------------------------------------------------

SPLITS = ["", "levels:8", "samples:2,levels:4", "samples:2,levels:2,params:2", "params:8"]
COLLECTIVES = r"= \S.* (all-\w+|collective-\w+|reduce-scatter|ragged-\S+?)(?:-start)?\("


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tokenizer"))


def prepared(model, axes="", count=8, space="pixel", **more):
    sampler = SamplerSettings(steps=7, solver="ddpm", space=space, **more)
    files = {"save_every": 5, "movie": MovieSettings(fps=2, size=16)}
    settings = RunSettings(prompts=PROMPTS, num_samples=2, mesh=axes, sampler=sampler, **files)
    return pipeline.prepare(model, settings, devices=jax.devices()[:count])


@pytest.fixture(scope="module")
def one(model):
    return pipeline.sample_run(prepared(model, count=1))


@fixed_settings()
def chunk(run):
    states = begin(run.job, keys_of(np.arange(2, dtype=np.uint32)))
    return executables(run.job, states)[0], states


@pytest.mark.parametrize("axes", SPLITS)
def test_every_split_gives_what_one_device_gives(axes, model, one):
    run = prepared(model, axes)
    for ours, theirs in zip(pipeline.sample_run(run), one, strict=True):
        np.testing.assert_allclose(ours.images, theirs.images, rtol=0, atol=1e-5)
    _, states = chunk(run)
    _, alone = chunk(prepared(model, count=1))
    assert np.asarray(states.latents).tobytes() == np.asarray(alone.latents).tobytes()


def test_a_run_resumes_on_another_mesh(model, one, tmp_path):
    def stop(done, total):
        if done == total:  # a state was saved after step 5
            raise InterruptedError

    with pytest.raises(InterruptedError):
        pipeline.sample_run(prepared(model, "samples:2,levels:4"), tmp_path / "w", progress=stop)
    steps = []
    resumed = prepared(model, "levels:8")
    zooms = pipeline.sample_run(resumed, tmp_path / "w", progress=lambda *n: steps.append(n))
    assert steps[0] == (5, 7)
    for ours, theirs in zip(zooms, one, strict=True):
        np.testing.assert_allclose(ours.images, theirs.images, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("axes", "count", "rows"), [("", 1, 2), ("samples:2,levels:4", 8, 4)])
def test_samples_that_share_a_device_share_its_batch_rows(axes, count, rows, model):
    settings = RunSettings(prompts=PROMPTS, num_samples=2, mesh=axes, batch_rows=4)
    recipe = pipeline.prepare(model, settings, devices=jax.devices()[:count]).recipe
    assert (recipe.decode_rows, recipe.network_rows) == (rows, rows)


def large(run):
    """How many parameters of the UNet, and of the autoencoder's decoder and encoder, are split."""
    specs = meshes.weight_specs(run.job.weights, run.recipe.mesh)
    return [sum(spec != P() for spec in jax.tree.leaves(specs[n])) for n in ("unet", "autoencoder")]


@pytest.mark.parametrize(("space", "calls"), [("latent", 1), ("pixel", 3)])
@pytest.mark.parametrize("axes", ["levels:8", "samples:2,levels:4", "levels:2,params:4"])
def test_devices_meet_once_a_network_call(axes, space, calls, model):
    run = prepared(model, axes, space=space)
    # Five steps are one loop, whose body is in the text once.
    found = collections.Counter(re.findall(COLLECTIVES, chunk(run)[0].as_text()))
    split = sum(large(run)) if space == "pixel" else large(run)[0]
    assert bool(split) == ("params:4" in axes)
    assert found == {"all-gather": calls + split}


def test_split_parameters_are_whole_one_layer_at_a_time(model):
    whole, split = (prepared(model, axes, space="latent") for axes in ("levels:8", "params:8"))
    (given, more), (own, gathered) = (
        (m.argument_size_in_bytes, m.temp_size_in_bytes)
        for m in (chunk(run)[0].memory_analysis() for run in (whole, split))
    )
    saved = given - own
    assert saved > 500_000  # most of the UNet's 7/8
    assert gathered - more < saved / 2  # all of them would be 8/7


def test_the_drawn_noise_is_that_of_one_device_to_the_bit(model):
    # Without network and agreement, a step adds its noise alone.
    def drawn(count, axes=""):
        run = prepared(model, axes, count, space="delivery", blend="none", noise="per_level")
        zero = jax.tree.map(jnp.zeros_like, run.job.weights["unet"])
        job = dataclasses.replace(run.job, weights=run.job.weights | {"unet": zero})
        job = dataclasses.replace(run, job=job)
        zooms = pipeline.sample_run(job)
        assert not any(zoom.settings.mesh for zoom in zooms)
        return [zoom.latents.tobytes() for zoom in zooms]

    assert drawn(8, "samples:2,levels:4") == drawn(1)


def test_a_sample_by_itself_is_not_split_as_several(model):
    """So that its own record repeats it, and continues it."""
    for axes, kept in (("samples:2,levels:4", ""), ("samples,levels:4", ""), ("levels:8",) * 2):
        settings = pipeline.of_seed(prepared(model, axes), 7).settings
        assert (settings.seed, settings.num_samples, settings.mesh) == (7, 1, kept)


def test_placement_reads_split_what_a_mesh_splits():
    mesh = device_mesh(axes="levels:2,params:4")
    where = meshes.placement(mesh)
    assert where("unet/conv/kernel", (3, 3, 64, 128)).spec == P(None, None, None, "params")
    assert where("unet/conv/bias", (128,)).spec == P()
    assert where("text_encoder/table", (100, 128)).device_set == {jax.devices()[0]}
    assert meshes.placement(device_mesh()) is None
