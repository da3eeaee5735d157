"""A checkpoint's `config.json` as a frozen dataclass.

A key of the file is a field of the dataclass, checked against its annotation; a key of `FIXED`, of
which these models support only the values listed; or a key of `UNUSED`, which has no effect on a
forward pass. Any other key is refused, because ignoring a setting would give wrong pictures.
"""

import dataclasses
import math
import reprlib
import typing
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Self

from pot_jax.checks import Within, checked, described, to_dict
from pot_jax.errors import UserError

# Bounds far above every published model, so that a damaged or hostile file is refused here and not
# by the allocator: of widths and vocabularies, and of numbers of layers.
Size = Annotated[int, Within(f"a whole number from 1 to {2**20 - 1}", 1, 2**20 - 1)]
Depth = Annotated[int, Within("a whole number from 1 to 999", 1, 999)]
Natural = Annotated[int, Within("a whole number from 0 to 999", 0, 999)]
Positive = Annotated[float, Within("a number above 0", math.ulp(0))]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Base of all models' configs: reads, checks and writes them."""

    CLASS_NAME: ClassVar[str] = ""  # the class this config belongs to in diffusers
    FIXED: ClassVar[Mapping[str, tuple]] = MappingProxyType({})  # key -> values, the default first
    UNUSED: ClassVar[frozenset[str]] = frozenset()
    REFUSE_UNKNOWN: ClassVar[bool] = True

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> Self:
        """Reads the content of a `config.json`; ignores keys that start with `_`.

        Raises UserError, naming the key and the value, if a setting is unknown, does not fit the
        others, or has a value that these models do not support.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        fields = {}
        for key, value in settings.items():
            value = tuple(value) if isinstance(value, list) else value
            if key in names:
                fields[key] = value
            elif key in cls.FIXED:
                if value not in cls.FIXED[key]:
                    cls._refuse(key, value, f"one of {list(cls.FIXED[key])}; pot_jax has no other")
            elif cls.REFUSE_UNKNOWN and not (
                key.startswith("_") or key in cls.UNUSED or value in (None, False)
            ):
                came = f"(its value is {reprlib.repr(value)}); remove it if it does not matter"
                raise UserError(f"config of {cls.CLASS_NAME}: pot_jax does not know {key} {came}")
        return cls(**fields)

    def to_json(self) -> dict[str, Any]:
        """Returns the content of a `config.json` from which diffusers builds the same model."""
        fixed = {key: values[0] for key, values in self.FIXED.items()}
        return {"_class_name": self.CLASS_NAME, **fixed, **to_dict(self)}

    def __post_init__(self):
        kinds = typing.get_type_hints(type(self), include_extras=True)
        for field in dataclasses.fields(self):
            given, kind = getattr(self, field.name), kinds[field.name]
            try:
                value = checked(given, kind, field.name)
            except UserError:
                value = ()
            if value == ():  # no model has an empty list
                self._refuse(field.name, given, described(kind))
            object.__setattr__(self, field.name, value)

    def require(self, key: str, ok: bool, expected: str) -> None:
        """Raises UserError for the setting `key` unless `ok`."""
        if not ok:
            self._refuse(key, getattr(self, key), expected)

    @classmethod
    def _refuse(cls, key: str, value: Any, expected: str) -> typing.NoReturn:
        came = reprlib.repr(value)
        raise UserError(f"config of {cls.CLASS_NAME}: {key} is {came}, expected {expected}")
