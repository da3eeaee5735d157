"""The settings of `pot-jax train`: what a file in `configs/train/` may say. No JAX."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pot_jax import config
from pot_jax.checks import Settings, Within, overlay, require
from pot_jax.config import Count
from pot_jax.errors import UserError
from pot_jax.world import DEEPEST

FORMAT = 2  # of a run's config.json; before it had a number, and the old names: 1
PHASES = ("autoencoder", "tiny_vae", "text_encoder", "diffusion")
BASE_TOKENS = 2 * 256  # every byte, and every byte at a word's end, so that no text is unknown

Positive = Annotated[float, Within("above 0", math.ulp(0))]
NotNegative = Annotated[float, Within("at least 0", 0)]
_ENDS = f"above 0 and at most {DEEPEST:g}, where the world ends"
Scale = Annotated[float, Within(_ENDS, math.ulp(0), DEEPEST)]
Part = Annotated[float, Within("from 0 to below 1", 0, math.nextafter(1, 0))]


@dataclasses.dataclass(frozen=True)
class DataSettings(Settings, group="data"):
    """Which views are rendered."""

    pictures: int  # views in all, including those held out
    size: Annotated[int, Within("at least 8 pixels", 8)]  # S, pixels a side
    held_out: int  # the last views are never trained on
    deepest: Scale  # scales are drawn from [0, deepest]
    workers: Count  # rendering processes
    phrasings: Count  # different captions per view

    @property
    def trained_on(self) -> int:
        """The number of views to train on; the others are held out."""
        return self.pictures - self.held_out

    def _check_ranges(self):
        most = self.pictures - 1
        self.require("held_out", 1 <= self.held_out <= most, f"1 to pictures - 1 ({most})")


@dataclasses.dataclass(frozen=True)
class TokenizerSettings(Settings, group="tokenizer"):
    """The vocabulary."""

    vocabulary: int  # tokens at most
    length: Annotated[int, Within("at least 3 (start, one word, end)", 3)]  # tokens in a prompt
    captions: Count = 4096  # views whose captions it is learned from

    def _check_ranges(self):
        least = BASE_TOKENS + 2
        needed = f"at least {least} (all bytes, all bytes ending a word, two specials)"
        self.require("vocabulary", self.vocabulary >= least, needed)
        self.require("vocabulary", self.vocabulary < 2**15, f"below {2**15}: ids have 16 bits")


@dataclasses.dataclass(frozen=True)
class OptimizationSettings(Settings, group="optimization"):
    """The optimizer of one phase, and how long the phase lasts."""

    OLD_NAMES = {"batch": "batch_size", "average": "ema_decay", "clip": "clip_norm"}

    batch_size: Count  # examples a step, over all devices
    learning_rate: Positive  # at its peak
    steps: Count  # at most
    minutes: NotNegative = 0.0  # at most; 0 is no limit
    warmup: Part = 0.05  # fraction of the phase in which the learning rate rises
    ema_decay: Part = 0.998  # of the moving average of the parameters, which is the result
    clip_norm: Positive = 1.0  # largest global norm of the gradients
    beta2: Part = 0.99  # Adam's decay of squared gradients: short, since the runs are
    optimizer: Literal["adam", "muon"] = "adam"  # a name in optimizers.OPTIMIZERS


@dataclasses.dataclass(frozen=True)
class AutoencoderLoss(Settings, group="autoencoder.loss"):
    """Weights of the terms of the loss; the mean |error| of the pixels has weight 1."""

    edges: NotNegative = 0.5  # mean |error| of neighbour differences, at full and half size
    colour: NotNegative = 1.0  # mean |error| of the means of 4 x 4 pixels
    kl: NotNegative = 3e-4  # of the latents' Gaussians from the unit normal, per latent value
    # dec(D z) against D x, on a quarter of the batch (EQ-VAE, arXiv 2502.09509): latents whose
    # shrunken copies decode to shrunken pictures, so that a zoom can be blended in latents.
    zoom: NotNegative = 0.25


class _PhaseSettings(Settings):
    OLD_NAMES = {"descent": "optimization"}
    NEEDED = "block_out_channels"  # in the network's config, which is the first field

    def _check_ranges(self):
        name = dataclasses.fields(self)[0].name
        model = getattr(self, name)
        self.require(name, self.NEEDED in model, f"a group of settings that has {self.NEEDED}")
        for key in model.keys() & {"block_out_channels", "down_block_types", "up_block_types"}:
            is_list = isinstance(model[key], list | tuple) and model[key]
            self.require(name, bool(is_list), f"a list as its {key}, one entry a block")


@dataclasses.dataclass(frozen=True)
class AutoencoderSettings(_PhaseSettings, group="autoencoder"):
    """The first phase."""

    model: dict[str, Any]  # as in the model's config.json, without the sizes that follow from data
    optimization: OptimizationSettings
    loss: AutoencoderLoss = AutoencoderLoss()
    # It learns from the first so many views, and need not wait until all are rendered; 0: from all.
    pictures: Annotated[int, Within("at least 0", 0)] = 0


@dataclasses.dataclass(frozen=True)
class TinySettings(_PhaseSettings, group="tiny_vae"):
    """A phase after the first: a tiny autoencoder that learns from the first one's."""

    NEEDED = "encoder_block_out_channels"

    model: dict[str, Any]
    optimization: OptimizationSettings


@dataclasses.dataclass(frozen=True)
class TextEncoderSettings(_PhaseSettings, group="text_encoder"):
    """The second phase: the text encoder alone, before it is trained further with the UNet."""

    NEEDED = "hidden_size"

    model: dict[str, Any]
    optimization: OptimizationSettings


@dataclasses.dataclass(frozen=True)
class DiffusionSettings(_PhaseSettings, group="diffusion"):
    """The third phase: text encoder and UNet."""

    unet: dict[str, Any]
    optimization: OptimizationSettings
    caption_dropout: Part = 0.1


@dataclasses.dataclass(frozen=True)
class IntervalSettings(Settings, group="intervals"):
    """How often a run logs, saves its state, and shows what it has learned."""

    OLD_NAMES = {"save_minutes": "checkpoint_minutes", "show_minutes": "preview_minutes"}

    log_steps: Annotated[int, Within("above 0", 1)] = 20
    checkpoint_minutes: Positive = 5.0
    preview_minutes: Positive = 8.0  # sample grids, and an export of the model so far


@dataclasses.dataclass(frozen=True)
class TrainSettings(Settings):
    """Everything a training run is given."""

    OLD_NAMES = {"visits": "intervals"}

    name: str  # of the model
    seed: Annotated[int, Within(f"0 to {2**31 - 1}", 0, 2**31 - 1)]
    data: DataSettings
    tokenizer: TokenizerSettings
    autoencoder: AutoencoderSettings
    text_encoder: TextEncoderSettings
    diffusion: DiffusionSettings
    # Of the networks' arithmetic; the weights stay float32. "auto" is bfloat16 on GPUs and TPUs.
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    renders: str = ""  # folder of rendered views shared between runs; "" keeps them in the workdir
    intervals: IntervalSettings = IntervalSettings()
    tiny_vae: TinySettings | None = None  # None: the model has none

    def _check_ranges(self):
        most, first = self.data.trained_on, self.autoencoder.pictures
        require(first <= most, "autoencoder.pictures", f"at most {most}", first)
        for phase, optimization in self.phases().items():
            count = self.autoencoder_pictures if phase in ("autoencoder", "tiny_vae") else most
            if optimization.batch_size > count:
                more = f"{optimization.batch_size} is more than the {count} pictures to train on"
                raise UserError(f"{phase}.optimization.batch_size: a batch of {more}")

    @property
    def autoencoder_pictures(self) -> int:
        """The number of views that the autoencoder learns from."""
        return self.autoencoder.pictures or self.data.trained_on

    def phases(self) -> dict[str, OptimizationSettings]:
        """Returns the optimization settings of the phases, in order."""
        return {name: part.optimization for name in PHASES if (part := getattr(self, name))}


# What a run may be given anew when it resumes, by how the names begin: where and how long it works.
CIRCUMSTANCES = ("data.workers", "renders", "intervals")
CIRCUMSTANCES += tuple(f"{phase}.optimization.minutes" for phase in PHASES)


def read(path: str) -> dict[str, Any]:
    """Reads a training's configuration, or a run's `config.json`; UserError as `config.read`."""
    data = config.read(path, "train")
    return upgraded(data, path)["config"] if "config" in data else data


def upgraded(record: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Returns a training's record as {"format": FORMAT, "config": ...}; UserError if it is none."""
    number = record.get("format", 1)
    config.check_format(number, FORMAT, place)
    # Format 1 is the settings themselves, none left out, some under the names of that time.
    data = record if number == 1 else record.get("config")
    try:
        return {"format": FORMAT, "config": overlay(TrainSettings, {}, data)}
    except UserError as error:
        raise UserError(f"{place} is not of a training: {error}") from None
