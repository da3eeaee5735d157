"""The folder in which the mistakes of `mistakes` are made."""

import dataclasses
import json
import os
import shutil
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import recipes
from PIL import Image
from safetensors.numpy import save_file
from tiny_models import tiny_inpainting_model, tiny_model, tiny_upscaler

from pot_jax.config import MovieSettings, RunSettings, ZoomSettings
from pot_jax.media.images import read_text
from pot_jax.runs.zoom import Zoom
from pot_jax.weights.export import export
from pot_jax.zoom.geometry import Geometry

LAYER = "lora_unet_mid_block_attentions_0_proj_in"


def make_place(place: Path) -> None:
    """Makes the folder: models, runs, photographs, configs and adapters, sound ones and others."""
    exports = {"tiny": tiny_model, "inpainting": tiny_inpainting_model, "upscaler": tiny_upscaler}
    for name, model in exports.items():
        export(model(place.parent / "tokenizers" / name), place / name)
    _make_runs(place)
    _make_zooms_of_others(place)
    _make_photographs(place)
    _make_recipes(place)
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
    levels = {
        name: place / f"level_{name}/levels" for name in ("cut", "replaced", "resized", "missing")
    }
    for name in levels:
        run(f"level_{name}", record)
    last = levels["cut"] / "level_001.png"
    last.write_bytes(last.read_bytes()[:60])
    (levels["missing"] / "level_001.png").unlink()
    for name, size in (("replaced", 16), ("resized", 8)):
        Image.new("RGB", (size, size), "red").save(levels[name] / "level_000.png")
    for name, others in (("loop", {"loop": True}), ("p4", {"zoom_factor": 4})):
        g = dataclasses.replace(geometry, **others)
        dataclasses.replace(zoom, geometry=g).save(place / name)
    for name in ("unfinished", "several"):
        run(name, record)
        (place / name / "stack.npz").unlink()
    shutil.copytree(place / "done", place / "several" / "stack_000")
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


def _make_zooms_of_others(place: Path) -> None:
    sizes = {"theirs_missing": [16], "theirs_sizes": [16, 8]}
    for name in ("theirs", "theirs_unknown", "theirs_text", "theirs_cut", *sizes):
        (place / name).mkdir()
        for number, side in enumerate(sizes.get(name, [16, 16])):
            black = Image.fromarray(np.zeros((side, side, 3), np.uint8))
            black.save(place / name / f"{number}.png")
        said = {"prompts": ["their", "prompts"], "zoom_factor": 2}
        said |= {"prompt": "one"} if name == "theirs_unknown" else {}
        text = json.dumps(said)[: 20 if name == "theirs_cut" else None]
        (place / name / "zoom.json").write_text(text)
    (place / "theirs_text" / "1.png").write_text("a picture of a cat")


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


def _make_recipes(place: Path) -> None:
    data = (place / "done" / "levels" / "level_000.png").read_bytes()
    text = read_text(place / "done" / "levels" / "level_000.png")["pot_jax"]
    said = json.loads(text)

    def changed(config=(), **others):
        return json.dumps(said | others | {"config": said["config"] | dict(config)})

    part = {"part": "blend", "name": "mine.blend", "sha256": ""}
    lora = {"path": "?", "strength": 1.0, "sha256": "c0ffee"}
    for name, recipe in {
        "sound": text,
        "cut": text[:100],
        "empty": "",
        "list": "[1, 2]",
        "nested": "[" * 10**5,
        "twice": '{"format": 1, "format": 1}',
        "later": changed(format=99),
        "text_format": changed(format="one"),
        "short": '{"format": 1}',
        "setting": changed({"colour": "red"}),
        "range": changed({"seed": -1}),
        "path": changed({"model": "/etc/passwd", "photograph": {"path": "photo.png"}}),
        "lora_path": changed({"loras": [{**lora, "path": "lora.safetensors"}]}),
        "lora": changed({"loras": [lora]}),
        "own": changed({"own_parts": [part]}),
        "held": changed({"held": [[0, "c0ffee"]]}),
        "latents": changed(identity={"given latents": "c0ffee"}),
        "weights": changed(identity={"networks": "c0ffee"}),
    }.items():
        (place / f"recipe_{name}.png").write_bytes(recipes.with_recipe(data, recipe))
    others = b"a cat\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 8x8"
    bomb = zlib.compress(b" " * (1 << 24))
    for name, chunk in {
        "others": (b"tEXt", b"parameters\0" + others),
        "bomb": (b"zTXt", b"pot_jax\0\0" + bomb),
        "bomb_itxt": (b"iTXt", b"pot_jax\0\1\0\0\0" + bomb),
    }.items():
        (place / f"recipe_{name}.png").write_bytes(recipes.with_text(data, chunk))
    (place / "recipe_flipped.png").write_bytes(data.replace(b'"seed": 0', b'"seed": 1'))
    (place / "recipe_half.png").write_bytes(data[: data.index(b"pot_jax") + 100])


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
    scenes = {
        "": '[prompts]\n0-1 = "a"\n2- = "b"\n[zoom]\nlevels = 3\n',
        "_bad": "[prompts\n",
        "_twice": 'prefix = "a"\nprefix = "b"\n',
        "_gap": '[prompts]\n0-1 = "a"\n3 = "b"\n',
        "_open": '[prompts]\n0 = "a"\n1- = "b"\n',
        "_unknown": 'sufix = "x"\nprompts = ["a"]\n',
        "_date": 'prefix = 2024-01-01\nprompts = ["a"]\n',
        "_none": 'prefix = "a"\n',
        "_nan": 'prompts = ["a"]\n[sampler]\neta = nan\n',
    }
    for name, text in scenes.items():
        (place / f"scene{name}.toml").write_text(text, "utf-8")
    (place / "scene_latin.toml").write_bytes('prefix = "é"'.encode("latin-1"))
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
