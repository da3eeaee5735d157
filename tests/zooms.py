"""Pictures of zooms with a known answer: controls for metrics."""

import numpy as np

from pot_jax.media.images import zoom_to_bytes
from pot_jax.media.pixels import from_bytes, to_bytes
from pot_jax.world import picture
from pot_jax.zoom import operators
from pot_jax.zoom.geometry import Geometry

GEOMETRIES = [
    Geometry(4, 2, 32, 32),
    Geometry(3, 2, 24, 40, ((-6, 4), (3, -10))),  # the first window ends with its parent
    Geometry(3, 3, 36, 36),
    Geometry(3, 4, 40, 40),
]
# World and scale of the widest level: the chains of the quality report.
CHAINS = [(11, 0), (12, 3), (13, 6), (14, 9), (15, 12), (16, 2)]


def noise(geometry: Geometry, seed: int = 0) -> np.ndarray:
    """Independent bytes, [N, H, W, 3]."""
    shape = (geometry.levels, geometry.height, geometry.width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def constant(geometry: Geometry, colour=(40, 90, 200)) -> np.ndarray:
    """Pictures of one colour."""
    shape = (geometry.levels, geometry.height, geometry.width, 3)
    return np.broadcast_to(np.uint8(colour), shape)


def pasted(pictures: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Pictures with their children pasted in, as delivery does."""
    return zoom_to_bytes(np.asarray(operators.render(from_bytes(pictures), geometry)), geometry)


def enlarged(pictures: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The widest level, and its window enlarged bilinearly again and again."""
    levels, (h, w) = [from_bytes(pictures[0])], geometry.window_shape
    for top, left in geometry.corners:
        window = levels[-1][top : top + h, left : left + w]
        levels.append(np.asarray(operators.upsample(window, geometry.zoom_factor)))
    return to_bytes(np.stack(levels))


def world(seed: int, start: float, levels: int = 8, size: int = 64) -> np.ndarray:
    """A true zoom: the procedural world's own renders."""
    return to_bytes(np.stack([picture(seed, start + i, size) for i in range(levels)]))
