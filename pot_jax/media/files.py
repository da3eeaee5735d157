"""Writes files that are either complete or absent: under a temporary name, then renamed."""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

from pot_jax.errors import Unreachable, UserError, edge, one_line, shown

TEMPORARY = ".pot_jax-"  # how temporary names begin: runs remove what a killed run left

# Shared folders and FUSE refuse fsync; then only a power cut can cost the file.
_NO_FSYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}


def located(path: str | os.PathLike) -> pathlib.Path:
    """Returns a `pathlib.Path`, or a `media.stores.Stored` of a URL, gs:// or s3://.

    Raises UserError for other URLs, or if the store's library is not installed.
    """
    scheme, mark, name = os.fspath(path).partition("://")
    if not mark:
        return pathlib.Path(path)
    from pot_jax.media import stores  # imports fsspec and epath

    if scheme not in stores.EXTRAS or not name.strip("/"):
        raise UserError(f"expected a folder, gs://BUCKET/... or s3://BUCKET/..., got {shown(path)}")
    try:
        stores.fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        how = f"pip install 'pot_jax[{stores.EXTRAS[scheme]}]'"
        raise UserError(f"{shown(path)}: {one_line(error)}; {how}") from None
    return stores.Stored(path)


@contextlib.contextmanager
def write_atomically(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path to write to, and moves it to `path` if the block succeeds.

    That is in the folder of `path` (created if absent), so that the move is one rename. It keeps
    the suffix, by which libraries choose the format, and starts with a dot, so that a listing such
    as `levels/level_*.png` never includes it. The block must create it; if it raises, `path` stays
    as it was. Raises UserError if the location cannot be written (full, read-only, no folder, ...).
    For a store, the block writes to a folder of this machine.
    """
    path = located(path)
    if not isinstance(path, pathlib.Path):
        with edge("writing a file", path), tempfile.TemporaryDirectory() as folder:
            yield (temporary := pathlib.Path(folder, path.name))
            path.upload(temporary)
        return
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(6)}{path.suffix}")
    try:
        with edge("writing a file", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if path.parent.exists() and not temporary.exists():
                raise FileNotFoundError(f"nothing was written for {path}")  # a defect of ours
            with open(temporary, "rb+") as file:  # on the disk, else a power cut may empty it
                try:
                    os.fsync(file.fileno())
                except OSError as error:
                    if error.errno not in _NO_FSYNC:
                        raise
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def check_writable(folder: str | os.PathLike) -> None:
    """Raises UserError unless files can be made in `folder`; leaves everything as it was."""
    path = located(folder)
    with edge("using a folder", path):
        if not isinstance(path, pathlib.Path):
            probe = path / f"{TEMPORARY}{secrets.token_hex(6)}"
            probe.write_bytes(b"{}")
            probe.unlink()
            return
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
    with contextlib.suppress(OSError), located(path).open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        return found if file.seek(0, os.SEEK_END) else ""
    return ""


def remove_folder(path: pathlib.Path) -> None:
    """Removes a folder with all that is in it, as far as that can be done."""
    if isinstance(path, pathlib.Path):
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(Unreachable):
        for found in path.rglob("*"):  # by name: SHA256SUMS is the first of a state's
            found.unlink()
