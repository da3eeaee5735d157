"""Zooms without squares: the techniques beside the old default, and what else they allow."""

import csv
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
from acceptance import ROOT, Outcome, Row, at_most_lines
from acceptance_topics.robustness import PYTHON, passing

LINES = 15_578 + 1_500 + 700  # the package before topic evidence, and what both may add
PLAIN = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
RUNS = Path(os.environ.get("RUNS", ROOT / "runs"))
# Model -> the sweep that compares methods, and the default of before, which had cosmos128's solver.
SWEEPS = {"cosmos64": ("study", "default"), "cosmos128": ("confirm", "dpmpp-2m")}
# Where "full" is compared with a default of its own, in the sweep of cosmos64.
ELSEWHERE = ("p3", "p4", "off-centre", "latent", "ddpm")
Scores = dict[tuple[str, str], dict[str, float]]  # (scene, seed) -> metric -> score


def report(sweep: str, baseline: str, folder: Path) -> tuple[dict[str, Scores], dict]:
    """The scores of every run, by method, and the summary, by method and metric."""
    command = [PYTHON, "-m", "pot_jax", "report", f"--workdir={RUNS / sweep}"]
    command += [f"--output={folder}", f"--baseline=method={baseline}"]
    subprocess.run(command, env=PLAIN, cwd=ROOT, check=True)
    methods: dict[str, Scores] = {}
    for line in (folder / "runs.jsonl").read_text().splitlines():
        run = json.loads(line)
        of = methods.setdefault(run["method"], {})
        of[run["scene"], str(run["seed"])] = run
    with open(folder / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return methods, {(row["variant"].removeprefix("method="), row["metric"]): row for row in rows}


class Pairs:
    """The runs of a model's new default beside those of its old one with the same noise."""

    def __init__(self, model: str, folder: Path, old: str = "", new: str = "full"):
        sweep, usual = SWEEPS[model]
        methods, self.summary = report(sweep, old or usual, folder)
        self.old, self.new = methods[old or usual], methods[new]
        self.free = methods.get("independent", {})
        self.common = sorted(self.old.keys() & self.new.keys())

    def mean(self, metric: str) -> tuple[float, float]:
        """Of the new and the old."""
        both = (np.mean([of[pair][metric] for pair in self.common]) for of in (self.new, self.old))
        return tuple(map(float, both))

    def ratio(self, metric: str) -> float:
        """The new mean over the old."""
        new, old = self.mean(metric)
        return new / old

    def by_scene(self, metric: str, of: Scores) -> dict[str, float]:
        """The means of a method's runs, by scene."""
        found: dict[str, list[float]] = {}
        for (scene, seed), run in of.items():
            if run.get(metric) is not None and (scene, seed) in self.common:
                found.setdefault(scene, []).append(run[metric])
        return {scene: float(np.mean(values)) for scene, values in found.items()}

    def worst(self, metric: str) -> tuple[str, float]:
        """The scene with the highest mean of the new, and that."""
        means = self.by_scene(metric, self.new)
        scene = max(means, key=means.__getitem__)
        return scene, means[scene]


def paired(model: str, judge: Callable[[Pairs], tuple[str, bool]]) -> Callable:
    """A row's function: what `judge` says of a model's pairs, whose number is the row's size."""

    def run(size: int, folder: Path) -> Outcome:
        pairs = Pairs(model, folder)
        said, reached = judge(pairs)
        return Outcome(said, reached, min(size, len(pairs.common)))

    return run


def squares(pairs: Pairs) -> tuple[str, bool]:
    new, old = pairs.mean("seam_excess")
    scene, worst = pairs.worst("seam_excess")
    free = pairs.by_scene("seam_excess", pairs.free)
    above = [s for s, x in pairs.by_scene("seam_excess", pairs.new).items() if x > 0.15]
    said = f"{new:.2f} (before {old:.2f}), at worst {worst:.2f} ({scene}); "
    said += f"{len(above)} scenes above 0.15, "
    said += f"{sum(x > 0.15 for x in free.values())} of samples without any border"
    return said, -0.2 <= new <= 0.05 and worst <= 0.15


def steps(pairs: Pairs) -> tuple[str, bool]:
    ring, sides = pairs.ratio("colour_step_ring"), pairs.ratio("colour_step_sides")
    return f"ring {ring:.3f}, sides {sides:.3f}", ring <= 0.70 and sides <= 0.80


def drag(pairs: Pairs) -> tuple[str, bool]:
    ratio = pairs.ratio("colour_drag")
    return f"{ratio:.3f}", ratio <= 1.10


def detail(pairs: Pairs) -> tuple[str, bool]:
    outside, deepest = pairs.mean("detail_outside"), pairs.mean("detail_deepest")
    said = f"{outside[0]:.3f} and {deepest[0]:.3f} (before {outside[1]:.3f} and {deepest[1]:.3f})"
    return said, outside[0] >= 0.75 and deepest[0] >= 0.85


def before(pairs: Pairs) -> tuple[str, bool]:
    new, old = pairs.mean("overlap_before_render_db")
    return f"{new:.2f} dB (before {old:.2f})", new >= old - 1


def prompts(pairs: Pairs) -> tuple[str, bool]:
    said, reached = [], True
    for metric in ("concept", "attribute"):
        row = pairs.summary["full", metric]
        by, low, high = (100 * float(row[f"difference{end}"]) for end in ("", "_low", "_high"))
        said.append(
            f"{metric} {100 * pairs.mean(metric)[0]:.1f} %, {by:+.1f} [{low:.1f}, {high:.1f}]"
        )
        reached &= high >= 0
    return "; ".join(said), reached


def dots(pairs: Pairs) -> tuple[str, bool]:
    if not pairs.by_scene("dots", pairs.new):
        return "not measured: its references are from before the metric", False
    scene, worst = pairs.worst("dots")
    return f"at worst {worst:.3f} ({scene})", worst <= 1.05


def elsewhere(size: int, folder: Path) -> Outcome:
    """Whether the seam excess falls at other zoom factors and placements, in latents, with DDPM."""
    said, reached = [], True
    for place in ELSEWHERE:
        apart = place in ("latent", "ddpm")
        names = (place, f"full-{place}") if apart else (f"{place}-default", f"{place}-full")
        new, old = Pairs("cosmos64", folder, *names).mean("seam_excess")
        said.append(f"{place} {old:.2f} to {new:.2f}")
        reached &= new < old
    return Outcome(", ".join(said), reached, len(said))


def triples(size: int, folder: Path) -> Outcome:
    """What docs/study keeps of two blind judgements; the worse one counts."""
    del folder
    judges = json.loads((ROOT / "docs" / "study" / "triples.json").read_text())["judges"]
    better = [sum(ranks["new"] < ranks["old"] for ranks in judge) for judge in judges]
    said = f"new over old in {' and '.join(map(str, better))} of {len(judges[0])}"
    return Outcome(said, min(better) >= 10, len(judges[0]))


def sampled(folder: Path, levels: int, *flags: str) -> dict:
    """What `evaluate` finds in a zoom of `levels` levels by cosmos64."""
    worlds = "from pot_jax.world.captions import scene_prompts as p; import json, sys; "
    worlds += (
        "print(json.dumps([p(6, 5_800_000 + i // 6)[i % 6] for i in range(int(sys.argv[1]))]))"
    )
    said = subprocess.check_output([PYTHON, "-c", worlds, str(levels)], env=PLAIN, text=True)
    run = [PYTHON, "-m", "pot_jax", "sample", *json.loads(said), "--model=cosmos64", "--steps=20"]
    run += ["--config.movie.size=64", "--config.movie.fps=2", f"--workdir={folder / 'run'}"]
    subprocess.run([*run, *flags], env=PLAIN, cwd=folder, check=True)
    evaluate = [PYTHON, "-m", "pot_jax", "evaluate", f"--workdir={folder / 'run'}"]
    subprocess.run(evaluate, env=PLAIN, cwd=folder, check=True)
    return json.loads((folder / "run" / "evaluation.json").read_text())


def deep(size: int, folder: Path) -> Outcome:
    """A zoom of `size` levels, p^133 from end to end."""
    pairs = sampled(folder, size)["details"]["overlap"]["overlap_psnr_db"]["delivered"]["pairs"]
    return Outcome(
        f"{len(pairs) + 1} levels, {min(pairs):.1f} dB", min(pairs) >= 55, len(pairs) + 1
    )


def loop(size: int, folder: Path) -> Outcome:
    """How a loop agrees at its joint and elsewhere, before the last render and as delivered."""
    overlap = sampled(folder, size, "--loop")["details"]["overlap"]["overlap_psnr_db"]
    said, reached = [], True
    for state in ("before_render", "delivered"):
        *others, joint = overlap[state]["pairs"]
        said.append(f"{state}: joint {joint:.1f} dB, others {min(others):.1f} to {max(others):.1f}")
        reached &= joint >= min(others) - 1
    return Outcome("; ".join(said), reached)


def exact(size: int, folder: Path) -> Outcome:
    """Jit and eager, one compilation, the strip's and the schedule's properties."""
    others = [f"tests/zoom/test_{name}.py" for name in ("agreement", "operators")]
    others += ["tests/pipelines/test_sample.py", "tests/diffusion/test_sampler.py"]
    chosen = "strip or schedule or released or jit or compile or loop"
    return passing("tests/zoom/test_blending.py", size, folder, {}, *others, "-k", chosen)


def mistakes(size: int, folder: Path) -> Outcome:
    """Bad strips, schedules, loops, held levels and other models' runs: one line each."""
    chosen = "strip or agree_ or blend_release or loop or extend or revise or held"
    files = "tests/test_mistakes_python.py", "tests/pipelines/test_continued.py"
    return passing("tests/test_mistakes.py", size, folder, {}, *files, "-k", chosen)


JUDGES = {
    squares: "seam excess -0.2 to 0.05, in no scene above 0.15",
    steps: "at most 0.70 of the old by ring and 0.80 by sides",
    drag: "at most 1.10 of the old",
    detail: "at least 0.75 outside and 0.85 deepest",
    before: "within 1 dB before the last render",
    prompts: "not below the old by more than the interval",
    dots: "at most 1.05 of independent samples' in every scene",
}
ROWS = [
    Row(judge.__name__ + model[6:], target, paired(model, judge), size, "pairs", 30.0, "", False)
    for model, size in (("cosmos64", 192), ("cosmos128", 16))
    for judge, target in JUDGES.items()
] + [
    Row("elsewhere", "gains at p = 3 and 4, off-centre, in latents, with DDPM", elsewhere,
        len(ELSEWHERE), "places", 30.0, "", False),
    Row("triples", "new over old in 10 of 12", triples, 12, "triples", 30.0, "", False),
    Row("deep", "runs, 55 dB", deep, 134, "levels", 60.0),
    Row("loop", "agrees at its joint as elsewhere", loop, 6, "levels", 60.0),
    Row("exact", "jit equals eager, one compilation", exact),
    Row("mistakes", "one line each", mistakes),
    Row("lines", f"at most {LINES:,} lines in the package", at_most_lines(LINES), 1, "run", 30.0,
        "", False),
]  # fmt: skip
