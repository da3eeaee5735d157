"""A model worth looking at: the shipped models' demo, scores, wheel and training.

`scores` and `joint` read what tools/score_model has left in the folder that the variable SCORES
names, by default runs/score, and run it for what is missing there: hours on 2 CPU cores.
"""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

from acceptance import ROOT, Outcome, Row, at_most_lines, package_at
from acceptance_topics.robustness import BASE, LINES, PYTHON, passing, seconds
from PIL import Image

TODAY = "37ac058"  # the commit whose demo, of cosmos64, the new one may take twice as long as

# What a newcomer has: no settings of this process, and no programs compiled before.
PLAIN = {name: x for name, x in os.environ.items() if name != "PYTHONPATH"}
PLAIN |= {"JAX_PLATFORMS": "cpu"}
COLD = ["--compilation_cache=none"]
# Of runs whose movie nobody looks at.
SMALL_MOVIE = ["--config.movie.fps=2", "--config.movie.size=32"]
# The slow, plain way that a model's own settings are measured against.
REFERENCE = ["--steps=50", "--solver=ddim", "--space=pixel"]
REFERENCE += ["--config.sampler.pixel_every=1", "--config.sampler.agreement_vae=vae"]
REFERENCE += ["--config.sampler.strip=0", "--config.sampler.agree_first=1"]


def demo_command(package: Path, *flags: str) -> list:
    """The command that tools/demo runs, for the package at a place, without its workdir."""
    config = f"--config={package}/configs/cosmos.py"
    return [PYTHON, "-m", "pot_jax", "sample", config, *flags]


def demo(size: int, folder: Path) -> Outcome:
    """The demo's run here, at TODAY and at BASE in turn, each with its own settings and model."""
    packages = {"now": ROOT}
    for commit in (TODAY, BASE):
        (folder / commit).mkdir()
        packages[commit] = package_at(commit, folder / commit)
    took = {name: [] for name in packages}
    for index in range(size):
        for name, package in packages.items():
            cache = [] if name == BASE else COLD  # BASE keeps nothing
            command = demo_command(package, *cache, f"--workdir={folder}/{name}_{index}")
            took[name].append(seconds(command, folder, package)[0])
            print(name, took[name][-1], flush=True)
    least = {name: min(times) for name, times in took.items()}
    ratio = {name: least["now"] / least[name] for name in (TODAY, BASE)}
    said = f"{ratio[TODAY]:.2f} of today's ({least['now']:.0f} and {least[TODAY]:.0f} s); "
    return Outcome(said + f"{ratio[BASE]:.2f} of {BASE}'s", ratio[TODAY] <= 2)


def install(size: int, folder: Path) -> Outcome:
    """tools/demo in a fresh clone of the last commit, with installation; pip's cache is kept."""
    del size
    clone = folder / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    began = time.monotonic()
    subprocess.run([clone / "tools" / "demo", *COLD], env=PLAIN, check=True)
    took = time.monotonic() - began
    return Outcome(f"{took:.0f} s", took < 300)


def sheet(size: int, folder: Path) -> Outcome:
    """The demo's pictures: their sizes, and how well the delivered ones agree."""
    run = folder / "run"
    seconds(demo_command(ROOT, *SMALL_MOVIE, f"--workdir={run}"), folder)
    seconds([PYTHON, "-m", "pot_jax", "evaluate", f"--workdir={run}"], folder)
    table = (folder / "said").read_text()
    print(table)
    worst = float(re.search(r"minimum .* ([0-9.]+) +[0-9.]+$", table, re.M)[1])
    sizes = [Image.open(path).size for path in sorted((run / "levels").glob("*.png"))]
    area = Image.open(run / "contact_sheet.png").size
    whole = sizes == [(128, 128)] * size and area[0] * area[1] >= size * 128**2
    said = f"{worst:.1f} dB at worst, {len(sizes)} pictures of {sizes[0]}, a sheet of {area}"
    return Outcome(said, whole and worst >= 55)


def before(size: int, folder: Path) -> Outcome:
    """Overlaps before the last render, of the demo's settings and of REFERENCE, by seed."""
    differences = []
    for seed in range(3, 3 + size):
        found = []
        for name, flags in (("own", []), ("reference", REFERENCE)):
            run = folder / f"{name}_{seed}"
            flags = [*flags, *SMALL_MOVIE, f"--seed={seed}", f"--workdir={run}"]
            seconds(demo_command(ROOT, *flags), folder)
            metrics = json.loads((run / "metrics.json").read_text())
            found.append(metrics["overlap_psnr_db"]["before_render"])
            print(seed, name, found[-1], flush=True)
        differences.append(found[0]["mean"] - found[1]["mean"])
    said = ", ".join(f"{difference:+.2f}" for difference in differences)
    return Outcome(f"{said} dB", max(map(abs, differences)) <= 1)


def scored(model: str) -> dict:
    """What tools/score_model says of a shipped model.

    It runs where its file is missing, or where it scored other weights (and refuses).
    """
    sys.path.insert(0, str(ROOT))
    import pot_jax

    workdir = Path(os.environ.get("SCORES", ROOT / "runs" / "score"))
    file = workdir / f"{model}_30_4" / "scores.json"
    weights = file.with_name("model.json")
    known = file.exists() and json.loads(weights.read_text())["weights"]
    scores = json.loads(file.read_text()) if known == pot_jax.load(model).digest else {}
    if "own" not in scores.get("zooms", ()):
        command = [PYTHON, ROOT / "tools" / "score_model", f"--model={model}"]
        command += [f"--workdir={workdir}"]
        subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
        scores = json.loads(file.read_text())
    return scores


def scores(size: int, folder: Path) -> Outcome:
    """Accuracies of samples of both models, by the shipped classifier."""
    del size, folder
    names = ("concept", "attribute")
    found = {model: [scored(model)["samples"][name] for name in names]
             for model in ("cosmos128", "cosmos64")}  # fmt: skip
    said = "; ".join(
        f"{model}: concepts {concept:.1%}, attributes {attribute:.1%}"
        for model, (concept, attribute) in found.items()
    )
    concept, attribute = found["cosmos128"]
    return Outcome(said, concept >= 0.98 and attribute >= 0.90)


def joint(size: int, folder: Path) -> Outcome:
    """Concepts of joint zooms: the model's own settings, cosmos64's, and 50 plain steps."""
    del size, folder
    found = {way: zooms["concept"] for way, zooms in scored("cosmos128")["zooms"].items()}
    small = scored("cosmos64")["zooms"]["pixel"]["concept"]
    own, plain = found["own"], found["pixel, 50 steps"]
    said = f"{own:.1%} with its own settings, {plain:.1%} in 50 plain steps, "
    said += f"cosmos64 {small:.1%}; in latents {found['latent']:.1%}"
    return Outcome(said, own >= max(small, plain - 0.02))


def wheel(size: int, folder: Path) -> Outcome:
    """The last commit's wheel, installed in an empty environment and run in an empty folder."""
    del size
    clone, place, here = folder / "clone", folder / "environment", folder / "here"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    build = [PYTHON, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, clone]
    subprocess.run(build, env=PLAIN, check=True)
    shutil.rmtree(clone)  # nothing may be read from there
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    wanted = [
        f"pot_jax/assets/{model}/{name}"
        for model in ("cosmos128", "cosmos64")
        for name in ("README.md", "unet/diffusion_pytorch_model.safetensors")
    ]
    missing = [name for name in wanted if name not in names]
    missing += [] if any(name.endswith("/licenses/LICENSE") for name in names) else ["LICENSE"]
    megabytes = path.stat().st_size / 1e6

    subprocess.run([PYTHON, "-m", "venv", place], env=PLAIN, check=True)
    constraints = ROOT / "tools" / "constraints.txt"
    quiet = ["--quiet", "--disable-pip-version-check", "--constraint", constraints]
    subprocess.run([place / "bin" / "pip", "install", *quiet, path], env=PLAIN, check=True)
    here.mkdir()
    command = [place / "bin" / "pot-jax", "sample", "a blue planet", "a green island"]
    command += ["--steps=2", "--workdir=run", *COLD]
    subprocess.run(command, cwd=here, env=PLAIN, check=True)
    config = json.loads((here / "run" / "config.json").read_text())["config"]
    size = Image.open(here / "run" / "levels" / "level_001.png").size
    said = f"{megabytes:.1f} MB, {config['model']} gives {size}"
    said += f"; missing: {', '.join(missing)}" if missing else ""
    good = (config["model"], size) == ("cosmos128", (128, 128))
    return Outcome(said, good and not missing and megabytes < 60)


MISTAKES = """
test_data.py::test_a_folder_of_other_renders_is_refused
test_data.py::test_renders_of_a_world_that_has_changed_since_are_refused
test_descriptions.py::test_a_table_of_another_tokenizer_is_refused
test_descriptions.py::test_a_table_of_other_views_is_refused
test_train.py::test_a_state_of_another_recipe_is_refused
test_train.py::test_a_workdir_of_another_run_is_refused
"""


def mistakes(size: int, folder: Path) -> Outcome:
    """Renders, token tables and states of another training: one line, nothing overwritten."""
    first, *others = [f"tests/training/{name}" for name in MISTAKES.split()]
    return passing(first, size, folder, {}, *others)


def measure_host_share(settings: Any, steps: int) -> tuple[float, float]:
    """What a step of the denoiser's training takes, and what of it the devices take.

    The loop of `PhaseRun`, logging as in a training, against as many bare calls of the same
    compiled step, half of them before and half after. The data has a training's shapes, but is
    random and made on the devices: nothing is rendered, no state is saved.

    Args:
      settings: a `TrainSettings`.
      steps: how many are timed; the logs before and after them are not more than
        `intervals.log_steps` apart.

    Returns:
      (seconds a step of the loop, seconds a bare step). The host's share is 1 - bare / loop.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    from pot_jax.parallel.mesh import AXIS, device_mesh, replicated
    from pot_jax.runs.checkpoints import Checkpoints
    from pot_jax.training import diffusion, phases, train
    from pot_jax.training.journal import Journal
    from pot_jax.training.loop import Phase, PhaseRun
    from pot_jax.training.settings import IntervalSettings

    class Moments(Journal):
        def add(self, step: int, seconds: float, *rest: Any) -> None:
            moments.append((step, seconds))
            super().add(step, seconds, *rest)

    class Nothing(Checkpoints):
        def save(self, *_: Any) -> None: ...

    def random_data():
        latents = jax.random.normal(jax.random.key(1), (count, *side), jnp.float32)
        shape = (settings.data.phrasings, count, settings.tokenizer.length)
        ids = jax.random.randint(jax.random.key(2), shape, 0, vocabulary, jnp.int16)
        return {"latents": latents, "ids": ids, "empty": jnp.zeros(shape[-1:], jnp.int32)}

    mesh, moments = device_mesh(), []
    count, vocabulary = settings.data.trained_on, settings.tokenizer.vocabulary
    networks = train._networks(settings, vocab_size=vocabulary)
    unet = networks.unet.config
    side = (unet.sample_size, unet.sample_size, unet.in_channels)
    data = jax.jit(random_data, out_shardings=replicated(mesh))()
    every = min(settings.intervals.log_steps, steps)
    whole = every * (1 + -(-steps // every))  # the first few only warm up
    settings = dataclasses.replace(
        settings,
        diffusion=dataclasses.replace(
            settings.diffusion,
            optimization=dataclasses.replace(
                settings.diffusion.optimization, steps=whole, minutes=0.0
            ),
        ),
    )
    optimization, dropout = settings.diffusion.optimization, settings.diffusion.caption_dropout
    rounded = phases.Run(settings, Path(), mesh, None, {}).in_precision
    choose = diffusion.choose_captions("diffusion", settings, count, dropout)
    with tempfile.TemporaryDirectory() as folder:
        phase = Phase(
            name="diffusion",
            loss=diffusion.make_loss(diffusion.Networks(*map(rounded, networks))),
            choose=choose,
            gather=diffusion.gather,
            settings=optimization,
            checkpoints=Nothing(folder),
            journal=Moments(folder, "diffusion"),
            seed=settings.seed,
            intervals=IntervalSettings(every, checkpoint_minutes=1e9, preview_minutes=1e9),
        )
        draws = {name: phases._initial(module, 0) for name, module in networks._asdict().items()}
        params = {name: draw() for name, draw in draws.items()}
        prepared = PhaseRun(phase, params, data, mesh)
        step = prepared._step.ready()

        def bare(steps: int) -> float:
            split = NamedSharding(mesh, PartitionSpec(AXIS))
            chosen = jax.device_put([choose(i) for i in range(steps + 2)], split)
            numbers = jax.device_put([np.int32(i) for i in range(steps + 2)], replicated(mesh))
            clock, key = jax.device_put((np.float32(0), jax.random.key(0)), replicated(mesh))
            state = prepared._start(params)
            for i in range(steps + 2):
                state, values = step(state, data, chosen[i], numbers[i], clock, key)
                if i == 1:  # two to warm up
                    values["loss"].block_until_ready()
                    began = time.monotonic()
            values["loss"].block_until_ready()
            return time.monotonic() - began

        half = -(-steps // 2)
        seconds = bare(half)
        prepared.run(lambda: params, data)
        seconds += bare(half)
    (first, early), (last, late) = moments[0], moments[-1]
    return (late - early) / (last - first), seconds / (2 * half)


def host_share(size: int, folder: Path) -> Outcome:
    """The host's share of a step of cosmos128's denoiser at a batch of `size`; 8 on CPUs."""
    del folder
    sys.path.insert(0, str(ROOT))
    import jax

    from pot_jax.checks import build
    from pot_jax.config import read
    from pot_jax.training.settings import TrainSettings

    config, steps = read("cosmos128", "train"), 300
    if jax.default_backend() == "cpu":
        size, steps = min(size, 8), 6
        config["data"]["phrasings"] = 2
        config["intervals"]["log_steps"] = 3
    config["diffusion"]["optimization"]["batch_size"] = size
    loop, bare = measure_host_share(build(TrainSettings, config), steps)
    share = 1 - bare / loop
    kind = jax.devices()[0].device_kind
    said = f"{share:.1%} of {1000 * loop:.1f} ms at a batch of {size}, {kind}"
    return Outcome(said, share < 0.05, size)


ROWS = [
    Row("demo", "at most twice today's time", demo, 3, "rounds", 60.0, "", False),
    Row("install", "under 5 minutes with installation", install, 1, "run", 30.0, "", False),
    Row("sheet", "20 pictures of 128 pixels, 55 dB or more", sheet, 20, "pictures", 30.0, "",
        False),
    Row("before", "within 1 dB of 50 plain steps before the last render", before, 2, "seeds", 90.0,
        "", False),
    Row("scores", "concepts 98 %, attributes 90 %", scores, 1, "run", 600.0, "", False),
    Row("joint", "at least cosmos64's zooms, within 2 points of 50 plain steps", joint, 1, "run",
        600.0, "", False),
    Row("wheel", "under 60 MB, runs away from the checkout", wheel, 1, "run", 30.0, "", False),
    Row("host_share", "the host takes under 5 % of a training step", host_share, 256, "pictures",
        30.0, "", False),
    Row("mistakes", "one line, nothing overwritten", mistakes, 10, "mistakes"),
    Row("lines", f"at most {LINES:,} lines in the package", at_most_lines(LINES)),
]  # fmt: skip
