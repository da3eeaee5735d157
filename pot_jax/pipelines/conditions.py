"""Conditions: a network's inputs besides latents and timestep, prepared once for all steps.

Conditions are a dict of arrays by the name of the UNet's argument, each for M batch rows: M = N, or
if guidance needs two halves, M = 2N, [unconditional; conditional].

    text_states    [M, T, D]; of prompts read in k chunks, [M, k T, D]; D of all encoders together
    pooled         [M, E]: the projected state at the end of the prompt, or of its first chunk
    time_ids       [M, 6]: the sizes and the crop that SDXL is told, in pixels
    class_labels   [M] int32: the noise level of an upscaler's small pictures
    timestep_cond  [M, E]: the guidance scale, for networks that have guidance built in
    channels       [M, h, w, k]: extra channels, concatenated after the latents; not a UNet argument
    text_keys      arrays [M, T, ..], from the text (`with_text_keys`), in which alone halves differ

The sampler's `weights` hold them as "conditions"; the sampler itself knows nothing of them.
"""

from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pot_jax.config import SIZES, SamplerSettings
from pot_jax.diffusion import guidance
from pot_jax.diffusion.guidance import clean_from_prediction, limiter
from pot_jax.diffusion.schedule import ScheduleConfig
from pot_jax.diffusion.solvers import Denoised
from pot_jax.errors import UserError, few
from pot_jax.models.layers import TEXT, repeated, text_keys, timestep_features
from pot_jax.parallel.mesh import computed, gathering, sharing, split_rows
from pot_jax.weights.emphasis import read_prompts
from pot_jax.weights.keys import abstract_params
from pot_jax.weights.model import FAMILIES, Model
from pot_jax.weights.tokenization import prompt_notices

# Those in which guidance's halves differ in the text alone; until they read it, halves are equal.
_COMMON = {"text_states", "text_keys", "class_labels", "timestep_cond", "channels"}


class Conditions(NamedTuple):
    """The conditions of N levels or pictures."""

    arrays: dict[str, jax.Array | np.ndarray]
    guided: bool  # whether they have an unconditional half
    # [N + 1, T] int32, the negative prompt last; [2 N, T] for one a level; of k chunks [.., k, T];
    # of several tokenizers [E, ...].
    token_ids: np.ndarray
    notices: tuple[str, ...] = ()  # what the user should be told, in one line each
    token_weights: np.ndarray | None = None  # of the same shape, float32; None: all 1
    zeroed: tuple[bool, ...] = ()  # which negative prompts have zeros for states; (): none

    @property
    def read(self) -> Any:
        """Returns what the text encoders read, as plain data for a digest."""
        weights = None if self.token_weights is None else self.token_weights.tolist()
        found = {"ids": self.token_ids.tolist(), "weights": weights, "zeroed": self.zeroed}
        found = {name: value for name, value in found.items() if value}
        return found if len(found) > 1 else found["ids"]

    def joined(self, name: str, rows: np.ndarray) -> "Conditions":
        """Returns the conditions plus one named `name`, rows [N, ...], repeated for both halves."""
        rows = np.concatenate([rows] * (2 if self.guided else 1))
        return self._replace(arrays=self.arrays | {name: rows})


def text_conditions(
    model: Model,
    prompts: Sequence[str],
    negative_prompt: str | Sequence[str],
    guidance_scale: float | Sequence[float],
    guided: bool = False,
    *,
    weighted: bool = False,
    long: bool = False,
) -> Conditions:
    """Returns the conditions common to all models: N prompts and the guidance scale.

    The negative prompt and the scale are one for all levels, or N. `weighted` and `long` say how
    prompts are read (`weights.emphasis.read_prompts`).

    As in diffusers, a scale s in u + s (c - u) of 1 or less means no guidance, and there is no
    unconditional half, unless a guidance of the caller's own needs it (`guided`); a network that
    has guidance built in takes any scale. Text states are only a shape if the model's weights have
    not been read. Raises UserError if a prompt is too long; float16 is to run on a CPU; or a
    network with guidance built in, which was distilled with an empty negative prompt, is given
    another.
    """
    if model.unet.dtype == jnp.float16 and jax.default_backend() == "cpu":
        raise UserError("dtype: a CPU does not compute in float16; use float32 or bfloat16")
    width = model.unet.config.time_cond_proj_dim
    negatives = [negative_prompt] if isinstance(negative_prompt, str) else [*negative_prompt]
    if width is not None and any(negatives):
        raise UserError(
            f"negative_prompt: {model.name} has its guidance built in (time_cond_proj_dim) and "
            "takes no negative prompt; leave it empty"
        )
    texts = [*prompts, *negatives]
    family = FAMILIES[model.pipeline]
    tokenizers = [getattr(model, encoder.tokenizer) for encoder in family.encoders]
    read = [read_prompts(one, texts, weighted=weighted, long=long) for one in tokenizers]
    ids, weights = zip(*read)
    if len({rows.shape for rows in ids}) > 1:
        raise UserError(f"{model.name}: its tokenizers do not take the prompts in as many chunks")
    ends = [(rows == one.eos_token_id).argmax(-1) for rows, one in zip(ids, tokenizers)]
    notices = prompt_notices(model.tokenizer, texts, weighted=weighted, long=long)
    own, guided = guided, width is None and (guided or bool(np.max(guidance_scale) > 1))
    empty = tuple(not text.strip() for text in negatives)
    zeroed = empty if model.zeros and guided and any(empty) else ()
    encoders = tuple((getattr(model, encoder.component), encoder) for encoder in family.encoders)
    encode = partial(_text_rows, encoders, guided, len(prompts))
    params = [model.params[encoder.component] for encoder in family.encoders]
    zeros = np.array(zeroed) if zeroed else None
    arrays = {**computed(encode, params, ids, weights, ends, zeros)}
    if width is not None:
        scales = np.full(len(prompts), guidance_scale, np.float32)
        arrays["timestep_cond"] = np.asarray(guidance_embedding(scales, width))
    elif not own:
        notices += _unguided(guidance_scale, negatives)
    ids, weights = map(_stacked, (ids, weights))
    return Conditions(arrays, guided, ids, notices, weights, zeroed)


def _stacked(rows: Sequence[np.ndarray | None]) -> np.ndarray | None:
    return rows[0] if len(rows) == 1 or rows[0] is None else np.stack(rows)


def with_sizes(
    conditions: Conditions, model: Model, s: SamplerSettings, height: int, width: int
) -> Conditions:
    """Returns the conditions plus `time_ids`, for a model that is told of sizes.

    Settings that are left out are those of pictures of `height` x `width`, all of which is seen;
    negative ones are as the others. Raises UserError if they are given to another model.
    """
    if model.unet.config.addition_embed_type is None:
        if given := [name for name in SIZES if getattr(s, name)]:
            told = f"expected none, since {model.name} is not told of sizes, as SDXL is"
            came = f"got {getattr(s, given[0])}; leave it out"
            raise UserError(f"sampler.{given[0]}: {told}, {came}")
        return conditions
    usual = (height, width), (0, 0), (height, width)
    sizes = [getattr(s, name) or usual[i] for i, name in enumerate(SIZES[:3])]
    negative = [getattr(s, name) or sizes[i] for i, name in enumerate(SIZES[3:])]
    rows = ([negative] if conditions.guided else []) + [sizes]
    levels = len(conditions.arrays["text_states"]) // len(rows)
    told = np.float32(rows).reshape(-1, 6).repeat(levels, axis=0)
    return conditions._replace(arrays=conditions.arrays | {"time_ids": told})


def _unguided(scales: Any, negatives: Sequence[str]) -> tuple[str, ...]:
    """Returns a line if there is no guidance, or none at some levels."""
    where = [str(level) for level, scale in enumerate(np.atleast_1d(scales)) if scale <= 1]
    if isinstance(scales, Sequence) or not where:
        said = f"the guidance_scale of level {few(where)}, being 1 or less, means none there"
        return (said,) if where else ()
    notice = f"guidance_scale {scales:g}, being 1 or less, means no guidance"
    return (notice + ", so the negative prompt has no effect" * any(negatives),)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _text_rows(encoders, guided, levels, params, ids, weights, ends, zeros):
    """Returns the conditions that text encoders give; a list of each argument, one an encoder."""
    joined, found = [], {}
    for number, (module, encoder) in enumerate(encoders):
        tokens, how = ids[number], {} if encoder.skip is None else {"skip": encoder.skip}
        rows = tokens.reshape(-1, tokens.shape[-1])
        if encoder.pooled:
            how["ends"] = ends[number].reshape(-1)
        states = module.apply({"params": params[number]}, rows, **how)
        if encoder.pooled:
            states, pooled = states
            found["pooled"] = pooled.reshape(len(tokens), -1, pooled.shape[-1])[:, 0]
        if weights[number] is not None:
            states = weighted_states(states, weights[number].reshape(rows.shape))
        joined.append(states.reshape(len(tokens), -1, states.shape[-1]))
    found["text_states"] = jnp.concatenate(joined, axis=-1) if joined[1:] else joined[0]

    def halves(rows):
        conditional, negative = rows[:levels], rows[levels:]
        if not guided:
            return conditional
        if zeros is not None:
            negative = jnp.where(zeros.reshape(-1, *[1] * (rows.ndim - 1)), 0, negative)
        return jnp.concatenate([jnp.broadcast_to(negative, conditional.shape), conditional])

    return {name: halves(rows) for name, rows in found.items()}


def weighted_states(states: jax.Array, weights: jax.Array) -> jax.Array:
    """Returns text states [M, T, D] times their tokens' weights [M, T], each row's mean as before.

    AUTOMATIC1111's rule ("Original" of its settings for emphasis).
    """
    weighted = states * weights[..., None]
    before, after = (jnp.mean(x, axis=(1, 2), keepdims=True) for x in (states, weighted))
    return weighted * (before / after)


@partial(jax.jit, static_argnums=1)
def guidance_embedding(guidance_scales: jax.Array, width: int) -> jax.Array:
    """Returns the guidance scale in the form that a network with built-in guidance takes.

    The paper's w (arXiv 2310.04378, section 4.3) counts from the conditional prediction,
    c + w (c - u), so w = s - 1; its sines and cosines are those of a timestep 1000 w. Scales s are
    [N], the width E is the network's time_cond_proj_dim, and the result [N, E] float32.
    """
    return timestep_features(1000 * (guidance_scales - 1), width, False, 1)


def with_text_keys(unet: nn.Module, chunk: Callable) -> Callable:
    """Returns `chunk(weights, ...)`, all of whose steps have the text's keys and values."""

    @wraps(chunk)
    def sharing(weights, *rest):
        conditions = weights["conditions"]
        keys = text_keys(weights["unet"], conditions["text_states"], unet.dtype)
        return chunk(weights | {"conditions": conditions | {"text_keys": keys}}, *rest)

    return sharing


def denoiser(
    unet: nn.Module,
    schedule: ScheduleConfig,
    guide: guidance.Guidance,
    guided: bool,
    mesh: jax.sharding.Mesh,
    rows_at_once: int | None = None,
) -> Callable[..., tuple[Denoised, object]]:
    """Returns the sampler's `denoise`: one network call for all levels and both halves.

    It is denoise(weights, z [N, h, w, c], row, memory) -> (Denoised, memory), where `weights` holds
    "unet", "conditions" and, for two halves (`guided`), the numbers "guidance". Batch rows are
    split over the mesh; each device computes at most `rows_at_once` at a time, None: all. Where
    every device can have both halves of its levels, what they share is computed once.
    """
    limit, kind = limiter(schedule), schedule.prediction_type
    sides = 2 if guided else 1

    def to_clean(prediction, z, row):
        return limit(clean_from_prediction(prediction, z, row.alpha, row.sigma, kind))

    def network(given, z, conditions):
        """Predicts [M, R, h, w, c] of M rows z, each under R conditions, [M, R, ...]."""
        (params, timestep), named = given, dict(conditions)
        text = named.pop("text_states"), named.pop("text_keys", {})
        states, keys = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), text)
        named = {name: x[:, 0] for name, x in named.items()}
        if "channels" in named:
            z = jnp.concatenate([z, named.pop("channels")], axis=-1)
        with gathering(params, partial(abstract_params, unet), mesh):
            variables = {"params": params, TEXT: keys}
            prediction = unet.apply(variables, z, timestep, text_states=states, **named)
        return prediction.reshape(len(z), -1, *prediction.shape[1:])

    def denoise(weights, z, row, memory):
        levels, given = len(z), weights["conditions"]
        apart = levels % sharing(mesh) or rows_at_once == 1 or not given.keys() <= _COMMON
        rows, each = (levels * sides, 1) if apart else (levels, sides)

        def by_row(x):  # from [2 N, ...], a half after the other
            x = jnp.moveaxis(x.reshape(sides, levels, *x.shape[1:]), 0, 1)
            return x.reshape(rows, each, *x.shape[2:])

        predict = split_rows(network, mesh, rows_at_once and rows_at_once // each)
        conditions = jax.tree.map(by_row, given)
        prediction = predict((weights["unet"], row.timestep), repeated(z, rows), conditions)
        prediction = prediction.astype(jnp.float32).reshape(levels, sides, *z.shape[1:-1], -1)
        halves, renoise = [prediction[:, i] for i in range(sides)], None
        prediction = halves[0]
        if guided:
            (prediction, renoise), memory = guide.combine(*halves, weights["guidance"], memory)
        clean = to_clean(prediction, z, row)
        renoised = clean if renoise is None else to_clean(renoise, z, row)
        return Denoised(clean, renoised), memory

    return denoise
