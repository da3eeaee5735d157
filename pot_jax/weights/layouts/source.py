"""A model's files, whatever their layout: all that loading needs to know of them.

A diffusers folder is read here, a single file in `single_file`; `load` sees no difference.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pot_jax.weights.formats import safetensors as read
from pot_jax.weights.keys import ignorable
from pot_jax.weights.layouts.original_names import respelled
from pot_jax.weights.model import COMPONENTS, Parts


@dataclass(frozen=True, eq=False)
class Source:
    """What the files describe, and where each tensor lies; nothing of their data is read yet."""

    path: Path  # the folder or the file
    parts: Parts
    tensors: dict[str, dict[str, read.Tensor]]  # component -> name in the files -> tensor
    # Component -> beginnings of diffusers' names -> what stands for them in the files.
    names: dict[str, dict[str, str]] = field(default_factory=dict)
    others: dict[str, read.Tensor] = field(default_factory=dict)  # of no component

    def spelling(self, component: str, key: str) -> str:
        """The name in the files of the tensor that diffusers calls `key`."""
        return respelled(key, self.names.get(component, {}))

    def place(self, component: str) -> Path:
        """Where a component's tensors are."""
        return self.path if self.path.is_file() else self.path / COMPONENTS[component].folder


def folder_source(folder: Path, parts: Parts, variant: str | None) -> Source:
    """A diffusers folder with the parts that have been read from it.

    Raises:
      UserError: weights are missing, or a file is damaged.
    """
    tensors = {}
    for name, component in COMPONENTS.items():
        found = read.tensors(folder / component.folder, component.stem, variant)
        tensors[name] = {key: tensor for key, tensor in found.items() if not ignorable(key)}
    return Source(folder, parts, tensors)
