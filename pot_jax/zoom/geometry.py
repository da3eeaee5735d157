"""Where each level of a zoom lies in the wider ones: whole numbers, known before tracing.

Symbols: N levels, level 0 the widest; p the zoom factor; H x W the size of every level in pixels
(or in latents: a grid is a grid). Level i+1 shows a window of level i, H/p x W/p pixels large. In a
loop, level 0 also shows a window of level N-1, so that the zoom repeats without end.
Corners are top-left pixels, (y, x), in the pixels of the level that contains the window.
"""

import dataclasses
import math
import operator
from typing import Any

import numpy as np

from pot_jax.checks import require, to_dict
from pot_jax.errors import UserError, shown


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The placement of N levels, static under `jax.jit`; UserError if the numbers do not fit."""

    levels: int  # N >= 1
    zoom_factor: int  # p >= 2. Must divide height and width.
    height: int  # H. H - H/p must be even, so that a centred window starts on a pixel.
    width: int  # W, likewise
    # N - 1 pairs (dy, dx): how far the centre of level i+1 lies from the centre of level i, in
    # whole pixels of level i, downwards and to the right. None: every level is centred.
    # A loop has N pairs: the last is for level 0 in level N-1.
    offsets: tuple[tuple[int, int], ...] | None = None
    loop: bool = False  # of at least 2 levels, with windows of at least 2 x 2 pixels

    def __post_init__(self):
        for name, least in (("levels", 1), ("zoom_factor", 2), ("height", 1), ("width", 1)):
            _require_whole(name, getattr(self, name), least)
        p = self.zoom_factor
        for name, size in (("height", self.height), ("width", self.width)):
            if size % p:
                raise UserError(
                    f"zoom_factor {p} must divide the {name}, but {size} = {size // p} * {p} + "
                    f"{size % p}; use a {name} of {size - size % p or p} or {size - size % p + p}"
                )
            if (size - size // p) % 2:
                raise UserError(
                    f"a window of {name} {size // p} cannot be centred in a {name} of {size} "
                    f"(zoom_factor {p}): {size} - {size // p} must be even; "
                    f"use a {name} divisible by {2 * p}"
                )
        require(isinstance(self.loop, bool), "loop", "true or false", self.loop)
        require(self.levels > 1 or not self.loop, "loop", "at least 2 levels", self.levels)
        if self.loop and not self.depth:
            h, w = self.window_shape
            raise UserError(
                f"loop: zoom_factor {p} leaves no window: expected at least 2 x 2 pixels of "
                f"{self.height} x {self.width}, got {h} x {w}; use a smaller zoom_factor"
            )
        if self.offsets is not None:
            object.__setattr__(self, "offsets", self._checked_offsets())

    @property
    def window_shape(self) -> tuple[int, int]:
        """(H/p, W/p): the size of level i+1's window in level i."""
        return self.height // self.zoom_factor, self.width // self.zoom_factor

    @property
    def windows(self) -> int:
        """How many levels contain the window of another: N-1, or N in a loop."""
        return self.levels - (not self.loop)

    @property
    def corners(self) -> np.ndarray:
        """int32 [N-1, 2], in a loop [N, 2]: the corner of level i+1's window in level i."""
        h, w = self.window_shape
        centred = np.array([(self.height - h) // 2, (self.width - w) // 2], np.int32)
        offsets = np.array(self.offsets or [(0, 0)] * self.windows, np.int32)
        return centred + offsets.reshape(-1, 2)

    @property
    def child_corners(self) -> np.ndarray:
        """int32 [N, 2]: `corners`, and (0, 0) for a level that contains no other."""
        return np.concatenate([self.corners, np.zeros((1, 2), np.int32)])[: self.levels]

    @property
    def passes(self) -> int:
        """How often `operators.render` passes over the levels: 1, in a loop until its ends meet."""
        # What is wrong where the ends meet starts as at most H W pixels. D multiplies the sum of
        # its absolute values by the kernel's largest weight at most, p^-2, or up to p^-1.7 for the
        # Gaussian; so it is below float64's rounding after this many levels.
        levels = math.log(self.height * self.width * 2.0**53, self.zoom_factor) / 1.5
        return 1 + math.ceil(levels / self.levels) if self.loop else 1

    @property
    def depth(self) -> int:
        """K: the largest k for which p^k divides H and W and leaves at least 2 pixels of each."""
        p, sides, k = self.zoom_factor, (self.height, self.width), 0
        while all(n % p ** (k + 1) == 0 and n >= 2 * p ** (k + 1) for n in sides):
            k += 1
        return k

    def observation(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns where the window of every level i lies in level i-k, H/p^k x W/p^k pixels large.

        Off-centre, a window may start between two pixels of a wider level; it and every wider
        observation of it are omitted, not resampled. Raises UserError unless k is 0 to `depth`.

        Returns corners, int32 [N, 2], in the pixels of level i-k, in a loop (i-k) mod N, (0, 0) for
        none; and which exist, bool [N]: those at whole pixels and, but in a loop, of levels i >= k.
        """
        grid = f"{self.height} x {self.width} pixels at zoom_factor {self.zoom_factor}"
        require(0 <= k <= self.depth, "k", f"0 to {self.depth} for {grid}", k)
        levels = np.arange(self.levels)
        in_parent = np.roll(self.child_corners, 1, axis=0)
        corners = np.zeros((self.levels, 2), np.int32)
        exists = np.ones(self.levels, bool)
        for step in range(1, k + 1):  # from the pixels of level i-step+1 to those of level i-step
            exists &= (levels >= step) | self.loop
            exists &= (corners % self.zoom_factor == 0).all(axis=1)
            outer = in_parent[(levels - step + 1) % self.levels]
            corners = np.where(exists[:, None], outer + corners // self.zoom_factor, 0)
        return corners, exists

    def scaled(self, factor: int) -> "Geometry":
        """Returns the placement on a grid `factor` times as fine, e.g. from latents to pixels."""
        _require_whole("factor", factor, 1)
        shape = {"height": factor * self.height, "width": factor * self.width}
        if self.offsets is not None:
            shape["offsets"] = tuple((factor * dy, factor * dx) for dy, dx in self.offsets)
        return dataclasses.replace(self, **shape)

    def to_json(self) -> dict[str, Any]:
        """Returns plain data; an open chain's say nothing of loops, as before there were any."""
        data = to_dict(self)
        return data if self.loop else {name: data[name] for name in data if name != "loop"}

    @classmethod
    def from_json(cls, data: Any) -> "Geometry":
        """Reads what `to_json` returned; raises UserError if it is no placement that fits."""
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(data, dict) or not set(names[:4]) <= set(data) <= set(names):
            raise UserError(f"expected a geometry with {', '.join(names)}, got {shown(repr(data))}")
        return cls(**data)

    def _checked_offsets(self):
        try:
            pairs = tuple((operator.index(dy), operator.index(dx)) for dy, dx in self.offsets)
        except (TypeError, ValueError):
            expected = "expected pairs (dy, dx) of whole pixels"
            raise UserError(f"offsets: {expected}, got {self.offsets!r}") from None
        count, (h, w) = self.windows, self.window_shape
        which = "in a loop" if self.loop else "but the widest"
        expected = f"{count} pairs for {self.levels} levels, one for each {which}"
        require(len(pairs) == count, "offsets", expected, len(pairs))
        for i, (dy, dx) in enumerate(pairs):
            top, left = (self.height - h) // 2 + dy, (self.width - w) // 2 + dx
            if not (0 <= top <= self.height - h and 0 <= left <= self.width - w):
                child = (i + 1) % self.levels
                raise UserError(
                    f"offsets[{i}] = {pairs[i]} puts the window of level {child} at rows "
                    f"{top}..{top + h} and columns {left}..{left + w} of level {i}, "
                    f"outside its {self.height} x {self.width} pixels"
                )
        return pairs


def _require_whole(name, number, least):
    whole = hasattr(number, "__index__") and not isinstance(number, bool)
    require(whole and number >= least, name, f"a whole number >= {least}", number)


def require_open(geometry: Geometry, what: str) -> None:
    """Raises UserError if levels are in a loop, for `what` needs a widest one."""
    if geometry.loop:
        raise UserError(f"{what}: expected an open chain of levels, got a loop; choose one of them")


def require_levels(images: Any, geometry: Geometry) -> None:
    """Raises UserError unless `images` are [N, H, W, C] with the geometry's N, H and W."""
    expected = (geometry.levels, geometry.height, geometry.width)
    if len(np.shape(images)) != 4 or np.shape(images)[:3] != expected:
        raise UserError(
            f"expected all levels, [N, H, W, C] with N, H, W = {expected}, got "
            f"{np.shape(images)}; build the Geometry from the images' height and width"
        )
