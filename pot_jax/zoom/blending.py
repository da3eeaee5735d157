"""From N pictures that disagree to a zoom stack, which `render` makes into N pictures that agree.

Symbols: x_i the picture of level i, [N, H, W, C] for all; D, up, R the operators of `operators`;
O_k the observation k levels wider: level i as seen in level i-k, H/p^k x W/p^k; w, 0 to 1, the
weight of wider observations, w^k for O_k; K the depth of the geometry. All blends have one
signature, return [N, H, W, C] and are linear in x; `agreement.BLENDS` is the table of them. In a
loop every level has N-1 wider ones: level 0 takes from level N-1 what any child takes.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pot_jax.zoom.geometry import Geometry, require_levels, require_open
from pot_jax.zoom.operators import crop, downsample, observe, upsample


def laplacian(
    images: jax.Array,
    geometry: Geometry,
    *,
    weight: jax.Array | float = 1.0,
    kernel: str = "mean",
    strip: jax.Array | float = 0.0,
    own_colour: jax.Array | float = 0.0,
) -> jax.Array:
    """Blends at multiple resolutions: averages every Laplacian band over the levels that have it.

    Level i is observed by itself and by every level k levels wider, which resolves it at 1/p^k and
    has only the bands b >= k. Weight 1 is the plain average of the paper (section 4.2); at weight 0
    and without a strip the pictures are returned unchanged.

    Near a window's border the parent prevails: over a strip of `strip`, 0 to 0.5 of the window's
    smaller side, its share of the child's low band rises from what the weight gives to 1 at the
    border. So a child's edge matches its surroundings; inside, weight 0 keeps detail and colours.

    Either way a parent pulls the mean colour of its child. `own_colour`, 0 to 1, is how much of
    that pull is taken back, away from the border: at 1 the child's mean is its own. Neither is from
    the paper. As shipped, with the other techniques of docs/study, they bring seam excess from 0.81
    to 0.05 with cosmos64 and from 1.07 to -0.06 with cosmos128; true zooms have -0.12.
    """
    # Band b of observation k is D^(b-k) O_k - up(D^(b-k+1) O_k); the last, K, is D^(K-k) O_k alone.
    # All this is linear, so averaging bands is averaging prefixes. With w_k = w^k where O_k exists,
    # else 0, and W_b = w_0 + ... + w_b, let
    #     P_b = sum_{k<=b} w_k D^(b-k) O_k / W_b.
    # The averaged band b is P_b - up(D P_b), and since D^(b-k) = D D^(b-1-k),
    #     P_b = (W_{b-1} D P_{b-1} + w_b O_b) / W_b = D P_{b-1} + (w_b / W_b) (O_b - D P_{b-1}).
    # Collapsing from the deepest band: out_K = P_K, out_b = P_b - up(D P_b) + up(out_{b+1}).
    # Bands that no wider level observes are returned unchanged: the pyramid ends at the last one
    # observed. Where levels agree, O_b = D P_{b-1}: pictures that agree are returned unchanged. The
    # strip keeps all this: W_1's share of O_1, w / (1 + w) = f, becomes f + (1 - f) s. So does
    # taking back the fraction m of the mean of d = P_1 - D P_0: d - m (1-s) mean(d)/mean(1-s).
    require_levels(images, geometry)
    p, prefix, total, bands = geometry.zoom_factor, images, 1.0, []
    for k in range(1, min(geometry.depth, geometry.levels - 1) + 1):
        low = downsample(prefix, p, kernel)
        bands.append((prefix, low))
        share = _share(images, geometry, weight, k)
        total = total + share
        share = share / total
        if k == 1:
            near = border_strip(geometry, strip)[None].astype(images.dtype)
            share = share + (1 - share) * near * _share(images, geometry, 1, 1)
        pull = share * (observe(images, geometry, k) - low)
        if k == 1:
            far = (1 - near) / jnp.maximum(jnp.mean(1 - near), 1e-6)
            pull = pull - own_colour * far * jnp.mean(pull, axis=(1, 2), keepdims=True)
        prefix = low + pull
    out = prefix
    for prefix, low in reversed(bands):
        out = prefix + upsample(out - low, p)
    return out


def border_strip(geometry: Geometry, width: jax.Array | float) -> jax.Array:
    """Returns each pixel's nearness to its window's border, 1 to 0: [H/p, W/p, 1], float32.

    A raised cosine; 0 beyond a distance of `width` times the window's smaller side.
    """
    sides = geometry.window_shape
    y, x = (np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5 for n in sides)
    distance = np.minimum(y[:, None], x)[..., None].astype(np.float32)
    reach = jnp.maximum(jnp.float32(width) * min(sides), 1e-6)  # of width 0, less than any distance
    return 0.5 + 0.5 * jnp.cos(np.float32(np.pi) * jnp.minimum(distance / reach, 1))


def average(
    images: jax.Array, geometry: Geometry, *, weight: jax.Array | float = 1.0, kernel: str = "mean"
) -> jax.Array:
    """Upsamples every observation of a level to full size, and averages: a blur, with no kernel."""
    require_levels(images, geometry)
    out, total = images, 1.0
    for k in range(1, min(geometry.depth, geometry.levels - 1) + 1):
        share = _share(images, geometry, weight, k)
        total = total + share
        seen = upsample(observe(images, geometry, k), geometry.zoom_factor**k)
        out = out + share / total * (seen - out)
    return out


def iterative(
    images: jax.Array, geometry: Geometry, *, weight: jax.Array | float = 1.0, kernel: str = "mean"
) -> jax.Array:
    """Updates the levels in turn, wide to deep: each takes its low band from its parent's window.

    L_0 = x_0, L_{i+1} = x_{i+1} + w up(window(L_i) - D(x_{i+1})): w, 0 to 1, is the share of the
    parent's low band. Nothing flows back; a loop, too, begins with level 0, which takes nothing.
    """
    require_levels(images, geometry)

    def follow(seen, level):
        own, child_corner = level
        low = downsample(own, geometry.zoom_factor, kernel)
        out = own + weight * upsample(seen - low, geometry.zoom_factor)
        return crop(out, child_corner, geometry.window_shape), out

    # The widest level follows itself; the corner of the deepest, which has no child, has no effect.
    itself = downsample(images[0], geometry.zoom_factor, kernel)
    return lax.scan(follow, itself, (images, geometry.child_corners))[1]


def enlarged(
    images: jax.Array, geometry: Geometry, *, weight: jax.Array | float = 1.0, kernel: str = "mean"
) -> jax.Array:
    """Returns the widest picture's windows, enlarged bilinearly: only level 0 is a true sample.

    Every level is one enlargement of level 0, by p^i, half-pixel centres, edges held, wherever its
    window lies there; by no weight and no kernel. Raises UserError for a loop.
    """
    require_levels(images, geometry)
    require_open(geometry, "blend enlarged")
    # Limited to what float32 tells apart: a deeper level is a constant anyway.
    shrink = np.maximum(float(geometry.zoom_factor) ** -np.arange(geometry.levels), 2.0**-24)
    # The corner of each level in level 0's pixels, sum_{j<i} corner_j / p^j, 0 for level 0.
    corners = np.pad(np.cumsum(geometry.corners * shrink[:-1, None], axis=0), ((1, 0), (0, 0)))
    scales = (np.ones((1, 2)) / shrink[:, None]).astype(images.dtype)
    shifts = (-corners / shrink[:, None]).astype(images.dtype)

    def enlarge(scale, shift):
        how = (0, 1), scale, shift, "linear"
        return jax.image.scale_and_translate(images[0], images.shape[1:], *how, antialias=False)

    return jax.vmap(enlarge)(scales, shifts)


def none(
    images: jax.Array, geometry: Geometry, *, weight: jax.Array | float = 1.0, kernel: str = "mean"
) -> jax.Array:
    """Returns the pictures unchanged: levels are sampled independently."""
    require_levels(images, geometry)
    return images


def _share(images, geometry, weight, k):
    # w^k where level i-k observes level i, else 0: [N, 1, 1, 1]. k is a Python integer, so that
    # 0^0 = 1 and the gradient with respect to the weight is finite at 0.
    _, exists = geometry.observation(k)
    return weight**k * jnp.asarray(exists[:, None, None, None], images.dtype)
