"""ZoomBench's scenes, as tables: name -> settings of a run. docs/zoombench.md says how to use them.

    world_scenes()       24 true zooms into the procedural world, for models that were trained on it
    many_scenes()        112 others, where means are wanted more exactly
    controls()           6 lists of prompts in the same words that no zoom can follow
    stable_diffusion()   8 zooms into the real world, for models of photographs

Changing a prompt changes the benchmark: results before and after cannot be compared.
"""

from pot_jax.world.captions import caption, concept, scene_prompts
from pot_jax.world.frames import DEEPEST

LEVELS, ZOOM_FACTOR = 6, 2  # of the scenes and controls in the procedural world
SCENES = 24
# Worlds that no training has seen: one of seed s draws the worlds from 1_000_003 s on, fewer than
# 600,000 of them, and so never any from 5,600,015 to 6,000,017.
FIRST_WORLD, CONTROL_WORLDS, MANY_WORLDS = 5_700_000, 5_710_000, 5_720_000
MANY = 112


def world_places(
    what: str = "world", count: int = SCENES, first: int = FIRST_WORLD
) -> dict[str, tuple[int, float]]:
    """Returns the world's seed, from `first` on, and the scale of the widest level, by scene.

    The true zoom is `pot_jax.world.picture(seed, start + level, size)`. Starts are spread evenly,
    so that the deepest level of the last scene is the world's deepest.
    """
    places = {}
    for number in range(count):
        start = (DEEPEST - (LEVELS - 1)) * number / (count - 1)
        name = f"{what}-{number:02d}-{concept(start + LEVELS // 2)}"
        places[name] = first + number, start
    return places


def world_scenes(*which) -> dict[str, dict]:
    """Returns 24 scenes of 6 levels: a name has the scene's number and its level 3's concept.

    `which` others, with arguments of `world_places`.
    """
    return {
        name: _settings(ZOOM_FACTOR, scene_prompts(LEVELS, seed, start=start))
        for name, (seed, start) in world_places(*which).items()
    }


def many_scenes() -> dict[str, dict]:
    """Returns 112 other scenes of 6 levels."""
    return world_scenes("many", MANY, MANY_WORLDS)


def control_views() -> dict[str, list[tuple[int, float]]]:
    """Returns (seed of the world, scale) of each level's prompt, by control.

    The first three alternate between two worlds that have no attribute in common: each level says
    other colours of the same objects than its parent. In the next two, no level lies inside its
    parent. The last wants the same whole planet at each level.
    """
    worlds = {"sky": (1, 9, 0.0), "land": (11, 46, 6.0), "tree": (25, 34, 14.0)}
    views = {
        f"control-{number}-two-worlds-{place}": [
            (CONTROL_WORLDS + (a, b)[level % 2], start + level) for level in range(LEVELS)
        ]
        for number, (place, (a, b, start)) in enumerate(worlds.items())
    }
    for name, scales in (
        ("control-3-deepest-first", (19, 15, 13, 7, 3, 1)),
        ("control-4-out-of-order", (1, 19, 5, 17, 9, 15)),
        ("control-5-one-prompt", (6,) * LEVELS),
    ):
        views[name] = [(CONTROL_WORLDS + 7, float(scale)) for scale in scales]
    return views


def controls() -> dict[str, dict]:
    """Returns 6 negative controls of 6 levels, in the words of the world's captions."""
    return {
        name: _settings(ZOOM_FACTOR, [caption(*view) for view in views])
        for name, views in control_views().items()
    }


# Scene -> zoom factor, and each level's true width in metres with its prompt. Each prompt says what
# is really seen at that width, and names what the next level shows while that is still small.
REAL: dict[str, tuple[int, tuple[tuple[float, str], ...]]] = {
    "forest-to-ladybug": (
        4,
        (
            (800, "Aerial photograph of an endless autumn forest from straight above, a small "
                "round clearing with one large golden oak in the middle"),
            (200, "Aerial photograph of a forest clearing from straight above, one large golden "
                "oak standing in the middle of the grass"),
            (50, "Drone photograph of the round crown of a golden oak from straight above, grass "
                "around it"),
            (12, "Golden autumn leaves in the crown of an oak, seen from above, thousands of "
                "leaves on branching twigs"),
            (3, "A branch of an oak with clusters of golden autumn leaves, seen from above, sharp "
                "detail"),
            (0.8, "A twig with a few golden oak leaves, a tiny red dot on the leaf in the middle, "
                "nature photograph"),
            (0.2, "A single golden oak leaf with a small red ladybug sitting in the middle, nature "
                "photograph"),
            (0.05, "Macro photograph of a red ladybug on the veins of a golden oak leaf"),
            (0.012, "Extreme macro photograph of a red ladybug with black spots, filling the "
                "frame, on a golden leaf"),
        ),
    ),
    "galaxy-to-newborn-star": (
        4,
        (
            (1e21, "A spiral galaxy seen face-on, a bright golden centre and blue spiral arms, "
                "black space, Hubble photograph"),
            (2.5e20, "The bright golden bulge of a spiral galaxy, dark dust lanes curling into the "
                "centre, Hubble photograph"),
            (6e19, "The glowing core of a galaxy, a dense haze of golden stars crossed by brown "
                "dust lanes"),
            (1.5e19, "Countless golden stars near the centre of a galaxy, dark clouds of dust "
                "between them, telescope photograph"),
            (4e18, "A crowded field of stars with dark dust and one small pink nebula in the "
                "middle, telescope photograph"),
            (1e18, "A glowing pink nebula surrounded by a dense field of stars, telescope "
                "photograph"),
            (2.5e17, "A pink nebula filling the frame, billowing clouds around a bright cavity in "
                "the middle, Hubble photograph"),
            (6e16, "A bright cavity inside a pink nebula, a cluster of young blue stars and dark "
                "pillars of gas, Hubble photograph"),
            (1.5e16, "A dark cloud of dust glowing at its edges inside a pink nebula, an orange "
                "spark in the middle, infrared photograph"),
            (4e15, "A dark brown cloud of dust lit from inside by a newborn orange star, infrared "
                "photograph"),
            (1e15, "A newborn star in a glowing cocoon of dust, two narrow jets shooting out in "
                "opposite directions"),
            (2.5e14, "A newborn star with a small bright disc of dust around it and two jets, "
                "surrounded by haze"),
            (6e13, "A protoplanetary disc with bright orange rings and dark gaps around a young "
                "star, seen from above"),
            (1.5e13, "The inner rings of a protoplanetary disc, glowing orange dust and dark gaps "
                "around a small bright star"),
            (4e12, "The innermost part of a glowing disc of dust, a small dark gap around the "
                "bright young star in the middle"),
            (1e12, "A brilliant young star in the middle of a dark gap, the glowing inner edge of "
                "its dust disc around it"),
        ),
    ),
    "mars-to-dunes": (
        2,
        (
            (1.2e7, "The whole planet Mars in black space, a long dark canyon across its middle, "
                "NASA photograph"),
            (6e6, "The planet Mars filling the frame, a long dark canyon system across the middle, "
                "NASA photograph"),
            (3e6, "A giant canyon system on Mars seen from orbit, branching dark valleys in a rust "
                "red plain"),
            (1.5e6, "A wide rust red canyon on Mars with branching side valleys, seen from orbit"),
            (7.5e5, "A deep broad canyon on Mars with steep walls, seen from orbit, rust red and "
                "brown"),
            (3.8e5, "The floor of a huge canyon on Mars between two steep walls with landslides, "
                "satellite photograph"),
            (1.9e5, "The flat floor of a canyon on Mars with one round impact crater in the "
                "middle, satellite photograph"),
            (9.4e4, "A round impact crater on a flat red plain on Mars, satellite photograph"),
            (4.7e4, "A large round impact crater on Mars with a sharp rim and a dark patch on its "
                "floor, satellite photograph"),
            (2.3e4, "The inside of a round crater on Mars, terraced walls at the edges, a field of "
                "dark sand in the middle"),
            (1.2e4, "The floor of a crater on Mars with a large field of dark sand dunes, "
                "satellite photograph"),
            (5.9e3, "A large field of dark sand dunes on Mars seen from straight above, light "
                "ground at the edges"),
            (2.9e3, "Many dark crescent dunes on Mars seen from straight above, satellite "
                "photograph"),
            (1.5e3, "A group of dark crescent dunes on Mars with sharp crests, seen from straight "
                "above"),
            (730, "A few large crescent dunes on Mars, sharp crests and rippled slopes, seen from "
                "straight above"),
            (370, "One large dark crescent dune on Mars with a sharp crest and fine ripples, seen "
                "from straight above"),
        ),
    ),
    "city-to-watch": (
        4,
        (
            (8000, "Aerial photograph of an old European city from straight above, a river, red "
                "roofs, a small square in the middle"),
            (2000, "Aerial photograph of the old town of a European city from straight above, "
                "dense red roofs around a pale square"),
            (500, "Aerial photograph of a large paved city square surrounded by old houses with "
                "red roofs, from straight above"),
            (125, "A paved city square from straight above with café tables and white parasols in "
                "the middle, people casting shadows"),
            (31, "Café tables on grey cobblestones from straight above, white parasols around one "
                "open wooden table in the middle"),
            (8, "A wooden café table with chairs on cobblestones from straight above, a tiny "
                "glint of gold on the table"),
            (2, "A round wooden table top from straight above, a cup of coffee, a newspaper and "
                "an open golden pocket watch in the middle"),
            (0.5, "An open golden pocket watch on a wooden table from straight above, its "
                "clockwork visible"),
            (0.12, "The open back of a golden pocket watch, brass gears and screws, product "
                "photograph"),
            (0.03, "Brass gears, blue screws and red rubies inside a pocket watch, macro "
                "photograph"),
            (0.008, "One brass gear wheel turning on a red ruby bearing, extreme macro "
                "photograph"),
            (0.002, "The steel pivot of a gear in a polished red ruby bearing, microscope "
                "photograph"),
        ),
    ),
    "hand-to-cells": (
        4,
        (
            (0.3, "An open human hand with the palm facing the camera, studio photograph, black "
                "background"),
            (0.08, "The palm of a human hand with its creases, close-up photograph"),
            (0.02, "The skin of a human palm with one crease and fine parallel ridges, macro "
                "photograph"),
            (0.005, "The parallel ridges of human skin, small pores along the ridges, extreme "
                "macro photograph"),
            (0.0012, "Two ridges of human skin with a row of round sweat pores, scanning electron "
                "micrograph"),
            (3e-4, "A round sweat pore in flaky human skin, scanning electron micrograph"),
            (7.5e-5, "The rim of a sweat pore, flat overlapping skin cells like scales, scanning "
                "electron micrograph"),
            (1.9e-5, "The wrinkled surface of a single skin cell with a few round bacteria on it, "
                "scanning electron micrograph"),
        ),
    ),
    "reef-to-eye": (
        2,
        (
            (16, "Underwater photograph of a wide coral reef in clear blue water, shoals of small "
                "fish, one blue and yellow angelfish far away"),
            (8, "Underwater photograph of a coral reef with sea fans, a blue and yellow angelfish "
                "in the middle, some distance away"),
            (4, "A blue and yellow angelfish swimming in front of corals and sea fans, small in "
                "the middle, underwater photograph"),
            (2, "A blue and yellow angelfish swimming in front of corals, underwater photograph"),
            (1, "A blue and yellow angelfish seen from the side, corals behind it, underwater "
                "photograph"),
            (0.5, "The head and front half of a blue and yellow angelfish from the side, "
                "underwater photograph"),
            (0.25, "The head of a blue and yellow angelfish from the side, a round eye in the "
                "middle, underwater close-up"),
            (0.12, "The face of a blue and yellow angelfish, a large round eye in the middle, "
                "underwater close-up"),
            (0.06, "The round eye of an angelfish surrounded by blue scales, macro photograph"),
            (0.03, "The eye of an angelfish filling the frame, a golden iris and a black pupil, "
                "macro photograph"),
            (0.016, "The golden iris and the black pupil of a fish's eye, extreme macro "
                "photograph"),
            (0.008, "The shiny black pupil of a fish's eye with the reef reflected in it, extreme "
                "macro photograph"),
        ),
    ),
    "library-to-gold": (
        4,
        (
            (32, "The great reading room of an old library from straight above, rows of wooden "
                "desks with small green lamps"),
            (8, "Wooden library desks with green lamps from straight above, one large open book on "
                "the desk in the middle"),
            (2, "A wooden library desk from straight above, a green lamp and a large open medieval "
                "book in the middle"),
            (0.5, "An open medieval manuscript from straight above, columns of black handwriting "
                "and one golden initial in the middle"),
            (0.12, "Part of a medieval manuscript page, black handwriting around a golden initial "
                "letter in a blue square"),
            (0.03, "A golden initial letter with painted leaves on a blue square, medieval "
                "manuscript, close-up"),
            (0.008, "Gold leaf and blue paint on parchment with a fine black outline, macro "
                "photograph"),
            (0.002, "Cracked gold leaf on parchment, microscope photograph"),
        ),
    ),
    "sunflower": (
        2,
        (
            (2, "A field of sunflowers, one large sunflower in the middle facing the camera, blue "
                "sky, photograph"),
            (1, "A large sunflower facing the camera with green leaves around it, photograph"),
            (0.5, "A sunflower with yellow petals and a brown centre facing the camera, close-up "
                "photograph"),
            (0.25, "The head of a sunflower filling the frame, a ring of yellow petals around the "
                "brown spirals of its centre"),
        ),
    ),
}  # fmt: skip


def stable_diffusion() -> dict[str, dict]:
    """Returns 8 scenes of 4 to 16 levels, p = 2 and 4, in the style that Stable Diffusion knows."""
    return {
        name: _settings(factor, [prompt for _, prompt in levels])
        for name, (factor, levels) in REAL.items()
    }


def _settings(zoom_factor: int, prompts: list[str]) -> dict:
    return {"prompts": tuple(prompts), "zoom.zoom_factor": zoom_factor}
