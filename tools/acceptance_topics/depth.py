"""Any depth: as many levels as the film of 1977, and what a level costs however many there are."""

import json
import os
import subprocess
from pathlib import Path

from acceptance import ROOT, Outcome, Row, package_at
from acceptance_topics.model import COLD, TODAY
from acceptance_topics.robustness import PYTHON, measured

SCALES = "a turquoise galaxy", "a blue planet", "a green island", "a forest", "a leaf", "a ladybug"
LEVELS = 16, 32, 64, 128, 256  # of `linear`

# Five steps in each chunk, all of which agree; the first has the time of compiling in it, too.
ONE_DEPTH = """
import json, resource, sys, time
import pot_jax
levels, scales, space = int(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
prompts = [scales[level * len(scales) // levels] for level in range(levels)]
ends = []
pot_jax.sample(pot_jax.load("cosmos64"), prompts, steps=20, space=space, agree_first=1.0,
               callback=lambda seen: ends.append(time.perf_counter()))
peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(min(after - before for before, after in zip(ends, ends[1:])) / 5, peak)
"""


def deep(size: int, folder: Path) -> Outcome:
    """A zoom with its movie, here with the page too, and at TODAY in turn: time, memory."""
    config, levels = folder / "deep.py", range(size)
    prompts = [SCALES[level * len(SCALES) // size] for level in levels]
    config.write_text(
        "import ml_collections\n\n\ndef get_config():\n"
        f"    return ml_collections.ConfigDict({{'prompts': {prompts!r}}})\n"
    )
    packages = {TODAY: package_at(TODAY, folder), "now": ROOT}
    took, peaks = {name: [] for name in packages}, []
    for turn in (0, 1):
        for name, package in packages.items():
            command = [PYTHON, "-m", "pot_jax", "sample", f"--config={config}", "--model=cosmos64"]
            command += ["--steps=50", f"--workdir={folder}/{name}_{turn}", *COLD]
            wall, usage = measured(command, folder, package)
            took[name].append(wall)
            if name == "now":
                peaks.append(1024 * usage.ru_maxrss)
            print(name, wall, 1024 * usage.ru_maxrss, flush=True)
    ratio = min(took["now"]) / min(took[TODAY])
    said = f"{ratio:.2f} of {TODAY}'s ({min(took['now']):.0f} s), {max(peaks) / 1e9:.2f} GB"
    return Outcome(said, ratio <= 0.85 and max(peaks) < 2e9)


def linear(size: int, folder: Path) -> Outcome:
    """Seconds a step and level, and peak memory, by levels; draws docs/depth.png at full size."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    found = {space: {} for space in ("latent", "pixel")}
    for levels in LEVELS[:size]:
        for space, kept in found.items():
            command = [PYTHON, "-c", ONE_DEPTH, str(levels), json.dumps(SCALES), space]
            said = subprocess.check_output(command, cwd=folder, env=environment, text=True)
            kept[levels] = [float(word) for word in said.split()[-2:]]
            print(space, levels, *kept[levels], flush=True)
    if size < len(LEVELS):
        return Outcome(f"{size} depths", False)
    draw(found, ROOT / "docs" / "depth.png")
    growth = [kept[128][0] / (8 * kept[16][0]) - 1 for kept in found.values()]
    # A program and its libraries are there at any depth: memory is a straight line, not a product.
    lines = [(kept[256][1] - kept[16][1]) / 240 for kept in found.values()]
    bent = [
        kept[128][1] / (kept[16][1] + 112 * slope) - 1 for kept, slope in zip(found.values(), lines)
    ]
    said = "; ".join(
        f"{space}: time {grown:+.1%}, memory {off:+.1%} ({slope / 1e6:.1f} MB a level)"
        for space, grown, off, slope in zip(found, growth, bent, lines)
    )
    return Outcome(said, all(abs(x) <= 0.10 for x in (*growth, *bent)))


def draw(found: dict, path: Path) -> None:
    """Draws time and memory by levels."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for space, kept in found.items():
        left.plot([*kept], [seconds for seconds, _ in kept.values()], "o-", label=f"{space} space")
        right.plot([*kept], [peak / 1e9 for _, peak in kept.values()], "o-", label=f"{space} space")
    for axes, what in ((left, "seconds a step"), (right, "peak memory, GB")):
        axes.set(xlabel="levels", ylabel=what, xlim=(0, None), ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False)
    figure.savefig(path, dpi=100, metadata={"Software": None})


ROWS = [
    Row("deep", f"at most 0.85 of {TODAY}'s time without the page, under 2 GB", deep, 134, "levels",
        60.0, "", False),
    Row("linear", "within 10 % from 16 to 128 levels", linear, len(LEVELS), "depths", 60.0, "",
        False),
]  # fmt: skip
