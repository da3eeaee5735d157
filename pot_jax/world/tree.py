"""Tree, leaf and ladybug, seen from above, each in its own frame."""

import numpy as np

from pot_jax.world import noise, palettes
from pot_jax.world.attributes import World
from pot_jax.world.canvas import Canvas, Patch, mix, over, ramp, rotate, tint
from pot_jax.world.frames import LADYBUG, LEAF, TREE

TREE_RADIUS = 0.42  # in frame TREE
LEAF_LENGTH = 0.62  # half of it, in frame LEAF
LEAF_WIDTH = 0.32
BEETLE_RADIUS = 0.36  # half the wing cases' width, in frame LADYBUG
# Spots on one wing case, (along, across) in radii; a shared one lies on the seam.
_SPOTS = {
    2: [(0.0, 0.48)],
    4: [(0.38, 0.45), (-0.42, 0.45)],
    7: [(0.72, 0.0), (0.38, 0.56), (-0.12, 0.36), (-0.58, 0.52)],
}
_SPOT_RADIUS = {2: 0.32, 4: 0.25, 7: 0.19}
_BLACK = (0.035, 0.03, 0.035)


def _foliage(world: World, patch: Patch, colour: np.ndarray, relief: float) -> np.ndarray:
    """Single leaves over the crown's own light and dark; `patch` in frame LEAF."""
    ox, oy = world.offsets[11]
    size = np.float32(0.34)
    lx, ly = world.towards_light
    shade = 0
    soft = max(0.08, 0.7 * patch.spacing / (0.38 * float(size)))  # half an edge's width
    for salt in (3, 1000):
        x, y = patch.x / size + ox + salt, patch.y / size + oy
        leaf = noise.leaves(x, y, salt)
        body = ramp(0.08 - soft, 0.08 + soft, leaf.inside)
        rib = np.exp(-((leaf.across / 0.09) ** 2)) * (leaf.inside > 0)
        gleam = 0.35 * leaf.across * (lx - ly)
        tone = 0.42 + 0.62 * leaf.tone + gleam + 0.20 * rib
        if salt == 3:  # the layer below, darker
            shade = (0.45 + body * (tone * 0.75 - 0.45)) + 0.05
        else:
            shade = shade + body * (tone * 1.12 - shade)
            fresh = body * ramp(0.75, 0.9, leaf.tone)
    # The leaves' light and dark has mean 1, so that they appear without a change of the crown.
    full = colour * (1 + np.float32(0.75) * (shade * np.float32(1 / 0.76) - 1))
    full = mix(full, palettes.LEAVES[world.leaf][0], 0.30 * fresh)
    # Deeper in the crown it is darker; the leaf in the middle lies on top.
    away = np.sqrt(patch.x**2 + patch.y**2)
    full *= 0.74 + 0.26 * ramp(0.3, 1.5, away)
    return mix(colour, full, np.float32(relief))


def paint_tree(canvas: Canvas, world: World) -> None:
    """Paints a round crown of clumps, and of single leaves where they can be seen."""
    patch = canvas.patch(TREE, TREE_RADIUS * 1.3)
    tree = palettes.TREES[world.tree]
    ox, oy = world.offsets[12]
    size = np.float32(0.15)
    clumps = noise.domes(patch.x / size + ox, patch.y / size + oy, salt=int(oy * 40))
    reach = np.sqrt(patch.x**2 + patch.y**2) / np.float32(TREE_RADIUS)
    lx, ly = world.towards_light
    # A dome, and on it the clumps: both turn their bright side to the light.
    slope = (patch.x * lx + patch.y * ly) / np.float32(TREE_RADIUS)
    facing = clumps.dx * lx + clumps.dy * ly
    relief = float(ramp(0.7, 0.25, patch.spacing / size))
    tone = 0.60 + 0.36 * slope - 0.30 * reach**4
    tone += relief * (0.30 * facing + 0.36 * (clumps.height - 0.86) + 0.16 * (clumps.tone - 0.5))
    colour = mix(tree.dark, tree.light, np.clip(tone, -0.25, 1.1))
    # Round clumps stand out at the edge.
    bulge = 0.20 * (np.clip(clumps.height, 0, 1.2) - 0.75)
    soft = max(0.03, patch.spacing / TREE_RADIUS)
    cover = ramp(0.98 + soft, 0.98 - soft, reach - bulge)
    relief = float(ramp(TREE - 1.2, TREE + 1.4, canvas.scale))
    if relief > 0:
        near = np.float32(2 ** (LEAF - TREE))
        x, y, spacing = patch.x * near, patch.y * near, patch.spacing * float(near)
        colour = _foliage(world, patch._replace(x=x, y=y, spacing=spacing), colour, relief)
    over(patch.rgb, np.clip(colour, 0, 1), cover)


def paint_blade(patch: Patch, x, y, name: str, light, spacing: float, dim: float = 1) -> None:
    """Paints one leaf along x: |x| <= 1 from stalk to tip, with veins and sheen; `dim` in shade."""
    blade, vein = palettes.LEAVES[name]
    # Widest before the middle, pointed at the tip.
    full = np.maximum(1 - x * x, 0)
    half = full * (1.35 - 0.35 * full) * (1 - 0.22 * x) + np.float32(1e-4)
    across = y * np.float32(LEAF_LENGTH / LEAF_WIDTH)
    width = np.abs(across)
    inside = half - width
    edge = spacing * 1.5
    cover = ramp(-edge, edge, inside) * (full > 0)
    # Side veins run forward from the midrib, and curve a little.
    phase = (x - width * (0.36 + 0.06 * width)) * np.float32(7.0)
    comb = np.abs(phase - np.round(phase))
    side = np.exp(-((comb / 0.10) ** 2)) * ramp(0.02, 0.2, inside) * 0.55
    pillow = 4 * comb * (1 - comb)
    midrib = np.exp(-((across / (0.055 - 0.03 * x)) ** 2))
    fold = np.clip(across * 5, -1, 1) * np.float32(light[1] * 0.16)
    tone = 0.86 + fold + 0.10 * pillow + 0.10 * (1 - width) + 0.05 * x
    colour = mix(blade, vein, np.maximum(side, midrib) * 0.85) * tone
    over(patch.rgb, np.clip(colour * np.float32(dim), 0, 1), cover)


def paint_leaf(canvas: Canvas, world: World) -> None:
    """Paints the leaf in the crown's middle, over its sisters on the same twig."""
    tree = palettes.TREES[world.tree]
    lx, ly = world.towards_light
    placed = [(0.0, 0.0, world.leaf_angle, 1.0, world.leaf)]
    if TREE - 1.0 < canvas.scale < LADYBUG + 0.5:
        for k in range(4):
            turn = world.leaf_angle + np.pi / 4 + k * np.pi / 2 + 0.3 * np.sin(5.0 * k + world.seed)
            far = 0.86 + 0.12 * np.cos(7.0 * k + world.seed)
            name = tree.leaves[(k + world.seed) % len(tree.leaves)]
            placed.insert(0, (far * np.cos(turn), far * np.sin(turn), turn, 0.82, name))
    for px, py, angle, size, name in placed:
        patch = canvas.patch(LEAF, LEAF_LENGTH * size * 1.25, (px, py))
        length = np.float32(LEAF_LENGTH * size)
        x, y = rotate(patch.x + 0.05 * lx, patch.y + 0.05 * ly, angle)
        x, y = x / length, y / length
        reach = np.sqrt(x * x + (y * np.float32(LEAF_LENGTH / LEAF_WIDTH)) ** 2)
        patch.rgb[:] *= 1 - 0.5 * ramp(1.15, 0.7, reach)  # the leaf's soft shadow
        x, y = rotate(patch.x, patch.y, angle)
        facing = rotate(lx, ly, angle)
        dim = 1 if size == 1 else 0.86  # the sisters lie deeper
        fine = patch.spacing / float(length)
        paint_blade(patch, x / length, y / length, name, facing, fine, dim)


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
    patch = canvas.patch(LADYBUG, BEETLE_RADIUS * 1.75)
    colour, spot = palettes.BEETLES[world.beetle]
    lx, ly = np.cos(world.light), np.sin(world.light)
    x, y = rotate(patch.x, patch.y, world.beetle_angle)
    x, y = x / np.float32(BEETLE_RADIUS), y / np.float32(BEETLE_RADIUS)
    light = rotate(lx, ly, world.beetle_angle)
    edge = max(patch.spacing / BEETLE_RADIUS, 0.004) * 0.8
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
    over(shell, (0.04, 0.02, 0.02), ramp(0.028 + edge, 0.028 - edge, np.abs(y)) * 0.9)  # the seam
    height = np.sqrt(np.maximum(1 - square, 0))
    diffuse = 0.62 * height + 0.55 * (along * light[0] + y * light[1])
    shell *= np.clip(0.42 + 0.72 * diffuse, 0.22, 1.12)
    gloss = np.exp(-(((along - 0.42 * light[0]) / 0.26) ** 2 + ((y - 0.42 * light[1]) / 0.2) ** 2))
    glint = np.exp(-(((along - 0.47 * light[0]) ** 2 + (y - 0.47 * light[1]) ** 2) / 0.09**2))
    back = ramp(0.75, 1.0, reach) * ramp(0.1, -0.8, along * light[0] + y * light[1])
    shell = mix(shell, (1, 1, 1), np.clip(0.30 * gloss + 0.55 * glint, 0, 0.9))
    shell += 0.16 * back
    over(patch.rgb, np.clip(shell, 0, 1), case)
