"""Views and renders of the world that no model or classifier was trained on, for scores."""

import numpy as np

from pot_jax import world
from pot_jax.evaluation.metrics.world import SIDE
from pot_jax.media.pixels import to_bytes
from pot_jax.world import View

SEED = 77  # of the worlds here and of the classifier's; a model's own training draws from seed 0
MARGIN = 0.25  # scales between a view and a border between concepts, where a picture shows both


def inner_views(count: int, seed: int) -> list[View]:
    """Returns views of different worlds, evenly over the concepts and away from their borders."""
    rng = np.random.default_rng([SEED, seed])
    span = world.SCALES_PER_CONCEPT
    within = MARGIN + rng.random(count) * (span - 2 * MARGIN)
    scales = span * (np.arange(count) % len(world.CONCEPTS)) + within
    return [((SEED + seed) * 10_000_019 + i, scale) for i, scale in enumerate(scales.tolist())]


def draw(views: list[View]) -> np.ndarray:
    """Returns the renders of the views, uint8 [n, 64, 64, 3]."""
    return to_bytes(np.stack([world.picture(*view, SIDE) for view in views]))
