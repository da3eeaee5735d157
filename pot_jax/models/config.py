"""A checkpoint's `config.json` as a frozen dataclass.

Each key of the file is one of three: a field of the dataclass, checked against its annotation; a
key of `FIXED`, of which these models know only the values listed; or a key of `UNUSED`, which
changes nothing in a forward pass. Anything else is refused: a setting silently ignored gives wrong
pictures.
"""

import dataclasses
import math
import reprlib
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pot_jax.errors import UserError

# Bounds far above every published model, so that a damaged or hostile file is refused here and not
# by the allocator: widths and vocabularies, and numbers of repeated layers.
Size = Annotated[int, range(1, 2**20)]
Depth = Annotated[int, range(1, 1000)]
Positive = Annotated[float, "above 0"]


NO_OTHER = "pot_jax has no other variant of this model"
WORDS = {
    bool: "true or false",
    float: "a number",
    int: "a whole number",
    str: "a text",
    type(None): "null",
}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What the config dataclasses of all models share: reading, checking, writing."""

    CLASS_NAME: ClassVar[str] = ""  # the class this config belongs to in diffusers
    FIXED: ClassVar[Mapping[str, tuple]] = {}  # key -> values accepted, the usual one first
    UNUSED: ClassVar[frozenset[str]] = frozenset()
    REFUSE_UNKNOWN: ClassVar[bool] = True

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> Self:
        """Reads the content of a `config.json`; keys that start with `_` are ignored.

        Raises:
          UserError: a setting is unknown, has a value these models do not have, or does not fit
            the others; the message names the key and the value.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        fields = {}
        for key, value in settings.items():
            value = _frozen(value)
            if key in names:
                fields[key] = value
            elif key in cls.FIXED:
                if value not in cls.FIXED[key]:
                    cls._refuse(key, value, f"one of {list(cls.FIXED[key])}; {NO_OTHER}")
            elif cls.REFUSE_UNKNOWN and not (
                key.startswith("_") or key in cls.UNUSED or value in (None, False)
            ):
                raise UserError(
                    f"config of {cls.CLASS_NAME}: pot_jax does not know {key} "
                    f"(its value is {reprlib.repr(value)}); remove it if it does not matter"
                )
        return cls(**fields)

    def to_json(self) -> dict[str, Any]:
        """The content of a `config.json` from which diffusers builds the same model."""
        fixed = {key: values[0] for key, values in self.FIXED.items()}
        return {"_class_name": self.CLASS_NAME, **fixed, **_thawed(dataclasses.asdict(self))}

    def __post_init__(self):
        kinds = typing.get_type_hints(type(self), include_extras=True)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not _matches(value, kinds[field.name]):
                self._refuse(field.name, value, _describe(kinds[field.name]))

    @classmethod
    def _refuse(cls, key: str, value: Any, expected: str) -> typing.NoReturn:
        came = reprlib.repr(value)
        raise UserError(f"config of {cls.CLASS_NAME}: {key} is {came}, expected {expected}")


def _frozen(value):
    return tuple(_frozen(v) for v in value) if isinstance(value, list | tuple) else value


def _thawed(value):
    if isinstance(value, dict):
        return {k: _thawed(v) for k, v in value.items()}
    return [_thawed(v) for v in value] if isinstance(value, tuple) else value


def _matches(value, kind) -> bool:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_matches(value, arg) for arg in args)
    if origin is Annotated:
        base, bound = args
        return _matches(value, base) and (value > 0 if base is float else value in bound)
    if origin is tuple:
        return isinstance(value, tuple) and value and all(_matches(v, args[0]) for v in value)
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is kind


def _describe(kind) -> str:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(arg) for arg in args)
    if origin is Annotated:
        base, bound = args
        words = bound if base is float else f"from {bound.start} to {bound.stop - 1}"
        return f"{_describe(base)} {words}"
    if origin is tuple:
        return f"a list, each {_describe(args[0])}"
    return WORDS[kind]
