"""Folders in object stores, gs:// and s3://: `etils.epath`'s paths, read and written by fsspec.

Both stores write an object whole or not at all, and then show it to all. epath's own reads take a
store that does not answer for one without the file, and its writes make buckets, unconditionally.
"""

import contextlib
import errno
import fnmatch
import functools
import io
import logging
import os
import threading
from concurrent.futures import Future
from typing import Any

import fsspec
from etils.epath.gpath import PosixGPath

from pot_jax.errors import Unreachable, one_line

PATIENCE = 60.0  # seconds for an answer: libraries look long for credentials that are nowhere
EXTRAS = {"gs": "gcs", "s3": "s3"}  # of pot_jax, with what fsspec needs


class Stored(PosixGPath):
    """An object; or a folder, which is there while it has an object. Raises Unreachable."""

    def _ask(self, method: str, *given: Any, long: bool = False, **how: Any) -> Any:
        """What a method of fsspec says, in its time if that may be long."""
        answer, given = Future(), given or (str(self),)

        def run() -> None:
            try:
                store = _filesystem(str(self)[:2])
                answer.set_result(getattr(store, method)(*given, **how))
            except BaseException as error:
                answer.set_exception(error)

        threading.Thread(target=run, daemon=True).start()  # no exit waits for it
        try:
            return answer.result(None if long else PATIENCE)
        except FileExistsError:
            raise
        except Exception as error:
            absent = isinstance(error, FileNotFoundError)
            if absent and len(given) == 1:
                raise FileNotFoundError(errno.ENOENT, "no such object", str(self)) from error
            why = one_line(error) if answer.done() else f"no answer within {PATIENCE:.0f} s"
            why = "there is no such bucket" if absent else why  # to write to
            place = self.parent if self.name.startswith(".") else self  # whose name says nothing
            how = "check the bucket, your credentials and the network"
            raise Unreachable(f"cannot use {place}: {why}; {how}") from error

    def _info(self) -> dict[str, Any]:
        with contextlib.suppress(FileNotFoundError):
            return self._ask("info")
        return {}

    def exists(self) -> bool:
        """Returns whether it is there, as an object or a folder."""
        return bool(self._info())

    def is_dir(self) -> bool:
        """Returns whether it is a folder that is there."""
        return self._info().get("type") == "directory"

    def stat(self) -> os.stat_result:
        """Returns its size, and by the store's clock, its times."""
        times = [self._ask("modified").timestamp()] * 3
        return os.stat_result([0] * 6 + [self._ask("size"), *times])

    def rglob(self, pattern: str) -> list["Stored"]:
        """Returns the objects, at any depth, whose last name fits."""
        found = [Stored(str(self)[:5] + name.lstrip("/")) for name in sorted(self._ask("find"))]
        return [p for p in found if p != self and fnmatch.fnmatchcase(p.name, pattern)]

    def glob(self, pattern: str = "*") -> list["Stored"]:
        """Returns the objects and folders in it that fit."""
        depth, inside = pattern.count("/") + 1, (p.relative_to(self).parts for p in self.rglob("*"))
        names = {"/".join(parts[:depth]) for parts in inside if len(parts) >= depth}
        return [self / name for name in sorted(names) if fnmatch.fnmatchcase(name, pattern)]

    iterdir = glob

    def mkdir(self, **_: bool) -> None:
        """Does nothing: an object makes its folders."""

    def open(self, mode: str = "r", **_: Any) -> io.IOBase:
        """Returns what is in it, to be read: all is here by then."""
        file = io.BytesIO(self._ask("cat_file", long=True))
        return file if "b" in mode else io.TextIOWrapper(file, "utf-8")

    def upload(self, file: str | os.PathLike) -> None:
        """Becomes what a local file is."""
        self._ask("put_file", os.fspath(file), str(self), long=True)

    def write_bytes(self, data: bytes, mode: str = "overwrite") -> None:
        """Becomes these bytes; of `mode` "create", FileExistsError if there is an object."""
        self._ask("pipe_file", str(self), data, mode=mode)

    def create(self, data: bytes) -> bool:
        """Writes `data`, nobody else's, if the store finds nothing there; says whether it did."""
        with contextlib.suppress(FileExistsError):  # perhaps ours: unanswered, and asked again
            self.write_bytes(data, mode="create")
        with contextlib.suppress(FileNotFoundError):
            return self.read_bytes() == data
        return False

    def unlink(self, missing_ok: bool = True) -> None:
        """Removes an object, if there is one."""
        with contextlib.suppress(FileNotFoundError):
            self._ask("rm_file")


@functools.cache
def _filesystem(scheme: str) -> fsspec.AbstractFileSystem:
    for name in ("gcsfs", "google.auth"):  # they also log what they raise, with a traceback
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return fsspec.filesystem(scheme, use_listings_cache=False)
