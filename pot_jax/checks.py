"""Settings: frozen dataclasses whose fields come from files, flags and Python, checked in one way.

    build(cls, data, path)   plain data -> cls: unknown names, old names, missing values
    Settings.__post_init__   converts every field to its declared type, then `_check_ranges`

Every message names the setting by its full path ("loras[1].strength"). Does not import JAX, so that
a mistake is reported, and a render worker starts, at once.
"""

import collections
import contextlib
import contextvars
import copy
import dataclasses
import difflib
import functools
import importlib.metadata
import json
import math
import numbers
import operator
import os
import re
import reprlib
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

from pot_jax.errors import UserError, shown

T = TypeVar("T")
_hints = functools.cache(functools.partial(typing.get_type_hints, include_extras=True))
# The path of the settings being built; None: they are built on their own, from Python.
_path: contextvars.ContextVar[str | None] = contextvars.ContextVar("path", default=None)

# The kind of a setting that is a path, or a name that may be one.
Path = Annotated[str, "path"]
# Last in `Annotated[kind, ...]`: one value for all levels (or none, where the kind is a tuple), a
# list with one for each, or a mapping by spans of levels, which becomes pairs (see `spans`).
BY_LEVEL = "by level"

_WORDS = {
    bool: "true or false",
    float: "a number",
    int: "a whole number",
    str: "a string",
    dict: "a group of settings",
    Callable: "a function",
    type(None): "null",
}


class Within(NamedTuple):
    """The range of a declared number, as in `Annotated[int, Within("at least 1", 1)]`."""

    words: str
    low: float  # both ends are included
    high: float = math.inf


def require(ok: bool, name: str, expected: str, came: Any) -> None:
    """Raises UserError unless `ok`: the setting's name, what was expected, what was given."""
    if not ok:
        raise _unfit(name, expected, came)


def _unfit(name: str, expected: str, came: Any) -> UserError:
    return UserError(f"{name}: expected {expected}, got {shown(reprlib.repr(came))}")


def checked(value: Any, kind: Any, name: str) -> Any:
    """Returns `value` as the declared type `kind`: a number as float, a list as tuple.

    Kinds: bool, int, float (finite), str (UTF-8), dict, Any, None, dataclasses, Literal, unions,
    callables, tuples, `Path`, `BY_LEVEL`, and numbers in a range, as `Within` shows. Numbers may be
    of any class that says what it is (`operator.index`, `numbers.Real`); arrays without axes are
    numbers, and others are tuples. Raises UserError if it is of another type, which says where, by
    `name`.
    """
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if hasattr(value, "shape") and hasattr(value, "tolist"):  # an array: a number, or a list
        with contextlib.suppress(Exception):  # others' code, of which anything may come
            value = value.tolist()
    plain, expected = origin or kind, ""
    if plain in (typing.Union, types.UnionType):
        for one in args:
            with contextlib.suppress(UserError):
                return checked(value, one, name)
    elif kind == Path:
        return _checked_path(value, name)
    elif plain is Annotated and args[-1] == BY_LEVEL:
        return _checked_by_level(value, args[0] if len(args) == 2 else Annotated[args[:-1]], name)
    elif origin is tuple:
        require(isinstance(value, list | tuple), name, "a list", value)
        kinds = args[:1] * len(value) if args[-1] is Ellipsis else args
        require(len(value) == len(kinds), name, f"{len(kinds)} values", value)
        pairs = enumerate(zip(value, kinds))
        return tuple(checked(item, one, f"{name}[{i}]") for i, (item, one) in pairs)
    elif plain is Annotated:
        found = checked(value, args[0], name)
        if args[1].low <= found <= args[1].high:
            return found
    elif plain is Literal:
        if any(type(value) is type(known) and value == known for known in args):
            return value
    elif plain is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # a whole number of hundreds of digits
            if math.isfinite(value):
                return float(value)
        expected = "a finite number"
    elif plain is int and hasattr(value, "__index__") and not isinstance(value, bool):
        with contextlib.suppress(TypeError):
            return operator.index(value)
    elif plain is Any or (plain not in (int, float) and isinstance(value, plain)):
        if plain is not str or not re.search("[\ud800-\udfff]", value):  # from bytes, not UTF-8
            return value
        expected = "text in UTF-8"
    raise _unfit(name, expected or described(kind), value)


def _checked_by_level(value: Any, kind: Any, name: str) -> Any:
    each = typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else kind
    if isinstance(value, Mapping):
        value = [(str(span), given) for span, given in value.items()]
    if not isinstance(value, list | tuple):
        return checked(value, kind, name)
    if by_span(value):
        pairs = ((checked(span, str, name), given) for span, given in value)
        return tuple((span, checked(given, each, f"{name}[{span!r}]")) for span, given in pairs)
    return tuple(checked(given, each, f"{name}[{i}]") for i, given in enumerate(value))


def by_span(value: Any) -> bool:
    """Returns whether a value of the kind `BY_LEVEL` is pairs of a span of levels and a value."""
    listed = isinstance(value, list | tuple) and len(value) > 0
    return listed and all(
        isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str)
        for pair in value
    )


def _checked_path(value: Any, name: str) -> str:
    """Returns a path as the user gave it, with ~ expanded: the one way from a user to a path."""
    try:
        path = os.fsdecode(value)
    except TypeError:
        raise _unfit(name, "a path", value) from None
    require("\0" not in path, name, "a path without a zero byte", value)
    data = os.fsencode(path)
    fits = len(data) <= 4000 and max(map(len, data.split(b"/"))) <= 255  # no disk allows longer
    require(fits, name, "a shorter path", value)
    return os.path.expanduser(path)


def described(kind: Any) -> str:
    """Returns the type in words, for "expected ..."."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(described(one) for one in args)
    if kind == Path:
        return "a path"
    if origin is Annotated:
        return args[1].words
    if origin is Literal:
        return "one of " + ", ".join(str(one) or "'' (unset)" for one in args)
    if origin is tuple:
        return f"a list, each {described(args[0])}"
    return _WORDS.get(origin or kind) or f"a {(origin or kind).__name__}"


class Settings:
    """Base of the frozen dataclasses that a user fills in; `group` is their place in the whole."""

    # Names of earlier versions -> the current ones; the old names still work.
    OLD_NAMES: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, group: str = ""):
        cls._group = group and f"{group}."

    def __post_init__(self):
        kinds = _hints(type(self))
        for field in dataclasses.fields(self):
            name = self._named(field.name)
            value = checked(getattr(self, field.name), kinds[field.name], name)
            object.__setattr__(self, field.name, value)
        self._check_ranges()

    def _check_ranges(self) -> None:
        """Raises UserError if a value of the right type is out of its range."""

    def require(self, name: str, ok: bool, expected: str) -> None:
        """Raises UserError for field `name`, by its full path, unless `ok`."""
        require(ok, self._named(name), expected, getattr(self, name))

    def _named(self, name: str) -> str:
        path = _path.get()
        return (self._group if path is None else path) + name


def version(package: str = "pot_jax") -> str:
    """Returns a package's version, or "not installed": a checkout runs without being installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def defaults(cls: type) -> dict[str, Any]:
    """Returns the default settings of `cls` as plain data, without fields that must be given."""
    return copy.deepcopy(_defaults(cls))


@functools.cache
def _defaults(cls: type) -> dict[str, Any]:
    data, kinds = {}, _hints(cls)
    for field in dataclasses.fields(cls):
        value, kind = field.default, kinds[field.name]
        if value is not dataclasses.MISSING:
            data[field.name] = dataclasses.asdict(value) if isinstance(value, Settings) else value
        elif dataclasses.is_dataclass(kind):
            data[field.name] = defaults(kind)
    return data


def to_dict(settings: Any) -> dict[str, Any]:
    """Returns settings as JSON data, the home folder in paths as ~; `build` is the inverse."""
    return json.loads(json.dumps(_plain(settings)))


def _plain(value: Any, kind: Any = None) -> Any:
    if dataclasses.is_dataclass(value):
        return {name: _plain(part, _hints(type(value))[name]) for name, part in vars(value).items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return homeless(value) if kind == Path else value


def homeless(text: str) -> str:
    """Returns a text in which paths in the home folder begin with ~, so that none tells of it."""
    home = os.path.expanduser("~").rstrip("/")
    return re.sub(rf"(?<![^\s'\"(]){re.escape(home)}/", "~/", text) if home else text


def parsed_json(text: str | bytes) -> Any:
    """Parses JSON; raises ValueError, also for a name given twice, NaN, and endless nesting."""
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for name, count in collections.Counter(name for name, _ in pairs).items():
        if count > 1:
            raise ValueError(f"{shown(name)!r} is given twice")
    return dict(pairs)


def _constant(text: str) -> float:
    if text == "NaN":
        raise ValueError("NaN is not a number")
    return float(text)  # diffusers writes lambda_min_clipped as -Infinity


def overlay(cls: type, base: Mapping[str, Any], data: Any, path: str = "") -> dict[str, Any]:
    """Lays `data` over `base`, both plain data of `cls`; old names become the current ones.

    This is the only check of names, for files, flags, records and Python. Raises UserError if one
    is unknown (the known ones are listed) or given twice, or a group is given something else.
    """
    place = path.rstrip(".") or "the configuration"
    require(isinstance(data, Mapping), place, _WORDS[dict], data)
    kinds, known = _hints(cls), [field.name for field in dataclasses.fields(cls)]
    out, given = dict(base), {}
    for key, value in data.items():
        name = getattr(cls, "OLD_NAMES", {}).get(key, key)
        if name not in known:
            said = f"unknown setting {path + str(key)!r}; known: {', '.join(known)}"
            raise UserError(said + _nearest(cls, str(key), path))
        if name in given:
            both = f"{path}{given[name]} and {path}{key}"
            raise UserError(f"{both} are the same setting; give one of them")
        given[name] = key
        group = _groups(cls)[name]
        if group and not (value is None and group is not kinds[name]):
            value = overlay(group, base.get(name) or {}, value, f"{path}{name}.")
        elif isinstance(value, list):
            value = tuple(value)
        out[name] = value
    return out


def _nearest(cls: type, name: str, path: str) -> str:
    """Returns a question about the setting, here or in a group, most like an unknown one, or ""."""
    paths = {name: path + name for name in _groups(cls)}
    for group, kind in _groups(cls).items():
        for inner in _groups(kind) if kind else ():
            paths.setdefault(inner, f"{path}{group}.{inner}")
    near = difflib.get_close_matches(name, paths, 1)
    return f"; did you mean {paths[near[0]]}?" if near else ""


@functools.cache
def _groups(cls: type) -> dict[str, type | None]:
    """Returns the settings' class of every field that is "class" or "class | None"; else None."""
    found = {}
    for name, kind in _hints(cls).items():
        optional = typing.get_origin(kind) in (typing.Union, types.UnionType)
        kinds = typing.get_args(kind) if optional else (kind,)
        found[name] = next((one for one in kinds if dataclasses.is_dataclass(one)), None)
    return found


def build(cls: type[T], data: Mapping[str, Any], path: str = "") -> T:
    """Builds settings from plain data; what is left out gets its default.

    Raises UserError if a name is unknown, or a value is missing, of another type or out of range.
    """
    data = overlay(cls, _defaults(cls), data, path)
    kinds = _hints(cls)
    for name in (field.name for field in dataclasses.fields(cls)):
        if name not in data:
            raise UserError(f"setting {path}{name} is missing; give it")
        group, value = _groups(cls)[name], data[name]
        if group and value is not None:
            data[name] = build(group, value, f"{path}{name}.")
        elif isinstance(value, list | tuple) and dataclasses.is_dataclass(
            item := next(iter(typing.get_args(kinds[name])), None)
        ):
            data[name] = tuple(build(item, v, f"{path}{name}[{i}].") for i, v in enumerate(value))
    token = _path.set(path)
    try:
        return cls(**data)
    finally:
        _path.reset(token)


def todays_name(cls: type, name: str) -> str:
    """Returns the path of a setting, its old names replaced; raises UserError if there is none."""
    nested = functools.reduce(lambda inner, part: {part: inner}, reversed(name.split(".")), {})
    parts, data = [], overlay(cls, {}, nested)
    while data:
        ((part, data),) = data.items()
        parts.append(part)
    return ".".join(parts)


def differences(ours: Any, theirs: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields the leaves that differ as (path, ours, theirs); a missing leaf is None."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for key in sorted(ours.keys() | theirs.keys()):
            name = f"{path}.{key}" if path else key
            yield from differences(ours.get(key), theirs.get(key), name)
    elif ours != theirs:
        yield path, ours, theirs
