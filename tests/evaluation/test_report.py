"""The report of a tree: rows, intervals against a slow oracle, pairs, omissions, the page."""

import csv
import html.parser
import json
import zlib

import numpy as np
import pytest

from pot_jax.errors import UserError
from pot_jax.evaluation.metrics.references import against, statistics
from pot_jax.evaluation.report import Run, read_runs, relative, summary, write_report
from pot_jax.media.files import write_json
from pot_jax.media.images import save_png
from pot_jax.zoom.geometry import Geometry

GEOMETRY = Geometry(2, 2, 32, 32)


def measured(tree, name, values, *, commit="abc", blend="laplacian", sheet=False, **scores):
    """Writes a measured run, as a sweep does."""
    folder = tree / name
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    pictures = rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
    kept = statistics(pictures, GEOMETRY)
    write_json(folder / "point.json", {"values": values, "settings": {}})
    record = {"config": {"sampler": {"blend": blend}}, "weights_sha256": "f" * 64}
    record |= {"versions": {"pot_jax": "1.0"}, "code": {"commit": commit, "clean": True}}
    write_json(folder / "config.json", record)
    write_json(folder / "evaluation.json", {"scores": scores, "details": {}, "statistics": kept})
    if sheet:
        save_png(folder / "contact_sheet.png", pictures[0])


def tree_of(tree, count=3, seeds=2, shift=1.0):
    rng = np.random.default_rng(0)
    for scene in range(count):
        for seed in range(seeds):
            value = float(rng.normal() + 3 * scene)
            for kind, blend in (("default", "laplacian"), ("alone", "none")):
                place = {"kind": kind, "scene": f"s{scene}", "seed": seed}
                name = ",".join(f"{k}={v}" for k, v in place.items())
                score = value + shift * (kind == "alone")
                measured(tree, name, place, blend=blend, quality=score, sheet=seed == 0)


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_a_run_and_a_row_a_variant_and_metric(tmp_path):
    tree_of(tmp_path / "tree")
    told = write_report(str(tmp_path / "tree"), str(tmp_path / "out"), "kind=default")
    assert told.startswith("12 runs of 2 variants")
    rows = rows_of(tmp_path / "out" / "runs.csv")
    assert len(rows) == 12
    lines = (tmp_path / "out" / "runs.jsonl").read_text().splitlines()
    assert [json.loads(line)["scene"] for line in lines] == [row["scene"] for row in rows]
    found = {(r["variant"], r["metric"]): r for r in rows_of(tmp_path / "out" / "summary.csv")}
    alone = found["kind=alone", "quality"]
    # Every pair differs by exactly 1, however much scenes and seeds do.
    for name in ("difference", "difference_low", "difference_high"):
        assert float(alone[name]) == pytest.approx(1.0)
    assert float(alone["detectable"]) == pytest.approx(0.0, abs=1e-12)
    assert (alone["runs"], alone["scenes"]) == ("6", "3")
    assert found["kind=default", "quality"]["difference"] == ""


def test_scores_against_references_leave_the_run_itself_out(tmp_path):
    tree_of(tmp_path)
    rows = rows_of_report(tmp_path)
    assert all(float(row["colour_drag"]) > 0 for row in rows)
    assert all(float(row["detail_deepest"]) != 1 for row in rows)
    assert all(float(row["diversity"]) >= 0 for row in rows)


def test_diversity_of_few_seeds_is_compared_with_the_same_seeds_of_many(tmp_path):
    for kind, seeds in (("many", 5), ("few", 2)):
        for seed in range(seeds):
            place = {"kind": kind, "scene": "s", "seed": seed}
            measured(tmp_path, f"seed-{seed}", place)  # equal names draw equal pictures
            (tmp_path / f"seed-{seed}").rename(tmp_path / f"{kind}-{seed}")
    runs, _ = read_runs(tmp_path)
    rows = summary(relative(runs, lambda run: False), "kind=many")
    (few,) = [r for r in rows if (r["variant"], r["metric"]) == ("kind=few", "diversity")]
    assert few["difference"] == 0
    assert few["mean"] > 0


def rows_of_report(tree):
    write_report(str(tree), str(tree / "report"))
    return rows_of(tree / "report" / "runs.csv")


def test_intervals_are_those_of_a_slow_bootstrap():
    rng = np.random.default_rng(1)
    runs, values = [], {}
    for scene in range(8):
        for seed in range(1 + scene % 3):
            value = float(rng.normal(scene, 0.5))
            values.setdefault(scene, []).append(value)
            labels = {"scene": str(scene), "seed": str(seed)}
            runs.append(Run(None, labels, {"x": value}, {}, "", {}, False))
    (row,) = summary(runs)
    assert row["mean"] == pytest.approx(np.mean([np.mean(v) for v in values.values()]))
    means = []
    for _ in range(4000):
        drawn = rng.choice(8, 8)
        means.append(np.mean([np.mean(rng.choice(values[s], len(values[s]))) for s in drawn]))
    low, high = np.quantile(means, (0.025, 0.975))
    # Both are drawn 2000 and 4000 times: their quantiles have errors of about 0.03.
    assert (row["low"], row["high"]) == pytest.approx((low, high), abs=0.12)


def test_a_metric_that_some_runs_lack_counts_those_that_have_it(tmp_path):
    measured(tmp_path, "a", {"scene": "s", "seed": 0}, x=1.0)
    measured(tmp_path, "b", {"scene": "s", "seed": 1}, x=3.0, y=5.0)
    write_report(str(tmp_path), str(tmp_path / "out"))
    found = {row["metric"]: row for row in rows_of(tmp_path / "out" / "summary.csv")}
    assert [(found[m]["mean"], found[m]["runs"]) for m in "xy"] == [("2.0", "2"), ("5.0", "1")]


def test_what_is_left_out_and_what_mixes_is_said(tmp_path):
    measured(tmp_path, "good", {"seed": 0}, x=1.0)
    measured(tmp_path, "later", {"seed": 1}, x=1.0, commit="def")
    measured(tmp_path, "torn", {"seed": 2}, x=1.0)
    (tmp_path / "torn" / "evaluation.json").write_text('{"scores": ')
    measured(tmp_path, "running", {"seed": 3})
    (tmp_path / "running" / "evaluation.json").unlink()
    write_json(tmp_path / "plain" / "config.json", {})
    told = write_report(str(tmp_path), str(tmp_path / "out"))
    assert "2 runs of 1 variants" in told
    assert "the runs are of several commits: abc (1 runs), def (1 runs)" in told
    assert "torn/evaluation.json is not complete JSON" in told
    assert f"{tmp_path}/running: not finished" in told
    assert f"{tmp_path}/plain: not measured" in told
    page = (tmp_path / "out" / "report.html").read_text()
    assert "not measured" in page


def test_runs_without_a_sweep_are_named_by_their_folders(tmp_path):
    for seed in (3, 4):
        folder = tmp_path / "mine" / f"stack_00{seed - 3}"
        measured(tmp_path, f"mine/stack_00{seed - 3}", {}, x=1.0)
        (folder / "point.json").unlink()
        write_json(folder / "config.json", {"config": {"seed": seed}})
    write_json(tmp_path / "mine" / "config.json", {})
    runs, left_out = read_runs(tmp_path)
    assert [run.labels for run in runs] == [{"run": "mine", "seed": str(s)} for s in (3, 4)]
    assert left_out == []


def test_pictures_of_another_method_have_the_labels_of_their_file(tmp_path):
    measured(tmp_path, "theirs", {}, x=1.0)
    (tmp_path / "theirs" / "point.json").unlink()
    found = json.loads((tmp_path / "theirs" / "evaluation.json").read_text())
    about = {"method": "other", "seed": 3, "labels": {"steps": 50}}
    write_json(tmp_path / "theirs" / "evaluation.json", found | {"details": {"about": about}})
    (run,), _ = read_runs(tmp_path)
    assert run.labels == {"method": "other", "seed": "3", "steps": "50"}
    assert run.variant == "method=other,steps=50"


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.sources = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [v for k, v in attributes if k in ("src", "href")]


def test_the_page_is_one_file_with_every_variants_sheets(tmp_path):
    tree_of(tmp_path)
    write_report(str(tmp_path), str(tmp_path / "out"), "kind=default")
    page = Page()
    page.feed((tmp_path / "out" / "report.html").read_text())
    assert page.tags.count("figure") == 6  # 3 scenes of seed 0, 2 variants
    assert page.sources
    assert all(s.startswith("data:image/png;base64,") for s in page.sources)
    assert page.tags.count("tr") == 1 + 2


def test_names_are_escaped(tmp_path):
    measured(tmp_path, "a", {"kind": "<b>&"}, x=1.0)
    write_report(str(tmp_path), str(tmp_path / "out"))
    text = (tmp_path / "out" / "report.html").read_text()
    assert "kind=&lt;b&gt;&amp;" in text
    assert "<b>&" not in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"baseline": "kind=other"}, "--baseline: expected one of kind=alone, kind=default"),
        ({"references": "nothing"}, "--references: expected one of"),
    ],
)
def test_an_unknown_variant_is_refused(tmp_path, flags, message):
    tree_of(tmp_path)
    with pytest.raises(UserError, match=message):
        write_report(str(tmp_path), str(tmp_path / "out"), **flags)


def test_a_tree_without_runs_is_refused(tmp_path):
    with pytest.raises(UserError, match="no measured run"):
        write_report(str(tmp_path), str(tmp_path / "out"))
    with pytest.raises(UserError, match="--workdir: expected a folder of runs"):
        write_report(str(tmp_path / "none"), str(tmp_path / "out"))


def test_a_run_twice_in_a_tree_counts_once_and_is_said(tmp_path):
    measured(tmp_path, "a/seed=0", {"kind": "x", "seed": 0}, q=1.0)
    measured(tmp_path, "b/seed=0", {"kind": "x", "seed": 0}, q=9.0)
    runs, left_out = read_runs(tmp_path)
    assert [run.scores for run in runs] == [{"q": 1.0}]
    assert left_out == [f"{tmp_path}/b/seed=0: {tmp_path}/a/seed=0 has its variant, scene and seed"]


def test_references_have_another_seed_and_the_same_prompts_and_weights(tmp_path):
    for seed in (0, 1):
        place = {"scene": "s", "seed": seed}
        measured(tmp_path, f"alone{seed}", {"kind": "alone", **place}, blend="none")
        measured(tmp_path, f"joint{seed}", {"kind": "joint", **place})
    runs = {run.folder.name: run for run in relative(read_runs(tmp_path)[0], is_alone)}
    kept = {name: run.statistics for name, run in runs.items()}
    for name, other in (("joint0", "alone1"), ("joint1", "alone0"), ("alone0", "alone1")):
        drag = against(kept[name], [kept[other]])["colour_drag"]
        assert runs[name].scores["colour_drag"] == pytest.approx(drag)
    for name, change in (("prompts", {"prompts_sha256": "other"}), ("geometry", {})):
        folder = tmp_path / "joint0"
        result = json.loads((folder / "evaluation.json").read_text()) | change
        result["statistics"]["geometry"]["zoom_factor"] = 2 if change else 4
        write_json(folder / "evaluation.json", result)
        runs = {run.folder.name: run for run in relative(read_runs(tmp_path)[0], is_alone)}
        assert "colour_drag" not in runs["joint0"].scores, name
        assert "colour_drag" in runs["joint1"].scores


def is_alone(run):
    return run.independent


def test_runs_of_other_prompts_are_not_paired(tmp_path):
    for name in ("a", "b"):
        measured(tmp_path, name, {}, q=1.0)
        (tmp_path / name / "point.json").unlink()
        result = json.loads((tmp_path / name / "evaluation.json").read_text())
        write_json(tmp_path / name / "evaluation.json", {**result, "prompts_sha256": name})
    rows = summary(read_runs(tmp_path)[0], "run=a")
    assert "difference" not in rows[-1]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("evaluation.json", "[]"),
        ("evaluation.json", '{"scores": {"x": null}, "statistics": {}}'),
        ("evaluation.json", '{"scores": {"x": "1"}, "statistics": {}}'),
        ("evaluation.json", '{"scores": {}, "statistics": {}}'),
        ("evaluation.json", '{"scores": {}, "statistics": {"across": 1}, "details": []}'),
        ("point.json", '{"values": []}'),
        ("point.json", '{"values": [3]}'),
        ("config.json", '{"config": null}'),
        ("config.json", '{"config": {"sampler": null}}'),
        ("config.json", '{"versions": null}'),
        ("config.json", '{"code": "x"}'),
        ("config.json", '{"code": {"commit": null}}'),
        ("config.json", '{"weights_sha256": 3}'),
    ],
)
def test_records_of_any_form_are_left_out_in_one_line(tmp_path, file, content):
    measured(tmp_path, "good", {"seed": 0}, x=1.0)
    measured(tmp_path, "bad", {"seed": 1}, x=1.0)
    (tmp_path / "bad" / file).write_text(content)
    runs, left_out = read_runs(tmp_path)
    assert [run.folder.name for run in runs][-1] == "good" or len(runs) == 2
    assert len(runs) + len(left_out) == 2
    assert all("\n" not in line and "bad" in line for line in left_out)
