"""Captions of the world's pictures: the object, its attributes, how close it is, what surrounds it.

A small grammar: each concept has several phrasings, filled in with a world's attributes and with a
phrase for the size of the object within its two scales. Variant 0 is the full, plain phrasing that
prompts use; other variants leave things out or use other words.
"""

import numpy as np

from pot_jax.errors import UserError
from pot_jax.world.attributes import World, imagine
from pot_jax.world.frames import CONCEPTS, DEEPEST, SCALES_PER_CONCEPT, check_scale
from pot_jax.world.palettes import FORESTS

MOST_WORDS = 28

# How an object with an outline is seen in the first, second and last third of its two scales.
_NEARNESS = (
    ("far away", "small in the middle", "seen from far away", "in the distance"),
    ("in the middle", "in the centre", ""),
    ("close", "up close", "filling the view", "seen from near"),
)
_OUTLINED = ("galaxy", "star", "planet", "island", "tree", "leaf", "ladybug")
# The same for a field without an outline, whose middle holds the next object.
_FIELD = (
    ("wide view", "seen from far away", "far away"),
    ("", "around the middle"),
    ("close", "seen from near", "up close"),
)


def concept(scale: float) -> str:
    """Returns what a picture at this scale shows, one of CONCEPTS.

    Raises:
      UserError: the scale is outside 0..20.
    """
    check_scale(scale)
    return CONCEPTS[min(int(scale // SCALES_PER_CONCEPT), len(CONCEPTS) - 1)]


def _third(scale: float) -> int:
    start = SCALES_PER_CONCEPT * CONCEPTS.index(concept(scale))
    return min(int(3 * (scale - start) / SCALES_PER_CONCEPT), 2)


def _a(words: str) -> str:
    """The words with their indefinite article."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def _sky(w: World) -> str:
    """What surrounds the star; a star field has no colour to name."""
    return f"a {w.nebula} nebula" if w.cloudy else "a star field"


def attributes(seed: int, scale: float) -> dict[str, str]:
    """Returns what `caption(seed, scale)` names, by attribute, "concept" first.

    A season is not among them: it is another word for the forest's colour.
    """
    w = imagine(seed)
    name = concept(scale)
    nebula = w.nebula if w.cloudy else "none"
    found = {
        "galaxy": {"kind": w.galaxy_kind, "colour": w.galaxy},
        "nebula": {"colour": nebula, "star": w.sun},
        "star": {"colour": w.sun, "planet": w.planet, "nebula": nebula},
        "planet": {"colour": w.planet, "rings": "rings" if w.ringed else "no rings"},
        "continent": {"colour": w.planet, "island": w.forest},
        "island": {"colour": w.forest, "planet": w.planet},
        "forest": {"colour": w.forest, "tree": w.tree},
        "tree": {"colour": w.tree, "forest": w.forest, "leaf": w.leaf},
        "leaf": {"colour": w.leaf, "tree": w.tree, "ladybug": w.beetle},
        "ladybug": {"colour": w.beetle, "spots": w.spots, "leaf": w.leaf},
    }[name]
    return {"concept": name, **found}


def _galaxy(w: World, near: str) -> list[str]:
    kind = _a(f"{w.galaxy} {w.galaxy_kind} galaxy")
    return [
        f"{kind} {near}",
        _a(f"{w.galaxy_kind} galaxy {near}"),
        _a(f"{w.galaxy} galaxy {near}"),
        f"{kind} {near} in black space",
        f"{kind} with a bright core, {near}",
        f"{kind} among stars {near}",
        f"{kind} with {_sky(w)} in its core, {near}",
    ]


def _nebula(w: World, near: str) -> list[str]:
    sky, star = _sky(w), _a(f"{w.sun} star")
    beyond = f" with {w.nebula_second} clouds" if w.cloudy else ""
    return [
        f"{sky} with {star} in the middle, {near}",
        f"{sky} {near}",
        f"{star} in {sky}, {near}",
        f"stars in {sky}, {near}",
        f"{sky}{beyond} and a small {w.sun} star in the middle",
        f"{sky} around {star} {near}",
        f"stars and {w.nebula + ' clouds' if w.cloudy else 'darkness'} {near}, "
        f"with {star} in the middle",
    ]


def _star(w: World, near: str) -> list[str]:
    star, planet = _a(f"{w.sun} star"), _a(f"{w.planet} planet")
    sky = _sky(w)
    return [
        f"{star} and its planets, {_a(f'{w.planet} one')} in the middle, in {sky}, {near}",
        f"{star} {near}",
        f"{star} and its planets {near}",
        f"{star} beside {planet} in the middle, {near}",
        f"{planet} going round {star} {near}",
        f"{star} and the orbits of its planets in {sky}, {near}",
        f"{near}, {star} shining on {planet} in the middle",
    ]


def _planet(w: World, near: str) -> list[str]:
    kind = _a(f"{w.planet} planet")
    ringed = _a(f"ringed {w.planet} planet") if w.ringed else kind
    rings = f"{kind} with rings" if w.ringed else kind
    sky = _sky(w)
    return [
        f"{rings} in {sky}, {near}",
        f"{ringed} {near}",
        f"{kind} {near}",
        f"{rings} {near}, among stars",
        f"{rings} with seas and {_a(w.sun)} sun, {near}",
        f"{near}, {ringed} with clouds, seas and land",
    ]


def _continent(w: World, near: str) -> list[str]:
    kind, island = _a(f"continent of {_a(w.planet)} planet"), _a(f"{w.forest} island")
    return [
        f"{kind} with {island} in the sea in the middle, {near}",
        f"{kind} {near}",
        f"a continent with {island} in a gulf in the middle, {near}",
        f"the coasts of {_a(w.planet)} planet {near}, seen from above",
        f"{kind} with clouds {near}",
        f"{near}, the land and sea of {_a(w.planet)} planet around {island}",
    ]


def _island(w: World, near: str) -> list[str]:
    kind, season = _a(f"{w.forest} island"), FORESTS[w.forest].season
    return [
        f"{kind} covered with {w.forest} trees, in the sea of {_a(w.planet)} planet, {near}",
        f"{kind} in the sea {near}",
        f"an island with {_a(w.forest)} forest, {near}",
        f"{kind} in {season}, {near}, seen from above",
        f"{near}, {kind} with beaches",
        f"{kind} on {_a(w.planet)} planet {near}",
    ]


def _forest(w: World, near: str) -> list[str]:
    kind, season = _a(f"{w.forest} forest"), FORESTS[w.forest].season
    tree = _a(f"{w.tree} tree")
    return [
        f"{kind} in {season} with {tree} in a clearing in the middle, {near}",
        f"{kind} {near}",
        f"{kind} from above with {tree} in the middle, {near}",
        f"{_a(season)} forest with {tree} in the middle {near}",
        f"{w.forest} trees {near} from above",
        f"the {w.forest} treetops of an island in {season}, {near}",
    ]


def _tree(w: World, near: str) -> list[str]:
    kind, leaf = _a(f"{w.tree} tree"), _a(f"{w.leaf} leaf")
    season = FORESTS[w.forest].season
    return [
        f"{kind} with {leaf} in the middle, in {_a(w.forest)} forest, {near}",
        f"{kind} {near}",
        f"{kind} in a clearing of {_a(w.forest)} forest, {near}",
        f"{kind} in {season}, {near}",
        f"the crown of {kind} from above, {near}",
        f"{near}, {kind} with {leaf} in the middle of its crown",
    ]


def _leaf(w: World, near: str) -> list[str]:
    kind, beetle = _a(f"{w.leaf} leaf"), _a(f"{w.beetle} ladybug")
    return [
        f"{kind} of {_a(w.tree)} tree with {beetle} in the middle, {near}",
        f"{kind} {near}",
        f"{kind} with {beetle} on it, {near}",
        f"{kind} over {w.tree} foliage, {near}",
        f"{near}, {kind} with veins and a small {w.beetle} ladybug",
        f"{kind} of {_a(w.tree)} tree {near}",
    ]


def _ladybug(w: World, near: str) -> list[str]:
    kind, leaf = _a(f"{w.beetle} ladybug"), _a(f"{w.leaf} leaf")
    spots = ("red" if w.beetle == "black" else "black") + " spots"
    return [
        f"{kind} with {w.spots} {spots} on {leaf}, {near}",
        f"{kind} {near}",
        f"{kind} on {leaf}, {near}",
        f"{kind} with {w.spots} spots, {near}",
        f"{near}, {_a(f'glossy {w.beetle} ladybug')} with {spots}",
        f"{kind} with {w.spots} spots sitting on {leaf} {near}",
    ]


_PHRASES = {
    phrases.__name__[1:]: phrases
    for phrases in (
        _galaxy, _nebula, _star, _planet, _continent, _island, _forest, _tree, _leaf, _ladybug
    )
}  # fmt: skip


def _tidy(words: str) -> str:
    """Without the gaps and commas that an empty phrase leaves."""
    words = " ".join(words.split()).replace(" ,", ",").replace(",,", ",")
    return words.strip(", ")


def caption(seed: int, scale: float, variant: int = 0) -> str:
    """Returns a caption of `picture(seed, scale)`, of at most 28 words.

    Args:
      seed: of the world, a whole number from 0.
      scale: 0 to 20.
      variant: a whole number from 0, which picks the phrasing.

    Raises:
      UserError: the scale is outside 0..20.
    """
    name = concept(scale)
    nearness = (_NEARNESS if name in _OUTLINED else _FIELD)[_third(scale)]
    if variant == 0:
        return _tidy(_PHRASES[name](imagine(seed), nearness[0])[0])
    rng = np.random.default_rng([seed, variant, int(1024 * scale)])
    near = nearness[rng.integers(len(nearness))] if rng.random() < 0.75 else ""
    phrases = _PHRASES[name](imagine(seed), near)
    return _tidy(phrases[rng.integers(len(phrases))])


def scene_prompts(
    levels: int, seed: int = 0, *, start: float = 0.0, zoom_factor: int = 2
) -> list[str]:
    """Returns one prompt for each level of a zoom into world `seed`, the widest first.

    Args:
      levels: N, how many.
      seed: of the world.
      start: the scale of the widest level.
      zoom_factor: p, between levels.

    Raises:
      UserError: the zoom would leave the world's scales.
    """
    last = start + (levels - 1) * np.log2(zoom_factor)
    if levels < 1 or start < 0 or last > DEEPEST:
        raise UserError(
            f"{levels} levels of factor {zoom_factor} from scale {start:g} end at scale {last:g}; "
            f"the world has scales 0 to {DEEPEST:g}: start wider or ask for fewer levels"
        )
    return [caption(seed, start + i * np.log2(zoom_factor)) for i in range(levels)]
