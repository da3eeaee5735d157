"""What a run will cost, from shapes alone: nothing is sampled, and no weight is read."""

import functools
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pot_jax import spans
from pot_jax.diffusion.sampler import chunks, keys_of
from pot_jax.models.vae import decode_latents, encode_latents
from pot_jax.parallel import memory
from pot_jax.parallel import mesh as meshes
from pot_jax.pipelines.job import CHUNK, executables
from pot_jax.pipelines.program import STATES
from pot_jax.pipelines.zoom import PreparedZoom, sample_seeds
from pot_jax.weights.keys import abstract_params
from pot_jax.weights.model import COMPONENTS, Model

# What a process needs besides arrays: XLA while it compiles, in bytes. Measured with cosmos64 and
# SD 1.5 on a CPU.
_COMPILER = 0.4e9
# Of the pictures on the host: as delivered, as decoded, and two while files are written.
_COPIES = 4


def dry_run(prepared: PreparedZoom, model: Model) -> list[str]:
    """Returns what a run of `model`, whose weights are not read, will need: lines for a reader."""
    job, settings = prepared.job, prepared.settings
    g, seeds, device = prepared.geometry, sample_seeds(settings), job.mesh.local_devices[0]
    given = job.plan.init_scale, keys_of(np.uint32(seeds)), prepared.latents
    states = meshes.place(jax.eval_shape(job.program.begin, *given), job.mesh, STATES)
    chunk, deliver = executables(job, states)
    on_cpu, held = device.platform == "cpu", meshes.weight_specs(model.params, job.mesh)
    held = jax.tree.leaves(meshes.place(model.params, job.mesh, held))
    weights = sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in held)
    pictures = _COPIES * 12 * g.levels * g.height * g.width  # 3 channels of 4 bytes
    (given, stepping), (_, delivering) = memory.needs(chunk), memory.needs(deliver)
    peak = max(max(weights, given) + stepping, weights + delivering + pictures * on_cpu)
    peak += int(_COMPILER) * on_cpu
    free, total = memory.free_and_total(device)
    rows, active, _ = next(chunks(job.plan, CHUNK))
    count = len(job.plan.timestep)
    sampling = count / CHUNK * _flops(job.program.chunk, job.weights, states, rows, active)
    latents = jax.ShapeDtypeStruct(job.latent_shape, jnp.float32)
    sampling += len(seeds) * _flops(job.program.deliver, job.weights, latents)
    seconds = sampling / _rate(device, prepared.settings.dtype)
    sizes = {name: sum(x.size for x in jax.tree.leaves(of)) for name, of in model.params.items()}
    parameters = ", ".join(f"{n} {sizes[n] / 1e6:,.4g} M" for n in COMPONENTS if n in sizes)
    n, h, w, _ = job.latent_shape
    rows_each = len(seeds) * len(job.weights["conditions"]["text_states"])
    rows_each //= n if job.plan.turn else 1
    lines = [
        f"model: {model.name} ({model.pipeline}); parameters: {parameters}; {settings.dtype}",
        f"pictures: {len(seeds)} x {n} levels of {g.height} x {g.width} pixels, {h} x {w} latents",
        f"steps: {count} of {settings.sampler.solver}, {rows_each} batch rows each",
        f"devices: {meshes.described(job.mesh)}",
        f"memory: about {memory.gigabytes(peak)} at the peak, {memory.gigabytes(weights)} of them "
        f"weights; {memory.gigabytes(free)} of {memory.gigabytes(total)} are free",
        f"time: about {_duration(seconds)} of sampling, besides compilation and writing",
    ]
    lines += spans.lines(settings)
    if prepared.upscaler:
        lines.append("the upscaler's own steps and memory are not counted")
    if peak > free:
        lines.append(f"this does not fit: {memory.ADVICE}")
    return lines


def picture_operations(prepared: PreparedZoom) -> dict[str, float]:
    """Returns the floating-point operations of the networks for one picture.

    `unet` is for one batch row; `decode` and `encode`, and `tiny_decode` and `tiny_encode` where
    levels agree through a tiny autoencoder.
    """
    r, (_, *latent) = prepared.recipe, prepared.job.latent_shape
    given = prepared.job.weights["conditions"].items()
    rows = tuple((name, jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)) for name, x in given)
    return _picture_operations(r.unet, r.autoencoder, r.agreement_vae, (1, *latent), rows)


@functools.lru_cache(maxsize=16)  # tracing takes a second, and a sweep asks for every batch
def _picture_operations(unet, vae, tiny_vae, shape, rows) -> dict[str, float]:
    latents = jax.ShapeDtypeStruct(shape, "float32")

    def network(params, z, step, conditions):
        return unet.apply({"params": params}, z, step, **conditions)

    found = {"unet": _flops(network, abstract_params(unet), latents, jnp.zeros(1), dict(rows))}
    for prefix, module in (("", vae), ("tiny_", tiny_vae)):
        if module is not None:
            decode, encode = (
                functools.partial(f, module) for f in (decode_latents, encode_latents)
            )
            params = abstract_params(module)
            images = jax.eval_shape(decode, params, latents)
            found[f"{prefix}decode"] = _flops(decode, params, latents)
            found[f"{prefix}encode"] = _flops(encode, params, images)
    return found


def _duration(seconds: float) -> str:
    units = (("hours", 3600), ("minutes", 60), ("seconds", 1))
    unit, length = next((one for one in units if seconds >= 2 * one[1]), units[-1])
    return f"{seconds / length:.2g} {unit}"


def _flops(function: Any, *arguments: Any) -> float:
    """Returns the floating-point operations of a function's convolutions and products."""
    # XLA's own count takes the body of a loop once, and sees nothing inside cuDNN.
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name, p = equation.primitive.name, equation.params
        if name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            out = p["dimension_numbers"].rhs_spec[0]
            total += 2 * equation.outvars[0].aval.size * math.prod(kernel) / kernel[out]
        elif name == "dot_general":
            ((contracted, _), _), left = p["dimension_numbers"], equation.invars[0].aval.shape
            total += 2 * equation.outvars[0].aval.size * math.prod(left[i] for i in contracted)
        if name == "cond":  # the padding of a chunk passes by; the steps themselves do not
            total += max(map(_count, (branch.jaxpr for branch in p["branches"])))
            continue
        inner = [getattr(value, "jaxpr", value) for value in p.values()]
        inner = [value for value in inner if hasattr(value, "eqns")]
        total += p.get("length", 1) * sum(map(_count, inner))
    return total


def _rate(device: jax.Device, dtype: str) -> float:
    """Returns a device's operations a second in a convolution like the networks' own, measured."""
    with jax.default_device(device):
        image, kernel = jnp.ones((8, 64, 64, 128), dtype), jnp.ones((3, 3, 128, 128), dtype)
        how = {"padding": "SAME", "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
        convolve = jax.jit(lambda x: jax.lax.conv_general_dilated(x, kernel, (1, 1), **how))
        image = convolve(image).block_until_ready()  # compiles
        began, times = time.perf_counter(), 3
        for _ in range(times):
            image = convolve(image)
        image.block_until_ready()
        return times * _flops(convolve, image) / (time.perf_counter() - began)
