"""The canvas a world is painted on, and the few operations painters share.

Colours are display values in [0, 1], channel first: `[3, h, w]`, or `(3,)` for one colour. Each
object has its own frame: frame `a` is the square view of scale `a`, x to the right and y downwards
in [-1, 1]. Objects are painted on top of each other, wide ones first.
"""

from typing import NamedTuple

import numpy as np


class Patch(NamedTuple):
    """A part of the canvas in one object's frame; `rgb` is a window onto the canvas itself."""

    x: np.ndarray  # [h, w], frame units
    y: np.ndarray  # [h, w]
    rgb: np.ndarray  # [3, h, w]
    spacing: float  # distance between samples, frame units


class Canvas:
    """Samples of one square view, centred on the world's centre."""

    def __init__(self, scale: float, samples: int, rgb: np.ndarray | None = None):
        """Makes a canvas of `samples` x `samples` for the view of a scale; black without `rgb`."""
        self.scale, self.samples = scale, samples
        self.fine = rgb is not None  # two samples a pixel in each direction, else one
        self.rgb = np.zeros((3, samples, samples), np.float32) if rgb is None else rgb
        self._line = (np.arange(samples, dtype=np.float32) * 2 + 1) / samples - 1

    def patch(
        self, frame: float, radius: float = np.inf, middle: tuple[float, float] = (0, 0)
    ) -> Patch:
        """Returns the samples within `radius` of `middle` in a frame; x and y are relative to it.

        There are none where they are less than a sample wide, or outside the picture.
        """
        unit = 2.0 ** (frame - self.scale)
        spacing = 2 / self.samples * unit
        shown = self.samples if radius >= 0.5 * spacing else 0
        windows = []
        for centre in middle:
            # Bounds on whole pixels (two samples).
            low = np.clip((centre - radius + unit) / spacing, 0, shown)
            high = np.clip((centre + radius + unit) / spacing, 0, shown)
            windows.append(slice(int(low) // 2 * 2, -int(-high // 2) * 2))
        columns, rows = windows
        across = self._line[columns] * np.float32(unit) - np.float32(middle[0])
        down = self._line[rows] * np.float32(unit) - np.float32(middle[1])
        return Patch(*np.meshgrid(across, down), self.rgb[:, rows, columns], spacing)

    def refined(self) -> "Canvas":
        """Returns the same picture with twice as many samples in each direction."""
        return Canvas(self.scale, 2 * self.samples, self.rgb.repeat(2, 1).repeat(2, 2))


def ramp(low: float, high: float, value):
    """Returns a cubic step from 0 (value <= low) to 1 (value >= high); falls where high < low."""
    t = np.clip((value - np.float32(low)) * np.float32(1 / (high - low)), 0, 1)
    return t * t * (3 - 2 * t)


def tint(colour) -> np.ndarray:
    """Returns one colour (3,) as [3, 1, 1], to broadcast over a canvas; [3, h, w] as it is."""
    return np.asarray(colour, np.float32).reshape(3, 1, 1) if np.size(colour) == 3 else colour


def mix(first, second, amount) -> np.ndarray:
    """Returns colours between `first` (amount 0) and `second` (1); each (3,) or [3, h, w]."""
    first = tint(first)
    return first + (tint(second) - first) * amount


def over(rgb: np.ndarray, colour, alpha) -> None:
    """Paints a colour, (3,) or [3, h, w], over `rgb` with coverage `alpha`, in place."""
    rgb += alpha * (tint(colour) - rgb)


def rotate(x: np.ndarray, y: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns coordinates along and across a direction at `angle` from the x axis."""
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cosine + y * sine, y * cosine - x * sine
