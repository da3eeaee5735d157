"""Captions of the world's pictures: the object, its attributes, how close it is, what surrounds it.

And labels, what they show as class numbers: targets for the text encoder, and answers for a score.
A head is a question with a fixed set of answers: "concept", or an attribute of one concept, such as
"leaf.colour".

Captions have a small grammar: each concept has several phrasings, filled in with a world's
attributes and with words for how close its object is. Variant 0 is the full, plain phrasing that
prompts use; other variants leave things out or use other words.
"""

import functools
import itertools
import re
from collections.abc import Mapping, Sequence

import numpy as np

from pot_jax.errors import UserError
from pot_jax.world import palettes
from pot_jax.world.attributes import imagine
from pot_jax.world.frames import CONCEPTS, DEEPEST, SCALES_PER_CONCEPT, View, check_scale

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
    """Returns what a picture shows at this scale, 0 to 20 or UserError: one of CONCEPTS."""
    check_scale(scale)
    return CONCEPTS[min(int(scale // SCALES_PER_CONCEPT), len(CONCEPTS) - 1)]


# Concept -> its attributes, and the words of a phrasing that name each.
_ATTRIBUTES = {
    "galaxy": {"kind": "galaxy_kind", "colour": "galaxy"},
    "nebula": {"colour": "nebula", "star": "sun"},
    "star": {"colour": "sun", "planet": "planet", "nebula": "nebula"},
    "planet": {"colour": "planet", "rings": "rings"},
    "continent": {"colour": "planet", "island": "forest"},
    "island": {"colour": "forest", "planet": "planet"},
    "forest": {"colour": "forest", "tree": "tree"},
    "tree": {"colour": "tree", "forest": "forest", "leaf": "leaf"},
    "leaf": {"colour": "leaf", "tree": "tree", "ladybug": "beetle"},
    "ladybug": {"colour": "beetle", "spots": "spots", "leaf": "leaf"},
}


def attributes(seed: int, scale: float) -> dict[str, str]:
    """Returns what `caption(seed, scale)` names: "concept", then its attributes as "leaf.colour".

    A season is not among them: it is another word for the forest's colour.
    """
    w = imagine(seed)
    nebula, rings = w.nebula if w.cloudy else "none", "rings" if w.ringed else "no rings"
    return _answer(concept(scale), {**vars(w), "nebula": nebula, "rings": rings})


def _answer(name: str, words: Mapping[str, str]) -> dict[str, str]:
    named = {f"{name}.{a}": words[word] for a, word in _ATTRIBUTES[name].items() if word in words}
    return {"concept": name, **named}


# The phrasings of each concept, the plain one first.
_PHRASES = {
    "galaxy": (
        "a {galaxy} {galaxy_kind} galaxy {near}",
        "a {galaxy_kind} galaxy {near}",
        "a {galaxy} galaxy {near}",
        "a {galaxy} {galaxy_kind} galaxy {near} in black space",
        "a {galaxy} {galaxy_kind} galaxy with a bright core, {near}",
        "a {galaxy} {galaxy_kind} galaxy among stars {near}",
        "a {galaxy} {galaxy_kind} galaxy with {sky} in its core, {near}",
    ),
    "nebula": (
        "{sky} with a {sun} star in the middle, {near}",
        "{sky} {near}",
        "a {sun} star in {sky}, {near}",
        "stars in {sky}, {near}",
        "{sky} {second} and a small {sun} star in the middle",
        "{sky} around a {sun} star {near}",
        "stars and {gas} {near}, with a {sun} star in the middle",
    ),
    "star": (
        "a {sun} star and its planets, a {planet} one in the middle, in {sky}, {near}",
        "a {sun} star {near}",
        "a {sun} star and its planets {near}",
        "a {sun} star beside a {planet} planet in the middle, {near}",
        "a {planet} planet going round a {sun} star {near}",
        "a {sun} star and the orbits of its planets in {sky}, {near}",
        "{near}, a {sun} star shining on a {planet} planet in the middle",
    ),
    "planet": (
        "a {planet} planet {rings} in {sky}, {near}",
        "a {ringed} {planet} planet {near}",
        "a {planet} planet {near}",
        "a {planet} planet {rings} {near}, among stars",
        "a {planet} planet {rings} with seas and a {sun} sun, {near}",
        "{near}, a {ringed} {planet} planet with clouds, seas and land",
    ),
    "continent": (
        "a continent of a {planet} planet with a {forest} island in the sea in the middle, {near}",
        "a continent of a {planet} planet {near}",
        "a continent with a {forest} island in a gulf in the middle, {near}",
        "the coasts of a {planet} planet {near}, seen from above",
        "a continent of a {planet} planet with clouds {near}",
        "{near}, the land and sea of a {planet} planet around a {forest} island",
    ),
    "island": (
        "a {forest} island covered with {forest} trees, in the sea of a {planet} planet, {near}",
        "a {forest} island in the sea {near}",
        "an island with a {forest} forest, {near}",
        "a {forest} island in {season}, {near}, seen from above",
        "{near}, a {forest} island with beaches",
        "a {forest} island on a {planet} planet {near}",
    ),
    "forest": (
        "a {forest} forest in {season} with a {tree} tree in a clearing in the middle, {near}",
        "a {forest} forest {near}",
        "a {forest} forest from above with a {tree} tree in the middle, {near}",
        "a {season} forest with a {tree} tree in the middle {near}",
        "{forest} trees {near} from above",
        "the {forest} treetops of an island in {season}, {near}",
    ),
    "tree": (
        "a {tree} tree with a {leaf} leaf in the middle, in a {forest} forest, {near}",
        "a {tree} tree {near}",
        "a {tree} tree in a clearing of a {forest} forest, {near}",
        "a {tree} tree in {season}, {near}",
        "the crown of a {tree} tree from above, {near}",
        "{near}, a {tree} tree with a {leaf} leaf in the middle of its crown",
    ),
    "leaf": (
        "a {leaf} leaf of a {tree} tree with a {beetle} ladybug in the middle, {near}",
        "a {leaf} leaf {near}",
        "a {leaf} leaf with a {beetle} ladybug on it, {near}",
        "a {leaf} leaf over {tree} foliage, {near}",
        "{near}, a {leaf} leaf with veins and a small {beetle} ladybug",
        "a {leaf} leaf of a {tree} tree {near}",
    ),
    "ladybug": (
        "a {beetle} ladybug with {spots} {spot_colour} spots on a {leaf} leaf, {near}",
        "a {beetle} ladybug {near}",
        "a {beetle} ladybug on a {leaf} leaf, {near}",
        "a {beetle} ladybug with {spots} spots, {near}",
        "{near}, a glossy {beetle} ladybug with {spot_colour} spots",
        "a {beetle} ladybug with {spots} spots sitting on a {leaf} leaf {near}",
    ),
}


def _filled(phrase: str, words: Mapping[str, str], near: str, cloudy: bool, ringed: bool) -> str:
    nebula, second = words["nebula"], words["nebula_second"]
    words = {
        **words,
        "near": near,
        "sky": f"a {nebula} nebula" if cloudy else "a star field",  # which has no colour
        "gas": f"{nebula} clouds" if cloudy else "darkness",
        "second": f"with {second} clouds" if cloudy else "",
        "ringed": "ringed" if ringed else "",
        "rings": "with rings" if ringed else "",
    }
    # Without the gaps and commas that empty words leave.
    text = " ".join(phrase.format_map(words).split())
    text = text.replace(" ,", ",").replace(",,", ",").strip(", ")
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def caption(seed: int, scale: float, variant: int = 0) -> str:
    """Returns a caption of `picture(seed, scale)`, of at most 28 words; UserError if it has none.

    `variant`, a whole number from 0, picks the phrasing.
    """
    name = concept(scale)
    start = SCALES_PER_CONCEPT * CONCEPTS.index(name)
    third = min(int(3 * (scale - start) / SCALES_PER_CONCEPT), 2)
    nearness = (_NEARNESS if name in _OUTLINED else _FIELD)[third]
    phrase, near = _PHRASES[name][0], nearness[0]
    if variant:
        rng = np.random.default_rng([seed, variant, int(1024 * scale)])
        near = nearness[rng.integers(len(nearness))] if rng.random() < 0.75 else ""
        phrase = _PHRASES[name][rng.integers(len(_PHRASES[name]))]
    w = imagine(seed)
    spots = "red" if w.beetle == "black" else "black"
    words = {**vars(w), "season": palettes.FORESTS[w.forest].season, "spot_colour": spots}
    return _filled(phrase, words, near, w.cloudy, w.ringed)


_SEASONS = {forest.season: name for name, forest in palettes.FORESTS.items()}
# What can stand for each word of a phrasing.
_WORDS = {
    "galaxy": palettes.GALAXY, "galaxy_kind": palettes.GALAXY_KINDS, "sun": palettes.SUN,
    "nebula": palettes.NEBULA, "nebula_second": palettes.NEBULA, "planet": palettes.PLANETS,
    "forest": palettes.FORESTS, "season": _SEASONS, "tree": palettes.TREES, "leaf": palettes.LEAVES,
    "beetle": palettes.BEETLES, "spots": palettes.SPOTS, "spot_colour": ("red", "black"),
}  # fmt: skip


@functools.cache
def _patterns() -> list[tuple[re.Pattern, str, dict[str, str]]]:
    """Returns (pattern, concept, what it says by what it leaves out) of every phrasing."""
    marks, found = {word: f"@{word}@" for word in _WORDS}, {}
    for name, phrases in _PHRASES.items():
        thirds = _NEARNESS if name in _OUTLINED else _FIELD
        nears = "|".join(filter(None, itertools.chain(*thirds)))
        options = phrases, ("@near@", ""), (True, False), (True, False)
        for phrase, near, cloudy, ringed in itertools.product(*options):
            pattern = re.escape(_filled(phrase, marks, near, cloudy, ringed))
            pattern = pattern.replace(r"a\ @", r"an?\ @").replace("@near@", f"(?:{nears})")
            for word, known in _WORDS.items():  # said twice, it is the same word
                pattern = pattern.replace(f"@{word}@", f"(?P<{word}>{'|'.join(known)})", 1)
                pattern = pattern.replace(f"@{word}@", f"(?P={word})")
            says = {"rings": "rings" if ringed else "no rings"} if "{ring" in phrase else {}
            if not cloudy and ("{sky}" in phrase or "{gas}" in phrase):
                says["nebula"] = "none"
            found[pattern, name] = says
    return [(re.compile(pattern), name, says) for (pattern, name), says in found.items()]


def named(prompt: str) -> dict[str, str]:
    """Returns the concept and attributes that a prompt in the grammar of `caption` names.

    They are as of `attributes`, {"concept": "tree", "tree.colour": "red", ...}; a season names its
    forest's colour. Where phrasings share words, what only one of them says is left out. {} for any
    other text.
    """
    found = []
    for pattern, name, says in _patterns():
        if match := pattern.fullmatch(prompt):
            words = {**says, **match.groupdict()}
            if "season" in words:
                words.setdefault("forest", _SEASONS[words["season"]])
            found.append(_answer(name, words).items())
    return dict(item for item in found[0] if all(item in one for one in found)) if found else {}


def every_caption(views: Sequence[View], phrasings: int) -> list[list[str]]:
    """Returns the first `phrasings` variants of the captions of n views: [phrasings][n]."""
    return [[caption(*view, variant) for view in views] for variant in range(phrasings)]


def answers(views: Sequence[View]) -> list[dict[str, str]]:
    """Returns what each of n views shows, as {head: answer}."""
    return [attributes(*view) for view in views]


def scene_prompts(
    levels: int, seed: int = 0, *, start: float = 0.0, zoom_factor: int = 2
) -> list[str]:
    """Returns one prompt for each level of a zoom into world `seed`, the widest first.

    `start` is the scale of the widest level. UserError if the zoom would leave the world's scales.
    """
    last = start + (levels - 1) * np.log2(zoom_factor)
    if levels < 1 or start < 0 or last > DEEPEST:
        raise UserError(
            f"{levels} levels of factor {zoom_factor} from scale {start:g} end at scale {last:g}; "
            f"the world has scales 0 to {DEEPEST:g}: start wider or ask for fewer levels"
        )
    return [caption(seed, start + i * np.log2(zoom_factor)) for i in range(levels)]


def labels(answers: list[dict[str, str]]) -> tuple[dict[str, list], dict[str, np.ndarray]]:
    """Returns the labels of n views from their `answers`.

    They are {head: its answers, sorted}, and {head: int32 [n]}, which of these answers a view has,
    -1 where the head does not apply.
    """
    heads = sorted({head for answer in answers for head in answer})
    classes = {head: sorted({a[head] for a in answers if head in a}) for head in heads}
    numbers = {
        head: np.array([names.index(a[head]) if head in a else -1 for a in answers], np.int32)
        for head, names in classes.items()
    }
    return classes, numbers
