"""What the explorer's page states, again in NumPy: which levels it draws where, and its filter.

Written from the comment in `pot_jax/media/explorer.html`; places are float64 and every level is
sampled densely. Symbols as there: p, z, d, D, e; positions along an axis are pairs (y, x).
"""

import numpy as np

SOFT, WIDER = 0.1, 4
PAGE = np.array([11, 12, 14])  # the colour around the widest level


def drawn(pictures, geometry, view, size):
    """The canvas, [h, w, 3] uint8: pictures [N, H, W, 3] at (depth, (dx, dy)), h x w pixels.

    The depth is that of an open chain, 0 to N-1 and more, or of a loop, where it may be any.
    """
    g, (depth, (dx, dy)) = geometry, view
    p, sides, size = g.zoom_factor, np.array([g.height, g.width]), np.array(size)
    canvas = np.tile(PAGE.astype(float), (*size, 1))
    level = int(np.floor(depth)) if g.loop else min(int(np.floor(depth)), g.levels - 1)
    z, fit = depth - level, (size / sides).min()
    corner = lambda i: g.corners[i % g.levels] / sides  # noqa: E731
    ends = not g.loop and level == g.levels - 1
    focus = np.full(2, 0.5) if ends else corner(level) / (1 - 1 / p)
    middle = focus + (0.5 + np.array([dy, dx]) - focus) * float(p) ** -z
    density = fit * float(p) ** z
    begin = size / 2 - middle * sides * density
    first = level
    while True:
        gaps = np.concatenate([begin, size - begin - sides * density])
        if gaps.max() <= 1e-6 or first == level - WIDER or (not g.loop and first == 0):
            break
        first -= 1
        density *= p
        begin = begin - corner(first) * sides * density
    level, enough = first, min(fit, max(1, fit / p))
    while True:
        presence = 1 + np.log(density / enough) / np.log(p)
        if level > first and presence <= 0:
            break
        opacity = smooth(presence) if level > first else 1.0
        lay(canvas, pictures[level % g.levels], begin, density, opacity, soft=level > first)
        if not g.loop and level == g.levels - 1:
            break
        begin = begin + corner(level) * sides * density
        density /= p
        level += 1
    return canvas.astype(np.uint8)


def lay(canvas, picture, begin, density, opacity, soft):
    """Lays one level over the canvas, which is rounded to bytes."""
    places, edges, inside = [], [], []
    for n, side, start in zip(canvas.shape[:2], picture.shape[:2], begin):
        at = np.arange(n) + 0.5 - start  # from the level's side, in the canvas's pixels
        extent, edge = side * density, np.ones(n)
        for gap, distance in ((start, at), (n - start - extent, extent - at)):
            width = min(SOFT * extent, gap) if soft else 0
            edge *= smooth(distance / max(width, 1e-6))
        places.append(at / density)
        edges.append(edge)
        inside.append((at > 0) & (at < extent))
    rows, columns = (np.flatnonzero(where) for where in inside)
    window = np.ix_(rows, columns)
    colours = sampled(picture, places[0][rows], places[1][columns], density)
    share = (opacity * np.outer(edges[0][rows], edges[1][columns]))[..., None]
    mixed = colours * share + canvas[window] * (1 - share)
    canvas[window] = np.floor(mixed + 0.5)


def sampled(picture, y, x, density):
    """The filter: a level [H, W, 3] at places of its own pixels, [len(y), len(x), 3]."""
    if density >= 1:
        return bilinear(picture, y, x)
    number = int(np.floor(-np.log2(density)))
    between = -np.log2(density) - number
    found = []
    for mip in (number, number + 1):
        small = picture.astype(float)
        for _ in range(mip):  # bytes again and again, as textures are
            h, w = small.shape[0] // 2 * 2, small.shape[1] // 2 * 2
            small = small[:h, :w].reshape(h // 2, 2, w // 2, 2, 3).mean((1, 3))
            small = np.floor(small + 0.5)
        found.append(bilinear(small, y / 2**mip, x / 2**mip))
    return found[0] * (1 - between) + found[1] * between


def bilinear(picture, y, x):
    rows, columns = (_weights(at, side) for at, side in zip((y, x), picture.shape[:2]))
    return np.einsum("ij,kl,jlc->ikc", rows, columns, picture.astype(float), optimize=True)


def _weights(places, side):
    """A matrix [places, side]; what lies beyond the sides is the last pixel's."""
    below = np.floor(places - 0.5)
    matrix, share = np.zeros((len(places), side)), places - 0.5 - below
    for at, weight in ((below, 1 - share), (below + 1, share)):
        at = np.clip(at, 0, side - 1).astype(int)
        np.add.at(matrix, (np.arange(len(places)), at), weight)
    return matrix


def smooth(x):
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)
