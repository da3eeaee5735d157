"""Training of the denoiser: text encoder and UNet together, on the autoencoder's latents.

Symbols: z_0 clean latents [B, h, w, c], eps unit noise, z_t = alpha_t z_0 + sigma_t eps what the
UNet sees, v = alpha_t eps - sigma_t z_0 its target (arXiv 2202.00512); T tokens.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pot_jax.diffusion.guidance import CLASSIFIER_FREE, Numbers, prediction_target
from pot_jax.diffusion.sampler import Parts, chunks, key_of, make_chunk, make_step, start
from pot_jax.diffusion.schedule import ScheduleConfig, signal_and_noise
from pot_jax.diffusion.solvers import SOLVERS
from pot_jax.errors import UserError
from pot_jax.models.clip import CLIPTextModel
from pot_jax.models.unet import UNet2DConditionModel
from pot_jax.parallel.mesh import device_mesh
from pot_jax.pipelines.conditions import denoiser
from pot_jax.training.data import STREAMS, batch_indices
from pot_jax.training.loop import Loss
from pot_jax.training.settings import TrainSettings
from pot_jax.zoom.agreement import leave_alone

# Zero terminal SNR with v-prediction and trailing steps (arXiv 2305.08891): without it the noisiest
# step in training still shows the mean colour, and every sample comes out mid-grey.
SCHEDULE = ScheduleConfig(
    beta_schedule="scaled_linear",
    beta_start=0.00085,
    beta_end=0.012,
    prediction_type="v_prediction",
    timestep_spacing="trailing",
    rescale_betas_zero_snr=True,
)


class Networks(NamedTuple):
    """The two networks trained here; their parameters are named after the fields."""

    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel

    def __call__(self, params: dict[str, Any], latents, timesteps, ids) -> jax.Array:
        """Returns the prediction for latents [B, h, w, c], timesteps [B] and token ids [B, T]."""
        states = self.text_encoder.apply({"params": params["text_encoder"]}, ids)
        return self.unet.apply({"params": params["unet"]}, latents, timesteps, states)


def make_loss(networks: Networks) -> Loss:
    """Returns the mean squared error of v, over {"latents": [B, h, w, c], "ids": int32 [B, T]}.

    In terms of z_0, a timestep has weight 1 + SNR. (Min-SNR, arXiv 2303.09556, would give weight 0
    to the terminal timestep, from which every sample starts.)
    """
    table = [np.asarray(x, np.float32) for x in signal_and_noise(SCHEDULE)]
    count = SCHEDULE.num_train_timesteps

    def loss(params, batch, key):
        latents = batch["latents"].astype(jnp.float32)
        size = latents.shape[0]
        noise_key, time_key = jax.random.split(key)
        eps = jax.random.normal(noise_key, latents.shape)
        # One timestep in each B-th part of the range: every batch sees all noise levels.
        offsets = jax.random.uniform(time_key, (size,))
        places = (jnp.arange(size, dtype=jnp.float32) + offsets) / size
        timesteps = jnp.minimum((places * count).astype(jnp.int32), count - 1)
        alpha, sigma = (jnp.asarray(x)[timesteps, None, None, None] for x in table)
        noisy = alpha * latents + sigma * eps
        target = prediction_target(latents, eps, alpha, sigma, SCHEDULE.prediction_type)
        squares = (networks(params, noisy, timesteps, batch["ids"]) - target) ** 2
        errors, third = squares.mean(axis=(1, 2, 3)), size // 3
        parts = {"loss_clean": errors[:third].mean(), "loss_noisy": errors[-third:].mean()}
        return errors.mean(), parts if third else {}

    return loss


def choose_captions(
    stream: str, settings: TrainSettings, count: int, dropout: float = 0.0
) -> Callable[[int], dict[str, np.ndarray]]:
    """Returns choose(step) -> which of `count` views, and a phrasing of each: int32 [B].

    A part `dropout` of the phrasings are -1, no caption, as guidance needs (arXiv 2207.12598).
    """
    seed, batch_size = settings.seed, settings.phases()[stream].batch_size

    def choose(step: int) -> dict[str, np.ndarray]:
        views = batch_indices(seed, step, batch_size, count)
        rng = np.random.default_rng([seed, STREAMS[stream], step])
        phrasings = rng.integers(settings.data.phrasings, size=batch_size)
        dropped = np.random.default_rng([seed, STREAMS["dropout"], step]).random(batch_size)
        phrasings = np.where(dropped < dropout, -1, phrasings)
        return {"views": views.astype(np.int32), "phrasings": phrasings.astype(np.int32)}

    return choose


def gather_ids(ids: jax.Array, chosen: dict[str, jax.Array]) -> jax.Array:
    """Returns token ids int32 [B, T] of chosen captions, from the table int16 [P, n, T]."""
    return ids[chosen["phrasings"], chosen["views"]].astype(jnp.int32)


def gather(data: dict[str, jax.Array], chosen: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns the batch of `make_loss` that was chosen.

    data: {"latents": [n, h, w, c], "ids": int16 [P, n, T], "empty": [T] of the empty prompt}.
    """
    dropped = chosen["phrasings"][:, None] < 0
    ids = jnp.where(dropped, data["empty"][None].astype(jnp.int32), gather_ids(data["ids"], chosen))
    return {"latents": data["latents"][chosen["views"]], "ids": ids}


def check_sizes(networks: Networks, latent_side: int, channels: int, length: int) -> None:
    """Raises UserError where UNet, text encoder, prompts and latents do not fit together."""
    unet, text = networks.unet.config, networks.text_encoder.config
    blocks = len(unet.block_out_channels)
    for name, came, wanted in (
        ("in_channels", unet.in_channels, channels),
        ("out_channels", unet.out_channels, channels),
        ("cross_attention_dim", unet.cross_attention_dim, text.hidden_size),
    ):
        if came != wanted:
            wrong = f"{name} is {came}, where the other networks have {wanted}"
            raise UserError(f"diffusion.unet.{wrong}; leave it out")
    if latent_side % 2 ** (blocks - 1):
        wrong = f"do not halve {blocks - 1} times for a UNet of {blocks} blocks"
        how = "use fewer blocks or larger pictures"
        raise UserError(f"latents of {latent_side} x {latent_side} {wrong}; {how}")
    if length > text.max_position_embeddings:
        positions = f"a text encoder of {text.max_position_embeddings} positions"
        raise UserError(f"prompts of {length} tokens do not fit {positions}")


def make_sampler(networks: Networks, steps: int, guidance_scale: float) -> Callable[..., jax.Array]:
    """Returns DDIM for previews: sample(params, ids [B, T], empty [T], noise [B, h, w, c]).

    The joint sampler on one device, whose levels are here B pictures that need not agree.
    """
    no_noise = lambda key: jnp.float32(0)  # noqa: E731 - DDIM with eta 0 adds none
    mesh = device_mesh(devices=jax.local_devices()[:1])
    denoise = denoiser(networks.unet, SCHEDULE, CLASSIFIER_FREE, guided=True, mesh=mesh)
    parts = Parts(denoise, leave_alone, no_noise, no_noise, SOLVERS["ddim"])
    plan = parts.solver.plan(SCHEDULE, steps)
    rows, active, _ = next(chunks(plan, steps))

    @jax.jit
    def sample(params, ids, empty, noise):
        both = jnp.concatenate([jnp.broadcast_to(empty, ids.shape), ids])
        states = networks.text_encoder.apply({"params": params["text_encoder"]}, both)
        weights = {"unet": params["unet"], "conditions": {"text_states": states}}
        weights["guidance"] = Numbers(guidance_scale, rescale=0.0)
        state = start(parts, plan.init_scale, key_of(0), noise)
        return make_chunk(make_step(parts))(weights, state, rows, active)[0].latents

    return sample
