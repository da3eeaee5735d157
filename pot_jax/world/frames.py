"""The frame of each concept's object: the scale at which its view begins.

Frame `a` is the square view of scale `a`, so an object two concepts deeper is sixteen times as
small. A forest is seen before its middle tree fills the view and is painted in the tree's frame.
"""

SCALES_PER_CONCEPT = 2
CONCEPTS = (
    "galaxy",
    "nebula",
    "star",
    "planet",
    "continent",
    "island",
    "forest",
    "tree",
    "leaf",
    "ladybug",
)
DEEPEST = float(SCALES_PER_CONCEPT * len(CONCEPTS))  # the last concept fills the view here

GALAXY, NEBULA, STAR, PLANET, CONTINENT, ISLAND, FOREST, TREE, LEAF, LADYBUG = range(
    0, SCALES_PER_CONCEPT * len(CONCEPTS), SCALES_PER_CONCEPT
)
