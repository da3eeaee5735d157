"""AUTOMATIC1111's weights and chunks a second time, slowly and in NumPy.

From its published behaviour: the wiki's "Attention/emphasis" and "Infinite prompt length", and the
examples in the docstring of `parse_prompt_attention` (modules/prompt_parser.py, v1.10).
"""

import re

import numpy as np


def letters(prompt: str) -> list[tuple[str, float]]:
    """Every character that is read, and its weight: the product of the brackets around it."""
    read, ranges, opened = [], [], []  # ranges: (first, last + 1, factor); opened: (bracket, first)

    def close(bracket, factor):
        for at in range(len(opened) - 1, -1, -1):
            if opened[at][0] == bracket:
                ranges.append((opened.pop(at)[1], len(read), factor))
                return True
        return False

    at = 0
    while at < len(prompt):
        here, rest = prompt[at], prompt[at:]
        number = re.match(r":\s*([+-]?[.0-9]+)\s*\)", rest)
        if here == "\\":
            if rest[1:2] and rest[1] in "()[]\\":
                read.append(rest[1])
                at += 1
        elif here in "([":
            opened.append((here, len(read)))
        elif number:
            if not close("(", float(number[1])):
                read += number[0]
            at += len(number[0]) - 1
        elif (here == ")" and close("(", 1.1)) or (here == "]" and close("[", 1 / 1.1)):
            pass
        else:
            read.append(here)
        at += 1
    for bracket, first in opened:
        ranges.append((first, len(read), 1.1 if bracket == "(" else 1 / 1.1))
    factors = np.ones(len(read))
    for first, last, factor in ranges:
        factors[first:last] *= factor
    return list(zip(read, factors.tolist()))


def cut(tokens: list[int], comma: int, room: int) -> list[list[int]]:
    """Chunks of at most `room`: what follows a comma among the last 20 tokens begins the next."""
    if len(tokens) <= room:
        return [tokens]
    commas = [i for i in range(room) if tokens[i] == comma and room - i <= 20]
    end = commas[-1] + 1 if commas and tokens[room] != comma else room
    return [tokens[:end], *cut(tokens[end:], comma, room)]


def chunks(parts: list[list[int]], comma: int, room: int) -> list[list[int]]:
    """The chunks of a prompt whose parts are separated by BREAK."""
    found = [chunk for part in parts for chunk in cut(part, comma, room)]
    return found[:-1] if len(parts) > 1 and not parts[-1] else found


def weighted(states: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[T, D] times [T], and the mean of all values as before."""
    out = states.astype(np.float64) * weights[:, None]
    return out * (states.astype(np.float64).mean() / out.mean())
