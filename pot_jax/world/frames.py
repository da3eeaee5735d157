"""Scales, the views at them, and the frame of each concept's object: where its view begins.

A scale s is 0 to 20: the view is 2^-s as wide as at scale 0, and each concept spans two scales.
Frame `a` is the square view of scale `a`, so an object two concepts deeper is sixteen times
smaller. A forest is seen before its middle tree fills the view and is painted in the tree's frame.
"""

from pot_jax.checks import require

SCALES_PER_CONCEPT = 2
CONCEPTS = (
    "galaxy", "nebula", "star", "planet", "continent", "island", "forest", "tree", "leaf", "ladybug"
)  # fmt: skip
DEEPEST = float(SCALES_PER_CONCEPT * len(CONCEPTS))  # the last concept fills the view here
View = tuple[int, float]  # a world's seed, a whole number from 0, and a scale, 0 to DEEPEST

GALAXY, NEBULA, STAR, PLANET, CONTINENT, ISLAND, FOREST, TREE, LEAF, LADYBUG = range(
    0, SCALES_PER_CONCEPT * len(CONCEPTS), SCALES_PER_CONCEPT
)


def check_scale(scale: float) -> None:
    """Raises UserError unless the world has that scale."""
    require(0 <= scale <= DEEPEST, "scale", f"a number between 0 and {DEEPEST:g}", scale)
