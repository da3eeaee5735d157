"""Audits the noise that a zoom starts from: whether it is white, and shared where levels overlap."""

import numpy as np

from pot_jax.zoom.geometry import Geometry, require_levels
from pot_jax.zoom.operators import downsample


def noise_audit(noise: np.ndarray, geometry: Geometry, kernel: str = "mean") -> dict[str, float]:
    """Measures noise in the windows, where one level's is made from the next one's.

    Args:
      noise: unit noise, [N, h, w, c].
      geometry: the placement of the levels on that grid.
      kernel: the kernel of D, a name in `zoom.operators.KERNELS`.

    Returns:
      variance: mean square; 1 for noise that a model was trained on, 0 for constants.
      neighbour_correlation: of values next to each other along either axis, over the mean square;
        0 for white noise.
      shared_correlation: of the window in level i with D of level i+1, over all pairs, -1 to 1: 1
        for shared noise, 0 for independent noise.
      All are of the windows in levels 0..N-2, with a scatter of about 1 / sqrt(their size). For one
      level, they are of that level, without shared_correlation.

    Raises:
      UserError: the noise does not fit the geometry, or the kernel is unknown.
    """
    require_levels(noise, geometry)
    noise, (h, w) = np.asarray(noise, np.float64), geometry.window_shape
    corners = zip(noise, geometry.corners)
    windows = np.stack(
        [x[top : top + h, left : left + w] for x, (top, left) in corners] or [noise[0]]
    )
    power = np.square(windows).mean()
    down, right = windows[:, 1:] * windows[:, :-1], windows[:, :, 1:] * windows[:, :, :-1]
    neighbours = np.concatenate([down.ravel(), right.ravel()]).mean()
    found = {"variance": power, "neighbour_correlation": neighbours / max(power, 1e-12)}
    if geometry.levels > 1:
        shrunk = downsample(noise[1:], geometry.zoom_factor, kernel)
        norms = np.square(shrunk).sum() * np.square(windows).sum()
        found["shared_correlation"] = (shrunk * windows).sum() / np.sqrt(max(norms, 1e-12))
    return {name: float(value) for name, value in found.items()}
