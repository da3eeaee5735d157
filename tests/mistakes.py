"""Mistakes that users make, by kind: what is typed, and words that the one line has to say.

A row is what is typed in the folder that `mistakes_place.make_place` makes, and words of the one
line. Where it has a `damage`, that is done to the model folder `bad` before, a fresh copy of
`tiny`. Most are a right command, SAMPLE, with something wrong added.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bad_models import KINDS as BAD_MODELS
from bad_models import flipped, holds, settings

SAMPLE = ["sample", "a", "star", "--workdir=w", "--model=tiny", "--steps=2"]
LONG = "x" * 300


class Row(NamedTuple):
    """One mistake."""

    arguments: list[str]
    words: str | list[str]  # that its line has to say
    damage: Callable[[Path], None] | None = None
    late: bool = False  # whether it shows in the weights alone


def s(*flags: str) -> list[str]:
    """A right command with flags that are wrong."""
    return [*SAMPLE, *flags]


def each(arguments: list[str], values: dict[str, str]) -> list[Row]:
    """A row for each value, which replaces the {} in the last argument."""
    *others, last = arguments
    return [Row([*others, last.replace("{}", value)], words) for value, words in values.items()]


COMMANDS = [
    Row(["paint"], "unknown command 'paint'; known: sample, render"),
    Row(["Sample", "a"], "unknown command 'Sample'"),
    Row([""], "unknown command ''"),
    Row(["--sample"], "unknown command '--sample'"),
    Row(["a star", "--workdir=w"], "unknown command 'a star'"),
    Row(["-v"], "unknown command '-v'"),
    Row(["sample\n--help"], "unknown command"),
    Row(["\ud800"], "unknown command"),
    Row(["render", "what"], "render takes flags only, got 'what'"),
    Row(["evaluate", "done"], "evaluate takes flags only, got 'done'"),
    Row(["train", "--config=cosmos64", "--workdir=w", "more"], "train takes flags only"),
    Row(["convert", "a"], "convert takes two paths"),
    Row(["convert"], "convert takes two paths"),
    Row(["convert", "a", "b", "c"], "convert takes two paths"),
    Row(["export", "a"], "export takes two paths"),
    Row(["sample", "a"], "--workdir is missing; give it, e.g. --workdir=runs/mine"),
    Row(["sample", "a", "--workdir="], "--workdir is missing"),
    Row(["render"], "--workdir is missing"),
    Row(["evaluate"], "--workdir is missing"),
    Row(["train"], "--config is missing"),
    Row(["train", "--config=cosmos64"], "--workdir is missing"),
    Row(["train", "--workdir=w"], "--config is missing"),
]

FLAGS = [
    Row(s("--colour=red"), "colour"),
    Row(s("--step=3"), "step"),
    Row(s("--steps"), "steps"),
    *each(
        [*SAMPLE, "--steps={}"],
        {
            "": "--steps: expected a whole number, got ''",
            "many": "--steps: expected a whole number, got 'many'",
            "2.5": "--steps: expected a whole number, got '2.5'",
            "1e3": "--steps: expected a whole number, got '1e3'",
            "9" * 5000: "--steps: expected a whole number",
        },
    ),
    Row(s("--seed=0x10"), "--seed: expected a whole number"),
    Row(s("--guidance_scale=high"), "--guidance_scale: expected a number, got 'high'"),
    Row(s("--guidance_scale=4,5"), "--guidance_scale: expected a number, got '4,5'"),
    Row(s("--lora"), "lora"),
    Row(s("--stacks=2", "--num_samples=3"), "are the same setting; give one of them"),
    Row(s("--dry_run=maybe"), "dry_run"),
    Row(s("--distributed=2"), "distributed"),
    Row(s("--allow_pickle=perhaps"), "allow_pickle"),
    Row(s("--devices=abacus"), "should be one of <cpu|gpu|tpu>"),
    Row(s("--devices=cuda"), "should be one of <cpu|gpu|tpu>"),
    Row(s("--devices="), "should be one of <cpu|gpu|tpu>"),
    Row(s("--steps:3"), "Unknown command line flag 'steps:3'. Did you mean: steps ?"),
    Row(s("-x"), "Unknown command line flag 'x'"),
    Row(s("--\ud800=1"), "Unknown command line flag"),
    Row(s("--config.sampler.stepz=4"), "stepz"),
    Row(s("--config.smapler.steps=4"), "smapler"),
    Row(s("--config.sampler=4"), "flag --config.sampler=4: Failed to parse '4' as a"),
    Row(s("--config.=4"), "unknown setting ''"),
    Row(s("--config.sampler.steps"), "Missing value for flag --config.sampler.steps"),
    Row(s("--config.sampler.steps=two"), "flag --config.sampler.steps=two: expected a whole"),
    Row(s("--config.sampler.steps=2.5"), "flag --config.sampler.steps=2.5: expected a whole"),
    Row(s("--config.sampler.steps.more=2"), "--config.KEY: \"Attribute <class 'int'>.more does"),
    Row(s("--config.sampler.eta=x"), "flag --config.sampler.eta=x: expected a number"),
    Row(s("--config.prompts[0]=a"), "unknown setting 'prompts[0]'"),
    Row(s("--config.prompts=[1,"), "flag --config.prompts=[1,: Error while parsing string: [1,"),
    Row(["sample", "--workdir=w", "--config.prompts=(1,2)"], "prompts[0]: expected a string, got"),
    Row(s("--config.loras=a.safetensors"), "loras[0]: expected a group of settings, got"),
    Row(s("--config.zoom.placement=left"), "zoom.placement[0]: expected a list, got 'left'"),
    Row(s("--config.zoom.placement=(1,)"), "zoom.placement[0]: expected a list, got 1"),
    Row(s("--config.allow_pickle=3"), "flag --config.allow_pickle=3: expected true or false"),
    Row(s("--config.seed=-1"), "seed: expected a whole number from 0 to 4294967295, got -1"),
    Row(s("--config.seed="), "flag --config.seed=: expected a whole number"),
    Row(
        ["sample", "a", "--workdir=w", "--config.variant=\ud800"], "variant: expected text in UTF-8"
    ),
    Row(s("--config.__class__=3"), "unknown setting '__class__'"),
    Row(s("--config.sampler.get=3"), "unknown setting 'sampler.get'"),
    Row(s("--config.own_parts=[('blend','x')]"), "own_parts[0]: expected a group of settings,"),
    Row(s("--flagfile=nowhere"), "nowhere"),
    Row(s("--flagfile="), "--flagfile: cannot be read: a folder stands where the file"),
    Row(s("--flagfile"), "cannot be read: a folder stands where the file is needed"),
    *each(
        [*SAMPLE, "--flagfile={}"],
        {
            "folder": "--flagfile: folder cannot be read: a folder stands where",
            "pipe": "is a pipe or a device; give a file",
            "/dev/zero": "is a pipe or a device; give a file",
            "circle": "--flagfile: circle cannot be read: its symbolic links lead",
            LONG: "--flagfile: expected a shorter path, got",
            "a\x00b": "--flagfile: expected a path without a zero byte, got",
            "flags_latin": "--flagfile: flags_latin cannot be read: 'utf-8' codec can't",
            "flags_unknown": "Unknown command line flag 'sede'. Did you mean: seed",
            "flags_value": "--seed: expected a whole number, got 'many'",
            "flags_own": "--flagfile: expected no file that names itself, got",
            "flags_nowhere": "--flagfile: nowhere cannot be read: it, or a folder on the",
            "flags_binary": "--flagfile: flags_binary cannot be read: 'utf-8' codec",
            "/proc/self/mem": "--flagfile: /proc/self/mem cannot be read: the disk reports",
        },
    ),
    Row(["render", "--workdir=done", "--fps=many"], "flag --fps=many: expected a whole number"),
    Row(["render", "--workdir=done", "--size=2.5"], "flag --size=2.5: expected a whole number"),
    Row(["render", "--workdir=done", "--seconds_per_level=x"], "flag --seconds_per_level=x:"),
    Row(["render", "--workdir=done", "--config=x"], "Unknown command line flag 'config'"),
    Row(["evaluate", "--workdir=done", "--size=3"], "Unknown command line flag 'size'"),
    Row(["convert", "a", "b", "--lora=x"], "Unknown command line flag 'lora'"),
]

NUMBERS = [
    Row(s("--steps=0"), "sampler.steps: expected at least 1, got 0"),
    Row(s("--steps=-5"), "sampler.steps: expected at least 1, got -5"),
    Row(s("--seed=-1"), "seed: expected a whole number from 0 to 4294967295, got -1"),
    Row(s("--seed=4294967296"), "seed: expected a whole number from 0 to 4294967295"),
    Row(s("--seed=4294967295", "--num_samples=2"), "at most 1: seeds are below 2^32"),
    Row(s("--seed=4294967295", "--stacks=2"), "at most 1: seeds are below 2^32, and the first is"),
    Row(s("--config.stacks=0"), "num_samples: expected at least 1"),
    Row(s("--num_samples=0"), "num_samples: expected at least 1, got 0"),
    Row(s("--num_samples=-1"), "num_samples: expected at least 1, got -1"),
    Row(s("--num_samples=5000000000"), "num_samples: expected at most 4294967296"),
    *each(
        [*SAMPLE, "--guidance_scale={}"],
        {
            "nan": "guidance_scale: expected a finite number, got nan",
            "inf": "guidance_scale: expected a finite number, got inf",
            "1e999": "guidance_scale: expected a finite number, got inf",
            "-1": "guidance_scale: expected 0 to 1000, got -1.0",
        },
    ),
    Row(s("--guidance_rescale=1.5"), "guidance_rescale: expected 0 to 1, got 1.5"),
    Row(s("--guidance_rescale=-0.1"), "guidance_rescale: expected 0 to 1, got -0.1"),
    Row(s("--guidance_rescale=nan"), "guidance_rescale: expected a finite number"),
    *each(
        [*SAMPLE, "--zoom_factor={}"],
        {
            "1": "zoom.zoom_factor: expected a whole number >= 2, got 1",
            "0": "zoom.zoom_factor: expected a whole number >= 2, got 0",
            "-2": "zoom.zoom_factor: expected a whole number >= 2, got -2",
            "2.5": "--zoom_factor: expected a whole number, got '2.5'",
        },
    ),
    Row(s("--solver=heun"), "sampler.solver: expected one of ddpm, ddim"),
    Row(s("--solver=DDIM"), "sampler.solver: expected one of ddpm, ddim"),
    Row(s("--space=pixels"), "sampler.space: expected one of latent, pixel, delivery"),
    Row(s("--space="), "sampler.space: expected one of"),
    Row(s("--blend=mean"), "sampler.blend: expected one of laplacian"),
    Row(s("--dtype=int8"), "dtype: expected one of float32, bfloat16, float16"),
    Row(s("--dtype=fp16"), "dtype: expected one of float32, bfloat16, float16"),
    Row(s("--dtype=float64"), "dtype: expected one of float32, bfloat16, float16"),
    Row(s("--prediction_type=eps"), "prediction_type: expected one of '' (unset), epsilon"),
    Row(s("--config.sampler.eta=100.0"), "sampler.eta: expected 0 to 1, got 100"),
    Row(s("--config.sampler.eta=-0.5"), "sampler.eta: expected 0 to 1"),
    Row(s("--config.sampler.eta=0.5", "--solver=euler"), "sampler.eta: expected 0: only ddim"),
    Row(
        s("--config.sampler.agreement_vae=taesd"), "sampler.agreement_vae: expected one of vae, ti"
    ),
    Row(s("--config.sampler.pixel_every=0"), "sampler.pixel_every: expected at least 1"),
    Row(s("--config.sampler.residual_limit=-0.1"), "sampler.residual_limit: expected >= 0"),
    Row(s("--config.sampler.blend_weight=1.5"), "sampler.blend_weight: expected 0 to 1"),
    Row(s("--config.sampler.blend_weight=-1.0"), "sampler.blend_weight: expected 0 to 1"),
    Row(s("--config.sampler.kernel=box"), "sampler.kernel: expected one of mean, gaussian"),
    Row(s("--config.sampler.noise=pink"), "sampler.noise: expected one of shared, per_level, blur"),
    Row(s("--config.sampler.strip=0.6"), "sampler.strip: expected 0 to 0.5, got 0.6"),
    Row(s("--config.sampler.strip=-0.1"), "sampler.strip: expected 0 to 0.5"),
    Row(s("--config.sampler.agree_first=1.5"), "sampler.agree_first: expected 0 to 1"),
    Row(s("--config.sampler.own_colour=-1"), "sampler.own_colour: expected 0 to 1, got -1"),
    Row(s("--config.sampler.blend_release=2"), "sampler.blend_release: expected 0 to 1, got 2"),
    Row(s("--config.sampler.agree_every=0"), "sampler.agree_every: expected at least 1, got 0"),
    Row(s("--config.sampler.time_travel=0"), "sampler.time_travel: expected at least 1, got 0"),
    Row(s("--config.sampler.method=inpainting"), "sampler.method: expected one of joint, outpaint"),
    Row(
        s("--config.sampler.method=outpainting", "--space=delivery"),
        "sampler.space: expected latent or pixel with method outpainting, got 'delivery'",
    ),
    Row(s("--config.record_disagreement=2"), "record_disagreement=2: expected true or false"),
    Row(s("--config.sampler.initial_noise=none"), "sampler.initial_noise: expected one of shared"),
    Row(s("--config.sampler.gradient_steps=0"), "sampler.gradient_steps: expected >= 1"),
    Row(s("--config.sampler.gradient_rate=0.0"), "sampler.gradient_rate: expected > 0"),
    Row(s("--config.zoom.height=-64"), "zoom.height: expected >= 0, got -64"),
    Row(s("--config.zoom.width=-1"), "zoom.width: expected >= 0, got -1"),
    Row(s("--config.photograph.level=-1"), "photograph.level: expected 0 or more, got -1"),
    Row(s("--config.photograph.method=sgd"), "photograph.method: expected one of adam, project"),
    Row(s("--config.upscaler.steps=0"), "upscaler.steps: expected at least 1"),
    Row(s("--config.upscaler.rows=0"), "upscaler.rows: expected at least 1"),
    Row(s("--config.upscaler.noise_level=-1"), "upscaler.noise_level: expected >= 0"),
    Row(s("--config.upscaler.guidance_scale=-1.0"), "upscaler.guidance_scale: expected 0 to 1000"),
    Row(s("--config.upscaler.solver=best"), "upscaler.solver: expected one of"),
    Row(s("--config.movie.fps=0"), "movie.fps: expected 1 to 240, got 0"),
    Row(s("--config.movie.fps=1000"), "movie.fps: expected 1 to 240, got 1000"),
    Row(s("--config.movie.size=0"), "movie.size: expected 16 to 4096, got 0"),
    Row(s("--config.movie.size=100000"), "movie.size: expected 16 to 4096, got 100000"),
    Row(s("--config.movie.seconds_per_level=0.0"), "movie.seconds_per_level: expected > 0"),
    Row(s("--config.movie.seconds_per_level=-1.0"), "movie.seconds_per_level: expected > 0"),
    Row(s("--config.movie.direction=up"), "movie.direction: expected one of in, out, both"),
    Row(s("--config.save_every=-1"), "save_every: expected >= 0, got -1"),
    Row(s("--config.decode_rows=0"), "decode_rows: expected at least 1, got 0"),
    Row(["render", "--workdir=done", "--fps=0"], "movie.fps: expected 1 to 240"),
    Row(["render", "--workdir=done", "--size=4"], "movie.size: expected 16 to 4096"),
    Row(["render", "--workdir=done", "--seconds_per_level=nan"], "movie.seconds_per_level:"),
    Row(["render", "--workdir=done", "--seconds_per_level=-2"], "movie.seconds_per_level:"),
    Row(["render", "--workdir=done", "--direction=sideways"], "movie.direction: expected one of"),
    Row(["convert", "tiny", "new", "--dtype=int8"], "dtype: expected one of float32, bfloat16,"),
    Row(["convert", "tiny", "new", "--dtype="], "dtype: expected one of float32, bfloat16,"),
    Row(["convert", "tiny", "new", "--prediction_type=eps"], "prediction_type: expected one of"),
    Row(["export", "tiny", "new", "--prediction_type=eps"], "prediction_type: expected one of"),
]

PROMPTS = [
    Row(["sample", "--workdir=w"], "prompts: expected at least one, got none"),
    Row(["sample", "", "--workdir=w"], "the prompt of level 0 is empty"),
    Row(["sample", "a", " ", "--workdir=w"], "the prompt of level 1 is empty"),
    Row(["sample", "a", "\t\n", "--workdir=w"], "the prompt of level 1 is empty"),
    Row(["sample", "a", "\u3000", "--workdir=w"], "the prompt of level 1 is empty"),
    Row(["sample", "a", "\ud83d", "--workdir=w"], "prompts[1]: expected text in UTF-8"),
    Row(["sample", "a \udcff", "--workdir=w"], "prompts[0]: expected text in UTF-8"),
    Row(s("--negative_prompt=\udcff"), "negative_prompt: expected text in UTF-8"),
]

# Those that need the model's tokenizer.
LONG_PROMPTS = [
    Row(s("star " * 20), "prompt 2 (star star star star star star star star star star"),
    Row(s("--negative_prompt=" + "star " * 20), "prompt 2 (star star star star star star star"),
    Row(["sample", "star " * 100000, "--workdir=w", "--model=tiny"], "prompt 0 (star star star"),
    Row(["sample", "\0" * 20, "--workdir=w", "--model=tiny"], "prompt 0"),
    Row(["sample", "a\x00", "--workdir=w", "--model=tiny", "--upscaler=nowhere"], "there is no"),
]

CONFIGS = [
    *each(
        [*SAMPLE, "--config={}"],
        {
            "raises.py": "--config: raises.py raised ZeroDivisionError: division by",
            "raises_two_lines.py": "--config: raises_two_lines.py raised RuntimeError: one",
            "imports_nothing.py": "--config: imports_nothing.py raised ModuleNotFoundError: No",
            "exits.py": "--config: exits.py raised SystemExit: 0",
            "exits_later.py": "--config: exits_later.py raised SystemExit: SystemExit",
            "quits.py": "--config: quits.py raised SystemExit: None",
            "ends_generators.py": "--config: ends_generators.py raised GeneratorExit:",
            "syntax.py": "--config: syntax.py raised SyntaxError: invalid syntax",
            "tabs.py": "--config: tabs.py raised TabError: inconsistent use of tabs",
            "recursion.py": "--config: recursion.py raised RecursionError: maximum",
            "nested_source.py": "--config: nested_source.py raised SyntaxError: too many",
            "unnamed.py": "--config: unnamed.py defines no get_config()",
            "no_function.py": "--config: no_function.py raised TypeError: 'int' object is",
            "needs_argument.py": "--config: needs_argument.py raised TypeError: get_config()",
            "nothing.py": "--config: expected settings by name in nothing.py, got",
            "number.py": "--config: expected settings by name in number.py, got int",
            "list.py": "--config: expected settings by name in list.py, got list",
            "number_keys.py": "unknown setting '1'",
            "unknown.py": "unknown setting 'stepz'",
            "function_value.py": "seed: expected a whole number, got <built-in function print>",
            "array_value.py": "prompts: expected a list, got <module 'type....11/types.py'>",
            "set_value.py": "prompts: expected a list, got {'a', 'b'}",
            "cyclic.py": "unknown setting 'sampler.sampler'",
            "cyclic_list.py": "prompts[0]: expected a string, got [[[[[[[...]]]]]]]",
            "surrogate.py": "prompts[0]: expected text in UTF-8, got '\\ud800'",
            "module_error.py": "--config: module_error.py raised ModuleNotFoundError: No",
            "shadow.py": "--config: shadow.py raised ModuleNotFoundError: No module",
            "asserts.py": "--config: asserts.py raised AssertionError: AssertionError",
            "memory.py": "--config: memory.py raised MemoryError: MemoryError",
            "stop.py": "--config: stop.py raised StopIteration: StopIteration",
            "bad_text.py": "--config: bad_text.py raised E: E",
            "nested_config.py": "unknown setting 'sampler.step'",
            "placeholder.py": "seed: expected a whole number, got None",
            "required.py": "--config: required.py raised RequiredValueError: None value",
            "latin.py": "--config: latin.py raised SyntaxError: (unicode error)",
            "zero.py": "--config: zero.py raised SyntaxError: source code string",
            "utf16.py": "--config: utf16.py raised SyntaxError: source code string",
            "dangling.py": "--config: no file 'dangling.py' and no shipped config of",
            "circle.py": "--config: no file 'circle.py' and no shipped config of that",
            "folder.py": "--config: no file 'folder.py' and no shipped config of that",
            "pipe.py": "is a pipe or a device; give a file",
            "nowhere.py": "--config: no file 'nowhere.py' and no shipped config of",
            LONG + ".py": "--config: expected a shorter path, got",
            "a\x00b.py": "--config: expected a path without a zero byte, got",
            "~/nowhere.py": "--config: no file '~/nowhere.py' and no shipped config of",
            "file/a.py": "--config: no file 'file/a.py' and no shipped config of that",
            "cut.json": "--config: cut.json is not JSON: Expecting value: line 1",
            "empty.json": "--config: empty.json is not JSON: Expecting value: line 1",
            "bom_only.json": "--config: bom_only.json is not JSON: Expecting value: line",
            "list.json": "--config: expected settings by name in list.json, got list",
            "null.json": "--config: expected settings by name in null.json, got",
            "text.json": "--config: expected settings by name in text.json, got str",
            "number.json": "--config: expected settings by name in number.json, got int",
            "nested.json": "--config: nested.json is not JSON: nested too deeply",
            "nested_lists.json": "prompts[0]: expected a string, got [[[[[[[...]]]]]]]",
            "nan.json": "--config: nan.json is not JSON: NaN is not a number",
            "infinity.json": "sampler.guidance_scale: expected a finite number, got inf",
            "digits.json": "--config: digits.json is not JSON: Exceeds the limit (4300",
            "null_value.json": "seed: expected a whole number, got None",
            "null_group.json": "sampler: expected a group of settings, got None",
            "unknown.json": "unknown setting 'colour'",
            "unknown_group.json": "unknown setting 'smapler'",
            "unknown_in_group.json": "unknown setting 'sampler.stepz'",
            "flat.json": "unknown setting 'sampler.steps'",
            "text_number.json": "sampler.steps: expected a whole number, got '3'",
            "fraction.json": "sampler.steps: expected a whole number, got 2.5",
            "one_prompt.json": "prompts: expected a list, got 'a star'",
            "number_prompt.json": "prompts[1]: expected a string, got 3",
            "null_prompt.json": "prompts[0]: expected a string, got None",
            "lora_name.json": "loras[0]: expected a group of settings, got 'a.safetensors'",
            "lora_dict.json": "loras: expected a list, got {'a.safetensors': 1}",
            "lora_key.json": "unknown setting 'loras[0].file'",
            "placement.json": "zoom.placement[0]: expected 2 values, got [0, 8, 0]",
            "placement_flat.json": "zoom.placement[0]: expected a list, got 0",
            "placement_fraction.json": "zoom.placement[0][0]: expected a whole number, got 0.5",
            "both_names.json": "stacks and num_samples are the same setting; give one of",
            "own_parts.json": "own_parts: this run used the Python function mine.blend as",
            "bad_own_parts.json": "own_parts[0].part: expected one of solver, blend,",
            "later.json": "has format 99, this version of pot_jax reads 1 to 2; use",
            "config_list.json": "unknown setting 'format'",
            "format_text.json": "has format 'two', this version of pot_jax reads 1 to 2; use",
            "comments.json": "--config: comments.json is not JSON: Extra data: line 1",
            "quotes.json": "--config: quotes.json is not JSON: Expecting property name",
            "twice.json": "--config: twice.json is not JSON: 'seed' is given twice",
            "page.json": "--config: page.json is not JSON: Expecting value: line 1",
            "yaml.json": "--config: yaml.json is not JSON: Expecting value: line 1",
            "latin.json": "--config: latin.json cannot be read: 'utf-8' codec can't",
            "utf16.json": "--config: utf16.json cannot be read: 'utf-8' codec can't",
            "binary.json": "--config: binary.json cannot be read: 'utf-8' codec can't",
            "circle.json": "--config: no file 'circle.json' and no shipped config of",
            "dangling.json": "--config: no file 'dangling.json' and no shipped config of",
            "folder.json": "--config: no file 'folder.json' and no shipped config of",
            "pipe.json": "is a pipe or a device; give a file",
            "nowhere.json": "--config: no file 'nowhere.json' and no shipped config of",
        },
    ),
    Row(["sample", "--workdir=w", "--config=empty_prompt.json"], "prompts: the prompt of level 1"),
    Row(["sample", "--workdir=w", "--config=surrogate_prompt.json"], "prompts[0]: expected text"),
    Row(["sample", "--workdir=w", "--config=surrogate.py"], "prompts[0]: expected text in UTF-8,"),
    Row(
        s("--config=config.yaml"),
        "--config: expected a .py, .json or .toml file, got 'config.yaml'",
    ),
    Row(s("--config=config"), "--config: expected a .py, .json or .toml file, got 'config'"),
    Row(s("--config="), "--config: no file '' and no shipped config of that name"),
    Row(s("--config"), "Missing value for flag --config"),
    *each(
        [*SAMPLE, "--config={}"],
        {
            "folder": "--config: no file 'folder' and no shipped config of that",
            "cosmos65": "--config: no file 'cosmos65' and no shipped config of that",
            "train/cosmos64": "--config: no file 'train/cosmos64' and no shipped config of",
            "../configs/cosmos": "--config: no file '../configs/cosmos' and no shipped config",
            "/proc/self/mem": "--config: expected a .py, .json or .toml file, got '/proc/self/mem'",
            "/dev/zero": "is a pipe or a device; give a file",
            "photo.png": "--config: expected a .py, .json or .toml file, got 'photo.png'",
            "done/metrics.json": "unknown setting 'levels'",
            "tiny/model_index.json": "unknown setting '_class_name'",
            "training/config.json": "unknown setting 'name'",
        },
    ),
]

TRAIN = [
    Row(["train", "--config=nowhere", "--workdir=w"], "--config: no file 'nowhere' and no"),
    Row(["train", "--config=paper", "--workdir=w"], "--config: no file 'paper' and no shipped"),
    Row(["train", "--config=cosmos", "--workdir=w"], "--config: no file 'cosmos' and no shipped"),
    Row(["train", "--config=raises.py", "--workdir=w"], "--config: raises.py raised"),
    Row(["train", "--config=exits.py", "--workdir=w"], "--config: exits.py raised SystemExit: 0"),
    Row(["train", "--config=empty.json", "--workdir=w"], "--config: empty.json is not JSON:"),
    Row(["train", "--config=list.json", "--workdir=w"], "--config: expected settings by name in"),
    Row(["train", "--config=unknown.json", "--workdir=w"], "unknown setting 'colour'"),
    Row(["train", "--config=done/config.json", "--workdir=w"], "done/config.json is not of a"),
    Row(["train", "--config=latin.json", "--workdir=w"], "--config: latin.json cannot be read:"),
    Row(["train", "--config=nested.json", "--workdir=w"], "--config: nested.json is not JSON:"),
    Row(["train", "--config=later.json", "--workdir=w"], "later.json has format 99, this version"),
    Row(["train", "--config=config_list.json", "--workdir=w"], "config_list.json is not of a"),
    Row(["train", "--config=folder.py", "--workdir=w"], "--config: no file 'folder.py' and no"),
    Row(["train", "--config=pipe.json", "--workdir=w"], "pipe.json is a pipe or a device; give a"),
    Row(["train", "--config=cosmos64", "--workdir=w", "--config.sede=1"], "unknown setting 'sede'"),
    Row(["train", "--config=cosmos64", "--workdir=w", "--config.seed=-1"], "seed: expected 0 to"),
    Row(["train", "--config=cosmos64", "--workdir=w", "--config.data.size=7"], "data.size:"),
    Row(
        ["train", "--config=cosmos64", "--workdir=w", "--config.data.size=100000000"],
        "config of AutoencoderKL: sample_size is 100000000, expected",
    ),
    Row(
        ["train", "--config=cosmos64", "--workdir=w", "--config.data.pictures=1"],
        "data.held_out: expected 1 to pictures - 1 (0), got 1024",
    ),
    Row(
        ["train", "--config=cosmos64", "--workdir=w", "--config.data.held_out=0"],
        "data.held_out: expected 1 to pictures - 1 (98303), got 0",
    ),
    Row(["train", "--config=cosmos64", "--workdir=w", "--config.data.workers=0"], "data.workers:"),
    Row(
        ["train", "--config=cosmos64", "--workdir=w", "--config.data.deepest=-1.0"],
        "data.deepest: expected above 0 and at most 20, where the",
    ),
    Row(
        ["train", "--config=cosmos64", "--workdir=w", "--config.data.deepest=1000.0"],
        "data.deepest: expected above 0 and at most 20, where the",
    ),
    Row(
        ["train", "--config=cosmos64", "--workdir=w", "--config.tokenizer.vocabulary=10"],
        "tokenizer.vocabulary: expected at least 514 (all bytes, all",
    ),
    Row(
        ["train", "--config=cosmos64", "--workdir=w", "--config.tokenizer.length=1"],
        "tokenizer.length: expected at least 3 (start, one word,",
    ),
    Row(
        ["train", "--config=cosmos64", "--workdir=w", "--config.precision=float8"],
        "precision: expected one of auto, float32, bfloat16, got",
    ),
    Row(
        ["train", "--config=cosmos64", "--workdir=w", "--config.diffusion.optimization.steps=0"],
        "diffusion.optimization.steps: expected at least 1, got 0",
    ),
    Row(
        [
            "train",
            "--config=cosmos64",
            "--workdir=w",
            "--config.diffusion.optimization.batch_size=0",
        ],
        "diffusion.optimization.batch_size: expected at least 1, got",
    ),
    Row(
        [
            "train",
            "--config=cosmos64",
            "--workdir=w",
            "--config.diffusion.optimization.batch_size=1000000000",
        ],
        "diffusion.optimization.batch_size: a batch of 1000000000 is",
    ),
    Row(
        [
            "train",
            "--config=cosmos64",
            "--workdir=w",
            "--config.diffusion.optimization.learning_rate=-1.0",
        ],
        "diffusion.optimization.learning_rate: expected above 0, got",
    ),
    Row(
        [
            "train",
            "--config=cosmos64",
            "--workdir=w",
            "--config.diffusion.optimization.learning_rate=nan",
        ],
        "diffusion.optimization.learning_rate: expected a finite",
    ),
    Row(
        [
            "train",
            "--config=cosmos64",
            "--workdir=w",
            "--config.diffusion.optimization.optimizer=sgd",
        ],
        "diffusion.optimization.optimizer: expected one of adam,",
    ),
    Row(
        ["train", "--config=cosmos64", "--workdir=w", "--config.diffusion.caption_dropout=1.0"],
        "diffusion.caption_dropout: expected from 0 to below 1, got",
    ),
    Row(
        [
            "train",
            "--config=cosmos64",
            "--workdir=w",
            "--config.diffusion.unet.block_out_channels=64",
        ],
        "--config.KEY: Type <class 'list'> of field",
    ),
    Row(
        [
            "train",
            "--config=cosmos64",
            "--workdir=w",
            "--config.autoencoder.model.latent_channels=0",
        ],
        "config of AutoencoderKL: latent_channels is 0, expected a",
    ),
    Row(
        [
            "train",
            "--config=cosmos64",
            "--workdir=w",
            "--config.autoencoder.model.latent_channels=-4",
        ],
        "config of AutoencoderKL: latent_channels is -4, expected a",
    ),
    Row(
        [
            "train",
            "--config=cosmos64",
            "--workdir=w",
            "--config.autoencoder.model.norm_num_groups=7",
        ],
        "config of AutoencoderKL: block_out_channels is (32, 32,",
    ),
    Row(
        ["train", "--config=cosmos64", "--workdir=w", "--config.autoencoder.loss.kl=-1.0"],
        "autoencoder.loss.kl: expected at least 0, got -1.0",
    ),
    Row(
        ["train", "--config=cosmos64", "--workdir=w", "--config.text_encoder.model.hidden_size=7"],
        "config of CLIPTextModel: num_attention_heads is 4, expected",
    ),
    Row(
        ["train", "--config=cosmos64", "--workdir=w", "--config.intervals.log_steps=0"],
        "intervals.log_steps: expected above 0, got 0",
    ),
    Row(["train", "--config=cosmos64", "--workdir=w", "--config.renders=file"], "renders:"),
    *each(
        ["train", "--config=cosmos64", "--workdir={}"],
        {
            "file": "--workdir: expected a folder, got the file file",
            "file/under": "cannot write file/under/.pot_jax-claim.json: a file stands",
            "done": "/config.json is not of a training: unknown setting 'model'",
            "thesis": "--workdir: thesis holds other files and no training",
            "/proc/x": "cannot write /proc/x/.pot_jax-claim.json: it, or a folder",
            LONG: "--workdir: expected a shorter path, got",
            "a\x00b": "--workdir: expected a path without a zero byte, got 'a\\x00b'",
            "circle": "cannot write circle/.pot_jax-claim.json: a file stands",
            "training": "--workdir: training holds another training (autoencoder is",
            "held": "--workdir: held is in use by",
        },
    ),
]

WORKDIRS = [
    Row(["sample", "a", "--workdir=file", "--model=tiny"], "expected a folder, got the file file"),
    Row(["sample", "a", "--workdir=file/under", "--model=tiny"], "cannot use the folder"),
    Row(["sample", "a", "--workdir=file/under/more", "--model=tiny"], "cannot use the folder"),
    Row(["sample", "a", "--workdir=pipe", "--model=tiny"], "expected a folder"),
    Row(["sample", "a", "--workdir=/dev/null", "--model=tiny"], "expected a folder"),
    Row(["sample", "a", "--workdir=/dev/null/x", "--model=tiny"], "cannot use the folder"),
    Row(["sample", "a", "--workdir=/proc/x", "--model=tiny"], "cannot use the folder /proc/x:"),
    Row(["sample", "a", "--workdir=/proc/self/x", "--model=tiny"], "cannot use the folder"),
    Row(["sample", "a", "--workdir=/proc/self/fd/9999/x", "--model=tiny"], "cannot use the"),
    Row(["sample", "a", "--workdir=/sys/x", "--model=tiny"], "cannot use the folder /sys/x: no"),
    Row(["sample", "a", "--workdir=/sys/kernel/x", "--model=tiny"], "cannot use the folder"),
    Row(
        [
            "sample",
            "a",
            "--workdir=xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            "--model=tiny",
        ],
        "--workdir: expected a shorter path, got",
    ),
    Row(
        [
            "sample",
            "a",
            "--workdir=x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/",
            "--model=tiny",
        ],
        "--workdir: expected a shorter path, got",
    ),
    Row(
        [
            "sample",
            "a",
            "--workdir=☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃☃",
            "--model=tiny",
        ],
        "--workdir: expected a shorter path, got",
    ),
    Row(["sample", "a", "--workdir=a\x00b", "--model=tiny"], "--workdir: expected a path without"),
    Row(["sample", "a", "--workdir=circle", "--model=tiny"], "cannot use the folder circle: a"),
    Row(["sample", "a", "--workdir=circle/x", "--model=tiny"], "cannot use the folder circle/x:"),
    Row(["sample", "a", "--workdir=dangling", "--model=tiny"], "cannot use the folder dangling:"),
    Row(["sample", "a", "--workdir=thesis", "--model=tiny"], "--workdir: thesis holds other"),
    Row(["sample", "a", "--workdir=.", "--model=tiny"], "--workdir: . holds other files and no"),
    Row(["sample", "a", "--workdir=tiny", "--model=tiny"], "--workdir: tiny holds other files"),
    Row(["sample", "a", "--workdir=folder/../thesis", "--model=tiny"], "--workdir:"),
    Row(["sample", "a", "--workdir=other", "--model=tiny"], "--workdir: other holds another run"),
    Row(["sample", "a", "--workdir=cut_record", "--model=tiny"], "cut_record/config.json is not"),
    Row(["sample", "a", "--workdir=list_record", "--model=tiny"], "list_record/config.json"),
    Row(["sample", "a", "--workdir=empty_record", "--model=tiny"], "empty_record/config.json is"),
    Row(["sample", "a", "--workdir=latin_record", "--model=tiny"], "latin_record/config.json is"),
    Row(["sample", "a", "--workdir=nested_record", "--model=tiny"], "nested_record/config.json"),
    Row(["sample", "a", "--workdir=later_record", "--model=tiny"], "later_record/config.json has"),
    Row(["sample", "a", "--workdir=foreign_record", "--model=tiny"], "foreign_record/config.json"),
    Row(["sample", "a", "--workdir=record_folder", "--model=tiny"], "record_folder/config.json"),
    Row(["sample", "a", "--workdir=record_pipe", "--model=tiny"], "record_pipe/config.json is a"),
    Row(["sample", "a", "--workdir=training", "--model=tiny"], "training/config.json: unknown"),
    Row(["sample", "a", "--workdir=held", "--model=tiny"], "--workdir: held is in use by"),
]

FINISHED = [
    *each(
        ["render", "--workdir={}"],
        {
            "nowhere": "no run at nowhere: there is no such folder; give a run's",
            "file": "no run at file: there is no such folder; give a run's",
            "folder": "no run at folder: it has no config.json",
            "thesis": "no run at thesis: it has no config.json",
            "tiny": "no run at tiny: it has no config.json",
            "training": "/config.json: unknown setting 'name'",
            "/proc/x": "no run at /proc/x: there is no such folder; give a run's",
            LONG: "--workdir: expected a shorter path, got",
            "a\x00b": "--workdir: expected a path without a zero byte, got 'a\\x00b'",
            "circle": "no run at circle: there is no such folder; give a run's",
            "cut_record": "/config.json is not complete JSON (it may be truncated):",
            "list_record": "/config.json contains a list; expected a JSON object",
            "empty_record": "/config.json is not complete JSON (it may be truncated):",
            "latin_record": "/config.json is not complete JSON (it may be truncated):",
            "nested_record": "/config.json is not complete JSON (it may be truncated):",
            "later_record": "/config.json has format 99, this version of pot_jax reads 1",
            "foreign_record": "/config.json is not the record of a `pot-jax sample` run:",
            "record_folder": "/config.json cannot be read: a folder stands where the file",
            "record_pipe": "/config.json is a pipe or a device; give a file",
            "cut_arrays": "/stack.npz cannot be read (it may be truncated): File is",
            "text_arrays": "/stack.npz cannot be read (it may be truncated): File is",
        },
    ),
    *each(
        ["evaluate", "--workdir={}"],
        {
            "nowhere": "no run at nowhere: there is no such folder; give a run's",
            "training": "/config.json: unknown setting 'name'",
            LONG: "--workdir: expected a shorter path, got",
            "list_record": "/config.json contains a list; expected a JSON object",
            "record_pipe": "/config.json is a pipe or a device; give a file",
            "text_arrays": "/stack.npz cannot be read (it may be truncated): File is",
            "theirs_unknown": "/zoom.json: unknown setting 'prompt'; known: prompts, zoom_factor",
            "theirs_missing": "/zoom.json: pictures: expected 2, one for each prompt, got",
            "theirs_sizes": "/zoom.json: 1.png: expected 16 x 16 pixels, as 0.png has, got '8 x 8",
            "theirs_text": "/1.png is not a picture of a known kind (PNG, JPEG, ...)",
            "theirs_cut": "/zoom.json is not complete JSON (it may be truncated)",
        },
    ),
    *each(
        ["evaluate", "--workdir=done", "--references={}"],
        {
            "nowhere": "references: expected a run, a folder with a zoom.json, or several, besides",
            "folder": "references: expected a run, a folder with a zoom.json, or several, besides",
            "done": "references: expected a run, a folder with a zoom.json, or several, besides",
            "theirs": "references: theirs: the prompt of level 0: expected the zoom's, 'a', got",
            "theirs_cut": "/zoom.json is not complete JSON (it may be truncated)",
            LONG: "--references: expected a shorter path, got",
        },
    ),
    *each(
        ["render", "--workdir=done", "--output={}"],
        {
            "done/stack.npz": "expected the name of a movie to end in .mp4 or .mov, got",
            "done/config.json": "expected the name of a movie to end in .mp4 or .mov, got",
            "done/levels/level_000.png": "expected the name of a movie to end in .mp4 or .mov, got",
            "other/zoom.mp4": "--output: other/zoom.mp4 is the movie of another run; give",
            "z.gif": "expected the name of a movie to end in .mp4 or .mov, got",
            "z.webm": "expected the name of a movie to end in .mp4 or .mov, got",
            "z.avi": "expected the name of a movie to end in .mp4 or .mov, got",
            "z": "expected the name of a movie to end in .mp4 or .mov, got z",
            "mp4": "expected the name of a movie to end in .mp4 or .mov, got mp4",
            ".mp4": "expected the name of a movie to end in .mp4 or .mov, got",
            "folder": "expected the name of a movie to end in .mp4 or .mov, got",
            "folder/": "expected the name of a movie to end in .mp4 or .mov, got",
            "x.mp4/": "expected the name of a movie to end in .mp4 or .mov, got",
            "file/z.mp4": "cannot write file/z.mp4: a file stands where a folder is",
            "/proc/z.mp4": "cannot write the movie /proc/z.mp4: it, or a folder on the",
            "/dev/null": "expected the name of a movie to end in .mp4 or .mov, got",
            LONG + ".mp4": "--output: expected a shorter path, got",
            "a\x00b.mp4": "--output: expected a path without a zero byte, got",
            "circle/z.mp4": "cannot write circle/z.mp4: a file stands where a folder is",
            "z.mp4.png": "expected the name of a movie to end in .mp4 or .mov, got",
            "tiny/unet/diffusion_pytorch_model.safetensors": "expected the name of a movie to end",
        },
    ),
    Row(["render", "--workdir=done", "--seconds_per_level=1e9"], "movie.seconds_per_level:"),
    Row(["render", "--workdir=done", "--seconds_per_level=1e300"], "movie.seconds_per_level:"),
    Row(["render", "--workdir=held"], "no run at held: it has no config.json"),
]

SWEEP = ["sweep", "--config=world", "--workdir=w"]
SWEEPS = [
    Row(["sweep", "--workdir=w"], "--config is missing; give it, e.g. --config=world"),
    Row(["sweep", "--config=world"], "--workdir is missing"),
    Row(["sweep", "--config=paper", "--workdir=w"], "no shipped config of that name (shipped: con"),
    Row(["sweep", "--config=exits.py", "--workdir=w"], "--config: exits.py raised SystemExit"),
    Row([*SWEEP, "--shard=4/4"], "--shard: expected i/n, i from 0 to n - 1, got '4/4'"),
    Row([*SWEEP, "--keep=none"], "flag --keep=none: value should be one of"),
    Row([*SWEEP, "--every=0"], "flag --every=0: 0 is not a positive integer"),
    Row([*SWEEP, "--config.sampler.stepz=1"], "unknown setting 'sampler.stepz'"),
    Row([*SWEEP, "--config.sampler.solver=x"], "sampler.solver: expected one of ddpm"),
    Row([*SWEEP, "--config.num_samples=2"], "num_samples: expected 1 (sweep seeds), got 2"),
    Row([*SWEEP, "a star"], "sweep takes flags only, got 'a star'"),
    Row(["report"], "--workdir is missing"),
    Row(["report", "--workdir=nowhere"], "--workdir: expected a folder of runs, got 'nowhere'"),
    Row(["report", "--workdir=folder"], "no measured run in folder; wait for the sweep, or run"),
    Row(["report", "--workdir=done"], "no measured run in done (done: not measured); wait"),
]

PHOTOGRAPHS = [
    *each(
        [*SAMPLE, "--photograph={}"],
        {
            "nowhere.png": "no picture at nowhere.png",
            "folder": "is a folder, not a picture",
            "folder.png": "is a folder, not a picture",
            "text.png": "is not a picture of a known kind (PNG, JPEG, ...)",
            "empty.png": "is not a picture of a known kind (PNG, JPEG, ...)",
            "cut.png": "is not a picture of a known kind (PNG, JPEG, ...)",
            "header.png": "the picture header.png cannot be read (it may be",
            "huge.png": "the picture huge.png is too large: Image size (3600000000",
            "page.jpg": "is not a picture of a known kind (PNG, JPEG, ...)",
            "lfs.png": "is not a picture of a known kind (PNG, JPEG, ...)",
            "drawing.svg": "is not a picture of a known kind (PNG, JPEG, ...)",
            "phone.heic": "is not a picture of a known kind (PNG, JPEG, ...)",
            "raw.cr2": "is not a picture of a known kind (PNG, JPEG, ...)",
            "clip.mp4": "is not a picture of a known kind (PNG, JPEG, ...)",
            "zeros.bmp": "is not a picture of a known kind (PNG, JPEG, ...)",
            "flipped.png": "the picture flipped.png cannot be read (it may be",
            "float.tiff": "the picture float.tiff cannot be read (it may be",
            "pixels.npy": "is not a picture of a known kind (PNG, JPEG, ...)",
            "pipe": "is a pipe or a device; give a file",
            "circle": "the picture circle cannot be read (it may be truncated):",
            "dangling": "no picture at dangling",
            "/dev/zero": "is a pipe or a device; give a file",
            "/dev/null": "is a pipe or a device; give a file",
            "/proc/self/mem": "the picture /proc/self/mem cannot be read (it may be",
            "a\x00b.png": "photograph.path: expected a path without a zero byte, got",
            LONG + ".png": "photograph.path: expected a shorter path, got",
            "file/x.png": "the picture file/x.png cannot be read (it may be",
            "done": "is a folder, not a picture",
            "done/stack.npz": "is not a picture of a known kind (PNG, JPEG, ...)",
            "~/nowhere.png": "no picture at /root/nowhere.png",
            "http://example.com/cat.png": "no picture at http://example.com/cat.png",
            "raises.py": "is not a picture of a known kind (PNG, JPEG, ...)",
        },
    ),
    Row(s("--photograph=photo.png", "--config.photograph.level=2"), "photograph.level: expected"),
    Row(s("--photograph=photo.png", "--config.photograph.level=99999999999"), "photograph.level:"),
]

MODELS = [
    *each(
        ["sample", "a", "--workdir=w", "--model={}"],
        {
            "": ". is not a model folder: it has no model_index.json (the",
            "nowhere": "there is no model folder nowhere and no such file, and the",
            "Cosmos64": "there is no model folder Cosmos64 and no such file, and the",
            "cosmos65": "there is no model folder cosmos65 and no such file, and the",
            "./cosmos64": "there is no model folder ./cosmos64 and no such file, and",
            "file": "is empty or cut off (6 bytes); get it again",
            "folder": "is not a model folder: it has no model_index.json (the",
            "thesis": "is not a model folder: it has no model_index.json (the",
            "pipe": "pipe is a pipe or a device; give a file",
            "circle": "there is no model folder circle and no such file, and the",
            "dangling": "there is no model folder dangling and no such file, and the",
            "photo.png": "is not a safetensors file; get it again",
            "photo.png/x": "the hub cannot be reached (HF_HUB_OFFLINE is set) and",
            "done": "is not a model folder: it has no model_index.json (the",
            "training": "is not a model folder: it has no model_index.json (the",
            "lora.safetensors": "holds no text_encoder (cond_stage_model.*), no unet",
            "peft": "is not a model folder: it has no model_index.json (the",
            "cut.safetensors": "is truncated: its header describes 752 bytes, the file has",
            "text.safetensors": "is a web page, not weights; download the file again",
            "empty.safetensors": "is empty or cut off (0 bytes); get it again",
            "nothing.safetensors": "holds no text_encoder (cond_stage_model.*), no unet",
            "pipe.safetensors": "pipe.safetensors is a pipe or a device; give a file",
            "folder.safetensors": "is not a model folder: it has no model_index.json (the",
            "pickled.pt": "is a pickle, a format that can hold programs; get the model",
            "done/stack.npz": "is a pickle, a format that can hold programs; get the model",
            "tiny/unet": "is not a model folder: it has no model_index.json (the",
            "tiny/model_index.json": "is JSON text, not weights; download the file again",
            "tiny/unet/diffusion_pytorch_model.safetensors": "holds no text_encoder",
            "inpainting": "sampling a zoom takes a model for text-to-image, but",
            "upscaler": "sampling a zoom takes a model for text-to-image, but",
            "/dev/zero": "/dev/zero is a pipe or a device; give a file",
            "/dev/null": "/dev/null is a pipe or a device; give a file",
            "/proc/self/mem": "the model /proc/self/mem cannot be read: the disk reports",
            "/proc": "is not a model folder: it has no model_index.json (the",
            LONG: "model: expected a shorter path, got",
            "a\x00b": "model: expected a path without a zero byte, got 'a\\x00b'",
            "x/" * 3000: "model: expected a shorter path, got",
            "\udcff": "there is no model folder '\\udcff' and no such file, and the",
            "runwayml/nowhere": "the hub cannot be reached (HF_HUB_OFFLINE is set) and",
            "runwayml/nowhere@v1": "the hub cannot be reached (HF_HUB_OFFLINE is set) and",
            "runwayml/nowhere@": "'' is not a revision; expected a branch, a tag or a commit",
            "runwayml/nowhere@../x": "'../x' is not a revision; expected a branch, a tag or a",
            "runwayml/nowhere@\x00": "model: expected a path without a zero byte, got",
            "https://huggingface.co/runwayml/sd": "there is no model folder",
            "a/b/c": "there is no model folder a/b/c and no such file, and the",
            "owner/": "there is no model folder owner/ and no such file, and the",
            "/": "/ is not a model folder: it has no model_index.json (the",
            "..": ".. is not a model folder: it has no model_index.json (the",
            "~nobody_here/model": "there is no model folder ~nobody_here/model and no such",
            "hf.co/x/y": "there is no model folder hf.co/x/y and no such file, and",
        },
    ),
    Row(s("--variant=fp16"), "tiny/text_encoder has no weights of variant fp16; there"),
    Row(s("--variant=../../etc"), "tiny/text_encoder has no weights of variant ../../etc;"),
    Row(s("--variant=a\x00b"), "tiny/text_encoder has no weights of variant 'a\\x00b'; there"),
    Row(["sample", "a", "--workdir=w", "--model=cosmos64", "--variant=fp16"], "text_encoder has"),
    *each(
        [*SAMPLE, "--tokenizer={}"],
        {
            "nowhere": "there is no tokenizer folder nowhere",
            "file": "there is no tokenizer folder file",
            "folder": "tokenizer file folder/vocab.json does not exist; the model",
            "pipe": "there is no tokenizer folder pipe",
            "a\x00b": "tokenizer: expected a path without a zero byte, got 'a\\x00b'",
            LONG: "tokenizer: expected a shorter path, got",
            "circle": "there is no tokenizer folder circle",
            "\udcff": "there is no tokenizer folder '\\udcff'",
        },
    ),
    Row(s("--prediction_type=v"), "prediction_type: expected one of '' (unset), epsilon,"),
    Row(s("--config.tokenizer=3"), "there is no tokenizer folder 3"),
]

# Keys of a scheduler's config that cannot be honoured, and values that make no schedule.
SCHEDULER = "scheduler/scheduler_config.json"
SCHEDULERS = [
    Row(
        ["sample", "a", "--workdir=w", "--model=bad", *flags], words, settings(SCHEDULER, **changes)
    )
    for changes, flags, words in [
        (
            {"use_karras_sigmas": True, "_class_name": "DPMSolverMultistepScheduler"},
            [],
            "the scheduler config asks for use_karras_sigmas, which",
        ),
        (
            {"use_karras_sigmas": True, "_class_name": "EulerDiscreteScheduler"},
            [],
            "the scheduler config asks for use_karras_sigmas, which",
        ),
        (
            {"use_exponential_sigmas": True, "_class_name": "EulerDiscreteScheduler"},
            [],
            "the scheduler config asks for use_exponential_sigmas, which",
        ),
        (
            {"use_beta_sigmas": True, "_class_name": "EulerDiscreteScheduler"},
            [],
            "the scheduler config asks for use_beta_sigmas, which solver",
        ),
        (
            {"use_lu_lambdas": True, "_class_name": "DPMSolverMultistepScheduler"},
            [],
            "the scheduler config asks for use_lu_lambdas, which solver",
        ),
        ({"use_flow_sigmas": True}, [], "scheduler DDIMScheduler: use_flow_sigmas=True is not"),
        (
            {"timestep_type": "continuous"},
            [],
            "scheduler DDIMScheduler: timestep_type='continuous' is not",
        ),
        (
            {"interpolation_type": "log_linear", "_class_name": "EulerDiscreteScheduler"},
            [],
            "the scheduler config asks for interpolation_type, which",
        ),
        (
            {"use_dynamic_shifting": True},
            [],
            "scheduler DDIMScheduler: use_dynamic_shifting=True is not",
        ),
        (
            {"algorithm_type": "sde-dpmsolver++"},
            ["--solver=dpmpp_2m"],
            "the scheduler config asks for",
        ),
        (
            {"algorithm_type": "dpmsolver"},
            ["--solver=dpmpp_2m"],
            "the scheduler config asks for algorithm_type='dpmsolver',",
        ),
        (
            {"solver_order": 3},
            ["--solver=dpmpp_2m"],
            "the scheduler config asks for solver_order=3, which solver",
        ),
        (
            {"variance_type": "learned"},
            ["--solver=ddpm"],
            "solver ddpm cannot use a network that learned its variance",
        ),
        ({"variance_type": "mine"}, [], "variance_type: expected one of fixed_small,"),
        (
            {"prediction_type": "velocity"},
            [],
            "prediction_type: expected one of",
        ),
        ({"prediction_type": 3}, [], "prediction_type: expected one of"),
        ({"predict_epsilon": False}, [], "scheduler DDIMScheduler: predict_epsilon=False is not"),
        (
            {"rescale_betas_zero_snr": True},
            [],
            "a schedule with zero terminal SNR needs prediction_type",
        ),
        ({"beta_start": -1}, [], "beta_start and beta_end: expected 1e-7 to 1, got -1.0 to"),
        ({"beta_end": 2}, [], "beta_start and beta_end: expected 1e-7 to 1, got 0.00085 to"),
        ({"beta_start": "small"}, [], "beta_start: expected a number, got 'small'"),
        (
            {"beta_end": float("nan")},
            [],
            "/scheduler/scheduler_config.json is not usable JSON (NaN is",
        ),
        (
            {"trained_betas": [0.1]},
            [],
            "trained_betas: expected num_train_timesteps = 1000 numbers,",
        ),
        (
            {"trained_betas": "cosine"},
            [],
            "trained_betas: expected a list, each a number or null, got",
        ),
        ({"num_train_timesteps": 1}, [], "num_train_timesteps: expected 2 to 1000000, got 1"),
        ({"num_train_timesteps": -5}, [], "num_train_timesteps: expected 2 to 1000000, got -5"),
        ({"num_train_timesteps": 2.5}, [], "num_train_timesteps: expected a whole number, got 2.5"),
        (
            {"timestep_spacing": "quadratic"},
            [],
            "timestep_spacing: expected one of leading, linspace,",
        ),
        ({"clip_sample_range": 0}, [], "clip_sample_range: expected above 0, got 0"),
        (
            {"thresholding": True, "dynamic_thresholding_ratio": 2},
            [],
            "dynamic_thresholding_ratio: expected 0 to 1, got 2",
        ),
        ({"sample_max_value": 0}, [], "sample_max_value: expected at least 1, got 0"),
        (
            {"final_sigmas_type": "one"},
            [],
            "final_sigmas_type: expected one of zero, sigma_min, got",
        ),
        ({}, ["--steps=1001"], "steps: expected 1 to 1000, the number of training"),
        ({}, ["--steps=1000000"], "steps: expected 1 to 1000, the number of training"),
        ({}, ["--solver=lcm", "--steps=51"], "solver lcm: expected 1 to 50 steps, the scheduler's"),
        (
            {"num_train_timesteps": 10},
            ["--steps=11"],
            "steps: expected 1 to 10, the number of training timesteps,",
        ),
    ]
] + [
    Row(["sample", "a", "--workdir=w", "--model=bad"], words, holds(SCHEDULER, json.dumps(content)))
    for content, words in [
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
            "scheduler class FlowMatchEulerDiscreteScheduler is not",
        ),
        (
            {"_class_name": "EDMEulerScheduler", "sigma_data": 0.5},
            "scheduler class EDMEulerScheduler is not known, and its",
        ),
        ({"_class_name": 3}, "scheduler class 3 is not known, and its file does not state"),
        ({}, "scheduler class (none) is not known, and its file does not"),
        ([], "/scheduler/scheduler_config.json is not usable JSON (a JSON"),
    ]
]

FOLDERS = [
    Row(["sample", "a", "--workdir=w", "--model=bad"], words, damage, "not finite" in words)
    for damage, words in BAD_MODELS.values()
]

# The model's own defaults, and what the user adds to them.
DEFAULTS = [
    Row(
        s("--config.sampler.agreement_vae=tiny_vae"),
        "sampler.agreement_vae: expected vae, since tiny has no tiny_vae folder, got 'tiny_vae'",
    ),
    Row(
        ["sample", "a", "--workdir=w", "--model=bad"],
        "sampler.agreement_vae: expected vae, since bad has no tiny_vae folder, got 'tiny_vae'",
        holds("sampler.json", '{"agreement_vae": "tiny_vae"}'),
    ),
    Row(
        ["sample", "a", "--workdir=w", "--model=bad", "--config.sampler.eta=0.5"],
        "sampler.eta: expected 0: only ddim takes one, not dpmpp_2m; choose solver ddim, got 0.5",
        holds("sampler.json", '{"solver": "dpmpp_2m"}'),
    ),
    Row(
        ["sample", "a", "--workdir=w", "--model=bad", "--config.sampler.eta=0.5"],
        "sampler.eta: expected 0: only ddim takes one, not euler; choose solver ddim, got 0.5",
        holds(SCHEDULER, '{"_class_name": "EulerDiscreteScheduler"}'),
    ),
]

ADAPTERS = [
    Row(s("--lora=nan.safetensors"), "not finite", late=True),
    Row(s("--embedding=nan_word.safetensors:<w>"), "not finite", late=True),
    *each(
        [*SAMPLE, "--lora={}"],
        {
            "": "loras[0].path: expected a file, got ''",
            ":": "there is no LoRA file",
            "nowhere.safetensors": "there is no LoRA file nowhere.safetensors",
            "lora.safetensors:x": "--lora: expected path[:strength], got 'lora.safetensors:x'",
            "lora.safetensors:nan": "loras[0].strength: expected a finite number, got nan",
            "lora.safetensors:inf": "loras[0].strength: expected a finite number, got inf",
            "lora.safetensors:0.5:1": "--lora: expected path[:strength], got",
            "nowhere.ckpt": "there is no LoRA file nowhere.ckpt",
            "pickled.pt": "is empty or cut off (5 bytes); get it again",
            "folder": "there is no LoRA file folder",
            "folder.safetensors": "there is no LoRA file folder.safetensors",
            "pipe": "there is no LoRA file pipe",
            "pipe.safetensors": "there is no LoRA file pipe.safetensors",
            "cut.safetensors": "is truncated: its header describes 752 bytes, the file has",
            "text.safetensors": "is a web page, not weights; download the file again",
            "empty.safetensors": "is empty or cut off (0 bytes); get it again",
            "nothing.safetensors": "holds no layers",
            "wide.safetensors": "does not fit the model: 1 misshapen layers",
            "elsewhere.safetensors": "does not fit the model: 1 layers that the model lacks",
            "sdxl.safetensors": "is a LoRA for SDXL, which has a second text encoder, which",
            "alpha.safetensors": "does not fit the model: 1 misshapen layers",
            "alpha_nan.safetensors": "does not fit the model: 1 layers with an unusable alpha",
            "magnitude.safetensors": "is a DoRA (weights rescaled after the sum), which is not",
            "half.safetensors": "does not fit the model: 1 layers without both down and up",
            "ranks.safetensors": "does not fit the model: 1 misshapen layers",
            "int.safetensors": "does not fit the model: 2 tensors of a dtype not in ['F64',",
            "word.safetensors": "does not fit the model: 1 keys of no known spelling",
            "photo.png": "is not a safetensors file; get it again",
            "tiny": "there is no LoRA file tiny",
            "peft": "adapter_model.safetensors does not fit the model: 1 layers of another rank",
            "tiny/unet/diffusion_pytorch_model.safetensors": "does not fit the model: 208 keys of",
            "peft/adapter_model.safetensors": "does not fit the model: 1 layers of another rank",
            "peft_type/adapter_model.safetensors": "adapter_config.json says peft_type = LOHA,",
            "peft_text/adapter_model.safetensors": "does not fit the model: 1 layers of another",
            "peft_list/adapter_model.safetensors": "peft_list/adapter_config.json is not usable",
            "peft_pattern/adapter_model.safetensors": "does not fit the model: 1 layers with an",
            "peft_dora/adapter_model.safetensors": "adapter_config.json says use_dora = True,",
            "peft_nan/adapter_model.safetensors": "peft_nan/adapter_config.json is not usable",
            "peft_zero/adapter_model.safetensors": "does not fit the model: 1 layers of another",
            LONG + ".safetensors": "loras[0].path: expected a shorter path, got",
            "a\x00b.safetensors": "loras[0].path: expected a path without a zero byte, got",
            "circle": "there is no LoRA file circle",
            "owner/name": "there is no LoRA file owner/name",
            "\udcff.safetensors": "there is no LoRA file '\\udcff.safetensors'",
        },
    ),
    *each(
        [*SAMPLE, "--embedding={}"],
        {
            "": "embeddings[0].path: expected a file, got ''",
            ":": "there is no embedding file",
            "nowhere.safetensors:<w>": "there is no embedding file nowhere.safetensors",
            "a:b": "there is no embedding file a:b",
            "word.safetensors:two words": "word.safetensors: the token 'two words' is not one",
            "word.safetensors:star": "word.safetensors: the tokenizer already has star; give",
            "word.safetensors:\udcff": "embeddings[0].token: expected text in UTF-8, got '\\udcff'",
            "lora.safetensors:<w>": "lora.safetensors holds 2 tensors",
            "pickled.pt": "is empty or cut off (5 bytes); get it again",
            "wide_word.safetensors:<w>": "wide_word.safetensors: the embedding has shape [2, 48],",
            "no_word.safetensors:<w>": "no_word.safetensors: the embedding has shape [0, 16],",
            "two_words.safetensors:<w>": "two_words.safetensors holds 2 tensors (a, b); an",
            "folder.safetensors:<w>": "there is no embedding file folder.safetensors",
            "pipe.safetensors:<w>": "there is no embedding file pipe.safetensors",
            "photo.png": "is not a safetensors file; get it again",
            LONG: "embeddings[0].path: expected a shorter path, got",
        },
    ),
    Row(
        [
            "sample",
            "<w>",
            "--workdir=w",
            "--model=tiny",
            "--steps=2",
            "--embedding=long_word.safetensors:<w>",
        ],
        "prompt 0 (<w>...) has 20 tokens, the model takes 6;",
    ),
    Row(
        s("--embedding=word.safetensors:<w>", "--embedding=word.safetensors:<w>"),
        "word.safetensors: the tokenizer already has <w>; give",
    ),
]

UPSCALERS = [
    *each(
        [*SAMPLE, "--upscaler={}"],
        {
            "nowhere": "there is no model folder nowhere and no such file, and the",
            "tiny": "upscaling a zoom takes a model for upscaling, but tiny is",
            "inpainting": "upscaling a zoom takes a model for upscaling, but",
            "folder": "is not a model folder: it has no model_index.json (the",
            "file": "is empty or cut off (6 bytes); get it again",
            "cosmos64": "upscaling a zoom takes a model for upscaling, but cosmos64",
            "owner/name": "the hub cannot be reached (HF_HUB_OFFLINE is set) and",
            "a\x00b": "upscaler.path: expected a path without a zero byte, got",
            "pipe": "pipe is a pipe or a device; give a file",
        },
    ),
    Row(s("--upscaler=upscaler", "--config.upscaler.noise_level=351"), "upscaler.noise_level:"),
    Row(s("--upscaler=upscaler", "--config.upscaler.steps=1001"), "steps: expected 1 to 1000,"),
    Row(
        s("--upscaler=upscaler", "--config.upscaler.solver=lcm", "--config.upscaler.steps=51"),
        "solver lcm: expected 1 to 50 steps, the scheduler's",
    ),
    Row(s("--upscaler=upscaler", "--config.movie.seconds_per_level=1e9"), "movie.seconds_per_leve"),
]

COMBINATIONS = [
    Row(
        s("--config.sampler.method=super_resolution", "--photograph=photo.png"),
        "photograph: expected none with sampler.method super_resolution; leave it out, or choose",
    ),
    Row(
        s("--config.sampler.time_travel=2", "--solver=dpmpp_2m"),
        "sampler.time_travel: expected 1 with a solver that remembers earlier steps, such as dpmp",
    ),
]

EXTEND = ["sample", "c", "--workdir=w", "--extend=done", "--side=deep"]
REVISE = ["sample", "--workdir=w", "--revise=done", "--levels=1"]
CONTINUED = [
    *each(
        ["sample", "c", "--workdir=w", "--side=deep", "--extend={}"],
        {
            "": "--extend: expected the folder of a finished run, got ''",
            "nowhere": "no run at nowhere: it has no config.json",
            "folder": "no run at folder: it has no config.json",
            "file": "file/config.json cannot be read: a file stands where a folder is needed",
            "a\x00b": "--extend: expected a path without a zero byte, got",
            LONG: "--extend: expected a shorter path, got",
            "training": "unknown setting 'name'",
            "cut_record": "is not complete JSON",
            "later_record": "has format 99, this version of pot_jax reads 1 to 2",
            "unfinished": "no stack.npz in unfinished; has it finished?",
            "several": "no stack.npz in several; give one of its samples: stack_000",
            "cut_arrays": "cut_arrays/stack.npz cannot be read (it may be truncated)",
        },
    ),
    Row(EXTEND[:-1], "--side: expected deep or wide, got 'none'"),
    Row([*EXTEND, "--side=up"], "--side: expected deep or wide, got 'up'"),
    Row(["sample", *EXTEND[2:]], "prompts: expected one for each new level, got 'none'"),
    Row(["sample", " ", *EXTEND[2:]], "prompts: the prompt of level 2 is empty; write one"),
    Row([*EXTEND, "--revise=done"], "--extend, --revise and --config exclude each other"),
    Row([*EXTEND, "--config=cosmos"], "--extend, --revise and --config exclude each other"),
    Row([*EXTEND, "--levels=1"], "--levels goes with --revise; leave it out"),
    Row([*REVISE, "--side=deep"], "--side goes with --extend; leave it out"),
    Row(s("--side=deep"), "--side goes with --extend; leave it out"),
    Row(s("--levels=1"), "--levels goes with --revise; leave it out"),
    Row(REVISE[:-1], "--levels: expected some of 0 to 1, not all, such as 3,7, got 'none'"),
    *each(
        [*REVISE, "--levels={}"],
        {
            text: f"--levels: expected some of 0 to 1, not all, such as 3,7, got '{text or 'none'}'"
            for text in ("", "7", "0,1", "1,1", "-1", "one", "1;0", "1,", "1.0")
        },
    ),
    Row(["sample", "c", "d", *REVISE[1:]], "prompts: expected none, or 1, one each, got 2"),
    Row([*EXTEND, "--zoom_factor=4"], "zoom: expected the size and zoom factor of done; leave"),
    Row([*EXTEND, "--config.zoom.height=32"], "zoom: expected the size and zoom factor of done"),
    Row(
        [*EXTEND, "--config.zoom.placement=((2,2),(2,2))"],
        "zoom.placement: expected 2 pairs, and those of done as they are, got",
    ),
    Row([*EXTEND, "--config.zoom.placement=((0,0),(1,0))"], "zoom.placement: expected multiples"),
    Row([*EXTEND, "--photograph=photo.png"], "photograph: expected none with held levels; leave"),
    Row([*EXTEND, "--upscaler=upscaler"], "upscaler: expected none with held levels; leave"),
    Row(
        [*EXTEND, "--config.sampler.method=outpainting"],
        "held: expected none with sampler.method outpainting; leave it out, or choose method joint",
    ),
    Row([*REVISE, "--workdir=done"], "done holds another run"),
    Row(REVISE, "--model: expected tiny, which made the run (other weights), got tiny", late=True),
]

SIZES = [
    Row(s("--config.zoom.height=17"), "zoom.height: expected a multiple of 8 pixels at"),
    Row(s("--config.zoom.height=1"), "zoom.height: expected a multiple of 8 pixels at zoom_factor"),
    Row(s("--config.zoom.height=2"), "zoom.height: expected a multiple of 8 pixels at zoom_factor"),
    Row(s("--config.zoom.width=30"), "zoom.width: expected a multiple of 8 pixels at zoom_factor"),
    Row(s("--config.zoom.height=100000000"), "1 x 2 levels of 100000000 x 16 pixels needs 83.4"),
    Row(s("--config.zoom.height=100000000", "--config.zoom.width=100000000"), "1 x 2 levels of"),
    Row(s("--config.zoom.height=1180591620717411303424"), "1 x 2 levels of"),
    Row(s("--config.zoom.width=4000000"), "movie.size: a movie of pictures of 16 x 4000000 pixels"),
    *each(
        [*SAMPLE, "--config.zoom.zoom_factor={}"],
        {
            "3": "zoom.height: expected a multiple of 12 pixels at",
            "16": "zoom.height: expected a multiple of 64 pixels at",
            "1000": "zoom.height: expected a multiple of 4000 pixels at",
            "1180591620717411303424": "zoom.height: expected a multiple of 4722366482869645213696",
        },
    ),
    Row(s("--config.zoom.zoom_factor=5", "--config.zoom.height=80"), "zoom.width: expected a"),
    *each(
        [*SAMPLE, "--config.zoom.placement={}"],
        {
            "((1,0),)": "zoom.placement: expected multiples of 2 pixels, the",
            "((8,0),)": "zoom.placement: offsets[0] = (8, 0) puts the window of",
            "((-8,0),)": "zoom.placement: offsets[0] = (-8, 0) puts the window of",
            "((2,2),(2,2))": "zoom.placement: expected 1 pairs, one for each level but",
            "((1000000000000000,0),)": "zoom.placement: offsets[0] = (1000000000000000, 0) puts",
        },
    ),
    Row(
        s("--loop", "--config.zoom.placement=((2,2),)"), "zoom.placement: expected 2 pairs, one for"
    ),
    Row(
        s("--loop", "--config.zoom.placement=((0,0),(8,0))"),
        "zoom.placement: offsets[1] = (8, 0) puts the window of level 0 at rows",
    ),
    Row(["sample", "a", *SAMPLE[3:], "--loop"], "zoom.loop: expected at least 2 prompts, one a"),
    Row(s("--loop", "--zoom_factor=16"), "zoom.height: expected a multiple of 64 pixels at"),
    Row(s("--loop=perhaps"), "--loop=perhaps: expected true or false"),
    Row(s("--loop", "--photograph=photo.png"), "photograph: expected an open chain of levels, got"),
    *each(
        [*SAMPLE, "--loop", "--config.sampler.{}"],
        {
            "method=outpainting": "sampler.method outpainting: expected an open chain of levels",
            "method=super_resolution": "sampler.method super_resolution: expected an open",
            "blend=enlarged": "sampler.blend enlarged: expected an open chain of levels, got a",
            "noise=blurred": "sampler.noise blurred: expected an open chain of levels, got a",
        },
    ),
    Row(s("--config.num_samples=100000000"), "x 2 levels of 16 x 16 pixels needs 191 GiB of"),
    Row(s("--config.num_samples=4294967296"), "x 2 levels of 16 x 16 pixels needs 8.19e+03 GiB"),
    Row(s("--config.movie.seconds_per_level=1e9"), "movie.seconds_per_level: expected a movie of"),
    Row(s("--config.movie.seconds_per_level=1e300"), "movie.seconds_per_level: expected a movie"),
    Row(
        s("--config.zoom.height=16", "--config.zoom.width=65536", "--config.movie.size=4096"),
        "movie.size: a movie of pictures of 16 x 65536 pixels would",
    ),
]

DEVICES = [
    Row(s("--devices=gpu"), "--devices: there is no gpu here: "),
    Row(s("--devices=tpu"), "--devices: there is no tpu here: "),
    Row(s("--distributed"), "no cluster's environment was found (Cloud TPU, Slurm, Open"),
    Row(s("--dtype=float16"), "dtype: a CPU does not compute in float16; use float32 or"),
    Row(s("--compilation_cache=a\x00b"), "--compilation_cache: expected a path without a zero"),
]

MODEL_COMMANDS = [
    Row(["convert", "nowhere", "new"], "there is no model folder nowhere and no such file, and"),
    Row(["convert", "file", "new"], "file is empty or cut off (6 bytes); get it again"),
    Row(["convert", "folder", "new"], "folder is not a model folder: it has no model_index.json"),
    Row(["convert", "thesis", "new"], "thesis is not a model folder: it has no model_index.json"),
    Row(["convert", "pipe", "new"], "pipe is a pipe or a device; give a file"),
    Row(["convert", "lora.safetensors", "new"], "lora.safetensors holds no text_encoder"),
    Row(["convert", "a\x00b", "new"], "convert: expected a path without a zero byte, got"),
    Row(["convert", "owner/name", "new"], "the hub cannot be reached (HF_HUB_OFFLINE is set) and"),
    *each(
        ["convert", "tiny", "{}"],
        {
            "folder/../thesis": "exists already; remove it or name another folder",
            "tiny": "exists already; remove it or name another folder",
            "file": "exists already; remove it or name another folder",
            "file/x": "file: a file stands where a folder is needed; give another",
            "done": "exists already; remove it or name another folder",
            "/proc/x": "cannot use the folder /proc: it, or a folder on the way to",
            LONG: "convert: expected a shorter path, got",
            "a\x00b": "convert: expected a path without a zero byte, got 'a\\x00b'",
            "circle": "exists already; remove it or name another folder",
            "dangling": "exists already; remove it or name another folder",
            "": "exists already; remove it or name another folder",
        },
    ),
    Row(["convert", "", "new"], ". is not a model folder: it has no model_index.json (the"),
    Row(["convert", "tiny", "circle/x"], "circle: a file stands where a folder is needed; give"),
    Row(["convert", "tiny", "."], "exists already; remove it or name another folder"),
    Row(["convert", "tiny", "/dev/null"], "exists already; remove it or name another folder"),
    Row(["export", "nowhere", "new"], "there is no model folder nowhere and no such file, and the"),
    Row(["export", "owner/name", "new"], "the hub cannot be reached (HF_HUB_OFFLINE is set) and"),
    *each(
        ["export", "tiny", "{}"],
        {
            "tiny": "exists already; remove it or name another folder",
            "file/x": "file: a file stands where a folder is needed; give another",
            "/proc/x": "cannot use the folder /proc: it, or a folder on the way to",
            LONG: "export: expected a shorter path, got",
            "circle": "exists already; remove it or name another folder",
            "": "exists already; remove it or name another folder",
        },
    ),
    Row(["export", "", "new"], ". is not a model folder: it has no model_index.json (the"),
    Row(["export", "tiny", "circle/x"], "circle: a file stands where a folder is needed; give"),
    Row(["export", "tiny", "."], "exists already; remove it or name another folder"),
    Row(["export", "tiny", "/dev/null"], "exists already; remove it or name another folder"),
    Row(["convert", "tiny", "new", "--variant=fp16"], "tiny/text_encoder has no weights of"),
    Row(["convert", "tiny", "new", "--tokenizer=nowhere"], "there is no tokenizer folder nowhere"),
    Row(["export", "tiny", "new", "--tokenizer=folder"], "tokenizer file folder/vocab.json does"),
    Row(["convert", "bad", "new"], "is not usable JSON", holds("unet/config.json", "")),
    Row(
        ["export", "bad", "new"],
        "is not a safetensors file",
        flipped("unet/diffusion_pytorch_model.safetensors", 8),
    ),
]

# Where the superuser is not the user.
PERMISSIONS = [
    Row(s("--config=secret.json"), "no permission"),
    Row(s("--flagfile=secret.json"), "no permission"),
    Row(s("--photograph=secret.png"), "no permission"),
    Row(["sample", "a", "--workdir=locked", "--model=tiny"], "no permission"),
    Row(["sample", "a", "--workdir=locked/w", "--model=tiny"], "no permission"),
    Row(["convert", "tiny", "locked/new"], "no permission"),
    Row(["render", "--workdir=done", "--output=locked/zoom.mp4"], "no permission"),
]

# Scene files, and flags that go with them.
SCENES = [
    *each(
        ["sample", "--workdir=w", "--config={}.toml"],
        {
            "scene_bad": "--config: scene_bad.toml is not TOML: ",
            "scene_twice": "--config: scene_twice.toml is not TOML: ",
            "scene_latin": "--config: scene_latin.toml cannot be read: ",
            "scene_gap": "prompts: no span has level 2; give it one",
            "scene_open": "the span '1-' has no end; give zoom.levels, how many",
            "scene_unknown": ["unknown setting 'sufix'; known: ", "did you mean suffix?"],
            "scene_date": "prefix: expected a string, got datetime.date(2024, 1, 1)",
            "scene_none": "prompts: expected at least one, got none",
            "scene_nan": "sampler.eta: expected a finite number, got nan",
            "nowhere": "--config: no file 'nowhere.toml' and no shipped config of that name",
        },
    ),
    Row(["sample", "--workdir=w", "--config=scene", "a"], "no file 'scene'"),
    Row(["sample", "--workdir=w", "--config=scene.toml", "a"], "zoom.levels: expected 1, as there"),
    Row(s("--prompt_weights=2"), "prompt_weights"),
    Row(s("--long_prompts=perhaps"), "long_prompts"),
    Row(s("--config.zoom.levels=3"), "zoom.levels: expected 2, as there are prompts, got 3"),
    Row(s("--config.zoom.levels=-1"), "zoom.levels: expected >= 0, got -1"),
    Row(["train", "--config=scene.toml", "--workdir=w"], "unknown setting"),
]

WEIGHTED = [
    Row(s("--prompt_weights", "(a:1.2.3)"), "a weight in a prompt: expected a number such as 1.2"),
    Row(s("--prompt_weights", "(a:1000)"), "a weight in a prompt: expected a number from -100"),
    Row(s("a b c d e f star"), "or read it in chunks with --long_prompts"),
    Row(s("--negative_prompt=a b c d e f star"), "or read it in chunks with --long_prompts"),
]

# What prompts and values by level may be given as, from files and from Python: settings, words.
SPANS = [
    ({"prompts": {}}, "prompts: expected at least one"),
    ({"prompts": {"0-1": "a", "1-2": "b"}}, "level 1 is in the spans '0-1' and '1-2'; leave it"),
    ({"prompts": {"0-1": "a", "3": "b"}}, "prompts: no span has level 2; give it one"),
    ({"prompts": {"1-2": "a"}}, "prompts: no span has level 0"),
    ({"prompts": {"0": "a", "1-": "b"}}, "the span '1-' has no end; give zoom.levels, how many"),
    ({"prompts": {"0-9": "a"}, "zoom": {"levels": 4}}, "prompts: expected levels 0 to 3, got 9"),
    ({"prompts": {"0-1": "a"}, "zoom": {"levels": 4}}, "no span has level 2, 3 (levels 0 to 3)"),
    ({"prompts": {"4-": "a"}, "zoom": {"levels": 4}}, "a span that begins before it ends (levels"),
    ({"prompts": {"3-1": "a"}}, "prompts: expected a span that begins before it ends, got '3-1'"),
    ({"prompts": {"all": "a"}}, "prompts: expected levels such as 0-3, 4 or 5- (to the last), got"),
    ({"prompts": {"-3": "a"}}, "expected levels such as"),
    ({"prompts": {"0–3": "a"}}, "expected levels such as"),
    ({"prompts": {"0-99999": "a"}}, "expected levels such as"),
    ({"prompts": {"": "a"}}, "expected levels such as"),
    ({"prompts": {True: "a"}}, "expected levels such as"),
    ({"prompts": {"0-1": 3}}, "prompts['0-1']: expected a string, got 3"),
    ({"prompts": {"0-1": {"1": "a"}}}, "prompts['0-1']: expected a string"),
    ({"prompts": {"0-1": " "}}, "the prompt of level 0 is empty; write one"),
    ({"prompts": ["a", ["0", "b"]]}, "prompts[1]: expected a string"),
    ({"prompts": "a"}, "prompts: expected a list, got 'a'"),
    ({"prompts": ["a"], "zoom": {"levels": 2}}, "zoom.levels: expected 1, as there are prompts"),
    ({"prompts": ["a"], "view_words": "far"}, "view_words: expected a list, got 'far'"),
    ({"prompts": ["a"], "prefix": 3}, "prefix: expected a string, got 3"),
    (
        {"prompts": ["a"], "negative_prompt": ["b", "c"]},
        "expected one value, or a list of 1, one a level, got ('b', 'c')",
    ),
    ({"prompts": ["a"], "negative_prompt": {"0-1": "b"}}, "expected levels 0 to 0, got 1"),
    ({"prompts": ["a"], "negative_prompt": [1]}, "negative_prompt[0]: expected a string, got 1"),
    (
        {"prompts": ["a"], "sampler": {"guidance_scale": [1, 2]}},
        "sampler.guidance_scale: expected one value, or a list of 1, one a level, got (1.0, 2.0)",
    ),
    (
        {"prompts": ["a"], "sampler": {"guidance_scale": [-1]}},
        "sampler.guidance_scale[0]: expected 0 to 1000, got -1",
    ),
    (
        {"prompts": ["a"], "sampler": {"guidance_scale": {"0": "x"}}},
        "sampler.guidance_scale['0']: expected a number, got 'x'",
    ),
    ({"prompts": ["a"], "prefx": "b"}, "did you mean prefix?"),
    ({"prompts": ["a"], "steps": 3}, "did you mean sampler.steps?"),
    ({"prompts": ["a"], "sampler": {"guidance": 3}}, "did you mean sampler.guidance_scale?"),
]

KINDS = {
    name.lower(): rows
    for name, rows in globals().items()
    if name.isupper() and isinstance(rows, list) and rows and isinstance(rows[0], Row)
}
# Those for which settings suffice: JAX is not even imported.
QUICK = ("commands", "flags", "numbers", "prompts", "configs", "scenes")
