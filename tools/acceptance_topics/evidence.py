"""Zooms are measured and compared: metrics, baselines, sweeps, the study that ships."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

from acceptance import ROOT, Outcome, Row, at_most_lines
from acceptance_topics.robustness import PYTHON, passing

LINES = 15_578 + 1_500  # the package before, and what this topic may add
PLAIN = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
FIRST, *METRICS = [
    f"tests/evaluation/test_{name}.py"
    for name in ["overlap", "seams", "detail", "references", "movie", "noise_audit", "world_scores"]
]
RUNS = Path(os.environ.get("RUNS", ROOT / "runs"))  # where tools/study has its sweeps
STUDY = RUNS / "study"


def controls(size: int, folder: Path) -> Outcome:
    """A constant picture, independent sampling, enlarged pictures, the world's own renders."""
    chosen = "control or constant or true_zoom or enlarged or independent"
    return passing(FIRST, size, folder, {}, *METRICS, "-k", chosen)


def golden(size: int, folder: Path) -> Outcome:
    """All tests of the metrics, with this environment's JAX and with the newest."""
    newest = ROOT / ".venv-newest" / "bin" / "python"
    if not newest.exists():
        subprocess.run(["bash", "-c", ". tools/newest"], cwd=ROOT, check=True)
    here, there = (
        passing(FIRST, size, folder, {}, *METRICS, python=python) for python in (PYTHON, newest)
    )
    command = [newest, "-c", "import jax, sys; print(jax.__version__, sys.version.split()[0])"]
    version = subprocess.check_output(command, text=True).strip()
    return Outcome(f"{here.figure}; with jax and Python {version}: {there.figure}",
                   here.reached and there.reached)  # fmt: skip


def listing(size: int, folder: Path) -> Outcome:
    """The processor time of listing a sweep of `size` points, a quarter of them finished."""
    config = folder / "sweep.py"
    config.write_text(
        "from pot_jax.world.captions import scene_prompts\n"
        "def get_config():\n    return {'model': 'cosmos64'}\n"
        "def get_sweep():\n"
        "    scenes = {f's{i}': {'prompts': scene_prompts(6, i)} for i in range(10)}\n"
        f"    return {{'sampler.blend_weight': [i / {size} for i in range({size} // 20)],\n"
        "            'scene': scenes, 'seed': [0, 1]}\n"
    )
    command = [PYTHON, "-m", "pot_jax", "sweep", f"--config={config}", "--list"]
    command += [f"--workdir={folder / 'tree'}"]
    sys.path.insert(0, str(ROOT))
    from pot_jax.config import read, read_sweep
    from pot_jax.evaluation.points import RESULT, points

    named = points(*_base(read(str(config))), read_sweep(str(config)))
    cost = {"unet": 1.0, "decode": 1.0, "encode": 1.0, "seconds": 1.0, "defaults": {}}
    cost |= {"peak_bytes": 1, "disk_bytes": 1}
    filler = {"statistics": {"thumbnail": "x" * 8000}, "cost": cost}
    for point in named[::4]:
        point.claim(folder / "tree" / point.name)
        (folder / "tree" / point.name / RESULT).write_text(json.dumps(filler))
    before = os.times()
    done = subprocess.run(command, env=PLAIN, capture_output=True, text=True, check=True)
    after = os.times()
    used = after.children_user + after.children_system
    used -= before.children_user + before.children_system
    count = len(done.stdout.splitlines())
    said = done.stderr.strip().splitlines()[-1]
    return Outcome(f"{used:.2f} s of processor time; {said}", used <= 1 and count == size, count)


def _base(data: dict) -> tuple[dict, set[str]]:
    from pot_jax.checks import build, to_dict
    from pot_jax.config import RunSettings

    return to_dict(build(RunSettings, data)), {*data.get("sampler", ())}


def kills(size: int, folder: Path) -> Outcome:
    """A worker killed `size` times."""
    extra = {"SWEEP_KILLS": str(size)}
    found = passing("tests/evaluation/test_sweep.py", 2, folder, extra, "-k", "kills or resumes")
    return Outcome(f"{size} kills: {found.figure}", found.reached, size)


def hosts(size: int, folder: Path) -> Outcome:
    """Two workers with different host names, and one that is lost, `size` times."""
    given = "tests/evaluation/test_sweep.py", 2, folder, {}, "-k", "hosts or lost"
    found = [passing(*given) for _ in range(size)]
    good = sum(one.reached for one in found)
    return Outcome(f"{good} of {size} times", good == size, size)


def speed(size: int, folder: Path) -> Outcome:
    """The seconds of measuring 8 levels of `size` pixels, in a process of its own."""
    code = (
        "import time, numpy as np\n"
        "from pot_jax.evaluation.evaluate import measure\n"
        "from pot_jax.zoom.geometry import Geometry\n"
        f"pictures = np.random.default_rng(0).integers(0, 256, (8, {size}, {size}, 3), np.uint8)\n"
        "began = time.perf_counter()\n"
        f"measure(pictures, Geometry(8, 2, {size}, {size}), ['x'] * 8)\n"
        "print(time.perf_counter() - began)\n"
    )
    took = [
        float(subprocess.check_output([PYTHON, "-c", code], env=PLAIN, text=True)) for _ in range(3)
    ]
    print(took)
    return Outcome(f"{min(took):.1f} s (of 3)", min(took) < 10, size)


def sweep(*flags: str) -> list:
    """The study's command."""
    config = ROOT / "configs" / "bench" / "study.py"
    return [PYTHON, "-m", "pot_jax", "sweep", f"--config={config}", f"--workdir={STUDY}", *flags]


def swept(name: str) -> int:
    """Runs one of the study's sweeps, or what is left of it; returns its exit code."""
    command = [PYTHON, "tools/study", f"--only={name}", f"--workdir={RUNS}"]
    return subprocess.run(command, env=PLAIN, cwd=ROOT).returncode


def study(size: int, folder: Path) -> Outcome:
    """The whole study, or what is left of it.

    Hours are those of all its points, each on one core, over the number of cores.
    """
    del folder
    failed = swept("study")
    cores = os.sched_getaffinity(0)
    seconds = [
        json.loads(path.read_text())["cost"]["seconds"] for path in STUDY.glob("*/evaluation.json")
    ]
    hours = sum(seconds) / 3600
    said = f"{hours:.2f} hours of one core, {hours / len(cores):.2f} on {len(cores)}"
    said += f"; {len(seconds)} points"
    reached = not failed and hours / len(cores) < 4 and len(seconds) >= size
    return Outcome(said, reached, min(len(seconds), size))


def quarter(size: int, folder: Path) -> Outcome:
    """What --every=4 leaves of the study."""
    del folder
    done = subprocess.run(sweep("--list", "--every=4"), env=PLAIN, cwd=ROOT, capture_output=True,
                          text=True, check=True)  # fmt: skip
    count = len(done.stdout.splitlines())
    return Outcome(f"{count} of {size} points", count * 4 == size, size)


def interval(size: int, folder: Path) -> Outcome:
    """How far concept accuracy's interval on the default reaches to each side, in points."""
    del size
    failed = swept("many")
    command = [PYTHON, "-m", "pot_jax", "report", f"--workdir={RUNS / 'many'}"]
    subprocess.run([*command, f"--output={folder}"], env=PLAIN, check=True)
    with open(folder / "summary.csv", newline="") as file:
        (row,) = [row for row in csv.DictReader(file) if row["metric"] == "concept"]
    mean, low, high = (100 * float(row[name]) for name in ("mean", "low", "high"))
    said = f"{mean:.1f} % [{low:.1f}, {high:.1f}], {row['runs']} runs of {row['scenes']} scenes"
    reached = not failed and max(mean - low, high - mean) <= 2
    return Outcome(said, reached, int(row["runs"]) // int(row["scenes"]))


def mistakes(size: int, folder: Path) -> Outcome:
    """Bad sweeps, trees, folders of pictures, CLIP folders and classifiers: one line each."""
    places = ["test_points", "test_sweep", "test_report", "test_evaluate", "test_clip_scores"]
    others = [f"tests/evaluation/{place}.py" for place in places]
    chosen = "mistake or refused or does_not_fit or left_out or digest"
    return passing("tests/test_mistakes.py", size, folder, {}, *others, "-k", chosen)


def clip(size: int, folder: Path) -> Outcome:
    """Both of CLIP's towers beside transformers' on the same weights."""
    return passing("tests/reference", size, folder, {}, "-k", "clip or CLIP")


ROWS = [
    Row("controls", "land where they must on each axis", controls),
    Row("golden", "hold on this jax and on the newest", golden, 1, "run", 30.0, "", False),
    Row("clip", "1e-5 from transformers", clip, 1, "run", 30.0, "", False),
    Row("listing", "1 s of processor time", listing, 500, "points", 30.0, "", False),
    Row("kills", "no finished point lost or repeated", kills, 20, "kills", 60.0),
    Row("hosts", "no point taken twice", hosts, 3, "times", 60.0),
    Row("speed", "8 levels of 512 pixels in under 10 s", speed, 512, "pixels", 30.0, "", False),
    Row("quarter", "a quarter by a flag", quarter, 2680, "points", 30.0, "", False),
    Row("study", "under 4 hours on 2 cores", study, 2680, "points", 480.0, "", False),
    Row("interval", "at most 2 points to each side", interval, 8, "seeds", 120.0, "", False),
    Row("mistakes", "one line each", mistakes),
    Row("lines", f"at most {LINES:,} lines in the package", at_most_lines(LINES), 1, "run", 30.0,
        "", False),
]  # fmt: skip
