"""Mistakes that users make, by kind: what is typed, and words that the one line has to say.

`make_place` makes the folder in which all of them are typed. A row is (arguments, words), or
(arguments, words, damage), where `damage` is done to the model folder `bad`, a fresh copy of
`tiny`. "SAMPLE" stands for a command that is right.
"""

import json
import os
import shutil
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from bad_models import KINDS as BAD_MODELS
from bad_models import flipped, holds, settings
from PIL import Image
from safetensors.numpy import save_file
from tiny_models import tiny_inpainting_model, tiny_model, tiny_upscaler

from pot_jax.config import MovieSettings, RunSettings, ZoomSettings
from pot_jax.runs.zoom import Zoom
from pot_jax.weights.export import export
from pot_jax.zoom.geometry import Geometry

SAMPLE = ["sample", "a", "star", "--workdir=w", "--model=tiny", "--steps=2"]
LAYER = "lora_unet_mid_block_attentions_0_proj_in"


def make_place(place: Path) -> None:
    """Makes the folder: models, runs, photographs, configs and adapters, sound ones and others."""
    exports = {"tiny": tiny_model, "inpainting": tiny_inpainting_model, "upscaler": tiny_upscaler}
    for name, model in exports.items():
        export(model(place.parent / "tokenizers" / name), place / name)
    _make_runs(place)
    _make_photographs(place)
    _make_configs(place)
    _make_adapters(place)
    (place / "file").write_text("a file")
    (place / "folder").mkdir()
    (place / "thesis").mkdir()
    (place / "thesis" / "thesis.txt").write_text("all of it")
    os.mkfifo(place / "pipe")
    (place / "circle").symlink_to("circle")
    (place / "dangling").symlink_to("nowhere")
    (place / "long").write_text("x" * 100)
    (place / "locked").mkdir(mode=0o555)
    (place / "secret.json").write_text("{}")
    for name in ("secret.json", "secret.png"):
        (place / name).touch()
        (place / name).chmod(0)


def _make_runs(place: Path) -> None:
    geometry = Geometry(2, 2, 16, 16)
    images = np.zeros((2, 16, 16, 3), np.float32)
    chosen = RunSettings(
        model="tiny", prompts=("a", "b"), movie=MovieSettings(fps=2, size=16), zoom=ZoomSettings()
    )
    latents = np.zeros((2, 8, 8, 4), np.float32)
    zoom = Zoom(images, images, latents, chosen, geometry, "c0ffee", {}, {"model": "c0ffee"})
    for name in ("done", "other"):
        zoom.save(place / name)
    record = (place / "done" / "config.json").read_text()

    def run(name, text, *, stack=b""):
        folder = shutil.copytree(place / "done", place / name)
        (folder / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
        if stack:
            (folder / "stack.npz").write_bytes(stack)

    run("cut_record", record[:100])
    run("list_record", "[1, 2]")
    run("empty_record", "")
    run("latin_record", '{"config": {"model": "caf\xe9"}}'.encode("latin-1"))
    run("nested_record", '{"a":' * 100_000)
    run("later_record", json.dumps({**json.loads(record), "format": 99}))
    run("foreign_record", '{"name": "some other tool"}')
    run("cut_arrays", record, stack=(place / "done" / "stack.npz").read_bytes()[:500])
    run("text_arrays", record, stack=b"not an archive")
    (place / "training").mkdir()
    (place / "training" / "config.json").write_text(
        json.dumps({"format": 2, "config": {"name": "cosmos64"}, "version": "0.1", "code": None})
    )
    (place / "record_folder" / "config.json").mkdir(parents=True)
    (place / "record_pipe").mkdir()
    os.mkfifo(place / "record_pipe" / "config.json")
    (place / "held").mkdir()
    stat = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()
    host = [os.readlink("/proc/self/ns/pid")]
    host.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    holder = {"pid": os.getppid(), "name": socket.gethostname(), "host": host, "start": stat[19]}
    (place / "held" / ".pot_jax-claim.json").write_text(json.dumps(holder))


def _make_photographs(place: Path) -> None:
    sound = Image.fromarray(np.zeros((16, 16, 3), np.uint8))
    sound.save(place / "photo.png")
    whole = (place / "photo.png").read_bytes()
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    huge = whole[:8] + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    Image.fromarray(np.zeros((16, 16), np.float32)).save(place / "float.tiff")
    for name, content in {
        "text.png": b"a picture of a cat",
        "empty.png": b"",
        "cut.png": whole[: len(whole) // 2],
        "header.png": whole[:20],
        "huge.png": huge + whole[33:],
        "page.jpg": b"<!DOCTYPE html><html>503</html>",
        "lfs.png": b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n",
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "phone.heic": b"\0\0\0\x18ftypheic" + bytes(50),
        "raw.cr2": b"II*\0\x10\0\0\0CR\x02\0" + bytes(40),
        "clip.mp4": b"\0\0\0\x18ftypisom" + bytes(50),
        "zeros.bmp": bytes(100),
        "flipped.png": whole[:45] + bytes([whole[45] ^ 255]) + whole[46:],
    }.items():
        (place / name).write_bytes(content)
    np.save(place / "pixels.npy", np.zeros((16, 16, 3)))
    (place / "folder.png").mkdir()


def _make_configs(place: Path) -> None:
    head = "def get_config():\n  "
    for name, text in {
        "raises": head + "return 1 / 0",
        "raises_two_lines": head + "raise RuntimeError('one\\ntwo')",
        "imports_nothing": "import no_such_module\n" + head + "return {}",
        "exits": "import sys; sys.exit(0)",
        "exits_later": head + "raise SystemExit",
        "quits": head + "quit()",
        "ends_generators": head + "raise GeneratorExit",
        "syntax": "def get_config(:",
        "tabs": "def get_config():\n\tif 1:\n        return {}",
        "recursion": "def f():\n  f()\n" + head + "f()",
        "nested_source": "x = " + "(" * 5000,
        "unnamed": "x = 1",
        "no_function": "get_config = 3",
        "needs_argument": "def get_config(size):\n  return {}",
        "nothing": head + "pass",
        "number": head + "return 3",
        "list": head + "return [1]",
        "number_keys": head + "return {1: 2}",
        "unknown": head + "return {'stepz': 2}",
        "function_value": head + "return {'seed': print}",
        "array_value": "import types\n" + head + "return {'prompts': types}",
        "set_value": head + "return {'prompts': {'a', 'b'}}",
        "cyclic": head + "d = {}; d['sampler'] = d; return d",
        "cyclic_list": head + "d = []; d.append(d); return {'prompts': d}",
        "surrogate": head + "return {'prompts': ['\\ud800']}",
        "module_error": "import yaml_but_not\n",
        "shadow": "import imports_nothing\n" + head + "return {}",
        "asserts": head + "assert False",
        "memory": head + "raise MemoryError",
        "stop": head + "raise StopIteration",
        "bad_text": head + "class E(Exception):\n    def __str__(self): raise ValueError('no')\n"
        "  raise E",
        "nested_config": "import ml_collections\n" + head + "c = ml_collections.ConfigDict()\n"
        "  c.sampler = ml_collections.ConfigDict({'step': 3})\n  return c",
        "placeholder": "import ml_collections\n"
        + head
        + "return ml_collections.ConfigDict({'seed': "
        "ml_collections.config_dict.placeholder(int)})",
        "required": "import ml_collections\n" + head + "return ml_collections.ConfigDict({'seed': "
        "ml_collections.config_dict.required_placeholder(int)})",
    }.items():
        (place / f"{name}.py").write_text(text)
    (place / "latin.py").write_bytes("x = 'é'".encode("latin-1"))
    (place / "zero.py").write_bytes(b"x = 1\0")
    (place / "utf16.py").write_bytes("x = 1".encode("utf-16"))
    (place / "dangling.py").symlink_to("nowhere.py")
    (place / "circle.py").symlink_to("circle.py")
    (place / "folder.py").mkdir()
    os.mkfifo(place / "pipe.py")
    for name, text in {
        "cut": '{"seed": ',
        "empty": "",
        "bom_only": "\ufeff",
        "list": "[]",
        "null": "null",
        "text": '"seed"',
        "number": "3",
        "nested": '{"sampler":' * 100_000,
        "nested_lists": '{"prompts": ' + "[" * 500 + "]" * 500 + "}",
        "nan": '{"sampler": {"eta": NaN}}',
        "infinity": '{"sampler": {"guidance_scale": 1e999}}',
        "digits": '{"seed": ' + "9" * 5000 + "}",
        "null_value": '{"seed": null}',
        "null_group": '{"sampler": null}',
        "unknown": '{"colour": "red"}',
        "unknown_group": '{"smapler": {"steps": 3}}',
        "unknown_in_group": '{"sampler": {"stepz": 3}}',
        "flat": '{"sampler.steps": 3}',
        "text_number": '{"sampler": {"steps": "3"}}',
        "fraction": '{"sampler": {"steps": 2.5}}',
        "one_prompt": '{"prompts": "a star"}',
        "number_prompt": '{"prompts": ["a", 3]}',
        "null_prompt": '{"prompts": [null]}',
        "empty_prompt": '{"prompts": ["a", ""]}',
        "surrogate_prompt": '{"prompts": ["\\ud800"]}',
        "lora_name": '{"loras": ["a.safetensors"]}',
        "lora_dict": '{"loras": {"a.safetensors": 1}}',
        "lora_key": '{"loras": [{"file": "a.safetensors"}]}',
        "placement": '{"zoom": {"placement": [[0, 8, 0]]}}',
        "placement_flat": '{"zoom": {"placement": [0, 8]}}',
        "placement_fraction": '{"zoom": {"placement": [[0.5, 8]]}}',
        "both_names": '{"stacks": 2, "num_samples": 2}',
        "own_parts": '{"own_parts": [{"part": "blend", "name": "mine.blend"}]}',
        "bad_own_parts": '{"own_parts": [{"part": "painter", "name": "x"}]}',
        "later": '{"format": 99, "config": {"seed": 1}}',
        "config_list": '{"format": 2, "config": [1]}',
        "format_text": '{"format": "two", "config": {"seed": 1}}',
        "comments": '{"seed": 1} // mine',
        "quotes": "{'seed': 1}",
        "twice": '{"seed": 1, "seed": 2}',
        "page": "<!DOCTYPE html>",
        "yaml": "seed: 1",
    }.items():
        (place / f"{name}.json").write_text(text, "utf-8")
    (place / "latin.json").write_bytes('{"prompts": ["é"]}'.encode("latin-1"))
    (place / "utf16.json").write_bytes('{"seed": 1}'.encode("utf-16"))
    (place / "binary.json").write_bytes(bytes(range(256)))
    (place / "circle.json").symlink_to("circle.json")
    (place / "dangling.json").symlink_to("nowhere.json")
    (place / "folder.json").mkdir()
    os.mkfifo(place / "pipe.json")
    (place / "config.yaml").write_text("seed: 1")
    (place / "config").write_text("{}")
    (place / "flags_latin").write_bytes(b"--seed=\xff\n")
    (place / "flags_unknown").write_text("--sede=3\n")
    (place / "flags_value").write_text("--seed=many\n")
    (place / "flags_own").write_text("--flagfile=flags_own\n--seed=many\n")
    (place / "flags_nowhere").write_text("--flagfile=nowhere\n")
    (place / "flags_zero").write_bytes(b"--seed=1\0\n")
    (place / "flags_binary").write_bytes(bytes(range(1, 256)))


def _make_adapters(place: Path) -> None:
    def lora(name, rank=2, width=32, layer=LAYER, scale=0.1, **others):
        tensors = {
            f"{layer}.lora_down.weight": np.full((rank, width), scale, np.float32),
            f"{layer}.lora_up.weight": np.full((width, rank), scale, np.float32),
            **others,
        }
        save_file(tensors, place / name)
        return tensors

    whole = lora("lora.safetensors")
    lora("wide.safetensors", width=48)
    lora("elsewhere.safetensors", layer="lora_unet_top_block_proj")
    lora("sdxl.safetensors", layer="lora_te2_text_model_encoder_layers_0_mlp_fc1")
    lora("nan.safetensors", scale=np.nan)
    lora("alpha.safetensors", **{f"{LAYER}.alpha": np.ones(3, np.float32)})
    lora("alpha_nan.safetensors", **{f"{LAYER}.alpha": np.full((), np.nan, np.float32)})
    lora("magnitude.safetensors", **{f"{LAYER}.dora_scale": np.ones((32, 1), np.float32)})
    save_file({k: v for k, v in whole.items() if "down" in k}, place / "half.safetensors")
    up = {k: v[:, :1].copy() if "up" in k else v for k, v in whole.items()}
    save_file(up, place / "ranks.safetensors")
    save_file({k: v.astype(np.int32) for k, v in whole.items()}, place / "int.safetensors")
    save_file({}, place / "nothing.safetensors")
    (place / "cut.safetensors").write_bytes((place / "lora.safetensors").read_bytes()[:-7])
    (place / "text.safetensors").write_text("<!DOCTYPE html>")
    (place / "empty.safetensors").write_bytes(b"")
    (place / "folder.safetensors").mkdir()
    os.mkfifo(place / "pipe.safetensors")
    (place / "pickled.pt").write_bytes(b"\x80\x04K\x01.")
    for name, config in {
        "peft": {"r": 4, "lora_alpha": 4},
        "peft_type": {"peft_type": "LOHA", "r": 2},
        "peft_text": {"r": "two", "lora_alpha": 2},
        "peft_list": [1],
        "peft_pattern": {"r": 2, "lora_alpha": 2, "alpha_pattern": {"(": 1}},
        "peft_dora": {"r": 2, "lora_alpha": 2, "use_dora": True},
        "peft_nan": {"r": 2, "lora_alpha": float("nan")},
        "peft_zero": {"r": 0, "lora_alpha": 2},
    }.items():
        (place / name).mkdir()
        base = "base_model.model.mid_block.attentions.0.proj_in"
        save_file(
            {f"{base}.lora_{n}.weight": v for n, v in zip("AB", whole.values(), strict=True)},
            place / name / "adapter_model.safetensors",
        )
        (place / name / "adapter_config.json").write_text(json.dumps(config))
    save_file({"emb_params": np.ones((2, 16), np.float32)}, place / "word.safetensors")
    save_file({"emb_params": np.ones((2, 48), np.float32)}, place / "wide_word.safetensors")
    save_file({"emb_params": np.ones((20, 16), np.float32)}, place / "long_word.safetensors")
    save_file({"emb_params": np.full((2, 16), np.nan, np.float32)}, place / "nan_word.safetensors")
    save_file({"emb_params": np.ones((0, 16), np.float32)}, place / "no_word.safetensors")
    save_file(
        {"a": np.ones((2, 16), np.float32), "b": np.ones(3, np.float32)},
        place / "two_words.safetensors",
    )


def s(*flags: str) -> list[str]:
    """A right command with flags that are wrong."""
    return [*SAMPLE, *flags]


def c(*values: str) -> list[str]:
    return s(*(f"--config.{value}" for value in values))


class Row(NamedTuple):
    """One mistake."""

    arguments: list[str]
    words: str  # that its line has to say
    damage: Callable[[Path], None] | None = None  # done to `bad`, a copy of `tiny`, before


COMMANDS = [
    Row(["paint"], "unknown command 'paint'; known: sample, render"),
    Row(["Sample", "a"], "unknown command 'Sample'"),
    Row([""], "unknown command ''"),
    Row(["--sample"], "unknown command '--sample'"),
    Row(["a star", "--workdir=w"], "unknown command 'a star'"),
    Row(["-v"], "unknown command '-v'"),
    Row(["sample\n--help"], "unknown command"),
    Row(["\ud800"], "unknown command"),
    Row(["render", "what"], "render takes flags only, got 'what'"),
    Row(["evaluate", "done"], "evaluate takes flags only, got 'done'"),
    Row(["train", "--config=cosmos64", "--workdir=w", "more"], "train takes flags only"),
    Row(["convert", "a"], "convert takes two paths"),
    Row(["convert"], "convert takes two paths"),
    Row(["convert", "a", "b", "c"], "convert takes two paths"),
    Row(["export", "a"], "export takes two paths"),
    Row(["sample", "a"], "--workdir is missing; give it, e.g. --workdir=runs/mine"),
    Row(["sample", "a", "--workdir="], "--workdir is missing"),
    Row(["render"], "--workdir is missing"),
    Row(["evaluate"], "--workdir is missing"),
    Row(["train"], "--config is missing"),
    Row(["train", "--config=cosmos64"], "--workdir is missing"),
    Row(["train", "--workdir=w"], "--config is missing"),
]

FLAGS = [
    Row(s("--colour=red"), "colour"),
    Row(s("--step=3"), "step"),
    Row(s("--steps"), "steps"),
    Row(s("--steps="), "--steps: expected a whole number, got ''"),
    Row(s("--steps=many"), "--steps: expected a whole number, got 'many'"),
    Row(s("--steps=2.5"), "--steps: expected a whole number, got '2.5'"),
    Row(s("--steps=1e3"), "--steps: expected a whole number, got '1e3'"),
    Row(s("--steps=" + "9" * 5000), "--steps: expected a whole number"),
    Row(s("--seed=0x10"), "--seed: expected a whole number"),
    Row(s("--guidance_scale=high"), "--guidance_scale: expected a number, got 'high'"),
    Row(s("--guidance_scale=4,5"), "--guidance_scale: expected a number, got '4,5'"),
    Row(s("--lora"), "lora"),
    Row(s("--stacks=2", "--num_samples=3"), "are the same setting; give one of them"),
    Row(s("--dry_run=maybe"), "dry_run"),
    Row(s("--distributed=2"), "distributed"),
    Row(s("--allow_pickle=perhaps"), "allow_pickle"),
    Row(s("--devices=abacus"), "should be one of <cpu|gpu|tpu>"),
    Row(s("--devices=cuda"), "should be one of <cpu|gpu|tpu>"),
    Row(s("--devices="), "should be one of <cpu|gpu|tpu>"),
    Row(s("--steps:3"), ""),
    Row(s("-x"), ""),
    Row(s("--\ud800=1"), ""),
    Row(s("--config.sampler.stepz=4"), "stepz"),
    Row(s("--config.smapler.steps=4"), "smapler"),
    Row(s("--config.sampler=4"), ""),
    Row(s("--config.=4"), ""),
    Row(s("--config.sampler.steps"), ""),
    Row(s("--config.sampler.steps=two"), ""),
    Row(s("--config.sampler.steps=2.5"), ""),
    Row(s("--config.sampler.steps.more=2"), ""),
    Row(s("--config.sampler.eta=x"), ""),
    Row(s("--config.prompts[0]=a"), ""),
    Row(s("--config.prompts=[1,"), ""),
    Row(["sample", "--workdir=w", "--config.prompts=(1,2)"], ""),
    Row(s("--config.loras=a.safetensors"), ""),
    Row(s("--config.zoom.placement=left"), ""),
    Row(s("--config.zoom.placement=(1,)"), ""),
    Row(s("--config.allow_pickle=3"), ""),
    Row(s("--config.seed=-1"), ""),
    Row(s("--config.seed="), ""),
    Row(["sample", "a", "--workdir=w", "--config.model=3,4"], ""),
    Row(s("--config.__class__=3"), ""),
    Row(s("--config.sampler.get=3"), ""),
    Row(s("--config.own_parts=[('blend','x')]"), ""),
    Row(s("--flagfile=nowhere"), "nowhere"),
    Row(s("--flagfile="), ""),
    Row(s("--flagfile"), ""),
    Row(s("--flagfile=folder"), ""),
    Row(s("--flagfile=pipe"), ""),
    Row(s("--flagfile=/dev/zero"), ""),
    Row(s("--flagfile=circle"), ""),
    Row(s("--flagfile=" + "x" * 300), ""),
    Row(s("--flagfile=a\0b"), ""),
    Row(s("--flagfile=flags_latin"), ""),
    Row(s("--flagfile=flags_unknown"), ""),
    Row(s("--flagfile=flags_value"), ""),
    Row(s("--flagfile=flags_own"), ""),
    Row(s("--flagfile=flags_nowhere"), ""),
    Row(s("--flagfile=flags_binary"), ""),
    Row(s("--flagfile=/proc/self/mem"), ""),
    Row(["render", "--workdir=done", "--fps=many"], ""),
    Row(["render", "--workdir=done", "--size=2.5"], ""),
    Row(["render", "--workdir=done", "--seconds_per_level=x"], ""),
    Row(["render", "--workdir=done", "--config=x"], ""),
    Row(["evaluate", "--workdir=done", "--size=3"], ""),
    Row(["convert", "a", "b", "--lora=x"], ""),
]

NUMBERS = [
    Row(s("--steps=0"), "sampler.steps: expected at least 1, got 0"),
    Row(s("--steps=-5"), "sampler.steps: expected at least 1, got -5"),
    Row(s("--seed=-1"), "seed: expected a whole number from 0 to 4294967295, got -1"),
    Row(s("--seed=4294967296"), "seed: expected a whole number from 0 to 4294967295"),
    Row(s("--seed=4294967295", "--num_samples=2"), "at most 1: seeds are below 2^32"),
    Row(s("--num_samples=0"), "num_samples: expected at least 1, got 0"),
    Row(s("--num_samples=-1"), "num_samples: expected at least 1, got -1"),
    Row(s("--num_samples=5000000000"), "num_samples: expected at most 4294967296"),
    Row(s("--guidance_scale=nan"), "guidance_scale: expected a finite number, got nan"),
    Row(s("--guidance_scale=inf"), "guidance_scale: expected a finite number, got inf"),
    Row(s("--guidance_scale=1e999"), "guidance_scale: expected a finite number, got inf"),
    Row(s("--guidance_scale=-1"), "guidance_scale: expected 0 to 1000, got -1.0"),
    Row(s("--guidance_rescale=1.5"), "guidance_rescale: expected 0 to 1, got 1.5"),
    Row(s("--guidance_rescale=-0.1"), "guidance_rescale: expected 0 to 1, got -0.1"),
    Row(s("--guidance_rescale=nan"), "guidance_rescale: expected a finite number"),
    Row(s("--zoom_factor=1"), "zoom.zoom_factor: expected a whole number >= 2, got 1"),
    Row(s("--zoom_factor=0"), "zoom.zoom_factor: expected a whole number >= 2, got 0"),
    Row(s("--zoom_factor=-2"), "zoom.zoom_factor: expected a whole number >= 2, got -2"),
    Row(s("--zoom_factor=2.5"), "--zoom_factor: expected a whole number, got '2.5'"),
    Row(s("--solver=heun"), "sampler.solver: expected one of ddpm, ddim"),
    Row(s("--solver=DDIM"), "sampler.solver: expected one of ddpm, ddim"),
    Row(s("--space=pixels"), "sampler.space: expected one of latent, pixel, delivery"),
    Row(s("--space="), "sampler.space: expected one of"),
    Row(s("--blend=mean"), "sampler.blend: expected one of laplacian"),
    Row(s("--dtype=int8"), "dtype: expected one of float32, bfloat16, float16"),
    Row(s("--dtype=fp16"), "dtype: expected one of float32, bfloat16, float16"),
    Row(s("--dtype=float64"), "dtype: expected one of float32, bfloat16, float16"),
    Row(s("--prediction_type=eps"), "prediction_type: expected one of '' (unset), epsilon"),
    Row(c("sampler.eta=100.0"), "sampler.eta: expected 0 to 1, got 100"),
    Row(c("sampler.eta=-0.5"), "sampler.eta: expected 0 to 1"),
    Row([*c("sampler.eta=0.5"), "--solver=euler"], "sampler.eta: expected 0: only ddim takes one"),
    Row(c("sampler.pixel_every=0"), "sampler.pixel_every: expected at least 1"),
    Row(c("sampler.blend_weight=1.5"), "sampler.blend_weight: expected 0 to 1"),
    Row(c("sampler.blend_weight=-1.0"), "sampler.blend_weight: expected 0 to 1"),
    Row(c("sampler.kernel=box"), "sampler.kernel: expected one of mean, gaussian"),
    Row(c("sampler.initial_noise=none"), "sampler.initial_noise: expected one of shared"),
    Row(c("sampler.gradient_steps=0"), "sampler.gradient_steps: expected >= 1"),
    Row(c("sampler.gradient_rate=0.0"), "sampler.gradient_rate: expected > 0"),
    Row(c("zoom.height=-64"), "zoom.height: expected >= 0, got -64"),
    Row(c("zoom.width=-1"), "zoom.width: expected >= 0, got -1"),
    Row(c("photograph.level=-1"), "photograph.level: expected 0 or more, got -1"),
    Row(c("photograph.method=sgd"), "photograph.method: expected one of adam, project"),
    Row(c("upscaler.steps=0"), "upscaler.steps: expected at least 1"),
    Row(c("upscaler.rows=0"), "upscaler.rows: expected at least 1"),
    Row(c("upscaler.noise_level=-1"), "upscaler.noise_level: expected >= 0"),
    Row(c("upscaler.guidance_scale=-1.0"), "upscaler.guidance_scale: expected 0 to 1000"),
    Row(c("upscaler.solver=best"), "upscaler.solver: expected one of"),
    Row(c("movie.fps=0"), "movie.fps: expected 1 to 240, got 0"),
    Row(c("movie.fps=1000"), "movie.fps: expected 1 to 240, got 1000"),
    Row(c("movie.size=0"), "movie.size: expected 16 to 4096, got 0"),
    Row(c("movie.size=100000"), "movie.size: expected 16 to 4096, got 100000"),
    Row(c("movie.seconds_per_level=0.0"), "movie.seconds_per_level: expected > 0"),
    Row(c("movie.seconds_per_level=-1.0"), "movie.seconds_per_level: expected > 0"),
    Row(c("movie.direction=up"), "movie.direction: expected one of in, out, both"),
    Row(c("save_every=-1"), "save_every: expected >= 0, got -1"),
    Row(c("decode_rows=0"), "decode_rows: expected at least 1, got 0"),
    Row(["render", "--workdir=done", "--fps=0"], "movie.fps: expected 1 to 240"),
    Row(["render", "--workdir=done", "--size=4"], "movie.size: expected 16 to 4096"),
    Row(["render", "--workdir=done", "--seconds_per_level=nan"], ""),
    Row(["render", "--workdir=done", "--seconds_per_level=-2"], ""),
    Row(["render", "--workdir=done", "--direction=sideways"], ""),
    Row(["convert", "tiny", "new", "--dtype=int8"], ""),
    Row(["convert", "tiny", "new", "--dtype="], ""),
    Row(["convert", "tiny", "new", "--prediction_type=eps"], ""),
    Row(["export", "tiny", "new", "--prediction_type=eps"], ""),
]

PROMPTS = [
    Row(["sample", "--workdir=w"], "prompts: expected at least one, got none"),
    Row(["sample", "", "--workdir=w"], "the prompt of level 0 is empty"),
    Row(["sample", "a", " ", "--workdir=w"], "the prompt of level 1 is empty"),
    Row(["sample", "a", "\t\n", "--workdir=w"], "the prompt of level 1 is empty"),
    Row(["sample", "a", "\u3000", "--workdir=w"], "the prompt of level 1 is empty"),
    Row(["sample", "a", "\ud83d", "--workdir=w"], "prompts[1]: expected text in UTF-8"),
    Row(["sample", "a \udcff", "--workdir=w"], "prompts[0]: expected text in UTF-8"),
    Row(s("--negative_prompt=\udcff"), "negative_prompt: expected text in UTF-8"),
]

# Those that need the model's tokenizer.
LONG_PROMPTS = [
    Row(s("star " * 20), ""),
    Row(s("--negative_prompt=" + "star " * 20), ""),
    Row(["sample", "star " * 100_000, "--workdir=w", "--model=tiny"], ""),
    Row(["sample", "\0" * 20, "--workdir=w", "--model=tiny"], ""),
    Row(["sample", "a\0", "--workdir=w", "--model=tiny", "--upscaler=nowhere"], ""),
]

CONFIGS = [
    *(
        Row(s(f"--config={name}.py"), "")
        for name in (
            "raises",
            "raises_two_lines",
            "imports_nothing",
            "exits",
            "exits_later",
            "quits",
            "ends_generators",
            "syntax",
            "tabs",
            "recursion",
            "nested_source",
            "unnamed",
            "no_function",
            "needs_argument",
            "nothing",
            "number",
            "list",
            "number_keys",
            "unknown",
            "function_value",
            "array_value",
            "set_value",
            "cyclic",
            "cyclic_list",
            "surrogate",
            "module_error",
            "shadow",
            "asserts",
            "memory",
            "stop",
            "bad_text",
            "nested_config",
            "placeholder",
            "required",
            "latin",
            "zero",
            "utf16",
            "dangling",
            "circle",
            "folder",
            "pipe",
            "nowhere",
            "x" * 300,
            "a\0b",
            "~/nowhere",
            "file/a",
        )
    ),
    *(
        Row(s(f"--config={name}.json"), "")
        for name in (
            "cut",
            "empty",
            "bom_only",
            "list",
            "null",
            "text",
            "number",
            "nested",
            "nested_lists",
            "nan",
            "infinity",
            "digits",
            "null_value",
            "null_group",
            "unknown",
            "unknown_group",
            "unknown_in_group",
            "flat",
            "text_number",
            "fraction",
            "one_prompt",
            "number_prompt",
            "null_prompt",
            "lora_name",
            "lora_dict",
            "lora_key",
            "placement",
            "placement_flat",
            "placement_fraction",
            "both_names",
            "own_parts",
            "bad_own_parts",
            "later",
            "config_list",
            "format_text",
            "comments",
            "quotes",
            "twice",
            "page",
            "yaml",
            "latin",
            "utf16",
            "binary",
            "circle",
            "dangling",
            "folder",
            "pipe",
            "nowhere",
        )
    ),
    Row(["sample", "--workdir=w", "--config=empty_prompt.json"], ""),
    Row(["sample", "--workdir=w", "--config=surrogate_prompt.json"], ""),
    Row(["sample", "--workdir=w", "--config=surrogate.py"], ""),
    Row(s("--config=config.yaml"), ""),
    Row(s("--config=config"), ""),
    Row(s("--config="), ""),
    Row(s("--config"), ""),
    Row(s("--config=folder"), ""),
    Row(s("--config=cosmos65"), ""),
    Row(s("--config=train/cosmos64"), ""),
    Row(s("--config=../configs/cosmos"), ""),
    Row(s("--config=/proc/self/mem"), ""),
    Row(s("--config=/dev/zero"), ""),
    Row(s("--config=photo.png"), ""),
    Row(s("--config=done/metrics.json"), ""),
    Row(s("--config=tiny/model_index.json"), ""),
    Row(s("--config=training/config.json"), ""),
]

TRAIN = [
    *(
        Row(["train", f"--config={name}", "--workdir=w"], "")
        for name in (
            "nowhere",
            "paper",
            "cosmos",
            "raises.py",
            "exits.py",
            "empty.json",
            "list.json",
            "unknown.json",
            "done/config.json",
            "latin.json",
            "nested.json",
            "later.json",
            "config_list.json",
            "folder.py",
            "pipe.json",
        )
    ),
    *(
        Row(["train", "--config=cosmos64", "--workdir=w", f"--config.{value}"], "")
        for value in (
            "sede=1",
            "seed=-1",
            "data.size=7",
            "data.size=100000000",
            "data.pictures=1",
            "data.held_out=0",
            "data.workers=0",
            "data.deepest=-1.0",
            "data.deepest=1000.0",
            "tokenizer.vocabulary=10",
            "tokenizer.length=1",
            "precision=float8",
            "diffusion.optimization.steps=0",
            "diffusion.optimization.batch_size=0",
            "diffusion.optimization.batch_size=1000000000",
            "diffusion.optimization.learning_rate=-1.0",
            "diffusion.optimization.learning_rate=nan",
            "diffusion.optimization.optimizer=sgd",
            "diffusion.caption_dropout=1.0",
            "diffusion.unet.block_out_channels=64",
            "autoencoder.model.latent_channels=0",
            "autoencoder.model.latent_channels=-4",
            "autoencoder.model.norm_num_groups=7",
            "autoencoder.loss.kl=-1.0",
            "text_encoder.model.hidden_size=7",
            "intervals.log_steps=0",
            "renders=file",
        )
    ),
    *(
        Row(["train", "--config=cosmos64", f"--workdir={place}"], "")
        for place in (
            "file",
            "file/under",
            "done",
            "thesis",
            "/proc/x",
            "x" * 300,
            "a\0b",
            "circle",
            "training",
            "held",
        )
    ),
]

WORKDIRS = [
    Row(["sample", "a", f"--workdir={place}", "--model=tiny"], words)
    for place, words in [
        ("file", "expected a folder, got the file file"),
        ("file/under", ""),
        ("file/under/more", ""),
        ("pipe", "expected a folder"),
        ("/dev/null", "expected a folder"),
        ("/dev/null/x", ""),
        ("/proc/x", ""),
        ("/proc/self/x", ""),
        ("/proc/self/fd/9999/x", ""),
        ("/sys/x", ""),
        ("/sys/kernel/x", ""),
        ("x" * 300, ""),
        ("x/" * 3000, ""),
        ("\u2603" * 100, ""),
        ("a\0b", ""),
        ("circle", ""),
        ("circle/x", ""),
        ("dangling", ""),
        ("thesis", ""),
        (".", ""),
        ("tiny", ""),
        ("folder/../thesis", ""),
        ("other", ""),
        ("cut_record", ""),
        ("list_record", ""),
        ("empty_record", ""),
        ("latin_record", ""),
        ("nested_record", ""),
        ("later_record", ""),
        ("foreign_record", ""),
        ("record_folder", ""),
        ("record_pipe", ""),
        ("training", ""),
        ("held", ""),
    ]
]

FINISHED = [
    *(
        Row([command, f"--workdir={place}"], "")
        for command in ("render", "evaluate")
        for place in (
            "nowhere",
            "file",
            "folder",
            "thesis",
            "tiny",
            "training",
            "/proc/x",
            "x" * 300,
            "a\0b",
            "circle",
            "cut_record",
            "list_record",
            "empty_record",
            "latin_record",
            "nested_record",
            "later_record",
            "foreign_record",
            "record_folder",
            "record_pipe",
            "cut_arrays",
            "text_arrays",
        )
    ),
    *(
        Row(["render", "--workdir=done", f"--output={file}"], "")
        for file in (
            "done/stack.npz",
            "done/config.json",
            "done/levels/level_000.png",
            "other/zoom.mp4",
            "z.gif",
            "z.webm",
            "z.avi",
            "z",
            "mp4",
            ".mp4",
            "folder",
            "folder/",
            "x.mp4/",
            "file/z.mp4",
            "/proc/z.mp4",
            "/dev/null",
            "x" * 300 + ".mp4",
            "a\0b.mp4",
            "circle/z.mp4",
            "z.mp4.png",
            "tiny/unet/diffusion_pytorch_model.safetensors",
        )
    ),
    Row(["render", "--workdir=done", "--seconds_per_level=1e9"], ""),
    Row(["render", "--workdir=done", "--seconds_per_level=1e300"], ""),
    Row(["render", "--workdir=held"], ""),
]

PHOTOGRAPHS = [
    *(
        Row(s(f"--photograph={file}"), "")
        for file in (
            "nowhere.png",
            "folder",
            "folder.png",
            "text.png",
            "empty.png",
            "cut.png",
            "header.png",
            "huge.png",
            "page.jpg",
            "lfs.png",
            "drawing.svg",
            "phone.heic",
            "raw.cr2",
            "clip.mp4",
            "zeros.bmp",
            "flipped.png",
            "float.tiff",
            "pixels.npy",
            "pipe",
            "circle",
            "dangling",
            "/dev/zero",
            "/dev/null",
            "/proc/self/mem",
            "a\0b.png",
            "x" * 300 + ".png",
            "file/x.png",
            "done",
            "done/stack.npz",
            "~/nowhere.png",
            "http://example.com/cat.png",
            "raises.py",
        )
    ),
    Row([*s("--photograph=photo.png"), "--config.photograph.level=2"], ""),
    Row([*s("--photograph=photo.png"), "--config.photograph.level=99999999999"], ""),
]

MODELS = [
    *(
        Row(["sample", "a", "--workdir=w", f"--model={name}"], "")
        for name in (
            "",
            "nowhere",
            "Cosmos64",
            "cosmos65",
            "./cosmos64",
            "file",
            "folder",
            "thesis",
            "pipe",
            "circle",
            "dangling",
            "photo.png",
            "photo.png/x",
            "done",
            "training",
            "lora.safetensors",
            "peft",
            "cut.safetensors",
            "text.safetensors",
            "empty.safetensors",
            "nothing.safetensors",
            "pipe.safetensors",
            "folder.safetensors",
            "pickled.pt",
            "done/stack.npz",
            "tiny/unet",
            "tiny/model_index.json",
            "tiny/unet/diffusion_pytorch_model.safetensors",
            "inpainting",
            "upscaler",
            "/dev/zero",
            "/dev/null",
            "/proc/self/mem",
            "/proc",
            "x" * 300,
            "a\0b",
            "x/" * 3000,
            "\udcff",
            "runwayml/nowhere",
            "runwayml/nowhere@v1",
            "runwayml/nowhere@",
            "runwayml/nowhere@../x",
            "runwayml/nowhere@\0",
            "https://huggingface.co/runwayml/sd",
            "a/b/c",
            "owner/",
            "/",
            "..",
            "~nobody_here/model",
            "hf.co/x/y",
        )
    ),
    Row(s("--variant=fp16"), ""),
    Row(s("--variant=../../etc"), ""),
    Row(s("--variant=a\0b"), ""),
    Row(["sample", "a", "--workdir=w", "--model=cosmos64", "--variant=fp16"], ""),
    *(
        Row(s(f"--tokenizer={name}"), "")
        for name in ("nowhere", "file", "folder", "pipe", "a\0b", "x" * 300, "circle", "\udcff")
    ),
    Row(s("--prediction_type=v"), ""),
    Row(s("--config.tokenizer=3"), ""),
]

# Keys of a scheduler's config that cannot be honoured, and values that make no schedule.
SCHEDULER = "scheduler/scheduler_config.json"
SCHEDULERS = [
    Row(
        ["sample", "a", "--workdir=w", "--model=bad", *flags], words, settings(SCHEDULER, **changes)
    )
    for changes, flags, words in [
        ({"use_karras_sigmas": True, "_class_name": "DPMSolverMultistepScheduler"}, [], ""),
        ({"use_karras_sigmas": True, "_class_name": "EulerDiscreteScheduler"}, [], ""),
        ({"use_exponential_sigmas": True, "_class_name": "EulerDiscreteScheduler"}, [], ""),
        ({"use_beta_sigmas": True, "_class_name": "EulerDiscreteScheduler"}, [], ""),
        ({"use_lu_lambdas": True, "_class_name": "DPMSolverMultistepScheduler"}, [], ""),
        ({"use_flow_sigmas": True}, [], ""),
        ({"timestep_type": "continuous"}, [], ""),
        ({"interpolation_type": "log_linear", "_class_name": "EulerDiscreteScheduler"}, [], ""),
        ({"use_dynamic_shifting": True}, [], ""),
        ({"algorithm_type": "sde-dpmsolver++"}, ["--solver=dpmpp_2m"], ""),
        ({"algorithm_type": "dpmsolver"}, ["--solver=dpmpp_2m"], ""),
        ({"solver_order": 3}, ["--solver=dpmpp_2m"], ""),
        ({"variance_type": "learned"}, ["--solver=ddpm"], ""),
        ({"variance_type": "mine"}, [], ""),
        ({"prediction_type": "velocity"}, [], ""),
        ({"prediction_type": 3}, [], ""),
        ({"predict_epsilon": False}, [], ""),
        ({"rescale_betas_zero_snr": True}, [], ""),
        ({"beta_start": -1}, [], ""),
        ({"beta_end": 2}, [], ""),
        ({"beta_start": "small"}, [], ""),
        ({"beta_end": float("nan")}, [], ""),
        ({"trained_betas": [0.1]}, [], ""),
        ({"trained_betas": "cosine"}, [], ""),
        ({"num_train_timesteps": 1}, [], ""),
        ({"num_train_timesteps": -5}, [], ""),
        ({"num_train_timesteps": 2.5}, [], ""),
        ({"timestep_spacing": "quadratic"}, [], ""),
        ({"clip_sample_range": 0}, [], ""),
        ({"thresholding": True, "dynamic_thresholding_ratio": 2}, [], ""),
        ({"sample_max_value": 0}, [], ""),
        ({"final_sigmas_type": "one"}, [], ""),
        ({}, ["--steps=1001"], ""),
        ({}, ["--steps=1000000"], ""),
        ({}, ["--solver=lcm", "--steps=51"], ""),
        ({"num_train_timesteps": 10}, ["--steps=11"], ""),
    ]
] + [
    Row(["sample", "a", "--workdir=w", "--model=bad"], words, holds(SCHEDULER, json.dumps(content)))
    for content, words in [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, ""),
        ({"_class_name": "EDMEulerScheduler", "sigma_data": 0.5}, ""),
        ({"_class_name": 3}, ""),
        ({}, ""),
        ([], ""),
    ]
]

FOLDERS = [
    Row(["sample", "a", "--workdir=w", "--model=bad"], words[0], damage)
    for damage, words in BAD_MODELS.values()
]

ADAPTERS = [
    *(
        Row(s(f"--lora={file}"), "")
        for file in (
            "",
            ":",
            "nowhere.safetensors",
            "lora.safetensors:x",
            "lora.safetensors:nan",
            "lora.safetensors:inf",
            "lora.safetensors:0.5:1",
            "nowhere.ckpt",
            "pickled.pt",
            "folder",
            "folder.safetensors",
            "pipe",
            "pipe.safetensors",
            "cut.safetensors",
            "text.safetensors",
            "empty.safetensors",
            "nothing.safetensors",
            "wide.safetensors",
            "elsewhere.safetensors",
            "sdxl.safetensors",
            "nan.safetensors",
            "alpha.safetensors",
            "alpha_nan.safetensors",
            "magnitude.safetensors",
            "half.safetensors",
            "ranks.safetensors",
            "int.safetensors",
            "word.safetensors",
            "photo.png",
            "tiny",
            "peft",
            "tiny/unet/diffusion_pytorch_model.safetensors",
            "peft/adapter_model.safetensors",
            "peft_type/adapter_model.safetensors",
            "peft_text/adapter_model.safetensors",
            "peft_list/adapter_model.safetensors",
            "peft_pattern/adapter_model.safetensors",
            "peft_dora/adapter_model.safetensors",
            "peft_nan/adapter_model.safetensors",
            "peft_zero/adapter_model.safetensors",
            "x" * 300 + ".safetensors",
            "a\0b.safetensors",
            "circle",
            "owner/name",
            "\udcff.safetensors",
        )
    ),
    *(
        Row(s(f"--embedding={file}"), "")
        for file in (
            "",
            ":",
            "nowhere.safetensors:<w>",
            "a:b",
            "word.safetensors:two words",
            "word.safetensors:star",
            "word.safetensors:\udcff",
            "lora.safetensors:<w>",
            "pickled.pt",
            "wide_word.safetensors:<w>",
            "nan_word.safetensors:<w>",
            "no_word.safetensors:<w>",
            "two_words.safetensors:<w>",
            "folder.safetensors:<w>",
            "pipe.safetensors:<w>",
            "photo.png",
            "x" * 300,
        )
    ),
    Row(["sample", "<w>", *SAMPLE[3:], "--embedding=long_word.safetensors:<w>"], ""),
    Row(s("--embedding=word.safetensors:<w>", "--embedding=word.safetensors:<w>"), ""),
]

UPSCALERS = [
    *(
        Row(s(f"--upscaler={name}"), "")
        for name in (
            "nowhere",
            "tiny",
            "inpainting",
            "folder",
            "file",
            "cosmos64",
            "owner/name",
            "a\0b",
            "pipe",
        )
    ),
    Row([*s("--upscaler=upscaler"), "--config.upscaler.noise_level=351"], ""),
    Row([*s("--upscaler=upscaler"), "--config.upscaler.steps=1001"], ""),
    Row(
        [*s("--upscaler=upscaler"), "--config.upscaler.solver=lcm", "--config.upscaler.steps=51"],
        "",
    ),
    Row([*s("--upscaler=upscaler"), "--config.movie.seconds_per_level=1e9"], ""),
]

SIZES = [
    Row(c(*values), words)
    for values, words in [
        (["zoom.height=17"], ""),
        (["zoom.height=1"], ""),
        (["zoom.height=2"], ""),
        (["zoom.width=30"], ""),
        (["zoom.height=100000000"], ""),
        (["zoom.height=100000000", "zoom.width=100000000"], ""),
        (["zoom.height=" + str(2**70)], ""),
        (["zoom.width=4000000"], ""),
        (["zoom.zoom_factor=3"], ""),
        (["zoom.zoom_factor=16"], ""),
        (["zoom.zoom_factor=1000"], ""),
        (["zoom.zoom_factor=" + str(2**70)], ""),
        (["zoom.zoom_factor=5", "zoom.height=80"], ""),
        (["zoom.placement=((1,0),)"], ""),
        (["zoom.placement=((8,0),)"], ""),
        (["zoom.placement=((-8,0),)"], ""),
        (["zoom.placement=((2,2),(2,2))"], ""),
        (["zoom.placement=((1000000000000000,0),)"], ""),
        (["num_samples=100000000"], ""),
        (["num_samples=4294967296"], ""),
        (["movie.seconds_per_level=1e9"], ""),
        (["movie.seconds_per_level=1e300"], ""),
        (["zoom.height=16", "zoom.width=65536", "movie.size=4096"], ""),
    ]
]

DEVICES = [
    Row(s("--devices=gpu"), ""),
    Row(s("--devices=tpu"), ""),
    Row(s("--distributed"), ""),
    Row(s("--dtype=float16"), ""),
    Row(s("--compilation_cache=a\0b"), ""),
]

MODEL_COMMANDS = [
    *(
        Row([command, *paths], "")
        for command in ("convert", "export")
        for paths in (
            ("nowhere", "new"),
            ("file", "new"),
            ("folder", "new"),
            ("thesis", "new"),
            ("pipe", "new"),
            ("lora.safetensors", "new"),
            ("a\0b", "new"),
            ("owner/name", "new"),
            ("tiny", "folder/../thesis"),
            ("tiny", "tiny"),
            ("tiny", "file"),
            ("tiny", "file/x"),
            ("tiny", "done"),
            ("tiny", "/proc/x"),
            ("tiny", "x" * 300),
            ("tiny", "a\0b"),
            ("tiny", "circle"),
            ("tiny", "dangling"),
            ("tiny", ""),
            ("", "new"),
            ("tiny", "circle/x"),
            ("tiny", "."),
            ("tiny", "/dev/null"),
        )
    ),
    Row(["convert", "tiny", "new", "--variant=fp16"], ""),
    Row(["convert", "tiny", "new", "--tokenizer=nowhere"], ""),
    Row(["export", "tiny", "new", "--tokenizer=folder"], ""),
    Row(["convert", "bad", "new"], "", holds("unet/config.json", "")),
    Row(["export", "bad", "new"], "", flipped("unet/diffusion_pytorch_model.safetensors", 8)),
]

KINDS = {
    name.lower(): rows
    for name, rows in globals().items()
    if name.isupper() and isinstance(rows, list) and rows and isinstance(rows[0], Row)
}
# Those for which settings suffice: JAX is not even imported.
QUICK = ("commands", "flags", "numbers", "prompts", "configs")
