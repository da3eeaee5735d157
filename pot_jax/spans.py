"""Values by level as people write them: spans of levels, view words, a prefix and a suffix.

    {"0-3": "a galaxy", "4": "a star", "5-": "its planet"}     prompts of 8 levels: zoom.levels = 8

Each level lies in exactly one span. `resolved` turns what was written into one value a level, and
its result is what a run records, so that a record never applies a prefix twice. Does not import
JAX.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from pot_jax.checks import by_span, require
from pot_jax.config import RunSettings, checked_prompts
from pot_jax.errors import UserError, few, shown

_SPAN = re.compile(r"\s*([0-9]{1,4})\s*(?:(-)\s*([0-9]{1,4})?)?\s*")  # up to 9,999 levels


def in_spans(
    spans: Sequence[tuple[str, Any]], levels: int, name: str
) -> Iterator[tuple[Any, int, int]]:
    """Yields for each level, widest first: its span's value, its place there, the span's length.

    Spans are pairs of a text, "0-3", "4" or "5-" (to the last level), and a value, in any order;
    `levels` is how many there are, 0: as many as the spans have. Raises UserError, for the setting
    `name`, if a span is none, or a level is in none or in two.
    """
    owner: dict[int, tuple[str, Any, int, int]] = {}
    for span, value in spans:
        found = _SPAN.fullmatch(span)
        first, mark, last = found.groups() if found else ("", "", "")
        require(bool(first), name, "levels such as 0-3, 4 or 5- (to the last)", span)
        if mark and not last and not levels:
            raise UserError(f"{name}: the span {span!r} has no end; give zoom.levels, how many")
        first = int(first)
        last = int(last) if last else levels - 1 if mark else first
        require(first <= last, name, f"a span that begins before it ends{_of(levels)}", span)
        for level in range(first, last + 1):
            if level in owner:
                both = f"the spans {owner[level][0]!r} and {span!r}"
                raise UserError(f"{name}: level {level} is in {both}; leave it in one of them")
            owner[level] = span, value, level - first, last + 1 - first
    count = levels or max(owner, default=-1) + 1
    if missing := [str(level) for level in range(count) if level not in owner]:
        raise UserError(f"{name}: no span has level {few(missing)}{_of(levels)}; give it one")
    require(len(owner) == count, name, f"levels 0 to {count - 1}", max(owner))
    for level in range(count):
        yield owner[level][1:]


def _of(levels: int) -> str:
    return f" (levels 0 to {levels - 1})" if levels else ""


def affixed(text: str, settings: RunSettings) -> str:
    """Returns a prompt within the prefix and suffix, with a space where words would meet."""
    parts = (settings.prefix, text, settings.suffix)
    return functools.reduce(
        lambda a, b: a + " " * (a[-1:].isalnum() and b[:1].isalnum()) + b, parts
    )


def _viewed(text: str, place: int, length: int, words: Sequence[str]) -> str:
    """Returns a span's prompt for one of its levels: from the first word to the last, evenly."""
    if length == 1 or not words:
        return text
    n, few_levels = len(words), length < len(words)  # of these, both ends have their words
    middle = (2 * place + 1) * n // (2 * length)
    word = words[place * (n - 1) // (length - 1) if few_levels else middle]
    return f"{text}, {word}" if word else text


def per_level(value: Any, levels: int, name: str) -> Any:
    """Returns one value for all levels as it is, and others as a tuple of one for each.

    Raises UserError if they are not as many as the levels, or their spans do not fit.
    """
    if by_span(value):
        return tuple(given for given, _, _ in in_spans(value, levels, name))
    if isinstance(value, tuple) and len(value) == 1:  # as flags give one value over a list
        return value[0]
    if isinstance(value, tuple):
        expected = f"one value, or a list of {levels}, one a level"
        require(len(value) == levels, name, expected, value)
    return value


def resolved(settings: RunSettings) -> RunSettings:
    """Returns the settings with one prompt for each level, as they will be read and recorded.

    What the prompts were made of is spent: spans, view words, prefix, suffix and `zoom.levels`;
    resolving twice changes nothing. Raises UserError if there are no prompts, one is empty, or
    something does not fit their number.
    """
    s, texts = settings.sampler, settings.prompts
    zoom, spent = settings.zoom, {"prefix": "", "suffix": ""}
    if by_span(texts):
        spent["view_words"] = RunSettings.view_words
        spans = in_spans(texts, zoom.levels, "prompts")
        texts = [_viewed(text, *where, settings.view_words) if text.strip() else text
                 for text, *where in spans]  # fmt: skip
    texts = [affixed(text, settings) for text in checked_prompts(texts)]
    n = len(texts)
    require(zoom.levels in (0, n), "zoom.levels", f"{n}, as there are prompts", zoom.levels)
    scale = per_level(s.guidance_scale, n, "sampler.guidance_scale")
    return dataclasses.replace(
        settings,
        prompts=texts,
        negative_prompt=per_level(settings.negative_prompt, n, "negative_prompt"),
        sampler=dataclasses.replace(s, guidance_scale=scale),
        zoom=dataclasses.replace(zoom, levels=0),
        **spent,
    )


def lines(settings: RunSettings) -> list[str]:
    """Returns what each level of resolved settings is told, a line each."""
    told = {"guidance": settings.sampler.guidance_scale, "not": settings.negative_prompt}
    told = {name: value for name, value in told.items() if isinstance(value, tuple)}
    found = []
    for level, prompt in enumerate(settings.prompts):
        own = "; ".join(f"{name} {shown(value[level]) or '-'}" for name, value in told.items())
        found.append(f"level {level}: {shown(prompt)}" + (own and f" ({own})"))
    return found
