"""Claims folders: a record file says which run a folder belongs to; no other overwrites it.

While a run works in its folder, a second file there, `.pot_jax-claim.json`, says which process
holds it; it is made exclusively, touched every BEAT seconds, and removed at the end. A process that
has ended on this host frees its folder at once. Of other hosts, all that can be seen is the file's
age: after STALE seconds without a touch its process counts as ended.

In an object store the claim is made by a conditional write and never changed; an object beside it
is the heartbeat. Whoever removes a claim, its owner or a process that finds it stale, first makes
another object by a conditional write; where the store knows none, stale claims stay.
"""

import contextlib
import fcntl
import fnmatch
import json
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from pot_jax.checks import differences, parsed_json
from pot_jax.errors import Unreachable, UserError, edge, few, shown
from pot_jax.media.files import TEMPORARY, located, write_json

BEAT, STALE = 10.0, 120.0  # seconds
_CLAIM = f"{TEMPORARY}claim.json"
_HELD: dict[Path, dict[str, Any]] = {}  # this process's claims
# What killed processes leave: files of `write_atomically`, and folders of Orbax.
_LEFTOVERS = (f"{TEMPORARY}*", "*.orbax-checkpoint-tmp*")
# What desktops, disks, schedulers and loggers leave in any folder; all else is somebody's work.
_CLUTTER = (
    (".*", "lost+found", "Thumbs.db", "desktop.ini", "Icon\r", "__MACOSX", "$RECYCLE.BIN")
    + ("*.log", "*.out", "*.err", "*.pid", "*.o[0-9]*", "*.e[0-9]*", "*.log.[0-9]*", "*.tmp", "*~")
    + ("core", "core.[0-9]*", "events.out.tfevents.*", "wandb", "mlruns", "tensorboard", "logs")
    + ("point.json",)  # of a sweep, which writes it before the run's own record
)


class InUse(UserError):
    """Another process holds the folder."""


def named_differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Returns the leaves in which two records differ, each as "name is A there, B here"."""
    rows = differences(found, wanted)
    return [f"{name} is {shown(repr(a))} there, {shown(repr(b))} here" for name, a, b in rows]


def claim(
    record_file: str | os.PathLike,
    record: Mapping[str, Any],
    *,
    what: str,
    flag: str = "--workdir",
    differing: Callable[[Mapping[str, Any]], Iterable[str]] | None = None,
) -> dict[str, Any] | None:
    """Claims the folder of `record_file`, a JSON file, for the run that `record` describes.

    `record` is plain data that tells this run from others of its kind; `what` is the kind in words,
    such as "run" or "training", and `flag` gave the folder, for messages. `differing`, given the
    found record, lists what makes it another run; by default, every leaf that differs.

    Returns the record found there, None if the folder was free and now holds `record`. Raises
    UserError if the folder holds another run or other files, or its record is not complete.
    """
    path = located(record_file)
    check_free(path, what=what, flag=flag)
    if not path.exists():
        write_json(path, record)
        return None
    found = read_json(path)
    if rows := list(differing(found) if differing else named_differences(found, record)):
        another = f"holds another {what} ({few(rows, '; ')})"
        raise UserError(f"{flag}: {path.parent} {another}; give another folder")
    return found


def check_free(record_file: str | os.PathLike, *, what: str, flag: str = "--workdir") -> None:
    """Raises UserError unless the record's folder is free, or has that record.

    It is free if it is absent, or holds only what desktops, disks, schedulers and loggers leave.
    """
    path = located(record_file)
    folder = path.parent
    with edge("using a folder", folder):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{flag}: expected a folder, got the file {folder}")
        names = [found.name for found in folder.iterdir()] if folder.is_dir() else []
    others = [name for name in names if not any(fnmatch.fnmatch(name, c) for c in _CLUTTER)]
    if others and path.name not in names:
        holds = f"holds other files and no {what} ({shown(min(others))}, ...)"
        raise UserError(f"{flag}: {folder} {holds}; give a new or empty folder")


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """Returns the JSON object in a record file; raises UserError if it holds no complete one."""
    with edge("reading a record", path):
        data = located(path).read_bytes()
    with edge("parsing a record", path):
        value = parsed_json(data.decode("utf-8-sig"))
    if isinstance(value, dict):
        return value
    raise UserError(f"{shown(path)} contains a {type(value).__name__}; expected a JSON object")


# Which process works in a folder. ----------------------------------------------------------------


@contextlib.contextmanager
def held(folder: str | os.PathLike, flag: str = "--workdir") -> Iterator[None]:
    """Holds `folder`, made if absent, for this process; removes what a killed one left there.

    Raises InUse if another process holds the folder, and UserError if it cannot be written.
    """
    folder = located(folder)
    path, mine = folder / _CLAIM, {**_process(os.getpid()), "token": secrets.token_hex(8)}
    touched = path if isinstance(path, Path) else _beside(path, "beat", mine)
    with edge("writing a file", path):
        folder.mkdir(parents=True, exist_ok=True)
        while not _made(path, mine):
            _remove_stale(path, flag)
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT):
            with contextlib.suppress(OSError, Unreachable):
                if _read(path) == mine:
                    os.utime(path) if touched is path else touched.write_bytes(b"{}")

    _HELD[path] = mine
    try:
        threading.Thread(target=beat, daemon=True).start()
        for found in [path for pattern in _LEFTOVERS for path in folder.rglob(pattern)]:
            if found.is_dir():
                shutil.rmtree(found, ignore_errors=True)
            elif found.name not in (_CLAIM, touched.name):
                found.unlink(missing_ok=True)
        yield
    finally:
        ended.set()
        give_up(path)


def give_up(*paths: Path) -> None:
    """Removes this process's claim files, by default all: for those that end without unwinding."""
    for path in paths or [*_HELD]:
        with contextlib.suppress(OSError, Unreachable):
            if (mine := _HELD.pop(path, None)) and _read(path) == mine:
                path.unlink() if isinstance(path, Path) else _removed(path, mine, mine)


def check_held(folder: str | os.PathLike, flag: str = "--workdir") -> bool:
    """Returns whether a stale claim lies in `folder`; UserError if another process holds it."""
    path = located(folder) / _CLAIM
    with contextlib.suppress(OSError):  # absent, or just removed
        age, holder = _age(path), _read(path)
        here = _process(holder.get("pid"))
        same_host = here["host"] == holder.get("host") and bool(here["host"][1])
        ended = same_host and here["start"] != holder.get("start")
        if not ended and (age < STALE or same_host):
            who = f"process {shown(holder.get('pid', '?'))} on {shown(holder.get('name', '?'))}"
            who += f", last seen {max(age, 0):.0f} s ago; wait for its end"
            rest = "" if same_host else f", or until it has been silent for {STALE:.0f} s"
            raise InUse(f"{flag}: {folder} is in use by {who}{rest}, or give another folder")
        return True
    return False


def _process(pid: object) -> dict[str, Any]:
    """What tells process `pid` of this host from all others; "start" says whether it still runs.

    Containers on one machine share its boot, but not the numbers of processes.
    """
    start, host = "ended", ["", ""]
    with contextlib.suppress(OSError, IndexError):  # no /proc: only the heartbeat counts
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        host = [os.readlink("/proc/self/ns/pid"), boot]
        # The command, in brackets, may hold anything; the start time is the 22nd field.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        start = "ended" if fields[0] in "ZX" else fields[19]
    return {"pid": pid, "name": socket.gethostname(), "host": host, "start": start}


def _made(path: Path, mine: dict[str, Any]) -> bool:
    """Makes the claim file; returns False if there is one."""
    if not isinstance(path, Path):
        return not path.exists() and path.create(json.dumps(mine).encode())
    with contextlib.suppress(FileExistsError), open(path, "x", encoding="utf-8") as file:
        try:
            print(json.dumps(mine), file=file, flush=True)
        except OSError:  # a full disk: an empty claim would keep others out
            path.unlink()
            raise
        return True
    return False


def _read(path: Path) -> dict[str, Any]:
    """The claim in `path`; {} if it is not whole, as while it is being written."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except Unreachable:  # it may be there, and alive
        raise
    except (OSError, ValueError, TypeError):
        return {}


def _age(path: Path) -> float:
    """Seconds since the file was touched, by the clock of its disk, which other hosts share."""
    if not isinstance(path, Path):
        beat, probe = _beside(path, "beat", _read(path)), _beside(path, "now", {})
        touched = (beat if beat.exists() else path).stat().st_mtime
        probe.write_bytes(b"{}")
        now = probe.stat().st_mtime
        probe.unlink()
        return now - touched
    touched = path.stat().st_mtime
    with contextlib.suppress(OSError), TemporaryFile(dir=path.parent, prefix=TEMPORARY) as probe:
        return os.fstat(probe.fileno()).st_mtime - touched
    return time.time() - touched  # a full or read-only disk


def _remove_stale(path: Path, flag: str) -> None:
    """Removes a stale claim, one process after another: none removes what another made since."""
    if not isinstance(path, Path):
        stale = _read(path)  # first: what comes after it is not removed
        if check_held(path.parent, flag) and not _removed(path, stale):
            time.sleep(2)  # for another process that removes it
            if _read(path) == stale:
                how = f"if it has ended, delete {path} and {_beside(path, 'over', stale)}"
                raise InUse(f"{flag}: {path.parent} is held by a run that is silent; {how}")
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a disk without locks
            fcntl.flock(folder, fcntl.LOCK_EX)
        if check_held(path.parent, flag):
            path.unlink(missing_ok=True)
    finally:
        os.close(folder)


def _beside(path: Path, kind: str, claim: dict[str, Any]) -> Path:
    """An object beside a claim in a store, that claim's own or, without one, this process's."""
    return path.with_name(f"{TEMPORARY}{kind}-{claim.get('token') or secrets.token_hex(8)}")


def _removed(path: Path, claim: dict[str, Any], mine: dict[str, Any] | None = None) -> bool:
    """Removes a claim from a store; returns False if another process does, or that is unknown."""
    over, tries = _beside(path, "over", claim), (secrets.token_bytes(8), secrets.token_bytes(8))
    if not over.create(tries[0]):
        return False
    try:
        known = claim == mine or bool(claim) and not over.create(tries[1])  # the second is refused
        if known and _read(path) == claim:
            path.unlink()
            _beside(path, "beat", claim).unlink()
    finally:
        over.unlink()
    return known
