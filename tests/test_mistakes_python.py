"""Python calls with arguments of a wrong kind: one line each, which says what was expected."""

import contextlib
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_models import tiny_inpainting_model, tiny_model, tiny_upscaler

import pot_jax
from pot_jax.errors import UserError
from pot_jax.weights.export import convert, export

CPU = jax.devices()[:1]
FAST = {"steps": 2, "space": "latent", "devices": CPU}
GREY = np.zeros((16, 16, 3), np.float32)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    makers = {"tiny": tiny_model, "inpainting": tiny_inpainting_model, "upscaler": tiny_upscaler}
    found = {name: make(folder / name) for name, make in makers.items()}
    export(found["tiny"], folder / "exported")
    return found | {"folder": folder / "exported"}


@pytest.fixture(scope="module")
def zoom(models):
    return pot_jax.sample(models["tiny"], ["a", "star"], **FAST)


class Unreadable:
    """What nothing can be made of."""

    def __array__(self, *_, **__):
        raise RuntimeError("no array")


NAN = np.where(np.arange(16)[:, None, None] == 3, np.nan, GREY)

# Arguments of `sample` after the model -> words.
SAMPLES = [
    ({"prompts": None}, "prompts: expected a list of prompts"),
    ({"prompts": 3}, "prompts: expected a list of prompts"),
    ({"prompts": "a star"}, "prompts: expected a list of prompts"),
    ({"prompts": b"a star"}, "prompts: expected a list of prompts"),
    ({"prompts": []}, "prompts: expected at least one"),
    ({"prompts": [None]}, "prompts[0]: expected a string, got None"),
    ({"prompts": [3]}, "prompts[0]: expected a string, got 3"),
    ({"prompts": [b"a"]}, "prompts[0]: expected a string"),
    ({"prompts": ["a", ["b"]]}, "prompts[1]: expected a string"),
    ({"prompts": ["\ud800"]}, "prompts[0]: expected text in UTF-8"),
    ({"prompts": [" "]}, "level 0 is empty"),
    ({"prompts": {}}, "prompts: expected"),
    ({"prompts": np.zeros(3)}, "prompts[0]: expected a string"),
    ({"negative_prompt": None}, "negative_prompt: expected a string, got None"),
    ({"negative_prompt": [3]}, "negative_prompt[0]: expected a string, got 3"),
    ({"negative_prompt": ["a"] * 9}, "negative_prompt: expected one value, or a list of"),
    ({"zoom_factor": "2"}, "zoom.zoom_factor: expected a whole number, got '2'"),
    ({"zoom_factor": 2.0}, "zoom.zoom_factor: expected a whole number, got 2.0"),
    ({"zoom_factor": None}, "zoom.zoom_factor: expected a whole number, got None"),
    ({"zoom_factor": True}, "zoom.zoom_factor: expected a whole number, got True"),
    ({"height": "16"}, "zoom.height: expected a whole number"),
    ({"height": np.float32(16)}, "zoom.height: expected a whole number"),
    ({"width": None}, "zoom.width: expected a whole number"),
    ({"width": np.zeros(2, int)}, "zoom.width: expected a whole number"),
    ({"placement": None}, "zoom.placement: expected a list"),
    ({"placement": 3}, "zoom.placement: expected a list"),
    ({"placement": (2, 2)}, "zoom.placement[0]: expected a list"),
    ({"placement": [(2.0, 2.0)]}, "zoom.placement[0][0]: expected a whole number"),
    ({"loop": 1}, "zoom.loop: expected true or false, got 1"),
    (
        {"loop": True, "placement": [(2, 2)]},
        "zoom.placement: expected 2 pairs, one for each level in",
    ),
    (
        {"loop": True, "photograph": GREY},
        "photograph: expected an open chain of levels, got a loop",
    ),
    ({"seed": None}, "seed: expected a whole number"),
    ({"seed": 1.0}, "seed: expected a whole number"),
    ({"seed": "0"}, "seed: expected a whole number"),
    ({"seed": -1}, "seed: expected a whole number from 0"),
    ({"seed": 2**32}, "seed: expected a whole number from 0"),
    ({"seed": jax.random.key(0)}, "seed: expected a whole number"),
    ({"steps": None}, "sampler.steps: expected a whole number"),
    ({"steps": np.float64(2)}, "sampler.steps: expected a whole number"),
    ({"step": 3}, "unknown setting 'sampler.step'"),
    ({"num_samples": 3}, "unknown setting 'sampler.num_samples'"),
    ({"guidance_scale": "4"}, "sampler.guidance_scale: expected a number"),
    ({"guidance_scale": 4j}, "sampler.guidance_scale: expected a number"),
    ({"guidance_scale": float("nan")}, "sampler.guidance_scale: expected a finite number"),
    ({"solver": "best"}, "sampler.solver: expected one of"),
    ({"solver": 3}, "solver: expected"),
    ({"solver": lambda x: x}, "solver: expected a Solver"),
    ({"blend": "best"}, "sampler.blend: expected one of"),
    ({"blend": 3}, "blend: expected a function"),
    ({"agreement": "pixel"}, "agreement: expected a function"),
    ({"guidance": 7.5}, "guidance: expected a Guidance"),
    ({"space": None}, "sampler.space: expected one of"),
    ({"latents": np.zeros((2, 8, 8, 3))}, "latents: expected unit noise of (2, 8, 8, 4)"),
    ({"latents": np.zeros((8, 8, 4))}, "latents: expected unit noise"),
    ({"latents": np.full((2, 8, 8, 4), np.nan)}, "latents: "),
    ({"latents": np.full((2, 8, 8, 4), np.inf)}, "latents: "),
    ({"latents": np.full((2, 8, 8, 4), "a")}, "latents: "),
    ({"latents": np.zeros((2, 8, 8, 4), complex)}, "latents: "),
    ({"latents": [[1, 2], [3]]}, "latents: "),
    ({"latents": "noise.npy"}, "latents: "),
    ({"latents": 3}, "latents: "),
    ({"latents": jax.random.key(0)}, "latents: "),
    ({"photograph": 3}, "photograph: "),
    ({"photograph": b"bytes"}, "photograph: "),
    ({"photograph": object()}, "photograph: expected a path, a Pillow image or an array"),
    ({"photograph": Unreadable()}, "photograph: expected a path, a Pillow image or an array"),
    ({"photograph": []}, "photograph: "),
    ({"photograph": [[1, 2], [3]]}, "photograph: "),
    ({"photograph": np.zeros((16, 16))}, "photograph: "),
    ({"photograph": np.zeros((16, 16, 2))}, "photograph: "),
    ({"photograph": np.zeros((2, 16, 16, 3))}, "photograph: "),
    ({"photograph": np.zeros((0, 0, 3))}, "photograph: "),
    ({"photograph": np.zeros((0, 0, 3), np.uint8)}, "photograph: "),
    ({"photograph": np.zeros((8, 8, 3))}, "photograph: expected pixels of (16, 16, 3)"),
    ({"photograph": 255 * np.ones((16, 16, 3))}, "photograph: expected bytes"),
    ({"photograph": np.ones((16, 16, 3), int)}, "photograph: "),
    ({"photograph": NAN}, "photograph: "),
    ({"photograph": np.full((16, 16, 3), "a")}, "photograph: "),
    ({"photograph": np.full((16, 16, 3), None)}, "photograph: "),
    ({"photograph": np.zeros((16, 16, 3), complex)}, "photograph: "),
    ({"photograph": Image.new("F", (16, 16))}, "the picture photograph"),
    ({"photograph": Image.new("RGB", (0, 0))}, "photograph: "),
    ({"photograph": "nowhere.png"}, "no picture at nowhere.png"),
    ({"photograph": Path("nowhere.png")}, "no picture at nowhere.png"),
    ({"photograph": {0: GREY, 1: "nowhere.png"}}, "no picture at nowhere.png"),
    ({"photograph": {0: GREY, 1: None}}, "photograph[1]: expected a path, a Pillow image or an"),
    ({"photograph": {0: GREY, 1: np.zeros((8, 8, 3))}}, "photograph[1]: expected pixels of (16"),
    ({"photograph": {0: GREY, 2: GREY}}, "photograph[2].level: expected 0 to 1, got 2"),
    ({"photograph": {"0": GREY}}, "photographs[0].level: expected a whole number"),
    ({"photograph": {-1: GREY}}, "photographs[0].level: expected 0 or more, got -1"),
    ({"photograph": {True: GREY}}, "photographs[0].level: expected a whole number"),
    ({"photograph": {1.5: GREY}}, "photographs[0].level: expected a whole number"),
    ({"photograph": {0: ""}}, "no picture at"),
    (
        {"photograph": GREY, "photograph_fit": "stretch"},
        "photograph.fit: expected one of crop, pad",
    ),
    ({"photograph": GREY, "photograph_fit": None}, "photograph.fit: expected one of crop, pad"),
    ({"photograph": GREY, "photograph_level": [0]}, "photograph.level: expected a whole number"),
    ({"photograph": GREY, "photograph_level": 2}, "photograph.level: expected 0 to 1"),
    ({"photograph": GREY, "photograph_level": "0"}, "photograph.level: expected a whole"),
    ({"photograph": GREY, "photograph_method": "sgd"}, "photograph.method: expected one of"),
    ({"workdir": 12}, "workdir: expected a path, got 12"),
    ({"workdir": True}, "workdir: expected a path"),
    ({"workdir": ["w"]}, "workdir: expected a path"),
    ({"workdir": "a\0b"}, "zero byte"),
    ({"workdir": "x" * 300}, "workdir: expected a shorter path"),
    ({"devices": []}, "devices: expected"),
    ({"devices": CPU[0]}, "devices: expected"),
    ({"devices": "cpu"}, "devices: expected"),
    ({"devices": 1}, "devices: expected"),
    ({"devices": [0]}, "devices: expected"),
    ({"devices": CPU * 2}, "devices: expected"),
    ({"devices": [None]}, "devices: expected"),
    ({"mesh": "levels:2"}, "mesh: expected a product of 1, the number of devices"),
    ({"mesh": "level:1"}, "mesh: expected auto, or sizes of samples, levels, params"),
    ({"mesh": 1}, "mesh: expected a string"),
    ({"progress": 3}, "progress: expected a function"),
    ({"progress": True}, "progress: expected a function"),
    ({"callback": "print"}, "callback: expected a function"),
    ({"callback": []}, "callback: expected a function"),
]
# What is given as the model.
MODELS = [None, "cosmos64", Path("cosmos64"), 3, {}, [], object(), pot_jax.load, pot_jax.Model]

# Arguments of `load` -> words; FOLDER stands for a model's folder.
LOADS = [
    ((None,), {}, "model: expected a path"),
    ((3,), {}, "model: expected a path"),
    ((["cosmos64"],), {}, "model: expected a path"),
    ((b"nowhere",), {}, "there is no model folder nowhere"),
    (("",), {}, "model"),
    (("FOLDER",), {"dtype": "int8"}, "dtype: expected one of"),
    (("FOLDER",), {"dtype": None}, "dtype: expected one of"),
    (("FOLDER",), {"dtype": 3}, "dtype: expected one of"),
    (("FOLDER",), {"dtype": np.float64}, "dtype: expected one of"),
    (("FOLDER",), {"dtype": object()}, "dtype: expected one of"),
    (("FOLDER",), {"variant": 3}, "variant"),
    (("FOLDER",), {"variant": ""}, "variant"),
    (("FOLDER",), {"tokenizer": 3}, "tokenizer: expected a path"),
    (("FOLDER",), {"tokenizer": ["a"]}, "tokenizer: expected a path"),
    (("FOLDER",), {"prediction_type": "eps"}, "prediction_type: expected one of"),
    (("FOLDER",), {"prediction_type": 3}, "prediction_type: expected one of"),
    (("FOLDER",), {"prediction_type": []}, "prediction_type: expected one of"),
    (("FOLDER",), {"loras": "a.safetensors"}, "loras: expected"),
    (("FOLDER",), {"loras": None}, "loras: expected"),
    (("FOLDER",), {"loras": [3]}, "loras: expected"),
    (("FOLDER",), {"loras": [("a", "b")]}, "loras[0].strength: expected a number"),
    (("FOLDER",), {"loras": {3: 1}}, "loras[0].path: expected a path"),
    (("FOLDER",), {"loras": {"a.safetensors": None}}, "loras[0].strength: expected a number"),
    (("FOLDER",), {"embeddings": "a.safetensors"}, "embeddings: expected"),
    (("FOLDER",), {"embeddings": None}, "embeddings: expected"),
    (("FOLDER",), {"embeddings": [(3, "a")]}, "embeddings[0].token: expected a string"),
    (("FOLDER",), {"embeddings": [None]}, "embeddings: expected"),
    (("FOLDER",), {"sharding": 3}, "sharding: expected"),
    (("FOLDER",), {"sharding": "cpu"}, "sharding: expected"),
    (("FOLDER",), {"sharding": CPU[0]}, "sharding: expected"),
]
INPAINTS = [
    ({"prompt": None}, "prompts: expected a list"),
    ({"prompt": 3}, "prompts: expected a list"),
    ({"prompt": "\ud800"}, "prompt: expected text in UTF-8"),
    ({"prompt": ["a", "b"]}, "prompt: expected one string"),
    ({"image": None}, "image: expected a path, a Pillow image or an array"),
    ({"image": np.zeros((15, 16, 3))}, "image: expected a height"),
    ({"image": NAN}, "image: "),
    ({"mask": None}, "mask: expected a path, a Pillow image or an array"),
    ({"mask": np.zeros((8, 8))}, "mask: expected (16, 16)"),
    ({"mask": np.full((16, 16), 2.0)}, "mask: expected"),
    ({"mask": np.full((16, 16), np.nan)}, "mask: expected"),
    ({"mask": np.full((16, 16), -1)}, "mask: expected"),
    ({"negative_prompt": None}, "negative_prompt: expected a string"),
    ({"negative_prompt": 3}, "negative_prompt: expected a string"),
    ({"steps": 0}, "sampler.steps: expected at least 1"),
    ({"steps": 2.5}, "sampler.steps: expected a whole number"),
    ({"seed": 2**32}, "seed: expected a whole number from 0"),
    ({"latents": np.zeros((1, 8, 8, 3))}, "latents: expected unit noise"),
    ({"latents": np.full((1, 8, 8, 4), np.nan)}, "latents: "),
    ({"devices": []}, "devices: expected"),
    ({"progress": 3}, "progress: expected a function"),
]
UPSCALES = [
    (("zoom", None), {}, "expected a model"),
    (("zoom", "upscaler"), {}, "expected a model"),
    ((None, "UPSCALER"), {}, "zoom: expected"),
    ((GREY, "UPSCALER"), {}, "zoom: expected"),
    (("ZOOM", "TINY"), {}, "takes a model for upscaling"),
    (("ZOOM", "UPSCALER"), {"blend": 3}, "unknown blend 3"),
    (("ZOOM", "UPSCALER"), {"blend": "best"}, "blend"),
    (("ZOOM", "UPSCALER"), {"steps": "2"}, "upscaler.steps: expected a whole number"),
    (("ZOOM", "UPSCALER"), {"path": "x"}, "path"),
    (("ZOOM", "UPSCALER"), {"devices": []}, "devices: expected"),
    (("ZOOM", "UPSCALER"), {"progress": 3}, "progress: expected a function"),
]
OTHERS = [
    (lambda zoom, models: zoom.save(None), "folder: expected a path"),
    (lambda zoom, models: zoom.save(3), "folder: expected a path"),
    (lambda zoom, models: zoom.save("a\0b"), "zero byte"),
    (lambda zoom, models: zoom.save("x" * 300), "shorter path"),
    (lambda zoom, models: zoom.save("/proc/x"), "/proc/x"),
    (lambda zoom, models: export(models["tiny"], None), "target: expected a path"),
    (lambda zoom, models: export(None, "new"), "expected a model"),
    (lambda zoom, models: export("tiny", "new"), "expected a model"),
    (lambda zoom, models: export(models["tiny"], "new", dtype="int8"), "dtype: expected one of"),
    (lambda zoom, models: convert(None, "new"), "model: expected a path"),
    (lambda zoom, models: convert(models["folder"], 3), "target: expected a path"),
]


@contextlib.contextmanager
def one_line(*words, folder):
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError) as raised:
        yield
    message = str(raised.value)
    assert "\n" not in message
    assert len(message) < 1000
    for word in words:
        assert word in message
    assert sorted(folder.rglob("*")) == before


def name(value):
    """The same in every process: without addresses."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", ascii(value))[:60]


@pytest.mark.parametrize(("arguments", "words"), SAMPLES, ids=name)
def test_sample(arguments, words, models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with one_line(words, folder=tmp_path):
        pot_jax.sample(models["tiny"], **({"prompts": ["a", "star"]} | FAST | arguments))


@pytest.mark.parametrize("model", MODELS, ids=name)
def test_a_model_that_is_none(model, zoom, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call in (
        lambda: pot_jax.sample(model, ["a"], **FAST),
        lambda: pot_jax.inpaint(model, "a", GREY, GREY[..., 0]),
        lambda: pot_jax.upscale(zoom, model),
        lambda: export(model, "new"),
    ):
        with one_line("expected a model", "pot_jax.load", folder=tmp_path):
            call()


@pytest.mark.parametrize(("given", "others", "words"), LOADS, ids=name)
def test_load(given, others, words, models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [models["folder"] if value == "FOLDER" else value for value in given]
    with one_line(words, folder=tmp_path):
        pot_jax.load(*given, **others)


@pytest.mark.parametrize(("arguments", "words"), INPAINTS, ids=name)
def test_inpaint(arguments, words, models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    usual = {"prompt": "a", "image": GREY, "mask": GREY[..., 0], "steps": 2, "devices": CPU}
    with one_line(words, folder=tmp_path):
        pot_jax.inpaint(models["inpainting"], **(usual | arguments))


@pytest.mark.parametrize(("given", "others", "words"), UPSCALES, ids=name)
def test_upscale(given, others, words, models, zoom, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = {"ZOOM": zoom, "zoom": zoom, "TINY": models["tiny"], "UPSCALER": models["upscaler"]}
    given = [known.get(value, value) if isinstance(value, str) else value for value in given]
    with one_line(words, folder=tmp_path):
        pot_jax.upscale(*given, **others)


@pytest.mark.parametrize(("call", "words"), OTHERS, ids=name)
def test_others(call, words, models, zoom, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with one_line(words, folder=tmp_path):
        call(zoom, models)
