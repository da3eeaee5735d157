"""Traces are kept beside compiled programs, and never serve another program, or damaged."""

import dataclasses
import hashlib

import jax
import pytest
from tiny_models import TINY_VAE, tiny_model

from pot_jax.config import RunSettings, SamplerSettings, ZoomSettings
from pot_jax.diffusion.solvers import SOLVERS
from pot_jax.pipelines import program, traces
from pot_jax.pipelines import zoom as pipeline

SETTINGS = RunSettings(
    prompts=("a", "star"), seed=3, sampler=SamplerSettings(steps=3, solver="ddpm", space="latent")
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def folder(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path / "traced"
    jax.config.update("jax_compilation_cache_dir", before)


def pictures(model, devices=1, callback=None, settings=SETTINGS, **own) -> bytes:
    """The pictures of a run as of a new process, which has assembled nothing."""
    program.assemble.cache_clear()
    jax.clear_caches()
    prepared = pipeline.prepare(model, settings, own=own, devices=jax.devices()[:devices])
    return pipeline.sample_run(prepared, callback=callback)[0].images.tobytes()


@pytest.fixture
def traced(monkeypatch):
    """Returns run(...) -> (how many functions were traced, the pictures)."""
    written, real = [], traces._write
    monkeypatch.setattr(traces, "_write", lambda *given: written.append(real(*given)))

    def run(*arguments, **options):
        written.clear()
        made = pictures(*arguments, **options)
        return len(written), made

    return run


def test_a_second_start_traces_nothing_and_gives_the_same_bytes(model, folder, traced):
    count, first = traced(model)
    assert count == 2
    count, second = traced(model)
    assert count == 0
    assert first == second
    assert len(list(folder.iterdir())) == 2
    jax.config.update("jax_compilation_cache_dir", None)
    assert pictures(model) == first


def test_numbers_share_a_trace_and_other_programs_do_not(model, folder, traced):
    pictures(model)
    numbers = dataclasses.replace(SETTINGS, seed=4)
    assert traced(model, settings=numbers)[0] == 0
    for settings in (
        dataclasses.replace(SETTINGS, zoom=ZoomSettings(zoom_factor=4)),
        dataclasses.replace(SETTINGS, prompts=("a", "star", "st")),
    ):
        assert traced(model, settings=settings)[0] > 0


def test_programs_of_other_autoencoders_share_no_trace(folder, traced, tmp_path):
    model = tiny_model(tmp_path, tiny_vae=TINY_VAE)
    pixels = dataclasses.replace(SETTINGS.sampler, space="pixel")
    made = {}
    for name in ("vae", "tiny_vae"):
        sampler = dataclasses.replace(pixels, agreement_vae=name)
        count, made[name] = traced(model, settings=dataclasses.replace(SETTINGS, sampler=sampler))
        assert count > 0
    assert made["vae"] != made["tiny_vae"]


@pytest.mark.parametrize("place", [0, 5000])
def test_a_damaged_trace_is_made_again(model, folder, traced, place):
    first = pictures(model)
    files = {path: path.read_bytes() for path in folder.iterdir()}
    for path, content in files.items():
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
    count, second = traced(model)
    assert count == 2
    assert first == second
    for path in files:  # whole again; two traces of one program need not have the same bytes
        content = path.read_bytes()
        assert hashlib.sha256(content[32:]).digest() == content[:32]


@pytest.mark.parametrize(
    "other",
    [
        {"devices": 2},
        {"solver": dataclasses.replace(SOLVERS["ddpm"])},
        {"blend": lambda images, geometry, **options: images},
    ],
    ids=["devices", "solver", "blend"],
)
def test_what_is_not_known_by_name_is_not_kept(model, folder, other):
    pictures(model, **other)
    assert not folder.exists()


def test_a_folder_that_cannot_be_written_costs_nothing(model, folder):
    folder.write_text("in the way")
    assert pictures(model) == pictures(model)


def test_only_so_many_are_kept(model, folder, monkeypatch):
    monkeypatch.setattr(traces, "_KEPT", 2)
    pictures(model)
    first = set(folder.iterdir())
    pictures(model, callback=lambda seen: None)
    assert len(list(folder.iterdir())) == 2
    assert set(folder.iterdir()) != first
