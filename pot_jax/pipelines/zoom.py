"""Samples a zoom: prompts and a model in, pictures that agree out, and a folder if wanted.

    prompts -> token ids [N+1, T] -> text states [2N, T, D] -> latents [N, h, w, c]
    -> scan of {UNet on [2N, h, w, c] -> clean estimates -> photograph -> blend -> render -> step}
    -> decode [N, H, W, 3] -> blend + render in pixels (-> upscale, blend + render) -> files

N levels; T tokens; h w the latent grid, H = f h, W = f w the pictures' (f the autoencoder's
downsampling). B samples (seeds) add a leading axis B to the latents.
"""

import contextlib
import dataclasses
import functools
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from pot_jax import spans
from pot_jax.checks import Path, build, checked, require
from pot_jax.config import (
    WITH_BLEND,
    RunSettings,
    SamplerSettings,
    ZoomSettings,
    checked_prompts,
    of_sample,
)
from pot_jax.diffusion import guidance
from pot_jax.diffusion.guidance import Guidance
from pot_jax.diffusion.sampler import keys_of
from pot_jax.diffusion.schedule import ScheduleConfig
from pot_jax.diffusion.solvers import SOLVERS, Solver, in_turns, resampled, resolved_solver
from pot_jax.errors import UserError, shown
from pot_jax.media.captions import unwritable
from pot_jax.media.explorer import check_page
from pot_jax.media.video import check_movie
from pot_jax.parallel import hosts, memory
from pot_jax.parallel import mesh as meshes
from pot_jax.parallel.devices import fixed_settings
from pot_jax.pipelines import grounding, upscale
from pot_jax.pipelines.conditions import text_conditions, with_sizes
from pot_jax.pipelines.continued import read_held
from pot_jax.pipelines.job import Job, Progress, Watched, begin, checked_latents, deliver, run
from pot_jax.pipelines.notices import ineffective, log
from pot_jax.pipelines.program import STATES, Recipe, assemble, rows_that_fit
from pot_jax.pipelines.sequential import METHODS
from pot_jax.pipelines.watching import preview
from pot_jax.runs.folder import PREVIEW, SavedStates, claim_run, complete_run, sample_folders
from pot_jax.runs.interrupts import at_saved_states
from pot_jax.runs.progress import Report, silent
from pot_jax.runs.record import Record, digest, model_identity, own_part, zoom_identity
from pot_jax.runs.zoom import Zoom, read_zoom, write_zoom
from pot_jax.weights.emphasis import plain_prompts
from pot_jax.weights.layouts.component import GIVEN
from pot_jax.weights.model import Model, require_task
from pot_jax.zoom import agreement
from pot_jax.zoom.agreement import SPACES, Blend, find_blend
from pot_jax.zoom.geometry import Geometry, require_open
from pot_jax.zoom.operators import downsample


@dataclasses.dataclass(frozen=True)
class PreparedZoom:
    """Settings and a model, checked and ready to run."""

    settings: RunSettings
    recipe: Recipe
    job: Job
    geometry: Geometry  # of the sampled pictures
    identity: dict[str, str]  # of the sampled zoom
    weights_digest: str
    upscaler: upscale.PreparedUpscaler | None
    latents: np.ndarray | None  # unit noise to start from, [B, N, h, w, c]
    notices: tuple[str, ...] = ()  # what the user should be told before sampling, a line each

    def __str__(self) -> str:
        s, g = self.settings, self.geometry
        more = f" and {s.num_samples - 1} more" if s.num_samples > 1 else ""
        return (
            f"{s.model}; {g.levels} levels of {g.height} x {g.width} pixels; seed {s.seed}{more}; "
            f"{s.sampler.steps} steps of {s.sampler.solver}; "
            f"{meshes.described(self.job.mesh)}"
        )

    @property
    def record(self) -> Record:
        """Returns the run's record; its geometry is that of the delivered pictures."""
        last = self.upscaler or self
        identity = self.identity | (self.upscaler.identity if self.upscaler else {})
        return Record(self.settings, last.geometry, last.weights_digest, identity, self.notices)

    @property
    def facts(self) -> dict[str, Any]:
        """Returns what all processes of the run have in common, as plain data."""
        said = self.record.to_json()
        rows = {"batch_rows": [self.recipe.decode_rows, self.recipe.network_rows]}
        rows["mesh"] = meshes.described(self.recipe.mesh)
        return {name: said[name] for name in said.keys() - {"notices", "code"}} | rows


@fixed_settings()
def sample(
    model: Model,
    prompts: Sequence[str] | Mapping[str, str],
    *,
    zoom_factor: int = 2,
    height: int = 0,
    width: int = 0,
    placement: Sequence[tuple[int, int]] = (),
    loop: bool = False,
    levels: int = 0,
    view_words: Sequence[str] = RunSettings.view_words,
    prefix: str = "",
    suffix: str = "",
    negative_prompt: str | Sequence[str] | Mapping[str, str] = "",
    prompt_weights: bool = False,
    long_prompts: bool = False,
    photograph: Any = None,
    photograph_level: int = 0,
    photograph_method: str = "project",
    photograph_fit: str = "crop",
    held: Mapping[int, Any] | None = None,
    seed: int = 0,
    latents: Any = None,
    solver: str | Solver = "",
    blend: str | Blend | Callable = "",
    agreement: Callable | None = None,
    guidance: Guidance | None = None,
    workdir: str | os.PathLike | None = None,
    metadata: str = "all",
    width_metres: float = 0.0,
    devices: list[jax.Device] | None = None,
    mesh: str = "",
    progress: Progress | None = None,
    callback: Callable[[Watched], None] | None = None,
    **sampler: Any,
) -> Zoom:
    """Samples one zoom.

    Args:
      model: from `pot_jax.load`.
      prompts: N strings, the widest level's first; with one it is plain text-to-image. Or a mapping
        by spans of levels, {"0-3": "a galaxy", "4": "a star", "5-": "a planet"}.
      zoom_factor: p; level i+1 shows a window 1/p as wide as level i.
      height: of every picture, in pixels; 0 is the model's own size.
      width: likewise.
      placement: N-1 pairs (down, right): each level's centre relative to its parent's, in parent
        pixels, multiples of the autoencoder's factor; empty: every level is centred.
      loop: the deepest level's window shows level 0 again, so that the film repeats without end;
        `placement` then has N pairs, the last for level 0 in the deepest level.
      levels: N, for prompts whose last span is open ("5-"); 0: as the prompts say.
      view_words: appended to the prompts of a span of several levels, from its widest to its
        deepest, evenly; [] for none.
      prefix: put before every prompt.
      suffix: put after every prompt.
      negative_prompt: what guidance steers the pictures away from: one text, or one a level, or by
        span; `guidance_scale` likewise.
      prompt_weights: (word:1.2), (word) and [word] weigh words, as in AUTOMATIC1111.
      long_prompts: prompts may be longer than the text encoder; they are read in chunks.
      photograph: what one level has to agree with, in any form that `media.images.read_images`
        takes: a path, a Pillow image or bytes [h, w, 3] are cropped and resized to the level;
        floats [H, W, 3] in [-1, 1] are taken as they are. Or several, {level: photograph}.
      photograph_level: the level that the photograph shows, if there is one.
      photograph_method: "project" (exact) or "adam" (the paper's).
      photograph_fit: "crop" to the largest centred part, or "pad": all of it, and the level is
        free around it.
      held: levels that are known, such as another zoom's, {level: bytes [H, W, 3]}: they are
        delivered as they are, and the others fit them as well as they agree with each other.
      seed: the seed of all noise, 0 to 2^32 - 1.
      latents: the initial noise z_T, unit normal [N, h, w, c], NumPy or JAX, used as it is; by
        default it is drawn, and shared by levels that overlap (`zoom.operators.shared_noise`).
      solver: a name in `SOLVERS`, or a `diffusion.solvers.Solver` of your own; by default the one
        that the model's `sampler.json` or else its scheduler config names.
      blend: a name in `BLENDS`, or your own function (images, geometry, *, weight, kernel) ->
        zoom stack, as in `zoom.blending`; by default the one that the model's `sampler.json`
        names, or else "laplacian".
      agreement: your own function (blend, latent view, pixel view) -> agree, as in
        `zoom.agreement.SPACES`, used in place of the agreement that `space` names.
      guidance: your own `diffusion.guidance.Guidance`.
      workdir: a folder for the run's files; a killed run is resumed there, and a complete one is
        read back.
      width_metres: of level 0's view, for the page's scale bar; 0: not stated.
      metadata: "all": the pictures and the movie carry the run's recipe; "none": nothing.
      devices: those that the work is split over; default all.
      mesh: how, as `config.RunSettings.mesh` says, such as "levels:4,params:2"; by default chosen.
        Parameters that do not fit one device are loaded by `sharding=parallel.mesh.placement(...)`.
      progress: called with (steps done, total steps), first with 0 before compilation.
      callback: called after each chunk of steps with its clean estimates and disagreement
        (`pipelines.job.Watched`).
      **sampler: other fields of `config.SamplerSettings`: steps, guidance_scale,
        guidance_rescale, eta, space ("pixel", "latent" or "delivery"), pixel_every, blend_weight,
        kernel, noise, method, time_travel, ... What is not given is as the model's
        `sampler.json` says.

    Returns:
      A `Zoom`; `zoom.images` is [N, H, W, 3] in [-1, 1].

    Raises:
      UserError: something does not fit; one line says what. It is a `ValueError`.
    """
    checked(progress, Progress | None, "progress")
    checked(callback, Callable | None, "callback")
    workdir = None if workdir is None else checked(workdir, Path, "workdir")
    own = {"solver": solver, "blend": blend, "agreement": agreement, "guidance": guidance}
    own = {part: value for part, value in own.items() if not isinstance(value, str | None) or value}
    named = [part for part in ("solver", "blend") if isinstance(own.get(part), str)]
    sampler |= {part: own.pop(part) for part in named}
    several = isinstance(photograph, Mapping)
    level = checked(photograph_level, int, "photograph.level")
    given = photograph if several else {} if photograph is None else {level: photograph}
    paths = {n: one if isinstance(one, str | os.PathLike) else "" for n, one in given.items()}
    one = {"path": "" if several else paths.get(level, ""), "level": level}
    settings = build(
        RunSettings,
        {
            "prompts": prompts if isinstance(prompts, Mapping) else checked_prompts(prompts),
            "view_words": view_words,
            "prefix": prefix,
            "suffix": suffix,
            "negative_prompt": negative_prompt,
            "prompt_weights": prompt_weights,
            "long_prompts": long_prompts,
            "seed": seed,
            "metadata": metadata,
            "mesh": mesh,
            "width_metres": width_metres,
            "sampler": sampler,
            "zoom": {"zoom_factor": zoom_factor, "height": height, "width": width}
            | {"placement": placement, "loop": loop, "levels": levels},
            "photograph": one | {"method": photograph_method, "fit": photograph_fit},
            "photographs": [{"path": paths[n], "level": n} for n in paths if several],
        },
    )
    prepared = prepare(
        model,
        settings,
        stated={*sampler, *own},
        photographs={level: one for level, one in given.items() if not paths[level]},
        held=held,
        latents=None if latents is None else [latents],
        own=own,
        devices=devices,
    )
    log(prepared.notices)
    zooms = sample_run(prepared, workdir, progress=progress, callback=callback)
    return zooms[0] if zooms is not None else read_zoom(workdir)


@fixed_settings()
def prepare(
    model: Model,
    settings: RunSettings,
    *,
    stated: Collection[str] | None = None,
    upscaler: Model | None = None,
    photographs: Mapping[int, Any] | None = None,
    held: Mapping[int, Any] | None = None,
    latents: np.ndarray | None = None,
    own: Mapping[str, Any] | None = None,
    devices: list[jax.Device] | None = None,
    together: int = 0,
) -> PreparedZoom:
    """Checks everything that can be checked before sampling, and assembles the program.

    Args:
      model: whose networks run. If its weights have not been read (`open_model`), everything is
        checked, and the job's arrays are shapes.
      settings: what to sample; their LoRAs and embeddings are replaced by the ones the model was
        loaded with, including digests.
      stated: the sampler settings that a user gave; the model's own defaults take the place of
        the others. None: all.
      upscaler: the model of `settings.upscaler.path`, if that is set.
      photographs: by level, as for `sample`, those that do not come from the settings' paths.
      held: as for `sample`; settings that name held levels cannot do without.
      latents: unit noise [B, N, h, w, c] to start from.
      own: functions used instead of named parts, by the part's name, as `sample` takes them:
        solver, blend, agreement, guidance.
      devices: default all.
      together: how many samples will be one batch (`sampled`); 0: the settings' own number.

    Raises:
      UserError: something does not fit; one line says what.
    """
    own = own or {}
    _check_own_parts(own)
    require_task(model, "text-to-image", "sampling a zoom")
    if stated is not None and "blend" in own:
        stated = {*stated, *WITH_BLEND}
    settings = dataclasses.replace(
        settings,
        sampler=resolved(settings.sampler, model, stated),
        model=model.source,
        dtype=str(np.dtype(model.unet.dtype)),
        **{name: model.given.get(name, "") for name in GIVEN},
        loras=tuple(model.loras),
        embeddings=tuple(model.embeddings),
        own_parts=tuple(own_part(part, value) for part, value in own.items()),
    )
    settings = spans.resolved(settings)
    s, prompts = settings.sampler, settings.prompts
    on_latents = latent_geometry(model, len(prompts), settings.zoom)
    given = {"sampler.guidance_rescale": s.guidance_rescale, "guidance": own.get("guidance")}
    given = [name for name, value in given.items() if value]
    if given and model.unet.config.time_cond_proj_dim is not None:
        raise UserError(
            f"{given[0]}: {model.name} has its guidance built in (time_cond_proj_dim), so there is "
            "nothing to change; leave it out"
        )
    wanted = grounding.wanted(settings, photographs)
    grounded = bool(wanted)
    turns = METHODS[s.method] if len(prompts) > 1 else None
    taken = ["photograph"] * grounded + [part for part in ("blend", "agreement") if part in own]
    taken += ["held"] * (held is not None)
    if turns and taken:
        expected = f"none with sampler.method {s.method}; leave it out, or choose method joint"
        raise UserError(f"{taken[0]}: expected {expected}")
    others = ["photograph"] * grounded + ["upscaler"] * bool(settings.upscaler.path)
    if held is not None and others:
        raise UserError(f"{others[0]}: expected none with held levels; leave one of them out")
    if settings.held and held is None:
        how = "--extend, --revise, or held= of pot_jax.sample"
        raise UserError(f"held: the run holds levels of another; give that again: {how}")
    ended = {"photograph": grounded, "held": held is not None}
    ended |= {f"sampler.method {s.method}": turns is not None}
    ended |= {f"sampler.blend {s.blend}": s.blend == "enlarged"}
    ended |= {f"sampler.noise {s.noise}": s.noise == "blurred"}
    for name in (name for name, given in ended.items() if given):
        require_open(on_latents, name)
    name, notices = resolved_solver(model.schedule, s.solver)
    s = dataclasses.replace(s, solver=name)
    settings = dataclasses.replace(settings, sampler=s)
    solver = own.get("solver") or SOLVERS[name]
    plan = resampled(solver.plan(spaced(model.schedule, s), s.steps, eta=s.eta), s.time_travel)
    negative, guided = settings.negative_prompt, "guidance" in own
    how = {"weighted": settings.prompt_weights, "long": settings.long_prompts}
    conditions = text_conditions(model, prompts, negative, s.guidance_scale, guided, **how)
    factor = model.autoencoder.config.downsample_factor
    sides = on_latents.height * factor, on_latents.width * factor
    conditions = with_sizes(conditions, model, s, *sides)
    notices = model.notices + (() if "solver" in own else notices) + conditions.notices
    told = {"guided": conditions.guided, "grounded": grounded, "held": held is not None, "own": own}
    notices += ineffective(settings, **told, usual=model.sampler)
    notices += unwritable(settings.movie, plain_prompts(settings))
    networks = ["unet", "autoencoder"] + ["tiny_vae"] * (s.agreement_vae == "tiny_vae")
    parts = [[m.params[n] for n in networks if n in m.params] for m in (model, upscaler) if m]
    count = together or settings.num_samples
    how = {"samples": count, "parameters": max(map(memory.size, parts))}
    mesh = meshes.device_mesh(devices, settings.mesh, **how)
    count //= meshes.sharing(mesh, [meshes.SAMPLES])  # those of a device, which it computes at once
    fit = rows_that_fit(model.unet, model.autoencoder, on_latents, mesh.local_devices[0], count)
    if settings.batch_rows:
        fit = dict.fromkeys(fit, max(1, settings.batch_rows // count))
    recipe = Recipe(
        unet=model.unet,
        autoencoder=model.autoencoder,
        schedule=model.schedule,
        geometry=on_latents,
        mesh=mesh,
        guided=conditions.guided,
        solver=solver,
        blend=find_blend(own.get("blend", s.blend)),
        agreement=own.get("agreement", SPACES[s.space]),
        guidance=own.get("guidance", guidance.CLASSIFIER_FREE),
        scheduled=s.scheduled,
        kernel=s.kernel,
        method=s.method if turns else "joint",
        noise=s.noise,
        initial_noise=s.initial_noise,
        photograph=((*wanted,), settings.photograph.method) if grounded else None,
        holds=held is not None,
        agreement_vae=model.tiny_vae if s.agreement_vae == "tiny_vae" else None,
        **fit,
    )
    _check_room(recipe, settings)
    if held is not None:
        kept, known = read_held(held, recipe.pixel_geometry)
        settings = dataclasses.replace(settings, held=kept)
    found = grounding.read(wanted, settings.photograph.fit, recipe.pixel_geometry)
    notices += grounding.contradictions(found, recipe.pixel_geometry, s.kernel)
    small = recipe.pixel_geometry, model.digest, recipe.mesh
    upscaling = upscaler and upscale.prepare(upscaler, settings, *small)
    if upscaling:
        settings, notices = upscaling.settings, notices + upscaling.notices
    delivered = upscaling.geometry if upscaling else recipe.pixel_geometry
    check_movie(delivered, settings.movie)
    check_page(delivered)
    program = assemble(recipe)
    weights = {name: model.params[name] for name in networks}
    weights |= {"conditions": conditions.arrays, **sampler_numbers(s, len(plan.timestep))}
    weights = meshes.place(weights, recipe.mesh, meshes.weight_specs(weights, recipe.mesh))
    if grounded:
        pixels = np.stack([*found.values()])
        filled = np.stack([*map(grounding.continued_by_edges, pixels)])
        weights["photograph"] = meshes.replicate(pixels, recipe.mesh)
        # A latent is known where all its pixels are: elsewhere their mean is NaN.
        gaps = 0 * downsample(pixels[..., :1], recipe.pixel_geometry.height // on_latents.height)
        encoded = meshes.computed(lambda *given: program.encode(*given) + gaps, weights, filled)
        weights["photograph_latents"] = meshes.replicate(encoded, recipe.mesh)
    if held is not None:
        weights |= meshes.replicate(known, recipe.mesh)
        encoded = meshes.computed(lambda w: program.encode(w, w["held_pictures"]), weights)
        weights["held_latents"] = meshes.replicate(encoded, recipe.mesh)
    if latents is not None:
        latents = checked_latents(latents, (settings.num_samples, *recipe.latent_shape))
    inputs = {
        "prompts": [conditions.read, conditions.guided],
        "seeds": sample_seeds(settings),
        "photograph": grounding.identity(found, settings.photograph.method),
        "held": settings.held or None,
        "given latents": latents,
    }
    identity = model_identity(model) | zoom_identity(settings, on_latents, inputs)
    plan = in_turns(plan, turns.order(len(prompts))) if turns else plan
    job = Job(program, plan, weights, recipe.mesh, recipe.latent_shape)
    return PreparedZoom(
        settings=settings,
        recipe=recipe,
        job=job,
        geometry=recipe.pixel_geometry,
        identity=identity,
        weights_digest=model.digest,
        upscaler=upscaling,
        latents=latents,
        notices=notices,
    )


@fixed_settings()
def sample_run(
    prepared: PreparedZoom,
    workdir: str | os.PathLike | None = None,
    *,
    progress: Progress | None = None,
    callback: Callable[[Watched], None] | None = None,
    report: Report = silent,
) -> list[Zoom] | None:
    """Runs what is left of a run: resumes or starts it, samples, delivers and writes.

    Args:
      prepared: from `prepare`.
      workdir: a folder for the run's files; None keeps nothing on disk.
      progress: called with (steps done, total steps), first before compilation.
      callback: called with each chunk's `Watched`.
      report: told of every stage: sampling, upscaling, the movie.

    Returns:
      One `Zoom` per sample; None if the folder already holds the complete run.

    Raises:
      UserError: the folder holds another run, or another process holds it, or it cannot be written;
        or pictures are not finite.
    """
    called = {"workdir": workdir is not None, "callback": callback is not None}
    hosts.require_same(lambda: prepared.facts | called)
    alone = contextlib.nullcontext("unfinished")
    with alone if workdir is None else claim_run(workdir, prepared.record) as found:
        if found == "complete":
            return None
        if found == "mended":
            with hosts.together():
                return [read_zoom(folder) for folder in sample_folders(workdir, prepared.settings)]
        return _sample_run(prepared, workdir, progress, callback, report)


def _sample_run(prepared: PreparedZoom, workdir, progress, callback, report) -> list[Zoom]:
    settings, keeps = prepared.settings, workdir is not None
    if keeps and settings.preview_every:
        callback = preview(os.path.join(workdir, PREVIEW), settings.preview_every, callback)
    given = {"progress": progress, "callback": callback, "report": report}
    zooms = []
    for zoom in sampled(prepared, sample_seeds(settings), [workdir] if keeps else [], **given):
        if keeps:
            with hosts.together():
                if hosts.speaks():
                    write_zoom(zoom, sample_folders(workdir, settings)[len(zooms)], report=report)
        zooms.append(zoom)
    if keeps:
        shared = {n: x for n, x in zooms[0].timings.items() if n != "disagreement"}
        hosts.by_first(lambda: complete_run(workdir, settings, shared))
    return zooms


def sampled(
    prepared: PreparedZoom,
    seeds: Sequence[int],
    folders: Sequence[str | os.PathLike] = (),
    *,
    progress: Progress | None = None,
    callback: Callable[[Watched], None] | None = None,
    report: Report = silent,
) -> Iterator[Zoom]:
    """Samples seeds of a prepared run as one batch, and yields each one's zoom as it is delivered.

    The run's own seeds are not used. States are saved in, and resumed from, `folders`: none, one
    for all samples, or one for each. All else is as for `sample_run`. A generator: whoever reads it
    fixes JAX's settings (`parallel.devices.fixed_settings`).
    """
    job, settings = prepared.job, prepared.settings
    states = begin(job, keys_of(np.uint32(seeds)), prepared.latents)
    saved, first, curve = None, 0, []

    def tell(done: int, total: int) -> None:
        resuming = f"resuming at step {first}, " if first else ""
        report("sampling" if done > first else f"{resuming}compiling", done, total)
        if progress:
            progress(done, total)

    with at_saved_states() if folders else contextlib.nullcontext() as stopping:
        if folders:
            saved = SavedStates(folders, settings.save_every, stopping)
            states = saved.restore(meshes.replicate(states, job.mesh))
            states = meshes.place(states, job.mesh, STATES)
            first, curve = int(states.step), saved.curve
        if settings.record_disagreement:
            curve += [[None] * len(seeds)] * (first - len(curve))  # not recorded at the time

        def watch(seen: Watched) -> None:
            curve.extend(seen.disagreement.tolist())
            if callback:
                callback(seen)

        watching = watch if settings.record_disagreement else callback
        save = saved and saved.save
        states, timings = run(job, states, save=save, progress=tell, callback=watching)
        if folders:
            saved.save(states, len(job.plan.timestep), last=True)
    # Of levels in turn and time travel, a step of the settings is several of the plan's.
    timings["seconds_per_step"] *= len(job.plan.timestep) / settings.sampler.steps
    for index, seed in enumerate(seeds):
        images, before = deliver(job, states.latents[index], seed)
        timings["peak_bytes"] = memory.peak_bytes(job.mesh.local_devices[0])
        recorded = {"disagreement": [row[index] for row in curve]}
        zoom = Zoom(
            images=images,
            before_render=before,
            latents=np.asarray(states.latents[index]),
            settings=of_sample(settings, seed),
            geometry=prepared.geometry,
            weights_digest=prepared.weights_digest,
            timings=timings | (recorded if settings.record_disagreement else {}),
            identity=prepared.identity | {"seeds": digest([seed])},
            notices=prepared.notices,
        )
        if prepared.upscaler is not None:
            upscaling = functools.partial(report, "upscaling")
            zoom = upscale.upscale_prepared(prepared.upscaler, zoom, upscaling)
        yield zoom


def _check_own_parts(own: Mapping[str, Any]) -> None:
    kinds = {"solver": (Solver, "a Solver"), "guidance": (Guidance, "a Guidance")}
    kinds["blend"] = (Blend | Callable, "a function, or a Blend")
    for part, value in own.items():
        kind, expected = kinds.get(part, (Callable, "a function"))
        require(isinstance(value, kind), part, expected, value)
        try:
            hash(value)  # compiled programs are cached by it
        except TypeError:
            raise UserError(f"{part}: expected something hashable, got {shown(value)}") from None


def resolved(s: SamplerSettings, model: Model, stated: Collection[str] | None) -> SamplerSettings:
    """Returns the settings with the model's own defaults for those that are not stated.

    Raises:
      UserError: together they do not fit, or not the model; the arguments are as for `prepare`.
    """
    s = s.with_defaults(model.sampler, model.sampler if stated is None else stated)
    fits = s.agreement_vae == "vae" or model.tiny_vae is not None
    expected = f"vae, since {model.name} has no tiny_vae folder"
    require(fits, "sampler.agreement_vae", expected, s.agreement_vae)
    return s


def spaced(schedule: ScheduleConfig, s: SamplerSettings) -> ScheduleConfig:
    """Returns a model's schedule with the timesteps and sigmas that settings state."""
    stated = {"timestep_spacing": s.timestep_spacing, "sigmas": s.sigmas}
    return dataclasses.replace(schedule, **{name: value for name, value in stated.items() if value})


def sampler_numbers(s: SamplerSettings, steps: int) -> dict[str, tuple]:
    """Returns the numeric settings of a plan of `steps`, as float32 and int32 scalars.

    A guidance scale for each level is [N, 1, 1, 1].
    """
    scale = np.float32(s.guidance_scale)
    return {
        "guidance": guidance.Numbers(
            scale=scale[:, None, None, None] if scale.ndim else scale,
            rescale=np.float32(s.guidance_rescale),
        ),
        "agreement": agreement.Numbers(
            blend_weight=np.float32(s.blend_weight),
            pixel_every=np.int32(s.pixel_every),
            gradient_steps=np.int32(s.gradient_steps),
            gradient_rate=np.float32(s.gradient_rate),
            residual_limit=np.float32(s.residual_limit or np.inf),
            exact_from=np.int32(steps - 1),
            strip=np.float32(s.strip),
            own_colour=np.float32(s.own_colour),
            agree_first=np.int32(math.ceil(s.agree_first * steps)),
            agree_every=np.int32(s.agree_every),
            late_weight=np.float32(s.late_weight) if s.scheduled else None,
        ),
    }


def of_seed(prepared: PreparedZoom, seed: int) -> Record:
    """Returns the record of a run that is `prepared`, with another seed and one sample."""
    record = prepared.record
    identity = {**record.identity, "seeds": digest([seed])}
    settings = of_sample(record.settings, seed)
    return dataclasses.replace(record, settings=settings, identity=identity)


def sample_seeds(settings: RunSettings) -> list[int]:
    """Returns the seeds of a run's samples: seed, seed + 1, ..."""
    return [settings.seed + b for b in range(settings.num_samples)]


def latent_geometry(model: Model, levels: int, zoom: ZoomSettings) -> Geometry:
    """Returns the placement of `levels` levels on the latent grid.

    Raises:
      UserError: the size does not fit the model, or the zoom factor or placement the size.
    """
    factor = model.autoencoder.config.downsample_factor
    own = model.unet.config.sample_size
    rows, columns = own if isinstance(own, tuple) else (own or 0, own or 0)
    height, width = zoom.height or rows * factor, zoom.width or columns * factor
    grain = factor * 2 ** (len(model.unet.config.block_out_channels) - 1)
    for name, value in (("zoom.height", height), ("zoom.width", width)):
        require(value > 0, name, f"a size, since {model.name} states none", value)
        p = zoom.zoom_factor
        step = math.lcm(grain, factor * (p if p % 2 else 2 * p))  # windows start on whole latents
        low = max(value // step, 1) * step
        expected = f"a multiple of {step} pixels at zoom_factor {p}, such as {low} or {low + step}"
        require(value % step == 0, name, expected, value)
    require(levels > 1 or not zoom.loop, "zoom.loop", "at least 2 prompts, one a level", levels)
    pairs, count, wanted = zoom.placement, len(zoom.placement), levels - (not zoom.loop)
    expected = (
        f"{wanted} pairs, one for each level {'in a loop' if zoom.loop else 'but the widest'}"
    )
    require(count in (0, wanted), "zoom.placement", expected, count)
    expected = f"multiples of {factor} pixels, the latents' grid"
    require(not any(v % factor for pair in pairs for v in pair), "zoom.placement", expected, pairs)
    try:  # in pixels, as the user gave it
        Geometry(levels, zoom.zoom_factor, height, width, zoom.placement or None, zoom.loop)
    except UserError as error:
        raise UserError(f"zoom.placement: {error}") from None
    offsets = tuple((y // factor, x // factor) for y, x in zoom.placement) or None
    shape = height // factor, width // factor
    return Geometry(levels, zoom.zoom_factor, *shape, offsets, zoom.loop)


def _check_room(recipe: Recipe, settings: RunSettings) -> None:
    """Checks that the pictures alone fit in memory."""
    g = recipe.pixel_geometry
    pictures = 12 * g.levels * g.height * g.width  # 3 channels of 4 bytes
    samples = 4 * settings.num_samples * math.prod(recipe.latent_shape)
    what = f"{settings.num_samples} x {g.levels} levels of {g.height} x {g.width} pixels"
    memory.require_room(2 * pictures + samples, recipe.mesh.local_devices[0], what)
