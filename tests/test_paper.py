"""The table in WORKSPACE.md that leads from the paper to the code names what is there."""

import importlib
import pathlib
import re

from pot_jax import config

ROOT = pathlib.Path(__file__).parents[1]


def rows():
    text = (ROOT / "WORKSPACE.md").read_text()
    table = text.split("## From the paper to the code")[1].split("\n## ")[0]
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and "`" in cells[1]:
            yield cells[0], re.findall(r"`([^`]+)`", cells[1]), re.findall(r"`([^`]+)`", cells[2])


def test_every_name_of_the_paper_is_in_the_code():
    found = 0
    for what, (file,), names in rows():
        if file.startswith("configs/"):
            assert config.read(str(ROOT / file)), what
            continue
        module = importlib.import_module("pot_jax." + file.removesuffix(".py").replace("/", "."))
        for name in names:
            assert getattr(module, name).__doc__, (what, name)
            found += 1
    assert found >= 12
    said = " ".join(what for what, _, _ in rows())
    for word in ("Algorithm 1", "Algorithm 2", "Pi_image", "Pi_noise", "Fig. 5", "photograph's"):
        assert word in said
