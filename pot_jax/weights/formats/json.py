"""JSON settings files, read strictly."""

from pathlib import Path
from typing import Any

from pot_jax.checks import parsed_json
from pot_jax.errors import UserError, shown
from pot_jax.weights.formats.kinds import GIT_LFS, regular_file

_MAX_JSON = 20_000_000  # bytes; the largest index of a public model is under 1 MB


def parse(text: bytes) -> dict[str, Any]:
    """Parses one JSON object; raises ValueError as `parsed_json` does, and if it is no object."""
    value = parsed_json(text)
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object was expected, not {type(value).__name__}")
    return value


def json_object(path: Path) -> dict[str, Any]:
    """Reads the JSON object in a model folder's settings file.

    Raises:
      UserError: the file is missing, too large, a git-lfs pointer, not JSON or not an object.
    """
    regular_file(path)
    where = shown(path)
    if (size := path.stat().st_size) > _MAX_JSON:
        raise UserError(f"{where} has {size} bytes; a model's has under {_MAX_JSON}; get it again")
    text = path.read_bytes()
    if text.startswith(GIT_LFS):
        raise UserError(f"{where} is a git-lfs pointer, not the settings; run `git lfs pull`")
    try:
        return parse(text)
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise UserError(f"{where} is not usable JSON ({shown(error)}); get it again") from None
