"""Settings: plain data becomes frozen dataclasses, or one clear line."""

import json

import pytest

from pot_jax import config
from pot_jax.errors import UserError


def test_defaults_go_to_json_and_back():
    settings = config.RunSettings(
        prompts=("a", "b"),
        zoom=config.ZoomSettings(placement=((4, -8),)),
        sampler=config.SamplerSettings(steps=7, solver="euler"),
        loras=(config.LoraSettings("a.safetensors", 0.5, "c0ffee"),),
        embeddings=[config.EmbeddingSettings("<cat>", "b.safetensors")],
    )
    data = json.loads(json.dumps(config.to_dict(settings)))
    assert config.from_dict(data) == settings


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
        ({"sampler": {"blend": "mean"}}, "one of laplacian, average, iterative, none, gradient"),
        ({"sampler": {"steps": 0}}, "sampler.steps: expected at least 1, got 0"),
        ({"sampler": {"steps": 2.5}}, "sampler.steps: expected a whole number, got 2.5"),
        ({"sampler": {"steps": True}}, "sampler.steps: expected a whole number, got True"),
        ({"sampler": {"guidance_scale": float("nan")}}, "guidance_scale"),
        ({"sampler": {"guidance_rescale": 1.5}}, "guidance_rescale"),
        ({"sampler": {"guidance_scale": "high"}}, "guidance_scale"),
        ({"sampler": {"guidence": 3}}, "unknown setting 'sampler.guidence'; known: solver, steps"),
        ({"sampler": 3}, "sampler must be a group of settings"),
        ({"zoom": {"zoom_factor": 1}}, "zoom.zoom_factor: expected a whole number >= 2, got 1"),
        ({"zoom": {"placement": [[1, 2, 3]]}}, "placement[0]: expected 2 values"),
        ({"zoom": {"placement": "centre"}}, "zoom.placement: expected a list"),
        ({"loras": "a.safetensors"}, "loras: expected a list, got 'a.safetensors'"),
        ({"loras": ["a"]}, "loras[0] must be a group of settings, got 'a'"),
        ({"loras": [{"file": "a"}]}, "unknown setting 'loras[0].file'; known: path, strength"),
        ({"loras": [{"strength": 1.0}]}, "loras.path: expected a file, got ''"),
        ({"loras": [{"path": "a", "strength": "1"}]}, "loras.strength: expected float, got '1'"),
        ({"embeddings": [{"token": "<cat>"}]}, "embeddings.path: expected a file, got ''"),
        ({"photograph": {"method": "sgd"}}, "photograph.method: expected one of"),
        ({"movie": {"fps": 0}}, "movie.fps"),
        ({"seed": -1}, "seed: expected 0 to"),
        ({"prompts": ["a", 3]}, "prompts[1]: expected a text, got 3"),
        ({"dtype": "int8"}, "dtype: expected one of float32, bfloat16, float16"),
        ({"colour": "red"}, "unknown setting 'colour'"),
    ],
)
def test_a_mistake_is_one_line(data, message):
    with pytest.raises(UserError) as raised:
        config.from_dict(data)
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
        ("a.json", "[1]", "holds list"),
        ("a.py", "x = 1", "defines no get_config()"),
        ("a.yaml", "x: 1", "expected a .py or .json file"),
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
