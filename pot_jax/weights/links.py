"""Where the links in a model folder may lead: nowhere but into the folder itself.

What a folder seems to hold is then what it holds, whoever packed it; copied or sent, it is whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from pot_jax.errors import UserError
from pot_jax.weights.read import shown


def check_links(folder: Path, names: Iterable[str]) -> None:
    """Refuses links that lead out of a model folder.

    Args:
      folder: of the model; that it is a link itself is the user's affair.
      names: of the files and folders in it that are read.

    Raises:
      UserError: one of them, or a file directly in one of them, is a link to somewhere else.
    """
    roots = _roots(Path(os.path.realpath(folder)))
    for place in (folder / name for name in names):
        for path in (place, *sorted(place.glob("*"))):
            target = Path(os.path.realpath(path))
            if not any(target.is_relative_to(root) for root in roots):
                raise UserError(
                    f"{shown(str(path))} is a link that leaves the model folder, to "
                    f"{shown(str(target))}; copy what it leads to in its place"
                )


def _roots(folder: Path) -> list[Path]:
    """The folder; for a snapshot in a hub's cache, all that its links are made to lead to.

    `CACHE/models--OWNER--NAME/snapshots/COMMIT` holds links into `CACHE/models--OWNER--NAME/blobs`,
    and since version 2 of huggingface_hub these may be links into `CACHE/blobs`.
    """
    if folder.parent.name == "snapshots" and folder.parents[1].name.startswith("models--"):
        return [folder, folder.parents[1] / "blobs", folder.parents[2] / "blobs"]
    return [folder]
