"""Workers of a sweep: batches, what they keep, kills, and points that are never run twice."""

import concurrent.futures
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from holder import HOLD
from tiny_models import tiny_model

import pot_jax
from pot_jax.checks import defaults
from pot_jax.config import RunSettings
from pot_jax.errors import UserError
from pot_jax.evaluation import sweep as sweeps
from pot_jax.evaluation.points import POINT, RESULT, listed, points
from pot_jax.evaluation.sweep import work
from pot_jax.media.images import read_picture
from pot_jax.pipelines.program import assemble
from pot_jax.weights.export import export

KILLS = int(os.environ.get("SWEEP_KILLS", 5))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a tiny model."""
    place = tmp_path_factory.mktemp("model")
    export(tiny_model(place / "tokenizer"), place / "tiny")
    return str(place / "tiny")


def made(model, sweep, **settings):
    sampler = {"steps": 6, "space": "latent", **settings.pop("sampler", {})}
    base = {**defaults(RunSettings), "model": model, "prompts": ("a b", "c"), **settings}
    base["sampler"] = {**base["sampler"], **sampler}
    base["movie"] = {**base["movie"], "fps": 2, "size": 16}
    return points(base, set(sampler), sweep)


def run(todo, folder, **options):
    said = []
    assert work(todo, folder, say=said.append, **options) == []
    return said


def test_seeds_of_one_batch_are_ordinary_runs(model, tmp_path):
    todo = made(model, {"seed": [5, 3]})
    (said,) = run(todo, tmp_path)
    assert said == "finished: seed=5, seed=3"
    for point in todo:
        seed, folder = point.settings.seed, tmp_path / point.name
        zoom = pot_jax.sample(pot_jax.load(model), ["a b", "c"], seed=seed, steps=6, space="latent")
        zoom.save(tmp_path / f"alone_{seed}")
        for level in ("level_000.png", "level_001.png"):
            mine = read_picture(folder / "levels" / level)
            alone = read_picture(tmp_path / f"alone_{seed}" / "levels" / level)
            # Batches of other sizes round differently.
            assert np.abs(mine.astype(int) - alone).max() <= 1
        records = [
            json.loads((tmp_path / name / "config.json").read_text())
            for name in (point.name, f"alone_{seed}")
        ]
        assert records[0]["identity"] == records[1]["identity"]
        assert {POINT, RESULT, "metrics.json", "zoom.mp4"} <= {p.name for p in folder.iterdir()}
        assert not (folder / "state").exists()


def test_points_that_differ_in_numbers_share_one_program(model, tmp_path):
    sweep = {"sampler.blend_weight": [0.0, 0.5], "sampler.guidance_scale": [2.0, 3.0]}
    before = assemble.cache_info().misses
    run(made(model, sweep), tmp_path, keep="metrics")
    assert assemble.cache_info().misses <= before + 1


def test_a_model_is_read_once(model, tmp_path, monkeypatch):
    opened = []
    real = sweeps.open_model

    def counted(*arguments, **how):
        opened.append(arguments)
        return real(*arguments, **how)

    monkeypatch.setattr(sweeps, "open_model", counted)
    run(made(model, {"sampler.steps": [2, 3], "seed": [0, 1]}), tmp_path, keep="metrics")
    assert len(opened) == 1


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ("metrics", set()),
        ("pictures", {"levels", "contact_sheet.png"}),
        ("all", {"levels", "contact_sheet.png", "stack.npz", "zoom.html", "zoom.mp4"}),
    ],
)
def test_what_is_kept(model, tmp_path, keep, kept):
    (point,) = made(model, {"seed": [0]}, sampler={"steps": 2})
    run([point], tmp_path, keep=keep)
    found = {path.name for path in (tmp_path / point.name).iterdir()}
    assert found == {"config.json", "metrics.json", POINT, RESULT} | kept
    result = json.loads((tmp_path / point.name / RESULT).read_text())
    assert {"scores", "details", "statistics", "cost"} <= result.keys()
    assert {"unet", "decode", "encode", "seconds", "peak_bytes"} <= result["cost"].keys()
    assert listed([point], tmp_path)[1].startswith("1 points: 1 finished")


def test_what_is_finished_is_left_alone(model, tmp_path):
    todo = made(model, {"seed": [0, 1, 2]}, sampler={"steps": 2})
    run(todo[:2], tmp_path, keep="metrics")
    before = {p.name: os.stat(tmp_path / p.name / RESULT).st_mtime_ns for p in todo[:2]}
    assert run(todo, tmp_path, keep="metrics") == ["finished: seed=2"]
    assert before == {p.name: os.stat(tmp_path / p.name / RESULT).st_mtime_ns for p in todo[:2]}


def test_a_killed_batch_resumes_from_the_step_that_all_have(model, tmp_path, monkeypatch):
    todo = made(model, {"seed": [0, 1]}, save_every=5, sampler={"steps": 12})
    run(todo, tmp_path / "whole", keep="pictures")

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweeps, "write_zoom", stop)
    with pytest.raises(KeyboardInterrupt):
        work(todo, tmp_path / "killed", keep="pictures")
    monkeypatch.undo()
    states = tmp_path / "killed" / "seed=1" / "state"
    assert sorted(p.name for p in states.iterdir()) == ["10", "5"]
    for file in (states / "10").rglob("*"):  # a kill between the two seeds' states
        if file.is_file():
            file.unlink()
    run(todo, tmp_path / "killed", keep="pictures")
    for point in todo:
        for level in range(2):
            name = f"{point.name}/levels/level_00{level}.png"
            assert (tmp_path / "killed" / name).read_bytes() == (
                tmp_path / "whole" / name
            ).read_bytes()


def test_a_failed_point_does_not_stop_the_others(model, tmp_path, monkeypatch):
    todo, real = made(model, {"sampler.steps": [2, 3]}), sweeps.sampled

    def broken(prepared, *arguments):
        if prepared.settings.sampler.steps == 2:
            raise UserError("the pictures of seed 0 hold NaN or infinity")
        return real(prepared, *arguments)

    monkeypatch.setattr(sweeps, "sampled", broken)
    assert work(todo, tmp_path, keep="metrics", say=lambda line: None) == [
        "sampler.steps=2: the pictures of seed 0 hold NaN or infinity"
    ]
    assert [(tmp_path / point.name / RESULT).exists() for point in todo] == [False, True]


def test_a_folder_with_other_files_is_found_before_anything_runs(model, tmp_path):
    todo = made(model, {"sampler.steps": [2, 3]})
    blocked = tmp_path / todo[1].name
    blocked.mkdir()
    (blocked / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds other files and no point of a sweep \(thesis.txt"):
        work(todo, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [todo[1].name]


def test_what_does_not_fit_is_said_before_anything_runs(model, tmp_path):
    todo = made(model, {"kind": {"good": {}, "bad": {"zoom.height": 17}}})
    with pytest.raises(UserError, match=r"sweep: kind=bad: zoom.height: expected a multiple"):
        work(todo, tmp_path)
    assert not list(tmp_path.iterdir())


WORKER = """
import gc, os, socket, sys
from pot_jax.parallel import devices
from pot_jax.runs import claims
gc.set_threshold(50_000, 20, 50)  # as __main__ has it
devices.COMPILING.clear()  # as tests/conftest.py has it
if sys.argv[4]:
    socket.gethostname = lambda: sys.argv[4]
    real = claims._process
    claims._process = lambda pid: {**real(pid), "host": [sys.argv[4], "boot"]}
    claims.BEAT, claims.STALE = 0.2, float(os.environ["STALE"])
from pot_jax.evaluation import sweep
from pot_jax.main import main
sweep._WAIT = 0.3
real_run = sweep._run
def noted(models, first, mine, keeps):
    with open(sys.argv[3], "a") as log:
        for folder in mine:
            log.write(f"{folder.name} {os.getpid()}\\n")
    real_run(models, first, mine, keeps)
    with open(sys.argv[3], "a") as log:
        for folder in mine:
            log.write(f"{folder.name} done\\n")
sweep._run = noted
sys.exit(main(["pot-jax", "sweep", f"--config={sys.argv[1]}", f"--workdir={sys.argv[2]}",
               "--keep=metrics", "--devices=cpu", *sys.argv[5:]]))
"""

CONFIG = """
def get_config():
    return {{"model": {model!r}, "prompts": ["a b", "c"], "save_every": 5,
             "sampler": {{"steps": 10, "space": "latent"}}}}

def get_sweep():
    return {{"sampler.blend_weight": [0.0, 0.25, 0.5, 1.0], "seed": [0, 1, 2]}}
"""


def start(place, host="", *flags, stale=60.0):
    command = [sys.executable, "-c", WORKER, place / "sweep.py", place / "tree", place / "log"]
    # Without XLA's own lines, one at every hit of the compilation cache, as the command has it.
    environ = {**os.environ, "STALE": str(stale), "TF_CPP_MIN_LOG_LEVEL": "3"}
    cache = f"--compilation_cache={os.environ['POT_JAX_TEST_PROGRAMS']}/commands"
    return subprocess.Popen(
        [*command, host, "--together=2", cache, *flags],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_kills_lose_no_finished_point_and_repeat_none(model, tmp_path):
    (tmp_path / "sweep.py").write_text(CONFIG.format(model=model))
    rng, finished = random.Random(0), {}
    for number in range(KILLS):
        worker = start(tmp_path)
        # Long enough to start; then anywhere in the work of a batch or between two.
        deadline, before = time.monotonic() + 120, len(list(tmp_path.glob(f"tree/*/{RESULT}")))
        while worker.poll() is None and time.monotonic() < deadline:
            if len(list(tmp_path.glob(f"tree/*/{RESULT}"))) > before or number % 2:
                break
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 8) if number % 2 else rng.uniform(0, 0.5))
        worker.send_signal((signal.SIGKILL, signal.SIGTERM)[number // 2 % 2])
        worker.communicate()
        now = {p: p.read_bytes() for p in tmp_path.glob(f"tree/*/{RESULT}")}
        assert all(now.get(path) == data for path, data in finished.items())
        finished = now
    worker = start(tmp_path)
    said, errors = worker.communicate(timeout=300)
    assert worker.returncode == 0, errors
    assert "done: 12 points" in said
    results = sorted(tmp_path.glob(f"tree/*/{RESULT}"))
    assert len(results) == 12
    assert all(path.read_bytes() == data for path, data in finished.items())
    done = [
        line.split()[0] for line in (tmp_path / "log").read_text().splitlines() if "done" in line
    ]
    assert len(done) == len(set(done))


def test_two_hosts_share_a_sweep_and_take_no_point_twice(model, tmp_path):
    (tmp_path / "sweep.py").write_text(CONFIG.format(model=model))
    workers = [start(tmp_path, "one", "--shard=0/2"), start(tmp_path, "two", "--shard=1/2")]
    with concurrent.futures.ThreadPoolExecutor() as readers:  # or a full pipe would stop the second
        said = list(readers.map(lambda worker: worker.communicate(timeout=300), workers))
    assert [worker.returncode for worker in workers] == [0, 0], said
    log = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    begun = [name for name, what in log if what != "done"]
    assert sorted(begun) == sorted(set(begun))
    assert len(begun) == 12
    assert len({what for _, what in log if what != "done"}) == 2  # both worked


def test_a_lost_hosts_point_is_done_by_the_other(model, tmp_path):
    (tmp_path / "sweep.py").write_text(CONFIG.format(model=model))
    lost = start(tmp_path, "lost")
    while not (tmp_path / "log").exists():
        assert lost.poll() is None, lost.communicate()
        time.sleep(0.05)
    lost.kill()
    lost.communicate()
    worker = start(tmp_path, "other", stale=2.0)
    said, errors = worker.communicate(timeout=300)
    assert worker.returncode == 0, errors
    assert len(list(tmp_path.glob(f"tree/*/{RESULT}"))) == 12


def test_a_held_point_is_waited_for(model, tmp_path, monkeypatch):
    (point,) = made(model, {"seed": [0]}, sampler={"steps": 2})
    waited, command = [], [sys.executable, "-c", HOLD, tmp_path / point.name]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        other.stdout.readline()

        def release(seconds):
            waited.append(seconds)
            other.kill()
            other.wait()

        monkeypatch.setattr(sweeps.time, "sleep", release)
        assert run([point], tmp_path, keep="metrics") == ["finished: seed=0"]
    assert len(waited) == 1
