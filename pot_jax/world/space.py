"""Galaxy, nebula and the planet's star, each in its own frame, over black space.

The nebula lies in the galaxy's core: seen from far it is the core's colour, from inside it is the
sky around the star and its planets, with a dark hollow in which they hang.
"""

from functools import cache

import numpy as np

from pot_jax.world import noise, palettes
from pot_jax.world.attributes import World
from pot_jax.world.canvas import Canvas, Patch, mix, over, ramp, rotate, tint
from pot_jax.world.frames import GALAXY, NEBULA, STAR

SUN_DISTANCE = 0.40  # from the middle, in frame STAR
SUN_RADIUS = 0.16
STAR_COLOURS = np.array([(1, 1, 1), (0.72, 0.84, 1), (1, 0.86, 0.66), (1, 0.74, 0.62)], np.float32)


def paint_stars(canvas: Canvas, world: World) -> None:
    """Paints the stars, the same in every world: eight size classes, each in its own frame.

    A class fades in before its frame's scale and out after it. It is seen for about four scales, so
    that neighbouring views share most of their stars.
    """
    del world
    cells = 7.0  # across half a frame
    for scale, brightness in enumerate((0.8, 0.5, 0.9, 0.7, 0.8, 0.6, 0.7, 0.5)):
        age = canvas.scale - scale
        brightness *= float(ramp(-2.2, -1.0, age) * ramp(2.2, 1.0, age))
        if brightness <= 0:
            continue
        patch = canvas.patch(scale)
        x, y = patch.x * cells, patch.y * cells
        cell_x, cell_y = np.floor(x), np.floor(y)
        index = (cell_y.astype(np.int32) & 63) * 64 + (cell_x.astype(np.int32) & 63)
        index = (index + 577 * scale) & 4095
        light, where_x, where_y, kind = (column.take(index) for column in _star_table())
        square = (x - cell_x - where_x) ** 2 + (y - cell_y - where_y) ** 2
        # A disc no smaller than a sample keeps its light when seen from far away.
        width = max(0.055, 0.75 * cells * patch.spacing)
        glow = np.exp(square * np.float32(-1 / width**2)) * light
        glow *= np.float32(brightness * (0.055 / width) ** 1.5)
        patch.rgb[:] += glow * STAR_COLOURS.T[:, kind]


@cache
def _star_table() -> tuple[np.ndarray, ...]:
    """Brightness, place in the cell (x, y) and colour of the stars of 64 x 64 cells."""
    rng = np.random.default_rng(1054)
    light = (1.9 * rng.random(4096) ** 2.2 * (rng.random(4096) < 0.6)).astype(np.float32)
    x, y = rng.uniform(0.25, 0.75, (2, 4096)).astype(np.float32)
    return light, x, y, rng.choice(4, 4096, p=[0.5, 0.25, 0.17, 0.08])


def _arms(world: World, x, y, radius, clumps):
    """Brightness of the arms (about 0..1.3) and where dust darkens their inner edges."""
    if world.galaxy_kind == "elliptical":
        return np.float32(0.25) + 0 * radius, 0 * radius
    if world.galaxy_kind == "ring":
        ring = np.exp(-(((radius - 0.62) / 0.13) ** 2))
        return ring * 1.4 + 0.22, np.exp(-(((radius - 0.47) / 0.07) ** 2))
    turns = np.log(radius + 0.06) / world.pitch * np.float32(2.6)
    theta = np.arctan2(y, x)
    arms = 2 if world.barred else world.arms
    phase = arms * (theta - turns) + np.float32(0.35) * clumps
    crest = (0.5 + 0.5 * np.cos(phase)) ** 2
    dust = (0.5 + 0.5 * np.cos(phase + np.float32(0.9 * np.sign(world.pitch)))) ** 6
    if world.barred:
        inner = ramp(0.45, 0.3, radius)
        bar = np.exp(-((y / 0.09) ** 2)) * inner * 1.6
        return crest * (1 - inner) + bar, dust * (1 - inner)
    return crest, dust


def paint_galaxy(canvas: Canvas, world: World) -> None:
    """Paints the galaxy's disc, arms, dust lanes and core."""
    patch = canvas.patch(GALAXY)
    disc, core = palettes.GALAXY[world.galaxy]
    x, y = rotate(patch.x, patch.y, world.galaxy_angle)
    tilt = max(world.galaxy_tilt, 0.7) if world.galaxy_kind == "elliptical" else world.galaxy_tilt
    x, y = x / np.float32(world.galaxy_radius), y / np.float32(world.galaxy_radius * tilt)
    radius = np.sqrt(x * x + y * y)
    (ox, oy), (px, py) = world.offsets[:2]
    clumps = noise.fractal(x * 2.5 + ox, y * 2.5 + oy, patch.spacing * 3)
    fine = noise.fractal(x * 9 + px, y * 9 + py, patch.spacing * 11)
    crest, dust = _arms(world, x, y, radius, clumps)
    fall = np.exp(-2.1 * radius * radius) * ramp(1.15, 0.75, radius)
    light = fall * (0.14 + 1.25 * crest * (0.75 + 0.22 * clumps + 0.28 * fine))
    light *= 1 - 0.75 * dust * ramp(0.05, 0.25, radius)
    # Inside the core single stars and the nebula stand for the glow.
    light *= 0.35 + 0.65 * ramp(0.03, 0.36, radius)
    if world.galaxy_kind == "elliptical":
        bulge = 0.75 * np.exp(-radius / np.float32(0.30)) * (0.35 + 0.65 * ramp(0, 0.3, radius))
    else:
        bulge = 0.34 * np.exp(-radius / np.float32(0.15))
    light = np.maximum(light, 0)
    birth = np.maximum(clumps * 0.6 + fine * 0.8 - 0.9, 0) * crest * fall * ramp(0.15, 0.4, radius)
    glow = tint(disc) * (light * 1.9) + tint(core) * (bulge * 1.3)
    glow += tint((1.0, 0.35, 0.5)) * birth
    # Film-like shoulder: bright parts keep their colour instead of clipping.
    over(patch.rgb, 1, 1 - np.exp(-glow * 1.9))


def _clouds(world: World, patch: Patch):
    """Density 0..1 and edge light of the nebula, with finer wisps where the view resolves them."""
    (ox, oy), (px, py) = world.offsets[2:4]
    warp = noise.fractal(patch.x * 0.9 + px, patch.y * 0.9 + py, patch.spacing * 0.9)
    x = patch.x * 0.85 + 0.16 * warp + ox
    y = patch.y * 0.85 - 0.16 * warp + oy
    density = noise.fractal(x, y, patch.spacing * 0.85)
    if patch.spacing < 1 / 60:
        density += 0.16 * noise.fractal(x * 9, y * 9, patch.spacing * 8)
    other = noise.fractal(x * 0.7 + 5, y * 0.7 + 9, patch.spacing * 0.6)
    near = np.exp((patch.x**2 + patch.y**2) * np.float32(-1 / 0.8**2))
    density += np.float32(0.2 * world.nebula_density)
    if world.cloudy:  # all around the middle, so that the star and its planets hang in its colour
        density = np.maximum(density + 0.2 + 0.6 * near, 0.9 * near)
    else:  # a star field: few clouds, and those far from the middle
        density -= 1.7 + 1.5 * near
    return density, other, warp


def paint_nebula(canvas: Canvas, world: World) -> None:
    """Paints clouds in two colours, bright where they thicken, around a hollow in the middle."""
    patch = canvas.patch(NEBULA, 2.6)
    density, other, warp = _clouds(world, patch)
    square = patch.x**2 + patch.y**2
    hollow = 1 - 0.65 * np.exp(-square * (1 + 0.5 * np.clip(warp, -1, 2)) / 0.24**2)
    bright = ramp(-0.6, 1.9, density) * hollow
    first, first_edge = palettes.NEBULA[world.nebula]
    second, second_edge = palettes.NEBULA[world.nebula_second]
    # The colour that the nebula is named by is that of its middle, where the star hangs.
    blend = ramp(0.1, 1.5, other) * ramp(0.25, 0.8, np.sqrt(square))
    body = mix(first, second, blend)
    edge = mix(first_edge, second_edge, blend)
    light = mix(body * 1.2, edge, 0.8 * ramp(0.5, 1.1, bright)) * bright
    filament = np.exp(-(((density - 0.35) / 0.16) ** 2)) * hollow * ramp(-0.4, 0.8, warp)
    light += edge * (0.30 * filament)
    core = palettes.GALAXY[world.galaxy][1]
    light += tint(core) * (0.05 * np.exp(-square / 0.8**2))  # haze
    field = ramp(1.75, 0.6, np.sqrt(square) + 0.22 * warp)
    # From afar the core's countless stars shine between the clouds; inside, they are single stars.
    between = 0.5 + 0.5 * float(ramp(0.0, 4.2, canvas.scale))
    # And it stays in the background of the galaxy, whose colour is its disc's.
    shown = 0.45 + 0.55 * float(ramp(-0.5, 3.0, canvas.scale))
    over(patch.rgb, np.minimum(light, 1), shown * field * (between + (1 - between) * 0.55 * bright))


def paint_sun(canvas: Canvas, world: World) -> None:
    """Paints the star that lights the planet in the middle, and the orbits around it."""
    middle = (SUN_DISTANCE * np.cos(world.light), SUN_DISTANCE * np.sin(world.light))
    patch = canvas.patch(STAR, 1.6, middle)
    radius = np.sqrt(patch.x**2 + patch.y**2)
    colour = palettes.SUN[world.sun]
    _orbits(canvas, world, patch, radius)
    ox, oy = world.offsets[15]
    reach = radius / np.float32(SUN_RADIUS)
    # Flames: the glow reaches out unevenly around the disc.
    around = 1 / np.maximum(reach, 0.3)
    flames = noise.fractal(
        patch.x / SUN_RADIUS * around * 1.5 + ox, patch.y / SUN_RADIUS * around * 1.5 + oy, 0.05
    )
    outside = np.maximum(reach - 1, 0)
    glow = 0.95 * np.exp(-outside / (0.30 + 0.07 * flames)) + 0.34 * np.exp(-outside / 0.8)
    patch.rgb[:] += tint(colour) * (glow * (1 - patch.rgb))
    grains = noise.fractal(patch.x * 14 + ox, patch.y * 14 + oy, patch.spacing * 14)
    hot = np.clip(0.80 - 0.75 * reach**3 + 0.10 * grains, 0, 1)
    soft = max(0.08, patch.spacing / SUN_RADIUS)
    face = mix(colour, (1, 1, 1), hot) * (1 + 0.05 * grains)
    over(patch.rgb, np.minimum(face, 1), ramp(1 + soft, 1 - soft, reach))


def _orbits(canvas: Canvas, world: World, patch: Patch, radius) -> None:
    """Faint circles about the star, one through the middle, and two sister planets on others."""
    seen = float(ramp(STAR - 1.2, STAR, canvas.scale) * ramp(STAR + 2.4, STAR + 1.2, canvas.scale))
    if seen <= 0:
        return
    width = max(0.004, 0.45 * patch.spacing)
    line = 0
    for orbit in (1.0, 1.65, 2.35):
        line = line + np.exp(-(((radius - orbit * np.float32(SUN_DISTANCE)) / width) ** 2))
    faint = 0.30 * seen * min(1.0, 0.012 / width)
    patch.rgb[:] += tint(mix(palettes.SUN[world.sun], (1, 1, 1), 0.4)[:, 0, 0]) * (line * faint)
    for orbit, size, (turn, shade) in zip((1.65, 2.35), (0.05, 0.07), world.offsets[13:15]):
        angle = world.light + np.pi + 0.9 * np.cos(turn) + (0.9 if orbit < 2 else -0.9)
        far = orbit * SUN_DISTANCE
        x, y = patch.x - np.float32(far * np.cos(angle)), patch.y - np.float32(far * np.sin(angle))
        reach = np.sqrt(x * x + y * y) / np.float32(size)
        sunlit = 0.55 - 0.5 * (x * np.cos(angle) + y * np.sin(angle)) / np.float32(size)
        colours = ((0.75, 0.55, 0.38), (0.55, 0.62, 0.70), (0.80, 0.72, 0.50), (0.62, 0.42, 0.36))
        soft = patch.spacing / size
        disc = ramp(1 + soft, max(1 - soft, 0), reach) * seen
        over(patch.rgb, tint(colours[int(shade) % 4]) * np.clip(sunlit, 0.06, 1), disc)


def paint_core(canvas: Canvas, world: World) -> None:
    """Paints the glare of the galaxy's core, which hides its inside from afar."""
    patch = canvas.patch(canvas.scale)
    x, y = rotate(patch.x, patch.y, world.galaxy_angle)
    radius = np.sqrt(x**2 + (y / np.float32(0.5 + 0.5 * world.galaxy_tilt)) ** 2)
    # It keeps its size in the view, roughly, and fades: the least that changes from scale to scale.
    width = 0.11 + 0.03 * canvas.scale
    fade = float(ramp(3.0, -0.8, canvas.scale))
    glare = (0.85 * np.exp(-((radius / width) ** 2)) + 0.4 * np.exp(-radius / (1.6 * width))) * fade
    over(patch.rgb, palettes.GALAXY[world.galaxy][1], np.minimum(glare, 0.97))
