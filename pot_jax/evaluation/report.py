"""Compares the runs in a folder, at any depth: tables, intervals, plots and one page.

    runs.csv, runs.jsonl   a row a run: where it is, its labels, its scores
    summary.csv            a row a variant and metric: mean, interval, difference from the baseline
    report.html            both, with contact sheets side by side, in one file
    plots/METRIC.png       where matplotlib is installed

A run is a folder with an evaluation.json. Its labels are its sweep's axes, or what its zoom.json
says, or its own name; runs without the label `scene` are of one scene if they have one list of
prompts. Runs that differ only in scene and seed are one variant. The tree may still be growing:
what is left out is listed, and why.
"""

import base64
import collections
import csv
import html
import io
import json
import pathlib
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pot_jax.checks import checked, require
from pot_jax.errors import UserError, few, shown
from pot_jax.evaluation.metrics.references import against, alone, diversity
from pot_jax.evaluation.points import POINT, RESULT, SCENE
from pot_jax.media.files import located, write_atomically
from pot_jax.runs.claims import read_json

SEED = "seed"
_TEMPLATE = pathlib.Path(__file__).parents[1] / "assets" / "report.html"
_REPLICATES = 2000  # of the bootstrap
_SHEETS = 8  # scenes whose contact sheets the page shows
_KEYS = ("variant", "metric")  # of a row of the summary


class Run(NamedTuple):
    """One measured run."""

    folder: pathlib.Path
    labels: dict[str, str]  # by axis
    scores: dict[str, float]
    statistics: Mapping[str, Any]
    prompts: str  # their digest
    made_by: dict[str, str]  # version, commit and weights
    independent: bool  # whether its levels were sampled independently

    @property
    def variant(self) -> str:
        """What tells it from runs of other settings."""
        named = [f"{axis}={v}" for axis, v in self.labels.items() if axis not in (SCENE, SEED)]
        return ",".join(named) or "all"

    @property
    def place(self) -> tuple[str, str]:
        """Its scene and seed, by which it is paired with runs of other variants."""
        return self.labels.get(SCENE, self.prompts), self.labels.get(SEED, "")


def write_report(tree: str, output: str, baseline: str = "", references: str = "") -> str:
    """Writes the report of the runs in `tree` to the folder `output`; returns what to print.

    `baseline` is the variant, or a part of its name, that others are compared with; empty: none.
    `references`, likewise, is that of the independent samples that detail and drag are relative to;
    empty: every run with blend "none". Raises UserError if the tree has no measured run, or no
    variant of that name, or several.
    """
    runs, left_out = read_runs(located(tree))
    if not runs:
        why = f" ({few(left_out, '; ')})" if left_out else ""
        raise UserError(
            f"no measured run in {shown(tree)}{why}; wait for the sweep, or run `pot-jax evaluate`"
        )
    variants = list(dict.fromkeys(run.variant for run in runs))
    base = _chosen(baseline, variants, "--baseline")
    chosen = _chosen(references, variants, "--references")
    runs = relative(runs, lambda r: r.variant == chosen if chosen else r.independent)
    rows = summary(runs, base)
    notes = [*mixed(runs), *(f"left out: {line}" for line in left_out)]
    several = list(dict.fromkeys(run.variant for run in runs if run.independent))
    if len(several) > 1 and not chosen:
        notes.append(f"references are of several variants ({few(several)}): give --references")
    folder, figures = located(output), plots(rows)
    table = [{"folder": str(r.folder), **r.labels, **r.made_by, **r.scores} for r in runs]
    files = {f"plots/{metric}.png": picture for metric, picture in figures.items()}
    files |= {"runs.csv": _csv(table), "summary.csv": _csv(rows)}
    files["runs.jsonl"] = "".join(json.dumps(row) + "\n" for row in table).encode()
    page = _page(runs, rows, notes, figures, located(tree).resolve().name)
    for name, content in {**files, "report.html": page.encode()}.items():
        with write_atomically(folder / name) as path:
            path.write_bytes(content)
    told = f"{len(runs)} runs of {len(variants)} variants: {folder / 'report.html'}"
    notes += [] if figures else ["no plots: matplotlib is missing; pip install 'pot_jax[plots]'"]
    return "\n".join([told, *(f"note: {note}" for note in notes)])


def read_runs(tree: pathlib.Path) -> tuple[list[Run], list[str]]:
    """Returns the measured runs in a tree, by folder, and why other folders are left out."""
    require(tree.is_dir(), "--workdir", "a folder of runs", str(tree))
    names = (RESULT, POINT, "config.json", "zoom.json")
    runs, left_out = {}, []
    for folder in sorted({path.parent for name in names for path in tree.rglob(name)}):
        samples = folder / "stack_000"  # the parts of a run of several are runs of their own
        try:
            if (folder / RESULT).exists() or not samples.exists():
                run = _read(folder, tree)
                other = runs.setdefault((run.variant, *run.place), run)
                alike = f"{shown(folder)}: {shown(other.folder)} has its variant, scene and seed"
                left_out += [alike] * (other is not run)
        except UserError as error:
            left_out.append(str(error))
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # of any other form
            left_out.append(f"{shown(folder)}: its records are not this version's: {error!r}")
    return list(runs.values()), left_out


def _read(folder: pathlib.Path, tree: pathlib.Path) -> Run:
    if not (folder / RESULT).exists():
        point = (folder / POINT).exists()
        raise UserError(f"{shown(folder)}: {'not finished' if point else 'not measured'}")
    found = read_json(folder / RESULT)
    fits = isinstance(found.get("scores"), dict) and isinstance(found.get("statistics"), dict)
    require(fits, shown(folder / RESULT), "scores and statistics", list(found))
    known = {n: read_json(folder / n) for n in ("config.json", POINT) if (folder / n).exists()}
    record, about = known.get("config.json", {}), found.get("details", {}).get("about", {})
    own = about.pop("labels", {})
    labels = known.get(POINT, {}).get("values") or about | own
    if not labels:
        sample, seed = folder.relative_to(tree), record.get("config", {}).get("seed", "")
        labels = {"run": str(sample.parent if sample.name[:6] == "stack_" else sample), SEED: seed}
    labels = {str(n): x if isinstance(x, str) else json.dumps(x) for n, x in labels.items()}
    code = record.get("code") or {}
    made_by = {
        "version": record.get("versions", {}).get("pot_jax", ""),
        "commit": code.get("commit", "")[:9] + " (changed)" * (not code.get("clean", True)),
        "weights": record.get("weights_sha256", "")[:12],
    }
    blend = record.get("config", {}).get("sampler", {}).get("blend")
    scores = {
        str(n): checked(x, float, f"{folder / RESULT}: {n}") for n, x in found["scores"].items()
    }
    alone(found["statistics"])  # raises where they are not what `statistics` returns
    about = str(found.get("prompts_sha256", "")), made_by, blend == "none"
    return Run(folder, labels, scores, found["statistics"], *about)


def relative(runs: Sequence[Run], is_reference: Callable[[Run], bool]) -> list[Run]:
    """Returns runs with their scores against references, and `diversity` from another seed's.

    References are the runs of the same prompts, geometry and weights but another seed: one of the
    same seed began with the same noise, and would flatter the run. Diversity is from the first
    other seed, so that a variant of two seeds is compared with the same two of one of eight.
    """

    def kind(run: Run) -> tuple:
        return run.place[0], run.prompts, json.dumps(run.statistics["geometry"])

    references, seeds = collections.defaultdict(list), collections.defaultdict(list)
    for run in runs:
        references[kind(run)] += [run] * is_reference(run)
        seeds[run.variant, *kind(run)].append(run)
    found = []
    for run in runs:
        others = [
            other.statistics
            for other in references[kind(run)]
            if other.place != run.place and other.made_by["weights"] == run.made_by["weights"]
        ]
        scores, alike = dict(run.scores), seeds[run.variant, *kind(run)]
        scores |= against(run.statistics, others) if others else {}
        other = next((one.statistics for one in alike if one is not run), None)
        scores |= {"diversity": diversity([run.statistics, other])} if other else {}
        found.append(run._replace(scores=scores))
    return found


def summary(runs: Sequence[Run], baseline: str = "") -> list[dict[str, Any]]:
    """Returns a row for each variant and metric: mean, its 95 % interval, runs and scenes.

    With a baseline, also the mean difference from it over the scenes and seeds that both have, its
    interval, and `detectable`: half that interval, the smallest difference that would be told from
    none. Intervals are hierarchical bootstraps: of scenes, then of seeds within them.
    """
    by_variant = collections.defaultdict(dict)
    for run in runs:
        by_variant[run.variant][run.place] = run.scores
    rows = []
    for variant, scores in by_variant.items():
        metrics = list(dict.fromkeys(name for one in scores.values() for name in one))
        theirs, shared = by_variant[baseline] if baseline and variant != baseline else {}, {}
        for place in (place for place in scores if place in theirs):
            ours, other = scores[place], theirs[place]
            shared[place] = {m: ours[m] - other[m] for m in ours.keys() & other.keys()}
        paired = _intervals(shared, metrics) if shared else {}
        for metric, (mean, low, high, count) in _intervals(scores, metrics).items():
            row = {"variant": variant, "metric": metric, "mean": mean, "low": low, "high": high}
            row |= {"runs": count, "scenes": len({scene for scene, _ in scores})}
            if metric in paired:
                change, least, most, _ = paired[metric]
                row |= {"difference": change, "difference_low": least, "difference_high": most}
                row |= {"detectable": (most - least) / 2}
            rows.append(row)
    return rows


def _intervals(
    scores: Mapping[tuple[str, str], Mapping[str, float]], metrics: Sequence[str]
) -> dict[str, tuple[float, float, float, int]]:
    """Returns {metric: (mean, low, high, runs)}; the mean is of scenes' means over their seeds."""
    scenes = collections.defaultdict(list)
    for (scene, _), one in scores.items():
        scenes[scene].append([one.get(metric, np.nan) for metric in metrics])
    counts = np.array([len(rows) for rows in scenes.values()])
    values = np.full((len(counts), counts.max(), len(metrics)), np.nan)
    for i, rows in enumerate(scenes.values()):
        values[i, : len(rows)] = rows
    rng, found = np.random.default_rng(0), {}
    drawn = rng.integers(len(counts), size=(_REPLICATES, len(counts)))
    seeds = (rng.random((*drawn.shape, counts.max())) * counts[drawn][..., None]).astype(int)
    used = np.arange(counts.max()) < counts[drawn][..., None]
    for metric, table in zip(metrics, np.moveaxis(values, -1, 0)):
        if (known := np.isfinite(table)).any():
            picked = np.where(used, table[drawn[..., None], seeds], np.nan)
            low, high = np.nanquantile(_mean(_mean(picked)), (0.025, 0.975))
            low, high = (low, high) if known.sum() > 1 else (np.nan, np.nan)
            found[metric] = float(_mean(_mean(table))), float(low), float(high), int(known.sum())
    return found


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean over the last axis, without NaN; NaN where there is nothing else."""
    return np.ma.filled(np.ma.masked_invalid(values).mean(-1), np.nan)


def mixed(runs: Sequence[Run]) -> list[str]:
    """Says where runs were made by several versions, commits or weights: they may not compare."""
    notes = []
    for name in ("version", "commit", "weights"):
        counts = collections.Counter(run.made_by[name] or "unknown" for run in runs)
        if len(counts) > 1:
            found = ", ".join(f"{value} ({count} runs)" for value, count in counts.most_common())
            notes.append(f"the runs are of several {name.removesuffix('s')}s: {found}")
    return notes


def plots(rows: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """Returns {metric: a PNG of every variant's mean and interval}; {} without matplotlib."""
    try:
        import matplotlib.figure
    except ImportError:
        return {}
    found = {}
    for metric in dict.fromkeys(row["metric"] for row in rows):
        of = [row for row in rows if row["metric"] == metric]
        figure = matplotlib.figure.Figure((7, 1 + 0.22 * len(of)), layout="constrained")
        axes, place, file = figure.subplots(), np.arange(len(of)), io.BytesIO()
        mean, low, high = (np.array([row[key] for row in of]) for key in ("mean", "low", "high"))
        around = np.maximum([mean - low, high - mean], 0)
        axes.errorbar(mean, place, xerr=around, fmt="o", capsize=2)
        axes.set_yticks(place, [row["variant"] for row in of], fontsize=7)
        axes.invert_yaxis()
        axes.set_title(metric)
        axes.grid(alpha=0.3)
        figure.savefig(file, dpi=110)
        found[metric] = file.getvalue()
    return found


def _chosen(part: str, variants: Sequence[str], flag: str) -> str:
    fits = [v for v in variants if v == part] or [v for v in variants if part in v.split(",")]
    require(not part or len(fits) == 1, flag, f"one of {few(variants)}", part)
    return fits[0] if part else ""


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    file, names = io.StringIO(), dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(file, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def _page(runs, rows, notes, figures, title) -> str:
    variants, metrics = (list(dict.fromkeys(row[key] for row in rows)) for key in _KEYS)
    cells = {tuple(row[key] for key in _KEYS): row for row in rows}

    def cell(variant: str, metric: str) -> str:
        if not (row := cells.get((variant, metric))):
            return "<td></td>"
        text = f"{row['mean']:.4g} <small>{row['low']:.3g}..{row['high']:.3g}</small>"
        if "difference" in row:
            spread = row["scenes"] > 4 and not row["difference_low"] <= 0 <= row["difference_high"]
            told = " class=told" * spread  # few scenes have no spread to be told from
            text += f"<br><small{told}>{row['difference']:+.3g}</small>"
        return f'<td data-value="{row["mean"]}">{text}</td>'

    def image(data: bytes, name: str) -> str:
        code = base64.b64encode(data).decode()
        return f'<img alt="{html.escape(name)}" src="data:image/png;base64,{code}">'

    def figure(variant: str, sheet: pathlib.Path) -> str:
        told = f"<figcaption>{html.escape(variant)}</figcaption>"
        return f"<figure>{image(sheet.read_bytes(), variant)}{told}</figure>"

    body = [[f"<th>{html.escape(v)}</th>", *(cell(v, m) for m in metrics)] for v in variants]
    sheets, by_scene = [], collections.defaultdict(dict)  # of each variant, the first seed's
    for run in runs:
        if (sheet := run.folder / "contact_sheet.png").exists():
            by_scene[run.labels.get(SCENE, "")].setdefault(run.variant, sheet)
    for scene, of in list(by_scene.items())[:_SHEETS]:
        pictures = "".join(figure(*one) for one in of.items())
        sheets.append(f"<h3>{html.escape(scene)}</h3><div>{pictures}</div>")
    return string.Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        notes="".join(f"<li>{html.escape(note)}</li>" for note in notes),
        head="".join(f"<th>{html.escape(name)}</th>" for name in ("variant", *metrics)),
        body="\n".join(f"<tr>{''.join(row)}</tr>" for row in body),
        sheets="\n".join(sheets) or "<p>The runs kept no pictures.</p>",
        plots="\n".join(image(data, name) for name, data in figures.items()),
    )
