"""What kind of file one is, by its first bytes, and what to do with one that holds no weights."""

from __future__ import annotations

from pathlib import Path

from pot_jax.errors import UserError, shown

ZIP = b"PK\x03\x04"
PICKLE = b"\x80"
GIT_LFS = b"version https://git-lfs"
MAX_HEADER = 20_000_000  # bytes; that of SDXL's UNet has 0.2 MB, the library takes 100 MB

# What a file that is not safetensors most often is, by its first bytes, and what to do about it.
_IMPOSTORS = (
    (GIT_LFS, "is a git-lfs pointer, not the weights; run `git lfs pull`"),
    (b"<", "is a web page, not weights; download the file again"),
    (ZIP, "is a pickled torch file under a false name; save it as safetensors"),
    (PICKLE, "is a Python pickle under a false name; save it as safetensors"),
    (b"{", "is JSON text, not weights; download the file again"),
)


def regular_file(path: Path, what: str = "file") -> Path:
    """`path` itself, if it is a readable regular file (links are followed).

    Raises:
      UserError: it is missing, or it is a folder, a pipe or a device.
    """
    if path.is_file():
        return path
    state = "is not a regular file" if path.exists() or path.is_symlink() else "does not exist"
    raise UserError(f"{what} {shown(str(path))} {state}; the model folder is incomplete")


def is_safetensors(start: bytes, size: int) -> bool:
    """Whether a file of this size whose first 64 bytes these are begins as safetensors does."""
    length = int.from_bytes(start[:8], "little")
    return 2 <= length <= MAX_HEADER and 8 + length <= size and start[8:9] == b"{"


def not_safetensors(start: bytes, size: int) -> str:
    """What a file is that does not begin as safetensors does, and what to do about it."""
    if size < 10:
        return f"is empty or cut off ({size} bytes); get it again"
    length = int.from_bytes(start[:8], "little")
    if length <= 2**30 and start[8:9] == b"{":  # before the impostors: a length may look like one
        if size < 8 + length:
            return (
                f"is truncated: its header takes {length} bytes, the file has {size}; get it again"
            )
        return f"has a header of {length} bytes; a model's is under {MAX_HEADER}; get it again"
    if (meaning := _impostor(start)) is not None:
        return meaning
    return "is not a safetensors file; get it again"


def _impostor(start: bytes) -> str | None:
    """What a file that begins so is, if it is a usual mistake, and what to do about it."""
    begins = start.lstrip()
    return next((meaning for magic, meaning in _IMPOSTORS if begins.startswith(magic)), None)


def is_pickled(start: bytes) -> bool:
    """Whether a file that begins so is a pickle or a zip, as torch's checkpoints are."""
    return start.startswith((ZIP, PICKLE))


def not_torch(start: bytes) -> str:
    if start.startswith(PICKLE):
        return (
            "is in the format that torch wrote before version 1.6, which is not read; load and "
            "save it with a newer torch, or get the model as safetensors"
        )
    return _impostor(start) or "is no torch checkpoint; get it again"
