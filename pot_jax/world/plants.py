"""Tree (frame `TREE`) and leaf (frame `LEAF`), seen from above."""

import numpy as np

from pot_jax.world import noise, palettes
from pot_jax.world.attributes import World
from pot_jax.world.canvas import Canvas, Patch, mix, over, ramp, rotate
from pot_jax.world.frames import LADYBUG, LEAF, TREE

TREE_RADIUS = 0.42  # in frame TREE
LEAF_LENGTH = 0.62  # half of it, in frame LEAF
LEAF_WIDTH = 0.32


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
    ratio = np.float32(LEAF_LENGTH / LEAF_WIDTH)
    # Widest before the middle, pointed at the tip.
    full = np.maximum(1 - x * x, 0)
    half = full * (1.35 - 0.35 * full) * (1 - 0.22 * x) + np.float32(1e-4)
    across = y * ratio
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
