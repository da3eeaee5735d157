"""One component by itself, in place of a model's own: in its folder, or its weights in one file.

A folder holds the component's `config.json`. A file holds none: its sizes have to be those of the
component that it replaces, whose settings it takes. Its tensors have diffusers' names or those of
the original layout, there with or without the prefix that they have in a whole model.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from flax import linen as nn

from pot_jax import checks
from pot_jax.errors import UserError, shown
from pot_jax.models.unet import UNetConfig
from pot_jax.models.vae import AutoencoderKLConfig
from pot_jax.weights.formats.kinds import json_object
from pot_jax.weights.formats.safetensors import Tensor
from pot_jax.weights.keys import IGNORED, abstract_params, key_table
from pot_jax.weights.layouts import folder as layout
from pot_jax.weights.layouts import original, original_names
from pot_jax.weights.layouts.single_file import OTHERS, read_tensors
from pot_jax.weights.model import COMPONENTS, FAMILIES, Parts, Source

# Settings, and arguments of `load` -> the component that they replace.
GIVEN = {"unet": "unet", "vae": "autoencoder"}
_TABLES = {
    UNetConfig: original_names.unet_names,
    AutoencoderKLConfig: original_names.autoencoder_names,
}
# What of an autoencoder's settings is the UNet's matter, too; of both kinds, and of one.
_SHARED = ("latent_channels", "downsample_factor")
_SCALES = ("scaling_factor", "shift_factor")


def component_source(
    setting: str, given: str | Path, parts: Parts, dtype: Any, allow_pickle: bool
) -> Source:
    """Finds what a user gives as a component of the model whose parts are `parts`.

    `setting` is a key of GIVEN; the rest is as for `load`. Raises UserError if it is no such
    component, is damaged, or does not fit the model.
    """
    name, path = GIVEN[setting], Path(checks.checked(given, checks.Path, setting))
    if not str(given) or not (path.is_dir() or path.is_file()):
        how = "the hub's components have to be downloaded first"
        raise UserError(f"{setting}: there is no folder or file {shown(given)}; {how}")
    own, component = parts.modules[name], COMPONENTS[name]
    names, told = {}, ()
    if path.is_dir():
        inside = path / component.folder  # of a whole model
        path = inside if inside.is_dir() else path
        family, place = FAMILIES[parts.pipeline], path / "config.json"
        stated = str(json_object(place).get("_class_name"))
        named = stated if stated in component.classes else own.config.CLASS_NAME
        correct, (kind, _) = family.corrections.get(name), component.classes[named]
        module = family.module(name, layout.read_config(place, kind, correct, named), dtype)
        tensors = layout.component_tensors(path, component.stem)
        ours = {key for key in tensors if not IGNORED.fullmatch(key)}
    else:
        tensors, _ = read_tensors(path, allow_pickle)
        # Whether these weights overflow in float16 is not known: as one that states nothing.
        safe = {"force_upcast": True} if hasattr(own.config, "force_upcast") else {}
        module = FAMILIES[parts.pipeline].module(name, replace(own.config, **safe), dtype)
        prefix = original.PREFIXES[name]
        # Marks of what a UNet predicts are not passed over: the model may predict something else.
        marks, unused = {original.PREDICTS_V, original.ZERO_SNR}, original.LEFT_OUT.fullmatch
        ours = {key for key in tensors if key in marks or not unused(key)}
        at = prefix if all(key.startswith(prefix) for key in ours - marks) else ""
        names = _names(module, at, tensors, f"{shown(path)} holds no {setting}")
        ours = {key for key in ours if key in marks or not unused(prefix + key[len(at) :])}
        scale = f" (scaling_factor {own.config.scaling_factor:g})" if setting == "vae" else ""
        told = (f"{shown(path)} states no settings; those of the model's own are assumed{scale}",)
    _check_scale(path, setting, module.config, own.config)
    alone = Parts({name: module}, None, None, parts.pipeline, notices=told)
    kept = {key: tensor for key, tensor in tensors.items() if key in ours}
    return Source(path, alone, {name: kept}, names={name: names}, alone=setting)


def _names(module: nn.Module, at: str, tensors: dict[str, Tensor], none: str) -> dict[str, str]:
    """Returns how a file spells diffusers' names, which begin with `at` in it.

    Raises UserError that begins with `none` if it has none of the component's tensors.
    """
    make = _TABLES.get(type(module.config), lambda _: {})
    table = {ours: at + theirs for ours, theirs in make(module.config).items()}
    spellings: list[dict[str, str]] = [{}, table | ({"": at[:-1]} if at else {})]
    keys = [entry.key for entry in key_table(abstract_params(module)).values()]
    found = [sum(original_names.respelled(key, s) in tensors for key in keys) for s in spellings]
    if not any(found):
        starts = {**OTHERS, original.UNET: "a whole model, or more than a part of one"}
        kinds = [kind for key in tensors for start, kind in starts.items() if key.startswith(start)]
        expected = "tensors in diffusers' names or the original layout's were expected"
        raise UserError(f"{none}: {f'it is {kinds[0]}'.split(';')[0] if kinds else expected}")
    return spellings[found[1] > found[0]]


def _check_scale(path: Path, setting: str, found: Any, own: Any) -> None:
    """Raises UserError if an autoencoder's latents are not those of the UNet."""
    keys = _SHARED + _SCALES if type(found) is type(own) else _SHARED
    for key in keys if setting == "vae" else ():
        theirs, ours = getattr(found, key), getattr(own, key)
        if theirs != ours:
            states = f"has {key} {theirs}, and the model's own {ours}"
            raise UserError(f"{setting}: {shown(path)} {states}; it is for another kind of model")
