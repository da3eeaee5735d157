"""Odd uses that are right: none is refused, and none means another thing.

Everything but the sampling itself happens: settings, paths, the model and its weights, the checks.
"""

import json
import operator
import os
import shutil
from pathlib import Path

import jax
import ml_collections
import numpy as np
import pytest
from mistakes_place import LAYER
from PIL import Image
from safetensors.numpy import save_file
from tiny_models import tiny_model

import pot_jax
from pot_jax import main
from pot_jax.pipelines import zoom as pipeline
from pot_jax.weights.export import convert, export

ROWS = np.arange(24, dtype=np.uint8)[:, None, None]
GREY = np.broadcast_to(ROWS * 8, (24, 24, 3)).copy()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    model = tiny_model(folder / "tokenizer")
    export(model, folder / "tiny")
    convert(folder / "tiny", folder / "kept")
    return model, folder


@pytest.fixture
def place(models, tmp_path, monkeypatch):
    """A folder to be in, which is the home as well."""
    folder = tmp_path / "my place ☃"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    os.symlink(models[1] / "tiny", "tiny")
    os.symlink(models[1] / "kept", "a converted model")
    shutil.copytree(models[1] / "tiny", "tiny model é")
    _write_pictures(folder)
    _write_configs(folder)
    ones = np.full((32, 32), 0.1, np.float32)
    lora = {f"{LAYER}.lora_{part}.weight": ones for part in ("down", "up")}
    save_file(lora, "a:b ☃.safetensors")
    save_file({"emb_params": np.ones((1, 16), np.float32)}, "word.safetensors")
    for name in ("stray.log", ".DS_Store", "slurm-12.out", "run.e77"):
        Path("stray").mkdir(exist_ok=True)
        Path("stray", name).write_text("")
    Path("stray", "lost+found").mkdir()
    Path("empty").mkdir()
    os.symlink("empty", "link")
    return folder


def _write_pictures(folder):
    picture = Image.fromarray(GREY)
    for name in ("photo.png", "photo.jpg", "photo.webp", "photo.bmp", "photo.tiff", "a b ☃.PNG"):
        picture.save(folder / name)
    shutil.copy(folder / "photo.png", folder / "photo")
    shutil.copy(folder / "photo.jpg", folder / "lying.png")
    picture.convert("L").save(folder / "grey.png")
    picture.convert("1").save(folder / "bits.png")
    picture.convert("P").save(folder / "palette.png")
    picture.convert("LA").save(folder / "grey_opacity.png")
    picture.convert("RGBA").save(folder / "opacity.png")
    picture.convert("CMYK").save(folder / "print.jpg")
    Image.fromarray(GREY[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    picture.resize((1, 1)).save(folder / "dot.png")
    picture.resize((300, 3)).save(folder / "strip.png")
    picture.save(folder / "moving.gif", save_all=True, append_images=[picture.rotate(90)])
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(folder / "turned.jpg", exif=exif)


def _write_configs(folder):
    (folder / "my config.json").write_text('{"sampler": {"steps": 3}}')
    (folder / "bom.json").write_text('\ufeff{"sampler": {"steps": 3}}', "utf-8")
    (folder / "lines.json").write_bytes(b'{\r\n"sampler":\r\n{"steps": 3}}\r\n')
    (folder / "whole.json").write_text('{"sampler": {"steps": 3, "guidance_scale": 4, "eta": 0}}')
    (folder / "prompts.json").write_text('{"prompts": ["é", "☃"], "model": "tiny"}', "utf-8")
    (folder / "paths.json").write_text('{"model": "~/tiny", "photograph": {"path": "~/photo.png"}}')
    (folder / "base.py").write_text("STEPS = 3\n")
    head = "import base\n\ndef get_config():\n    "
    (folder / "plain.py").write_text(head + "return {'sampler': {'steps': base.STEPS}}\n")
    config = "c = ml_collections.{}({{'sampler': {{'steps': base.STEPS}}}})\n    return c\n"
    for name in ("ConfigDict", "FrozenConfigDict"):
        (folder / f"{name}.py").write_text("import ml_collections\n" + head + config.format(name))
    (folder / "tuples.py").write_text(head + "return {'prompts': ('a', 'b'), 'model': 'tiny'}\n")
    (folder / "flags").write_text("# mine\n--steps=3\n\n// more\n--flagfile=more flags\n")
    (folder / "more flags").write_bytes(b"--seed=9\r\n--guidance_scale=2\r\n")
    (folder / "config_flags").write_text("\ufeff--config=my config.json\n", "utf-8")


def s(*flags):
    return ["a", "star", "--model=tiny", "--workdir=w", *flags]


# What is typed after `pot-jax sample` -> settings by name, and "workdir".
COMMANDS = [
    (["a", "--model=tiny", "--workdir=my runs/Zürich ☃"], {"workdir": "my runs/Zürich ☃"}),
    (["a", "--model=tiny", "--workdir=~/w"], {"workdir": "HOME/w"}),
    (["a", "--model=tiny", "--workdir=12:30"], {"workdir": "12:30"}),
    (["a", "--model=tiny", "--workdir=file:w"], {"workdir": "file:w"}),
    (["a", "--model=tiny", "--workdir=a/b/../c/d/"], {"workdir": "a/b/../c/d/"}),
    (["a", "--model=tiny", "--workdir=link"], {"workdir": "link"}),
    (["a", "--model=tiny", "--workdir=stray"], {"workdir": "stray"}),
    (["a", "--model=tiny", "--workdir=empty"], {"workdir": "empty"}),
    (["a", "--model=tiny", "--workdir", "w"], {"workdir": "w"}),
    (["a", "-model=tiny", "-workdir=w"], {"model": "tiny"}),
    (["--workdir=-w", "a", "--model=tiny"], {"workdir": "-w"}),
    (["--model=tiny", "--workdir=w", "--", "-a", "--b"], {"prompts": ("-a", "--b")}),
    (s("it's", '"b"'), {"prompts": ("a", "star", "it's", '"b"')}),
    (s("\U0001f31f"), {"prompts": ("a", "star", "\U0001f31f")}),
    (s(" a "), {"prompts": ("a", "star", " a ")}),
    (s("a\nb"), {"prompts": ("a", "star", "a\nb")}),
    (s("a=b", "50%"), {"prompts": ("a", "star", "a=b", "50%")}),
    (["a", "--model=./tiny/", "--workdir=w"], {"model": "./tiny/"}),
    (["a", "--model=~/tiny", "--workdir=w"], {"model": "HOME/tiny"}),
    (["a", "--model=tiny model é", "--workdir=w"], {"model": "tiny model é"}),
    (["a", "--model=a converted model", "--workdir=w"], {"model": "a converted model"}),
    (s("--tokenizer=tiny"), {"tokenizer": "tiny"}),
    (s("--tokenizer=~/tiny/tokenizer"), {"tokenizer": "HOME/tiny/tokenizer"}),
    (s("--seed=4294967295"), {"seed": 4294967295}),
    (s("--seed=007"), {"seed": 7}),
    (s("--seed=1", "--seed=2"), {"seed": 2}),
    (s("--seed=4294967293", "--num_samples=3"), {"num_samples": 3}),
    (s("--stacks=2"), {"num_samples": 2}),
    (s("--config.stacks=2"), {"num_samples": 2}),
    (s("--steps=1"), {"sampler.steps": 1}),
    (s("--steps", "3"), {"sampler.steps": 3}),
    (s("--steps=999"), {"sampler.steps": 999}),
    (s("--steps=1_0"), {"sampler.steps": 10}),
    (s("--guidance_scale=0"), {"sampler.guidance_scale": 0}),
    (s("--guidance_scale=1"), {"sampler.guidance_scale": 1}),
    (s("--guidance_scale=7"), {"sampler.guidance_scale": 7}),
    (s("--guidance_scale=1e1"), {"sampler.guidance_scale": 10}),
    (s("--config.sampler.eta=1"), {"sampler.eta": 1}),
    (s("--solver="), {"sampler.solver": "ddim"}),
    (s("--negative_prompt="), {"negative_prompt": ""}),
    (s("--dtype=bfloat16"), {"dtype": "bfloat16"}),
    (s("--zoom_factor=4"), {"zoom.zoom_factor": 4}),
    (
        s("--zoom_factor=3", "--config.zoom.height=24", "--config.zoom.width=36"),
        {"zoom.zoom_factor": 3, "zoom.width": 36},
    ),
    (
        s("--zoom_factor=10", "--config.zoom.height=40", "--config.zoom.width=40"),
        {"zoom.zoom_factor": 10},
    ),
    (s("--config.zoom.width=160"), {"zoom.width": 160}),
    (s("--config.zoom.height=64"), {"zoom.height": 64}),
    (s("--config.zoom.placement=((2,-4),)"), {"zoom.placement": ((2, -4),)}),
    (s("--loop"), {"zoom.loop": True}),
    (s("--noloop"), {"zoom.loop": False}),
    (s("--loop=true", "--config.zoom.loop=false"), {"zoom.loop": True}),
    (s("--config.zoom.loop=true", "--config.zoom.placement=((2,-4),(0,2))"), {"zoom.loop": True}),
    (["a", "--model=tiny", "--workdir=w"], {"prompts": ("a",)}),
    (s(*["a"] * 30), {"prompts": ("a", "star", *["a"] * 30)}),
    (s("--config=my config.json"), {"sampler.steps": 3}),
    (s("--config", "my config.json"), {"sampler.steps": 3}),
    (s("--config=~/my config.json"), {"sampler.steps": 3}),
    (s("--config=bom.json"), {"sampler.steps": 3}),
    (s("--config=lines.json"), {"sampler.steps": 3}),
    (s("--config=whole.json"), {"sampler.guidance_scale": 4}),
    (s("--steps=4", "--config=my config.json"), {"sampler.steps": 4}),
    (s("--config=my config.json", "--config.sampler.steps=5"), {"sampler.steps": 5}),
    (["--workdir=w", "--config=prompts.json"], {"prompts": ("é", "☃")}),
    (["--workdir=w", "--config=tuples.py"], {"prompts": ("a", "b")}),
    (["a", "--workdir=w", "--config=paths.json"], {"model": "HOME/tiny"}),
    (s("--config=plain.py"), {"sampler.steps": 3}),
    (s("--config=ConfigDict.py"), {"sampler.steps": 3}),
    (s("--config=FrozenConfigDict.py"), {"sampler.steps": 3}),
    (s("--flagfile=flags"), {"sampler.steps": 3, "seed": 9, "sampler.guidance_scale": 2}),
    (s("--flagfile", "flags"), {"sampler.steps": 3, "seed": 9}),
    (s("--flagfile=~/flags"), {"sampler.steps": 3, "seed": 9}),
    (s("--flagfile=config_flags"), {"sampler.steps": 3}),
    (s("--lora=a:b ☃.safetensors"), {"loras": 1}),
    (s("--lora=~/a:b ☃.safetensors:-0.5"), {"loras": 1}),
    (s("--lora=a:b ☃.safetensors:0", "--lora=a:b ☃.safetensors:1e-1"), {"loras": 2}),
    (s("<w>", "--embedding=word.safetensors:<w>"), {"embeddings": 1}),
    (s("--devices=cpu"), {}),
    (s("--compilation_cache=none"), {}),
    (s("--compilation_cache=~/my cache/of programs"), {}),
    (s("--config.movie.direction=both"), {"movie.direction": "both"}),
    (s("--config.save_every=0"), {"save_every": 0}),
    *(
        (s(f"--photograph={name}"), {"photograph.path": name})
        for name in (
            *("photo.png", "photo.jpg", "photo.webp", "photo.bmp", "photo.tiff", "a b ☃.PNG"),
            *("photo", "lying.png", "grey.png", "bits.png", "palette.png", "grey_opacity.png"),
            *("opacity.png", "print.jpg", "deep.png", "dot.png", "strip.png", "moving.gif"),
            *("turned.jpg", "./photo.png"),
        )
    ),
    (s("--photograph=~/photo.png", "--config.photograph.level=1"), {"photograph.level": 1}),
    (s("--photograph=photo.png:1"), {"photograph.path": "photo.png", "photograph.level": 1}),
    (s("--photograph=strip.png", "--photograph_fit=pad"), {"photograph.fit": "pad"}),
    (s("--photograph=photo.png:0", "--photograph=./photo.png:1"), {"photograph.path": ""}),
]


class Counter:
    """A callable that is no function."""

    def __call__(self, *_):
        """Does nothing."""


# Arguments of `pot_jax.sample` -> settings by name.
CALLS = [
    ({"prompts": ("a", "b")}, {"prompts": ("a", "b")}),
    ({"prompts": (letter for letter in "ab")}, {"prompts": ("a", "b")}),
    ({"prompts": np.array(["a", "b"])}, {"prompts": ("a", "b")}),
    ({"prompts": {"a": 1, "b": 2}.keys()}, {"prompts": ("a", "b")}),
    ({"seed": np.uint32(2**32 - 1)}, {"seed": 2**32 - 1}),
    ({"seed": np.int64(3)}, {"seed": 3}),
    ({"seed": np.array(3)}, {"seed": 3}),
    ({"seed": jax.numpy.int32(3)}, {"seed": 3}),
    ({"steps": np.int8(3)}, {"sampler.steps": 3}),
    ({"guidance_scale": np.float32(4.5)}, {"sampler.guidance_scale": 4.5}),
    ({"guidance_scale": np.float64(4.5)}, {"sampler.guidance_scale": 4.5}),
    ({"guidance_scale": jax.numpy.float32(4.5)}, {"sampler.guidance_scale": 4.5}),
    ({"guidance_scale": 4}, {"sampler.guidance_scale": 4}),
    ({"zoom_factor": np.int32(4)}, {"zoom.zoom_factor": 4}),
    ({"height": np.int64(32), "width": np.uint8(64)}, {"zoom.height": 32, "zoom.width": 64}),
    ({"placement": [[2, -4]]}, {"zoom.placement": ((2, -4),)}),
    ({"placement": np.array([[2, -4]])}, {"zoom.placement": ((2, -4),)}),
    ({"placement": [np.array([2, -4])]}, {"zoom.placement": ((2, -4),)}),
    ({"placement": []}, {"zoom.placement": ()}),
    ({"blend": "average"}, {"sampler.blend": "average"}),
    ({"devices": tuple(jax.devices()[:2])}, {}),
    ({"devices": np.array(jax.devices()[:2])}, {}),
    ({"progress": Counter(), "callback": Counter()}, {}),
    ({"latents": jax.numpy.zeros((2, 8, 8, 4))}, {}),
    ({"latents": np.zeros((2, 8, 8, 4))}, {}),
    ({"latents": np.zeros((2, 8, 8, 4)).tolist()}, {}),
    ({"latents": np.zeros((2, 8, 8, 4), np.float16)}, {}),
    ({"latents": jax.numpy.zeros((2, 8, 8, 4), "bfloat16")}, {}),
    ({"photograph": GREY}, {}),
    ({"photograph": {}}, {}),
    ({"photograph": {0: GREY, np.int64(1): "photo.png"}, "photograph_fit": "pad"}, {}),
    ({"photograph": GREY[..., 0]}, {}),
    ({"photograph": np.dstack([GREY, GREY[..., :1]])}, {}),
    ({"photograph": Image.fromarray(GREY)}, {}),
    ({"photograph": Image.fromarray(GREY).convert("P")}, {}),
    ({"photograph": np.zeros((16, 16, 3), np.float16)}, {}),
    ({"photograph": np.zeros((16, 16, 3)) - 1}, {}),
    ({"photograph": jax.numpy.zeros((16, 16, 3)) - 1}, {}),
    ({"photograph": GREY[:16, :16].tolist()}, None),
    ({"photograph": Path("photo.png")}, {"photograph.path": "photo.png"}),
    ({"photograph": "~/photo.png"}, {"photograph.path": "HOME/photo.png"}),
    ({"workdir": Path("w")}, {"workdir": "w"}),
    ({"workdir": "~/w"}, {"workdir": "HOME/w"}),
    ({"workdir": b"w"}, {"workdir": "w"}),
]


def check(expected, prepared, workdir, place):
    expected = {
        name: value.replace("HOME", str(place)) if isinstance(value, str) else value
        for name, value in expected.items()
    }
    if "workdir" in expected:
        assert os.fspath(workdir) == expected.pop("workdir")
    for name, value in expected.items():
        found = operator.attrgetter(name)(prepared.settings)
        assert (len(found) if name in ("loras", "embeddings") else found) == value


@pytest.mark.loose_promotion("flax's normalisation promotes bfloat16")
@pytest.mark.parametrize("number", range(len(COMMANDS)))
def test_commands(number, place, monkeypatch, capsys):
    arguments, expected = COMMANDS[number]
    seen = []
    monkeypatch.setattr(pipeline, "sample_run", lambda *a, **k: seen.append(a))
    devices = jax.devices()[:1]
    with monkeypatch.context() as patch:
        patch.setattr("jax.devices", lambda *a: devices)
        assert main.main(["pot-jax", "sample", *arguments]) == 0, capsys.readouterr().err
    check(expected, *seen[0], place)


@pytest.mark.filterwarnings("ignore:.*floats from:UserWarning")
@pytest.mark.parametrize("number", range(len(CALLS)))
def test_calls(number, models, place, monkeypatch):
    arguments, expected = CALLS[number]
    seen = []
    monkeypatch.setattr(pipeline, "sample_run", lambda *a, **k: seen.append(a) or [None])
    usual = {"prompts": ["a", "star"], "steps": 2, "space": "latent"}
    usual["devices"] = jax.devices()[:1]
    if expected is None:  # a list of whole numbers has no range
        with pytest.raises(pot_jax.UserError):
            pot_jax.sample(models[0], **(usual | arguments))
        return
    pot_jax.sample(models[0], **(usual | arguments))
    check(expected, *seen[0], place)


def test_a_whole_run_in_an_odd_place(place, capsys, monkeypatch):
    """Sampled, found complete, evaluated, and its movie made again; then moved."""
    devices = jax.devices()[:1]
    monkeypatch.setattr("jax.devices", lambda *a: devices)
    sample = [
        "sample",
        "a 'b'",
        "\U0001f31f",
        "--model=tiny model é",
        "--workdir=stray/../link/12:30",
    ]
    sample += ["--steps=2", "--space=latent", "--config.movie.fps=2", "--config.movie.size=16"]
    for said in ("done: ", "already complete: "):
        assert main.main(["pot-jax", *sample]) == 0
        assert said in capsys.readouterr().out
    shutil.move(place / "empty" / "12:30", place / "moved %d {x}")
    assert main.main(["pot-jax", "evaluate", "--workdir=moved %d {x}"]) == 0
    movies = ["--output=~/z: ☃.MP4", "--output=new folder/z.mov", "--size=17"]
    for flag in movies:
        assert main.main(["pot-jax", "render", "--workdir=moved %d {x}/", "--fps=2", flag]) == 0
    assert (place / "z: ☃.MP4").stat().st_size > 0
    assert (place / "new folder" / "z.mov").stat().st_size > 0
    record = json.loads((place / "moved %d {x}" / "config.json").read_text("utf-8"))
    assert record["config"]["prompts"] == ["a 'b'", "\U0001f31f"]
    assert ml_collections.ConfigDict(record["config"]).movie.size == 17
