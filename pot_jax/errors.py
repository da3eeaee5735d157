"""The exception that means "the user can correct this", and how other libraries' errors become it.

A library's exception becomes one line only at a named edge, inside `with edge(name, place)`. The
edges are the rows of `EDGES`; what no row names is a defect of ours and stays a traceback.
"""

import contextlib
import errno
import os
import stat
import traceback
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple


class UserError(ValueError):
    """A mistake in what the user gave: prompts, settings, files.

    Its message is one line that says what was expected, what came, and what to do. The command line
    prints that line and exits with code 2; from Python it is a `ValueError`.
    """


class ToldElsewhere(UserError):
    """A mistake that another process of a multi-host run tells the user."""


class Unreachable(UserError):
    """A store does not answer, or refuses: nothing is known of what it holds."""


_LONGEST = 200  # characters of a foreign text that a message quotes

# What a user can mend about a file or disk -> the system's names. Other OSErrors are our defects.
_MENDABLE = {
    "a file stands where a folder is needed": "EEXIST ENOTDIR",
    "a folder stands where the file is needed": "EISDIR",
    "a running program has that name": "ETXTBSY",
    "it holds other files meanwhile": "ENOTEMPTY",
    "it, or a folder on the way to it, is not there": "ENOENT",
    "its symbolic links lead in a circle": "ELOOP",
    "no permission to use it": "EACCES EPERM",
    "that disk allows no such name or file": "EINVAL EILSEQ",
    "that disk cannot do this": "ENOSYS ENOTSUP",
    "the disk is full (No space left on device)": "ENOSPC",
    "the disk is read-only": "EROFS",
    "the disk quota is used up": "EDQUOT",
    "the disk reports an error": "EIO",
    "the file is too large for that disk": "EFBIG",
    "the name is too long for that disk": "ENAMETOOLONG",
    "the network disk does not answer": "ECONNRESET EHOSTDOWN ENOTCONN ETIMEDOUT",
    "the network disk has lost it": "ESTALE",
    "the system is using it": "EBUSY",
    "there is no such device": "ENODEV ENXIO",
    "too many files are open": "EMFILE ENFILE",
}
MENDABLE = {getattr(errno, name): text for text in _MENDABLE for name in _MENDABLE[text].split()}


class Edge(NamedTuple):
    """What one library, or the disk, says where a user can mend it."""

    says: str  # the line, with {place} and {why}
    raises: tuple[type[Exception], ...] = ()  # besides the OSErrors in MENDABLE
    within: str = ""  # libraries that raise anything when their input is damaged
    starts: tuple[str, ...] = ()  # how the message begins
    lines: Mapping[int | str, str] = {}  # errno, or the name of a class -> a line of its own


EDGES = {
    "writing a file": Edge("cannot write {place}: {why}; fix that or choose another location"),
    "using a folder": Edge("cannot use the folder {place}: {why}; give another"),
    "writing a movie": Edge("cannot write the movie {place}: {why}", within="av"),
    "reading a record": Edge(
        "{place} cannot be read: {why}",
        lines={errno.ENOENT: "no run at {folder}: it has no {name}"},
    ),
    "parsing a record": Edge(
        "{place} is not complete JSON (it may be truncated): {why}", (ValueError, RecursionError)
    ),
    "reading arrays": Edge(
        "{place} cannot be read (it may be truncated): {why}",
        (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error),
        within="numpy zipfile zlib pickle ast tokenize",
    ),
    "reading flags": Edge("--flagfile: {place} cannot be read: {why}", (UnicodeDecodeError,)),
    "overriding a setting": Edge("--config.{place}: {why}", within="ml_collections"),
    "reading a config": Edge("--config: {place} cannot be read: {why}", (UnicodeDecodeError,)),
    "parsing a config": Edge("--config: {place} is not JSON: {why}", (ValueError, RecursionError)),
    "parsing a scene": Edge("--config: {place} is not TOML: {why}", (ValueError, RecursionError)),
    "reading a model": Edge("the model {place} cannot be read: {why}"),
    "finding devices": Edge(
        "--devices: there is no {place} here: {why}",
        within="jax jaxlib",
        lines={"AssertionError": "--devices: there is no {place} here: JAX has no plugin for it"},
    ),
    "joining a cluster": Edge(
        "--distributed: no cluster's environment was found (Cloud TPU, Slurm, Open MPI or "
        "Kubernetes): {why}; leave it out on a single host",
        within="jax jaxlib",
    ),
    "computing": Edge(
        "the memory of {place} is used up ({why}): use fewer levels or samples, smaller pictures, "
        "or batch_rows=1",
        (MemoryError,),
        starts=("RESOURCE_EXHAUSTED", "Out of memory"),
    ),
    "reading a picture": Edge(
        "the picture {place} cannot be read (it may be truncated): {why}",
        (OSError, SyntaxError, ValueError, EOFError),
        within="PIL",
        lines={
            errno.ENOENT: "no picture at {place}",
            errno.EISDIR: "{place} is a folder, not a picture",
            errno.EACCES: "no permission to read the picture {place}",
            "UnidentifiedImageError": "{place} is not a picture of a known kind (PNG, JPEG, ...)",
            "DecompressionBombError": "the picture {place} is too large: {why}",
            "DecompressionBombWarning": "the picture {place} is too large: {why}",
        },
    ),
    "reading a recipe": Edge(
        "--from_picture: {place} cannot be read ({why}); give a PNG of a run",
        (OSError, SyntaxError, ValueError, EOFError),
        within="PIL",
    ),
    "reading a font": Edge("movie.font: {place} cannot be read as a font: {why}", (OSError,)),
    "reading a kept copy": Edge(
        "{place} is incomplete or damaged ({why}); make it again with `pot-jax convert`",
        (OSError, ValueError, IndexError, NotImplementedError),
        within="tensorstore",
    ),
    # tokenizers raises a bare Exception for most faults in its files.
    "reading a tokenizer": Edge(
        "the tokenizer in {place} cannot be read ({why}); get it again",
        (OSError, ValueError),
        within="transformers tokenizers json",
    ),
    "writing a folder": Edge("{place} cannot be written: {why}", within="orbax tensorstore"),
    "saving a state": Edge(
        "cannot save to {place} ({why}); free some space", within="orbax tensorstore jax"
    ),
    # Of earlier formats, a flipped bit makes TensorStore raise, among others, a bare Exception.
    "restoring a state": Edge(
        "{place} is unusable: {why}",
        (OSError, ValueError, KeyError),
        within="orbax tensorstore jax asyncio concurrent etils numpy zipfile",
    ),
}


@contextlib.contextmanager
def edge(name: str, place: object) -> Iterator[None]:
    """Raises a one-line UserError for what the block raises at `place`, as `EDGES[name]` says."""
    try:
        if name.startswith("reading"):
            _require_end(place)
        yield
    except Exception as error:
        row = EDGES[name]
        if isinstance(error, UserError) or not _is_foreign(error, row):
            raise
        number, path = getattr(error, "errno", None), str(place)
        folder, _, file = path.rpartition("/")
        facts = {"place": shown(path), "folder": shown(folder or "."), "name": shown(file)}
        why = MENDABLE.get(number) or one_line(error)
        line = row.lines.get(number) or row.lines.get(type(error).__name__) or row.says
        raise UserError(line.format(**facts, why=why)) from error


def _require_end(place: object) -> None:
    """Refuses what may be read without end: devices, and pipes other than the shell's in /dev."""
    path, mode = str(place), 0
    with contextlib.suppress(OSError, ValueError):  # whoever reads it says what is wrong
        mode = os.stat(path).st_mode
    if stat.S_ISCHR(mode) or (stat.S_ISFIFO(mode) and not path.startswith("/dev/")):
        raise UserError(f"{shown(path)} is a pipe or a device; give a file")


def _is_foreign(error: Exception, row: Edge) -> bool:
    if isinstance(error, row.raises) or getattr(error, "errno", None) in MENDABLE:
        return True
    if row.starts and str(error).startswith(row.starts):
        return True
    *_, (last, _) = traceback.walk_tb(error.__traceback__)
    modules = {type(error).__module__, last.f_globals.get("__name__", "")}
    bare = bool(row.within) and type(error) is Exception  # C++ of a library; none of ours does
    return bare or any(module.split(".")[0] in row.within.split() for module in modules)


def shown(text: object) -> str:
    """Returns `text` in a form safe for a one-line message: escaped if needed, and truncated."""
    text = str(text)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def one_line(error: BaseException) -> str:
    """Returns the first line of another library's message in `error`, or the name of its class."""
    text = ""
    with contextlib.suppress(Exception):  # an exception of a user's own may have no text
        text = shown(next((line for line in str(error).splitlines() if line.strip()), ""))
    return text or type(error).__name__


def few(names: Iterable[str], separator: str = ", ") -> str:
    """Lists the first three names, and says whether there are more."""
    names = list(names)
    return separator.join(names[:3]) + f"{separator}..." * (len(names) > 3)


def listed(problems: Mapping[str, Sequence[str]]) -> str:
    """Lists how many problems there are of each kind, and the first few by name."""
    return ", ".join(f"{len(n)} {kind} ({few(n, '; ')})" for kind, n in problems.items())
