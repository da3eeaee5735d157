"""What the README shows does what it says: every shell line and Python block, in order, as written.

They run in one empty folder, where small stand-ins lie at the paths that the README names: models,
a LoRA, an embedding, and the configs cut down to three prompts and a small movie. The shipped model
is a real one: at `cosmos128` lies the faster cosmos64. A fenced block without a language, or an
indented one, is for the shell.
"""

import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import tomllib
from typing import NamedTuple

import lora_files
import numpy as np
import pytest
import tiny_models
from PIL import Image
from safetensors.numpy import save_file
from single_files import TINY_1, tensors
from tiny_models import TEXT, tiny_inpainting_model, tiny_model, tiny_upscaler

from pot_jax.checks import build
from pot_jax.config import RunSettings
from pot_jax.evaluation.metrics.overlap import overlap_psnr
from pot_jax.media.images import read_picture
from pot_jax.media.pixels import from_bytes
from pot_jax.spans import resolved
from pot_jax.weights.export import export
from pot_jax.weights.load import SHIPPED

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SHELL = ("", "sh", "bash", "shell", "console")

# Lines that do not run here, and why.
EXCLUDED = {
    r"tools/": "sets up an environment of its own; tools/demo runs a command that stands here too",
    r"pot-jax train\b": "trains for hours; tests/training runs the recipes at a tiny size",
    r".*(--model=|load\(\")[\w.-]+/[\w.-]+(@\S+)?(\s|\"|$)": "a model of the hub: needs a network",
    r"(git clone|pip install|.*/pip install|hf )": "needs a network",
}


class Step(NamedTuple):
    """One shell line, its continuations joined, or one Python block."""

    number: int  # of its first line in the README
    language: str
    source: str


def blocks(text: str):
    """(number of the first line, language, lines) of each fenced and each indented block."""
    rows = text.split("\n")
    i = 0
    while i < len(rows):
        fence = re.match(r"```(\w*)", rows[i])
        if not fence and not (rows[i].startswith("    ") and i and not rows[i - 1].strip()):
            i += 1
            continue
        first = i + 1 if fence else i
        i = first
        while i < len(rows) and (
            not rows[i].startswith("```") if fence else rows[i].startswith("    ")
        ):
            i += 1
        lines = rows[first:i]
        yield first + 1, fence[1] if fence else "", lines if fence else [r[4:] for r in lines]
        i += 1


def steps(text: str) -> list[Step]:
    """What there is to run, in order; what is excluded is left out."""
    found = []
    for number, language, lines in blocks(text):
        if language == "python":
            found.append(Step(number, language, "\n".join(lines)))
        elif language in SHELL:
            joined, start = "", number
            for i, line in enumerate(lines):
                start = start if joined else number + i
                joined += line.removeprefix("$ ")
                if joined.endswith("\\"):
                    joined = joined[:-1]
                    continue
                if joined.strip() and not joined.startswith("#"):
                    found.append(Step(start, "sh", joined))
                joined = ""
    return [step for step in found if not any(re.match(rule, step.source) for rule in EXCLUDED)]


STEPS = steps(README)


def test_scenes_in_the_readme_resolve():
    scenes = ["\n".join(lines) for _, language, lines in blocks(README) if language == "toml"]
    assert scenes
    for scene in scenes:
        assert resolved(build(RunSettings, tomllib.loads(scene))).prompts


# A config of the repository with fewer levels and a smaller movie.
SHORT_CONFIG = """
import runpy

def get_config():
    config = runpy.run_path({path!r})["get_config"]().to_dict()
    movie = config.get("movie", {{}}) | {{"size": 64}}
    return config | {{"prompts": config["prompts"][:3], "movie": movie}}
"""


def lay_out(folder: pathlib.Path) -> None:
    """Puts small stand-ins at the paths that the README names."""
    scratch = folder.parent / "scratch"
    paths = folder / "path" / "to"
    paths.mkdir(parents=True)
    (folder / "cosmos128").symlink_to(SHIPPED["cosmos64"])
    for config in (ROOT / "configs").glob("*.py"):
        (folder / "configs").mkdir(exist_ok=True)
        (folder / "configs" / config.name).write_text(SHORT_CONFIG.format(path=str(config)))
    with pytest.MonkeyPatch.context() as patch:
        # As many tokens as Stable Diffusion takes: the configs' prompts are spelled by the letter.
        patch.setattr(tiny_models, "POSITIONS", 77)
        patch.setattr(tiny_models, "TEXT", dataclasses.replace(TEXT, max_position_embeddings=77))
        export(tiny_model(scratch / "a"), paths / "stable-diffusion")
        export(tiny_upscaler(scratch / "b"), paths / "x4-upscaler")
        export(tiny_inpainting_model(scratch / "c"), paths / "inpainting")
    save_file(tensors(TINY_1), paths / "model.safetensors")
    tiny_models.write_tiny_tokenizer(paths / "tokenizer")
    layers = {name: lora_files.parts(name) for name in (lora_files.DENSE, lora_files.TEXT)}
    lora_files.write(folder / "style.safetensors", layers)
    rng = np.random.default_rng(0)
    save_file(
        {"<toy>": rng.normal(size=(2, TEXT.hidden_size)).astype(np.float32)},
        folder / "toy.safetensors",
    )
    photograph = Image.fromarray(rng.integers(0, 256, (96, 128, 3), np.uint8))
    for name in ("photograph.png", "photograph.jpg", "photo.png", "photo.jpg"):
        photograph.save(folder / name)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(what went wrong by step, the names that the Python blocks leave behind, the folder)."""
    folder = tmp_path_factory.mktemp("readme") / "here"
    lay_out(folder)
    programs = pathlib.Path(sys.executable).parent  # its pot-jax is the one that is tested
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(path for path in (str(ROOT), *sys.path) if path),
    }
    wrong, names = {}, {}
    for step in STEPS:
        if step.language == "sh":
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", step.source],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                wrong[step] = f"exit code {done.returncode}: {done.stderr[-2000:]}"
            continue
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            try:
                exec(compile(step.source, "README.md", "exec"), names)
            except Exception as error:  # told by the step's own test
                wrong[step] = repr(error)
    return wrong, names, folder


@pytest.mark.parametrize("step", STEPS, ids=[f"line_{step.number}" for step in STEPS])
def test_each_step_runs(ran, step):
    assert step not in ran[0], f"README.md:{step.number}: {step.source}\n{ran[0][step]}"


def test_the_example_makes_a_zoom(ran):
    _, names, folder = ran
    zoom = names["zoom"]
    levels = len(zoom.images)
    assert zoom.images.shape == (levels, 64, 64, 3)
    assert np.abs(zoom.images).max() <= 1
    saved = folder / re.search(r"zoom\.save\(\"(.+?)\"", README)[1]
    pictures = [read_picture(saved / f"levels/level_{i:03d}.png") for i in range(levels)]
    assert overlap_psnr(from_bytes(np.stack(pictures)), zoom.geometry).min() >= 55
    assert (saved / "zoom.mp4").stat().st_size > 0


def test_the_pictures_follow_their_prompts(ran):
    galaxy, _, planet = ran[1]["zoom"].images
    # A galaxy lies in black space; a blue planet's picture is bluer than it is red.
    edges = np.concatenate([galaxy[:8].ravel(), galaxy[-8:].ravel()])
    assert edges.mean() < -0.4
    assert (planet[..., 2] - planet[..., 0]).mean() > 0.05


def test_steps_are_read_as_written():
    text = (
        "# x\n```\n$ pot-jax a \\\n    b  # why\ntools/test\n\n# alone\nb c\n```\n"
        "```python\nx = 1\n```\n```json\n{}\n```\nsee:\n\n    d e\n    f\n\ntext\n    no block\n"
        "```sh\npot-jax sample --model=owner/name@main\npot-jax sample --model=path/to/a\n```\n"
    )
    assert steps(text) == [
        Step(3, "sh", "pot-jax a     b  # why"),
        Step(8, "sh", "b c"),
        Step(11, "python", "x = 1"),
        Step(18, "sh", "d e"),
        Step(19, "sh", "f"),
        Step(25, "sh", "pot-jax sample --model=path/to/a"),
    ]


def test_the_readme_has_both_kinds():
    assert {step.language for step in STEPS} == {"sh", "python"}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_is_small(name):
    size = sum(file.stat().st_size for file in SHIPPED[name].rglob("*") if file.is_file())
    assert size < 40e6


def test_files_that_the_readme_names_exist():
    for name in re.findall(r"\]\(([^):]+)\)", README):
        assert (ROOT / name.partition("#")[0]).is_file(), name
    for name in re.findall(r"\btools/\w+", README):
        assert os.access(ROOT / name, os.X_OK), name
