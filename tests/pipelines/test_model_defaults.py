"""A model's own defaults of sampler settings lie under what the user states, and are recorded."""

import dataclasses
import functools
import json
import shutil

import jax
import numpy as np
import pytest
from tiny_models import TINY_VAE, tiny_model

import pot_jax
from pot_jax import main
from pot_jax.checks import build
from pot_jax.config import SIZES, RunSettings, SamplerSettings
from pot_jax.diffusion.solvers import SOLVERS
from pot_jax.errors import UserError
from pot_jax.models.vae import decode_latents
from pot_jax.parallel import mesh as meshes
from pot_jax.pipelines import zoom as pipeline
from pot_jax.pipelines.program import autoencoder
from pot_jax.runs.record import digest, zoom_identity
from pot_jax.runs.zoom import read_record
from pot_jax.weights.export import export
from pot_jax.weights.load import load
from pot_jax.zoom import blending

CPU = jax.devices()[:1]
OWN = {
    "steps": 16,
    "solver": "dpmpp_2m",
    "guidance_scale": 2.5,
    "pixel_every": 3,
    "blend": "average",
    "agreement_vae": "tiny_vae",
}
GLOBAL = dataclasses.asdict(SamplerSettings())


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    export(tiny_model(folder / "tokenizer", tiny_vae=TINY_VAE, sampler=OWN), folder / "own")
    return folder


@pytest.fixture
def place(models, tmp_path, monkeypatch):
    """A folder to be in, with the model `own`."""
    shutil.copytree(models / "own", tmp_path / "own")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def typed(place, monkeypatch, capsys):
    """Returns typed(*flags) -> the settings that a run would have, and what it says."""
    seen = []
    monkeypatch.setattr("pot_jax.pipelines.dry_run.dry_run", lambda p, _: seen.append(p) or [])

    def run(*flags):
        command = ["pot-jax", "sample", "a", "star", "--model=own", "--dry_run", *flags]
        assert main.main(command) == 0, capsys.readouterr().err
        return dataclasses.asdict(seen[-1].settings.sampler), capsys.readouterr().err

    return run


# What is typed -> what it states. Values equal to the global defaults are stated, too.
STATED = [
    ([], {}),
    (["--steps=50"], {"steps": 50}),
    (["--steps", "50"], {"steps": 50}),
    (["-steps=50"], {"steps": 50}),
    (["--config.sampler.steps=50"], {"steps": 50}),
    (["--config.sampler.steps", "50"], {"steps": 50}),
    (["--config.upscaler.steps=50"], {}),
    (["--guidance_scale=4", "--blend=laplacian"], {"guidance_scale": 4.0, "blend": "laplacian"}),
    (["--solver=ddim"], {"solver": "ddim"}),
    (["--config.sampler.eta=0"], {"eta": 0.0}),
    (["--config.sampler.agreement_vae=vae"], {"agreement_vae": "vae"}),
    (["--config.sampler.pixel_every=1", "--space=latent"], {"pixel_every": 1, "space": "latent"}),
    (["--config=steps.json"], {"steps": 50}),
    (["--config=steps.json", "--steps=3"], {"steps": 3}),
    (["--config=steps.json", "--config.sampler.pixel_every=1"], {"steps": 50, "pixel_every": 1}),
    (["--config=steps.py"], {"steps": 50}),
    (["--config=dict.py"], {"steps": 50}),
    (["--config=seed.json"], {}),
    (["--flagfile=flags"], {"steps": 50}),
]


@pytest.mark.parametrize(("flags", "stated"), STATED)
def test_what_is_stated_comes_first_then_the_models_then_the_global(typed, place, flags, stated):
    (place / "steps.json").write_text('{"sampler": {"steps": 50}}')
    (place / "seed.json").write_text('{"seed": 3, "sampler": {}}')
    head = "import ml_collections\ndef get_config():\n  return "
    (place / "steps.py").write_text(head + "{'sampler': {'steps': 50}}\n")
    (place / "dict.py").write_text(head + "ml_collections.ConfigDict({'sampler': {'steps': 50}})\n")
    (place / "flags").write_text("--steps=50\n")
    assert typed(*flags)[0] == GLOBAL | OWN | stated


def test_no_name_of_a_solver_is_the_schedulers(typed):
    assert typed("--solver=")[0] == GLOBAL | OWN | {"solver": "ddim"}


class Stop(Exception):
    """Ends a call of `sample` once it is prepared."""


@pytest.fixture
def called(models, monkeypatch):
    """Returns called(**arguments of `sample`) -> the settings that a run would have."""
    model, seen = load(models / "own"), []

    def stop(prepared, *_, **__):
        seen.append(prepared)
        raise Stop

    monkeypatch.setattr(pipeline, "sample_run", stop)

    def run(**arguments):
        with pytest.raises(Stop):
            pot_jax.sample(model, ["a", "star"], devices=CPU, **arguments)
        return dataclasses.asdict(seen[-1].settings.sampler)

    return run


@pytest.mark.parametrize(
    ("arguments", "stated"),
    [
        ({}, {}),
        ({"solver": "", "blend": ""}, {}),
        ({"solver": None, "blend": None}, {}),
        ({"steps": 50}, {"steps": 50}),
        ({"solver": "ddim", "blend": "laplacian"}, {"solver": "ddim", "blend": "laplacian"}),
        ({"agreement_vae": "vae"}, {"agreement_vae": "vae"}),
        ({"solver": dataclasses.replace(SOLVERS["euler"])}, {"solver": "ddim"}),
        ({"blend": blending.laplacian}, {"blend": "laplacian"}),
    ],
)
def test_from_python(called, arguments, stated):
    assert called(**arguments) == GLOBAL | OWN | stated


def test_a_caller_of_prepare_has_stated_everything(models):
    settings = RunSettings(prompts=("a", "star"))
    prepared = pipeline.prepare(load(models / "own"), settings, devices=CPU)
    assert prepared.settings.sampler == SamplerSettings(solver="ddim")


def test_a_model_without_the_file_has_the_global_defaults(typed, place):
    (place / "own" / "sampler.json").unlink()
    assert typed()[0] == GLOBAL | {"solver": "ddim"}


@pytest.mark.parametrize(
    ("own", "flags", "expected"),
    [
        ({"solver": "ddim", "eta": 0.5}, [], ("ddim", 0.5)),
        ({"solver": "ddim", "eta": 0.5}, ["--solver=ddim"], ("ddim", 0.5)),
        ({"solver": "ddim", "eta": 0.5}, ["--solver=euler"], ("euler", 0.0)),
        ({"eta": 0.5}, ["--solver=euler"], ("euler", 0.0)),
        ({"solver": "euler"}, ["--solver=ddim", "--config.sampler.eta=1"], ("ddim", 1.0)),
        ({"solver": "euler"}, ["--solver=", "--config.sampler.eta=1"], ("ddim", 1.0)),
    ],
)
def test_an_eta_goes_with_its_solver(typed, place, own, flags, expected):
    (place / "own" / "sampler.json").write_text(json.dumps(own))
    settings, _ = typed(*flags)
    assert (settings["solver"], settings["eta"]) == expected


FULL = {"strip": 0.14, "own_colour": 0.2, "blend_release": 1.0}
FULL |= {"agree_first": 0.5, "agree_every": 3}
NONE = {name: GLOBAL[name] for name in FULL}


@pytest.mark.parametrize(
    ("own", "flags", "expected"),
    [
        ({}, [], FULL),
        ({}, ["--blend=laplacian", "--config.sampler.method=joint", "--space=latent"], FULL),
        ({}, ["--blend=average"], NONE),
        ({}, ["--config.sampler.method=outpainting"], NONE),
        ({}, ["--blend=none", "--config.sampler.agree_every=2"], NONE | {"agree_every": 2}),
        ({"blend": "gradient"}, ["--blend=gradient"], FULL),
        ({"blend": "gradient"}, ["--blend=laplacian"], NONE),
        ({}, ["--config.sampler.blend_weight=0.3"], FULL | {"blend_release": 0.0}),
        (
            {},
            ["--config.sampler.blend_weight=1", "--config.sampler.blend_release=0.5"],
            FULL | {"blend_release": 0.5},
        ),
        ({}, ["--config.sampler.strip=0"], FULL | {"strip": 0.0}),
    ],
)
def test_what_was_chosen_for_a_blend_goes_with_it(typed, place, own, flags, expected):
    (place / "own" / "sampler.json").write_text(json.dumps(FULL | own))
    settings, _ = typed(*flags)
    assert {name: settings[name] for name in FULL} == expected


def test_a_blend_of_ones_own_goes_without(place):
    (place / "own" / "sampler.json").write_text(json.dumps(FULL))
    given = {"stated": {"blend"}, "own": {"blend": blending.average}, "devices": CPU}
    model, settings = load(place / "own"), RunSettings(prompts=("a", "star"))
    s = pipeline.prepare(model, settings, **given).settings.sampler
    assert {name: getattr(s, name) for name in FULL} == NONE


def test_an_eta_that_the_models_solver_does_not_take(called):
    with pytest.raises(UserError, match="only ddim takes one, not dpmpp_2m; choose solver ddim"):
        called(eta=0.5)


@pytest.mark.parametrize("name", ["agreement_vae", "pixel_every"])
def test_only_what_the_user_states_is_said_to_have_no_effect(typed, name):
    assert typed("--space=latent")[1] == ""
    value = {"agreement_vae": "vae", "pixel_every": "5"}[name]
    said = typed("--space=latent", f"--config.sampler.{name}={value}")[1]
    assert (f"sampler.{name} has no effect in space latent" in said) == (name == "pixel_every")


def test_a_run_keeps_the_defaults_it_was_made_with(place, capsys):
    small = ["--config.movie.fps=2", "--config.movie.size=16", "--steps=2"]
    command = ["pot-jax", "sample", "a", "star", "--model=own", "--workdir=run", *small]
    assert main.main(command) == 0
    record = json.loads((place / "run" / "config.json").read_text())
    assert build(SamplerSettings, record["config"]["sampler"]) == SamplerSettings(
        **GLOBAL | OWN | {"steps": 2}
    )
    assert read_record(place / "run").settings.sampler == SamplerSettings(**(OWN | {"steps": 2}))
    (place / "own" / "sampler.json").write_text('{"guidance_scale": 7.0, "blend": "none"}')
    again = ["pot-jax", "sample", "--config=run/config.json", "--workdir=run"]
    assert main.main(again) == 0
    assert "already complete" in capsys.readouterr().out
    assert main.main([*again[:-1], "--workdir=other"]) == 0
    levels = [place / run / "levels" / "level_001.png" for run in ("run", "other")]
    assert levels[0].read_bytes() == levels[1].read_bytes()
    # The same words with other defaults of the model are another run, and what differs is said.
    capsys.readouterr()
    assert main.main(command) == 2
    assert "sampler.agreement_vae is 'tiny_vae' there, 'vae' here" in capsys.readouterr().err


def test_settings_newer_than_a_record_are_not_the_models(typed, place):
    old = {name: value for name, value in GLOBAL.items() if name != "agreement_vae"}
    record = {"format": 2, "config": {"model": "own", "sampler": {**old, "solver": "euler"}}}
    record["config"]["photograph"] = {"path": "", "level": 0, "method": "project"}
    (place / "config.json").write_text(json.dumps(record))
    assert typed("--config=config.json")[0] == GLOBAL | {"solver": "euler"}


def test_runs_from_before_a_setting_are_the_same_runs():
    settings = RunSettings(prompts=("a",))
    newer = {"agreement_vae": "tiny_vae", "noise": "blurred", "time_travel": 2}
    newer |= {"method": "outpainting", "strip": 0.1, "agree_first": 0.5, "agree_every": 2}
    newer |= {
        "blend_release": 1.0,
        "own_colour": 0.5,
        "sigmas": "karras",
        "timestep_spacing": "trailing",
    }
    newer |= dict.fromkeys(SIZES, (8, 8))
    old = {name: value for name, value in GLOBAL.items() if name not in newer}
    assert zoom_identity(settings, _geometry(), {})["sampler"] == digest(old)
    for name, value in newer.items():
        other = dataclasses.replace(settings, sampler=SamplerSettings(**{name: value}))
        assert zoom_identity(other, _geometry(), {})["sampler"] != digest(old)


def _geometry():
    return pipeline.Geometry(1, 2, 8, 8)


# The tiny autoencoder -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tokenizer"), tiny_vae=TINY_VAE)


FAST = {"steps": 3, "devices": CPU}


def both(model, **settings):
    """Latents with agreement through the autoencoder and through the tiny one, and the zooms."""
    zooms = [
        pot_jax.sample(model, ["a", "star"], agreement_vae=name, **(FAST | settings))
        for name in ("vae", "tiny_vae")
    ]
    return zooms, np.abs(zooms[0].latents - zooms[1].latents).max()


def test_levels_agree_through_the_tiny_one_and_are_delivered_by_the_true_one(model):
    (zoom, tiny), difference = both(model)
    assert difference > 1e-3
    decode = jax.jit(functools.partial(decode_latents, model.autoencoder))
    decoded = decode(model.params["autoencoder"], tiny.latents)
    np.testing.assert_allclose(tiny.before_render, decoded, atol=1e-5)
    _, others = both(model, pixel_every=3)  # the first of three steps
    assert others > 1e-5


def test_the_last_step_agrees_through_the_true_one(model):
    assert both(model, steps=1)[1] < 1e-5


@pytest.mark.loose_promotion("optax's Adam raises a float to its integer step count")
def test_levels_descend_through_the_tiny_one(model):
    assert both(model, blend="gradient", gradient_steps=2)[1] > 1e-3


def test_levels_that_need_not_agree_are_the_same_with_either(model):
    zooms, difference = both(model, blend="none")
    assert difference < 1e-5
    np.testing.assert_allclose(zooms[0].images, zooms[1].images, atol=1e-5)


def test_it_is_needed_only_where_it_is_asked_for(tmp_path):
    plain = tiny_model(tmp_path)
    with pytest.raises(UserError, match=r"agreement_vae: expected vae, since tiny has no tiny_vae"):
        pot_jax.sample(plain, ["a", "star"], agreement_vae="tiny_vae", **FAST)
    with pytest.raises(UserError, match="agreement_vae: expected one of vae, tiny_vae"):
        pot_jax.sample(plain, ["a", "star"], agreement_vae="taesd", **FAST)


def test_its_scaling_is_its_own(model):
    """AutoencoderTiny works on latents as the UNet sees them: no scaling factor of the vae's."""
    mesh = meshes.device_mesh(CPU)
    decode, encode = autoencoder(model.tiny_vae, mesh, None, "tiny_vae")
    latents = np.linspace(-1, 1, 8 * 8 * 4, dtype=np.float32).reshape(1, 8, 8, 4)
    images = jax.jit(decode)(model.params, latents)
    apply = functools.partial(model.tiny_vae.apply, {"params": model.params["tiny_vae"]})
    apply = jax.jit(apply, static_argnames="method")
    np.testing.assert_allclose(images, apply(latents, method="decode"), atol=1e-5)
    expected = apply(images, method="encode")
    np.testing.assert_allclose(jax.jit(encode)(model.params, images), expected, atol=1e-5)


def test_a_dry_run_counts_it(place, capsys):
    assert main.main(["pot-jax", "sample", "a", "star", "--model=own", "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert "tiny_vae 0.0" in said
    assert "steps: 16 of dpmpp_2m" in said
