"""Planet, its surface with continent and island, and the forest, each in its own frame.

The surface is one height field over the sphere, read at whatever size the view resolves; the island
is its middle, in a gulf of the continent. The forest's crowns cover the island, and one clearing is
left for the tree.
"""

import numpy as np

from pot_jax.world import noise, palettes
from pot_jax.world.attributes import World
from pot_jax.world.canvas import Canvas, Patch, mix, over, ramp, rotate, tint
from pot_jax.world.frames import CONTINENT, FOREST, ISLAND, PLANET, TREE

PLANET_RADIUS = 0.42  # in frame PLANET
CLEARING = 0.62  # in frame TREE
MEAN_SHADE = 0.88  # of the crowns' relief, measured
CROWN = 0.62  # distance between crowns in frame TREE


def surface(world: World, x, y, spacing: float, scale: float):
    """Returns the colour of sea and land [3, h, w] at (x, y) in frame CONTINENT."""
    kind = palettes.PLANETS[world.planet]
    px, py = world.offsets[5]
    lx, ly = world.towards_light
    near = np.float32(2 ** (ISLAND - CONTINENT))  # from here on, places in frame ISLAND
    near_x, near_y, near_spacing = x * near, y * near, spacing * float(near)

    def coasts(x, y, spacing):
        return noise.fractal(x * 2.6 + px, y * 2.6 + py, spacing * 2.6)

    ridges = coasts(x, y, spacing)
    island, radius, coast, bay, detail = _island(world, near_x, near_y, near_spacing)
    continent = _continent(world, x, y, spacing, ridges) + 0.03 * coast
    # The island is surrounded by sea, whatever the planet.
    continent = np.minimum(continent, 0.5 * (radius - 1.3 + 0.28 * bay) + 0.04 * coast)
    height = np.maximum(continent, island) + 0.012 * detail
    slope = coast - coasts(near_x + 0.06 * lx, near_y + 0.06 * ly, near_spacing)
    slope += 0.8 * (ridges - coasts(x + 0.06 * lx, y + 0.06 * ly, spacing))
    slope = np.clip(0.5 * slope, -0.4, 0.4)
    depth = ramp(-0.22, 0.0, height)
    sea = mix(kind.deep, kind.shallow, depth * depth) * (1 + 0.05 * detail)
    # A sample's width of the coast's usual slope: steep on the island, gentle on the continent.
    blur = spacing * (1 + 3 * ramp(1.6, 1.0, radius))
    leafy = ramp(0, 1, (height - 0.035 + 0.4 * blur) / (0.04 + 0.8 * blur))
    canopy = _canopy(palettes.FORESTS[world.forest]) * (1 + 0.06 * coast + 0.06 * detail)
    bare = mix(kind.land, kind.high, ramp(-0.2, 1.3, 0.8 * ridges + 0.4 * coast + 0.4 * detail))
    # Far from the island the land is the planet's own; towards it the forest's colour shows.
    wild = ramp(0.55, 1.3, radius) * 0.85
    ground = mix(canopy, bare, wild) * (1 + 0.55 * slope)
    land = mix(kind.sand, ground, leafy)
    surf = float(ramp(ISLAND - 0.5, ISLAND + 1.0, scale)) * 0.5
    foam = np.exp(-(((height + 0.012) / 0.012) ** 2)) * surf
    blur = np.maximum(0.012, 0.6 * blur)
    shore = ramp(0, 1, 0.5 + 0.5 * height / blur)
    return np.minimum(mix(mix(sea, (1, 1, 1), foam), land, shore), 1)


def _continent(world: World, x, y, spacing: float, ridges):
    """Height of the planet's lands above the sea; one of them half encloses the middle."""
    ox, oy = world.offsets[4]
    kind = palettes.PLANETS[world.planet]
    lands = noise.fractal(x * 0.75 + ox, y * 0.75 + oy, spacing * 0.75)
    height = 0.30 * (lands - np.float32(kind.sea_level)) + 0.07 * ridges
    radius = np.sqrt(x * x + y * y)
    side = (x * np.float32(np.cos(ox)) + y * np.float32(np.sin(ox))) / (radius + 0.05)
    return height + 0.34 * np.exp(-(((radius - 0.7) / 0.4) ** 2)) * (0.6 + side)


def _island(world: World, x, y, spacing: float):
    """Height of the island above the sea at (x, y) in frame ISLAND, and what it is made of."""
    (px, py), (qx, qy) = world.offsets[5:7]
    radius = np.sqrt(x * x + y * y)
    coast = noise.fractal(x * 2.6 + px, y * 2.6 + py, spacing * 2.6)
    bay = noise.fractal(x * 0.9 + py, y * 0.9 + px, spacing * 0.9)
    detail = noise.fractal(x * 11 + qx, y * 11 + qy, spacing * 11)
    height = (1 - radius / np.float32(world.island_size) + 0.14 * bay) * 0.55 + 0.15 * coast
    height += 0.5 * np.exp(-((radius / 0.13) ** 2))  # there is always land in the middle
    return height, radius, coast, bay, detail


def _cloud_cover(world: World, x, y, spacing: float):
    """Coverage 0..1 of clouds, none over the island, and of their shadows; frame CONTINENT."""
    ox, oy = world.offsets[7]
    lx, ly = world.towards_light
    warp = noise.fractal(x * 0.5 + oy, y * 0.5 + ox, spacing)
    clear = np.float32(0.35 * world.clouds - 0.1) - 2.2 * np.exp((x * x + y * y) * -16.0)
    covers = []
    for away in (0.0, 0.05):
        u = x * 0.9 + 0.3 * warp + (ox + away * lx)
        v = y * 1.15 - 0.2 * warp + (oy + away * ly)
        covers.append(ramp(0.35, 1.6, noise.fractal(u, v, spacing) + clear))
    return covers


def _ring(patch: Patch, world: World, front: bool) -> None:
    kind = palettes.PLANETS[world.planet]
    x, y = rotate(patch.x, patch.y, world.light + 1.1)
    y = y / np.float32(0.42)
    radius = np.sqrt(x * x + y * y) / np.float32(PLANET_RADIUS)
    bands = 0.72 + 0.28 * np.cos(radius * 26) * np.cos(radius * 11 + 1)
    soft = 1.5 * patch.spacing / PLANET_RADIUS
    cover = ramp(1.5, 1.55 + soft, radius) * ramp(2.15, 2.1 - soft, radius) * bands * 0.85
    cover *= (y > 0) if front else (y <= 0)
    over(patch.rgb, mix(kind.sand, (1, 1, 1), 0.25), cover)


def _moon(canvas: Canvas, world: World) -> None:
    angle = world.light + 2.0
    patch = canvas.patch(PLANET, 0.1, (0.78 * np.cos(angle), 0.78 * np.sin(angle)))
    x, y = patch.x / np.float32(0.085), patch.y / np.float32(0.085)
    square = x * x + y * y
    lx, ly = world.towards_light
    bulge = np.sqrt(np.maximum(1 - square, 0))
    shade = np.maximum((x * lx + y * ly) * 0.8 + bulge * 0.6, 0.04)
    craters = noise.fractal(x * 1.1, y * 1.1, patch.spacing * 13)
    grey = (0.72 + 0.14 * craters) * shade
    over(patch.rgb, tint((1, 0.98, 0.94)) * grey, ramp(1.0, 0.8, square))


def paint_planet(canvas: Canvas, world: World) -> None:
    """Paints the sphere with its land, sea, clouds, air, and perhaps rings and a moon."""
    kind = palettes.PLANETS[world.planet]
    if world.moon and canvas.scale < PLANET + 1.5:
        _moon(canvas, world)
    ringed = world.ringed and canvas.scale < PLANET + 2.2
    rings = canvas.patch(PLANET, 0.95)
    if ringed:
        _ring(rings, world, front=False)
    patch = canvas.patch(PLANET, PLANET_RADIUS * 1.35)
    if not patch.x.size:
        return
    x, y = patch.x / np.float32(PLANET_RADIUS), patch.y / np.float32(PLANET_RADIUS)
    square = x * x + y * y
    radius = np.sqrt(square)
    height = np.sqrt(np.maximum(1 - square, 0))
    # Azimuthal: true size in the middle, foreshortened towards the limb.
    stretch = np.arcsin(np.minimum(radius, 1)) / np.maximum(radius, 1e-6)
    stretch *= np.float32(4 * PLANET_RADIUS)
    u, v, spacing = x * stretch, y * stretch, 4 * patch.spacing
    colour = surface(world, u, v, spacing, canvas.scale)
    lx, ly = world.towards_light
    cover, shadow = _cloud_cover(world, u, v, spacing)
    colour = mix(colour * (1 - 0.35 * shadow), kind.cloud, 0.94 * cover)
    # Light from the side; 1 in the middle, so that the island is lit alike from near and far.
    sun = (x * lx + y * ly) * np.float32(0.8) + height * np.float32(0.62)
    day = np.clip(sun / 0.62, 0.0, 1.22)
    colour = colour * (0.05 + 0.95 * day)
    rim = (1 - height) ** 3 * ramp(0, 0.5, day)
    colour = mix(colour, kind.air, 0.75 * rim)
    outside = np.maximum(radius - 1, 0)
    halo = np.exp(-outside / 0.06) * (radius >= 0.97) * ramp(-0.6, 0.7, x * lx + y * ly) * 0.75
    patch.rgb[:] += tint(kind.air) * (halo * (1 - patch.rgb))
    over(patch.rgb, np.minimum(colour, 1), ramp(1.0 + patch.spacing, 1.0 - patch.spacing, radius))
    if ringed:
        _ring(rings, world, front=True)


def _canopy(forest: palettes.Forest) -> np.ndarray:
    """The mean colour of the crowns: their tones are uniform in [0, 1]."""
    return mix(mix(forest.dark, forest.light, 0.625), forest.accent, 0.85 * 0.14)


def _crowns(canvas: Canvas, world: World, patch: Patch) -> np.ndarray:
    """Colour of the canopy [3, h, w], in frame TREE."""
    forest = palettes.FORESTS[world.forest]
    ox, oy = world.offsets[8]
    size = np.float32(CROWN)
    x, y = rotate(patch.x / size, patch.y / size, oy)
    lx, ly = rotate(*world.towards_light, oy)
    twigs = twigs_light = 0
    if canvas.scale > FOREST - 0.4:
        # Clumps on the crowns, whose bulges also make the crowns' edges uneven. They are soft: once
        # for every 2 x 2 samples is enough.
        u, v = (0.5 * (z[::2, ::2] + z[1::2, 1::2]) if canvas.fine else z for z in (x, y))
        clumps = noise.domes(u * 4 + oy, v * 4 + ox, salt=int(oy * 40))
        if canvas.fine:
            clumps = noise.Cells(*(part.repeat(2, 0).repeat(2, 1) for part in clumps))
        shown = float(ramp(FOREST - 0.4, FOREST + 1.0, canvas.scale))
        twigs = shown * (clumps.height - np.float32(0.86))
        bright = 0.45 * (clumps.dx * lx + clumps.dy * ly) + 0.30 * (clumps.tone - 0.5)
        twigs_light = np.clip(0.45 * twigs + shown * bright, -0.5, 0.4)
    cells = noise.domes(x + ox, y + oy, 0.62, salt=int(ox * 40))
    facing = cells.dx * lx + cells.dy * ly
    relief = float(ramp(0.42, 0.13, patch.spacing / CROWN))
    hollow = ramp(0.75, 0.15, cells.height + 0.25 * twigs)
    shade = 1 + relief * np.clip(0.70 * facing + 0.30 * (cells.height - 0.7), -0.8, 0.35)
    shade *= 1 - 0.55 * relief * hollow
    shade *= 1 + twigs_light
    crown = mix(forest.dark, forest.light, ramp(0.0, 0.75, cells.tone))
    crown = mix(crown, forest.accent, ramp(0.80, 0.92, cells.tone) * 0.85)
    # Crowns too fine to see are their mean, in colour and (the factor) in light.
    colour = mix(_canopy(forest), crown, np.float32(relief))
    shade *= 1 + (1 / MEAN_SHADE - 1) * relief
    return colour * shade


def paint_forest(canvas: Canvas, world: World) -> None:
    """Paints crowns over the island and the clearing in their middle, in frame TREE."""
    patch = canvas.patch(TREE, 16 * 0.8)  # the island's size
    colour = _crowns(canvas, world, patch)
    px, py = world.offsets[9]
    broad = noise.fractal(patch.x * 0.2 + px, patch.y * 0.2 + py, patch.spacing * 0.2)
    colour *= 1 + 0.12 * np.clip(broad, -2, 2)
    cover = np.float32(ramp(ISLAND - 0.6, ISLAND + 0.6, canvas.scale))
    if canvas.scale < FOREST + 1.0:
        wide = np.float32(2.0 ** (ISLAND - TREE))
        spacing = patch.spacing * float(wide)
        height, *_, detail = _island(world, patch.x * wide, patch.y * wide, spacing)
        cover = cover * ramp(0.045, 0.075, height + 0.012 * detail)  # where its forest stands
    over(patch.rgb, np.minimum(colour, 1), cover)
    patch = canvas.patch(TREE, CLEARING * 1.5)
    ox, oy = world.offsets[10]
    ragged = noise.fractal(patch.x * 1.8 + ox, patch.y * 1.8 + oy, patch.spacing * 1.8)
    radius = np.sqrt(patch.x**2 + patch.y**2) + 0.05 * ragged
    grass = noise.fractal(patch.x * 7 + oy, patch.y * 7 + ox, patch.spacing * 7)
    ground = tint(palettes.FORESTS[world.forest].ground) * (1 + 0.07 * grass + 0.06 * ragged)
    lx, ly = world.towards_light
    # The forest's edge throws its shadow into the clearing on the side of the light.
    side = (patch.x * lx + patch.y * ly) / np.float32(CLEARING)
    ground *= 1 - 0.45 * ramp(0.55, 1.0, side + 0.1 * ragged)
    # The tree's own shadow, away from the light.
    away = np.sqrt((patch.x + 0.15 * lx) ** 2 + (patch.y + 0.15 * ly) ** 2)
    ground *= 1 - 0.5 * ramp(0.50, 0.36, away)
    over(patch.rgb, ground, ramp(CLEARING * 1.06, CLEARING * 0.94, radius))
