"""A model's files in any layout: everything that loading needs to know about them."""

from dataclasses import dataclass, field
from pathlib import Path

from pot_jax.weights.formats.tensors import Tensor
from pot_jax.weights.layouts.original_names import respelled
from pot_jax.weights.model import COMPONENTS, Parts


@dataclass(frozen=True, eq=False)
class Source:
    """What the files describe, and where each tensor lies; none of their data is read yet."""

    path: Path  # the folder or the file
    parts: Parts
    tensors: dict[str, dict[str, Tensor]]  # component -> name in the files -> tensor
    # Component -> prefix of diffusers' names -> its replacement in the files.
    names: dict[str, dict[str, str]] = field(default_factory=dict)
    others: dict[str, Tensor] = field(default_factory=dict)  # of no component

    def spelling(self, component: str, key: str) -> str:
        """Returns the name in the files of the tensor that diffusers calls `key`."""
        return respelled(key, self.names.get(component, {}))

    def place(self, component: str) -> Path:
        """Returns the folder or file of a component's tensors."""
        return self.path if self.path.is_file() else self.path / COMPONENTS[component].folder
