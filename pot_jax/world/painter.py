"""One picture of a world at any scale: the nested painter.

Every object is a function of its place in the world and of the view's resolution, so that pictures
at neighbouring scales show the same things.
"""

import numpy as np

from pot_jax.checks import require
from pot_jax.world import frames, space
from pot_jax.world.attributes import imagine
from pot_jax.world.canvas import Canvas
from pot_jax.world.land import paint_forest, paint_planet
from pot_jax.world.tree import paint_beetle, paint_leaf, paint_tree

# Painter; the scales between which it can be seen (before, its object is under a pixel; after, a
# deeper one hides it); and the scale after which one sample a pixel is enough, since the object is
# soft, its painter smooths its edges, or it lies out of focus behind a nearer one. Once a layer
# needs more samples, all after it are painted with them.
_LAYERS = (
    (space.paint_galaxy, -np.inf, frames.NEBULA + 1.9, -np.inf),
    (space.paint_nebula, -np.inf, frames.CONTINENT + 0.2, -np.inf),
    (space.paint_sun, -np.inf, frames.PLANET + 0.6, -np.inf),
    (space.paint_stars, -np.inf, frames.CONTINENT + 0.2, -np.inf),
    (paint_planet, -np.inf, frames.FOREST + 1.0, -np.inf),
    (space.paint_core, -np.inf, frames.NEBULA + 1.0, -np.inf),
    (paint_forest, frames.ISLAND - 0.6, frames.LEAF + 0.2, frames.TREE + 0.4),
    (paint_tree, frames.ISLAND - 0.4, frames.LADYBUG + 0.6, frames.TREE + 0.4),
    (paint_leaf, frames.FOREST, np.inf, frames.LADYBUG + 0.8),
    (paint_beetle, frames.TREE, np.inf, np.inf),
)


def picture(seed: int, scale: float, size: int = 64) -> np.ndarray:
    """Returns the view of world `seed`, a whole number from 0: float32 [size, size, 3] in [-1, 1].

    The scale is 0 (galaxy) to 20 (ladybug), any number between; each +1 halves the width of the
    view. Raises UserError if it is outside that range, or the size is odd or below 8.
    """
    frames.check_scale(scale)
    require(size >= 8 and size % 2 == 0, "size", "an even number of at least 8", size)
    canvas, world = Canvas(float(scale), size), imagine(int(seed))
    for paint, first, last, soft_after in _LAYERS:
        if first <= scale <= last:
            if scale <= soft_after and not canvas.fine:
                canvas = canvas.refined()
            paint(canvas, world)
    pixels = np.clip(canvas.rgb, 0, 1)
    if canvas.fine:  # 2 x 2 samples a pixel; slices, since a mean is several times as slow
        pixels = pixels[:, ::2] + pixels[:, 1::2]
        pixels = 0.25 * (pixels[..., ::2] + pixels[..., 1::2])
    return np.ascontiguousarray(pixels.transpose(1, 2, 0)) * 2 - 1
