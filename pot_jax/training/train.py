"""Trains a shipped model from scratch: `pot-jax train --config=... --workdir=...`.

In order: views -> renders uint8 [n, S, S, 3] and captions -> vocabulary -> autoencoder -> latents
[n, S/f, S/f, c] and, if wanted, a tiny autoencoder; captions and labels -> text encoder; then text
encoder and UNet together -> a folder in diffusers' layout with its card. Other processes render and
describe the views, and all programs compile, while what is ready trains.

  config.json           the settings, itself a config, and the code; a workdir belongs to one run
  renders/              rendered views, made once
  descriptions.npz      their captions as token ids, and their labels
  checkpoints/<phase>/  states to resume from
  <phase>.csv, <phase>_loss.png, reconstructions_*.png, samples_*.png, scores.json
  model/                the model so far, whole at any time

After a kill at any moment, the same command resumes from the last saved step; SIGTERM saves one.
"""

import logging
import platform
import shutil
import time
from concurrent.futures import Executor
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from pot_jax.checks import require, to_dict, version
from pot_jax.media.files import write_json
from pot_jax.models import vae
from pot_jax.models.clip import CLIPTextConfig, CLIPTextModel
from pot_jax.models.unet import UNet2DConditionModel, UNetConfig
from pot_jax.parallel.mesh import device_mesh
from pot_jax.runs.checkpoints import Checkpoints
from pot_jax.runs.claims import check_free, claim, held, named_differences, read_json
from pot_jax.runs.interrupts import resuming
from pot_jax.runs.record import code_state
from pot_jax.training import diffusion, phases
from pot_jax.training.autoencoder import Codec
from pot_jax.training.card import write_card
from pot_jax.training.data import draw_views, render_views, worker_processes
from pot_jax.training.descriptions import Table, train_tokenizer
from pot_jax.training.loop import check_batch
from pot_jax.training.settings import CIRCUMSTANCES, FORMAT, TrainSettings, upgraded
from pot_jax.weights.digests import array_digests, combined_digest
from pot_jax.weights.export import export
from pot_jax.weights.model import Model
from pot_jax.weights.tokenization import tokenize
from pot_jax.world import captions, picture


def train(settings: TrainSettings, workdir: str) -> None:
    """Runs, or resumes, a training in `workdir`: a new folder, or one that holds this same run.

    `settings` are for instance those of a file in `configs/train/`, by `checks.build`. Raises
    UserError if they cannot work, the workdir is of another run, or the disk is full.
    """
    module = _autoencoder_module(settings)
    side = settings.data.size // module.config.downsample_factor
    # Before any work: the same networks, except for the vocabulary's size, which is not known yet.
    planned = _networks(settings, vocab_size=settings.tokenizer.vocabulary)
    tiny = _tiny_vae(settings, module) if settings.tiny_vae else None
    diffusion.check_sizes(planned, side, module.config.latent_channels, settings.tokenizer.length)
    mesh = device_mesh()
    for phase, optimization in settings.phases().items():
        check_batch(phase, optimization, mesh)
    folder = Path(workdir)
    check_free(folder / "config.json", what="training")
    if settings.renders:
        check_free(Path(settings.renders) / "views.json", what="set of renders", flag="renders")
    with held(folder), resuming(lambda: _where(folder)):
        _claim_workdir(folder, settings)
        with worker_processes(settings.data.workers) as processes:
            _train(settings, folder, mesh, module, tiny, processes)


def _train(settings: TrainSettings, folder: Path, mesh: Mesh, module, tiny, processes) -> None:
    kind = jax.devices()[0].device_kind
    logging.info("%d devices, %s", mesh.size, kind)
    path = folder / "scores.json"
    scores = read_json(path) if path.exists() else {"minutes": {}}
    scores["hardware"] = f"{mesh.size} x {kind} ({platform.machine()}), JAX {jax.__version__}"
    table = Table(folder / "descriptions.npz", settings, processes)
    renders = _start_rendering(settings, folder, scores, processes)
    run = phases.Run(settings, folder, mesh, renders, scores)

    views = draw_views(settings.data, settings.seed)[: settings.data.trained_on]
    texts = sum(captions.every_caption(views[: settings.tokenizer.captions], 2), [])
    tokenizer = train_tokenizer(texts, settings.tokenizer)
    tokenize(tokenizer, texts)  # fails at once where prompts are too short for the captions
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    specials = {name: getattr(tokenizer, name) for name in names}
    networks = _networks(settings, vocab_size=len(tokenizer), **specials)
    codec = Codec(module, mesh)
    train_autoencoder = phases.prepare_autoencoder(run, module, codec)
    distil = phases.prepare_tiny_vae(run, tiny, module) if tiny else None
    described = table.read(tokenizer)
    train_text_encoder = phases.prepare_text_encoder(run, networks.text_encoder, described)
    train_denoiser = phases.prepare_denoiser(run, networks, described, tokenizer, codec)
    autoencoder = train_autoencoder()
    tiny_params = {"tiny_vae": distil(autoencoder)} if distil else {}
    text_encoder = train_text_encoder()

    def publish(params) -> None:
        """Replaces the model by a newer one, so that the folder is whole at any time."""
        params = jax.device_get({**params, "autoencoder": autoencoder, **tiny_params})
        model = Model(
            name=settings.name,
            **networks._asdict(),
            autoencoder=module,
            tiny_vae=tiny,
            tokenizer=tokenizer,
            schedule=diffusion.SCHEDULE,
            params=params,
            digest=combined_digest(array_digests(params)),
            source=str(folder),
        )
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)
        export(model, new, dtype=jnp.float16)
        write_card(new, model, settings, scores)
        if target.exists():
            target.rename(old)
        new.rename(target)
        shutil.rmtree(old, ignore_errors=True)

    target, new, old = (folder / name for name in ("model", "model.new", "model.old"))
    train_denoiser(autoencoder, text_encoder, publish)
    logging.info("the model is in %s", target)


def _where(folder: Path) -> str:
    saved = (folder / "checkpoints").glob("*")
    for phase in sorted(saved, key=lambda phase: phase.stat().st_mtime, reverse=True):
        if step := Checkpoints(phase).latest_step():
            return f"the same command resumes from step {step} of {phase.name}"
    return "no state was saved yet; the same command continues with what is in the workdir"


def _claim_workdir(folder: Path, settings: TrainSettings) -> None:
    path, data = folder / "config.json", to_dict(settings)
    record = {"format": FORMAT, "config": data, "version": version(), "code": code_state()}

    def differing(found):
        rows = named_differences(upgraded(found, str(path))["config"], data)
        return [row for row in rows if not row.startswith(CIRCUMSTANCES)]

    found = claim(path, record, what="training", differing=differing)
    if found is not None and found.get("format") != FORMAT:
        write_json(path, record)


def _start_rendering(settings: TrainSettings, folder: Path, scores: dict, processes: Executor):
    began = time.monotonic()

    def progress(done, total):
        if done % 4096 == 0 or done == total:
            logging.info("rendered %d of %d views", done, total)
        if done == total:
            scores["minutes"].setdefault("data", (time.monotonic() - began) / 60)

    place = Path(settings.renders) if settings.renders else folder / "renders"
    return render_views(place, settings.data, settings.seed, picture, processes, progress)


def _autoencoder_module(settings: TrainSettings) -> vae.AutoencoderKL:
    given = settings.autoencoder.model
    blocks = len(given["block_out_channels"])
    usual = {
        "sample_size": settings.data.size,
        "down_block_types": ["DownEncoderBlock2D"] * blocks,
        "up_block_types": ["UpDecoderBlock2D"] * blocks,
        "scaling_factor": 1.0,  # `standardise` puts the scale into the weights
    }
    module = vae.AutoencoderKL(vae.AutoencoderKLConfig.from_json(usual | given))
    factor, size = module.config.downsample_factor, settings.data.size
    why = f"latents are {factor} times as coarse, and halved once more in its loss"
    expected = f"a multiple of {2 * factor} for an autoencoder of {blocks} blocks ({why})"
    require(size % (2 * factor) == 0, "data.size", expected, size)
    return module


def _tiny_vae(settings: TrainSettings, module: vae.AutoencoderKL) -> vae.AutoencoderTiny:
    usual = {"latent_channels": module.config.latent_channels, "scaling_factor": 1.0}
    tiny = vae.AutoencoderTiny(vae.AutoencoderTinyConfig.from_json(usual | settings.tiny_vae.model))
    came, wanted = tiny.config.downsample_factor, module.config.downsample_factor
    require(came == wanted, "tiny_vae.model", f"stages that shrink pictures by {wanted}", came)
    return tiny


def _networks(settings: TrainSettings, **vocabulary: int) -> diffusion.Networks:
    usual = {**vocabulary, "max_position_embeddings": settings.tokenizer.length}
    text = CLIPTextConfig.from_json(usual | settings.text_encoder.model)
    autoencoder = _autoencoder_module(settings).config
    usual = dict.fromkeys(("in_channels", "out_channels"), autoencoder.latent_channels)
    usual["sample_size"] = settings.data.size // autoencoder.downsample_factor
    usual["cross_attention_dim"] = text.hidden_size
    unet = UNetConfig.from_json(usual | settings.diffusion.unet)
    return diffusion.Networks(CLIPTextModel(text), UNet2DConditionModel(unet))
