"""Trains the embedded model from nothing: `pot-jax train --config=... --workdir=...`.

The walk: views -> renders uint8 [n, S, S, 3] and captions -> vocabulary -> autoencoder -> latents
[n, S/f, S/f, c]; captions and labels -> text encoder; then text encoder and UNet together -> a
folder in diffusers' layout with its card.

  config.json           the settings; a workdir belongs to one run
  renders/              rendered views, made once
  checkpoints/<phase>/  states to resume from
  <phase>.csv, <phase>_loss.png, reconstructions_*.png, samples_*.png, scores.json
  model/                the model so far, whole at any time

Killed at any moment, the same command goes on from the last saved step. A machine that is to be
taken away says so by SIGTERM: the state is saved at once.
"""

import contextlib
import functools
import json
import logging
import platform
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from pot_jax.checkpoints import Checkpoints
from pot_jax.errors import UserError
from pot_jax.media.files import write_json
from pot_jax.media.images import contact_sheet, save_png, to_bytes
from pot_jax.models.clip import CLIPTextConfig, CLIPTextModel
from pot_jax.models.unet import UNet2DConditionModel, UNetConfig
from pot_jax.models.vae import AutoencoderKL, AutoencoderKLConfig, decode_latents
from pot_jax.parallel.mesh import device_mesh
from pot_jax.training import autoencoder, captions, diffusion, reading, worlds
from pot_jax.training.card import write_card
from pot_jax.training.data import Views, batch_indices, draw_views, render_views
from pot_jax.training.journal import Journal
from pot_jax.training.labels import Labels
from pot_jax.training.settings import TrainSettings, as_json, first_difference, read_settings
from pot_jax.training.steps import AXIS, Optimisation, Phase, run_phase
from pot_jax.training.tokenizer import train_tokenizer
from pot_jax.weights.digests import array_digests, combined_digest
from pot_jax.weights.export import export
from pot_jax.weights.model import Model
from pot_jax.weights.tokenization import tokenize

SHOWN_STEPS, SHOWN_GUIDANCE = 20, 4.0  # of the sample grids
SCORED = 256  # pictures over which the autoencoder is scored, and its latents standardised
SHOWN_WORLD = 2**31 - 1  # no training view is of it


class Examples(NamedTuple):
    """What is learnt from, the held-out views last."""

    pictures: np.ndarray  # uint8 [n, S, S, 3]
    views: Views
    trained_on: int  # the first so many

    def captions(self, indices: np.ndarray, variants: np.ndarray) -> list[str]:
        """Words for pictures [B], each in its phrasing [B]."""
        seeds, scales = self.views.seeds[indices], self.views.scales[indices]
        return [
            captions.caption(int(seed), float(scale), int(variant))
            for seed, scale, variant in zip(seeds, scales, variants)
        ]


class Run(NamedTuple):
    """What the phases of one training share."""

    settings: TrainSettings
    folder: Path
    mesh: Mesh
    examples: Examples
    scores: dict[str, Any]  # filled in as they are known
    stopping: Callable[[], bool]

    def phase(self, name: str, descent: Optimisation, **parts) -> Phase:
        """The phase `name`, with its states and its journal in the run's folder."""
        checkpoints = Checkpoints(self.folder / "checkpoints" / name)
        visits = self.settings.visits
        return Phase(
            name=name,
            settings=descent,
            checkpoints=checkpoints,
            journal=Journal(self.folder, name, checkpoints.latest_step()),
            seed=self.settings.seed,
            stopping=self.stopping,
            log_every=visits.log_steps,
            save_every=60 * visits.save_minutes,
            visit_every=60 * visits.show_minutes,
            **parts,
        )

    def in_precision(self, module: nn.Module) -> nn.Module:
        """The module, computing in the run's precision; its parameters are float32 all the same."""
        name = self.settings.precision
        if name == "auto":
            name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
        return module.clone(dtype=jnp.dtype(name))


def train(config: ml_collections.ConfigDict, workdir: str) -> None:
    """Run, or resume, a training.

    Args:
      config: see `settings.TrainSettings` and `configs/train/`.
      workdir: a new folder, or one that holds this same run.

    Raises:
      UserError: settings that cannot work, a workdir of another run, a full disk.
    """
    settings = read_settings(config)
    module = _autoencoder_module(settings)
    side = settings.data.size // module.config.downsample_factor
    # Before any work: the same networks but for the size of the vocabulary, which is not known yet.
    planned = _networks(settings, vocab_size=settings.tokenizer.vocabulary)
    diffusion.check_sizes(planned, side, settings.tokenizer.length)
    folder = _claim_workdir(Path(workdir), settings)
    with _preemption() as stopping:
        _train(settings, folder, module, stopping)


def _train(
    settings: TrainSettings, folder: Path, module: AutoencoderKL, stopping: Callable[[], bool]
) -> None:
    mesh = device_mesh(AXIS)
    logging.info("%d devices, %s", mesh.size, jax.devices()[0].device_kind)
    began = time.monotonic()
    examples = _examples(settings, folder)
    scores = {"minutes": {"data": (time.monotonic() - began) / 60}}
    run = Run(settings, folder, mesh, examples, scores, stopping)

    some = np.arange(min(settings.tokenizer.captions, examples.trained_on))
    texts = [text for variant in (0, 1) for text in examples.captions(some, variant + 0 * some)]
    tokenizer = train_tokenizer(texts, settings.tokenizer.vocabulary, settings.tokenizer.length)
    networks = _networks(
        settings,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    coded = _train_autoencoder(run, module)
    read = _train_text_encoder(run, networks.text_encoder, tokenizer)

    def model_of(params) -> Model:
        params = jax.device_get({**params, "autoencoder": coded})
        return Model(
            name=settings.name,
            text_encoder=networks.text_encoder,
            unet=networks.unet,
            autoencoder=module,
            tokenizer=tokenizer,
            schedule=diffusion.SCHEDULE,
            params=params,
            digest=combined_digest(array_digests(params)),
            source=str(folder),
        )

    def publish(params) -> None:
        _publish(model_of(params), folder / "model", settings, scores)

    params = _train_diffusion(run, module, coded, networks, read, tokenizer, publish)
    scores["hardware"] = _hardware(mesh)
    write_json(folder / "scores.json", scores)
    publish(params)
    logging.info("the model is in %s", folder / "model")


@contextlib.contextmanager
def _preemption() -> Iterator[Callable[[], bool]]:
    """Gives a function that tells whether SIGTERM has come since."""
    told = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    try:
        yield told.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


def _claim_workdir(folder: Path, settings: TrainSettings) -> Path:
    path = folder / "config.json"
    ours = as_json(settings)
    if path.exists():
        theirs = json.loads(path.read_text())
        if (difference := first_difference(ours, theirs)) is not None:
            raise UserError(
                f"{folder} holds another training ({difference}): give another --workdir, or the "
                "same settings to go on with it"
            )
    elif folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty and holds no training: give another --workdir")
    write_json(path, ours)
    return folder


def _examples(settings: TrainSettings, folder: Path) -> Examples:
    views = draw_views(settings.data, settings.seed)

    def told(done, total):
        if done % 4096 == 0 or done == total:
            logging.info("rendered %d of %d views", done, total)

    renders = Path(settings.renders) if settings.renders else folder / "renders"
    pictures = render_views(renders, settings.data, settings.seed, worlds.picture, told)
    return Examples(pictures, views, settings.data.pictures - settings.data.held_out)


def _autoencoder_module(settings: TrainSettings) -> AutoencoderKL:
    given = settings.autoencoder.model
    blocks = len(given["block_out_channels"])
    module = AutoencoderKL(
        AutoencoderKLConfig.from_json(
            {
                "sample_size": settings.data.size,
                "down_block_types": ["DownEncoderBlock2D"] * blocks,
                "up_block_types": ["UpDecoderBlock2D"] * blocks,
                "scaling_factor": 1.0,  # `standardise` puts the scale into the weights
                **given,
            }
        )
    )
    factor = module.config.downsample_factor
    if settings.data.size % (2 * factor):
        raise UserError(
            f"data.size must be a multiple of {2 * factor} for an autoencoder of {blocks} blocks "
            f"(latents are {factor} times as coarse, and halved once more in its loss), got "
            f"{settings.data.size}"
        )
    return module


def _networks(settings: TrainSettings, **vocabulary: int) -> diffusion.Networks:
    text = CLIPTextConfig.from_json(
        {
            **vocabulary,
            "max_position_embeddings": settings.tokenizer.length,
            **settings.text_encoder.model,
        }
    )
    channels = settings.autoencoder.model.get("latent_channels", 4)
    factor = 2 ** (len(settings.autoencoder.model["block_out_channels"]) - 1)
    unet = UNetConfig.from_json(
        {
            "sample_size": settings.data.size // factor,
            "in_channels": channels,
            "out_channels": channels,
            "cross_attention_dim": text.hidden_size,
            **settings.diffusion.unet,
        }
    )
    return diffusion.Networks(CLIPTextModel(text), UNet2DConditionModel(unet))


def _initial(module, key: jax.Array) -> dict[str, Any]:
    inputs = {
        name: jnp.zeros(shape.shape, shape.dtype) for name, shape in module.example_inputs().items()
    }
    return autoencoder.quiet_start(jax.jit(module.init)(key, **inputs)["params"])


def _train_autoencoder(run: Run, module: AutoencoderKL) -> dict[str, Any]:
    """The first phase; returns the parameters with standardised latents."""
    settings, folder, examples, scores = run.settings, run.folder, run.examples, run.scores
    descent = settings.autoencoder.descent
    held_out = examples.pictures[examples.trained_on :][:SCORED]
    rebuild = jax.jit(
        lambda params, x: module.apply({"params": params}, x.astype(jnp.float32) / 127.5 - 1.0)
    )

    def load_batch(step):
        chosen = batch_indices(settings.seed, step, descent.batch, examples.trained_on)
        return {"pictures": examples.pictures[chosen]}

    def visit(step, params):
        params = jax.device_get(params)
        parts = np.split(held_out, range(32, len(held_out), 32))
        rebuilt = np.concatenate([np.asarray(rebuild(params, part)) for part in parts])
        error = (rebuilt - (held_out.astype(np.float32) / 127.5 - 1.0)) ** 2
        decibels = float(autoencoder.psnr(error.mean(axis=(1, 2, 3))).mean())
        scores["autoencoder_held_out_psnr"] = round(decibels, 2)
        logging.info("autoencoder step %d: held-out PSNR %.2f dB", step, decibels)
        few = [x for pair in zip(held_out[:20], to_bytes(rebuilt[:20])) for x in pair]
        sheet = contact_sheet(np.stack(few), side=2 * settings.data.size)
        save_png(folder / f"reconstructions_{step:06d}.png", sheet)

    phase = run.phase(
        "autoencoder",
        descent,
        loss=autoencoder.make_loss(run.in_precision(module), settings.autoencoder.loss),
        load_batch=load_batch,
        visit=visit,
    )
    start = autoencoder.carried_start(module, _initial(module, jax.random.key(settings.seed)))
    start = autoencoder.certain_start(start)
    steps, seconds, params = run_phase(phase, start, run.mesh)
    phase.journal.draw()
    visit(steps, params)
    scores["minutes"]["autoencoder"] = seconds / 60
    scores["autoencoder_steps"] = steps
    params = jax.device_get(params)
    return jax.device_get(autoencoder.standardise(module, params, examples.pictures[:SCORED]))


def _train_text_encoder(run: Run, module: CLIPTextModel, tokenizer) -> dict[str, Any]:
    """The second phase; returns the parameters that the third begins with."""
    settings, examples, scores = run.settings, run.examples, run.scores
    descent = settings.text_encoder.descent
    labels = Labels(Views(*(x[: examples.trained_on] for x in examples.views)))

    def load_batch(step):
        chosen, ids = _captions(run, tokenizer, "text_encoder", step, descent.batch)
        return {"ids": ids, "numbers": {head: n[chosen] for head, n in labels.numbers.items()}}

    phase = run.phase(
        "text_encoder",
        descent,
        loss=reading.make_loss(run.in_precision(module)),
        load_batch=load_batch,
        visit=lambda step, params: None,
    )
    start = {
        "text_encoder": _initial(module, jax.random.key(settings.seed + 2)),
        "heads": reading.start_heads(module.config.hidden_size, labels.classes),
    }
    steps, seconds, params = run_phase(phase, start, run.mesh)
    phase.journal.draw()
    scores["minutes"]["text_encoder"] = seconds / 60
    scores["text_encoder_steps"] = steps
    # Over all phrasings: most leave attributes out, so it is far from 1 for the best of readers.
    scores.update({f"text_encoder_{k}": v for k, v in phase.journal.recent("accuracy").items()})
    return jax.device_get(params["text_encoder"])


def _captions(run: Run, tokenizer, phase: str, step: int, batch: int):
    """The examples [B] that a step takes, and a phrasing of each as token ids [B, T]."""
    settings = run.settings
    chosen = batch_indices(settings.seed, step, batch, run.examples.trained_on)
    rng = np.random.default_rng([settings.seed, _STREAMS[phase], step])
    variants = rng.integers(settings.data.phrasings, size=batch)
    return chosen, tokenize(tokenizer, run.examples.captions(chosen, variants))


_STREAMS = {"diffusion": 4, "text_encoder": 5}  # of randomness


def _train_diffusion(
    run: Run, module: AutoencoderKL, coded, networks: diffusion.Networks, read, tokenizer, publish
) -> dict[str, Any]:
    """The third phase; returns the averaged parameters of both networks."""
    settings, folder, examples, scores = run.settings, run.folder, run.examples, run.scores
    descent = settings.diffusion.descent
    store = diffusion.LatentStore(module, coded, examples.pictures[: examples.trained_on])
    empty = tokenize(tokenizer, [""])[0]
    dropout = settings.diffusion.caption_dropout
    sample = diffusion.make_sampler(networks, SHOWN_STEPS, SHOWN_GUIDANCE)
    decode = jax.jit(functools.partial(decode_latents, module))
    prompts = captions.scene_prompts(int(worlds.DEEPEST), SHOWN_WORLD)
    shown_ids = tokenize(tokenizer, prompts)
    side = settings.data.size // module.config.downsample_factor
    shape = (len(prompts), side, side, module.config.latent_channels)
    noise = jax.random.normal(jax.random.key(settings.seed + 1), shape)

    def load_batch(step):
        chosen, rows = _captions(run, tokenizer, "diffusion", step, descent.batch)
        rows = diffusion.drop_captions(rows, empty, dropout, settings.seed, step)
        return {"latents": store(chosen), "ids": rows}

    def visit(step, params):
        began = time.monotonic()
        params = jax.device_get(params)
        pictures = decode(coded, sample(params, shown_ids, empty, noise))
        sheet = contact_sheet(to_bytes(np.asarray(pictures)), side=2 * settings.data.size)
        save_png(folder / f"samples_{step:06d}.png", sheet)
        publish(params)
        logging.info("samples at step %d took %.0f s", step, time.monotonic() - began)

    training = diffusion.Networks(*map(run.in_precision, networks))
    phase = run.phase(
        "diffusion",
        descent,
        loss=diffusion.make_loss(training),
        load_batch=load_batch,
        visit=visit,
    )
    start = {
        "text_encoder": read,
        "unet": _initial(networks.unet, jax.random.key(settings.seed + 3)),
    }
    steps, seconds, params = run_phase(phase, start, run.mesh)
    phase.journal.draw()
    scores["minutes"]["diffusion"] = seconds / 60
    scores["diffusion_steps"] = steps
    scores.update({f"diffusion_{k}": v for k, v in phase.journal.recent("loss").items()})
    visit(steps, params)
    return params


def _publish(model: Model, folder: Path, settings: TrainSettings, scores: dict) -> None:
    """Put the model in place of the one before, so that the folder is whole at any time."""
    new, old = folder.with_name("model.new"), folder.with_name("model.old")
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    export(model, new, dtype=jnp.float16)
    write_card(new, model, settings, scores)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _hardware(mesh) -> str:
    kind = jax.devices()[0].device_kind
    return f"{mesh.size} x {kind} ({platform.machine()}), JAX {jax.__version__}"
