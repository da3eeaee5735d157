"""The commands, called as a user calls them; and what they leave in the workdir."""

import dataclasses
import hashlib
import json
import pathlib
import shutil
import signal
import subprocess
import sys

import av
import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from tiny_models import tiny_model

from pot_jax import main
from pot_jax.config import MovieSettings
from pot_jax.pipelines import zoom as pipeline
from pot_jax.runs.interrupts import Stopped
from pot_jax.runs.zoom import read_record
from pot_jax.weights import load
from pot_jax.weights.export import export

FLAGS = ["--steps=7", "--space=latent", "--config.save_every=5", "--config.movie.fps=4"]
SIZE = "--config.movie.size=16"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder."""
    path = tmp_path_factory.mktemp("model")
    export(tiny_model(path / "tokenizer"), path / "tiny")
    return path / "tiny"


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """The commands take all devices; one compiles faster than eight."""
    devices = jax.devices()[:1]
    monkeypatch.setattr("jax.devices", lambda *a: devices)


def run(*arguments) -> int:
    return main.main(["pot-jax", *map(str, arguments)])


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "done"
    devices = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jax.devices", lambda *a: devices)
        assert (
            run("sample", "a", "star", f"--model={folder}", *FLAGS, SIZE, f"--workdir={path}") == 0
        )
    return path


def tree(path):
    return {
        str(file.relative_to(path)): (file.stat().st_mtime_ns, file.read_bytes())
        for file in sorted(pathlib.Path(path).rglob("*"))
        if file.is_file()
    }


def test_what_a_run_leaves(finished):
    assert set(tree(finished)) == {
        "config.json",
        "contact_sheet.png",
        "levels/level_000.png",
        "levels/level_001.png",
        "metrics.json",
        "stack.npz",
        "zoom.html",
        "zoom.mp4",
    }
    with np.load(finished / "stack.npz") as stack:
        assert stack["images"].shape == (2, 16, 16, 3)
        assert stack["latents"].shape == (2, 8, 8, 4)
        assert stack["images"].dtype == np.float32
    record = json.loads((finished / "config.json").read_text())
    assert record["config"]["prompts"] == ["a", "star"]
    assert record["config"]["sampler"]["steps"] == 7
    assert len(record["weights_sha256"]) == 64
    assert record["versions"]["jax"] == jax.__version__
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["overlap_psnr_db"]["delivered"]["minimum"] >= 55
    assert metrics["seconds_per_step"] > 0
    with Image.open(finished / "levels" / "level_000.png") as picture:
        assert picture.size == (16, 16)


def test_the_same_command_again_changes_nothing(finished, folder, capsys):
    before = tree(finished)
    assert (
        run("sample", "a", "star", f"--model={folder}", *FLAGS, SIZE, f"--workdir={finished}") == 0
    )
    assert "already complete" in capsys.readouterr().out
    assert tree(finished) == before


def test_a_run_from_before_a_setting_is_the_same_run(finished, folder, tmp_path, capsys):
    old = shutil.copytree(finished, tmp_path / "old")
    record = json.loads((old / "config.json").read_text())
    del record["config"]["variant"], record["format"], record["identity"]
    record["config"]["stacks"] = record["config"].pop("num_samples")
    (old / "config.json").write_text(json.dumps(record))
    assert run("sample", "a", "star", f"--model={folder}", *FLAGS, SIZE, f"--workdir={old}") == 0
    assert "already complete" in capsys.readouterr().out


def test_another_run_is_not_overwritten(finished, folder, capsys):
    before = tree(finished)
    assert run("sample", "a", "b", f"--model={folder}", *FLAGS, f"--workdir={finished}") == 2
    assert "holds another run (prompts is" in capsys.readouterr().err
    assert tree(finished) == before


def test_a_run_of_another_model_says_which(finished):
    there = read_record(finished)
    here = dataclasses.replace(there, settings=dataclasses.replace(there.settings, model="new"))
    assert there.differing(here) == [], "the same model at another path"
    other = dataclasses.replace(here, identity={**here.identity, "networks": "other"})
    (row,) = there.differing(other)
    assert row == f"model is {there.settings.model!r} there, 'new' here"
    unknown = dataclasses.replace(there, identity=None)
    assert unknown.differing(here) == []


def test_the_default_model_is_cosmos128(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["sample", "a blue planet", "a green island", "--steps=2", SIZE, "--workdir=run"]
    assert run(*command, "--config.movie.fps=4") == 0
    record = read_record("run")
    assert record.settings.model == "cosmos128"
    assert (record.geometry.height, record.geometry.width) == (128, 128)
    sea, land = (np.asarray(Image.open(f"run/levels/level_00{i}.png"), float) for i in (0, 1))
    # A blue planet, and something else than it; a network of other weights shows neither.
    assert (sea[..., 2] - sea[..., 0]).mean() > 20
    assert np.abs(sea - land).mean() > 5
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["overlap_psnr_db"]["delivered"]["minimum"] >= 55


def test_a_killed_run_resumes_to_the_same_bytes(finished, folder, tmp_path, monkeypatch):
    killed = tmp_path / "killed"
    command = ["sample", "a", "star", f"--model={folder}", *FLAGS, SIZE, f"--workdir={killed}"]
    calls = []

    def fail(*arguments):
        calls.append(arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "deliver", fail)
        assert run(*command) == 130
    assert (killed / "state").is_dir()
    steps = []
    real = pipeline.run

    def watched(job, states, **keywords):
        steps.append(int(states.step))
        return real(job, states, **keywords)

    monkeypatch.setattr(pipeline, "run", watched)
    assert run(*command) == 0
    assert steps == [5], "it resumed from the saved state"
    assert not (killed / "state").exists()
    for name in ("levels/level_000.png", "levels/level_001.png", "zoom.mp4"):
        assert (killed / name).read_bytes() == (finished / name).read_bytes()


def test_render_and_evaluate(finished, tmp_path, capsys):
    movie = tmp_path / "other.mp4"
    assert run("render", f"--workdir={finished}", f"--output={movie}", "--size=24", "--fps=5") == 0
    assert movie.stat().st_size > 0
    assert run("evaluate", f"--workdir={finished}") == 0
    assert "2 levels of 16 x 16 pixels" in capsys.readouterr().out


def test_render_starts_from_the_runs_own_movie(finished, tmp_path, capsys):
    assert list(main.MOVIE_FLAGS) == [field.name for field in dataclasses.fields(MovieSettings)]
    copy = shutil.copytree(finished, tmp_path / "copy")
    usual = read_record(copy).settings.movie
    said = ["--seconds=3", "--aspect=2:1", "--captions", "--easing=0.5"]
    assert run("render", f"--workdir={copy}", *said) == 0
    first = {"seconds": 3.0, "aspect": "2:1", "captions": True, "easing": 0.5}
    assert read_record(copy).settings.movie == dataclasses.replace(usual, **first)
    with av.open(str(copy / "zoom.mp4")) as movie:
        stream = movie.streams.video[0]
        assert (stream.frames, stream.width, stream.height) == (3 * usual.fps, 32, 16)
    other = f"--output={tmp_path / 'z.webm'}"
    assert run("render", f"--workdir={copy}", "--seconds_per_level=2", other, "--nocaptions") == 0
    assert read_record(copy).settings.movie.captions
    with av.open(str(tmp_path / "z.webm")) as movie:  # an easing's half second and two rests
        assert len(list(movie.decode(video=0))) == 2 * 4 + 2 + 2 * 2 + 1
    assert "note" not in capsys.readouterr().err


def test_convert_then_export(folder, tmp_path):
    assert run("convert", folder, tmp_path / "kept") == 0
    assert run("export", tmp_path / "kept", tmp_path / "back") == 0
    for name in ("unet", "vae"):
        file = f"{name}/diffusion_pytorch_model.safetensors"
        assert (tmp_path / "back" / file).read_bytes() == (folder / file).read_bytes()


def test_a_json_configuration_and_overrides(folder, tmp_path, monkeypatch):
    file = tmp_path / "run.json"
    file.write_text(
        json.dumps({"prompts": ["a", "b"], "model": str(folder), "sampler": {"steps": 3, "eta": 1}})
    )
    seen = []
    monkeypatch.setattr(main, "_sample", lambda *given: seen.append(given))
    assert (
        run("sample", f"--config={file}", "--config.sampler.eta=0.5", "--seed=4", "--workdir=w")
        == 0
    )
    ((settings, path, stated, *others),) = seen
    assert others[:2] == [None, None], "no run is continued"
    assert (settings.prompts, settings.seed, path) == (("a", "b"), 4, "w")
    assert stated >= {"eta"}
    assert (settings.sampler.steps, settings.sampler.eta) == (3, 0.5)


def test_loras_and_embeddings(folder, finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    layer = "lora_unet_mid_block_attentions_0_proj_in"
    ones = {f"{layer}.lora_{part}.weight": np.full((32, 32), 0.1, "f4") for part in ("down", "up")}
    save_file(ones, "a:b.safetensors")
    save_file({"emb_params": np.ones((2, 16), "f4")}, "c.safetensors")
    command = ["sample", "a", "star <w>", f"--model={folder}", *FLAGS, SIZE, "--workdir=run"]
    lora, word = "--lora=a:b.safetensors:0.5", "--embedding=c.safetensors:<w>"
    assert run(*command, lora, word) == 0
    record = json.loads(pathlib.Path("run/config.json").read_text())
    (first,), (second,) = record["config"]["loras"], record["config"]["embeddings"]
    assert (first["path"], first["strength"]) == ("a:b.safetensors", 0.5)
    assert (
        first["sha256"] == hashlib.sha256(pathlib.Path("a:b.safetensors").read_bytes()).hexdigest()
    )
    assert (second["path"], second["token"], len(second["sha256"])) == ("c.safetensors", "<w>", 64)
    assert record["weights_sha256"] != read_record(finished).weights_sha256

    capsys.readouterr()
    assert run(*command, lora, word) == 0
    assert "already complete" in capsys.readouterr().out
    # The same as written by hand into a file, by another name of the same word, or changed since.
    config = {"loras": [first], "embeddings": [{"path": "c.safetensors", "token": "<w>"}]}
    pathlib.Path("run.json").write_text(json.dumps(config))
    assert run(*command, "--config=run.json") == 0
    assert "already complete" in capsys.readouterr().out
    for others in ([word], [lora.replace("0.5", "0.4"), word], [lora, word, lora]):
        assert run(*command, *others) == 2
        assert "holds another run (loras is" in capsys.readouterr().err
    save_file({"emb_params": np.zeros((2, 16), "f4")}, "c.safetensors")
    assert run(*command, lora, word) == 2
    assert "holds another run (embeddings is" in capsys.readouterr().err


def test_a_run_of_a_version_without_a_setting_is_the_same_run(finished, folder, tmp_path, capsys):
    old = shutil.copytree(finished, tmp_path / "old")
    record = json.loads((old / "config.json").read_text())
    del record["config"]["loras"], record["config"]["embeddings"]
    del record["format"], record["identity"]
    (old / "config.json").write_text(json.dumps(record))
    assert run("sample", "a", "star", f"--model={folder}", *FLAGS, SIZE, f"--workdir={old}") == 0
    assert "already complete" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["--help", *(f"{name} --help" for name in main.COMMANDS)])
def test_help(command, capsys):
    assert run(*command.split()) == 0
    out = capsys.readouterr().out
    assert "pot-jax" in out
    assert "ConfigDict" not in out, "no dump of every setting"
    assert "!!python" not in out, "no dump of every setting"


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "stopped"),
        (Stopped(signal.SIGTERM, "it resumes"), 143, "stopped by SIGTERM; it resumes"),
        (Stopped(signal.SIGHUP), 129, "stopped by SIGHUP"),
    ],
)
def test_a_stopped_command_has_the_signals_code(raised, code, said, capsys, monkeypatch):
    def stop(arguments):
        raise raised

    monkeypatch.setitem(main.COMMANDS, "evaluate", (stop, ""))
    assert run("evaluate") == code
    assert capsys.readouterr().err == f"pot-jax: {said}\n"


@pytest.mark.parametrize("at", [5, 7, None])
def test_sigterm_saves_a_state_and_says_where_the_run_resumes(
    at, finished, folder, tmp_path, monkeypatch, capsys
):
    """At the end of a chunk of steps, of the last one, and while the pictures are decoded."""
    run_folder = tmp_path / "run"
    command = ["sample", "a", "star", f"--model={folder}", *FLAGS, SIZE]
    command += ["--config.save_every=100", f"--workdir={run_folder}"]
    real, deliver = pipeline.run, pipeline.deliver

    def ended(job, states, *, progress, **keywords):
        def watched(done, total):
            progress(done, total)
            if done == at:
                signal.raise_signal(signal.SIGTERM)

        return real(job, states, progress=watched, **keywords)

    def decoding(*arguments):
        signal.raise_signal(signal.SIGTERM)
        return deliver(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "run", ended)
        if at is None:
            patch.setattr(pipeline, "deliver", decoding)
        assert run(*command) == 143
    said = capsys.readouterr().err.strip().splitlines()[-1]
    resumes = f"resumes from step {at}" if at else "no state was saved yet"
    assert said.startswith("pot-jax: stopped by SIGTERM; ")
    assert resumes in said
    seen = []
    monkeypatch.setattr(
        pipeline,
        "run",
        lambda job, states, **k: seen.append(int(states.step)) or real(job, states, **k),
    )
    assert run(*command) == 0
    assert seen == [at or 0]
    for name in ("levels/level_000.png", "levels/level_001.png", "zoom.mp4", "stack.npz"):
        assert (run_folder / name).read_bytes() == (finished / name).read_bytes()


def test_a_run_of_a_shipped_models_name_is_not_that_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cosmos64").mkdir()
    (tmp_path / "cosmos64" / "config.json").write_text('{"format": 2, "config": {}}')
    assert load._find("cosmos64") == load.SHIPPED["cosmos64"]
    (tmp_path / "cosmos64" / "unet").mkdir()
    assert load._find("cosmos64") == pathlib.Path("cosmos64")


def test_a_zoom_from_python_is_saved_whole(tmp_path):
    model = tiny_model(tmp_path / "tokenizer")
    zoom = pipeline.sample(model, ["star"], steps=2, space="latent")
    zoom.save(tmp_path / "saved")
    assert read_record(tmp_path / "saved").settings.prompts == ("star",)
    with pytest.raises(ValueError, match="not an empty folder"):
        zoom.save(tmp_path / "saved")


@pytest.mark.parametrize("arguments", [["--version"], ["sample", "--help"]])
def test_a_full_disk_as_the_output_is_one_line(arguments):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "pot_jax", *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("pot-jax: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a.safetensors", ("a.safetensors", "")),
        ("a:b.safetensors:0.5", ("a:b.safetensors", "0.5")),
        ("a.safetensors:<x:y>", ("a.safetensors", "<x:y>")),
        ("trained", ("trained", "")),
        ("trained:0.5", ("trained", "0.5")),
        ("absent:0.5", ("absent:0.5", "")),
    ],
)
def test_a_path_and_the_rest(text, parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trained").mkdir()
    assert main._file_and_rest(text) == parts
