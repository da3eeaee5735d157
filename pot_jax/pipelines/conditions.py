"""What a network is told beside latents and time: prepared once, handed to it at every step.

Conditions are a dict of arrays by the name of the UNet's argument. Each has one row for each row of
the network's batch: N, or, where guidance takes two halves, 2N rows [unconditional; conditional].

    text_states    [M, T, D]
    class_labels   [M] int32: the noise level of an upscaler's small pictures
    timestep_cond  [M, E]: the guidance scale, for networks that have guidance built in
    beside         [M, h, w, k]: channels that follow the latents' own; no argument, but more input

They lie in the sampler's `weights` as "conditions", and the sampler knows nothing of them.
"""

from collections.abc import Callable, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from pot_jax.diffusion import guidance
from pot_jax.errors import UserError
from pot_jax.models.layers import timestep_features
from pot_jax.parallel.mesh import split_rows
from pot_jax.weights.model import Model
from pot_jax.weights.tokenization import tokenize


def text_conditions(
    model: Model, prompts: Sequence[str], negative_prompt: str, guidance_scale: float
) -> dict[str, jax.Array]:
    """The conditions that any model has: its prompts, and how far to be guided by them.

    Args:
      model: whose text encoder reads the prompts.
      prompts: N texts.
      negative_prompt: what guidance leads away from.
      guidance_scale: s in u + s (c - u); with 1 there is no unconditional half.

    Raises:
      UserError: a prompt is too long, or a negative prompt is given to a network that has guidance
        built in, which was distilled with an empty one.
    """
    ids = tokenize(model.tokenizer, [*prompts, negative_prompt])
    states = _encode_text(model.text_encoder, model.params["text_encoder"], ids)
    *conditional, negative = states
    width = model.unet.config.time_cond_proj_dim
    if width is not None:
        if negative_prompt:
            raise UserError(
                f"negative_prompt: {model.name} has its guidance built in (time_cond_proj_dim) and "
                "takes no negative prompt; leave it empty"
            )
        scales = jnp.full(len(conditional), guidance_scale, jnp.float32)
        embedding = guidance_embedding(scales, width)
        return {"text_states": jnp.stack(conditional), "timestep_cond": embedding}
    unconditional = [negative] * len(conditional) if guidance_scale != 1 else []
    return {"text_states": jnp.stack(unconditional + conditional)}


@partial(jax.jit, static_argnums=0)
def _encode_text(text_encoder, params, ids):
    return text_encoder.apply({"params": params}, ids).astype(jnp.float32)


def guidance_embedding(guidance_scales: jax.Array, width: int) -> jax.Array:
    """What a network with built-in guidance is told of its scale (arXiv 2310.04378, section 4.3).

    The paper's w counts from the conditional prediction, c + w (c - u), so w = s - 1; its sines
    and cosines are those of a timestep 1000 w.

    Args:
      guidance_scales: s, [N].
      width: E, the network's time_cond_proj_dim.

    Returns:
      [N, E] float32.
    """
    return timestep_features(1000 * (guidance_scales - 1), width, False, 1)


def denoiser(
    unet: nn.Module,
    guidance_scale: float,
    mesh: jax.sharding.Mesh,
    rows_at_once: int | None = None,
    guidance_rescale: float = 0.0,
) -> Callable:
    """One network call for all levels and, with guidance, both halves: rows [uncond; cond].

    Args:
      unet: the network.
      guidance_scale: s, for conditions of two halves.
      mesh: the devices that the rows are split over.
      rows_at_once: the most rows computed at a time on each device; None means all.
      guidance_rescale: see `guidance.guide`.

    Returns:
      denoise(weights, z [N, h, w, c], timestep []) -> guided prediction [N, h, w, c] float32, where
      `weights` holds "unet" and "conditions".
    """

    def network(weights, z, timesteps, conditions):
        named = dict(conditions)
        if "beside" in named:
            z = jnp.concatenate([z, named.pop("beside")], axis=-1)
        return unet.apply({"params": weights["unet"]}, z, timesteps, **named)

    network = split_rows(network, mesh, rows_at_once)

    def denoise(weights, z, timestep):
        conditions = weights["conditions"]
        halves = len(conditions["text_states"]) // len(z)
        rows = jnp.concatenate([z] * halves)
        timesteps = jnp.broadcast_to(timestep, len(rows))
        prediction = network(weights, rows, timesteps, conditions).astype(jnp.float32)
        if halves == 1:
            return prediction
        return guidance.guide(*jnp.split(prediction, 2), guidance_scale, guidance_rescale)

    return denoise
