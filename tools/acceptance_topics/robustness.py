"""Nothing is lost in silence: flipped bits, kills at any moment, the same pictures afterwards."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from acceptance import ROOT, Outcome, Row

PROMPTS = ("a blue spiral galaxy", "a star and its planets")
RUN = ("--steps=12", "--space=latent", "--config.save_every=5")
RUN += ("--config.movie.fps=4", "--config.movie.size=32")
PYTHON = Path(sys.prefix) / "bin" / "python"


def start(folder: Path) -> subprocess.Popen:
    """Starts, or resumes, the run that all rows are about, as a user does."""
    command = [PYTHON, "-m", "pot_jax", "sample", *PROMPTS, *RUN, f"--workdir={folder}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder.parent, env=environment, **pipes)


def finish(folder: Path) -> str:
    """Runs to the end; returns what was said. Raises RuntimeError where it fails."""
    process = start(folder)
    said = process.communicate(timeout=600)[1]
    if process.returncode or "Traceback" in said:
        raise RuntimeError(f"exit code {process.returncode}: {said[-500:]}")
    return said


def result(folder: Path) -> dict[str, bytes]:
    """The bytes of a finished run's pictures and arrays."""
    found = {path.name: path.read_bytes() for path in sorted((folder / "levels").iterdir())}
    with np.load(folder / "stack.npz") as arrays:
        found |= {name: arrays[name].tobytes() for name in arrays.files}
    left = [path.name for path in folder.rglob(".pot_jax-*")]
    return found | {"left behind": " ".join(left).encode()}


def verdict(breaches: list[str], count: int, what: str) -> Outcome:
    """The outcome of `count` trials, with the breaches in the row's log."""
    print("\n".join(breaches))
    return Outcome(f"{count - len(breaches)} of {count} {what}", not breaches, count)


def flips(size: int, folder: Path) -> Outcome:
    """Single bits over every file of a saved state, in one process."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "runs")]
    import test_flips

    return verdict(test_flips.flips(folder, size), size, "flips passed over with a warning")


def whole_runs(size: int, folder: Path) -> Outcome:
    """Runs killed after two saved states, a bit of the newer one flipped, resumed."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "runs")]
    import test_flips

    finish(folder / "unbroken")
    killed = folder / "killed"
    process = start(killed)
    while not (killed / "state" / "10" / "SHA256SUMS").exists():
        if process.poll() is not None:
            raise RuntimeError(process.communicate()[1])
        time.sleep(0.005)
    process.kill()
    process.wait()
    breaches, wanted = [], result(folder / "unbroken")
    for index, (path, bit) in enumerate(test_flips.bits(killed / "state" / "10", size)):
        run = shutil.copytree(killed, folder / f"flipped_{index}")
        test_flips.flip(run / "state" / "10" / path, bit)
        try:
            said = finish(run)
            if "step 10" not in said or result(run) != wanted:
                breaches.append(f"{path} bit {bit}: silent, or other pictures: {said[-300:]}")
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            breaches.append(f"{path} bit {bit}: {error}")
    return verdict(breaches, size, "runs resumed from the state before, to the same bytes")


def kills(size: int, folder: Path) -> Outcome:
    """Runs killed at random moments, by SIGKILL and SIGTERM in turn, and resumed."""
    began = time.monotonic()
    finish(folder / "unbroken")
    length = time.monotonic() - began
    rng, breaches, wanted = random.Random(0), [], result(folder / "unbroken")
    for index in range(size):
        run, number = folder / f"killed_{index}", (signal.SIGKILL, signal.SIGTERM)[index % 2]
        delay, process = rng.uniform(0, length), start(run)
        time.sleep(delay)
        process.send_signal(number)
        said = process.communicate()[1]
        place = f"{number.name} after {delay:.2f} s"
        allowed = (0, -number, 128 + number)
        if process.returncode not in allowed or "Traceback" in said:
            breaches.append(f"{place}: exit code {process.returncode}: {said[-300:]}")
            continue
        try:
            finish(run)
            if result(run) != wanted:
                breaches.append(f"{place}: other pictures, or files left behind")
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            breaches.append(f"{place}: {error}")
    return verdict(breaches, size, "killed runs ended in the same bytes")


ROWS = [
    Row("flips", "none silent, none a traceback", flips, 500, "flips"),
    Row("whole_runs", "the state before, the same bytes", whole_runs, 20, "runs", 120.0),
    Row("kills", "the same bytes", kills, 30, "kills", 120.0),
]
