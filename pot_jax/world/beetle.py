"""The ladybug (frame `LADYBUG`), seen from above on its leaf."""

import numpy as np

from pot_jax.world import palettes
from pot_jax.world.attributes import World
from pot_jax.world.canvas import Canvas, Patch, mix, over, ramp, rotate, tint
from pot_jax.world.frames import LADYBUG

RADIUS = 0.36  # half the wing cases' width, in its frame
# Spots on one wing case, (along, across) in radii; a shared one lies on the seam.
_SPOTS = {
    2: [(0.0, 0.48)],
    4: [(0.38, 0.45), (-0.42, 0.45)],
    7: [(0.72, 0.0), (0.38, 0.56), (-0.12, 0.36), (-0.58, 0.52)],
}
_SPOT_RADIUS = {2: 0.32, 4: 0.25, 7: 0.19}
_BLACK = (0.035, 0.03, 0.035)


def _line(x, y, start, end, width: float, edge: float):
    """Coverage of a round-ended stroke from `start` to `end`."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    t = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / (dx * dx + dy * dy), 0, 1)
    distance = np.sqrt((x - start[0] - t * dx) ** 2 + (y - start[1] - t * dy) ** 2)
    return ramp(width + edge, width - edge, distance)


def _legs(patch: Patch, x, y, edge: float) -> None:
    side = np.abs(y)
    for along, reach, bend in ((0.62, 0.38, 0.22), (0.05, 0.44, -0.02), (-0.52, 0.40, -0.30)):
        knee = (along + bend, 0.92 + 0.12 * reach)
        foot = (along + 1.9 * bend, 0.92 + reach)
        cover = _line(x, side, (along, 0.6), knee, 0.06, edge)
        cover = np.maximum(cover, _line(x, side, knee, foot, 0.042, edge))
        over(patch.rgb, _BLACK, cover)
    over(patch.rgb, _BLACK, _line(x, side, (1.2, 0.16), (1.66, 0.42), 0.032, edge))


def _head(patch: Patch, x, y, light, edge: float) -> None:
    """Head with its eyes, and the shield behind it with two white marks."""

    def disc(ax, ay, rx, ry):
        reach = np.sqrt(((x - ax) / rx) ** 2 + ((np.abs(y) - ay) / ry) ** 2)
        return ramp(1 + edge / ry, 1 - edge / ry, reach)

    sheen = 0.10 + 0.20 * ramp(0.3, 1.2, (x - 1.0) * light[0] + y * light[1] + 0.55)
    head, shield = disc(1.20, 0.0, 0.26, 0.34), disc(0.93, 0.0, 0.30, 0.58)
    over(patch.rgb, mix(_BLACK, (0.5, 0.5, 0.56), sheen * 0.6), head)
    over(patch.rgb, (0.95, 0.94, 0.88), disc(1.29, 0.2, 0.07, 0.08))
    over(patch.rgb, mix(_BLACK, (0.5, 0.5, 0.56), sheen), shield)
    over(patch.rgb, (0.97, 0.95, 0.88), disc(0.98, 0.40, 0.14, 0.13) * shield)


def paint_beetle(canvas: Canvas, world: World) -> None:
    """Paints legs, head, and glossy wing cases with their spots."""
    patch = canvas.patch(LADYBUG, RADIUS * 1.75)
    colour, spot = palettes.BEETLES[world.beetle]
    lx, ly = np.cos(world.light), np.sin(world.light)
    x, y = rotate(patch.x, patch.y, world.beetle_angle)
    x, y = x / np.float32(RADIUS), y / np.float32(RADIUS)
    light = rotate(lx, ly, world.beetle_angle)
    edge = max(patch.spacing / RADIUS, 0.004) * 0.8
    fallen = np.sqrt((x + 0.16 * light[0]) ** 2 / 1.3 + (y + 0.16 * light[1]) ** 2)
    patch.rgb[:] *= 1 - 0.55 * ramp(1.22, 0.78, fallen)
    _legs(patch, x, y, edge)
    _head(patch, x, y, light, edge)
    along = (x + 0.05) / np.float32(1.06)
    square = along * along + y * y
    reach = np.sqrt(square)
    case = ramp(1 + edge, 1 - edge, reach) * ramp(0.98 + edge, 0.98 - edge, x + 0.10 * y * y)
    shell = np.broadcast_to(tint(colour), patch.rgb.shape).copy()
    count = palettes.SPOTS[world.spots]
    # A spot's edge is drawn in the shell's own curvature: flattened towards the rim.
    for ax, ay in _SPOTS[count]:
        radius = _SPOT_RADIUS[count]
        distance = np.sqrt((along - ax) ** 2 + (np.abs(y) - ay) ** 2)
        over(shell, spot, ramp(radius + edge, radius - edge, distance))
    seam = ramp(0.028 + edge, 0.028 - edge, np.abs(y))
    over(shell, (0.04, 0.02, 0.02), seam * 0.9)
    height = np.sqrt(np.maximum(1 - square, 0))
    diffuse = 0.62 * height + 0.55 * (along * light[0] + y * light[1])
    shell *= np.clip(0.42 + 0.72 * diffuse, 0.22, 1.12)
    gloss = np.exp(-(((along - 0.42 * light[0]) / 0.26) ** 2 + ((y - 0.42 * light[1]) / 0.2) ** 2))
    glint = np.exp(-(((along - 0.47 * light[0]) ** 2 + (y - 0.47 * light[1]) ** 2) / 0.09**2))
    back = ramp(0.75, 1.0, reach) * ramp(0.1, -0.8, along * light[0] + y * light[1])
    shell = mix(shell, (1, 1, 1), np.clip(0.30 * gloss + 0.55 * glint, 0, 0.9))
    shell += 0.16 * back
    over(patch.rgb, np.clip(shell, 0, 1), case)
