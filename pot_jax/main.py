"""The command line: `pot-jax COMMAND ...`, or `python -m pot_jax COMMAND ...`.

Every command is one function below: it defines its flags, reads them, and calls the library. A
configuration is the defaults, overlaid by the model's (`sampler.json`), by the file of --config, by
--config.some.key=value, and by the short flags (--steps), in that order.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import logging
import operator
import os
import pathlib
import re
import signal
import sys
from collections.abc import Callable, Sequence

import ml_collections
from absl import flags
from ml_collections import config_flags

from pot_jax import config, spans
from pot_jax.checks import Path, build, checked, defaults, described, require, todays_name, version
from pot_jax.errors import ToldElsewhere, UserError, edge, few, shown
from pot_jax.media.files import located
from pot_jax.runs.interrupts import at_once, importing

# Settings that every command which loads a model has as short flags -> help.
LOADING_FLAGS = {
    "tokenizer": "folder of a tokenizer, for a checkpoint file without one",
    "prediction_type": "what weights predict, if not what the model says: "
    + ", ".join(config.PREDICTION_TYPES),
    "unet": "a folder or file with a UNet to use instead of the model's own",
    "vae": "a folder or file with an autoencoder to use instead of the model's own",
}
# Settings that are short flags of `sample`, by the last part of their names -> help.
SHORT_FLAGS = {
    "model": "a model folder, a checkpoint file, a shipped model, or the hub's owner/name@revision",
    "variant": "which copy of the model's weights, such as fp16",
    "dtype": "dtype of the networks: float32, bfloat16 or float16",
    "negative_prompt": "what guidance steers the pictures away from",
    "prefix": "put before every prompt",
    "suffix": "put after every prompt",
    "seed": "seed of all noise",
    "num_samples": "zooms sampled together, with seeds seed, seed + 1, ...",
    "batch_rows": "pictures computed at a time on each device; fewer need less memory",
    "mesh": "devices by use, such as samples:2,levels:4,params:1 (default: chosen)",
    "zoom.zoom_factor": "each level's view is this many times narrower than the one before",
    "sampler.steps": "denoising steps",
    "sampler.solver": ", ".join(config.SOLVERS),
    "sampler.guidance_scale": "scale of classifier-free guidance; 1 is none",
    "sampler.guidance_rescale": "0 to 1: how much of the contrast added by guidance is removed",
    "sampler.space": "where levels are made to agree: " + ", ".join(config.SPACES),
    "sampler.blend": ", ".join(config.BLENDS),
    "photograph.fit": "how photographs fit their levels: " + ", ".join(config.FITS),
    "preview_every": "write preview.png, the pictures so far, every so many steps; 0 never",
    "upscaler.path": "an x4 upscaler for the finished zoom, given as for --model",
    "width_metres": "width of level 0's view in metres, for scale bars",
    "metadata": "all or none: whether pictures and movie carry the recipe of the run",
}
# Settings that are flags of `sample` without a value -> help.
SWITCHES = {
    "zoom.loop": "the deepest level's window shows the widest again: a film without end",
    "prompt_weights": "(word:1.2), (word) and [word] in prompts weigh words, as in AUTOMATIC1111",
    "long_prompts": "read prompts of any length, in chunks of what the text encoder takes",
}
# Flags of `sample` that continue a finished run -> the one that each goes with, help.
CONTINUING_FLAGS = {
    "extend": ("extend", "a finished run to add levels to, a prompt for each; its own stay"),
    "side": ("extend", "where they are added: deep or wide"),
    "revise": ("revise", "a finished run of which to draw some levels again; the others stay"),
    "levels": ("revise", "those, such as 3,7; give another --seed, or a prompt for each"),
}
# Flags of `sample` for several processes -> default, least, help.
CLUSTER_FLAGS = {
    "processes": (None, 1, "how many processes; goes with --coordinator"),
    "process": (None, 0, "the index of this one, from 0; goes with --coordinator"),
    "join_timeout": (300, 1, "seconds in which all have to come"),
    "host_timeout": (30, 1, "seconds until a silent process counts as lost"),
}
_LOGS = ("tensorboard_dir", "profile_dir")  # flags of `sample`
_HELP = {"-h", "-help", "--help"}
# Flags of `render`: every setting of a movie.
MOVIE_FLAGS = {
    "seconds_per_level": "time from one level to the next",
    "seconds": "time of the whole film, instead of seconds_per_level",
    "fps": "frames per second",
    "size": "shorter side in pixels",
    "aspect": "width:height of the film, such as 16:9 (empty: the pictures' own)",
    "fit": "of pictures with another aspect: crop or letterbox",
    "direction": "in, out or both",
    "easing": "seconds in which the camera gains its speed after a rest, and loses it",
    "hold": "seconds of rest at both ends",
    "captions": "show the prompts",
    "scale_bar": "show a scale, of a run that states width_metres",
    "font": "a .ttf or .otf file for captions and scale",
}
_KINDS = {bool: "bool", int: "integer", float: "float", str: "string"}  # as absl names them
# What absl and Python say of a flag's value -> what we say.
_EXPECTED = {
    "invalid literal for int": "expected a whole number",
    "could not convert string to float": "expected a number",
    "Non-boolean argument": "expected true or false",
}


def sample(arguments: Sequence[str]) -> None:
    """Samples a zoom."""
    values = flags.FlagValues()
    arguments, way, run = _without_run(arguments)
    made, read = None, _read_run if run else config.read
    if way == "from_picture":
        from pot_jax.runs import recipe  # which imports Pillow

        made, run = recipe.read(run), ""
        read = lambda _: made["config"]  # noqa: E731
    arguments, file, _ = _define_config(values, arguments, config.RunSettings, read)
    _define_text(values, "workdir", "folder for the run's files")
    for name, (_, text) in CONTINUING_FLAGS.items():
        _define_text(values, name, text)
    text = "a PNG of a run: make that run again, with your flags over its settings"
    _define_text(values, "from_picture", text)
    flags.DEFINE_bool("dry_run", False, "say what the run will need, and do not run", values)
    _define_devices(values)
    text = (
        "run as one process of a multi-host job, which Cloud TPU, Kubernetes, SLURM or Open MPI say"
    )
    flags.DEFINE_bool("distributed", False, text, values)
    _define_text(values, "coordinator", "host:port of process 0, instead of --distributed")
    for name, (default, least, text) in CLUSTER_FLAGS.items():
        flags.DEFINE_integer(name, default, text, least, flag_values=values)
    text = "folder for TensorBoard's logs: disagreement, time, previews"
    _define_text(values, "tensorboard_dir", text)
    _define_text(values, "profile_dir", "folder for a profile of the sampling steps")
    usual = config.RunSettings()
    for setting, text in SHORT_FLAGS.items():
        default = operator.attrgetter(setting)(usual)
        _define_text(values, _flag(setting), f"{text} (default: {default})" if default else text)
    for setting, text in SWITCHES.items():
        flags.DEFINE_bool(_flag(setting), False, text, values)
    for old, new in config.RunSettings.OLD_NAMES.items():
        _define_text(values, old, f"an earlier name of --{new}")
    _define_loading(values)
    text = "path[:level] of a picture that a level has to agree with (repeatable)"
    flags.DEFINE_multi_string("photograph", [], text, values)
    text = "path[:strength] of a LoRA to merge into the model (repeatable)"
    flags.DEFINE_multi_string("lora", [], text, values)
    text = "path[:token] of a textual inversion (repeatable)"
    flags.DEFINE_multi_string("embedding", [], text, values)
    prompts = _parse("sample", values, arguments)
    for old, new in config.RunSettings.OLD_NAMES.items():
        if values[old].present and values[new].present:
            raise UserError(f"--{new} and --{old} are the same setting; give one of them")
    stated = _stated(values, file)
    named = {_flag(setting): setting for setting in (*SHORT_FLAGS, *SWITCHES, *config.LOADING)}
    for flag, setting in (named | config.RunSettings.OLD_NAMES).items():
        if values[flag].present:
            _override(values.config, setting, values[flag].value)
            stated.add(setting.removeprefix("sampler."))
    for name, (whose, _) in CONTINUING_FLAGS.items():
        if values[name].present and whose != way:
            raise UserError(f"--{name} goes with --{whose}; leave it out")
    if prompts and not run:
        values.config.prompts = tuple(prompts)
    if values["lora"].present:
        values.config.loras = tuple(map(_lora, values.lora))
    if values["embedding"].present:
        pairs = map(_file_and_rest, values.embedding)
        values.config.embeddings = tuple({"path": path, "token": token} for path, token in pairs)
    settings = build(config.RunSettings, values.config.to_dict())
    if values["photograph"].present:
        settings = _with_photographs(settings, values.photograph)
    if made:
        recipe.require_files(made, settings)
    settings = settings if run else spans.resolved(settings)
    if settings.own_parts:
        raise UserError(
            f"own_parts: this run used the Python function {settings.own_parts[0].name} as its "
            f"{settings.own_parts[0].part}; run it again with pot_jax.sample(..., workdir=...)"
        )
    folder = "" if values.dry_run else _workdir(values, "runs/mine")
    cache = _local(values.compilation_cache, "--compilation_cache")
    logs = {n: _local(values[n].value, f"--{n}") for n in _LOGS}
    cluster = _cluster(values)
    if logs["tensorboard_dir"] and importlib.util.find_spec("tensorboardX") is None:
        how = "pip install 'pot_jax[tensorboard]', or leave it out"
        raise UserError(f"--tensorboard_dir: tensorboardX is not installed; {how}")

    with importing():
        from pot_jax.media.files import check_writable
        from pot_jax.parallel import devices, hosts
        from pot_jax.pipelines.continued import continued, require_model
        from pot_jax.runs import claims
        from pot_jax.runs.folder import check_workdir

    # Held levels; and what says that the record of the run to come fits an earlier one.
    held, check = None, made and (lambda record: recipe.check(made, record.to_json()))
    if run:
        how = values.side if way == "extend" else values.levels
        settings, held, known = continued(settings, run, prompts, way, how)
        check = functools.partial(require_model, known)
    times = values.join_timeout, values.host_timeout
    join = functools.partial(hosts.join, cluster, *times, claims.give_up)

    def check_places() -> None:
        if folder:
            check_workdir(folder)
        for place in filter(None, logs.values()):
            check_writable(place)

    with hosts.lasting(values.host_timeout):
        if cluster is None:
            check_places()  # before devices start
        devices.set_up(values.devices, cache, join=None if cluster is None else join)
        if cluster is not None:
            hosts.by_first(check_places)
        _sample(settings, folder, stated, held, check, logs)


def _sample(
    settings: config.RunSettings, folder: str, stated: set[str], held, check, logs: dict[str, str]
) -> None:
    with importing():
        from pot_jax.parallel import hosts
        from pot_jax.parallel.mesh import placement
        from pot_jax.pipelines.dry_run import dry_run
        from pot_jax.pipelines.watching import tensorboard
        from pot_jax.pipelines.zoom import prepare, sample_run
        from pot_jax.runs.folder import check_record, sample_folders
        from pot_jax.runs.progress import ProgressBar, silent
        from pot_jax.weights.load import open_model

    say = functools.partial(print, file=sys.stderr) if hosts.speaks() else lambda _: None
    adapters = {"loras": settings.loras, "embeddings": settings.embeddings}
    path = settings.upscaler.path
    # Everything is checked before a weight is read.
    given = {"stated": stated, "held": held}
    with hosts.together():
        opened = open_model(settings.model, **config.how_to_load(settings), **adapters)
        upscaler = open_model(path, dtype=settings.dtype) if path else None
        early = prepare(opened.model, settings, **given, upscaler=upscaler and upscaler.model)
        noted = (check and check(early.record)) or ()
    ways = {"dry_run": not folder, "tensorboard_dir": bool(logs["tensorboard_dir"])}
    hosts.require_same(lambda: early.facts | ways)
    for notice in (*early.notices, *noted):
        say(f"note: {notice}")
    if not folder:
        with hosts.together():
            lines = dry_run(early, opened.model)
        if hosts.speaks():
            print("\n".join(lines))
        return
    hosts.by_first(lambda: check_record(folder, early.record))
    say(str(early))
    with hosts.together():
        where = placement(early.recipe.mesh)
        upscaler, model = upscaler and upscaler.read(where), opened.read(where)
    with hosts.together():
        prepared = prepare(model, settings, **given, upscaler=upscaler)
        more = (check and check(prepared.record)) or ()
    del model, upscaler  # what the run does not need of them is free
    for notice in more:
        if notice not in noted:
            say(f"note: {notice}")
    say(f"weights {prepared.weights_digest[:12]}")
    job = dataclasses.replace(prepared.job, profile_dir=logs["profile_dir"])
    prepared = dataclasses.replace(prepared, job=job)
    board = contextlib.nullcontext()
    if logs["tensorboard_dir"]:
        board = tensorboard(logs["tensorboard_dir"], settings.preview_every)
    bar = ProgressBar() if hosts.speaks() else contextlib.nullcontext(silent)
    with board as log, bar as report:
        zooms = sample_run(prepared, folder, report=report, callback=log)
    if not hosts.speaks():
        return
    print(f"{'already complete' if zooms is None else 'done'}: {_told(folder)}")
    for sample in sample_folders(folder, settings):
        for name in ("contact_sheet.png", "zoom.html", "zoom.mp4"):
            print(_told(sample / name, os.path.relpath))


def render(arguments: Sequence[str]) -> None:
    """Makes the movie of a finished run again."""
    values = flags.FlagValues()
    _define_text(values, "workdir", "folder of a run")
    text = "the movie's file, .mp4, .mov, .webm or .gif (default: zoom.mp4 in the workdir)"
    _define_text(values, "output", text)
    for name, text in MOVIE_FLAGS.items():
        define = getattr(flags, f"DEFINE_{_KINDS[type(getattr(config.MovieSettings(), name))]}")
        define(name, None, f"{text} (default: the run's)", flag_values=values)
    _parse("render", values, arguments, 0)
    given = {name: values[name].value for name in MOVIE_FLAGS if values[name].present}
    config.MovieSettings(**given)  # before anything is imported
    if {"seconds", "seconds_per_level"} <= given.keys():
        raise UserError("--seconds and --seconds_per_level exclude each other; give one of them")
    if "seconds_per_level" in given:
        given["seconds"] = 0.0
    folder = _workdir(values, "runs/mine")

    with importing():
        from pot_jax.media.captions import unwritable
        from pot_jax.runs.folder import check_output, record_with, remake_movie
        from pot_jax.runs.recipe import recipe
        from pot_jax.runs.zoom import read_record, read_zoom, write_movie
        from pot_jax.weights.emphasis import plain_prompts

    output = checked(values.output or os.path.join(folder, "zoom.mp4"), Path, "--output")
    is_own, settings = check_output(output, folder), read_record(folder).settings
    settings = dataclasses.replace(settings, movie=dataclasses.replace(settings.movie, **given))
    prompts = plain_prompts(settings)
    for notice in unwritable(settings.movie, prompts):
        print(f"note: {notice}", file=sys.stderr)
    if is_own:
        remake_movie(folder, settings.movie)
    else:
        zoom, about = read_zoom(folder), (prompts, settings.width_metres)
        said = recipe(record_with(located(folder) / "config.json", {"movie": settings.movie}))
        write_movie(zoom.images, zoom.geometry, settings.movie, output, *about, comment=said)
    print(f"movie: {output}")


def view(arguments: Sequence[str]) -> None:
    """Writes the page of finished runs."""
    values = flags.FlagValues()
    text = "folder of a run (repeatable: side by side, with one view)"
    flags.DEFINE_multi_string("workdir", [], text, values)
    _define_text(values, "output", "the page's file (default: zoom.html in the only workdir)")
    _parse("view", values, arguments, 0)
    if not all(values.workdir or [""]):
        raise UserError("--workdir is missing; give it, e.g. --workdir=runs/mine")
    folders = [checked(folder, Path, "--workdir") for folder in values.workdir]
    if not values.output and len(folders) > 1:
        raise UserError("--output is missing; give the page's file, e.g. --output=runs/both.html")
    output = checked(values.output or os.path.join(folders[0], "zoom.html"), Path, "--output")

    with importing():
        from pot_jax.runs.folder import write_view

    write_view(output, folders)
    print(f"page: {output}")


def evaluate(arguments: Sequence[str]) -> None:
    """Measures a finished run, or another method's pictures; writes evaluation.json there."""
    values = flags.FlagValues()
    _define_text(values, "workdir", "folder of a run, or of pictures with a zoom.json")
    text = "folder of independent samples of the same prompts (blend none)"
    _define_text(values, "references", text)
    _define_text(values, "clip", "folder of a CLIP model")
    _parse("evaluate", values, arguments, 0)
    folder = _workdir(values, "runs/mine")
    given = {n: values[n].value for n in ("references", "clip") if values[n].value}
    given = {name: checked(path, Path, f"--{name}") for name, path in given.items()}

    with importing():
        from pot_jax.evaluation.evaluate import evaluate as measured
        from pot_jax.evaluation.evaluate import table
        from pot_jax.media.files import write_json

    found = measured(folder, **given)
    print(table(found))
    try:
        write_json(os.path.join(folder, "evaluation.json"), found)
    except UserError as error:  # a read-only folder can be measured, too
        print(f"note: {error}", file=sys.stderr)


def sweep(arguments: Sequence[str]) -> None:
    """Runs the points of a sweep."""
    values = flags.FlagValues()
    bench = functools.partial(config.read, folder="bench"), "world", "bench"
    arguments, file, path = _define_config(values, arguments, config.RunSettings, *bench)
    _define_text(values, "workdir", "folder for the points' folders")
    flags.DEFINE_bool("list", False, "list the points and what they cost; run none", values)
    text = "i/n: begin with the i-th of n parts, from 0 (default: by SLURM or Kubernetes)"
    _define_text(values, "shard", text)
    text = "what is kept of a point besides its scores"
    flags.DEFINE_enum("keep", "all", ["metrics", "pictures", "all"], text, flag_values=values)
    flags.DEFINE_integer("every", 1, "take every n-th scene only", 1, flag_values=values)
    text = "most seeds in one batch; fewer need less memory"
    flags.DEFINE_integer("together", 8, text, 1, flag_values=values)
    _define_devices(values)
    _parse("sweep", values, arguments, 0)
    folder = _workdir(values, "runs/sweep")

    from pot_jax.evaluation import points

    base = values.config.to_dict(), _stated(values, file)
    todo = points.points(*base, config.read_sweep(path), values.every)
    if values.list:
        rows, total = points.listed(todo, located(folder))
        print("\n".join(rows))
        print(total, file=sys.stderr)
        return
    share = points.share(values.shard, os.environ)
    cache = _local(values.compilation_cache, "--compilation_cache")

    with importing():
        from pot_jax.evaluation.sweep import work
        from pot_jax.parallel import devices

    devices.set_up(values.devices, cache)
    how = {"share": share, "keep": values.keep, "together": values.together}
    if failed := work(todo, folder, **how):
        raise UserError(f"{len(failed)} of {len(todo)} points failed: {few(failed, '; ')}")
    print(f"done: {len(todo)} points in {_told(folder)}")


def report(arguments: Sequence[str]) -> None:
    """Lays the scores of many runs side by side."""
    values = flags.FlagValues()
    _define_text(values, "workdir", "folder of runs, at any depth")
    text = "NAME=VALUE of the runs that others are compared with, such as method=default"
    _define_text(values, "baseline", text)
    text = "NAME=VALUE of the independent samples that detail and drag are measured against"
    _define_text(values, "references", text)
    _define_text(values, "output", "folder for the report's files (default: the workdir)")
    _parse("report", values, arguments, 0)
    folder = _workdir(values, "runs/sweep")

    from pot_jax.evaluation.report import write_report

    output = checked(values.output or folder, Path, "--output")
    print(write_report(folder, output, values.baseline or "", values.references or ""))


def convert(arguments: Sequence[str]) -> None:
    """Converts a model for faster starts."""
    values = flags.FlagValues()
    flags.DEFINE_string("dtype", "float32", "float32, bfloat16 or float16", values)
    _define_text(values, "variant", "which copy of the model's weights, such as fp16")
    source, target, how = _parse_loading("convert", values, arguments)

    with importing():
        from pot_jax.weights.export import convert as keep

    keep(source, target, **how)
    print(f"converted: {target}; use it with --model={target}")


def export(arguments: Sequence[str]) -> None:
    """Writes a model in the diffusers layout."""
    source, target, how = _parse_loading("export", flags.FlagValues(), arguments)

    with importing():
        from pot_jax.weights.export import check_vacant
        from pot_jax.weights.export import export as write
        from pot_jax.weights.load import load

    check_vacant(target)  # before the weights are read
    write(load(source, **how), target)
    print(f"exported: {target}")


def train(arguments: Sequence[str]) -> None:
    """Trains a shipped model."""
    with importing():
        from pot_jax.training.settings import TrainSettings, read

    values = flags.FlagValues()
    arguments, *_ = _define_config(values, arguments, TrainSettings, read, "cosmos64", "train")
    _define_text(values, "workdir", "folder of the training run")
    _parse("train", values, arguments, 0)
    settings = build(TrainSettings, values.config.to_dict())
    folder = _workdir(values, "runs/training", local=True)

    with importing():
        from pot_jax.training import train as training

    # By force: libraries imported by now have installed their own handlers.
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    logging.getLogger("absl").setLevel(logging.WARNING)  # Orbax logs every file it writes
    training.train(settings, folder)


# Command -> (its function, what it does: docstrings are absent under -OO).
COMMANDS: dict[str, tuple[Callable[[Sequence[str]], None], str]] = {
    "sample": (sample, 'Sample a zoom: pot-jax sample "a galaxy" "a star" --workdir=runs/mine'),
    "render": (render, "Make a run's movie again: pot-jax render --workdir=runs/mine --size=720"),
    "view": (view, "Write the page of runs again: pot-jax view --workdir=runs/a --workdir=runs/b"),
    "evaluate": (evaluate, "Measure a finished zoom: pot-jax evaluate --workdir=runs/mine"),
    "sweep": (sweep, "Run many settings: pot-jax sweep --config=world --workdir=runs/sweep"),
    "report": (report, "Compare the runs in a folder: pot-jax report --workdir=runs/sweep"),
    "convert": (convert, "Convert a model for faster starts: pot-jax convert path/to/model target"),
    "export": (export, "Write a model as diffusers does: pot-jax export path/to/model target"),
    "train": (train, "Train a shipped model: pot-jax train --config=cosmos64 --workdir=runs/me"),
}


def main(argv: Sequence[str]) -> int:
    """Runs one command.

    Returns:
      The exit code: 0; 2 for a user's mistake; 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP. A
      process of a multi-host run that loses another one ends with 75 (`parallel.hosts`).
    """
    for stream in (sys.stdout, sys.stderr):  # a terminal may lack a prompt's letters
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA's own log; its errors are exceptions
    if len(argv) < 2 or argv[1] in ("-h", "--help", "help"):
        rows = [f"  {name:<9} {text}" for name, (_, text) in COMMANDS.items()]
        head, tail = "usage: pot-jax COMMAND [flags]\n", "\npot-jax COMMAND --help: its flags"
        print("\n".join([head, *rows, tail]))
        return 0 if len(argv) >= 2 else 2
    if argv[1] == "--version":
        print(f"pot_jax {version()}")
        return 0
    if argv[1] not in COMMANDS:
        return _mistake(f"unknown command {argv[1]!r}; known: {', '.join(COMMANDS)}")
    try:
        with at_once():
            COMMANDS[argv[1]][0](_expanded(argv[2:]))
    except _Help as help_text:
        print(help_text)
    except ToldElsewhere:
        return 2
    except (UserError, flags.Error) as error:
        return _mistake(str(error))
    except KeyboardInterrupt as error:
        code = 128 + getattr(error, "number", signal.SIGINT)
        hosts = sys.modules.get("pot_jax.parallel.hosts")  # unless stopped before
        quiet = hosts and hosts.follows()
        return code if quiet else _mistake(str(error) or "stopped", code)
    return 0


class _Help(Exception):
    """Ends a command with its help text."""


def _mistake(message: str, code: int = 2) -> int:
    print("pot-jax: " + " ".join(message.split()), file=sys.stderr)
    return code


def _flag(setting: str) -> str:
    name = setting.replace("photograph.", "photograph_")
    return name.removesuffix(".path").rpartition(".")[2]


def _stated(values: flags.FlagValues, file: dict) -> set[str]:
    """Returns the names of the sampler's settings that a file or a --config.KEY flag gives."""
    named = {*file.get("sampler", ()), *config_flags.get_override_values(values["config"])}
    return {name.removeprefix("sampler.") for name in named}


def _without_run(arguments: Sequence[str]) -> tuple[list[str], str, str]:
    """Replaces --extend, --revise or --from_picture by --config; returns which, and its value."""
    rest, found, given = [], {}, iter(arguments)
    for argument in given:
        name, mark, value = argument.partition("=")
        if name.lstrip("-") in ("extend", "revise", "from_picture") and name.startswith("-"):
            found[name.lstrip("-")] = value if mark else next(given, "")
        else:
            rest.append(argument)
    if not found:
        return rest, "", ""
    if len(found) > 1 or "--config" in (argument.partition("=")[0] for argument in rest):
        names = "--extend, --revise, --from_picture and --config"
        raise UserError(f"{names} exclude each other; give one of them")
    ((way, run),) = found.items()
    picture = way == "from_picture"
    expected = "a PNG of a run" if picture else "the folder of a finished run"
    require(bool(run), f"--{way}", expected, run)
    run = checked(run, Path, f"--{way}")
    file = run if picture else os.path.join(run, "config.json")
    return [f"--config={file}", *rest], way, run


def _read_run(path: str) -> dict:
    from pot_jax.runs.claims import read_json

    return config.settings_of(config.upgraded(read_json(path), path)) | {"held": ()}


def _cluster(values: flags.FlagValues) -> dict | None:
    """Returns what joins this process to the others of a job, {} if it is found; None without."""
    names = {"coordinator": "coordinator_address", "processes": "num_processes"}
    names |= {"process": "process_id"}
    given = {key: values[name].value for name, key in names.items()}
    missing = [f"--{name}" for name in names if values[name].value is None]
    if len(missing) == len(names):
        return {} if values.distributed else None
    if missing:
        raise UserError(f"{', '.join(missing)}: missing; --{', --'.join(names)} go together")
    place, count, index = given.values()
    fits = re.fullmatch(r".+:\d{1,5}", place)
    require(bool(fits), "--coordinator", "HOST:PORT, such as 10.0.0.1:1234", place)
    require(index < count, "--process", f"0 to {count - 1}", index)
    return given


def _define_devices(values: flags.FlagValues) -> None:
    text = "platform (default: the best)"
    flags.DEFINE_enum("devices", None, ["cpu", "gpu", "tpu"], text, flag_values=values)
    text = "folder of compiled programs, or none (default: in the user's cache folder)"
    _define_text(values, "compilation_cache", text)


def _define_text(values: flags.FlagValues, name: str, text: str) -> None:
    flags.DEFINE_string(name, None, text, values)


def _define_loading(values: flags.FlagValues) -> None:
    for name, text in LOADING_FLAGS.items():
        _define_text(values, name, text)
    text = "read a pickled checkpoint (.ckpt) too; none of its code is run"
    flags.DEFINE_bool("allow_pickle", False, text, values)


def _parse_loading(
    command: str, values: flags.FlagValues, arguments: Sequence[str]
) -> tuple[str, str, dict]:
    """Returns the source, the target, and the arguments of `load` that the flags give, checked."""
    _define_loading(values)
    source, target = _parse(command, values, arguments, 2)
    given = {name: values[name].value for name in config.LOADING if name in values}
    given = {name: value for name, value in given.items() if value is not None}
    return source, target, config.how_to_load(build(config.RunSettings, given))


def _parse(
    command: str, values: flags.FlagValues, arguments: Sequence[str], paths: int | None = None
) -> list[str]:
    """Parses flags; returns the arguments that are not flags: as many `paths`, or None: texts."""
    if _HELP & set(arguments):
        raise _Help(f"{COMMANDS[command][1]}\n{values.get_help()}")
    try:
        rest = values(["pot-jax", *arguments])[1:]
    except flags.IllegalFlagValueError as error:
        flag, _, why = str(error).partition(": ")
        why = next((words for start, words in _EXPECTED.items() if start in why), why)
        raise UserError(f"{flag}: {shown(why)}") from None
    if rest and paths == 0:
        raise UserError(f"{command} takes flags only, got {rest[0]!r}; see {command} --help")
    if paths and len(rest) != paths:
        raise UserError(f"{command} takes two paths, the source and the target; got {len(rest)}")
    return [_local(path, command) for path in rest] if paths else rest


def _expanded(arguments: Sequence[str], within: tuple[str, ...] = ()) -> list[str]:
    """Returns the arguments with the lines of every --flagfile in its place."""
    found, rest = [], iter(arguments)
    for argument in rest:
        name, mark, path = argument.partition("=")
        if argument == "--":
            return [*found, argument, *rest]
        if name not in ("--flagfile", "-flagfile"):
            found.append(argument)
            continue
        path = checked(path if mark else next(rest, ""), Path, "--flagfile")
        require(path not in within, "--flagfile", "no file that names itself", path)
        with edge("reading flags", path):
            text = pathlib.Path(path).read_text("utf-8-sig")
        lines = map(str.strip, text.splitlines())
        lines = [line for line in lines if line and not line.startswith(("#", "//"))]
        found += _expanded(lines, (*within, path))
    return found


def _workdir(values: flags.FlagValues, example: str, local: bool = False) -> str:
    if not values.workdir:
        raise UserError(f"--workdir is missing; give it, e.g. --workdir={example}")
    if local:
        return _local(values.workdir, "--workdir")
    located(folder := checked(values.workdir, Path, "--workdir"))  # is its library installed?
    return folder


def _local(path: str | None, flag: str) -> str:
    path = checked(path or "", Path, flag)
    require("://" not in path, flag, "a path on this machine", path)
    return path


def _told(path: str | os.PathLike, how: Callable[[str], str] = os.path.abspath) -> str:
    return os.fspath(path) if "://" in os.fspath(path) else how(path)


def _define_config(
    values: flags.FlagValues,
    arguments: Sequence[str],
    cls: type,
    read: Callable[[str], dict] = config.read,
    required: str = "",
    shipped: str = "",
) -> tuple[list[str], dict, str | None]:
    """Defines --config.KEY flags for the settings `cls`, with --config's file over their defaults.

    `read` reads the file that --config names, or the config of that name `shipped` in this folder;
    `required` is an example for --config, if it has to be given. Returns the other arguments, what
    the file says, and the file.
    """
    rest, path, given = [], None, iter(arguments)
    for argument in given:
        name, mark, value = argument.partition("=")
        if name == "--config":
            path = value if mark else next(given, None)
            if path is None:
                raise UserError("Missing value for flag --config; give a file")
        elif name.startswith("--config."):
            name = todays_name(cls, name.removeprefix("--config."))
            rest.append(f"--config.{name}{mark}{value}")
        else:
            rest.append(argument)
    if required and path is None and not _HELP & set(rest):
        raise UserError(f"--config is missing; give it, e.g. --config={required}")
    file = {} if path is None else read(path)
    data = defaults(cls) if path is None else dataclasses.asdict(build(cls, file))
    names = ", ".join(config.shipped_names(shipped))
    example = "sampler.steps" if cls is config.RunSettings else "diffusion.optimization.steps"
    text = f"a .py, .json or .toml file, a run's config.json, or a shipped name ({names}); "
    text += f"--config.{example}=64 overrides one value"
    with edge("overriding a setting", "KEY"):
        config_flags.DEFINE_config_dict(
            "config",
            ml_collections.ConfigDict(data),
            help_string=text,
            flag_values=values,
            sys_argv=["pot-jax", *rest],
        )
    values["config"].default_as_str = None  # --help would print all settings
    return rest, file, path


def _override(data: ml_collections.ConfigDict, setting: str, text: str) -> None:
    kind = type(operator.attrgetter(setting)(config.RunSettings()))
    try:
        with data.ignore_type():  # a file may give a value for each level
            data.update_from_flattened_dict({setting: kind(text)})
    except ValueError:
        require(False, f"--{setting.rpartition('.')[2]}", described(kind), text)


def _with_photographs(settings: config.RunSettings, texts: list[str]) -> config.RunSettings:
    """Returns the settings with photographs "path[:level]" besides theirs of other levels."""
    found = {}
    for text in texts:
        path, level, (head, mark, digits) = text, settings.photograph.level, text.rpartition(":")
        if mark and digits.isdecimal() and len(digits) < 9 and not os.path.exists(text):
            path, level = head, int(digits)
        require(bool(path), "--photograph", "a file", text)
        require(level not in found, "--photograph", "one for each level", texts)
        found[level] = checked(path, Path, "--photograph")
    found = {one.level: one.path for one in settings.every_photograph} | found
    one = dict(zip(("level", "path"), *found.items())) if len(found) == 1 else {"path": ""}
    several = tuple(config.LevelPhotographSettings(path, level) for level, path in found.items())
    one = dataclasses.replace(settings.photograph, **one)
    return dataclasses.replace(settings, photograph=one, photographs=several[len(found) == 1 :])


def _lora(text: str) -> dict:
    path, strength = _file_and_rest(text)
    try:
        return {"path": path, "strength": float(strength or 1)}
    except ValueError:
        raise UserError(f"--lora: expected path[:strength], got {text!r}") from None


def _file_and_rest(text: str) -> tuple[str, str]:
    """Splits "file.safetensors:rest" or "folder:rest"; the path may contain colons, too."""
    path, mark, rest = text.rpartition(".safetensors:")
    if mark:
        return path + mark[:-1], rest
    path, _, rest = text.rpartition(":")
    return (path, rest) if os.path.isdir(os.path.expanduser(path)) else (text, "")
