"""Tileable noise and jittered cells: the two textures every scene is made of.

x, y are float32 arrays of one shape, in the caller's own units; `spacing` is the distance between
neighbouring samples in those units. Each process makes the tables once, from fixed seeds, so that a
picture depends only on its arguments.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

PERIOD = 16  # lattice cells after which a table repeats
_TEXELS = 32  # texels per lattice cell in the finest table
_OCTAVES = 5
_CELLS = 64  # cells after which the jitter tables repeat


def _lattice(rng, cells: int, size: int) -> np.ndarray:
    """Smooth tileable noise [size, size]: random values at `cells` points, cubic in between."""
    values = rng.standard_normal((cells, cells)).astype(np.float32)
    for axis in (0, 1):
        position = np.arange(size) * (cells / size)
        start = np.floor(position).astype(int)
        t = (position - start).astype(np.float32)
        # Cubic B-spline weights: rounder than interpolation, no overshoot.
        weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
        shape = (-1, 1) if axis == 0 else (1, -1)
        values = sum(
            w.reshape(shape) / 6 * np.take(values, (start + k - 1) % cells, axis)
            for k, w in enumerate(weights)
        )
    return values / values.std()


@cache
def _tables() -> tuple[np.ndarray, ...]:
    """The fractal sum of octaves, and its means over 2x2, 4x4, ... texels, each flattened."""
    rng = np.random.default_rng(20231204)
    size = PERIOD * _TEXELS
    total = sum(0.55**k * _lattice(rng, PERIOD << k, size) for k in range(_OCTAVES))
    total = (total / total.std()).astype(np.float32)
    tables = [total]
    while tables[-1].shape[0] > PERIOD:
        n = tables[-1].shape[0] // 2
        tables.append(tables[-1].reshape(n, 2, n, 2).mean((1, 3)))
    return tuple(np.ascontiguousarray(t).ravel() for t in tables)


def fractal(x: np.ndarray, y: np.ndarray, spacing: float) -> np.ndarray:
    """Returns five-octave noise at (x, y): mean 0, deviation 1, largest features one unit wide.

    Octaves finer than `spacing` are averaged away (the table's means are what a shrunken picture
    would show), so that views of one place at different zooms agree.
    """
    tables = _tables()
    finest = int(np.clip(np.floor(np.log2(max(spacing * _TEXELS, 1e-6))), 0, len(tables) - 1))
    table = tables[finest]
    n = PERIOD * _TEXELS >> finest
    # Half a texel: a mean belongs to the middle of the texels it was taken over.
    u = x * np.float32(n / PERIOD) - np.float32(0.5 - 0.5 / 2**finest)
    v = y * np.float32(n / PERIOD) - np.float32(0.5 - 0.5 / 2**finest)
    column, row = np.floor(u), np.floor(v)
    u, v = u - column, v - row
    column, row = column.astype(np.int32), row.astype(np.int32)
    mask = n - 1
    left, right = column & mask, (column + 1) & mask
    top, bottom = (row & mask) * n, ((row + 1) & mask) * n
    upper = table.take(top + left)
    upper += u * (table.take(top + right) - upper)
    lower = table.take(bottom + left)
    lower += u * (table.take(bottom + right) - lower)
    return upper + v * (lower - upper)


class Cells(NamedTuple):
    """The uppermost of the jittered bumps over each sample, one bump in each unit cell."""

    height: np.ndarray  # of the surface; at most about 1.5; low in the gaps between bumps
    dx: np.ndarray  # the sample's position relative to the bump's middle, in cells
    dy: np.ndarray
    tone: np.ndarray  # one random number in [0, 1] a bump


@cache
def _jitter() -> tuple[np.ndarray, ...]:
    """Each cell's middle (x, y), lift and tone, and its direction (cosine, sine)."""
    rng = np.random.default_rng(2312)
    *tables, turn = (rng.random(_CELLS * _CELLS).astype(np.float32) for _ in range(5))
    angle = turn * np.float32(2 * np.pi)
    return *tables, np.cos(angle), np.sin(angle)


def _uppermost(layers):
    """Merges layers, tuples of arrays, in place: where the first array is greater, it is on top."""
    best = next(layers)
    for layer in layers:
        above = layer[0] > best[0]
        for kept, new in zip(best, layer):
            np.copyto(kept, new, where=above)
    return best


def _neighbours(x, y, salt):
    """Indices of the four cells whose bumps can reach each sample, and its place from each bump."""
    # With middles kept 0.2 inside their cell, bumps of radius <= 0.7 in the other five
    # neighbouring cells end before the sample.
    jitter_x, jitter_y = _jitter()[:2]
    column, row = np.floor(x - 0.5), np.floor(y - 0.5)
    fx, fy = x - column, y - row
    column, row = column.astype(np.int32) + salt, row.astype(np.int32) + (salt >> 6)
    for j in (0, 1):
        base = ((row + j) & (_CELLS - 1)) * _CELLS
        for i in (0, 1):
            index = base + ((column + i) & (_CELLS - 1))
            dx = fx - np.float32(i) - (jitter_x.take(index) * np.float32(0.6) + np.float32(0.2))
            dy = fy - np.float32(j) - (jitter_y.take(index) * np.float32(0.6) + np.float32(0.2))
            yield index, dx, dy


def domes(x: np.ndarray, y: np.ndarray, radius: float = 0.64, salt: int = 0) -> Cells:
    """Returns round bumps (tree crowns from above), one a unit cell, the higher one on top."""
    lift, tones = _jitter()[2:4]

    def bumps():
        for index, dx, dy in _neighbours(x, y, salt):
            fall = (dx * dx + dy * dy) * np.float32(-1 / radius**2)
            yield fall + np.float32(1) + np.float32(0.5) * lift.take(index), dx, dy, index

    height, dx, dy, index = _uppermost(bumps())
    return Cells(height, dx, dy, tones.take(index))


class Leaves(NamedTuple):
    """The uppermost of a carpet of leaves over each sample."""

    inside: np.ndarray  # 1 in a leaf's middle, 0 at its edge, negative in the gaps
    across: np.ndarray  # -1 .. 1 at the widest
    tone: np.ndarray


def leaves(x: np.ndarray, y: np.ndarray, salt: int = 0) -> Leaves:
    """Returns pointed leaves at random angles, one a unit cell, half of it 0.74 cells long."""
    lift, tones, cosines, sines = _jitter()[2:]

    def carpet():
        for index, dx, dy in _neighbours(x, y, salt):
            cosine, sine = cosines.take(index), sines.take(index)
            along = (dx * cosine + dy * sine) * np.float32(1 / 0.74)
            across = (dy * cosine - dx * sine) * np.float32(1 / 0.38)
            inside = 1 - along * along - np.abs(across)
            yield np.where(inside > 0, 1 + lift.take(index), inside), inside, across, index

    _, inside, across, index = _uppermost(carpet())
    return Leaves(inside, across, tones.take(index))
