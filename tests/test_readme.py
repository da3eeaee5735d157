"""What the README shows does what it says, with the model that ships."""

import pathlib
import re

import numpy as np
import pytest

from pot_jax.evaluation.metrics.overlap import overlap_psnr
from pot_jax.media.images import from_bytes, read_picture
from pot_jax.weights.load import EMBEDDED

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The names that the README's Python example leaves behind, run in an empty folder."""
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    folder = tmp_path_factory.mktemp("readme")
    names = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile(code, "README.md", "exec"), names)
    return names, folder


def test_the_example_runs(example):
    names, folder = example
    zoom = names["zoom"]
    assert zoom.images.shape == (3, 64, 64, 3)
    assert np.abs(zoom.images).max() <= 1
    pictures = [read_picture(folder / f"runs/mine/levels/level_{i:03d}.png") for i in range(3)]
    assert overlap_psnr(from_bytes(np.stack(pictures)), zoom.geometry).min() >= 55
    assert (folder / "runs/mine/zoom.mp4").stat().st_size > 0


def test_the_pictures_follow_their_prompts(example):
    galaxy, _, planet = example[0]["zoom"].images
    # A galaxy lies in black space; a blue planet's picture is bluer than it is red.
    edges = np.concatenate([galaxy[:8].ravel(), galaxy[-8:].ravel()])
    assert edges.mean() < -0.4
    assert (planet[..., 2] - planet[..., 0]).mean() > 0.05


def test_the_shipped_model_is_small():
    size = sum(file.stat().st_size for file in EMBEDDED["cosmos64"].rglob("*") if file.is_file())
    assert size < 40e6


def test_files_that_the_readme_names_exist():
    text = (ROOT / "README.md").read_text()
    for name in re.findall(r"\]\(([^):]+)\)", text):
        assert (ROOT / name).is_file(), name
