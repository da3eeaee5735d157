"""A job: a program with the arrays it runs on. Sampling, upscaling and inpainting are jobs."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from pot_jax.checks import require
from pot_jax.diffusion.sampler import SamplerState, chunks
from pot_jax.diffusion.solvers import Plan
from pot_jax.errors import UserError, edge
from pot_jax.media.pixels import numbers_in, to_bytes
from pot_jax.parallel import hosts, memory
from pot_jax.parallel import mesh as meshes
from pot_jax.pipelines.program import Program

# Steps in one compiled scan: often enough for a live progress bar, rarely enough that returning to
# Python costs nothing next to the network.
CHUNK = 5

Progress = Callable[[int, int], None]  # (steps done, total steps), first before compilation


class Watched(NamedTuple):
    """What a callback is given after each chunk: k steps, B samples."""

    steps: np.ndarray  # [k], the first is 0
    clean: np.ndarray  # clean estimates before agreement, [k, B, N, h, w, c]
    disagreement: np.ndarray  # `zoom.agreement.Agreed`'s, [k, B]
    seconds: float  # that each of the steps took
    # () -> the last step's estimates, delivered: [B, N, H, W, 3] uint8. It costs a delivery, and of
    # several processes all have to call it.
    pictures: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Job:
    """Everything that a run of the sampler needs."""

    program: Program
    plan: Plan
    weights: dict  # every array that the program takes, on the devices of the mesh
    mesh: jax.sharding.Mesh
    latent_shape: tuple[int, int, int, int]  # [N, h, w, c] of a sample
    profile_dir: str = ""  # for a profile of the steps, without compilation; "": none


def begin(job: Job, keys: jax.Array, latents: np.ndarray | None = None) -> SamplerState:
    """Returns the joined states of B samples before the first step, of typed PRNG keys [B].

    Latents are unit noise [B, N, h, w, c] instead of drawn noise, from `checked_latents`.
    """
    given = meshes.replicate((job.plan.init_scale, keys, latents), job.mesh)
    with edge("computing", job.mesh.local_devices[0]):
        (start,) = job.program.compiled(begin=given)
        return start(*given)


def checked_latents(latents: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Returns given unit noise as float32, [B, N, ...]; UserError if it is not, or not finite."""
    values = numbers_in(latents, "latents", "an array of unit noise").astype(np.float32)
    if values.shape != shape:
        expected, came = (s[1:] if s[:1] == shape[:1] else s for s in (shape, values.shape))
        raise UserError(f"latents: expected unit noise of {expected}, got {came}")
    require(np.isfinite(values).all(), "latents", "finite numbers", "NaN or infinity")
    return values


def run(
    job: Job,
    states: SamplerState,
    *,
    progress: Progress | None = None,
    save: Callable[[SamplerState, int], None] | None = None,
    callback: Callable[[Watched], None] | None = None,
) -> tuple[SamplerState, dict[str, float]]:
    """Runs the rest of the plan from `states`, which are from `begin`, or restored.

    After every chunk, `progress` is called as its type says, `callback` with the chunk's `Watched`,
    and `save`, but not after the last, with (states, steps done). Returns the last states,
    replicated, and {"compile_seconds", "seconds_per_step"}. Raises UserError if the machine has
    less memory than the run needs.
    """
    total, device = len(job.plan.timestep), job.mesh.local_devices[0]
    first = done = int(states.step)
    if progress:
        progress(done, total)
    began, stepping = time.perf_counter(), 0.0
    if first < total:  # else only delivery is left of a resumed run
        with hosts.together():
            advance, _ = compiled = executables(job, states, watch=callback is not None)
            needed = max(memory.needs(program)[1] for program in compiled)
            memory.require_room(needed, device, "the run")
    compile_seconds = time.perf_counter() - began
    profile = jax.profiler.trace(job.profile_dir) if job.profile_dir else contextlib.nullcontext()
    with profile:
        for rows, active, after in chunks(job.plan, CHUNK, first):
            began = time.perf_counter()
            with edge("computing", device):
                states, seen = jax.block_until_ready(advance(job.weights, states, rows, active))
            took = time.perf_counter() - began
            stepping += took
            if callback:
                seen = meshes.replicate(seen, job.mesh)
                clean, disagreement = (np.asarray(values)[: after - done] for values in seen)
                pictures = functools.cache(functools.partial(_previewed, job, clean[-1]))
                each = took / (after - done)
                callback(Watched(np.arange(done, after), clean, disagreement, each, pictures))
            done = after
            if progress:
                progress(done, total)
            if save and done < total:
                save(meshes.replicate(states, job.mesh), done)
    seconds = stepping / max(total - first, 1)
    states = meshes.replicate(states, job.mesh)
    return states, {"compile_seconds": compile_seconds, "seconds_per_step": seconds}


def executables(
    job: Job, states: SamplerState, *, watch: bool = False
) -> list[jax.stages.Compiled]:
    """Returns the executables of a chunk of steps and of delivery, for states or their shapes."""
    rows, active, _ = next(chunks(job.plan, CHUNK))
    sharding = meshes.replicated(job.mesh)
    latents = jax.ShapeDtypeStruct(job.latent_shape, "float32", sharding=sharding)
    name = "watched_chunk" if watch else "chunk"
    calls = {name: (job.weights, states, rows, active), "deliver": (job.weights, latents)}
    return job.program.compiled(**calls)


def deliver(job: Job, latents: jax.Array, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Decodes one sample's latents [N, h, w, c]; returns pictures as rendered and as decoded.

    Raises UserError if they hold NaN or infinity.
    """
    images, before = _delivered(job, latents)
    with hosts.together():
        if not np.isfinite(images).all():
            raise UserError(
                f"the pictures of seed {seed} hold NaN or infinity; try dtype=float32, a smaller"
                " guidance_scale or another solver"
            )
    return images, before


def _delivered(job: Job, latents: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    latents = meshes.replicate(latents, job.mesh)
    (execute,) = job.program.compiled(deliver=(job.weights, latents))
    with edge("computing", job.mesh.local_devices[0]):
        return tuple(np.asarray(x) for x in execute(job.weights, latents))


def _previewed(job: Job, clean: np.ndarray) -> np.ndarray:
    return np.stack([to_bytes(np.nan_to_num(_delivered(job, one)[0])) for one in clean])
