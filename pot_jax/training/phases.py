"""The phases of a training, one after the other: autoencoder, text encoder, text encoder and UNet.

Each is a loss, its batches, what it shows now and then, and what it hands on; `loop.run_phase`
does the rest.
"""

import functools
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from pot_jax import world as worlds
from pot_jax.media.images import contact_sheet, save_png, to_bytes
from pot_jax.models.clip import CLIPTextModel
from pot_jax.models.vae import AutoencoderKL, decode_latents
from pot_jax.runs.checkpoints import Checkpoints
from pot_jax.training import autoencoder, diffusion, text_encoder
from pot_jax.training.data import STREAMS, Views, batch_indices, from_bytes
from pot_jax.training.journal import Journal
from pot_jax.training.loop import Optimisation, Phase, run_phase
from pot_jax.training.settings import TrainSettings
from pot_jax.weights.tokenization import tokenize
from pot_jax.world import captions
from pot_jax.world.labels import Labels

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


def _initial(module, key: jax.Array) -> dict[str, Any]:
    inputs = {
        name: jnp.zeros(shape.shape, shape.dtype) for name, shape in module.example_inputs().items()
    }
    return autoencoder.quiet_start(jax.jit(module.init)(key, **inputs)["params"])


def train_autoencoder(run: Run, module: AutoencoderKL) -> dict[str, Any]:
    """The first phase; returns the parameters with standardised latents."""
    settings, folder, examples, scores = run.settings, run.folder, run.examples, run.scores
    descent = settings.autoencoder.descent
    held_out = examples.pictures[examples.trained_on :][:SCORED]
    rebuild = jax.jit(lambda params, x: module.apply({"params": params}, from_bytes(x)))

    def load_batch(step):
        chosen = batch_indices(settings.seed, step, descent.batch, examples.trained_on)
        return {"pictures": examples.pictures[chosen]}

    def visit(step, params):
        params = jax.device_get(params)
        parts = np.split(held_out, range(32, len(held_out), 32))
        rebuilt = np.concatenate([np.asarray(rebuild(params, part)) for part in parts])
        error = (rebuilt - from_bytes(held_out)) ** 2
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


def train_text_encoder(run: Run, module: CLIPTextModel, tokenizer) -> dict[str, Any]:
    """The second phase; returns the parameters that the third begins with."""
    settings, examples, scores = run.settings, run.examples, run.scores
    descent = settings.text_encoder.descent
    labels = Labels(Views(*(x[: examples.trained_on] for x in examples.views)))

    def load_batch(step):
        chosen, ids = _lesson(run, tokenizer, "text_encoder", step, descent.batch)
        return {"ids": ids, "numbers": {head: n[chosen] for head, n in labels.numbers.items()}}

    phase = run.phase(
        "text_encoder",
        descent,
        loss=text_encoder.make_loss(run.in_precision(module)),
        load_batch=load_batch,
    )
    start = {
        "text_encoder": _initial(module, jax.random.key(settings.seed + 2)),
        "heads": text_encoder.start_heads(module.config.hidden_size, labels.classes),
    }
    steps, seconds, params = run_phase(phase, start, run.mesh)
    phase.journal.draw()
    scores["minutes"]["text_encoder"] = seconds / 60
    scores["text_encoder_steps"] = steps
    # Over all phrasings: most leave attributes out, so it is far from 1 for the best of readers.
    scores.update({f"text_encoder_{k}": v for k, v in phase.journal.recent("accuracy").items()})
    return jax.device_get(params["text_encoder"])


def _lesson(run: Run, tokenizer, phase: str, step: int, batch: int):
    """The examples [B] that a step takes, and a phrasing of each as token ids [B, T]."""
    settings = run.settings
    chosen = batch_indices(settings.seed, step, batch, run.examples.trained_on)
    rng = np.random.default_rng([settings.seed, STREAMS[phase], step])
    variants = rng.integers(settings.data.phrasings, size=batch)
    return chosen, tokenize(tokenizer, run.examples.captions(chosen, variants))


def train_denoiser(
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
        chosen, rows = _lesson(run, tokenizer, "diffusion", step, descent.batch)
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
