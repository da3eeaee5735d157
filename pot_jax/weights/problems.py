"""Everything that does not fit, for one message."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from pot_jax.errors import UserError, shown


def listed(problems: Mapping[str, list[str]]) -> str:
    """How many problems there are of each kind, with the first few by name."""
    few = 3
    return ", ".join(
        f"{len(names)} {kind} ({'; '.join(names[:few])}{'; ...' * (len(names) > few)})"
        for kind, names in problems.items()
    )


def few(names: list[str], count: int = 3) -> str:
    return ", ".join(shown(name) for name in names[:count]) + ", ..." * (len(names) > count)


class Problems:
    """Everything found wrong with the weights, by kind, for one message."""

    def __init__(self, path: Path):
        self._path = path  # of the model's folder or file
        self._kinds: dict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, file: Path, name: str, detail: str = "") -> None:
        place = "" if file == self._path else f" in {shown(str(file.relative_to(self._path)))}"
        self._kinds[kind].append(f"{shown(name)}{place}{detail}")

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def raise_any(self) -> None:
        """Raises UserError with the count and the first few of every kind, if there are any."""
        if not self._kinds:
            return
        kinds = listed(self._kinds)
        where = shown(str(self._path))
        if self._path.is_file():
            raise UserError(
                f"the weights in {where} are not those of a whole Stable Diffusion: "
                f"{kinds}; get the file again"
            )
        raise UserError(
            f"the weights in {where} do not fit its config files: {kinds}; get both "
            "from the same place again"
        )
