"""The phases of a training in order: autoencoder, text encoder, text encoder and UNet.

Each is a loss, its batches, its previews and its result; `loop.run_phase` does the rest.
"""

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

from pot_jax.media.images import contact_sheet, save_png
from pot_jax.media.pixels import from_bytes, to_bytes
from pot_jax.models.clip import CLIPTextModel
from pot_jax.models.vae import AutoencoderKL
from pot_jax.runs.checkpoints import Checkpoints
from pot_jax.training import autoencoder, diffusion, text_encoder
from pot_jax.training.data import STREAMS, batch_indices
from pot_jax.training.journal import Journal
from pot_jax.training.loop import Phase, run_phase
from pot_jax.training.settings import TrainSettings
from pot_jax.weights.tokenization import tokenize
from pot_jax.world import DEEPEST, Views, captions
from pot_jax.world.labels import Labels

PREVIEW_STEPS, PREVIEW_GUIDANCE = 20, 4.0  # of the sample grids
PREVIEW_WORLD = 2**31 - 1  # no training view is of it
SCORED = 256  # pictures over which the autoencoder is scored, and its latents standardised


class Examples(NamedTuple):
    """The pictures to learn from, the held-out ones last."""

    pictures: np.ndarray  # uint8 [n, S, S, 3]
    views: Views
    trained_on: int  # the first so many

    def captions(self, indices: np.ndarray, variants: np.ndarray) -> list[str]:
        """Returns the captions of pictures [B], each in its phrasing [B]."""
        views = self.views.take(indices).pairs()
        return [captions.caption(*view, int(variant)) for view, variant in zip(views, variants)]


class Run(NamedTuple):
    """What all phases of one training share."""

    settings: TrainSettings
    folder: Path
    mesh: Mesh
    examples: Examples
    scores: dict[str, Any]  # filled in by the phases
    stopping: Callable[[], bool]

    def train(self, name: str, start: dict, scored: str = "", **parts: Any) -> Any:
        """Runs the phase `name` from parameters `start`; returns their averages.

        Its files go to the run's folder. `parts` are the rest of the `Phase`; `scored` is the
        logged value whose recent mean becomes one of the run's scores, if any.
        """
        checkpoints = Checkpoints(self.folder / "checkpoints" / name)
        intervals = self.settings.intervals
        phase = Phase(
            name=name,
            settings=self.settings.phases()[name],
            checkpoints=checkpoints,
            journal=Journal(self.folder, name, checkpoints.latest_step()),
            seed=self.settings.seed,
            stopping=self.stopping,
            log_every=intervals.log_steps,
            save_every=60 * intervals.checkpoint_minutes,
            preview_every=60 * intervals.preview_minutes,
            **parts,
        )
        steps, seconds, params = run_phase(phase, start, self.mesh)
        phase.journal.draw()
        self.scores["minutes"][name] = seconds / 60
        self.scores[f"{name}_steps"] = steps
        if scored:
            recent = phase.journal.recent(scored)
            self.scores.update({f"{name}_{value}": mean for value, mean in recent.items()})
        phase.preview(steps, params)
        return params

    def in_precision(self, module: nn.Module) -> nn.Module:
        """Returns the module, computing in the run's precision; its parameters stay float32."""
        name = self.settings.precision
        if name == "auto":
            name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
        return module.clone(dtype=jnp.dtype(name))


def _initial(module, key: jax.Array) -> dict[str, Any]:
    inputs = jax.tree.map(jnp.zeros_like, module.example_inputs())
    return autoencoder.zero_residuals(jax.jit(module.init)(key, **inputs)["params"])


def train_autoencoder(run: Run, module: AutoencoderKL) -> dict[str, Any]:
    """Trains the first phase; returns the parameters with standardised latents."""
    settings, folder, examples = run.settings, run.folder, run.examples
    batch_size = settings.autoencoder.optimization.batch_size
    held_out = examples.pictures[examples.trained_on :][:SCORED]
    rebuild = jax.jit(lambda params, x: module.apply({"params": params}, from_bytes(x)))

    def load_batch(step):
        chosen = batch_indices(settings.seed, step, batch_size, examples.trained_on)
        return {"pictures": examples.pictures[chosen]}

    def preview(step, params):
        params = jax.device_get(params)
        parts = np.split(held_out, range(32, len(held_out), 32))
        rebuilt = np.concatenate([np.asarray(rebuild(params, part)) for part in parts])
        error = (rebuilt - from_bytes(held_out)) ** 2
        decibels = float(autoencoder.psnr(error.mean(axis=(1, 2, 3))).mean())
        run.scores["autoencoder_held_out_psnr"] = round(decibels, 2)
        logging.info("autoencoder step %d: held-out PSNR %.2f dB", step, decibels)
        few = [x for pair in zip(held_out[:20], to_bytes(rebuilt[:20])) for x in pair]
        sheet = contact_sheet(np.stack(few), side=2 * settings.data.size)
        save_png(folder / f"reconstructions_{step:06d}.png", sheet)

    start = _initial(module, jax.random.key(settings.seed))
    start = autoencoder.initialise_logvar(autoencoder.initialise_carriers(module, start))
    loss = autoencoder.make_loss(run.in_precision(module), settings.autoencoder.loss)
    params = run.train("autoencoder", start, loss=loss, load_batch=load_batch, preview=preview)
    params = jax.device_get(params)
    return jax.device_get(autoencoder.standardise(module, params, examples.pictures[:SCORED]))


def train_text_encoder(run: Run, module: CLIPTextModel, tokenizer) -> dict[str, Any]:
    """Trains the second phase; returns the parameters that the third starts from."""
    settings, examples = run.settings, run.examples
    labels = Labels(examples.views.take(slice(examples.trained_on)))

    def load_batch(step):
        chosen, ids = _captioned(run, tokenizer, "text_encoder", step)
        return {"ids": ids, "numbers": {head: n[chosen] for head, n in labels.numbers.items()}}

    heads = text_encoder.initialise_heads(module.config.hidden_size, labels.classes)
    start = {"text_encoder": _initial(module, jax.random.key(settings.seed + 2)), "heads": heads}
    loss = text_encoder.make_loss(run.in_precision(module))
    # The accuracy is over all phrasings: most leave attributes out, so that it stays far from 1.
    params = run.train("text_encoder", start, "accuracy", loss=loss, load_batch=load_batch)
    return jax.device_get(params["text_encoder"])


def _captioned(run: Run, tokenizer, phase: str, step: int):
    """The examples [B] that a step takes, and a caption of each as token ids [B, T]."""
    settings = run.settings
    batch_size = settings.phases()[phase].batch_size
    chosen = batch_indices(settings.seed, step, batch_size, run.examples.trained_on)
    rng = np.random.default_rng([settings.seed, STREAMS[phase], step])
    variants = rng.integers(settings.data.phrasings, size=batch_size)
    return chosen, tokenize(tokenizer, run.examples.captions(chosen, variants))


def train_denoiser(
    run: Run,
    latents: diffusion.LatentStore,
    networks: diffusion.Networks,
    pretrained: dict[str, Any],
    tokenizer,
    publish: Callable[[Any], None],
) -> dict[str, Any]:
    """Trains the third phase; returns the averaged parameters of both networks."""
    settings = run.settings
    empty = tokenize(tokenizer, [""])[0]
    dropout = settings.diffusion.caption_dropout
    sample = diffusion.make_sampler(networks, PREVIEW_STEPS, PREVIEW_GUIDANCE)
    prompts = captions.scene_prompts(int(DEEPEST), PREVIEW_WORLD)
    preview_ids = tokenize(tokenizer, prompts)
    noise = jax.random.normal(jax.random.key(settings.seed + 1), (len(prompts), *latents.shape))

    def load_batch(step):
        chosen, ids = _captioned(run, tokenizer, "diffusion", step)
        ids = diffusion.drop_captions(ids, empty, dropout, settings.seed, step)
        return {"latents": latents(chosen), "ids": ids}

    def preview(step, params):
        began = time.monotonic()
        params = jax.device_get(params)
        pictures = latents.decode(sample(params, preview_ids, empty, noise))
        sheet = contact_sheet(to_bytes(pictures), side=2 * settings.data.size)
        save_png(run.folder / f"samples_{step:06d}.png", sheet)
        publish(params)
        logging.info("samples at step %d took %.0f s", step, time.monotonic() - began)

    unet = _initial(networks.unet, jax.random.key(settings.seed + 3))
    start = {"text_encoder": pretrained, "unet": unet}
    loss = diffusion.make_loss(diffusion.Networks(*map(run.in_precision, networks)))
    return run.train("diffusion", start, "loss", loss=loss, load_batch=load_batch, preview=preview)
