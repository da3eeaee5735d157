"""Slow, obvious NumPy versions of the zoom operators, written from the paper and not from our code.

Loops over pixels and levels, float64, nothing is shared with
`pot_jax` but the meaning of the words. Arrays are [N, H, W, C], level 0 the widest.
"""

import numpy as np


def kernel_taps(p, kernel="mean"):
    """[p, p], sum 1: the mean, or the paper's truncated Gaussian with sigma p/2."""
    taps = np.ones((p, p))
    if kernel == "gaussian":
        for i in range(p):
            for j in range(p):
                y, x = i - (p - 1) / 2, j - (p - 1) / 2
                taps[i, j] = np.exp(-(y * y + x * x) / (2 * (p / 2) ** 2))
    return taps / taps.sum()


def downsample(image, p, kernel="mean"):
    """[H, W, C] -> [H/p, W/p, C], cell by cell."""
    taps = kernel_taps(p, kernel)[:, :, None]
    height, width, channels = image.shape
    out = np.zeros((height // p, width // p, channels))
    for y in range(height // p):
        for x in range(width // p):
            cell = image[y * p : (y + 1) * p, x * p : (x + 1) * p]
            out[y, x] = (taps * cell).sum(axis=(0, 1))
    return out


def upsample(image, p):
    """[H, W, C] -> [pH, pW, C]: each fine sample from its four neighbours on the coarse grid."""
    height, width, channels = image.shape
    out = np.zeros((height * p, width * p, channels))
    for i in range(height * p):
        for j in range(width * p):
            y = min(max((i + 0.5) / p - 0.5, 0), height - 1)
            x = min(max((j + 0.5) / p - 0.5, 0), width - 1)
            top, left = int(np.floor(y)), int(np.floor(x))
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            v, u = y - top, x - left
            out[i, j] = (1 - v) * ((1 - u) * image[top, left] + u * image[top, right])
            out[i, j] += v * ((1 - u) * image[bottom, left] + u * image[bottom, right])
    return out


def replicate(image, p):
    """Every value copied over its p x p cell: a Kronecker product with ones."""
    return np.stack([np.kron(image[..., c], np.ones((p, p))) for c in range(image.shape[-1])], -1)


def paper_render(stack, p, gain=1.0):
    """Algorithm 1 of arXiv 2312.02149, centred windows, level by level.

    For level i: start from L_i; for j = i+1 .. N-1 replace the centred window of H / p^(j-i) by
    the p^(j-i) mean of L_j. For noise, D scales by p^(j-i), i.e. gain^(j-i).
    """
    stack = np.asarray(stack, np.float64)
    levels, height, width, _ = stack.shape
    pictures = []
    for i in range(levels):
        picture = stack[i].copy()
        for j in range(i + 1, levels):
            factor = p ** (j - i)
            small = gain ** (j - i) * downsample(stack[j], factor)
            h, w = small.shape[:2]
            top, left = (height - h) // 2, (width - w) // 2
            picture[top : top + h, left : left + w] = small
        pictures.append(picture)
    return np.stack(pictures)


def loop_render(stack, corners, p, kernel="mean"):
    """A loop, unrolled into an open chain of so many levels that the last ones do not matter.

    Corners [N, 2]: the last is of level 0 in level N-1.
    """
    levels, picture, pictures = len(stack), np.asarray(stack[0], np.float64), {}
    for unrolled in reversed(range(60 + levels)):
        level = unrolled % levels
        small, (y, x) = downsample(picture, p, kernel), corners[level]
        pictures[level] = picture = np.array(stack[level], np.float64)
        picture[y : y + small.shape[0], x : x + small.shape[1]] = small
    return np.stack([pictures[level] for level in range(levels)])


def window_in(level, k, corners, p):
    """Top-left of level's window k levels wider, as exact fractions of that level's pixels.

    Corners [N-1, 2] are those of level i+1 in level i. Returns (y, x) floats, or None if k > level.
    """
    if k > level:
        return None
    # In units of the finest pixels, those of `level`: level-s has pixels p^s of them wide.
    y = sum(int(corners[level - s][0]) * p**s for s in range(1, k + 1))
    x = sum(int(corners[level - s][1]) * p**s for s in range(1, k + 1))
    return y / p**k, x / p**k


def observation(images, level, k, corners, p):
    """What level - k shows of level, [H/p^k, W/p^k, C]; None where that is not a whole window."""
    _, height, width, _ = images.shape
    place = window_in(level, k, corners, p)
    if place is None or any(c != int(c) for c in place):
        return None
    y, x = (int(c) for c in place)
    return images[level - k, y : y + height // p**k, x : x + width // p**k]


def pyramid_depth(height, width, p):
    """The largest k with whole windows of at least 2 pixels."""
    k = 0
    while all(n % p ** (k + 1) == 0 and n // p ** (k + 1) >= 2 for n in (height, width)):
        k += 1
    return k


def laplacian_blend(images, corners, p, weight=1.0, kernel="mean", most=np.inf):
    """Multi-resolution blending, band by band, level by level.

    Each observation k has a Laplacian pyramid from its own resolution down: bands k .. K, the last
    what is left. Band b of the result is the weighted mean of all bands b there are. No level is
    observed by one `most` levels wider, or more.
    """
    images = np.asarray(images, np.float64)
    levels, height, width, _ = images.shape
    depth = pyramid_depth(height, width, p)
    blended = []
    for level in range(levels):
        bands = {b: [] for b in range(depth + 1)}  # lists of (weight, band)
        for k in range(depth + 1):
            seen = observation(images, level, k, corners, p)
            if seen is None or k >= most:
                continue
            share = 1.0 if k == 0 else weight**k
            for b in range(k, depth):
                low = downsample(seen, p, kernel)
                bands[b].append((share, seen - upsample(low, p)))
                seen = low
            bands[depth].append((share, seen))
        mean = {
            b: sum(s * band for s, band in found) / sum(s for s, _ in found)
            for b, found in bands.items()
        }
        out = mean[depth]
        for b in reversed(range(depth)):
            out = mean[b] + upsample(out, p)
        blended.append(out)
    return np.stack(blended)


def strip_blend(images, corners, p, weight, strip, own_colour=0.0):
    """`laplacian_blend` by prefixes, the parent's share growing to 1 at its window's border.

    A prefix of bands is the weighted mean of the observations that have them, at its resolution. Of
    what the parent does to the mean of each channel, the share `own_colour` is taken off again, the
    more the further from the border.
    """
    images = np.asarray(images, np.float64)
    levels, height, width, _ = images.shape
    depth = pyramid_depth(height, width, p)
    blended = []
    for level in range(levels):
        prefixes, total = [images[level]], 1.0
        for k in range(1, depth + 1):
            low, seen = downsample(prefixes[-1], p), observation(images, level, k, corners, p)
            if seen is not None:
                total += weight**k
                share = np.full(seen.shape[:2], weight**k / total)
                inside = np.zeros(share.shape)
                if k == 1:
                    rows, columns = share.shape
                    for y, x in np.ndindex(rows, columns):
                        distance = min(y, rows - 1 - y, x, columns - 1 - x) + 0.5
                        near = 0.0
                        if strip:
                            inwards = min(distance / (strip * min(rows, columns)), 1)
                            near = (1 + np.cos(np.pi * inwards)) / 2
                        share[y, x] += (1 - share[y, x]) * near
                        inside[y, x] = 1 - near
                pulled = low + share[..., None] * (seen - low)
                for channel in range(low.shape[-1]):
                    excess = pulled[..., channel].mean() - low[..., channel].mean()
                    if k == 1:
                        pulled[..., channel] -= own_colour * excess * inside / inside.mean()
                low = pulled
            prefixes.append(low)
        out = prefixes[-1]
        for finer in reversed(prefixes[:-1]):
            out = finer + upsample(out - downsample(finer, p), p)
        blended.append(out)
    return np.stack(blended)


def average_blend(images, corners, p, weight=1.0, most=np.inf):
    """Every observation enlarged to full size, and their weighted mean; `most` as above."""
    images = np.asarray(images, np.float64)
    levels, height, width, _ = images.shape
    blended = []
    for level in range(levels):
        found = []
        for k in range(pyramid_depth(height, width, p) + 1):
            seen = observation(images, level, k, corners, p)
            if seen is not None and k < most:
                found.append((1.0 if k == 0 else weight**k, upsample(seen, p**k)))
        blended.append(sum(s * image for s, image in found) / sum(s for s, _ in found))
    return np.stack(blended)


def iterative_blend(images, corners, p, weight=1.0, kernel="mean"):
    """Each level's low band replaced by the window of the level before, wide to deep."""
    out = [np.asarray(images[0], np.float64)]
    for level in range(1, len(images)):
        seen = observation(np.stack([*out, out[-1]]), level, 1, corners, p)
        detail = images[level] - upsample(downsample(images[level], p, kernel), p)
        low = upsample((1 - weight) * downsample(images[level], p, kernel) + weight * seen, p)
        out.append(detail + low)
    return np.stack(out)


def fit(images, held, corners, p, kernel="mean"):
    """Levels fitted to held ones, pixel by pixel, cell by cell; `held` is {level: picture}."""
    x, known = [np.array(image, np.float64) for image in images], []
    levels, height, width, _ = np.shape(images)
    for level in reversed(range(levels)):
        mask = np.zeros((height, width), bool)
        if level in held:
            x[level], mask = np.array(held[level], np.float64), ~mask
        elif level < levels - 1:
            low, (top, left) = downsample(x[level + 1], p, kernel), corners[level]
            for y in range(height // p):
                for z in range(width // p):
                    x[level][top + y, left + z] = low[y, z]
                    cell = known[0][y * p : (y + 1) * p, z * p : (z + 1) * p]
                    mask[top + y, left + z] = cell.all()
        known.insert(0, mask)
    taps = kernel_taps(p, kernel)
    for level in range(1, levels):
        top, left = corners[level - 1]
        for y in range(height // p):
            for z in range(width // p):
                cell = np.s_[y * p : (y + 1) * p, z * p : (z + 1) * p]
                free = taps * ~known[level][cell]
                if free.any():
                    seen = (taps[:, :, None] * x[level][cell]).sum(axis=(0, 1))
                    change = (x[level - 1][top + y, left + z] - seen) / free.sum()
                    x[level][cell] += (free > 0)[:, :, None] * change
    return np.stack(x)
