"""What a file's metadata and its yaml say: used, compared with each other, and never ignored."""

import json

import pytest
from safetensors.numpy import save_file
from single_files import TINY_1, TINY_2, TINY_XL, tensors
from tiny_models import write_tiny_tokenizer

from pot_jax.weights.layouts.single_file import file_source
from pot_jax.weights.layouts.stated import Statement, agreed, metadata_statements, yaml_statements

V1, V2 = "stable-diffusion-v1", "stable-diffusion-v2-768-v"
XL = "stable-diffusion-xl-v1-base"


@pytest.fixture(scope="module")
def contents():
    return {1: tensors(TINY_1), 2: tensors(TINY_2), "XL": tensors(TINY_XL)}


@pytest.fixture
def read(contents, tmp_path):
    """Reads a tiny file of a generation, with metadata and a yaml beside it."""

    def call(generation=1, metadata=None, yaml=None, prediction_type=None, **extra):
        path = tmp_path / "tiny.safetensors"
        save_file(contents[generation] | extra, path, metadata)
        write_tiny_tokenizer(tmp_path / "tokenizer")
        if yaml is not None:
            (tmp_path / "tiny.yaml").write_text(yaml, encoding="utf-8-sig")
        return file_source(path, "float32", prediction_type=prediction_type).parts

    return call


def yaml_of(unet=(), **params):
    params |= {"unet_config": {"target": "openaimodel.UNetModel", "params": dict(unet)}}
    return json.dumps({"model": {"target": "ldm.LatentDiffusion", "params": params}})


def sgm(scaling):
    """As SDXL's own code has it."""
    scaling = {"target": f"sgm.modules.diffusionmodules.denoiser_scaling.{scaling}"}
    noise = {"target": "sgm.Denoiser", "params": {"num_idx": 900, "scaling_config": scaling}}
    params = {"scale_factor": 0.13025, "denoiser_config": noise, "network_config": {}}
    return json.dumps({"model": {"target": "sgm.models.DiffusionEngine", "params": params}})


LDM = {"linear_start": 0.001, "linear_end": 0.01, "timesteps": 500, "scale_factor": 0.2}


@pytest.mark.parametrize(
    ("generation", "stated", "predicts"),
    [
        (1, {"metadata": {"modelspec.prediction_type": "v"}}, "v_prediction"),
        (2, {"metadata": {"modelspec.prediction_type": "epsilon"}}, "epsilon"),
        (2, {"metadata": {"modelspec.architecture": "stable-diffusion-v2-512"}}, "epsilon"),
        (2, {"metadata": {"modelspec.architecture": V2}}, "v_prediction"),
        (1, {"metadata": {"ss_v_parameterization": "True"}}, "v_prediction"),
        (2, {"metadata": {"ss_base_model_version": "sd_v2"}}, "epsilon"),
        (2, {"metadata": {"ss_base_model_version": "sd_v2_v", "ss_v2": "True"}}, "v_prediction"),
        (1, {"yaml": yaml_of(parameterization="v")}, "v_prediction"),
        (2, {"yaml": yaml_of(**LDM)}, "epsilon"),  # the original code's default
        (2, {"yaml": yaml_of(**LDM), "metadata": {"ss_v_parameterization": "false"}}, "epsilon"),
        (2, {"yaml": yaml_of(**LDM), "prediction_type": "v_prediction"}, "v_prediction"),
        (
            "XL",
            {"metadata": {"modelspec.architecture": XL, "modelspec.prediction_type": "v"}},
            "v_prediction",
        ),
        (
            "XL",
            {
                "metadata": {
                    "ss_base_model_version": "sdxl_base_v1-0",
                    "modelspec.prediction_type": "epsilon",
                }
            },
            "epsilon",
        ),
        ("XL", {"yaml": sgm("VScaling")}, "v_prediction"),
        ("XL", {"yaml": sgm("EpsScaling")}, "epsilon"),
    ],
)
def test_what_is_predicted_is_looked_up_everywhere(read, generation, stated, predicts):
    parts = read(generation, **stated)
    assert parts.schedule.prediction_type == predicts
    assert parts.notices == ()


@pytest.mark.parametrize(
    ("generation", "predicts"), [(1, "epsilon"), (2, "v_prediction"), ("XL", "epsilon")]
)
def test_a_default_is_said(read, generation, predicts):
    parts = read(generation, {"format": "pt", "modelspec.title": "mine"})
    assert parts.schedule.prediction_type == predicts
    (notice,) = parts.notices
    assert notice.endswith(f"does not say what the model predicts; {predicts} is assumed")


def test_the_schedule_and_the_scale_come_from_the_yaml(read):
    parts = read(1, yaml=yaml_of({"context_dim": 16, "in_channels": 4}, **LDM))
    schedule = parts.schedule
    assert (schedule.beta_start, schedule.beta_end) == (0.001, 0.01)
    assert schedule.num_train_timesteps == 500
    assert parts.modules["autoencoder"].config.scaling_factor == 0.2


@pytest.mark.parametrize(
    ("generation", "stated", "words"),
    [
        (1, {"metadata": {"modelspec.architecture": V2}}, ["width", "is 1", "architecture"]),
        (2, {"metadata": {"ss_v2": "False"}}, ["generation is 2", "ss_v2", "is 1"]),
        (1, {"metadata": {"modelspec.architecture": "flux-1-dev"}}, ["is 1", "flux-1-dev"]),
        (1, {"metadata": {"modelspec.architecture": XL}}, ["is 1", "architecture", "it is XL"]),
        ("XL", {"metadata": {"modelspec.architecture": V1}}, ["generation is XL", "it is 1"]),
        ("XL", {"metadata": {"ss_base_model_version": "sd_v1"}}, ["generation is XL", "it is 1"]),
        ("XL", {"yaml": sgm("EDMScaling")}, ["prediction_type", "'EDMScaling'"]),
        (
            1,
            {"metadata": {"modelspec.prediction_type": "v"}, "yaml": yaml_of(**LDM)},
            ["modelspec.prediction_type", "v_prediction", "tiny.yaml", "epsilon"],
        ),
        (1, {"yaml": yaml_of({"context_dim": 1024})}, ["context_dim is 16", "tiny.yaml", "1024"]),
        (1, {"yaml": yaml_of({"in_channels": 9})}, ["in_channels is 4", "tiny.yaml", "it is 9"]),
        (1, {"yaml": yaml_of(parameterization="flow")}, ["prediction_type", "'flow'"]),
        (1, {"yaml": yaml_of(parameterization=["v"])}, ["tiny.yaml", "correct it, or remove it"]),
        (1, {"yaml": yaml_of(linear_start="a")}, ["beta_start: expected a number"]),
        (1, {"yaml": "model: ["}, ["tiny.yaml is not the settings", "correct it, or remove it"]),
        (1, {"yaml": "a: 1"}, ["tiny.yaml is not the settings"]),
        (1, {"yaml": "!!python/object/apply:os.getpid []"}, ["tiny.yaml is not the settings"]),
    ],
)
def test_contradictions_and_damage_are_refused(read, generation, stated, words, one_line):
    one_line(lambda: read(generation, **stated), *words)


def test_a_marker_contradicts_too(read, one_line, contents):
    marker = contents[1]["betas"][:0].copy()
    one_line(lambda: read(1, {"ss_v_parameterization": "False"}, v_pred=marker), "tensor v_pred")


def test_places_that_say_nothing():
    nothing = {"modelspec.architecture": " ", "ss_base_model_version": "mine", "ss_v2": "None"}
    assert metadata_statements(nothing) == {}
    assert agreed("x", [], "y") is None
    assert agreed("x", [Statement("a", 1), Statement("b", 1)], "y") == 1


def test_no_yaml(tmp_path):
    assert yaml_statements(tmp_path / "x.safetensors") == {}
