"""Settings: plain data becomes frozen dataclasses, or one clear line."""

import json
import subprocess
import sys

import numpy as np
import pytest

from pot_jax import checks, config
from pot_jax.errors import UserError


def test_defaults_go_to_json_and_back():
    settings = config.RunSettings(
        prompts=("a", "b"),
        zoom=config.ZoomSettings(placement=((4, -8),)),
        sampler=config.SamplerSettings(steps=7, solver="euler"),
        loras=(config.LoraSettings("a.safetensors", 0.5, "c0ffee"),),
        embeddings=[config.EmbeddingSettings("<cat>", "b.safetensors")],
    )
    data = json.loads(json.dumps(checks.to_dict(settings)))
    assert checks.build(config.RunSettings, data) == settings


def test_settings_are_frozen_and_hashable():
    settings = config.RunSettings(prompts=["a"])
    assert settings.prompts == ("a",)
    assert isinstance(hash(settings), int)
    with pytest.raises(AttributeError):
        settings.seed = 3


def test_whole_numbers_serve_as_numbers():
    assert config.SamplerSettings(guidance_scale=4).guidance_scale == 4.0
    assert isinstance(config.SamplerSettings(guidance_scale=4).guidance_scale, float)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"sampler": {"solver": "euler_a"}}, "one of ddpm, ddim, euler, euler_ancestral, dpmpp_2m"),
        (
            {"sampler": {"blend": "mean"}},
            "one of laplacian, average, iterative, none, enlarged, gradient",
        ),
        ({"sampler": {"steps": 0}}, "sampler.steps: expected at least 1, got 0"),
        ({"sampler": {"steps": 2.5}}, "sampler.steps: expected a whole number, got 2.5"),
        ({"sampler": {"steps": True}}, "sampler.steps: expected a whole number, got True"),
        ({"sampler": {"guidance_scale": float("nan")}}, "guidance_scale"),
        ({"sampler": {"guidance_rescale": 1.5}}, "guidance_rescale"),
        ({"sampler": {"guidance_scale": "high"}}, "guidance_scale"),
        ({"sampler": {"guidance_scale": 1e30}}, "sampler.guidance_scale: expected 0 to 1000"),
        ({"upscaler": {"guidance_scale": 1e4}}, "upscaler.guidance_scale: expected 0 to 1000"),
        ({"sampler": {"eta": 100}}, "sampler.eta: expected 0 to 1, got 100"),
        ({"sampler": {"eta": 1, "solver": "euler"}}, "sampler.eta: expected 0: only ddim takes"),
        ({"sampler": {"guidence": 3}}, "unknown setting 'sampler.guidence'; known: solver, steps"),
        ({"sampler": 3}, "sampler: expected a group of settings, got 3"),
        ({"stacks": 2, "num_samples": 2}, "stacks and num_samples are the same setting"),
        ({"zoom": {"zoom_factor": 1}}, "zoom.zoom_factor: expected a whole number >= 2, got 1"),
        ({"zoom": {"placement": [[1, 2, 3]]}}, "placement[0]: expected 2 values"),
        ({"zoom": {"placement": "centre"}}, "zoom.placement: expected a list"),
        ({"loras": "a.safetensors"}, "loras: expected a list, got 'a.safetensors'"),
        ({"loras": ["a"]}, "loras[0]: expected a group of settings, got 'a'"),
        ({"loras": [{"file": "a"}]}, "unknown setting 'loras[0].file'; known: path, strength"),
        ({"loras": [{"strength": 1.0}]}, "loras[0].path: expected a file, got ''"),
        (
            {"loras": [{"path": "a", "strength": "1"}]},
            "loras[0].strength: expected a number, got '1'",
        ),
        ({"embeddings": [{"token": "<cat>"}]}, "embeddings[0].path: expected a file, got ''"),
        ({"photograph": {"method": "sgd"}}, "photograph.method: expected one of"),
        ({"movie": {"fps": 0}}, "movie.fps"),
        ({"seed": -1}, "seed: expected a whole number from 0 to"),
        ({"prompts": ["a", 3]}, "prompts[1]: expected a string, got 3"),
        ({"dtype": "int8"}, "dtype: expected one of float32, bfloat16, float16"),
        ({"colour": "red"}, "unknown setting 'colour'"),
    ],
)
def test_a_mistake_is_one_line(data, message):
    with pytest.raises(UserError) as raised:
        checks.build(config.RunSettings, data)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_files(tmp_path):
    (tmp_path / "a.json").write_text('{"sampler": {"steps": 3}}')
    assert config.read(str(tmp_path / "a.json")) == {"sampler": {"steps": 3}}
    (tmp_path / "a.py").write_text(
        "import ml_collections\n"
        "def get_config():\n"
        "  return ml_collections.ConfigDict({'sampler': {'steps': 4}})\n"
    )
    assert config.read(str(tmp_path / "a.py")) == {"sampler": {"steps": 4}}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "is not JSON"),
        ("a.json", "[1]", "expected settings by name in"),
        ("a.py", "x = 1", "defines no get_config()"),
        ("a.yaml", "x: 1", "expected a .py, .json or .toml file"),
        ("missing.json", None, "no file"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match="--config") as raised:
        config.read(str(tmp_path / name))
    assert message in str(raised.value)


def test_json_is_never_run(tmp_path):
    file = tmp_path / "a.json"
    file.write_text("def get_config(): raise SystemExit")
    with pytest.raises(UserError, match="not JSON"):
        config.read(str(file))


def test_old_names_go_on_working():
    assert checks.build(config.RunSettings, {"stacks": 3}).num_samples == 3
    assert checks.todays_name(config.RunSettings, "stacks") == "num_samples"
    assert checks.todays_name(config.RunSettings, "sampler.steps") == "sampler.steps"


def test_numpy_numbers_serve_as_numbers():
    settings = config.SamplerSettings(steps=np.int64(3), guidance_scale=np.float32(2.5))
    assert (settings.steps, settings.guidance_scale) == (3, 2.5)
    assert type(settings.steps) is int


@pytest.mark.parametrize("name", ["cosmos", "film", "paper"])
def test_files_that_ship_have_short_names(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert checks.build(config.RunSettings, config.read(name)).prompts
    (tmp_path / name).write_text("a path wins")
    with pytest.raises(UserError, match="expected a .py, .json or .toml file"):
        config.read(name)


def test_a_record_from_before_a_movie_setting_has_its_default():
    old = {"seconds_per_level": 1.5, "fps": 30, "size": 64, "direction": "out"}
    settings = checks.build(config.RunSettings, config.settings_of({"config": {"movie": old}}))
    assert settings.movie == config.MovieSettings(size=64, direction="out")


@pytest.mark.parametrize(
    ("aspect", "ratio"), [("", 0), ("16:9", 16 / 9), ("2.39:1", 2.39), ("1:1", 1), ("9:16", 9 / 16)]
)
def test_aspects(aspect, ratio):
    assert config.MovieSettings(aspect=aspect).ratio == pytest.approx(ratio)


def test_a_file_imports_its_siblings_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, steps in (("one", 3), ("two", 4)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "base.py").write_text(f"STEPS = {steps}\n")
        (tmp_path / folder / "run.py").write_text(
            "import base\ndef get_config():\n  return {'sampler': {'steps': base.STEPS}}\n"
        )
    found = [config.read(f"{folder}/run.py")["sampler"]["steps"] for folder in ("one", "two")]
    assert found == [3, 4], "each its own sibling"
    assert not any(path.startswith(str(tmp_path)) for path in sys.path)


def test_a_record_is_a_configuration(tmp_path):
    record = {"config": {"prompts": ["a"], "stacks": 2, "sampler": {"steps": 3}}, "geometry": {}}
    (tmp_path / "config.json").write_text(json.dumps(record))
    data = config.read(str(tmp_path / "config.json"))
    settings = checks.build(config.RunSettings, data)
    assert (settings.num_samples, settings.sampler.steps) == (2, 3)
    assert settings.sampler.blend_weight == 0.3, "a default of that time, stated"
    assert settings.model == "cosmos64", "then the default"


def test_only_samplings_records_are_upgraded(tmp_path):
    record = {"format": 99, "config": {"seed": 1}}
    (tmp_path / "config.json").write_text(json.dumps(record))
    assert config.read(str(tmp_path / "config.json"), "train") == record


def test_a_record_of_a_training_is_one_line_for_sampling(tmp_path):
    record = {"format": 2, "config": {"name": "cosmos64"}, "version": "0.1", "code": None}
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="unknown setting 'name'"):
        checks.build(config.RunSettings, config.read(str(tmp_path / "config.json")))


def test_a_record_of_a_later_version_is_refused():
    with pytest.raises(UserError, match="has format 99, this version of pot_jax reads 1 to 2"):
        config.upgraded({"format": 99, "config": {}}, "config.json")


def test_settings_and_help_do_without_jax():
    mistakes = ["sample --help", "sample a --workdir=w --steps=0", "--version", "--help"]
    code = (
        "import sys; from pot_jax import main\n"
        f"codes = [main.main(['pot-jax', *line.split()]) for line in {mistakes}]\n"
        "assert codes == [0, 2, 0, 0], codes\n"
        "assert 'jax' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
