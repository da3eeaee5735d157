"""The linear maps of a zoom: downsample, upsample, observe, render; and its noise.

Symbols: N levels (0 the widest), p the zoom factor, D = `downsample`, U = `upsample_nearest`, R =
`render`. Axes: [..., H, W, C] for pictures or latents, [N, H, W, C] for all levels. Results have
their argument's dtype. Everything is linear in its array, differentiable, and fit for jit and vmap.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pot_jax.errors import UserError
from pot_jax.zoom.geometry import Geometry, require_levels, require_open

# zoom factor -> taps along one axis, [p]; the kernel is their outer product, scaled to sum 1.
# `mean` keeps everything exact; `gaussian` is the paper's truncated Gaussian (section 4.1; p x p
# taps, sigma p/2), for ablations. For p = 2 the two are the same filter.
KERNELS = {
    "mean": np.ones,
    "gaussian": lambda p: np.exp(-0.5 * ((np.arange(p) - (p - 1) / 2) / (p / 2)) ** 2),
}


def _taps(zoom_factor: int, kernel: str) -> np.ndarray:
    if kernel not in KERNELS:
        raise UserError(f"unknown kernel {kernel!r}; known: {', '.join(sorted(KERNELS))}")
    return KERNELS[kernel](zoom_factor)


def downsample(images: jax.Array, zoom_factor: int, kernel: str = "mean") -> jax.Array:
    """D: returns the weighted mean of each p x p cell; a sample lies at the centre of its cell.

    [..., H, W, C] -> [..., H/p, W/p, C]. Applied k times, the mean kernel is the mean of p^k x p^k
    cells. Raises UserError if p does not divide H and W, or `KERNELS` has no such kernel.
    """
    *lead, height, width, channels = images.shape
    p = zoom_factor
    if height % p or width % p:
        raise UserError(f"zoom_factor {p} must divide the height {height} and the width {width}")
    taps = _taps(p, kernel)
    # Sums are spelled out, rows before columns, and scaled once at the end: so they add up in one
    # order eager, jitted, in a scan and on every device: render and its checks get equal bits.
    cells = images.reshape(*lead, height // p, p, width // p, p, channels)
    rows = sum(float(tap) * cells[..., i, :, :, :] for i, tap in enumerate(taps))
    total = sum(float(tap) * rows[..., i, :] for i, tap in enumerate(taps))
    return total * float(1 / taps.sum() ** 2)


def noise_gain(zoom_factor: int, kernel: str = "mean") -> float:
    """Returns 1 / ||kernel||_2, which restores downsampled white noise to unit variance.

    It is p for the mean. The paper multiplies by p, which is right for that kernel only.
    """
    taps = _taps(zoom_factor, kernel)
    return float(taps.sum() ** 2 / (taps**2).sum())


def upsample(images: jax.Array, zoom_factor: int) -> jax.Array:
    """Upsamples [..., H, W, C] to [..., pH, pW, C]: bilinear, half-pixel centres, edges held."""
    # Cell i becomes p samples at t = (r + 1/2)/p - 1/2 from its centre, in cells, r = 0..p-1: on
    # the way to the cell before for t < 0, to the cell after for t > 0. Steps towards a neighbour
    # keep a constant exactly constant.
    offsets = [(r + 0.5) / zoom_factor - 0.5 for r in range(zoom_factor)]
    for axis in (-3, -2):
        images = jnp.moveaxis(images, axis, 0)
        before = jnp.concatenate([images[:1], images[:-1]]) - images
        after = jnp.concatenate([images[1:], images[-1:]]) - images
        samples = [images + (-t * before if t < 0 else t * after) for t in offsets]
        samples = jnp.stack(samples, axis=1).reshape(-1, *images.shape[1:])
        images = jnp.moveaxis(samples, 0, axis)
    return images


def upsample_nearest(images: jax.Array, zoom_factor: int) -> jax.Array:
    """U: copies each value of [..., H, W, C] over its p x p cell. D U = 1 for every kernel."""
    return images.repeat(zoom_factor, axis=-3).repeat(zoom_factor, axis=-2)


def crop(image: jax.Array, corner: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Returns the window of [H, W, C] at corner (y, x): [h, w, C] for shape (h, w)."""
    start = (corner[0], corner[1], np.int32(0))
    return lax.dynamic_slice(image, start, (*shape, image.shape[-1]))


def paste(image: jax.Array, window: jax.Array, corner: jax.Array) -> jax.Array:
    """Returns [H, W, C] with the window at corner (y, x) replaced by [h, w, C]."""
    return lax.dynamic_update_slice(image, window, (corner[0], corner[1], np.int32(0)))


def observe(images: jax.Array, geometry: Geometry, k: int) -> jax.Array:
    """Returns the observation O_k of every level: level i as seen in level i-k.

    [N, H, W, C] -> [N, H/p^k, W/p^k, C] for 0 <= k <= min(depth, N-1); zeros for i < k, in a loop
    as seen in level (i-k) mod N; meaningless where `geometry.observation(k)` knows no window.
    """
    require_levels(images, geometry)
    corners, _ = geometry.observation(k)
    shrink = geometry.zoom_factor**k
    shape = (geometry.height // shrink, geometry.width // shrink)
    if geometry.loop:
        return jax.vmap(partial(crop, shape=shape))(jnp.roll(images, k, axis=0), corners)
    windows = jax.vmap(partial(crop, shape=shape))(images[: geometry.levels - k], corners[k:])
    return jnp.pad(windows, ((k, 0), (0, 0), (0, 0), (0, 0)))


def render(
    stack: jax.Array, geometry: Geometry, *, kernel: str = "mean", gain: float = 1.0
) -> jax.Array:
    """R: turns a zoom stack into N pictures that agree wherever they show the same place.

    R_{N-1} = L_{N-1}, and R_i is L_i with gain * D(R_{i+1}) pasted into the window of level i+1.
    With gain 1 this is the paper's Algorithm 1 while every window keeps at least 2 pixels, at O(N)
    instead of O(N^2) and at any depth; noise takes `noise_gain`. L and R are [N, H, W, C]. Raises
    UserError if the stack does not fit the geometry, or the kernel is unknown.

    In a loop, R_{N-1} shows D(R_0) likewise: level 0 gives, and takes from level 1 as usual. R is
    then a fixed point, and the only one: D shrinks what is wrong, whatever N and p. Gain 1 only.
    """
    require_levels(stack, geometry)

    def paste_child(child, level):
        own, corner = level
        picture = paste(own, child, corner)
        return gain * downsample(picture, geometry.zoom_factor, kernel), picture

    # The deepest level, which has no child, is pasted a window of itself: all are treated alike,
    # without copies or work done twice. In a loop that is the first pass: what agrees stays so.
    corners = geometry.child_corners
    child = crop(stack[-1], corners[-1], geometry.window_shape)
    levels = partial(lax.scan, paste_child, xs=(stack, corners), reverse=True)
    if geometry.loop:
        child = lax.fori_loop(1, geometry.passes, lambda _, child: levels(child)[0], child)
    return levels(child)[1]


def independent_noise(
    key: jax.Array, geometry: Geometry, channels: int, *, kernel: str = "mean"
) -> jax.Array:
    """Returns unit normal noise [N, H, W, C] float32, drawn for each level alone: by no kernel.

    Level i draws from `fold_in(key, i)`: a level or device more changes no other. The paper's z_T.
    """

    def draw(level):
        shape = (geometry.height, geometry.width, channels)
        return jax.random.normal(jax.random.fold_in(key, level), shape, jnp.float32)

    return jax.vmap(draw)(jnp.arange(geometry.levels, dtype=jnp.uint32))


def shared_noise(
    key: jax.Array, geometry: Geometry, channels: int, *, kernel: str = "mean"
) -> jax.Array:
    """Returns white unit noise [N, H, W, C] float32 that levels showing the same place share.

    With the mean kernel, a cell mean of p^2 independent unit normals has deviation 1/p; times p it
    is a unit normal again, and independent, as cells do not overlap. Other kernels: `noise_gain`.

    In a loop, a level shows itself, p^-N as wide, and its pixels there would be sums of its others:
    not white. So each level is rendered as the widest of an open chain of all N, and levels share
    all but what the deepest of them has in its window.
    """
    draws = independent_noise(key, geometry, channels)
    gain = noise_gain(geometry.zoom_factor, kernel)
    if not geometry.loop:
        return render(draws, geometry, kernel=kernel, gain=gain)

    def one_deeper(_, noise):
        children = gain * downsample(jnp.roll(noise, -1, axis=0), geometry.zoom_factor, kernel)
        return jax.vmap(paste)(draws, children, geometry.corners)

    return lax.fori_loop(1, geometry.levels, one_deeper, draws)


def blurred_noise(
    key: jax.Array, geometry: Geometry, channels: int, *, kernel: str = "mean"
) -> jax.Array:
    """Returns the noise [N, H, W, C] float32 of the paper's public PyTorch ports, for comparison.

    Level i+k's own draw, blurred by a Gaussian of P = p^k, is sampled at every P-th pixel, times P,
    into its window in level i. That is not white: at p = 2 its variance is 0.50 there, and
    neighbours correlate by 0.21. By no kernel. Raises UserError for a loop. The ports, on GitHub:
    atfortes/generative-powers-of-ten, aryanmikaeili/generative_powers_of_ten.
    """
    require_open(geometry, "blurred noise")
    draws = noise = independent_noise(key, geometry, channels)
    for k in range(1, min(geometry.depth, geometry.levels - 1) + 1):
        factor = geometry.zoom_factor**k
        maps = [_blurred_samples(size, factor) for size in draws.shape[1:3]]
        windows = factor * jnp.einsum("ya,xb,nabc->nyxc", *maps, draws, precision="highest")
        corners, exists = geometry.observation(k)
        pasted = jax.vmap(paste)(noise[:-k], windows[k:], corners[k:])
        noise = noise.at[:-k].set(jnp.where(exists[k:, None, None, None], pasted, noise[:-k]))
    return noise


def _blurred_samples(size: int, factor: int) -> np.ndarray:
    """Returns the matrix [size / P, size] that blurs, edges reflected, and takes each P-th."""
    reach = factor // 2
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (factor / 2)) ** 2)
    padded = np.pad(np.eye(size), ((reach, reach), (0, 0)), mode="reflect")
    rows = [taps @ padded[first : first + len(taps)] for first in range(0, size, factor)]
    return np.asarray(rows / taps.sum(), np.float32)


NOISES = {"shared": shared_noise, "per_level": independent_noise, "blurred": blurred_noise}
