"""Named colours and kinds: what a world's attributes can be, and what each looks like.

The names are the words of the captions, so that a colour is changed in one place for both.
"""

from typing import NamedTuple

Colour = tuple[float, float, float]

GALAXY_KINDS = ("spiral", "ring", "elliptical")
GALAXY: dict[str, tuple[Colour, Colour]] = {  # disc, core
    "golden": ((1.0, 0.62, 0.16), (1.0, 0.92, 0.68)),
    "blue": ((0.30, 0.55, 1.0), (0.95, 0.95, 0.90)),
    "pink": ((1.0, 0.36, 0.62), (1.0, 0.88, 0.80)),
    "violet": ((0.62, 0.32, 1.0), (0.98, 0.88, 1.0)),
    "white": ((0.85, 0.88, 0.98), (1.0, 0.97, 0.90)),
    "turquoise": ((0.20, 0.85, 0.80), (0.95, 1.0, 0.90)),
}

NEBULA: dict[str, tuple[Colour, Colour]] = {  # clouds, their bright edges
    "red": ((0.80, 0.14, 0.10), (1.0, 0.62, 0.35)),
    "blue": ((0.12, 0.28, 0.85), (0.55, 0.80, 1.0)),
    "green": ((0.08, 0.58, 0.32), (0.62, 1.0, 0.65)),
    "violet": ((0.42, 0.12, 0.80), (0.85, 0.60, 1.0)),
    "pink": ((0.82, 0.20, 0.50), (1.0, 0.70, 0.80)),
    "golden": ((0.78, 0.48, 0.10), (1.0, 0.88, 0.50)),
    "turquoise": ((0.05, 0.50, 0.58), (0.50, 1.0, 0.95)),
}
SUN: dict[str, Colour] = {
    "white": (1.0, 0.98, 0.94),
    "yellow": (1.0, 0.84, 0.25),
    "orange": (1.0, 0.50, 0.14),
    "blue": (0.40, 0.66, 1.0),
}


class Planet(NamedTuple):
    """The look of a planet and what grows on it."""

    deep: Colour
    shallow: Colour
    sand: Colour
    land: Colour
    high: Colour
    cloud: Colour
    air: Colour
    sea_level: float  # in deviations of the continents' noise
    forests: tuple[str, ...]


PLANETS: dict[str, Planet] = {
    "blue": Planet(
        (0.02, 0.10, 0.38), (0.10, 0.62, 0.72), (0.88, 0.80, 0.55), (0.20, 0.42, 0.14),
        (0.60, 0.50, 0.32), (1.0, 1.0, 1.0), (0.45, 0.68, 1.0), 0.25,
        ("green", "green", "pink", "orange", "golden"),
    ),
    "icy": Planet(
        (0.22, 0.42, 0.62), (0.58, 0.82, 0.92), (0.84, 0.90, 0.95), (0.90, 0.94, 0.98),
        (0.74, 0.82, 0.90), (1.0, 1.0, 1.0), (0.75, 0.88, 1.0), -0.25,
        ("white",),
    ),
    "red": Planet(
        (0.06, 0.20, 0.30), (0.22, 0.55, 0.55), (0.92, 0.66, 0.42), (0.72, 0.30, 0.14),
        (0.46, 0.16, 0.09), (1.0, 0.88, 0.78), (1.0, 0.55, 0.35), -0.55,
        ("orange", "golden"),
    ),
    "green": Planet(
        (0.02, 0.24, 0.26), (0.20, 0.68, 0.52), (0.80, 0.82, 0.50), (0.16, 0.46, 0.12),
        (0.38, 0.56, 0.16), (0.96, 1.0, 0.92), (0.55, 0.95, 0.60), -0.35,
        ("green", "green", "golden"),
    ),
    "violet": Planet(
        (0.12, 0.08, 0.36), (0.40, 0.46, 0.86), (0.94, 0.80, 0.86), (0.56, 0.26, 0.60),
        (0.78, 0.50, 0.70), (1.0, 0.94, 1.0), (0.78, 0.55, 1.0), 0.0,
        ("pink", "pink", "white"),
    ),
    "golden": Planet(
        (0.05, 0.28, 0.36), (0.26, 0.70, 0.64), (1.0, 0.90, 0.62), (0.84, 0.62, 0.24),
        (0.60, 0.38, 0.14), (1.0, 0.98, 0.90), (1.0, 0.84, 0.50), -0.40,
        ("golden", "orange", "green"),
    ),
}  # fmt: skip


class Forest(NamedTuple):
    """A forest's crowns and ground, and the trees that may stand in its middle."""

    dark: Colour
    light: Colour
    accent: Colour
    ground: Colour
    season: str
    trees: tuple[str, ...]


FORESTS: dict[str, Forest] = {
    "green": Forest(
        (0.09, 0.28, 0.07), (0.26, 0.50, 0.13), (0.40, 0.55, 0.16), (0.48, 0.62, 0.22),
        "summer", ("green", "golden", "orange", "red", "pink"),
    ),
    "orange": Forest(
        (0.55, 0.22, 0.05), (0.88, 0.48, 0.10), (0.78, 0.22, 0.08), (0.58, 0.50, 0.22),
        "autumn", ("red", "golden", "green", "orange"),
    ),
    "pink": Forest(
        (0.68, 0.32, 0.45), (0.93, 0.58, 0.69), (0.95, 0.74, 0.79), (0.46, 0.64, 0.28),
        "spring", ("white", "pink", "green", "red"),
    ),
    "white": Forest(
        (0.52, 0.62, 0.73), (0.83, 0.88, 0.93), (0.66, 0.75, 0.83), (0.80, 0.85, 0.91),
        "winter", ("white", "green", "red"),
    ),
    "golden": Forest(
        (0.56, 0.40, 0.08), (0.90, 0.74, 0.22), (0.62, 0.58, 0.16), (0.66, 0.58, 0.28),
        "late summer", ("golden", "green", "orange", "red"),
    ),
}  # fmt: skip


class Tree(NamedTuple):
    """A crown's colours, and the leaves that fit it."""

    dark: Colour
    light: Colour
    leaves: tuple[str, ...]


TREES: dict[str, Tree] = {
    "green": Tree((0.10, 0.34, 0.08), (0.36, 0.64, 0.18), ("green", "green", "yellow")),
    "golden": Tree((0.66, 0.48, 0.06), (0.98, 0.84, 0.24), ("yellow", "yellow", "green")),
    "orange": Tree((0.66, 0.28, 0.04), (0.98, 0.56, 0.14), ("orange", "red", "yellow")),
    "red": Tree((0.48, 0.07, 0.06), (0.88, 0.22, 0.14), ("red", "red", "orange")),
    "pink": Tree((0.72, 0.34, 0.48), (0.98, 0.70, 0.80), ("pink", "pink", "green")),
    "white": Tree((0.58, 0.64, 0.70), (0.90, 0.92, 0.95), ("white", "green")),
}

LEAVES: dict[str, tuple[Colour, Colour]] = {  # blade, veins
    "green": ((0.16, 0.50, 0.13), (0.62, 0.82, 0.42)),
    "yellow": ((0.94, 0.76, 0.12), (1.0, 0.95, 0.62)),
    "orange": ((0.93, 0.46, 0.08), (1.0, 0.80, 0.45)),
    "red": ((0.76, 0.10, 0.09), (1.0, 0.52, 0.42)),
    "pink": ((0.93, 0.50, 0.64), (1.0, 0.84, 0.88)),
    "white": ((0.82, 0.88, 0.88), (0.98, 1.0, 1.0)),
}

BEETLES: dict[str, tuple[Colour, Colour]] = {  # wing cases, spots
    "red": ((0.82, 0.05, 0.03), (0.03, 0.02, 0.02)),
    "orange": ((0.96, 0.42, 0.03), (0.03, 0.02, 0.02)),
    "yellow": ((0.98, 0.82, 0.08), (0.03, 0.02, 0.02)),
    "black": ((0.07, 0.07, 0.09), (0.90, 0.10, 0.06)),
}
SPOTS = {"two": 2, "four": 4, "seven": 7}
