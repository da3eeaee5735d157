"""The house in order: suites, pictures as before, compilations, start-up, size and layout."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from acceptance import ROOT, Outcome, Row, at_most_lines, package_at, tenth
from PIL import Image

BASE = "078b138"  # the commit before this work
LINES = 13_547 + 450  # the package's then, and what it may grow by

PROMPTS = ("a blue spiral galaxy", "a star and its planets", "a blue planet", "a green island")
# The defaults of BASE that the model's own have replaced.
USUAL = ["--solver=ddim", "--config.sampler.strip=0", "--config.sampler.agree_first=1"]
# What the runs that are compared are told, by name; all sample cosmos64 with 4 levels.
RUNS = {
    "ddim in pixels": ["--steps=8"],
    "ddpm, weight 1": ["--solver=ddpm", "--steps=10", "--config.sampler.blend_weight=1.0"],
    "euler in latents": ["--solver=euler", "--space=latent", "--steps=8"],
    "euler_ancestral, average": ["--solver=euler_ancestral", "--blend=average", "--steps=8"],
    "dpmpp_2m, iterative": ["--solver=dpmpp_2m", "--blend=iterative", "--steps=6"],
    "gradient in latents": ["--blend=gradient", "--space=latent", "--steps=6"],
    "none": ["--blend=none", "--space=delivery", "--steps=6"],
    "gaussian, p = 4": ["--config.sampler.kernel=gaussian", "--zoom_factor=4", "--steps=6"],
    "photograph by projection": ["--photograph=photograph.png", "--steps=6"],
    "photograph by adam": [
        "--photograph=photograph.png",
        "--config.photograph.method=adam",
        "--space=latent",
        "--steps=6",
    ],
    "noise per level, every 2": [
        "--config.sampler.initial_noise=per_level",
        "--config.sampler.pixel_every=2",
        "--steps=6",
    ],
    "no guidance": ["--guidance_scale=1", "--space=latent", "--steps=6"],
    "rescale 0.7, eta 0.5": [
        "--guidance_rescale=0.7",
        "--config.sampler.eta=0.5",
        "--space=latent",
        "--steps=6",
    ],
    "two samples": ["--stacks=2", "--space=latent", "--steps=6"],
}


def suite(*arguments: str) -> Callable[[int, Path], Outcome]:
    """Runs a command that tests; the figure is its last line of counts."""

    def run(size: int, folder: Path) -> Outcome:
        del size
        log = folder / "log"
        with log.open("w") as out:
            code = subprocess.call(arguments, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
        counts = re.findall(r"^=*\s*(\d.*(?:passed|failed|error).*?)\s*=*$", log.read_text(), re.M)
        return Outcome(f"exit code {code}: {counts[-1] if counts else 'no counts'}", code == 0)

    return run


def python(place: Path, folder: Path, *arguments: str) -> str:
    """What Python prints when it runs `arguments` in `folder` with the package at `place`."""
    environment = {**os.environ, "PYTHONPATH": str(place)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode} of {arguments}: {done.stderr[-1500:]}")
    return done.stdout


def write_photograph(path: Path) -> None:
    """A smooth picture of many colours, well inside the range."""
    y, x = np.mgrid[:64, :64] / 63
    channels = [0.2 + 0.6 * y, 0.2 + 0.6 * x, 0.5 + 0.3 * np.sin(9 * x * y)]
    Image.fromarray(np.uint8(255 * np.stack(channels, -1))).save(path)


def pictures(size: int, folder: Path) -> Outcome:
    """The largest difference of the delivered pictures from BASE's, in 255ths."""
    before = package_at(BASE, folder)
    write_photograph(folder / "photograph.png")
    differences = {}
    for number, name in enumerate(tenth(list(RUNS), size)):
        found = []
        for place, label in ((before, "old"), (ROOT, "new")):
            workdir = folder / f"{number}_{label}"
            command = ["-m", "pot_jax", "sample", *PROMPTS, "--model=cosmos64", f"--seed={number}"]
            command += [*(USUAL if label == "new" else []), *RUNS[name]]
            command += ["--config.movie.size=16", "--config.movie.fps=2", f"--workdir={workdir}"]
            python(place, folder, *command)
            found.append({
                path.relative_to(workdir): np.asarray(Image.open(path), np.int16)
                for path in sorted(workdir.rglob("level_*.png"))
            })  # fmt: skip
        old, new = found
        if old.keys() != new.keys() or not old:
            raise RuntimeError(f"{name}: other pictures: {list(old)} and {list(new)}")
        differences[name] = max(int(np.abs(old[path] - new[path]).max()) for path in old)
        print(f"{name}: {differences[name]}", flush=True)
    each = ", ".join(f"{name}: {value}" for name, value in differences.items())
    most = max(differences.values())
    return Outcome(f"{most} of 255 ({each})", most <= 1)


PHOTOGRAPH = """
import json, sys
import jax, numpy as np
import pot_jax
from PIL import Image
from pot_jax.zoom.operators import downsample
photograph = np.asarray(Image.open(sys.argv[1]), np.float32) / 127.5 - 1
zoom = pot_jax.sample(
    pot_jax.load("cosmos64"), ["a blue planet", "a green island"], zoom_factor=4, steps=6,
    kernel="gaussian", space="latent", photograph=0.5 * photograph,
)
# Level 1 is what its window of the photograph shows, under the run's own D and under the mean; but
# where it would have to leave [-1, 1] for that.
free = np.abs(zoom.images[1]).reshape(16, 4, 16, 4, 3).max((1, 3)) < 1
window = 0.5 * photograph[24:40, 24:40]
errors = {}
for kernel in sys.argv[2:]:
    seen = downsample(zoom.images[1], 4, kernel)
    errors[kernel] = float(np.abs(seen - window)[free].max())
outside = np.ones((64, 64), bool)
outside[24:40, 24:40] = False
errors["outside"] = float(np.abs(zoom.images[0] - 0.5 * photograph)[outside].max())
errors["free"] = float(free.mean())
print(json.dumps(errors))
"""


def photograph(size: int, folder: Path) -> Outcome:
    """How far the delivered pictures are from a photograph that they have to meet."""
    del size
    write_photograph(folder / "photograph.png")
    arguments = ["-c", PHOTOGRAPH, "photograph.png", "gaussian", "mean"]
    errors = {
        label: json.loads(python(place, folder, *arguments).splitlines()[-1])
        for label, place in ((BASE, package_at(BASE, folder)), ("now", ROOT))
    }
    now, then = errors["now"], errors[BASE]
    largest = max(now["gaussian"], now["outside"])
    said = f"{largest:.1e} (under the mean {now['mean']:.1e}; at {BASE} {then['gaussian']:.1e})"
    # Most of the window is free to meet it, or the row would say nothing.
    return Outcome(said, largest <= 1e-5 and now["free"] > 0.5)


def digest(size: int, folder: Path) -> Outcome:
    """The digest of the shipped weights, then and now."""
    del size
    code = "import pot_jax; print(pot_jax.load('cosmos64').digest)"
    old, new = (
        python(place, folder, "-c", code).split()[-1] for place in (package_at(BASE, folder), ROOT)
    )  # fmt: skip
    return Outcome(f"{new[:12]} (at {BASE}: {old[:12]})", old == new)


# Counts the backend's compilations: JAX tells listeners of each.
COUNTING = """
import gc, json, random, sys
import jax, jax.monitoring
import pot_jax
compiled = []
def listen(event, seconds, **_):
    if event == "/jax/core/compile/backend_compile_duration":
        compiled.append(seconds)
jax.monitoring.register_event_duration_secs_listener(listen)
def resident():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20
model = pot_jax.load("cosmos64")
random.seed(0)
things = ["a blue planet", "a green island", "a red leaf", "a violet nebula", "a yellow star"]
def sample(seed, steps, **sampler):
    pot_jax.sample(model, random.sample(things, 2), seed=seed, steps=steps, **sampler)
"""
COMPILE_ONCE = f"""{COUNTING}
runs = [(g, w, s) for g in (2.0, 7.5) for w in (0.1, 1.0) for s in (20, 25, 50)]
runs = random.sample(runs[1:], max(1, int(sys.argv[1]) - 1))
sample(100, 20, guidance_scale=3.0, blend_weight=0.3, space="latent")
assert compiled, "the listener heard nothing"
first = len(compiled)
for seed, (scale, weight, steps) in enumerate(runs):
    sample(seed, steps, guidance_scale=scale, blend_weight=weight, space="latent")
print(json.dumps([first, len(compiled) - first]))
"""
MANY_RUNS = f"""{COUNTING}
for seed in range(2):  # the first compiles; the second lets allocators reach their size
    sample(seed, 5, space="latent")
first, before = len(compiled), resident()
for seed in range(int(sys.argv[1])):
    sample(10 + seed, 5, space="latent")
print(json.dumps([len(compiled) - first, resident() - before]))
"""


def compile_once(size: int, folder: Path) -> Outcome:
    """Compilations after the first run, of runs that differ in numbers alone."""
    first, further = json.loads(python(ROOT, folder, "-c", COMPILE_ONCE, str(size)).split("\n")[-2])
    return Outcome(f"{further} after the first run ({first} there)", further == 0)


def many_runs(size: int, folder: Path) -> Outcome:
    """Compilations and growth of memory over further runs."""
    compiled, grown = json.loads(python(ROOT, folder, "-c", MANY_RUNS, str(size)).split("\n")[-2])
    return Outcome(f"{compiled} compilations, {grown:+.1f} MiB", compiled == 0 and grown < 10)


STARTS = {
    "--help": 0,
    "--version": 0,
    "sample --help": 0,
    "sample a --steps=0 --workdir=x": 2,
    "sample a --config.sampler.solver=nope --workdir=x": 2,
    "sample a --config.sampler.stepz=3 --workdir=x": 2,
}
START = """
import sys
from pot_jax.main import main
sys.argv = ["pot-jax", *sys.argv[1:]]
code = main(sys.argv)
sys.exit(100 if "jax" in sys.modules else code)
"""


def start(size: int, folder: Path) -> Outcome:
    """Processor time of commands that need no JAX, the least of three tries each."""
    del size
    times, wrong = {}, []
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for words, expected in STARTS.items():
        tries = []
        for _ in range(3):
            process = subprocess.Popen(
                [sys.executable, "-c", START, *words.split()],
                cwd=folder,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            tries.append(usage.ru_utime + usage.ru_stime)
        times[words] = min(tries)
        if process.returncode != expected:
            what = "imports JAX" if process.returncode == 100 else f"exit {process.returncode}"
            wrong.append(f"{words}: {what}")
    slowest = max(times, key=times.get)
    said = f"{times[slowest]:.2f} s ({slowest}){'; ' if wrong else ''}{', '.join(wrong)}"
    return Outcome(said, not wrong and times[slowest] < 0.6)


# Each rule of tests/test_layout.py, broken once: (file, what is put at its end).
BREAKS = {
    "order": ("zoom/geometry.py", "import pot_jax.models.layers"),
    "order, inside a function": ("zoom/geometry.py", "def _f():\n    from pot_jax import runs"),
    "order, import_module": ("media/files.py", "importlib.import_module('pot_jax.parallel.mesh')"),
    "circle": ("zoom/geometry.py", "def _f():\n    from pot_jax.zoom import operators"),
    "module's docstring": ("zoom/new.py", "import math"),
    "class's docstring": ("errors.py", "class New(UserError):\n    pass"),
    "function's docstring": ("errors.py", "def new():\n    pass"),
    "method's docstring": ("errors.py", 'class New:\n    """New."""\n    def f(self): ...'),
    "torch": ("models/layers.py", "def _f():\n    import torch"),
    "JAX in settings": ("config.py", "import jax"),
    "the world": ("world/__init__.py", "import scipy"),
}  # fmt: skip


def layout(size: int, folder: Path) -> Outcome:
    """Rules of the layout that are noticed when broken in a copy of the package."""
    (folder / "tests").mkdir()
    for name in ("layout.py", "test_layout.py"):
        shutil.copy(ROOT / "tests" / name, folder / "tests")
    package = folder / "pot_jax"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--noconftest"]
    command += ["-k", "the_house_keeps_its_rules", "--rootdir", str(folder), "tests/test_layout.py"]

    def passes() -> bool:
        return not subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL).returncode

    def copy() -> None:
        shutil.rmtree(package, ignore_errors=True)
        ignored = shutil.ignore_patterns("assets", "__pycache__")
        shutil.copytree(ROOT / "pot_jax", package, ignore=ignored)

    copy()
    if not passes():
        return Outcome("the package itself breaks a rule", False)
    chosen, missed = tenth(list(BREAKS), size), []
    for name in chosen:
        file, source = BREAKS[name]
        copy()
        with (package / file).open("a") as out:
            out.write(f"\n\n{source}\n")
        if passes():
            missed.append(name)
    said = f"{len(chosen) - len(missed)} of {len(chosen)} noticed"
    return Outcome(f"{said}{'; not ' if missed else ''}{', '.join(missed)}", not missed)


RESUME = (sys.executable, "-m", "pytest", "-q", "tests/runs/test_resume_old.py")

ROWS = [
    Row("suite", "all tests pass", suite("tools/test"), minutes=60, command="tools/test"),
    Row(
        "reference",
        "agrees with diffusers and transformers",
        suite("tools/test", "--reference"),
        minutes=60,
        command="tools/test --reference",
    ),
    Row(
        "newest",
        "short pass on the newest Python",
        suite("tools/test", "--newest"),
        minutes=20,
        command="tools/test --newest",
    ),
    Row(
        "pictures",
        f"delivered pictures within 1 of 255 of {BASE}'s",
        pictures,
        size=len(RUNS),
        unit="runs",
        minutes=60,
    ),
    Row(
        "photograph",
        "a photograph is met under the run's own Gaussian D to 1e-5 (intended change)",
        photograph,
    ),
    Row("digest", "the shipped weights keep their digest", digest),
    Row(
        "resume_old",
        f"a run saved at {BASE} resumes within 1 of 255",
        suite(*RESUME),
        command="pytest tests/runs/test_resume_old.py",
    ),
    Row(
        "compile_once",
        "runs that differ in numbers compile once",
        compile_once,
        size=12,
        unit="runs",
    ),
    Row(
        "many_runs",
        "further runs compile nothing and grow by less than 10 MiB",
        many_runs,
        size=50,
        unit="runs",
    ),
    Row("start", "help and mistakes without JAX in under 0.6 s of processor time", start),
    Row("lines", f"at most {LINES:,} lines in the package", at_most_lines(LINES)),
    Row(
        "layout",
        "each rule of the layout is noticed when broken",
        layout,
        size=len(BREAKS),
        unit="rules",
    ),
]
