"""The phases of a training: autoencoder, tiny autoencoder, text encoder, text encoder and UNet.

Each is a loss, its batches, its previews and its result; `loop.PhaseRun` does the rest. All are
prepared at first, from shapes, so that their steps compile while pictures are still being rendered
and the phases before them train.

On the devices are, for n views of S x S pixels: bytes of the pictures the autoencoder learns from
(3 S^2 each), float32 latents (16 x fewer values than pixels have colours), and int16 token ids of P
phrasings. cosmos128 with its 97,280 views: 1.6 GB, 1.6 GB and 50 MB.
"""

import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from pot_jax.media.files import write_json
from pot_jax.media.images import contact_sheet, save_png
from pot_jax.media.pixels import from_bytes, to_bytes
from pot_jax.models.clip import CLIPTextModel
from pot_jax.models.vae import AutoencoderKL, AutoencoderTiny
from pot_jax.parallel.mesh import replicate
from pot_jax.runs.checkpoints import Checkpoints
from pot_jax.training import autoencoder, diffusion, text_encoder
from pot_jax.training.autoencoder import Codec
from pot_jax.training.data import SHARD, Renders, batch_indices
from pot_jax.training.descriptions import Descriptions
from pot_jax.training.journal import Journal
from pot_jax.training.loop import Ahead, Phase, PhaseRun
from pot_jax.training.settings import TrainSettings
from pot_jax.weights.keys import abstract_params
from pot_jax.weights.tokenization import tokenize
from pot_jax.world import DEEPEST, captions

PREVIEW_STEPS, PREVIEW_GUIDANCE = 20, 4.0  # of the sample grids
PREVIEW_WORLD = 2**31 - 1  # no training view is of it
SCORED = 256  # pictures over which the autoencoder is scored, and its latents standardised


class Run(NamedTuple):
    """What all phases of one training share."""

    settings: TrainSettings
    folder: Path
    mesh: Mesh
    renders: Renders
    scores: dict[str, Any]  # filled in by the phases

    def prepare(self, name: str, params: Any, data: Any, scored: str = "", **parts: Any):
        """Starts compiling the phase `name`, or reads what it has come to.

        Its files go to the run's folder. `params` and `data` may be shapes. `parts` are the rest of
        the `Phase`; `scored` is the logged value whose recent mean becomes one of the run's scores,
        if any. Returns train(start, load) -> averaged parameters, which trains from the parameters
        `start()`, or resumes, on the data `load()`.
        """
        checkpoints = Checkpoints(self.folder / "checkpoints" / name)
        phase = Phase(
            name=name,
            settings=self.settings.phases()[name],
            checkpoints=checkpoints,
            journal=Journal(self.folder, name, checkpoints.latest_step()),
            seed=self.settings.seed,
            intervals=self.settings.intervals,
            **parts,
        )
        prepared = PhaseRun(phase, params, data, self.mesh)

        def train(start: Callable[[], Any], load: Callable[[], Any]) -> Any:
            given = () if prepared.ended else replicate(load(), self.mesh)
            steps, seconds, params = prepared.run(start, given)
            phase.journal.draw()
            self.scores["minutes"][name] = seconds / 60
            self.scores[f"{name}_steps"] = steps
            for value, mean in phase.journal.recent(scored).items() if scored else ():
                self.scores[f"{name}_{value}"] = mean
            phase.preview(steps, params)
            write_json(self.folder / "scores.json", self.scores)
            return params

        return train

    def in_precision(self, module: nn.Module) -> nn.Module:
        """Returns the module, computing in the run's precision; its parameters stay float32."""
        name = self.settings.precision
        if name == "auto":
            name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
        return module.clone(dtype=jnp.dtype(name))


def _initial(module: nn.Module, seed: int) -> Callable[[], dict[str, Any]]:
    """Starts compiling what draws a module's initial parameters; returns it."""

    def draw(key):
        inputs = jax.tree.map(jnp.zeros_like, module.example_inputs())
        return autoencoder.zero_residuals(module.init(key, **inputs)["params"])

    return partial(Ahead(jax.jit(draw), jax.random.key(seed)), jax.random.key(seed))


def _chosen(settings: TrainSettings, phase: str, step: int) -> np.ndarray:
    """Returns the pictures of an autoencoder's step: int32 [B]."""
    batch_size, count = settings.phases()[phase].batch_size, settings.autoencoder_pictures
    return batch_indices(settings.seed, step, batch_size, count).astype(np.int32)


def prepare_autoencoder(run: Run, module: AutoencoderKL, codec: Codec):
    """Prepares the first phase; returns train() -> parameters with standardised latents."""
    settings, renders, size = run.settings, run.renders, run.settings.data.size
    count, held_out = settings.autoencoder_pictures, settings.data.trained_on

    def preview(step, params):
        params = jax.device_get(params)
        pictures = renders.read(held_out, min(held_out + SCORED, settings.data.pictures))
        rebuilt = codec.decode(params, codec.encode(params, [pictures]))
        error = (rebuilt - from_bytes(pictures)) ** 2
        decibels = float(autoencoder.psnr(error.mean(axis=(1, 2, 3))).mean())
        run.scores["autoencoder_held_out_psnr"] = round(decibels, 2)
        logging.info("autoencoder step %d: held-out PSNR %.2f dB", step, decibels)
        few = [x for pair in zip(pictures[:20], to_bytes(rebuilt[:20])) for x in pair]
        save_png(run.folder / f"reconstructions_{step:06d}.png", contact_sheet(np.stack(few)))

    def start():
        return autoencoder.initialise_logvar(autoencoder.initialise_carriers(module, initial()))

    train = run.prepare(
        "autoencoder",
        abstract_params(module),
        jax.ShapeDtypeStruct((count, size, size, 3), jnp.uint8),
        loss=autoencoder.make_loss(run.in_precision(module), settings.autoencoder.loss),
        choose=partial(_chosen, settings, "autoencoder"),
        gather=lambda pictures, chosen: {"pictures": pictures[chosen]},
        preview=preview,
    )
    initial = _initial(module, settings.seed)

    def train_and_standardise():
        params = jax.device_get(train(start, lambda: renders.read(0, count)))
        some = renders.read(0, min(SCORED, settings.data.trained_on))
        latents = np.asarray(codec.encode(params, [some]))
        return jax.device_get(autoencoder.standardise(params, latents))

    return train_and_standardise


def prepare_tiny_vae(run: Run, tiny: AutoencoderTiny, module: AutoencoderKL):
    """Prepares the distillation; returns train(autoencoder) -> the tiny one's parameters."""
    settings, size = run.settings, run.settings.data.size
    count = settings.autoencoder_pictures
    pictures = jax.ShapeDtypeStruct((count, size, size, 3), jnp.uint8)
    train = run.prepare(
        "tiny_vae",
        abstract_params(tiny),
        {"pictures": pictures, "teacher": abstract_params(module)},
        "psnr",
        loss=autoencoder.make_distillation(*map(run.in_precision, (tiny, module))),
        choose=partial(_chosen, settings, "tiny_vae"),
        gather=lambda data, chosen: {**data, "pictures": data["pictures"][chosen]},
    )
    initial = _initial(tiny, settings.seed + 4)

    def distil(teacher: Any) -> Any:
        data = lambda: {"pictures": run.renders.read(0, count), "teacher": teacher}  # noqa: E731
        return jax.device_get(train(initial, data))

    return distil


def prepare_text_encoder(run: Run, module: CLIPTextModel, described: Descriptions):
    """Prepares the second phase; returns train() -> the parameters that the third starts from."""
    settings = run.settings
    heads = text_encoder.initialise_heads(module.config.hidden_size, described.classes)

    def gather(data, chosen):
        numbers = {head: numbers[chosen["views"]] for head, numbers in data["numbers"].items()}
        return {"ids": diffusion.gather_ids(data["ids"], chosen), "numbers": numbers}

    def start():
        return {"text_encoder": initial(), "heads": heads}

    data = {"ids": described.ids, "numbers": described.numbers}
    # The accuracy is over all phrasings: most leave attributes out, so that it stays far from 1.
    train = run.prepare(
        "text_encoder",
        {"text_encoder": abstract_params(module), "heads": heads},
        data,
        "accuracy",
        loss=text_encoder.make_loss(run.in_precision(module)),
        choose=diffusion.choose_captions("text_encoder", settings, settings.data.trained_on),
        gather=gather,
    )
    initial = _initial(module, settings.seed + 2)
    return lambda: jax.device_get(train(start, lambda: data)["text_encoder"])


def prepare_denoiser(
    run: Run, networks: diffusion.Networks, described: Descriptions, tokenizer: Any, codec: Codec
):
    """Prepares the third phase.

    Returns train(autoencoder, text_encoder, publish) -> the averaged parameters of both networks,
    from those of the phases before; publish(params) writes the model so far.
    """
    settings, data = run.settings, run.settings.data
    empty = tokenize(tokenizer, [""])[0]
    preview_ids = tokenize(tokenizer, captions.scene_prompts(int(DEEPEST), PREVIEW_WORLD))
    noise = jax.random.normal(jax.random.key(settings.seed + 1), (len(preview_ids), *codec.shape))
    shapes = {name: abstract_params(module) for name, module in networks._asdict().items()}
    finished = {}  # what the preview needs of the phases before, once they have ended

    def preview(step, params):
        began, params = time.monotonic(), jax.device_get(params)
        latents = sample(params, preview_ids, empty, noise)
        pictures = to_bytes(codec.decode(finished["autoencoder"], latents))
        save_png(run.folder / f"samples_{step:06d}.png", contact_sheet(pictures))
        finished["publish"](params)
        logging.info("samples at step %d took %.0f s", step, time.monotonic() - began)

    texts = {"ids": described.ids, "empty": empty}
    latents = jax.ShapeDtypeStruct((data.trained_on, *codec.shape), jnp.float32)
    dropout = settings.diffusion.caption_dropout
    train_networks = run.prepare(
        "diffusion",
        shapes,
        {"latents": latents, **texts},
        "loss",
        loss=diffusion.make_loss(diffusion.Networks(*map(run.in_precision, networks))),
        choose=diffusion.choose_captions("diffusion", settings, data.trained_on, dropout),
        gather=diffusion.gather,
        preview=preview,
    )
    sample = diffusion.make_sampler(networks, PREVIEW_STEPS, PREVIEW_GUIDANCE)
    sample = Ahead(sample, shapes, preview_ids, empty, noise)
    initial = _initial(networks.unet, settings.seed + 3)

    def train(autoencoder: Any, text_encoder: Any, publish: Callable[[Any], None]) -> Any:
        finished.update(autoencoder=autoencoder, publish=publish)

        def start():
            return {"text_encoder": text_encoder, "unet": initial()}

        def load():
            firsts = range(0, data.trained_on, SHARD)
            parts = (run.renders.read(i, min(i + SHARD, data.trained_on)) for i in firsts)
            return {"latents": codec.encode(autoencoder, parts), **texts}

        return train_networks(start, load)

    return train
