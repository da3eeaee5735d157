"""Several processes of one run on this machine, which talk through gloo, beside one process."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from tiny_models import tiny_model

from pot_jax.media.images import save_png
from pot_jax.parallel import hosts
from pot_jax.weights.export import export

TIMEOUT = 5  # seconds until a silent process counts as lost
RUN = ["sample", "a", "st", "b", "--steps=40", "--space=latent", "--config.save_every=5"]
RUN += ["--config.movie.fps=2", "--config.movie.size=16", "--devices=cpu"]
# Besides, or instead: what else processes have to do together.
MORE = ["--space=pixel", "--steps=10", "--num_samples=2", "--preview_every=5", "--batch_rows=2"]
MORE += ["--photograph=photo.png:1", "--photograph_fit=pad", "--tensorboard_dir=board"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny model, and a run of one process with it."""
    folder = tmp_path_factory.mktemp("hosts")
    export(tiny_model(folder / "tokenizer"), folder / "model")
    save_png(folder / "photo.png", np.full((16, 8, 3), 99, np.uint8))
    assert ended(start(folder, "one")) == [0]
    return folder


def start(place, name, *others, count=1, flags=()):
    """Starts the processes of a run in the folder `name`; `others` replace flags by process."""
    with contextlib.closing(socket.socket()) as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    # Each has one device, as a host with one GPU.
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment |= {"XLA_FLAGS": "--xla_backend_optimization_level=0", "TF_CPP_MIN_LOG_LEVEL": "3"}
    processes = []
    for index in range(count):
        command = [sys.executable, "-m", "pot_jax", *RUN, "--model=model", f"--workdir={name}"]
        if count > 1:
            command += [f"--coordinator={coordinator}", f"--processes={count}"]
            command += [f"--process={index}", f"--host_timeout={TIMEOUT}", "--join_timeout=30"]
        command += [*flags, *(others[index] if others else ())]
        with open(place / f"{name}.{index}.log", "w") as log:
            how = {"cwd": place, "env": environment, "stdout": log, "stderr": log}
            processes.append(subprocess.Popen(command, **how))
    return processes


def ended(processes, seconds=120):
    deadline = time.monotonic() + seconds
    try:
        return [process.wait(max(0, deadline - time.monotonic())) for process in processes]
    finally:
        for process in processes:
            process.kill()


def said(place, name, index):
    """What a process says besides gloo's own line and its progress."""
    lines = (place / f"{name}.{index}.log").read_text().splitlines()
    return [line for line in lines if "Gloo" not in line]


def at_work(place, name, processes):
    """Waits until the first states are saved."""
    deadline = time.monotonic() + 120
    while not [*(place / name / "state").glob("[0-9]*")]:
        assert time.monotonic() < deadline, said(place, name, 0)
        assert all(process.poll() is None for process in processes), said(place, name, 0)
        time.sleep(0.05)


def equal_runs(one, other):
    """That two folders hold one run, to the rounding of differently split batches."""
    records = [json.loads((folder / "config.json").read_text()) for folder in (one, other)]
    assert records[0]["identity"] == records[1]["identity"]
    assert {path.name for path in one.rglob("*")} == {path.name for path in other.rglob("*")}
    for path in one.rglob("stack.npz"):
        arrays = np.load(path), np.load(other / path.relative_to(one))
        assert arrays[0].files == arrays[1].files
        for name in arrays[0].files:
            np.testing.assert_allclose(arrays[0][name], arrays[1][name], atol=1e-4)


def test_processes_make_all_of_a_run_together(place):
    assert ended(start(place, "more1", flags=MORE)) == [0]
    assert ended(start(place, "dry", count=2, flags=[*MORE, "--dry_run"])) == [0, 0]
    assert any(line.startswith("devices: 2 x cpu") for line in said(place, "dry", 0))
    assert said(place, "dry", 1) == []
    assert ended(start(place, "more2", count=2, flags=MORE)) == [0, 0]
    assert said(place, "more2", 1) == []
    equal_runs(place / "more1", place / "more2")


def test_processes_make_the_run_of_one(place):
    name = "of4"
    assert ended(start(place, name, count=4)) == [0] * 4
    equal_runs(place / "one", place / name)
    assert any(line.startswith("done:") for line in said(place, name, 0))
    for index in range(1, 4):
        assert said(place, name, index) == []  # one speaks
    # Repeated by one process, it is complete, and nobody is in the way.
    again = start(place, name)
    assert ended(again) == [0]
    assert any(line.startswith("already complete") for line in said(place, name, 0))


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_process_ends_the_run_and_another_number_resumes_it(lost, place):
    name = f"lost{lost}"
    processes = start(place, name, count=2)
    at_work(place, name, processes)
    processes[lost].kill()
    began = time.monotonic()
    codes = ended(processes)
    assert time.monotonic() - began < 60
    assert (codes[lost], codes[1 - lost]) == (-signal.SIGKILL, hosts.LOST)
    what = "another process of the run has ended; the same command resumes"
    assert said(place, name, 1 - lost)[-1] == f"pot-jax: process {1 - lost}: {what}"
    text = "".join(said(place, name, 1 - lost))
    assert not any(words in text for words in ("@ ", "Traceback", "bad_cast"))
    assert ended(start(place, name, count=1 + lost)) == [0] * (1 + lost)
    assert any("resuming at step" in line for line in said(place, name, 0))
    equal_runs(place / "one", place / name)


def test_a_signal_to_one_saves_and_ends_all_at_one_step(place):
    processes = start(place, "signal", count=2)
    at_work(place, "signal", processes)
    processes[1].send_signal(signal.SIGTERM)
    assert ended(processes) == [128 + signal.SIGTERM] * 2
    assert "stopped by SIGTERM; the same command resumes from step" in said(place, "signal", 0)[-1]
    assert said(place, "signal", 1) == []
    assert ended(start(place, "signal")) == [0]
    equal_runs(place / "one", place / "signal")


MISTAKES = {
    "another seed": ([], ["--seed=2"], "process 1 has other config.seed (0, 2)"),
    "another model": ([], ["--model=nowhere"], "nowhere"),
    "one index twice": (["--process=0"], ["--process=0"], "no run could be joined at localhost:"),
    "only one is tried out": ([], ["--seed=0"], "process 1 has other dry_run"),
    "one finds no device": ([], ["--devices=gpu"], "there is no gpu here"),
    "none comes": (["--process=1"], ["--process=1"], "no run could be joined at localhost:"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes_are_one_line_and_all_end(what, place):
    *others, words = MISTAKES[what]
    name = what.replace(" ", "_")
    flags = ["--join_timeout=6", "--dry_run"]
    if what == "only one is tried out":
        flags, others = ["--join_timeout=30"], [["--dry_run"], []]
    codes = ended(start(place, name, *others, count=2, flags=flags), 200)
    lines = [line for index in range(2) for line in said(place, name, index)]
    assert all(line.startswith("pot-jax: ") for line in lines)
    assert any(words in line for line in lines)
    assert len(lines) == (2 if "joined" in words or "gpu" in words else 1)
    assert codes == [hosts.LOST if what == "one finds no device" else 2, 2]


def test_one_process_alone_needs_no_others():
    assert hosts.speaks()
    assert hosts.gathered({"a": 1}) == [{"a": 1}]
    assert hosts.by_first(lambda: 3) == 3
    array = np.arange(3)
    assert hosts.shared(array) is array
    hosts.require_same(lambda: pytest.fail("asked for"))
    with pytest.raises(ValueError, match="mine"), hosts.together():
        raise ValueError("mine")
