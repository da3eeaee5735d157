"""Writes files that are either complete or absent: under a temporary name, then renamed."""

import contextlib
import errno
import json
import os
import pathlib
import secrets
from collections.abc import Iterator
from typing import Any

from pot_jax.errors import UserError

# What a user can fix by choosing another location or freeing space. Other OSErrors are defects.
_CORRECTABLE = {
    errno.EACCES: "no permission to write there",
    errno.EDQUOT: "the disk quota is used up",
    errno.EEXIST: "a file stands where a folder is needed",
    errno.EFBIG: "the file is too large for that disk",
    errno.EISDIR: "a folder stands where the file is needed",
    errno.ENAMETOOLONG: "the name is too long for that disk",
    errno.ENOSPC: "the disk is full",
    errno.ENOTDIR: "a file stands where a folder is needed",
    errno.EPERM: "no permission to write there",
    errno.EROFS: "the disk is read-only",
}


@contextlib.contextmanager
def write_atomically(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path to write to, and moves it to `path` if the block succeeds.

    The temporary file is in the folder of `path` (created if absent), so that the move is one
    rename. It keeps the suffix, by which libraries choose the format. Its name starts with a dot,
    so that a listing such as `levels/level_*.png` never includes it. If the block raises, the
    temporary file is removed and `path` is unchanged.

    Args:
      path: the file to write.

    Yields:
      The temporary path; the block must create it.

    Raises:
      UserError: the location cannot be written (full, read-only, not a folder, ...).
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(6)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush_to_disk(temporary)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in _CORRECTABLE:
            raise
        reason = _CORRECTABLE[error.errno]
        message = f"cannot write {path}: {reason}; fix that or choose another location"
        raise UserError(message) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON, atomically.

    Raises:
      UserError: the location cannot be written.
      ValueError: `value` holds NaN or infinity, which JSON cannot express.
    """
    text = json.dumps(value, indent=2, allow_nan=False)
    with write_atomically(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _flush_to_disk(path: pathlib.Path) -> None:
    # Without this, a power cut soon after the rename can leave an empty file under the new name.
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
