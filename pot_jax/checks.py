"""Checks of settings: frozen dataclasses whose fields come from files and flags.

Without JAX, so that a render worker starts at once.
"""

import dataclasses
import typing
from typing import Literal

from pot_jax.errors import UserError


def require(ok: bool, name: str, expected: str, came):
    """Raises UserError naming the setting, what was expected and what came, unless `ok`."""
    if not ok:
        raise UserError(f"{name}: expected {expected}, got {came!r}")


def check_fields(settings, group: str):
    """Brings every field to its declared type, or raises; lists become tuples."""
    for name, hint in typing.get_type_hints(type(settings)).items():
        label = f"{group}.{name}" if group else name
        value = _checked(getattr(settings, name), hint, label)
        object.__setattr__(settings, name, value)


def _checked(value, hint, name: str):
    if dataclasses.is_dataclass(hint):
        require(isinstance(value, hint), name, hint.__name__, value)
        return value
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        require(value in arguments, name, "one of " + ", ".join(map(str, arguments)), value)
        return value
    if origin is tuple:
        require(isinstance(value, list | tuple), name, "a list", value)
        if arguments[-1] is Ellipsis:
            hints = [arguments[0]] * len(value)
        else:
            hints = arguments
            require(len(value) == len(hints), name, f"{len(hints)} values", value)
        return tuple(_checked(v, h, f"{name}[{i}]") for i, (v, h) in enumerate(zip(value, hints)))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    exact = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    require(exact, name, {int: "a whole number", str: "a text"}.get(hint, hint.__name__), value)
    if hint is float:
        require(value == value and abs(value) != float("inf"), name, "a finite number", value)
    return value
