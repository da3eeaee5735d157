"""A whole model in one file in the original layout, `.safetensors` or a pickled `.ckpt`.

The layout is in `original` and `original_names`. The tokenizer comes from a folder, because a file
cannot hold its vocabulary.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from jax.typing import DTypeLike

from pot_jax.errors import UserError, edge, shown
from pot_jax.weights.formats.kinds import PICKLE, ZIP, is_safetensors
from pot_jax.weights.formats.pickled import read_pickled
from pot_jax.weights.formats.safetensors import Tensor, read_header, read_metadata
from pot_jax.weights.layouts import original, original_names
from pot_jax.weights.layouts.original import AUTOENCODER, UNET, XL, Shapes
from pot_jax.weights.layouts.stated import assumed, metadata_statements, yaml_statements
from pot_jax.weights.model import COMPONENTS, FAMILIES, LowRes, Parts, Source
from pot_jax.weights.tokenization import cached_tokenizer, given_tokenizer, read_tokenizer

# Prefixes of names in files that users take for a whole model -> what these files are.
OTHERS = {
    "lora_": "a LoRA, which changes a model but is not one",
    "control_model.": "a ControlNet",
    "text_encoders.": "Stable Diffusion 3 or a later model, which is not supported",
    "model.diffusion_model.joint_blocks.": "Stable Diffusion 3, which is not supported",
    "model.diffusion_model.double_blocks.": "Flux, which is not supported",
    "double_blocks.": "Flux, which is not supported",
    "down_blocks.": "one network in diffusers' layout; give the folder of the whole model, or a "
    "whole model and this as --unet or --vae",
    "text_model.": "a text encoder alone; give the folder of the whole model",
    "input_blocks.": "a UNet alone; give a whole model, and this as --unet",
    "decoder.": "an autoencoder alone; give a whole model, and this as --vae",
    "emb_params": "an embedding of a few tokens (textual inversion)",
    "string_to_param": "an embedding of a few tokens (textual inversion)",
}
# What only models have that are SDXL's relatives -> what these are.
_RELATIVES = {
    f"{XL}0.model": "SDXL's refiner, which finishes a base model's pictures",
    "edm_mean": "Playground v2.5, whose noise (EDM) is another process",
    "edm_vpred": "CosXL, whose noise (EDM) is another process",
}
# What the UNet sees besides latents: nothing, or a mask and a picture; by `Shapes.is_xl`.
_PIPELINES = {
    False: ("StableDiffusionPipeline", "StableDiffusionInpaintPipeline"),
    True: ("StableDiffusionXLPipeline", "StableDiffusionXLInpaintPipeline"),
}


def file_source(
    path: Path,
    dtype: DTypeLike,
    *,
    tokenizer: str | Path | None = None,
    prediction_type: str | None = None,
    allow_pickle: bool = False,
) -> Source:
    """Reads everything in a single-file checkpoint except its weights; fetches and runs nothing.

    The arguments are those of `load`. What the model predicts may be said by the file's metadata or
    a yaml file beside it; the default is the likely one (`Shapes.usual_prediction`). Raises
    UserError if it is damaged, no such model or a pickle not allowed, or there is no tokenizer.
    """
    found, metadata = read_tensors(path, allow_pickle)
    shapes = Shapes({name: tensor.shape for name, tensor in found.items()}, shown(path))
    _check_whole(found, shapes)
    stated = metadata_statements(metadata)
    for fact, statements in yaml_statements(path).items():
        stated.setdefault(fact, []).extend(statements)
    facts = original.describe(shapes, prediction_type, stated)
    plain, pipeline = _PIPELINES[shapes.is_xl]
    low_res, latents = None, facts.autoencoder.latent_channels
    if shapes.is_upscaler:  # in its yaml, the small pictures have the schedule of the latents
        pipeline = "StableDiffusionUpscalePipeline"
        low_res = LowRes(facts.schedule, FAMILIES[pipeline].others["max_noise_level"])
    elif facts.unet.in_channels - latents != FAMILIES[pipeline].extra_channels(latents):
        pipeline = plain
    family, (folder, said) = FAMILIES[pipeline], _tokenizer_folder(path, tokenizer)
    networks = {n: getattr(facts, n) for n in COMPONENTS if n in shapes.prefixes}
    modules = {name: family.module(name, config, dtype) for name, config in networks.items()}
    tokenizers = {}
    for encoder in family.encoders:
        text = networks[encoder.component]
        # SD 1.x and 2.x have the same vocabulary, but pad with different tokens.
        pad = encoder.pad or ("!" if shapes.generation == 2 else "<|endoftext|>")
        sizes = text.max_position_embeddings, text.vocab_size
        tokenizers[encoder.tokenizer] = read_tokenizer(folder, *sizes, pad)
    silent = "prediction_type" not in stated and original.PREDICTS_V not in shapes
    if prediction_type is None and silent and not shapes.is_upscaler:  # of which there is one kind
        said += (assumed(path, facts.schedule.prediction_type),)
    rest = {"low_res": low_res, "notices": said, "zeros": shapes.is_xl}
    parts = Parts(modules, schedule=facts.schedule, pipeline=pipeline, **tokenizers, **rest)
    return Source(path, parts, *_sorted(found, shapes), _names(shapes, facts))


def read_tensors(path: Path, allow_pickle: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads where the tensors of a file lie, and its metadata; its content says what it is."""
    with edge("reading a model", path), path.open("rb") as file:
        start = file.read(64)
    pickled = start.startswith((ZIP, PICKLE))  # a zip is how torch writes a pickle
    if is_safetensors(start, path.stat().st_size) or not pickled:
        return read_header(path), read_metadata(path)
    if not allow_pickle:
        allow = "allow pickles (--allow_pickle, in Python allow_pickle=True)"
        how = f"get the model as safetensors, or {allow}; they are read without running anything"
        raise UserError(f"{shown(path)} is a pickle, a format that can hold programs; {how}")
    return read_pickled(path), {}


def _check_whole(names: Iterable[str], shapes: Shapes) -> None:
    """Raises UserError unless there are tensors of all networks, of a supported model."""
    where, prefixes = shapes.where, shapes.prefixes
    if what := next((what for name, what in _RELATIVES.items() if name in shapes), None):
        raise UserError(f"{where} is {what}; it is not supported, but SDXL itself is")
    absent = [c for c, p in prefixes.items() if not any(name.startswith(p) for name in names)]
    if absent:
        missing = ", no ".join(f"{component} ({prefixes[component]}*)" for component in absent)
        kinds = [kind for n in names for start, kind in OTHERS.items() if n.startswith(start)]
        kinds += [OTHERS["input_blocks."]] * (prefixes.keys() - absent == {"unet"})
        expected = "; a whole model in the original layout was expected"
        why = f": it is {kinds[0]}" if kinds else expected
        raise UserError(f"{where} holds no {missing}{why}")


def _sorted(found: Mapping[str, Tensor], shapes: Shapes) -> tuple[dict, dict[str, Tensor]]:
    """Returns the tensors of each network, and those of none; drops those known to be of no use."""
    prefixes, text = shapes.prefixes, shapes.towers["text_encoder"].layers
    tensors: dict[str | None, dict[str, Tensor]] = {name: {} for name in (*prefixes, None)}
    layers = shapes.count(text)
    dropped = range(layers - shapes.dropped_layers, layers)
    unused = tuple(f"{text}.{layer}." for layer in dropped)
    for name, tensor in found.items():
        if original.LEFT_OUT.fullmatch(name) or name.startswith(unused):
            continue
        component = next((c for c, prefix in prefixes.items() if name.startswith(prefix)), None)
        tensors[component].update(_as_transformers(name, tensor))
    others = tensors.pop(None)
    return tensors, others


def _as_transformers(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Splits OpenCLIP's queries, keys and values, each a third of one tensor; turns its projection.

    That is [in, out], and square in SDXL; a layer of transformers' has a weight [out, in].
    """
    leaf = name.rpartition(".")[2]
    if leaf == "text_projection" and len(tensor.shape) == 2:
        axes = tuple(1 - axis for axis in tensor.axes or (0, 1))
        return {f"{name}.weight": tensor._replace(shape=tensor.shape[::-1], axes=axes)}
    length = tensor.shape[0] if tensor.shape else 0
    if leaf not in ("in_proj_weight", "in_proj_bias") or length % 3 or tensor.axes is not None:
        return {name: tensor}
    first = tensor._replace(shape=(length // 3, *tensor.shape[1:]), nbytes=tensor.nbytes // 3)
    thirds = zip(original_names.QKV, [first.start + i * first.nbytes for i in range(3)])
    return {f"{name}.{part}": first._replace(start=start) for part, start in thirds}


def _names(shapes: Shapes, facts: original.Description) -> dict[str, dict[str, str]]:
    tables = {
        "unet": (UNET, original_names.unet_names(facts.unet)),
        "autoencoder": (AUTOENCODER, original_names.autoencoder_names(facts.autoencoder)),
    }
    for name, tower in shapes.towers.items():
        inside, table = "transformer.", {}
        if tower.is_open_clip:
            inside, table = "model.", original_names.open_clip_names(getattr(facts, name))
        tables[name] = f"{shapes.prefixes[name]}{inside}", table
    return {
        component: {"": prefix[:-1]} | {ours: prefix + table[ours] for ours in table}
        for component, (prefix, table) in tables.items()
    }


def _tokenizer_folder(path: Path, given: str | Path | None) -> tuple[Path, tuple[str, ...]]:
    """Returns the tokenizer's folder, and what the user should be told of it."""
    if given is not None:
        return given_tokenizer(given), ()
    beside, none = path.parent / "tokenizer", f"{shown(path)} holds no tokenizer"
    if beside.is_dir():
        return beside, ()
    if cached := cached_tokenizer():
        return cached, (f"{none}; the one in {shown(cached)} is used",)
    raise UserError(
        f"{none}, and there is none in the folder 'tokenizer' next to it or in the Hugging Face "
        "cache; give a folder with CLIP's vocab.json and merges.txt, such as that of any Stable "
        "Diffusion 1.x or 2.x (--tokenizer=FOLDER, in Python tokenizer=FOLDER)"
    )
