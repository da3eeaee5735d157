import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pot_jax.checks import build
from pot_jax.config import read
from pot_jax.diffusion.schedule import signal_and_noise
from pot_jax.errors import UserError
from pot_jax.models.clip import CLIPTextConfig, CLIPTextModel
from pot_jax.models.layers import repeated
from pot_jax.models.unet import UNet2DConditionModel, UNetConfig
from pot_jax.training import diffusion
from pot_jax.training.diffusion import SCHEDULE, Networks
from pot_jax.training.settings import TrainSettings

SHAPE = (6, 4, 4, 2)


class Echo(nn.Module):
    """A text encoder whose states are the token ids themselves."""

    @nn.compact
    def __call__(self, ids):
        return ids[..., None].astype(jnp.float32)


class Knowing(nn.Module):
    """A denoiser that knows the clean latents: the first token id, everywhere."""

    @nn.compact
    def __call__(self, latents, timesteps, text_states):
        alpha, sigma = (jnp.asarray(x, jnp.float32) for x in signal_and_noise(SCHEDULE))
        timesteps = jnp.atleast_1d(timesteps).astype(int)
        alpha, sigma = (x[timesteps][:, None, None, None] for x in (alpha, sigma))
        latents = repeated(latents, len(text_states))  # guidance's halves have the same
        clean = jnp.broadcast_to(text_states[:, :1, None], latents.shape)
        eps = (latents - alpha * clean) / sigma
        return alpha * eps - sigma * clean


KNOWING = Networks(Echo(), Knowing())
NO_PARAMS = {"text_encoder": {}, "unet": {}}


def batch():
    ids = np.arange(1, 1 + SHAPE[0], dtype=np.int32)[:, None] * np.ones((1, 3), np.int32)
    latents = np.broadcast_to(ids[:, :1, None, None], SHAPE).astype(np.float32)
    return {"latents": latents, "ids": ids}


def test_the_schedule_ends_in_pure_noise():
    alpha, sigma = signal_and_noise(SCHEDULE)
    assert alpha[-1] == 0
    assert sigma[-1] == 1


def test_a_denoiser_that_knows_the_answer_has_no_loss():
    loss, parts = diffusion.make_loss(KNOWING)(NO_PARAMS, batch(), jax.random.key(0))
    # eps is a difference divided by sigma, at least 0.03: rounding of float32 times 30.
    assert float(loss) < 1e-6
    assert set(parts) == {"loss_clean", "loss_noisy"}


def test_the_loss_of_knowing_nothing_is_that_of_the_target():
    """Predicting 0 costs E v^2 = alpha^2 + sigma^2 z_0^2, which is 1 for unit latents."""

    class Silent(nn.Module):
        @nn.compact
        def __call__(self, latents, timesteps, text_states):
            return jnp.zeros_like(latents)

    latents = jax.random.normal(jax.random.key(5), (64, 16, 16, 2))
    given = {"latents": latents, "ids": np.ones((64, 3), np.int32)}
    networks = KNOWING._replace(unet=Silent())
    loss, _ = diffusion.make_loss(networks)(NO_PARAMS, given, jax.random.key(0))
    assert float(loss) == pytest.approx(1.0, abs=5 * np.sqrt(2 / latents.size))


def test_the_sampler_returns_what_the_denoiser_knows():
    sample = diffusion.make_sampler(KNOWING, 5, 1.0)
    noise = jax.random.normal(jax.random.key(1), SHAPE)
    given = batch()
    latents = sample(NO_PARAMS, given["ids"], np.zeros(3, np.int32), noise)
    np.testing.assert_allclose(latents, given["latents"], atol=1e-4)


def test_guidance_goes_beyond_the_prompt_away_from_the_empty_one():
    sample = diffusion.make_sampler(KNOWING, 5, 3.0)
    noise = jax.random.normal(jax.random.key(1), SHAPE)
    given = batch()
    latents = sample(NO_PARAMS, given["ids"], np.zeros(3, np.int32), noise)
    np.testing.assert_allclose(latents, 3 * given["latents"], atol=1e-3)


TRAINING = build(TrainSettings, read("cosmos64", "train"))


def test_captions_are_chosen_and_dropped_at_the_rate_asked_for():
    choose = diffusion.choose_captions("diffusion", TRAINING, 1000, dropout=0.1)
    several = [choose(step) for step in range(300)]
    phrasings = np.concatenate([chosen["phrasings"] for chosen in several])
    assert set(phrasings) == set(range(-1, TRAINING.data.phrasings))
    n = len(phrasings)
    assert (phrasings < 0).mean() == pytest.approx(0.1, abs=5 * np.sqrt(0.09 / n))
    views = np.concatenate([chosen["views"] for chosen in several])
    assert sorted(views[:1000]) == list(range(1000))
    for name, array in choose(7).items():
        np.testing.assert_array_equal(array, several[7][name])
    kept = diffusion.choose_captions("diffusion", TRAINING, 1000)(7)["phrasings"]
    dropped = several[7]["phrasings"] < 0
    assert (kept >= 0).all()
    np.testing.assert_array_equal(kept[~dropped], several[7]["phrasings"][~dropped])


def test_a_batch_is_gathered_as_it_was_chosen():
    rng = np.random.default_rng(0)
    data = {
        "latents": rng.normal(size=(5, 2, 2, 3)).astype(np.float32),
        "ids": rng.integers(0, 2**15, (4, 5, 6)).astype(np.int16),
        "empty": np.arange(6, dtype=np.int32),
    }
    chosen = {"views": np.array([4, 0, 4, 2]), "phrasings": np.array([3, -1, 0, 1])}
    batch = jax.jit(diffusion.gather)(data, jax.tree.map(jnp.int32, chosen))
    np.testing.assert_array_equal(batch["latents"], data["latents"][chosen["views"]])
    expected = [data["ids"][3, 4], data["empty"], data["ids"][0, 4], data["ids"][1, 2]]
    np.testing.assert_array_equal(batch["ids"], expected)
    assert batch["ids"].dtype == jnp.int32


def networks(blocks=2, positions=8):
    unet = UNetConfig(
        down_block_types=("DownBlock2D",) * blocks,
        up_block_types=("UpBlock2D",) * blocks,
        block_out_channels=(32,) * blocks,
        cross_attention_dim=768,  # of the text encoder
    )
    return Networks(
        CLIPTextModel(CLIPTextConfig(max_position_embeddings=positions)),
        UNet2DConditionModel(unet),
    )


def test_sizes_that_do_not_fit_are_refused():
    diffusion.check_sizes(networks(), 4, 4, 8)
    with pytest.raises(UserError, match="latents of 6 x 6 do not halve 2 times"):
        diffusion.check_sizes(networks(blocks=3), 6, 4, 8)
    with pytest.raises(UserError, match="9 tokens do not fit a text encoder of 8"):
        diffusion.check_sizes(networks(), 4, 4, 9)
