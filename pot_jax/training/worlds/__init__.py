"""The procedural world the embedded model learns from: nested scenes, true at every scale."""

from pot_jax.training.worlds.attributes import World, imagine
from pot_jax.training.worlds.frames import CONCEPTS, DEEPEST, SCALES_PER_CONCEPT
from pot_jax.training.worlds.world import picture

__all__ = ["CONCEPTS", "DEEPEST", "SCALES_PER_CONCEPT", "World", "imagine", "picture"]
