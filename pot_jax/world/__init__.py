"""The procedural world the embedded model learns from: nested scenes, true at every scale."""

from pot_jax.world.attributes import World, imagine
from pot_jax.world.frames import CONCEPTS, DEEPEST, SCALES_PER_CONCEPT
from pot_jax.world.painter import picture

__all__ = ["CONCEPTS", "DEEPEST", "SCALES_PER_CONCEPT", "World", "imagine", "picture"]
