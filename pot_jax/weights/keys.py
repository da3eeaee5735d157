"""Which tensor of a checkpoint is which parameter, and how each becomes the other.

Parameters have their checkpoint's names, so the table follows by rule from the model's own
parameter tree:

    down_blocks_0/resnets_1/conv1/kernel  <->  down_blocks.0.resnets.1.conv1.weight

A number at the end of a name is a position in a torch list; `kernel`, `scale` and `embedding` are
torch's `weight`. Checkpoints store convolutions as [out, in, height, width], here they are
[height, width, in, out]; dense layers as [out, in], here [in, out].
"""

import functools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np

Path = tuple[str, ...]


class Entry(NamedTuple):
    """The tensor that a parameter is read from and written to."""

    key: str  # as diffusers writes it, and transformers before version 5; all versions read it
    aliases: tuple[str, ...]  # other spellings found in checkpoints
    stored_shape: tuple[int, ...]  # of the tensor, as it is written
    # Another shape it may have: that of a dense layer stored as a 1x1 convolution, or the reverse.
    old_shape: tuple[int, ...] | None
    axes: tuple[int, ...]  # the tensor's, in the parameter's order

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Returns whether a tensor of this shape can be read."""
        return tuple(shape) in (self.stored_shape, self.old_shape)

    def read(self, tensor: np.ndarray) -> np.ndarray:
        """Returns the parameter in a tensor of an accepted shape: a view, nothing is copied."""
        return tensor.reshape(self.stored_shape).transpose(self.axes)

    def write(self, param: np.ndarray) -> np.ndarray:
        """Returns the tensor of a parameter, of `stored_shape`: a view too."""
        return param.transpose(np.argsort(self.axes))


@functools.lru_cache(maxsize=16)  # tracing a UNet takes a second
def abstract_params(module: Any) -> dict[str, Any]:
    """Returns the shapes and dtypes of a model's parameters, called with its `example_inputs()`."""
    # The arithmetic's dtype changes no shape, and flax promotes half precision silently.
    module = module.clone(dtype=jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), **module.example_inputs())["params"]


def key_table(params: Mapping[str, Any]) -> dict[Path, Entry]:
    """Returns the tensor of each parameter (or shape) in a nested dict, by its path."""
    flat = flax.traverse_util.flatten_dict(params)
    return {path: _entry(path, tuple(leaf.shape)) for path, leaf in flat.items()}


# What a checkpoint holds without effect on pictures, where it is no parameter of the network:
# constants, and parts of a whole CLIP.
IGNORED = re.compile(
    r"(text_model\.)?embeddings\.position_ids"
    r"|text_projection(\.weight)?|visual_projection\.weight|logit_scale|vision_model\..*"
)

# The number of linear_1 and linear_2 is not a position in a list (diffusers' TimestepEmbedding).
_LISTED = re.compile(r"(?<!^linear)_(\d+)$")

# Attention in autoencoders saved before diffusers 0.15 (its pull request 1989).
_OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out_0": "proj_attn"}
_KERNELS = {2: (1, 0), 4: (2, 3, 1, 0)}  # by rank: dense layers, convolutions


def _entry(path: Path, shape: tuple[int, ...]) -> Entry:
    *modules, leaf = path
    suffix = "weight" if leaf in ("kernel", "scale", "embedding") else leaf

    def spell(names):
        return ".".join([*(_LISTED.sub(r".\1", name) for name in names), suffix])

    aliases = []
    if modules[:1] == ["text_model"]:  # transformers 5 leaves the component out
        aliases.append(spell(modules[1:]))
    if modules[-3:-1] == ["mid_block", "attentions_0"] and modules[-1] in _OLD_ATTENTION:
        aliases.append(spell([*modules[:-1], _OLD_ATTENTION[modules[-1]]]))
    axes = _KERNELS[len(shape)] if leaf == "kernel" else tuple(range(len(shape)))
    stored, old = tuple(shape[axis] for axis in np.argsort(axes)), None
    if leaf == "kernel" and stored[2:] in ((), (1, 1)):
        old = stored[:2] if stored[2:] else (*stored, 1, 1)
    return Entry(spell(modules), tuple(aliases), stored, old, axes)
