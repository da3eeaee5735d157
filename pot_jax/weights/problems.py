"""Everything that does not fit, in one message."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pot_jax.errors import UserError, shown


def few(names: Iterable[str], separator: str = ", ") -> str:
    """Lists the first three names, and says whether there are more."""
    names = list(names)
    return separator.join(names[:3]) + f"{separator}..." * (len(names) > 3)


def listed(problems: Mapping[str, Sequence[str]]) -> str:
    """Lists how many problems there are of each kind, and the first few by name."""
    return ", ".join(f"{len(n)} {kind} ({few(n, '; ')})" for kind, n in problems.items())


class Problems(defaultdict[str, list[str]]):
    """What does not fit in a model's weights, by kind; `path` is the model's folder or file."""

    def __init__(self, path: Path):
        super().__init__(list)
        self._path = path

    def add(self, kind: str, file: Path, name: str, detail: str = "") -> None:
        """Adds a tensor that does not fit; `file` is where it is, or should be."""
        place = "" if file == self._path else f" in {shown(file.relative_to(self._path))}"
        self[kind].append(f"{shown(name)}{place}{detail}")

    def raise_any(self) -> None:
        """Raises UserError with the count and the first few of every kind, if there are any."""
        what, remedy = "do not fit its config files", "get both from the same place again"
        if self._path.is_file():
            what, remedy = "are not those of a whole Stable Diffusion", "get the file again"
        if self:
            wrong = f"{what}: {listed(self)}; {remedy}"
            raise UserError(f"the weights in {shown(self._path)} {wrong}")
