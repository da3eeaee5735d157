"""Views: which world is seen, and at which scale."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np


class Views(NamedTuple):
    """n views, in the order of their pictures."""

    seeds: np.ndarray  # int64 [n], one world each
    scales: np.ndarray  # float64 [n], 0 (widest) to DEEPEST

    def take(self, indices: Any) -> "Views":
        """Returns the views at `indices`: a slice, or whole numbers [m]."""
        return Views(self.seeds[indices], self.scales[indices])

    def pairs(self) -> Iterator[tuple[int, float]]:
        """Yields (seed, scale) of one view after the other."""
        yield from zip(map(int, self.seeds), map(float, self.scales))
