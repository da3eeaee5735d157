"""What `pot-jax train` is told: frozen, validated dataclasses, read from a config of plain data."""

import dataclasses
import json
from typing import Any

import ml_collections

from pot_jax.checks import check_fields
from pot_jax.config import from_dict
from pot_jax.errors import UserError
from pot_jax.training import tokenizer
from pot_jax.training.autoencoder import AutoencoderLoss
from pot_jax.training.data import DataConfig
from pot_jax.training.loop import Optimisation

PRECISIONS = ("auto", "float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class TokenizerSettings:
    """The vocabulary."""

    vocabulary: int  # tokens at most
    length: int  # tokens in a prompt
    captions: int = 4096  # views whose captions it is learnt from

    def __post_init__(self):
        check_fields(self, "tokenizer")
        tokenizer.check_sizes(self.vocabulary, self.length)
        if self.captions < 1:
            raise UserError(f"tokenizer.captions must be at least 1, got {self.captions}")


@dataclasses.dataclass(frozen=True)
class AutoencoderSettings:
    """The first phase."""

    model: dict[str, Any]  # as in the model's config.json, sizes given by the data left out
    descent: Optimisation
    loss: AutoencoderLoss = AutoencoderLoss()

    def __post_init__(self):
        _check_model("autoencoder.model", self.model)


@dataclasses.dataclass(frozen=True)
class TextEncoderSettings:
    """The second phase: the text encoder alone, before it goes on with the UNet."""

    model: dict[str, Any]
    descent: Optimisation

    def __post_init__(self):
        _check_model("text_encoder.model", self.model, ("hidden_size",))


@dataclasses.dataclass(frozen=True)
class DiffusionSettings:
    """The third phase: text encoder and UNet."""

    unet: dict[str, Any]
    descent: Optimisation
    caption_dropout: float = 0.1

    def __post_init__(self):
        _check_model("diffusion.unet", self.unet)
        if not 0 <= self.caption_dropout < 1:
            raise UserError(
                f"diffusion.caption_dropout must be from 0 to below 1, got {self.caption_dropout}"
            )


def _check_model(name: str, model: Any, needed: tuple[str, ...] = ("block_out_channels",)) -> None:
    if not isinstance(model, dict) or not all(key in model for key in needed):
        raise UserError(
            f"{name} must be a group of settings with {', '.join(needed)} among them, got {model!r}"
        )
    for key in model.keys() & {"block_out_channels", "down_block_types", "up_block_types"}:
        if not isinstance(model[key], list | tuple) or not model[key]:
            raise UserError(f"{name}.{key} must be a list, one entry a block, got {model[key]!r}")


@dataclasses.dataclass(frozen=True)
class VisitSettings:
    """How often the run writes something down."""

    log_steps: int = 20
    save_minutes: float = 5.0
    show_minutes: float = 8.0  # sample grids and an export of the model as it is

    def __post_init__(self):
        check_fields(self, "visits")
        if self.log_steps < 1 or self.save_minutes <= 0 or self.show_minutes <= 0:
            raise UserError(f"visits must be positive, got {dataclasses.asdict(self)}")


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """Everything a training run is told."""

    name: str  # of the model
    seed: int
    data: DataConfig
    tokenizer: TokenizerSettings
    autoencoder: AutoencoderSettings
    text_encoder: TextEncoderSettings
    diffusion: DiffusionSettings
    # Of the networks' arithmetic; the weights stay float32. "auto" is bfloat16 on GPUs and TPUs,
    # which have units for it.
    precision: str = "auto"
    renders: str = ""  # folder of rendered views shared between runs; "" keeps them in the workdir
    visits: VisitSettings = VisitSettings()

    def __post_init__(self):
        if not 0 <= self.seed < 2**31:
            raise UserError(f"seed must be from 0 to {2**31 - 1}, got {self.seed}")
        if self.precision not in PRECISIONS:
            raise UserError(
                f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}"
            )
        for phase, descent in self.descents().items():
            if descent.batch > self.data.pictures - self.data.held_out:
                raise UserError(
                    f"{phase}: a batch of {descent.batch} is more than the "
                    f"{self.data.pictures - self.data.held_out} pictures to train on"
                )

    def descents(self) -> dict[str, Optimisation]:
        """How each phase descends, in their order."""
        return {
            "autoencoder": self.autoencoder.descent,
            "text_encoder": self.text_encoder.descent,
            "diffusion": self.diffusion.descent,
        }


def read_settings(config: ml_collections.ConfigDict | dict) -> TrainSettings:
    """The settings of a run.

    Raises:
      UserError: a setting is unknown, missing or out of its range.
    """
    data = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else config
    try:
        return from_dict(data, TrainSettings)
    except TypeError as error:
        # A field without a default that the config leaves out, or a value of another kind.
        raise UserError(f"the training config is incomplete or of another kind: {error}") from None


def as_json(settings: TrainSettings) -> dict[str, Any]:
    """The settings as plain data, as `config.json` holds them."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def first_difference(ours: Any, theirs: Any, path: str = "") -> str | None:
    """Where two settings part, as "path: theirs there, ours here"; None where they agree."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(ours.keys() | theirs.keys()):
            name = f"{path}.{key}" if path else key
            if (found := first_difference(ours.get(key), theirs.get(key), name)) is not None:
                return found
        return None
    return None if ours == theirs else f"{path}: {theirs} there, {ours} here"
