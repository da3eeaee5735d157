"""Recipes in PNG files: damaged ones, random ones, and a reader of another program's form."""

import json
import random
import re
import shutil
import string
import struct
import zlib
from pathlib import Path

import lora_files
import numpy as np
from tiny_models import tiny_model

from pot_jax import main
from pot_jax.checks import build
from pot_jax.config import MovieSettings, RunSettings
from pot_jax.errors import UserError
from pot_jax.media.images import save_png
from pot_jax.runs import recipe
from pot_jax.runs.zoom import Zoom
from pot_jax.weights.export import export
from pot_jax.zoom.geometry import Geometry

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """The chunks of a PNG file, as (kind, content)."""
    found, place = [], len(SIGNATURE)
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        found.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += length + 12
    return found


def png(parts: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG file of such chunks."""
    return SIGNATURE + b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    )


def with_text(data: bytes, *added: tuple[bytes, bytes]) -> bytes:
    """A PNG file with other text chunks."""
    texts = (b"tEXt", b"zTXt", b"iTXt")
    rest = [(kind, content) for kind, content in chunks(data) if kind not in texts]
    return png([rest[0], *added, *rest[1:]])


def with_recipe(data: bytes, text: str) -> bytes:
    """A PNG file whose recipe is this text."""
    return with_text(data, (b"tEXt", b"pot_jax\0" + text.encode("latin-1", "replace")))


def parsed_parameters(text: str) -> tuple[str, str, dict[str, str]]:
    """Prompt, negative prompt and fields, as AUTOMATIC1111's web UI reads them.

    By the rules of `parse_generation_parameters` (modules/infotext_utils.py there, commit 0365002):
    the last line has the fields if it has three or more; a value in double quotes is JSON; the
    negative prompt begins at the line that says so.
    """
    field = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
    *lines, last = text.strip().split("\n")
    pairs = field.findall(last)
    if len(pairs) < 3:
        lines, pairs = [*lines, last], []
    lines = [line.strip() for line in lines]
    begins = (i for i, line in enumerate(lines) if line.startswith("Negative prompt:"))
    cut = next(begins, len(lines))
    negative = "\n".join(lines[cut:]).removeprefix("Negative prompt:").strip()
    values = {
        name: json.loads(value) if value[:1] == value[-1:] == '"' else value
        for name, value in pairs
    }
    return "\n".join(lines[:cut]), negative, values


def _mutated_json(rng: random.Random, text: str) -> str:
    """The recipe with one value, somewhere in it, of another kind; or renamed, or left out."""
    data = json.loads(text)
    place = data
    while isinstance(place, dict | list) and place:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        parent, key = place, rng.choice(keys)
        place = parent[key]
        if rng.random() < 0.3:
            break
    odd = [None, True, -1, 1e400, 2**70, "", "x" * 5000, "\ud800", "\0\n", "../x", "~", [], {}]
    odd += [[[1]], {"a": 1}, 0.5, "/etc/passwd", ["a"], 3]
    if isinstance(parent, dict) and rng.random() < 0.3:
        value = parent.pop(key)
        if rng.random() < 0.5:
            parent[rng.choice(["x", "", "\n", "config"])] = value
    else:
        parent[key] = rng.choice(odd)
    return json.dumps(data)


def mutated(rng: random.Random, data: bytes) -> bytes:
    """A PNG of ours with damage to its texts, of a kind drawn at random."""
    parts = chunks(data)
    at = next(i for i, (_, content) in enumerate(parts) if content.startswith(b"pot_jax\0"))
    text = parts[at][1].partition(b"\0")[2].decode()
    kind = rng.randrange(9)
    if kind == 0:  # any byte of the file
        raw = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        return bytes(raw)
    if kind == 1:  # cut anywhere
        return data[: rng.randrange(len(data))]
    if kind == 2:  # a character of the JSON, with a right checksum
        raw, place = list(text), rng.randrange(len(text))
        raw[place] = rng.choice(string.printable)
        return with_recipe(data, "".join(raw))
    if kind == 3:  # the JSON cut, doubled or nested
        options = [
            text[: rng.randrange(len(text))],
            text * 2,
            "[" * rng.randint(1, 10**5),
            text[1:],
        ]
        return with_recipe(data, rng.choice(options))
    if kind == 4:  # compressed, to more than a reader should unpack
        size = rng.choice([10, 1 << 20, 1 << 24])
        body = zlib.compress(text.encode() + b" " * size)
        bomb = rng.choice(
            [(b"zTXt", b"pot_jax\0\0" + body), (b"iTXt", b"pot_jax\0\1\0\0\0" + body)]
        )
        return with_text(data, bomb)
    if kind == 5:  # chunks whose own form is wrong
        heads = [
            b"pot_jax",
            b"pot_jax\0\0\0",
            b"\0" * 5,
            b"pot_jax\0\1\1\0\0x",
            b"pot_jax\0\xff\xff",
        ]
        return with_text(data, (rng.choice([b"tEXt", b"zTXt", b"iTXt"]), rng.choice(heads)))
    if kind == 6:  # a chunk's length
        raw = bytearray(data)
        place = raw.index(b"pot_jax\0") - 8
        raw[place : place + 4] = struct.pack(">I", rng.choice([0, 1, 2**31 - 1, 2**32 - 1, 4000]))
        return bytes(raw)
    return with_recipe(data, _mutated_json(rng, text))


def reading(path: Path) -> str:
    """What reading a recipe says: "" for a valid one; raises what is no mistake of the user's."""
    try:
        made = recipe.read(str(path))
        build(RunSettings, made["config"])
        now = {"versions": {}, "code": None, "devices": ""} | {
            n: made[n] for n in ("config", "identity")
        }
        assert all(note.isprintable() for note in recipe.check(made, now))
    except UserError as error:
        return str(error)
    return ""


def picture(folder: Path) -> bytes:
    """A PNG with the recipe of a run that was never sampled."""
    movie, black = MovieSettings(fps=2, size=16), np.zeros((2, 16, 16, 3), np.float32)
    settings = RunSettings(model="cosmos64", prompts=("a", "ü, b"), movie=movie)
    identity = dict.fromkeys(("weights", "prompts", "sampler", "seeds"), "c0ffee" * 10)
    latents, geometry = np.zeros((2, 8, 8, 4), np.float32), Geometry(2, 2, 16, 16)
    zoom = Zoom(black, black, latents, settings, geometry, "c0ffee" * 10, {}, identity)
    zoom.save(folder / "run")
    return (folder / "run" / "levels" / "level_001.png").read_bytes()


def mutations(data: bytes, folder: Path, size: int) -> tuple[list[str], int]:
    """Breaches among `size` mutations of a PNG of ours, and how many were still valid."""
    rng, breaches, valid, path = random.Random(0), [], 0, folder / "mutated.png"
    for index in range(size):
        content = mutated(rng, data)
        path.write_bytes(content)
        try:
            said = reading(path)
        except Exception as error:
            breaches.append(f"{index}: {error!r}")
            continue
        valid += not said
        if said and ("\n" in said or not said.startswith("--from_picture: ") or len(said) > 800):
            breaches.append(f"{index}: {said}")
    return breaches, valid


# Making runs again. ------------------------------------------------------------------------------

WORDS = ("a blue spiral galaxy", "a star, its planets", 'ein "Planet" ü', "星: 宇宙", "a\nbeetle")
# What needs a program of its own; few runs take the first alone.
VARIANTS = ([], ["--loop"], ["--zoom_factor=4"], ["--config.zoom.placement=((0,8),)"])
VARIANTS += (["--space=pixel"],)


def arguments(rng: random.Random, variants: int) -> list[str]:
    """A random run of the small shipped model; few of the draws need a program of their own."""
    scale = rng.choice(["4", "2.5", "7.25", "1.1"])
    found = [
        rng.choice(WORDS),
        rng.choice(WORDS),
        "--model=cosmos64",
        "--steps=2",
        "--space=latent",
    ]
    found += [f"--seed={rng.randrange(2**32)}", f"--guidance_scale={scale}"]
    found += [f"--negative_prompt={rng.choice(['', 'blurry', 'x, y: z', 'ü'])}"]
    found += [f"--config.sampler.blend_weight={rng.choice([0.3, 1, 0.5])}"]
    found += ["--config.movie.fps=2", "--config.movie.size=32", "--config.save_every=0"]
    return found + VARIANTS[rng.randrange(variants)]


def run(*flags: str) -> int:
    """The exit code of a `sample` in this process."""
    return main.main(["pot-jax", "sample", *flags, "--compilation_cache=none"])


def results(folder: Path) -> dict[str, object]:
    """Pictures with their texts, arrays and movie of a run, to be compared."""
    found = {p.name: p.read_bytes() for p in [*folder.rglob("*.png"), folder / "zoom.mp4"]}
    with np.load(folder / "stack.npz") as arrays:
        return found | {name: arrays[name].tobytes() for name in arrays.files}


def made_again(folder: Path, size: int, variants: int) -> list[str]:
    """Breaches among `size` random runs that are made again from one of their files."""
    rng, breaches = random.Random(1), []
    files = ["levels/level_000.png", "levels/level_001.png", "contact_sheet.png"]
    for index in range(size):
        flags, first, again = (
            arguments(rng, variants),
            folder / f"{index}",
            folder / f"{index}_again",
        )
        codes = [run(*flags, f"--workdir={first}")]
        codes += [run(f"--from_picture={first / rng.choice(files)}", f"--workdir={again}")]
        if any(codes) or results(first) != results(again):
            breaches.append(f"{flags}: exit codes {codes}, or other bytes")
    return breaches


# Nothing of the machine. -------------------------------------------------------------------------

RARE = {"home": "qyxhome", "user": "qyxuser", "host": "qyxhost", "work": "qyxwork"}


def make_files(place: Path) -> Path:
    """Makes a tiny model, LoRAs and photographs of random values."""
    place.mkdir(exist_ok=True)
    export(tiny_model(place / "tokenizer"), place / "model")
    export(tiny_model(place / "tokenizer", seed=1), place / "other_model")
    for seed, name in enumerate(("one", "two", "three")):
        layers = {lora_files.DENSE: lora_files.parts(lora_files.DENSE, seed=seed)}
        lora_files.write(place / f"{name}.safetensors", layers)
    rng = np.random.default_rng(0)
    for name in ("photo", "other_photo"):
        save_png(place / f"{name}.png", rng.integers(0, 256, (16, 16, 3), np.uint8))
    return place


def make_rare(files: Path, folder: Path) -> Path:
    """Makes a home with a model, a LoRA and a photograph from `files`; returns a work folder."""
    home, work = folder / RARE["home"], folder / RARE["work"]
    shutil.copytree(files / "model", home / "model")
    for name in ("one.safetensors", "photo.png"):
        shutil.copy(files / name, home / name)
    work.mkdir()
    return work


def rare_environment(folder: Path) -> dict[str, str]:
    """The variables that say who and where one is."""
    user = dict.fromkeys(("USER", "LOGNAME", "USERNAME"), RARE["user"])
    return {"HOME": str(folder / RARE["home"]), "HOSTNAME": RARE["host"], **user}


def rare_flags(folder: Path) -> list[str]:
    """Files in that home, named in full and by ~, and a work folder named in full."""
    home = folder / RARE["home"]
    found = [f"--model={home / 'model'}", f"--lora={home / 'one.safetensors'}"]
    return [*found, "--photograph=~/photo.png", f"--workdir={folder / RARE['work'] / 'run'}"]


def named(run: Path, *others: str) -> list[str]:
    """The files of a run in which a rare word, or one of the others, is found."""
    files = [path for path in run.rglob("*") if path.is_file()]
    assert {"config.json", "stack.npz", "zoom.mp4", "level_001.png"} <= {p.name for p in files}
    words = [word.encode() for word in (*RARE.values(), *others)]
    return [str(path) for path in files if any(word in path.read_bytes() for word in words)]
