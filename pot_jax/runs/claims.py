"""Whose folder it is: a record in it says, and another's record is never overwritten."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pot_jax.checks import differences
from pot_jax.errors import UserError, one_line, shown
from pot_jax.media.files import write_json

Differ = Callable[[Mapping[str, Any], Mapping[str, Any]], Iterable[str]]


def named_differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The leaves in which two records differ, each as "name is A there, B here"."""
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
    differing: Differ = named_differences,
) -> dict[str, Any] | None:
    """Makes the folder of `record_file` belong to what `record` describes.

    Args:
      record_file: the JSON file that says whose folder it is.
      record: plain data that tells this from others of its kind.
      what: the kind in words, such as "run" or "training", for messages.
      flag: where the user chose the folder.
      differing: names the differences between the record found and the wanted one that make them
        two; none means that they are the same.

    Returns:
      The record found there; None where the folder was absent or empty and now holds `record`.

    Raises:
      UserError: the folder holds another of its kind, or files of another kind, or its record is
        not whole.
    """
    path = Path(record_file)
    check_free(path, what=what, flag=flag)
    if not path.is_file():
        write_json(path, record)
        return None
    found = read_json(path)
    different = list(differing(found, record))
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
    # A kill while a record is written leaves its temporary file, whose name starts with a dot.
    files = [file for file in folder.glob("*") if not file.name.startswith(".")]
    if files and not path.is_file():
        raise UserError(
            f"{flag}: {folder} holds other files and no {what}; give a new or empty folder"
        )


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """The JSON object in a record.

    Raises:
      UserError: the file is missing, cannot be read, or is not whole.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"no run at {path.parent}: it has no {path.name}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is not whole JSON, it may be cut off: {one_line(error)}") from None
    if not isinstance(value, dict):
        raise UserError(f"{shown(path)} holds a {type(value).__name__}, expected settings by name")
    return value
