"""Which kind of file this is, by its first bytes; and JSON settings files, read strictly."""

from pathlib import Path
from typing import Any

from pot_jax.checks import parsed_json
from pot_jax.errors import UserError, shown

ZIP = b"PK\x03\x04"
PICKLE = b"\x80"
GIT_LFS = b"version https://git-lfs"
MAX_HEADER = 20_000_000  # bytes; the header of SDXL's UNet has 0.2 MB, the library allows 100 MB
_MAX_JSON = 20_000_000  # bytes; the largest index of a public model is under 1 MB
# Common mistakes, by their first bytes.
_MISTAKES = (
    (GIT_LFS, "is a git-lfs pointer, not the weights; run `git lfs pull`"),
    (b"<", "is a web page, not weights; download the file again"),
    (ZIP, "is a pickled torch file under a false name; save it as safetensors"),
    (PICKLE, "is a Python pickle under a false name; save it as safetensors"),
    (b"{", "is JSON text, not weights; download the file again"),
)


def regular_file(path: Path, what: str = "file") -> Path:
    """Returns `path` if it is a regular file, or a link to one; UserError for anything else."""
    if path.is_file():
        return path
    state = "is not a regular file" if path.exists() or path.is_symlink() else "does not exist"
    raise UserError(f"{what} {shown(path)} {state}; the model folder is incomplete")


def is_safetensors(start: bytes, size: int) -> bool:
    """Returns whether a file of `size` bytes, of which `start` are the first 64, is safetensors."""
    length = int.from_bytes(start[:8], "little")
    return 2 <= length <= MAX_HEADER and 8 + length <= size and start[8:9] == b"{"


def not_safetensors(start: bytes, size: int) -> str:
    """Says what a file that is not safetensors is, and what to do about it."""
    if size < 10:
        return f"is empty or cut off ({size} bytes); get it again"
    length = int.from_bytes(start[:8], "little")
    if length <= 2**30 and start[8:9] == b"{":  # first, because a length may look like a mistake
        if size < 8 + length:
            return f"is truncated: its header has {length} bytes, the file {size}; get it again"
        return f"has a header of {length} bytes; a model's is under {MAX_HEADER}; get it again"
    return _mistake(start) or "is not a safetensors file; get it again"


def not_torch(start: bytes) -> str:
    """Says what a file that is not a zip of torch's is, and what to do about it."""
    if start.startswith(PICKLE):
        old = "is in the format that torch wrote before version 1.6, which is not supported"
        return f"{old}; load and save it with a newer torch, or get the model as safetensors"
    return _mistake(start) or "is not a torch checkpoint; get it again"


def _mistake(start: bytes) -> str | None:
    start = start.lstrip()
    return next((meaning for magic, meaning in _MISTAKES if start.startswith(magic)), None)


def parse(text: bytes) -> dict[str, Any]:
    """Parses one JSON object; raises ValueError as `parsed_json` does, and if it is no object."""
    value = parsed_json(text)
    if isinstance(value, dict):
        return value
    raise ValueError(f"a JSON object was expected, not {type(value).__name__}")


def json_object(path: Path) -> dict[str, Any]:
    """Reads the JSON object in a model folder's settings file; UserError if it is anything else."""
    where = shown(regular_file(path))
    if (size := path.stat().st_size) > _MAX_JSON:
        raise UserError(f"{where} has {size} bytes; a model's has under {_MAX_JSON}; get it again")
    text = path.read_bytes()
    if text.startswith(GIT_LFS):
        raise UserError(f"{where} is a git-lfs pointer, not the settings; run `git lfs pull`")
    try:
        return parse(text)
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise UserError(f"{where} is not usable JSON ({shown(error)}); get it again") from None
