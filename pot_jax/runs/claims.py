"""Claims folders: a record file says which run a folder belongs to; no other overwrites it."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pot_jax.checks import differences
from pot_jax.errors import UserError, one_line, shown
from pot_jax.media.files import write_json

Differ = Callable[[Mapping[str, Any]], Iterable[str]]  # given the found record


def named_differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Returns the leaves in which two records differ, each as "name is A there, B here"."""
    return [
        f"{name} is {shown(repr(there))} there, {shown(repr(here))} here"
        for name, there, here in differences(found, wanted)
    ]


def claim(
    record_file: str | os.PathLike,
    record: Mapping[str, Any],
    *,
    what: str,
    flag: str = "--workdir",
    differing: Differ | None = None,
) -> dict[str, Any] | None:
    """Claims the folder of `record_file` for the run that `record` describes.

    Args:
      record_file: the JSON file that says which run the folder belongs to.
      record: plain data that tells this run from others of its kind.
      what: the kind in words, such as "run" or "training", for messages.
      flag: the flag that gave the folder.
      differing: given the found record, lists what makes it another run; empty if it is the same
        one. By default, every leaf in which it differs from `record`.

    Returns:
      The record found there; None if the folder was absent or empty and now holds `record`.

    Raises:
      UserError: the folder holds another run or other files, or its record is not complete.
    """
    path = Path(record_file)
    check_free(path, what=what, flag=flag)
    if not path.is_file():
        write_json(path, record)
        return None
    found = read_json(path)
    different = list(differing(found) if differing else named_differences(found, record))
    if different:
        shortened = "; ".join(different[:3]) + ("; ..." if len(different) > 3 else "")
        raise UserError(
            f"{flag}: {path.parent} holds another {what} ({shortened}); give another folder"
        )
    return found


def check_free(record_file: str | os.PathLike, *, what: str, flag: str = "--workdir") -> None:
    """Raises UserError unless the record's folder is absent, empty, or has that record."""
    path = Path(record_file)
    folder = path.parent
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{flag}: expected a folder, got the file {folder}")
    # A kill while a record is being written leaves a temporary file; its name starts with a dot.
    files = [file for file in folder.glob("*") if not file.name.startswith(".")]
    if files and not path.is_file():
        raise UserError(
            f"{flag}: {folder} holds other files and no {what}; give a new or empty folder"
        )


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """Returns the JSON object in a record file.

    Raises:
      UserError: the file is missing, cannot be read, or is not complete.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"no run at {path.parent}: it has no {path.name}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        reason = f"is not complete JSON (it may be truncated): {one_line(error)}"
        raise UserError(f"{path} {reason}") from None
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise UserError(f"{shown(path)} contains a {kind}; expected a JSON object")
    return value
