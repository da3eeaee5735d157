"""The settings of a run: frozen and validated, and the files and records that hold them.

A configuration is plain data: the defaults, overlaid by a file (`configs/*.py`, JSON, or the
`config.json` of a run), by flags or by Python's keywords. It becomes `RunSettings` at once; nothing
later reads single keys. What depends on the model (its size, its tokenizer's length) is checked by
the pipelines. Does not import JAX, so that `--help` and errors in settings appear at once.
"""

import dataclasses
import math
import pathlib
import re
import runpy
import sys
import tomllib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pot_jax.checks import (
    BY_LEVEL,
    Path,
    Settings,
    Within,
    build,
    checked,
    parsed_json,
    require,
    to_dict,
)
from pot_jax.errors import UserError, edge, one_line, shown

# The names of the tables' entries. The tables need JAX and are elsewhere; a test compares them.
SOLVERS = ("ddpm", "ddim", "euler", "euler_ancestral", "dpmpp_2m", "lcm", "pndm", "unipc", "heun")
SOLVERS += ("dpmpp_3m", "dpmpp_2m_sde", "dpmpp_3m_sde", "lms", "pndm_prk")  # diffusion.solvers
STOCHASTIC_SOLVERS = ("ddpm", "euler_ancestral", "lcm", "dpmpp_2m_sde", "dpmpp_3m_sde")
# Those whose sigmas may lie elsewhere than at evenly spaced timesteps.
PLACED_SOLVERS = ("euler", "heun", "lms", "unipc", *(n for n in SOLVERS if n.startswith("dpmpp")))
SPACES = ("latent", "pixel", "delivery")  # zoom.agreement
BLENDS = ("laplacian", "average", "iterative", "none", "enlarged", "gradient")  # zoom.agreement
NOISES = ("shared", "per_level", "blurred")  # zoom.operators
METHODS = ("joint", "outpainting", "super_resolution")  # pipelines.sequential
KERNELS = ("mean", "gaussian")  # zoom.operators
PHOTOGRAPH_METHODS = ("adam", "project")  # zoom.photograph
FITS = ("crop", "pad")  # media.images.read_photograph
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")  # diffusion.schedule
TIMESTEP_SPACINGS = ("leading", "linspace", "trailing")  # likewise
SIGMAS = ("timesteps", "karras", "exponential", "beta")  # likewise

SEED = Annotated[int, Within(f"a whole number from 0 to {2**32 - 1}", 0, 2**32 - 1)]
Count = Annotated[int, Within("at least 1", 1)]
Natural = Annotated[int, Within(">= 0", 0)]
Positive = Annotated[float, Within("> 0", math.ulp(0))]
Share = Annotated[float, Within("0 to 1", 0, 1)]
Rest = Annotated[float, Within("0 to 3600", 0, 3600)]  # seconds of a movie
# Of guidance; far above its end float32 overflows, which only shows after sampling.
Scale = Annotated[float, Within("0 to 1000", 0, 1000)]
Extent = Annotated[int, Within("a whole number from 0 to 65535", 0, 65535)]  # in pixels

# The shipped configs: a link to `configs/` in a checkout, a folder in a wheel.
CONFIGS = pathlib.Path(__file__).parent / "configs"


# Settings that a model chooses for its own blend, and that another leaves alone.
WITH_BLEND = ("strip", "own_colour", "agree_first", "agree_every", "blend_release")


# Sizes and a crop that a model may be told of, in the order of its input.
SIZES = ("original_size", "crop", "target_size")
SIZES += tuple(f"negative_{name}" for name in SIZES)


@dataclasses.dataclass(frozen=True)
class SamplerSettings(Settings, group="sampler"):
    """How one zoom is sampled."""

    solver: Literal[*SOLVERS, ""] = ""  # empty: the one that the model's scheduler config names
    steps: Count = 50
    # Empty: as the model's scheduler config says. Few-step models such as Lightning need trailing.
    timestep_spacing: Literal[(*TIMESTEP_SPACINGS, "")] = ""
    # Where the steps' noise levels lie, of `PLACED_SOLVERS`; empty: as the scheduler config says.
    sigmas: Literal[(*SIGMAS, "")] = ""
    # s in u + s (c - u); 1 or less is no guidance.
    guidance_scale: Annotated[Scale, BY_LEVEL] = 4.0
    # How much of the contrast added by guidance is removed, 0 to 1 (arXiv 2305.08891; 0.7 there).
    guidance_rescale: Share = 0.0
    eta: Share = 0.0  # DDIM's noise, 0 to 1: 0 is none, 1 as much as DDPM's; others need 0
    # Where blend and render happen; `delivery`: only in the delivered pictures.
    space: Literal[SPACES] = "pixel"
    pixel_every: Count = 1  # in pixel space: decode at every k-th step, blend latents at the others
    blend: Literal[BLENDS] = "laplacian"
    blend_weight: Share = 0.3  # w: the observation k levels wider weighs w^k; the paper's is 1
    kernel: Literal[KERNELS] = "mean"
    # Of the steps; `blurred` is what public ports of the paper draw, of too little variance.
    noise: Literal[NOISES] = "shared"
    # `shared`: as the noise of the steps; the paper draws z_T per level.
    initial_noise: Literal["shared", "per_level"] = "shared"
    # In pixel space: how much of the autoencoder's own loss, z - E(dec z), a step puts back at most
    # in each value of the latents; 0: all of it.
    residual_limit: Annotated[float, Within(">= 0", 0)] = 0.0
    gradient_steps: Annotated[int, Within(">= 1", 1)] = 5  # for blend = gradient
    gradient_rate: Positive = 0.05
    # Levels agree through it in pixel space; in the last step always through the vae.
    agreement_vae: Literal["vae", "tiny_vae"] = "vae"
    # Levels together, or in turn: deepest first, or widest first (the baselines of Table 1).
    method: Literal[METHODS] = "joint"
    # Of the blends laplacian and gradient: width of the strip along a window's border in which the
    # parent prevails, relative to the window's smaller side; 0: none.
    strip: Annotated[float, Within("0 to 0.5", 0, 0.5)] = 0.0
    # Of the same blends: how much of the parent's pull on a level's mean colour is taken back.
    own_colour: Share = 0.0
    # The share of the steps, from the start, at which levels always agree (1: all); after them they
    # agree at every `agree_every`-th step, and at the last two.
    agree_first: Share = 1.0
    agree_every: Count = 1
    # The share of the blend weight that is given up after those steps, and in delivery; 1: all. No
    # effect while `agree_first` is 1.
    blend_release: Share = 0.0
    time_travel: Count = 1  # how often each step is taken (RePaint); 1 is once, as usual
    # What SDXL is told of a picture, in pixels: the size of its original, height and width; where
    # it was cropped from that, top and left; its own size. Empty: the picture's, uncropped.
    original_size: tuple[Extent, ...] = ()
    crop: tuple[Extent, ...] = ()
    target_size: tuple[Extent, ...] = ()
    # What guidance steers away from; empty: as above.
    negative_original_size: tuple[Extent, ...] = ()
    negative_crop: tuple[Extent, ...] = ()
    negative_target_size: tuple[Extent, ...] = ()

    @property
    def scheduled(self) -> bool:
        """Whether steps differ in how levels agree."""
        return self.agree_first < 1 and (self.agree_every > 1 or self.blend_release > 0)

    @property
    def late_weight(self) -> float:
        """The blend weight after the first steps, and of delivery."""
        return self.blend_weight * (1 - self.blend_release * self.scheduled)

    def _check_ranges(self):
        # Without a name, the model's scheduler config decides, and the solver's plan checks.
        fits = self.eta == 0 or self.solver in ("", "ddim")
        self.require("eta", fits, f"0: only ddim takes one, not {self.solver}; choose solver ddim")
        fits = self.sigmas in ("", "timesteps") or self.solver in ("", *PLACED_SOLVERS)
        usable = f"timesteps with solver {self.solver}; others place theirs: "
        self.require("sigmas", fits, usable + ", ".join(PLACED_SOLVERS))
        for name in SIZES:
            self.require(name, len(getattr(self, name)) in (0, 2), "two numbers: down, then across")
        fits = self.method == "joint" or self.space != "delivery"
        self.require("space", fits, f"latent or pixel with method {self.method}")

    def with_defaults(self, usual: Mapping[str, Any], stated: Iterable[str]) -> "SamplerSettings":
        """Returns the settings with a model's own defaults for those that are not stated."""
        stated = {*stated}
        if "solver" in stated and self.solver != "ddim":
            stated.add("eta")  # the model's goes with its own solver
        if "solver" in stated and self.solver not in PLACED_SOLVERS:
            stated.add("sigmas")  # likewise
        for name in stated & {"blend", "method"}:  # likewise, what was chosen for its own blend
            if getattr(self, name) != usual.get(name, getattr(SamplerSettings, name)):
                stated = {*stated, *WITH_BLEND}
        if "blend_weight" in stated:  # it holds at every step
            stated.add("blend_release")
        fresh = {name: value for name, value in usual.items() if name not in stated}
        return dataclasses.replace(self, **fresh) if fresh else self


def agrees_at(step: Any, first: Any, every: Any, last: Any) -> Any:
    """Returns whether levels agree at a step: one before `first`, every k-th, or of the last two.

    `last` is the number of the last step, all from 0; numbers of Python or arrays.
    """
    return (step < first) | (step % every == 0) | (step >= last - 1)


@dataclasses.dataclass(frozen=True)
class ZoomSettings(Settings, group="zoom"):
    """How the levels lie within each other."""

    # p: level i+1 shows a window 1/p as wide as level i.
    zoom_factor: Annotated[int, Within("a whole number >= 2", 2)] = 2
    height: Natural = 0  # of every picture, in pixels; 0 is the model's own size
    width: Natural = 0
    # How many, for prompts by span; 0: as the prompts say.
    levels: Annotated[int, Within("0 to 9999", 0, 9999)] = 0
    # For each level but the widest, (down, right): its centre's offset from its parent's centre,
    # in parent pixels, multiples of the autoencoder's factor; empty: every level is centred.
    placement: tuple[tuple[int, int], ...] = ()
    # The deepest level's window shows level 0 again, so that the film repeats without end; the
    # placement then has one more pair, for level 0 in the deepest.
    loop: bool = False


@dataclasses.dataclass(frozen=True)
class PhotographSettings(Settings, group="photograph"):
    """A photograph that one level has to agree with."""

    path: Path = ""  # empty: no photograph
    level: Annotated[int, Within("0 or more", 0)] = 0
    # Of all photographs, `photographs` included:
    method: Literal[PHOTOGRAPH_METHODS] = "project"
    fit: Literal[FITS] = "crop"  # the largest centred crop; `pad`: all of it, and no edge is tied


@dataclasses.dataclass(frozen=True)
class LevelPhotographSettings(Settings, group="photographs"):
    """One of several photographs."""

    path: Path = ""  # empty: it was given as an array, from Python
    level: Annotated[int, Within("0 or more", 0)] = 0


@dataclasses.dataclass(frozen=True)
class LoraSettings(Settings, group="loras"):
    """A LoRA file merged into the model."""

    path: Path = ""
    strength: float = 1.0
    sha256: str = ""  # of the file: checked if given, and always recorded

    def _check_ranges(self):
        self.require("path", bool(self.path), "a file")


@dataclasses.dataclass(frozen=True)
class EmbeddingSettings(Settings, group="embeddings"):
    """A textual inversion added to the model's tokenizer and text encoder."""

    token: str = ""  # the word for it in prompts; empty: the file's own
    path: Path = ""
    sha256: str = ""  # as above

    def _check_ranges(self):
        self.require("path", bool(self.path), "a file")


@dataclasses.dataclass(frozen=True)
class UpscalerSettings(Settings, group="upscaler"):
    """How a delivered zoom is upscaled; the defaults are those of diffusers' pipeline."""

    path: Path = ""  # the upscaler, as for `model`; empty: no upscaling
    steps: Count = 75
    guidance_scale: Scale = 9.0
    noise_level: Natural = 20  # a timestep, to the model's max_noise_level: higher redraws more
    solver: Literal[*SOLVERS, ""] = ""  # as in `sampler`
    rows: Count = 2  # batch rows of its network at a time on each device, which bounds memory


@dataclasses.dataclass(frozen=True)
class MovieSettings(Settings, group="movie"):
    """The movie of a run."""

    seconds_per_level: Positive = 1.5  # in which the view moves from one level to the next
    seconds: Annotated[float, Within(">= 0", 0)] = 0.0  # of the film; over 0, instead of the above
    fps: Annotated[int, Within("1 to 240", 1, 240)] = 30
    size: Annotated[int, Within("16 to 4096", 16, 4096)] = 512  # shorter side, in pixels
    aspect: str = ""  # width:height of the film, such as 16:9; empty: the pictures' own
    fit: Literal["crop", "letterbox"] = "crop"  # of pictures that have another aspect
    direction: Literal["in", "out", "both"] = "in"
    easing: Rest = 0.0  # seconds in which the camera gains its speed after a rest, and loses it
    hold: Rest = 0.5  # seconds of rest at both ends of a film that is no loop
    captions: bool = False  # each level's prompt, over the film
    scale_bar: bool = False  # needs width_metres
    font: Path = ""  # of both, a .ttf or .otf file; empty: one of ASCII letters

    def _check_ranges(self):
        fits = not self.aspect or 0.1 <= self.ratio <= 10
        self.require("aspect", fits, "width:height, such as 16:9, from 1:10 to 10:1")

    @property
    def ratio(self) -> float:
        """Width over height of `aspect`; 0 if it states none."""
        numbers = re.fullmatch(r"(\d{1,5}(?:\.\d+)?):(\d{1,5}(?:\.\d+)?)", self.aspect)
        width, height = map(float, numbers.groups() if numbers else (0, 1))
        return width / height if height else 0.0


@dataclasses.dataclass(frozen=True)
class OwnPartSettings(Settings, group="own_parts"):
    """A Python function that a run used instead of a named part."""

    part: Literal["solver", "blend", "agreement", "guidance"]
    name: str  # its module and qualified name
    sha256: str = ""  # of its source; empty if it cannot be read, and then it is not checked


@dataclasses.dataclass(frozen=True)
class RunSettings(Settings):
    """Everything that decides a run and its files."""

    OLD_NAMES: ClassVar[Mapping[str, str]] = {
        "stacks": "num_samples",
        "decode_rows": "batch_rows",
    }

    # A folder, a checkpoint file, a shipped model's name, or the hub's owner/name@revision.
    model: Path = "cosmos128"
    variant: str = ""  # which copy of its weights ("fp16"); empty: the plain copy, or the only one
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of the networks
    tokenizer: Path = ""  # folder of a tokenizer to use instead of the model's own
    # What the weights predict, if it is not what the model says; an SD 2.x file does not say it.
    prediction_type: Literal[("", *PREDICTION_TYPES)] = ""
    allow_pickle: bool = False  # read a pickled checkpoint (.ckpt); none of its code is run
    # A folder or file with a component to use instead of the model's own; empty: its own.
    unet: Path = ""
    vae: Path = ""
    loras: tuple[LoraSettings, ...] = ()
    embeddings: tuple[EmbeddingSettings, ...] = ()
    # One per level, widest first, or by span: {"0-3": "a galaxy", "4": "a star", ...}.
    prompts: Annotated[tuple[str, ...], BY_LEVEL] = ()
    # Appended to the prompts of a span of several levels, from its widest to its deepest, evenly;
    # empty: none. The shipped models' captions have these; "" is a view in the middle.
    view_words: tuple[str, ...] = ("far away", "", "close")
    prefix: str = ""  # before every prompt
    suffix: str = ""  # after every prompt
    prompt_weights: bool = False  # (word:1.2), (word) and [word] weigh words, as in AUTOMATIC1111
    long_prompts: bool = False  # prompts of any length, read in chunks of the text encoder's
    # Width of level 0's view in metres, for scale bars; 0: not stated.
    width_metres: Annotated[float, Within(">= 0", 0)] = 0.0
    negative_prompt: Annotated[str, BY_LEVEL] = ""
    seed: SEED = 0
    num_samples: Count = 1  # zooms sampled together, with seeds seed, seed + 1, ...
    save_every: Natural = 25  # steps between saved states; 0 never
    preview_every: Natural = 0  # steps between previews, rounded up to chunks of 5; 0 never
    # Pictures of the autoencoder, and batch rows of the network, at a time on each device; 0: as
    # many as its memory allows (`pipelines.program.rows_that_fit`).
    batch_rows: Natural = 0
    # Devices by use, such as "samples:2,levels:4,params:1"; axes not named are 1, and one named
    # without a number takes the rest. "" or "auto": chosen (`parallel.mesh.device_mesh`).
    mesh: str = ""
    record_disagreement: bool = False  # of every step, before blending, in metrics.json
    metadata: Literal["all", "none"] = "all"  # whether pictures, movie and page carry the recipe
    sampler: SamplerSettings = SamplerSettings()
    zoom: ZoomSettings = ZoomSettings()
    photograph: PhotographSettings = PhotographSettings()
    photographs: tuple[LevelPhotographSettings, ...] = ()  # besides that one, of other levels
    upscaler: UpscalerSettings = UpscalerSettings()
    movie: MovieSettings = MovieSettings()
    own_parts: tuple[OwnPartSettings, ...] = ()  # filled in by `pot_jax.sample`
    held: tuple[tuple[int, str], ...] = ()  # likewise: held levels, with digests of their bytes

    def _check_ranges(self):
        most = 2**32 - self.seed  # so that every sample has a seed
        expected = f"at most {most}: seeds are below 2^32, and the first is {self.seed}"
        self.require("num_samples", self.num_samples <= most, expected)
        mesh_axes(self.mesh)
        levels = [one.level for one in self.every_photograph]
        require(len({*levels}) == len(levels), "photographs", "one of each level", levels)
        fits = not self.movie.scale_bar or (self.width_metres > 0 and not self.zoom.loop)
        expected = "the width of level 0's view, with movie.scale_bar, and no loop, which has none"
        self.require("width_metres", fits, expected)

    @property
    def every_photograph(self) -> tuple[PhotographSettings | LevelPhotographSettings, ...]:
        """The photograph, if it has a path, and the photographs."""
        return (self.photograph,) * bool(self.photograph.path) + self.photographs


MESH_AXES = ("samples", "levels", "params")


def mesh_axes(text: str) -> dict[str, int | None]:
    """Returns the sizes of axes that the setting `mesh` names, None for the rest; {} if chosen."""
    if text in ("", "auto"):
        return {}
    pairs = [re.fullmatch(r"(\w+)(?::([1-9]\d{0,4}))?", part) for part in text.split(",")]
    sizes = {m[1]: int(m[2]) if m[2] else None for m in pairs if m}
    fits = len(sizes) == len(pairs) and {*sizes} <= {*MESH_AXES}
    expected = f"auto, or sizes of {', '.join(MESH_AXES)}, one at most without a number"
    expected += ", such as samples:2,levels:4"
    require(fits and [*sizes.values()].count(None) < 2, "mesh", expected, text)
    return sizes


def of_sample(settings: RunSettings, seed: int) -> RunSettings:
    """Returns a run's settings as those of its sample of this seed, by itself."""
    several = mesh_axes(settings.mesh).get("samples", 1) != 1
    mesh = "" if several else settings.mesh
    return dataclasses.replace(settings, seed=seed, num_samples=1, mesh=mesh)


# The settings that are arguments of `weights.load.load`, besides LoRAs and embeddings.
LOADING = ("dtype", "variant", "tokenizer", "prediction_type", "allow_pickle", "unet", "vae")


def how_to_load(settings: RunSettings) -> dict[str, Any]:
    """Returns the arguments of `load` that settings give; None where they leave it open."""
    return {name: getattr(settings, name) or None for name in LOADING}


def checked_prompts(prompts: Iterable[str]) -> tuple[str, ...]:
    """Returns the prompts as a tuple; raises UserError if there are none, or one is empty."""
    several = isinstance(prompts, Iterable) and not isinstance(prompts, str | bytes)
    require(several, "prompts", "a list of prompts, one per level", prompts)
    prompts = checked(tuple(prompts), tuple[str, ...], "prompts")
    if not prompts:
        raise UserError("prompts: expected at least one, got none; give one prompt per zoom level")
    for level, prompt in enumerate(prompts):
        if not prompt.strip():
            raise UserError(f"prompts: the prompt of level {level} is empty; write one")
    return prompts


# Records: what `config.json` in a run's folder holds, by format. ---------------------------------

FORMAT = 2


def _from_1(record: dict[str, Any]) -> dict[str, Any]:
    """Upgrades format 1 (up to version 0.1), which has no digests, and omits its defaults.

    Three of those are not today's.
    """
    config = {"model": "cosmos64", **record["config"]}
    upscales = isinstance(upscaler := config.get("upscaler"), dict) and upscaler.get("path")
    for group in ("sampler", "upscaler") if upscales else ("sampler",):
        if isinstance(known := config.get(group, {}), dict):
            config[group] = {"solver": "ddim", **known}
    return {**record, "config": config, "identity": None}


def check_format(number: Any, newest: int, place: str) -> None:
    """Raises UserError unless the record in the file `place` has a format of 1 to `newest`."""
    if type(number) is not int or not 1 <= number <= newest:
        raise UserError(
            f"{place} has format {shown(repr(number))}, this version of pot_jax reads 1 to "
            f"{newest}; use the version that wrote it, or a later one"
        )


def upgraded(record: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Returns a run's record, which the file `place` holds, in the current format.

    Raises UserError if it is not the record of a run, or a later version wrote it.
    """
    record, number = dict(record), record.get("format", 1)
    if not isinstance(record.get("config"), dict):
        problem = "is not the record of a `pot-jax sample` run: it contains no settings"
        raise UserError(f"{place} {problem}")
    check_format(number, FORMAT, place)
    return {**(_from_1(record) if number == 1 else record), "format": FORMAT}


def settings_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all settings of a record of the current format, as plain data."""
    # Settings newer than the record had their defaults, which a model's must not replace.
    return to_dict(build(RunSettings, record["config"]))


# Files. -----------------------------------------------------------------------------------------


def read(path: str, folder: str = "") -> dict[str, Any]:
    """Reads a configuration file, as plain data to be laid over the defaults.

    Args:
      path: a `.py` file that defines `get_config()`, and may import other files in its folder by
        name; a `.json` or `.toml` file, which is data only; or the name of a shipped config.
      folder: the folder in `configs/` where shipped configs are looked up; "" is sampling's, whose
        runs' records are configurations too.

    Raises:
      UserError: the file is missing, of another kind, raises, or contains no configuration.
    """
    file = _find(path, folder)
    if file.suffix in (".json", ".toml"):
        with edge("reading a config", path):
            text = file.read_text(encoding="utf-8-sig")
    if file.suffix == ".toml":
        with edge("parsing a scene", path):
            data = tomllib.loads(text)
    elif file.suffix == ".json":
        with edge("parsing a config", path):
            data = parsed_json(text)
        if not folder and isinstance(data, dict) and isinstance(data.get("config"), dict):
            record = upgraded(data, str(path))
            data, given = settings_of(record), record.get("identity") or {}
            named = data["photographs"] or [data["photograph"]]
            photograph = "photograph" in given and not all(one["path"] for one in named)
            if photograph or "given latents" in given:
                what = "a photograph" if photograph else "latents"
                raise UserError(
                    f"--config: {path}: the run used {what} given as an array; run it again with "
                    "pot_jax.sample(..., workdir=...)"
                )
    elif file.suffix == ".py":
        data = _run(file)
    else:
        raise UserError(f"--config: expected a .py, .json or .toml file, got {path!r}")
    if not isinstance(data, dict):
        raise UserError(f"--config: expected settings by name in {path}, got {type(data).__name__}")
    return data


def read_sweep(path: str) -> Any:
    """Returns what `get_sweep()` returns in a `.py` file, or in the shipped config of that name.

    Raises UserError if there is no such file, or it defines no sweep, or raises.
    """
    file = _find(path, "bench")
    require(file.suffix == ".py", "--config", "a .py file, which can define a sweep", path)
    return _run(file, "get_sweep")


def shipped_names(folder: str | pathlib.Path = "") -> list[str]:
    """Returns the names of the shipped configs in a folder of `configs/`, scenes last."""
    return [*_shipped(folder)]


def _shipped(folder: str | pathlib.Path) -> dict[str, pathlib.Path]:
    files = sorted((CONFIGS / folder).glob("*.py"))  # others are what configs import
    files = [file for file in files if "def get_config(" in file.read_text()]
    scenes = [] if str(folder) else sorted((CONFIGS / "scenes").glob("*.toml"))
    return {file.stem: file for file in (*files, *scenes)}


def _find(path: str, folder: str) -> pathlib.Path:
    file = pathlib.Path(checked(path, Path, "--config"))
    with edge("reading a config", path):
        if file.is_file():
            return file
    shipped = _shipped(folder)
    if path in shipped:
        return shipped[path]
    known = f"(shipped: {', '.join(shipped)})"
    raise UserError(f"--config: no file {path!r} and no shipped config of that name {known}")


def _run(file: pathlib.Path, function: str = "get_config") -> Any:
    """Runs a file and a function that it defines; files of its folder can import each other."""
    folder, before = file.resolve().parent, set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        defined = runpy.run_path(str(file), run_name="run_config")
        if function not in defined:
            raise UserError(f"--config: {file} defines no {function}()")
        data = defined[function]()
        return data.to_dict() if hasattr(data, "to_dict") else data  # a ConfigDict
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:  # whatever a user's own code may raise
        said = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(f"--config: {file} raised {said}") from error
    finally:  # these modules are forgotten, so that others can have their names
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if pathlib.Path(getattr(sys.modules[name], "__file__", None) or "/").parent == folder:
                del sys.modules[name]
