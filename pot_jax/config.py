"""What a run is told: frozen, validated dataclasses, and how flags and files become them.

A configuration is written as plain data (an `ml_collections.ConfigDict` in `configs/*.py`, a JSON
file, or flags) and turned at once into `RunSettings`; nothing after that reads loose keys. Facts
that only the model knows (its size, its tokenizer's length) are checked by the pipeline.
"""

import dataclasses
import importlib.util
import json
import pathlib
import typing
from typing import Any, Literal

import ml_collections

from pot_jax.checks import check_fields, require
from pot_jax.diffusion.schedule import PREDICTION_TYPES
from pot_jax.diffusion.solvers import SOLVERS
from pot_jax.errors import UserError
from pot_jax.zoom.blending import BLENDS
from pot_jax.zoom.operators import KERNELS
from pot_jax.zoom.photograph import PHOTOGRAPH_METHODS

# Blending by a closed form, or by gradient descent on the disagreement (zoom/blending.py).
CONSISTENCIES = (*BLENDS, "gradient")


@dataclasses.dataclass(frozen=True)
class SamplerSettings:
    """How one stack is sampled."""

    solver: Literal[tuple(SOLVERS)] = "ddim"
    steps: int = 50
    guidance_scale: float = 4.0  # s in u + s (c - u); 1 is no guidance
    # How far guidance's gain in contrast is taken back, 0 to 1 (arXiv 2305.08891; 0.7 there).
    guidance_rescale: float = 0.0
    eta: float = 0.0  # DDIM's noise: 0 none, 1 as much as DDPM
    # Where blend and render happen; `delivery`: nowhere but in the delivered pictures.
    space: Literal["latent", "pixel", "delivery"] = "pixel"
    pixel_every: int = 1  # in pixel space: decode at every k-th step, blend latents at the others
    blend: Literal[CONSISTENCIES] = "laplacian"
    blend_weight: float = 0.3  # w: the observation k levels wider weighs w^k; the paper's is 1
    kernel: Literal[tuple(KERNELS)] = "mean"
    initial_noise: Literal["shared", "per_level"] = "shared"  # the paper draws z_T per level
    gradient_steps: int = 5  # for blend = gradient
    gradient_rate: float = 0.05

    def __post_init__(self):
        check_fields(self, "sampler")
        require(self.steps >= 1, "sampler.steps", "at least 1", self.steps)
        require(self.guidance_scale >= 0, "sampler.guidance_scale", ">= 0", self.guidance_scale)
        rescale = self.guidance_rescale
        require(0 <= rescale <= 1, "sampler.guidance_rescale", "0 to 1", rescale)
        require(self.eta >= 0, "sampler.eta", ">= 0", self.eta)
        require(self.pixel_every >= 1, "sampler.pixel_every", "at least 1", self.pixel_every)
        require(0 <= self.blend_weight <= 1, "sampler.blend_weight", "0 to 1", self.blend_weight)
        require(self.gradient_steps >= 1, "sampler.gradient_steps", ">= 1", self.gradient_steps)
        require(self.gradient_rate > 0, "sampler.gradient_rate", "> 0", self.gradient_rate)


@dataclasses.dataclass(frozen=True)
class ZoomSettings:
    """How the levels lie in each other."""

    zoom_factor: int = 2  # p: level i+1 shows a window 1/p as wide as level i
    height: int = 0  # of every picture, in pixels; 0 is the model's own size
    width: int = 0
    # Per child, (down, right): its centre's offset from its parent's centre, in parent pixels; ()
    # is the centre for all.
    placement: tuple[tuple[int, int], ...] = ()

    def __post_init__(self):
        check_fields(self, "zoom")
        require(self.zoom_factor >= 2, "zoom.zoom_factor", "a whole number >= 2", self.zoom_factor)
        require(self.height >= 0, "zoom.height", ">= 0", self.height)
        require(self.width >= 0, "zoom.width", ">= 0", self.width)


@dataclasses.dataclass(frozen=True)
class PhotographSettings:
    """A photograph that one level has to agree with."""

    path: str = ""  # none when empty
    level: int = 0
    method: Literal[tuple(PHOTOGRAPH_METHODS)] = "project"

    def __post_init__(self):
        check_fields(self, "photograph")


@dataclasses.dataclass(frozen=True)
class LoraSettings:
    """A LoRA file merged into the model."""

    path: str = ""
    strength: float = 1.0
    sha256: str = ""  # of the file: checked where it is given, and always recorded

    def __post_init__(self):
        check_fields(self, "loras")
        require(bool(self.path), "loras.path", "a file", self.path)


@dataclasses.dataclass(frozen=True)
class EmbeddingSettings:
    """A textual inversion joined to the model."""

    token: str = ""  # the word for it in prompts; when empty, the file's own
    path: str = ""
    sha256: str = ""  # as above

    def __post_init__(self):
        check_fields(self, "embeddings")
        require(bool(self.path), "embeddings.path", "a file", self.path)


@dataclasses.dataclass(frozen=True)
class UpscalerSettings:
    """How a delivered zoom is enlarged; the numbers are those of diffusers' pipeline."""

    path: str = ""  # the upscaler's model folder; empty: the pictures stay as they are
    steps: int = 75
    guidance_scale: float = 9.0
    noise_level: int = 20  # a timestep: how much of the small pictures may be drawn anew
    solver: Literal[tuple(SOLVERS)] = "ddim"
    rows: int = 2  # of its network at a time on each device, which bounds memory

    def __post_init__(self):
        check_fields(self, "upscaler")
        require(self.steps >= 1, "upscaler.steps", "at least 1", self.steps)
        require(self.guidance_scale >= 0, "upscaler.guidance_scale", ">= 0", self.guidance_scale)
        require(self.noise_level >= 0, "upscaler.noise_level", ">= 0", self.noise_level)
        require(self.rows >= 1, "upscaler.rows", "at least 1", self.rows)


@dataclasses.dataclass(frozen=True)
class MovieSettings:
    """The movie of a run."""

    seconds_per_level: float = 1.5  # the time in which the view shrinks by the zoom factor
    fps: int = 30
    size: int = 512  # shorter side, in pixels
    direction: Literal["in", "out", "both"] = "in"

    def __post_init__(self):
        check_fields(self, "movie")
        seconds = self.seconds_per_level
        require(seconds > 0, "movie.seconds_per_level", "> 0", seconds)
        require(1 <= self.fps <= 240, "movie.fps", "1 to 240", self.fps)
        require(16 <= self.size <= 4096, "movie.size", "16 to 4096", self.size)


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """Everything `pot-jax sample` is told."""

    # A folder, a checkpoint file, a shipped model's name, or the hub's owner/name@revision.
    model: str = "cosmos64"
    variant: str = ""  # which copy of its weights ("fp16"); empty: the plain one, or the only one
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of the networks
    tokenizer: str = ""  # folder of a tokenizer to take instead of the model's own
    # What the weights predict, instead of what the model says or, in a file of SD 2.x, leaves open.
    prediction_type: Literal[("", *PREDICTION_TYPES)] = ""
    allow_pickle: bool = False  # read a pickled checkpoint (.ckpt), running nothing in it
    loras: tuple[LoraSettings, ...] = ()
    embeddings: tuple[EmbeddingSettings, ...] = ()
    prompts: tuple[str, ...] = ()  # one per level, widest first
    negative_prompt: str = ""
    seed: int = 0
    stacks: int = 1  # stacks sampled together, with seeds seed, seed + 1, ...
    save_every: int = 25  # steps between saved states; 0 never
    decode_rows: int = 8  # pictures decoded at a time on each device
    sampler: SamplerSettings = dataclasses.field(default_factory=SamplerSettings)
    zoom: ZoomSettings = dataclasses.field(default_factory=ZoomSettings)
    photograph: PhotographSettings = dataclasses.field(default_factory=PhotographSettings)
    upscaler: UpscalerSettings = dataclasses.field(default_factory=UpscalerSettings)
    movie: MovieSettings = dataclasses.field(default_factory=MovieSettings)

    def __post_init__(self):
        check_fields(self, "")
        require(0 <= self.seed < 2**32, "seed", "0 to 4294967295", self.seed)
        require(self.stacks >= 1, "stacks", "at least 1", self.stacks)
        require(self.save_every >= 0, "save_every", ">= 0", self.save_every)
        require(self.decode_rows >= 1, "decode_rows", "at least 1", self.decode_rows)


def from_dict(data: dict, cls: type = RunSettings, path: str = "") -> Any:
    """Builds a settings dataclass from nested plain data.

    Raises:
      UserError: for an unknown key (the known ones are listed) or a value out of its range.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in data.items():
        name = f"{path}{key}"
        if key not in fields:
            raise UserError(f"unknown setting {name!r}; known: {', '.join(fields)}")
        item = next(iter(typing.get_args(hints[key])), None)
        if dataclasses.is_dataclass(hints[key]):
            value = _group(value, hints[key], name)
        elif dataclasses.is_dataclass(item) and isinstance(value, list | tuple):
            value = tuple(_group(v, item, f"{name}[{i}]") for i, v in enumerate(value))
        values[key] = value
    return cls(**values)


def _group(value, cls: type, name: str) -> Any:
    if not isinstance(value, dict):
        raise UserError(f"setting {name} must be a group of settings, got {value!r}")
    return from_dict(value, cls, name + ".")


def to_dict(settings) -> dict:
    """The inverse of `from_dict`, ready for JSON."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def read(path: str) -> dict:
    """Reads a configuration file: `.json` is data only; `.py` must define `get_config()`.

    Raises:
      UserError: when the file is missing, of another kind, or does not hold a configuration.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise UserError(f"--config: no file {path!r}")
    if file.suffix == ".json":
        try:
            data = json.loads(file.read_text())
        except ValueError as error:
            raise UserError(f"--config: {path} is not JSON: {error}") from error
    elif file.suffix == ".py":
        spec = importlib.util.spec_from_file_location("run_config", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError(f"--config: {path} defines no get_config()")
        data = module.get_config()
    else:
        raise UserError(f"--config: expected a .py or .json file, got {path!r}")
    if isinstance(data, ml_collections.ConfigDict):
        data = data.to_dict()
    if not isinstance(data, dict):
        raise UserError(f"--config: {path} holds {type(data).__name__}, expected settings by name")
    return data
