"""Whether the noise that a zoom starts from is white, and shared where levels overlap."""

import numpy as np

from pot_jax.zoom.geometry import Geometry, require_levels
from pot_jax.zoom.operators import downsample


def noise_audit(noise: np.ndarray, geometry: Geometry, kernel: str = "mean") -> dict[str, float]:
    """Measures noise [N, h, w, c] in the windows, where one level's is made from the next one's.

    Returns:
      variance: the mean square; 1 for white noise, 0 for zeros.
      neighbour_correlation: of values next to each other, over the mean square; 0 for white noise.
      shared_correlation: sum(D(x_{i+1}) w_i) / sqrt(sum(D(x_{i+1})^2) sum(w_i^2)), w_i the window
        in level i; 1 for shared noise, 0 for independent noise.
      They scatter by about 1 / sqrt(values in the windows). One level has no windows: it is
      measured as a whole, without shared_correlation.

    Raises UserError if the noise does not fit the geometry, or the kernel is unknown.
    """
    require_levels(noise, geometry)
    noise, (h, w) = np.asarray(noise, np.float64), geometry.window_shape
    windows = [x[y : y + h, z : z + w] for x, (y, z) in zip(noise, geometry.corners)]
    seen = np.stack(windows or [noise[0]])
    power = max(np.square(seen).mean(), 1e-12)
    beside = seen[:, 1:] * seen[:, :-1], seen[:, :, 1:] * seen[:, :, :-1]
    correlation = np.concatenate([x.ravel() for x in beside]).mean() / power
    found = {"variance": float(power), "neighbour_correlation": float(correlation)}
    if windows:
        children = np.roll(noise, -1, axis=0)[: geometry.windows]
        shrunk = downsample(children, geometry.zoom_factor, kernel)
        norms = max(np.square(shrunk).mean(), 1e-12) * power
        found["shared_correlation"] = float((shrunk * seen).mean() / np.sqrt(norms))
    return found
