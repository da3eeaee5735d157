"""All devices, all hosts: what is built of it so far: hosts, launch files, speed."""

import importlib.util
import json
import os
import subprocess
from pathlib import Path

from acceptance import ROOT, Outcome, Row, at_most_lines
from acceptance_topics.hands import LINES as BEFORE
from acceptance_topics.robustness import PYTHON, passing

LINES = BEFORE + 800
HOSTS = "tests/parallel/test_hosts.py"


def hosts(size: int, folder: Path) -> Outcome:
    """Runs of 2 and of 4 processes beside one process's."""
    found = passing(HOSTS, 2, folder, {}, "-k", "make")
    return Outcome(found.figure, found.reached, size if found.reached else 0)


def chosen(words: str):
    """A row's function: the tests of hosts whose names have `words`."""
    return lambda size, folder: passing(HOSTS, size, folder, {}, "-k", words)


def launch(size: int, folder: Path) -> Outcome:
    """Launch files: options, fields, commands."""
    return passing("tests/test_launch.py", size, folder, {})


def bench(folder: Path, *options: str) -> dict:
    """What tools/bench measured on this machine's CPU."""
    command = [PYTHON, ROOT / "tools" / "bench", f"--json={folder / 'bench.json'}", *options]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    said = json.loads((folder / "bench.json").read_text())
    failed = {name: row["failed"] for name, row in said["rows"].items() if "failed" in row}
    if failed or said["not_run"]:
        raise RuntimeError(f"failed: {failed}; not run: {said['not_run']}")
    return said["rows"]


def unet(size: int, folder: Path) -> Outcome:
    """cosmos64's UNet on 16 rows beside torch.compile's of diffusers', by medians."""
    if importlib.util.find_spec("torch") is None:
        return Outcome("torch is not installed", False, 0)
    row = bench(folder, "--models=cosmos64", "--only=diffusers", "--minutes=20")
    ratios = row["cosmos64 diffusers 16"]["of_torch_compile"]
    step, forward = (ratios[name]["median"] for name in ("ours in a step", "ours"))
    return Outcome(f"{step:.3f} in a step; {forward:.3f} alone", step <= 1)


def step(size: int, folder: Path) -> Outcome:
    """cosmos64's joint step beside the sum of its parts, by medians."""
    rows = bench(folder, "--models=cosmos64", "--only=step", "--minutes=20")
    spaces = ("latent", "pixel")
    ratios = [rows[f"cosmos64 step {space}"]["of_parts"]["median"] for space in spaces]
    said = ", ".join(f"{space} {ratio:.3f}" for space, ratio in zip(spaces, ratios))
    return Outcome(said, max(ratios) <= 1.05)


def share(size: int, folder: Path) -> Outcome:
    """cosmos128's operators in its step, by the least times."""
    only = "--only=cosmos128 step,cosmos128 operators"
    rows = bench(folder, "--models=cosmos128", only, "--minutes=20")
    spaces = ("latent", "pixel")
    shares = [rows[f"cosmos128 operators {space}"]["of_step_time"] for space in spaces]
    said = ", ".join(f"{space} {100 * x:.2f} %" for space, x in zip(spaces, shares))
    return Outcome(said, max(shares) < 0.10)


def tiny(size: int, folder: Path) -> Outcome:
    """All of tools/bench on a toy."""
    rows = bench(folder, "--tiny", "--minutes=10")
    return Outcome(f"{len(rows)} rows", len(rows) >= 12)


ROWS = [
    Row("unet", "at most 1.0 of torch.compile's time of the same UNet", unet, in_tenth=False),
    Row("step", "at most 1.05 of the sum of its parts", step, in_tenth=False),
    Row("share", "operators under 10 % of cosmos128's step", share, in_tenth=False),
    Row("bench", "all rows on a toy", tiny, in_tenth=False),
    Row("hosts", "the pictures of one process", hosts, 4, "processes", 20.0, "", False),
    Row("lost", "one line within a minute, and it resumes", chosen("lost"), 1, "run", 20.0, "",
        False),
    Row("signal", "all end at one step, and it resumes", chosen("signal"), 1, "run", 20.0, "",
        False),
    Row("mistakes", "one line, no hang", chosen("mistakes"), 1, "run", 20.0, "", False),
    Row("launch", "parsed, checked, dry-run", launch, 1, "run", 20.0, "", False),
    Row("lines", f"at most {LINES:,} lines in the package", at_most_lines(LINES, "*.html"), 1,
        "run", 30.0, "", False),
]  # fmt: skip
