"""The points of a sweep: which runs a config asks for, which are finished, what the rest costs.

`get_sweep()` in a config returns axes, whose product the sweep is, or a list of such dicts:

    {"sampler.blend": ["laplacian", "none"],                    a setting: its values
     "scene": {"tree": {"prompts": [...]}, "leaf": {...}},      any other name: named overrides
     "seed": [0, 1]}

A point is one run, in a folder named by its overrides: sampler.blend=none,scene=tree,seed=0. The
first axis varies slowest. Imports no JAX, so that a sweep is listed at once.

    point.json        what the point is: its values and settings, written first
    evaluation.json   scores, statistics and costs, written last: the point is finished
"""

import dataclasses
import itertools
import json
import os
import re
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pot_jax.checks import build, checked, overlay, require, to_dict, todays_name
from pot_jax.config import RunSettings, agrees_at
from pot_jax.errors import UserError, few
from pot_jax.runs.claims import claim, named_differences, read_json
from pot_jax.spans import resolved

POINT, RESULT = "point.json", "evaluation.json"
SCENE = "scene"  # the axis of the scenes, which reports average over before seeds
BY_SPAN = ("prompts", "negative_prompt", "guidance_scale")  # whose mappings are values
_LONGEST = 200  # bytes of a folder's name: disks allow 255


@dataclasses.dataclass(frozen=True)
class Point:
    """One run of a sweep."""

    name: str  # of its folder
    values: Mapping[str, Any]  # by axis: a setting's value, or the name of overrides
    settings: RunSettings
    stated: frozenset[str]  # the sampler settings that a user gave, as for `pipelines.zoom.prepare`

    def claim(self, folder: Path) -> None:
        """Writes point.json; raises UserError if it, or anything else there, is another point's."""
        record = {"values": dict(self.values), "settings": to_dict(self.settings)}

        def differing(found):
            theirs = found.get("settings")
            if theirs != record["settings"]:  # settings newer than the record have their defaults
                theirs = to_dict(build(RunSettings, checked(theirs, dict, f"{folder}: settings")))
            # These decide when a run saves and shows, and how much is computed at once.
            others = dict.fromkeys(("save_every", "preview_every", "batch_rows", "mesh"))
            return named_differences(*(one | others for one in (theirs, record["settings"])))

        claim(folder / POINT, record, what="point of a sweep", differing=differing)


def points(
    base: Mapping[str, Any], stated: Collection[str], sweep: Any, every: int = 1
) -> list[Point]:
    """Returns the points of a sweep, checked: each once, in order.

    `base` are the settings that all points share, as plain data of `RunSettings`, and `stated` the
    sampler settings among them that a user gave; `sweep` is what `get_sweep()` returned; of its
    scenes, every n-th is taken. Raises UserError if an axis or a setting is unknown, or a value
    does not fit; it names the point.
    """
    found: dict[str, Point] = {}
    for axes in sweep if isinstance(sweep, list | tuple) else [sweep]:
        fits = isinstance(axes, Mapping) and axes and all(isinstance(axis, str) for axis in axes)
        require(fits, "get_sweep()", "axes by name", axes)
        choices = [list(_choices(axis, values)) for axis, values in axes.items()]
        if every > 1:
            require(SCENE in axes, "--every", f"a sweep with an axis {SCENE!r}", few(axes))
            place = list(axes).index(SCENE)
            choices[place] = choices[place][::every]
        for chosen in itertools.product(*choices):
            point = _point(base, stated, dict(zip(axes, chosen)))
            if point != found.setdefault(point.name, point):
                raise UserError(f"sweep: two points would have the folder {point.name}")
    require(bool(found), "get_sweep()", "at least one point: there is nothing to run", sweep)
    return list(found.values())


def _choices(axis: str, values: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yields (value, overrides), a pair for each value of an axis."""
    if isinstance(values, Mapping) and values:
        for name, overrides in values.items():
            require(isinstance(overrides, Mapping), f"sweep: {axis}.{name}", "overrides", overrides)
            yield name, dict(_flat(overrides))
        return
    listed = isinstance(values, list | tuple | range) and len(values)
    require(listed, f"sweep: {axis}", "a list of values, or overrides by name", values)
    for value in values:
        try:
            value = json.loads(json.dumps(value, default=_plain))
        except (TypeError, ValueError):
            require(False, f"sweep: {axis}", "values that JSON can express", value)
        yield value, dict(_flat({axis: value}))


def _plain(value: Any) -> Any:
    """Returns NumPy's numbers and paths as plain data; raises TypeError for anything else."""
    return value.tolist() if hasattr(value, "tolist") else os.fspath(value)


def _flat(overrides: Mapping[str, Any], group: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (setting, value), groups opened: {"zoom": {"zoom_factor": 2}} is zoom.zoom_factor."""
    for name, value in overrides.items():
        if isinstance(value, Mapping) and name.split(".")[-1] not in BY_SPAN:
            yield from _flat(value, f"{group}{name}.")
        else:
            yield todays_name(RunSettings, f"{group}{name}"), value


def _point(base: Mapping, stated: Collection[str], chosen: Mapping[str, tuple]) -> Point:
    name = ",".join(f"{_word(axis)}={_word(value)}" for axis, (value, _) in chosen.items())
    nested, given = {}, {}
    for axis, (_, overrides) in chosen.items():
        for setting, value in overrides.items():
            place, (*groups, last) = nested, setting.split(".")
            for group in groups:
                place = place.setdefault(group, {}) if isinstance(place, dict) else place
            if not isinstance(place, dict) or last in place:
                two = f"{given.get(setting, 'another')} and {axis}"
                raise UserError(f"sweep: {setting} is set by two axes, {two}; use one of them")
            place[last], given[setting] = value, axis
    try:
        expected = f"at most {_LONGEST} bytes; name the overrides, {{axis: {{NAME: {{...}}}}}}"
        require(len(name.encode()) <= _LONGEST, "its name", expected, len(name.encode()))
        settings = resolved(build(RunSettings, overlay(RunSettings, base, nested)))
        require(settings.num_samples == 1, "num_samples", "1 (sweep seeds)", settings.num_samples)
    except UserError as error:
        raise UserError(f"sweep: {name}: {error}") from None
    values = {axis: value for axis, (value, _) in chosen.items()}
    return Point(name, values, settings, frozenset({*stated, *nested.get("sampler", ())}))


def _word(value: Any) -> str:
    """Returns a value as part of a file's name; `points` refuses two values of one name."""
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"[^\w.+-]+", "-", text).strip("-") or "none"


def finished(point: Point, workdir: Path) -> dict[str, Any] | None:
    """Returns the result of a finished point, None of another.

    Raises UserError if its folder holds another point, or its result cannot be read.
    """
    folder = workdir / point.name
    if not (folder / RESULT).exists():
        return None
    point.claim(folder)
    return read_json(folder / RESULT)


def share(shard: str | None, environ: Mapping[str, str]) -> float:
    """Returns where among the points a worker begins, 0 to 1: from --shard, or its cluster.

    Raises UserError unless the shard is "i/n", i from 0 to n - 1.
    """
    if shard:
        fits = re.fullmatch(r"(\d+)/(\d+)", shard)
        i, n = map(int, fits.groups()) if fits else (0, 0)
        require(i < n, "--shard", "i/n, i from 0 to n - 1", shard)
        return i / n
    for index, first, count in _CLUSTERS:
        if environ.get(index, "").isdecimal():
            i = int(environ[index]) - int(environ.get(first, 0))
            # Without a count, golden sections: each lies in the middle of the largest gap.
            number = environ.get(count, "")
            return (i / int(number) if number.isdecimal() else i * 0.618034) % 1
    return 0.0


# Variables in which clusters say a worker's number, the first number, and how many there are.
_CLUSTERS = (
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT"),
    ("SLURM_PROCID", "", "SLURM_NTASKS"),
    ("JOB_COMPLETION_INDEX", "", ""),  # of an indexed job of Kubernetes
)


def listed(points: Sequence[Point], workdir: Path) -> tuple[list[str], str]:
    """Returns a line for each point, with its time, memory and disk, and one of the total to do."""
    results = [finished(point, workdir) for point in points]
    done = [(point, result) for point, result in zip(points, results) if result]
    guesses = estimates([p for p, result in zip(points, results) if not result], done)
    rows, left = [], []
    for point, result in zip(points, results):
        known = (result or {}).get("cost")
        known = known if isinstance(known, dict) else {}
        cost = [known.get(name) for name in _COSTS] if result else next(guesses)
        left += [] if result else [cost]
        words = (f"{'?' if x is None else f'{x / unit:.3g}':>8}" for x, unit in zip(cost, _UNITS))
        seconds, memory, disk = words
        state = "finished" if result else "to do"
        rows.append(f"{state:<8} {seconds} s {memory} GB {disk} MB  {point.name}")
    guessed = [cost for cost in left if cost[0] is not None]
    hours, disk = (sum(cost[i] for cost in guessed) / unit for i, unit in ((0, 3600), (2, 1e6)))
    most = f"{hours:.2g} hours and {disk:.3g} MB" if len(guessed) == len(left) else "?"
    return rows, f"{len(points)} points: {len(done)} finished, {len(left)} to do: {most}"


_COSTS, _UNITS = ("seconds", "peak_bytes", "disk_bytes"), (1, 1e9, 1e6)


# What a sweep costs, from finished points. --------------------------------------------------------


def operations(point: Point, cost: Mapping[str, Any]) -> float:
    """Returns the floating-point operations of a run: of its networks, which take nearly all time.

    `cost` has those for one picture: `unet` (a batch row), `decode` and `encode`, and `tiny_decode`
    and `tiny_encode` where levels agree through a tiny autoencoder; and the model's `defaults`.
    """
    sampler = point.settings.sampler.with_defaults(cost["defaults"], point.stated)
    scale = sampler.guidance_scale
    rows = 2 if (max(scale) if isinstance(scale, tuple) else scale) > 1 else 1
    calls = sampler.steps * sampler.time_travel * (1 + (sampler.solver == "heun"))
    total = calls * rows * cost["unet"] + cost["decode"]
    if sampler.space == "pixel":
        tiny = "tiny_" * (sampler.agreement_vae == "tiny_vae")
        decode, encode = (cost.get(f"{tiny}{name}", cost[name]) for name in ("decode", "encode"))
        each = decode + 2 * encode
        if sampler.blend == "gradient":  # forwards and backwards, and once to measure
            each = (3 * sampler.gradient_steps + 1) * decode
        sparse = sampler.method == "joint" and not point.settings.every_photograph
        first = calls * sampler.agree_first if sparse else calls
        schedule = first, sampler.agree_every, calls - 1
        due = (i for i in range(calls) if agrees_at(i, *schedule))
        total += sum(i % sampler.pixel_every == 0 for i in due) * each
    return len(point.settings.prompts) * total


def estimates(
    todo: Sequence[Point], done: Sequence[tuple[Point, Mapping]]
) -> Iterator[tuple[float | None, int | None, int | None]]:
    """Yields (seconds, bytes of memory, bytes of disk) of points, None before a first is finished.

    Seconds follow from operations and the median pace of finished points; memory and disk are those
    of the largest finished point with pictures of the same size.
    """
    costs, paces = {}, []  # seconds an operation; the first point of a worker also compiles
    for point, result in done:
        cost = result.get("cost")
        if isinstance(cost, dict) and {"unet", "seconds", "defaults"} <= cost.keys():
            known = costs.setdefault(_kind(point.settings), {"peak_bytes": 0, "disk_bytes": 0})
            most = {name: max(known[name], cost.get(name, 0)) for name in known if "_bytes" in name}
            known |= cost | most
            paces.append(cost["seconds"] / operations(point, cost))
    for point in todo:
        cost = costs.get(_kind(point.settings))
        if cost is None:
            yield None, None, None
        else:
            seconds = operations(point, cost) * statistics.median(paces)
            yield seconds, cost["peak_bytes"], cost["disk_bytes"]


def _kind(s: RunSettings) -> tuple:
    """What decides the cost of one picture."""
    return s.model, s.dtype, s.zoom.height, s.zoom.width, s.upscaler.path
