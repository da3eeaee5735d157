"""Builds the sampler's callables for a latent diffusion model; compiles them once per recipe.

Symbols: B samples, N levels; h w the latent grid, H = f h, W = f w the pictures' (f the
autoencoder's downsampling). `weights` is the dict of every array the program takes: `unet` and
`autoencoder` parameters, `conditions` (conditions.py), the numeric settings `guidance` and
`agreement`, `tiny_vae` if levels agree through it, for M photographs `photograph` [M, H, W, 3] and
`photograph_latents` [M, h, w, c], NaN where they are not known, and for held levels `held` [N],
`held_pictures` [N, H, W, 3] and `held_latents` [N, h, w, c].
"""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from pot_jax.diffusion import sampler
from pot_jax.diffusion.guidance import CLASSIFIER_FREE, Guidance
from pot_jax.diffusion.schedule import ScheduleConfig
from pot_jax.diffusion.solvers import SOLVERS, Solver
from pot_jax.models.vae import decode_latents, encode_latents
from pot_jax.parallel import devices, memory
from pot_jax.parallel import mesh as meshes
from pot_jax.pipelines.conditions import denoiser, with_text_keys
from pot_jax.pipelines.sequential import METHODS, sampled_in_turns
from pot_jax.pipelines.traces import lowered
from pot_jax.weights.keys import abstract_params
from pot_jax.zoom import agreement, holding
from pot_jax.zoom.agreement import BLENDS, SPACES, Blend, View
from pot_jax.zoom.geometry import Geometry
from pot_jax.zoom.operators import NOISES, shared_noise
from pot_jax.zoom.photograph import PHOTOGRAPH_METHODS

_WHOLE, _EACH = PartitionSpec(), PartitionSpec(meshes.SAMPLES)
STATES = sampler.SamplerState(_WHOLE, *[_EACH] * 4)  # how those of B samples lie on a mesh


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What determines the compiled program, without numeric settings; equal ones compile once."""

    unet: nn.Module
    autoencoder: nn.Module
    schedule: ScheduleConfig
    geometry: Geometry  # of the latents
    mesh: Mesh
    guided: bool  # whether the network's batch has an unconditional half
    solver: Solver = SOLVERS["ddim"]
    blend: Blend = BLENDS["laplacian"]
    agreement: Callable = SPACES["pixel"]  # (blend, latent view, pixel view) -> Agree
    guidance: Guidance = CLASSIFIER_FREE
    scheduled: bool = False  # whether steps differ in how levels agree, as the numbers say
    kernel: str = "mean"
    method: str = "joint"  # a key of METHODS
    noise: str = "shared"  # a key of NOISES; only a blend that shares noise follows it
    initial_noise: str = "shared"  # "per_level", or as the steps' noise
    photograph: tuple[tuple[int, ...], str] | None = None  # M levels, method
    holds: bool = False  # whether levels are held; which ones is a number
    agreement_vae: nn.Module | None = None  # for pixels inside steps; None: the autoencoder
    decode_rows: int | None = None  # pictures decoded at a time on each device; None: all
    network_rows: int | None = None  # batch rows of the UNet at a time on each device; None: all

    @property
    def pixel_geometry(self) -> Geometry:
        """The placement on the pictures' grid."""
        return self.geometry.scaled(self.autoencoder.config.downsample_factor)

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """[N, h, w, c] of a sample."""
        g = self.geometry
        return g.levels, g.height, g.width, self.unet.config.out_channels


def rows_that_fit(
    unet: nn.Module, autoencoder: nn.Module, latents: Geometry, device: jax.Device, samples: int = 1
) -> dict[str, int | None]:
    """Returns a recipe's `decode_rows` and `network_rows` whose activations take half the memory.

    A device computes as many rows of each of its `samples` at once. By estimates, 0 to 30 % above
    what XLA needs for Stable Diffusion's networks in float32: of a decoded picture, 8 arrays of the
    first width at full size; of a batch row of the UNet, 40, and the largest self-attention's
    scores twice. At most 8 pictures, as more are no faster.
    """
    area, room = latents.height * latents.width, memory.free_and_total(device)[1] / 2 / samples
    width, vae = unet.config.block_out_channels[0], autoencoder.config
    heads = zip(unet.config.down_block_types, unet.config.per_block("attention_head_dim"))
    pairs = [n * (area / 4**i) ** 2 for i, (kind, n) in enumerate(heads) if kind != "DownBlock2D"]
    row = 4 * (40 * width * area + 2 * max(pairs, default=0))
    picture = 4 * 8 * vae.block_out_channels[0] * area * vae.downsample_factor**2
    rows = max(1, int(room / row))
    everything = 2 * latents.levels  # with guidance's halves
    return {
        "decode_rows": max(1, min(8 // samples, int(room / picture))),
        "network_rows": None if rows >= everything else rows,
    }


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """The compiled functions of one recipe, for any number of samples."""

    begin: Callable  # (init_scale, keys [B], latents [B, N, h, w, c] or None) -> SamplerState
    encode: Callable  # (weights, images [M, H, W, 3]) -> latents [M, h, w, c]
    deliver: Callable  # (weights, latents [N, h, w, c]) -> (images, images before the last render)
    chunk: Callable  # (weights, states, rows, active) -> (states, None): some steps
    watched_chunk: Callable  # the same -> (states, Seen)
    key: str = ""  # tells the recipe from others in every process; "" where that is not known
    _executables: dict = dataclasses.field(default_factory=dict)

    def compiled(self, **calls: tuple) -> list[jax.stages.Compiled]:
        """Returns the executables of functions, by name, for arguments, or shapes, like these.

        What is missing is compiled while the next is traced.
        """
        keys = {name: (name, str(jax.tree.map(jax.typeof, calls[name]))) for name in calls}
        options = devices.COMPILING.get(jax.default_backend())
        with concurrent.futures.ThreadPoolExecutor() as threads:
            for name, key in keys.items():
                if key not in self._executables:
                    kept = f"{self.key} {name}" if self.key and name != "begin" else ""
                    traced = lowered(getattr(self, name), kept, calls[name])
                    self._executables[key] = threads.submit(traced.compile, options)
        return [self._executables[key].result() for key in keys.values()]


def noises(method: str, blend: Blend, noise: str, initial_noise: str) -> tuple[Callable, Callable]:
    """Returns what draws a run's first noise, and its steps': (key, geometry, channels, *, kernel).

    The arguments are those fields of its recipe.
    """
    turns = METHODS[method]
    own = turns.delivery.noise if turns else blend.noise
    steps = NOISES[noise] if own is shared_noise else own
    return NOISES["per_level"] if initial_noise == "per_level" else steps, steps


@functools.lru_cache(maxsize=16)
def assemble(recipe: Recipe) -> Program:
    """Returns the program of `recipe`; the same object for an equal recipe."""
    r, turns = recipe, METHODS[recipe.method]
    blend = turns.delivery if turns else r.blend
    decode, encode = autoencoder(r.autoencoder, r.mesh, r.decode_rows)
    drawn = {"geometry": r.geometry, "channels": r.unet.config.out_channels, "kernel": r.kernel}
    latents, pixels = views(r, decode, encode)
    space = partial(turns.space, r.agreement) if turns else r.agreement
    agree = space(blend, latents, pixels)
    if r.agreement_vae is not None:
        _, rough = views(r, *autoencoder(r.agreement_vae, r.mesh, r.decode_rows, "tiny_vae"))
        agree = agreement.through_two(agree, space(blend, latents, rough))
    if r.scheduled and not turns and r.agreement is not SPACES["delivery"]:
        known = r.photograph is not None or r.holds  # met at every step
        alone = None if known else SPACES["delivery"](blend, latents, pixels)
        agree = agreement.when_due(agree, alone)
    first, noise = noises(r.method, r.blend, r.noise, r.initial_noise)
    parts = sampler.Parts(
        denoise=denoiser(r.unet, r.schedule, r.guidance, r.guided, r.mesh, r.network_rows),
        agree=agree,
        first_noise=partial(first, **drawn),
        step_noise=partial(noise, **drawn),
        solver=r.solver,
        memory=r.guidance.start,
    )
    step = sampler.make_step(parts)
    if turns:
        parts, step = sampled_in_turns(turns, parts, latents, pixels, encode)
    # Outside steps, all devices share the rows of one sample.
    decode, encode = autoencoder(r.autoencoder, r.mesh, r.decode_rows, axes=meshes.MESH_AXES)
    deliver = agreement.delivery(blend, views(r, decode, encode)[1])
    steps = (sampler.make_chunk(step, watch=watch) for watch in (False, True))
    chunks = [sampler.over_samples(chunk) for chunk in steps]
    # Else each device would compute all rows', or memory is short, and they may be gigabytes.
    if meshes.sharing(r.mesh) == 1 and r.network_rows is None:
        chunks = [with_text_keys(r.unet, chunk) for chunk in chunks]
    given, seen = (meshes.weight_specs, _WHOLE), PartitionSpec(None, *_EACH)
    stepping = (meshes.weight_specs, STATES, _WHOLE, _WHOLE), (STATES, seen)
    jit = partial(meshes.on_devices, r.mesh)
    return Program(
        begin=jit(partial(sampler.start_samples, parts), (_WHOLE, _EACH, _EACH), STATES),
        encode=jit(encode, given, _WHOLE),
        deliver=jit(deliver, given, _WHOLE),
        chunk=jit(chunks[0], *stepping, donate_argnums=1),
        watched_chunk=jit(chunks[1], *stepping, donate_argnums=1),
        key=_key(r),
    )


def _key(recipe: Recipe) -> str:
    """Returns a recipe's name in every process; "" where it has parts of a user's, or devices."""
    known = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    guidances = {"classifier_free": CLASSIFIER_FREE}
    tables = {"solver": SOLVERS, "blend": BLENDS, "agreement": SPACES, "guidance": guidances}
    for part, table in tables.items():
        known[part] = [name for name, ours in table.items() if ours is known[part]]
    return repr(known) if recipe.mesh.size == 1 and all(known[part] for part in tables) else ""


def autoencoder(
    module: nn.Module, mesh: Mesh, rows_at_once: int | None, name="autoencoder", axes=meshes.ROWS
) -> tuple[Callable, Callable]:
    """Returns decode(weights, latents) -> images and its inverse, `rows_at_once` on each device.

    `weights` holds `name`; latents [M, h, w, c] and images [M, H, W, 3] are float32. Both are
    called as `parallel.mesh.split_rows` says.
    """

    def applied(function, weights, x):
        with meshes.gathering(weights[name], partial(abstract_params, module), mesh):
            return function(module, weights[name], x).astype(jnp.float32)

    each = (partial(applied, function) for function in (decode_latents, encode_latents))
    return tuple(meshes.split_rows(function, mesh, rows_at_once, axes) for function in each)


def views(recipe: Recipe, decode: Callable, encode: Callable) -> tuple[View, View]:
    """Returns the views that levels can be compared in: latents, and decoded pictures."""
    small, large, kernel = recipe.geometry, recipe.pixel_geometry, recipe.kernel
    on_latents = _grounding(recipe, small, "photograph_latents")
    on_pixels = _grounding(recipe, large, "photograph")
    pixels = agreement.pixel_view(large, decode, encode, on_pixels, on_latents, kernel)
    latents = agreement.latent_view(small, on_latents, kernel)
    if recipe.holds:
        return _holding(latents, "held_latents"), _holding(pixels, "held_pictures")
    return latents, pixels


def _grounding(recipe: Recipe, geometry: Geometry, photograph: str) -> Callable:
    """Returns ground(weights, images) on `geometry`'s grid; `photograph` names its array."""
    if recipe.photograph is None:
        return lambda weights, images: images
    levels, method = recipe.photograph
    ground = partial(PHOTOGRAPH_METHODS[method], geometry=geometry, kernel=recipe.kernel)
    return lambda weights, images: ground(images, dict(zip(levels, weights[photograph])))


def _holding(view: View, known: str) -> View:
    """Returns the view with held levels; `known` names the array of what is known of them."""

    def ground(weights, images, name=known):
        return holding.put(images, weights["held"], weights[name])

    def settle(weights, images, bounded=False):
        where = {"geometry": view.geometry, "kernel": view.kernel, "bounded": bounded}
        return holding.fit(images, weights["held"], weights[known], **where)

    ground_clean = partial(ground, name="held_latents")
    return view._replace(ground=ground, ground_clean=ground_clean, settle=settle)
