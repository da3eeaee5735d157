"""Writes files that are either complete or absent: under a temporary name, then renamed."""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import secrets
import tempfile
from collections.abc import Iterator
from typing import Any

from pot_jax.errors import edge

TEMPORARY = ".pot_jax-"  # how temporary names begin: runs remove what a killed run left

# Shared folders and FUSE refuse fsync; then only a power cut can cost the file.
_NO_FSYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}


@contextlib.contextmanager
def write_atomically(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path to write to, and moves it to `path` if the block succeeds.

    That is in the folder of `path` (created if absent), so that the move is one rename. It keeps
    the suffix, by which libraries choose the format, and starts with a dot, so that a listing such
    as `levels/level_*.png` never includes it. The block must create it; if it raises, `path` stays
    as it was. Raises UserError if the location cannot be written (full, read-only, no folder, ...).
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(6)}{path.suffix}")
    try:
        with edge("writing a file", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if path.parent.exists() and not temporary.exists():
                raise FileNotFoundError(f"nothing was written for {path}")  # a defect of ours
            flush_to_disk(temporary)
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def check_writable(folder: str | os.PathLike) -> None:
    """Raises UserError unless files can be made in `folder`; leaves everything as it was."""
    path = pathlib.Path(folder)
    with edge("using a folder", path):
        absent = [place for place in (path, *path.parents) if not place.exists()]
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path, prefix=TEMPORARY) as probe:
                probe.write(b"{}")
        finally:
            for made in absent:
                with contextlib.suppress(OSError):
                    made.rmdir()


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes indented JSON, atomically; UserError if it cannot, ValueError for NaN or infinity."""
    text = json.dumps(value, indent=2, allow_nan=False)
    with write_atomically(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def file_digest(path: str | os.PathLike) -> str:
    """Returns the SHA-256 of a file, in hex; "" if it is absent, empty or cannot be read."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if os.path.getsize(path) else ""
    return ""


def flush_to_disk(path: str | os.PathLike) -> None:
    """Waits until a file is on the disk, else a power cut may empty it; OSError if it cannot be."""
    with open(path, "rb+") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in _NO_FSYNC:
                raise
