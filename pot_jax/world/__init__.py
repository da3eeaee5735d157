"""The procedural world that the shipped models learn from: nested scenes at every scale.

NumPy only, so that the processes that render training data start without JAX.
"""

from pot_jax.world.attributes import World, imagine
from pot_jax.world.frames import CONCEPTS, DEEPEST, SCALES_PER_CONCEPT, View
from pot_jax.world.painter import picture

__all__ = ["CONCEPTS", "DEEPEST", "SCALES_PER_CONCEPT", "View", "World", "imagine", "picture"]
