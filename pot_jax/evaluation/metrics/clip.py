"""How well pictures follow their prompts, in the eyes of a CLIP."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import jax
import numpy as np
from PIL import Image

from pot_jax.checks import require
from pot_jax.errors import UserError, edge, shown
from pot_jax.models.clip import CLIPConfig, CLIPModel
from pot_jax.models.config import ModelConfig, Positive, Size
from pot_jax.parallel.devices import fixed_settings
from pot_jax.weights.formats.kinds import json_object
from pot_jax.weights.layouts.folder import component_tensors, read_config
from pot_jax.weights.model import Parts, Source
from pot_jax.weights.parameters import read_params
from pot_jax.weights.tokenization import read_tokenizer

_ROUNDING = 1e-6  # of a float32 cosine; pictures are tied if they differ by less
_DONE = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")


@dataclass(frozen=True)
class CLIPImageProcessorConfig(ModelConfig):
    """`preprocessor_config.json`: how pictures become a CLIP's input; the defaults are OpenAI's."""

    CLASS_NAME: ClassVar[str] = "CLIPImageProcessor"
    REFUSE_UNKNOWN: ClassVar[bool] = False
    FIXED: ClassVar[Mapping[str, tuple]] = {"resample": (3,), **dict.fromkeys(_DONE, (True,))}

    size: Size = 224  # of the shorter side, in pixels
    crop_size: Size = 224
    rescale_factor: Positive = 1 / 255
    image_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[Positive, Positive, Positive] = (0.26862954, 0.26130258, 0.27577711)

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> Self:
        """Reads sides as numbers, or as {"shortest_edge": ...} and a square; else as any config."""
        settings = dict(settings)
        for key, name in (("size", "shortest_edge"), ("crop_size", "height")):
            sides = settings.get(key)
            if isinstance(sides, dict) and set(sides.values()) == {sides.get(name)}:
                settings[key] = sides[name]
        return super().from_json(settings)


def prepared(pictures: np.ndarray, processor: CLIPImageProcessorConfig) -> np.ndarray:
    """Returns pictures [N, H, W, 3] uint8 as a CLIP's input, [N, S, S, 3] float32.

    The shorter side is resized, the middle cut out, and its values rescaled and normalised.
    """
    crop, (height, width) = processor.crop_size, pictures.shape[1:3]
    size = [int(processor.size * side / min(height, width)) for side in (width, height)]
    resized = [Image.fromarray(row).resize(size, Image.Resampling.BICUBIC) for row in pictures]
    left, top = ((side - crop) // 2 for side in size)
    cut = np.stack([np.asarray(row)[top : top + crop, left : left + crop] for row in resized])
    mean, deviation = np.float32(processor.image_mean), np.float32(processor.image_std)
    return (cut * np.float32(processor.rescale_factor) - mean) / deviation


@fixed_settings()
def scorer(folder: str | Path) -> Callable[[np.ndarray, Sequence[str]], dict[str, float]]:
    """Reads a whole CLIP, and returns the function that scores a zoom with it.

    The folder is what transformers' `CLIPModel.save_pretrained` writes, with its tokenizer's files
    and its `preprocessor_config.json`. Raises UserError if it holds another model, or files are
    missing or damaged, or do not fit.

    Returns:
      A function of pictures [N, H, W, 3] uint8 and N prompts, which raises UserError if these do
      not fit. With c_ij the cosine of the embeddings of prompt i and picture j, it returns
      clip_score: mean_i max(100 c_ii, 0), 0 to 100 (arXiv 2104.08718, without its factor 2.5).
        Scores by different CLIPs, or of other prompts, cannot be compared.
      clip_retrieval: the share of i for which c_ii is the largest c_ij, 0 to 1: whether a prompt
        finds its level. Ties share a hit, so N equal pictures score 1/N.
      Prompts that are too long are cut, with a notice.
    """
    folder = Path(folder)
    with edge("reading a model", folder):
        files = [folder / name for name in ("model_index.json", "config.json")]
        stated = next((json_object(file) for file in files if file.exists()), {})
        if stated.get("model_type") != "clip":
            found = stated.get("_class_name") or stated.get("model_type", "no known model")
            raise UserError(
                f"{shown(folder)} holds {shown(found)}, expected a CLIPModel: config.json (of "
                "model_type clip), model.safetensors, its tokenizer and preprocessor_config.json"
            )
        config = read_config(folder / "config.json", CLIPConfig)
        path = folder / "preprocessor_config.json"
        processor = read_config(path, CLIPImageProcessorConfig)
        side, sides = config.vision_config.image_size, (processor.size, processor.crop_size)
        expected = f"{side} pixels, which the model sees, in a size of at least as many"
        require(sides[0] >= sides[1] == side, f"{shown(path)}: size, crop_size", expected, sides)
        text = config.text_config
        tokenizer = read_tokenizer(folder, text.max_position_embeddings, text.vocab_size)
        model = CLIPModel(config)
        # Early transformers saved the constants 0, 1, 2, ... as position_ids.
        tensors = component_tensors(folder, "model").items()
        tensors = {key: t for key, t in tensors if not key.endswith(".embeddings.position_ids")}
        parts = Parts({"clip": model}, tokenizer, schedule=None, pipeline=config.CLASS_NAME)
        source = Source(folder, parts, {"clip": tensors})
        params, _ = read_params(source, None)
    apply = partial(jax.jit(model.apply), {"params": params["clip"]})
    return partial(_scores, apply, tokenizer, processor)


@fixed_settings()
def _scores(apply, tokenizer, processor, pictures, prompts) -> dict[str, float]:
    ok = pictures.dtype == np.uint8 and pictures.shape[3:] == (3,)
    expected = f"uint8 [{len(prompts)}, H, W, 3], one for each prompt"
    require(ok and len(pictures) == len(prompts) > 0, "pictures", expected, pictures.shape)
    length = tokenizer.model_max_length
    for level, whole in enumerate(tokenizer(list(prompts), verbose=False)["input_ids"]):
        if len(whole) > length:
            cut = "the prompt of level %d has %d tokens; CLIP scores its first %d"
            logging.warning(cut, level, len(whole) - 2, length - 2)
    fixed = {"padding": "max_length", "truncation": True, "max_length": length}
    ids = np.int32(tokenizer(list(prompts), **fixed)["input_ids"])
    ends = np.int32((ids == tokenizer.eos_token_id).argmax(axis=1))
    # One level at a time: one program serves zooms of any number of levels.
    rows = zip(*(array[:, None] for array in (ids, ends, prepared(pictures, processor))))
    texts, images, _ = (np.concatenate(part) for part in zip(*(apply(*row) for row in rows)))
    cosines = np.float64(texts) @ np.float64(images).T
    tied = cosines >= cosines.max(axis=1, keepdims=True) - _ROUNDING
    return {
        "clip_score": float(np.maximum(100 * np.diag(cosines), 0).mean()),
        "clip_retrieval": float((np.diag(tied) / tied.sum(axis=1)).mean()),
    }
