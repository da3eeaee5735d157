"""A whole model in one file in the original layout: recognised, described, its tensors sorted.

`.safetensors`, or a pickled `.ckpt` where that is allowed. The layout is in `original` and
`original_names`; what a file cannot hold, the tokenizer's vocabulary, comes from a folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from jax.typing import DTypeLike

from pot_jax.errors import UserError, shown
from pot_jax.models.clip import CLIPTextModel
from pot_jax.models.unet import UNet2DConditionModel
from pot_jax.models.vae import AutoencoderKL
from pot_jax.weights.formats.kinds import is_pickled, is_safetensors, regular_file
from pot_jax.weights.formats.pickled import read_pickled
from pot_jax.weights.formats.safetensors import read_header
from pot_jax.weights.formats.tensors import Tensor
from pot_jax.weights.layouts import original, original_names
from pot_jax.weights.layouts.families import FAMILIES, LowRes
from pot_jax.weights.layouts.original import Shapes
from pot_jax.weights.layouts.source import Source
from pot_jax.weights.model import Parts
from pot_jax.weights.tokenization import cached_tokenizer, given_tokenizer, read_tokenizer

MAX_NOISE_LEVEL = 350  # low_scale_config in x4-upscaling.yaml
_PREFIXES = {
    "text_encoder": original.TEXT,
    "unet": original.UNET,
    "autoencoder": original.AUTOENCODER,
}
# Beginnings of names in files that people take for a whole model, and what these are.
_OTHERS = {
    "lora_": "a LoRA, which changes a model and is none",
    "control_model.": "a ControlNet",
    "conditioner.": "Stable Diffusion XL, which is not supported",
    "text_encoders.": "Stable Diffusion 3 or a later model, which is not supported",
    "model.diffusion_model.joint_blocks.": "Stable Diffusion 3, which is not supported",
    "model.diffusion_model.double_blocks.": "Flux, which is not supported",
    "double_blocks.": "Flux, which is not supported",
    "down_blocks.": "one network in diffusers' layout; give the folder of the whole model",
    "text_model.": "a text encoder alone; give the folder of the whole model",
    "input_blocks.": "a UNet alone",
    "decoder.": "an autoencoder alone",
    "emb_params": "an embedding of a few tokens (textual inversion)",
    "string_to_param": "an embedding of a few tokens (textual inversion)",
}


def file_source(
    path: Path,
    dtype: DTypeLike,
    *,
    tokenizer: str | Path | None = None,
    prediction_type: str | None = None,
    allow_pickle: bool = False,
) -> Source:
    """A checkpoint in one file.

    Args:
      path: of the file.
      dtype: of the networks' arithmetic.
      tokenizer: folder of CLIP's tokenizer; by default the folder `tokenizer` beside the file, or
        what is in the Hugging Face cache. Nothing is fetched.
      prediction_type: "epsilon" or "v_prediction", which a file of SD 2.x does not tell (see
        `original.Shapes.predicts_v`); by default the likely one.
      allow_pickle: whether to read a pickled file, with the reader of `pickled`.

    Raises:
      UserError: the file is damaged, pickled and that is not allowed, or no such model; or there is
        no tokenizer.
    """
    found = _read(path, allow_pickle)
    _check_whole(found, shown(str(path)))
    shapes = Shapes({name: tensor.shape for name, tensor in found.items()}, shown(str(path)))
    facts = original.describe(shapes, prediction_type)
    modules = {
        "text_encoder": CLIPTextModel(facts.text_encoder, dtype=dtype),
        "unet": UNet2DConditionModel(facts.unet, dtype=dtype),
        "autoencoder": AutoencoderKL(facts.autoencoder, dtype=dtype),
    }
    folder = _tokenizer_folder(path, tokenizer)
    positions, vocabulary = (
        facts.text_encoder.max_position_embeddings,
        facts.text_encoder.vocab_size,
    )
    parts = Parts(
        modules,
        # The same vocabulary serves both generations, which pad with different tokens of it.
        read_tokenizer(
            folder, positions, vocabulary, "!" if shapes.is_open_clip else "<|endoftext|>"
        ),
        facts.schedule,
        _pipeline(shapes, facts),
        # Its yaml noises the small pictures on the schedule of the latents.
        LowRes(facts.schedule, MAX_NOISE_LEVEL) if shapes.is_upscaler else None,
    )
    tensors, others = _sorted(found, shapes)
    return Source(path, parts, tensors, _names(shapes, facts), others)


def _read(path: Path, allow_pickle: bool) -> dict[str, Tensor]:
    """The tensors of the file, of whichever kind it is by its content."""
    regular_file(path, "checkpoint")
    with path.open("rb") as file:
        start = file.read(64)
    if is_safetensors(start, path.stat().st_size) or not is_pickled(start):
        return read_header(path)
    if not allow_pickle:
        raise UserError(
            f"{shown(str(path))} is a pickle, a format that can hold programs; get the model as "
            "safetensors, or allow this one (--allow_pickle, in Python allow_pickle=True): it is "
            "then read without running anything"
        )
    return read_pickled(path)


def _pipeline(shapes: Shapes, facts: original.Description) -> str:
    """The kind of model, a key of `FAMILIES`."""
    if shapes.is_upscaler:
        return "StableDiffusionUpscalePipeline"
    inpainting = "StableDiffusionInpaintPipeline"
    latents = facts.autoencoder.latent_channels
    extra = facts.unet.in_channels - latents
    masked = extra == FAMILIES[inpainting].extra_channels(latents)
    return inpainting if masked else "StableDiffusionPipeline"


def _check_whole(names: Iterable[str], where: str) -> None:
    """Raises UserError unless there are tensors of all three networks."""
    missing = [
        f"{component} ({prefix}*)"
        for component, prefix in _PREFIXES.items()
        if not any(name.startswith(prefix) for name in names)
    ]
    if not missing:
        return
    is_a = next((w for n in names for start, w in _OTHERS.items() if n.startswith(start)), None)
    raise UserError(
        f"{where} holds no {', no '.join(missing)}"
        + (f": it is {is_a}" if is_a else "; a whole model in the original layout was expected")
    )


def _sorted(
    found: Mapping[str, Tensor], shapes: Shapes
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """The tensors of each network, and those of none; without what is known to be of no use."""
    tensors: dict[str, dict[str, Tensor]] = {component: {} for component in _PREFIXES}
    others: dict[str, Tensor] = {}
    blocks = f"{original.OPEN_CLIP}transformer.resblocks"
    layers = shapes.count(blocks)
    unused = tuple(f"{blocks}.{layers - 1 - i}." for i in range(shapes.dropped_layers))
    for name, tensor in found.items():
        if original.LEFT_OUT.fullmatch(name) or name.startswith(unused):
            continue
        component = next((c for c, prefix in _PREFIXES.items() if name.startswith(prefix)), None)
        (others if component is None else tensors[component]).update(_thirds(name, tensor))
    return tensors, others


def _thirds(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """OpenCLIP's queries, keys and values, each a third of one tensor; any other is itself."""
    leaf = name.rpartition(".")[2]
    rows = tensor.shape[0] if tensor.shape else 0
    if leaf not in ("in_proj_weight", "in_proj_bias") or rows % 3 or tensor.axes is not None:
        return {name: tensor}
    size = tensor.nbytes // 3
    return {
        f"{name}.{part}": tensor._replace(
            shape=(rows // 3, *tensor.shape[1:]), start=tensor.start + i * size, nbytes=size
        )
        for i, part in enumerate(original_names.QKV)
    }


def _names(shapes: Shapes, facts: original.Description) -> dict[str, dict[str, str]]:
    text: dict[str, str] = {}
    if shapes.is_open_clip:
        text = original_names.open_clip_names(facts.text_encoder)
    tables = {
        "text_encoder": (original.OPEN_CLIP if shapes.is_open_clip else original.CLIP, text),
        "unet": (original.UNET, original_names.unet_names(facts.unet)),
        "autoencoder": (original.AUTOENCODER, original_names.autoencoder_names(facts.autoencoder)),
    }
    return {
        component: original_names.under(prefix.removesuffix("."), table)
        for component, (prefix, table) in tables.items()
    }


def _tokenizer_folder(path: Path, given: str | Path | None) -> Path:
    if given is not None:
        return given_tokenizer(given)
    folder = path.parent / "tokenizer"
    if folder.is_dir():
        return folder
    folder = cached_tokenizer()
    if folder is None:
        raise UserError(
            f"{shown(str(path))} holds no tokenizer, and there is none in the folder 'tokenizer' "
            "beside it or in the Hugging Face cache; give a folder with CLIP's vocab.json and "
            "merges.txt, that of any Stable Diffusion 1.x or 2.x (--tokenizer=FOLDER, in Python "
            "tokenizer=FOLDER)"
        )
    return folder
