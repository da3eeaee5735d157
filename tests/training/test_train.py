"""A whole training in miniature: a few steps of the smallest networks, on the real world."""

import copy
import json
import math
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import pot_jax.weights.load
from configs.train import cosmos64, cosmos64_gpu
from pot_jax.errors import UserError
from pot_jax.parallel.mesh import device_mesh
from pot_jax.runs.checkpoints import Checkpoints
from pot_jax.training import diffusion, phases
from pot_jax.training import train as training
from pot_jax.training.data import Views, draw_views
from pot_jax.training.loop import start_state
from pot_jax.training.settings import read_settings
from pot_jax.training.text_encoder import start_heads
from pot_jax.training.train import train
from pot_jax.weights.keys import abstract_params
from pot_jax.world.labels import Labels


def tiny() -> dict:
    """The shipped recipe, made small."""
    config = cosmos64.get_config().to_dict()
    config["data"] |= {"pictures": 24, "held_out": 8, "size": 16, "workers": 1, "phrasings": 2}
    config["tokenizer"] |= {"vocabulary": 640, "captions": 8, "length": 160}
    config["autoencoder"]["model"] |= {"block_out_channels": [8, 8], "norm_num_groups": 4}
    config["autoencoder"]["descent"] |= {"batch": 8, "steps": 2, "minutes": 0.0}
    config["text_encoder"]["descent"] |= {"batch": 8, "steps": 2}
    # A rate of nearly nothing, to see what the phase began with.
    config["diffusion"]["descent"] |= {
        "batch": 8,
        "steps": 2,
        "minutes": 0.0,
        "learning_rate": 1e-9,
    }
    config["text_encoder"]["model"] |= {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config["diffusion"]["unet"] |= {
        "block_out_channels": [8],
        "down_block_types": ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"],
        "norm_num_groups": 4,
        "attention_head_dim": 2,
    }
    config["visits"] |= {"log_steps": 1}
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("training") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phases, "SHOWN_STEPS", 2)
        train(tiny(), str(workdir))
    return workdir


def test_the_model_it_leaves_can_be_loaded(finished):
    model = pot_jax.weights.load.load(finished / "model")
    assert model.schedule.prediction_type == "v_prediction"
    assert model.schedule.rescale_betas_zero_snr
    assert model.autoencoder.config.downsample_factor == 2
    assert model.tokenizer.model_max_length == 160
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(model.params))


def test_the_card_says_what_was_done(finished):
    card = (finished / "model" / "README.md").read_text()
    for words in (
        "license: apache-2.0",
        "16 rendered views",
        "2 steps.\nText encoder on labels: Adam",
        "ladybug",
    ):
        assert words in card
    settings = card.split("```json\n")[1].split("```")[0]
    assert read_settings(json.loads(settings)) == read_settings(tiny())


def test_curves_pictures_and_scores_are_files(finished):
    table = (finished / "diffusion.csv").read_text().splitlines()
    assert table[0].startswith("step,seconds,images_per_second,learning_rate,")
    assert len(table) == 1 + 2
    for name in ("autoencoder_loss.png", "reconstructions_000002.png", "samples_000002.png"):
        assert np.asarray(Image.open(finished / name)).ndim == 3
    scores = json.loads((finished / "scores.json").read_text())
    for phase in ("autoencoder", "text_encoder", "diffusion"):
        assert scores[f"{phase}_steps"] == 2
        assert len((finished / f"{phase}.csv").read_text().splitlines()) == 1 + 2
    assert scores["autoencoder_held_out_psnr"] > 0


def test_the_denoiser_begins_with_the_text_encoder_that_has_learnt_to_read(finished):
    model = pot_jax.weights.load.load(finished / "model")
    phase = Checkpoints(finished / "checkpoints" / "text_encoder")
    settings = read_settings(tiny())
    views = draw_views(settings.data, settings.seed)
    labels = Labels(Views(*(x[:16] for x in views)))
    start = {
        "text_encoder": model.params["text_encoder"],
        "heads": start_heads(8, labels.classes),
    }
    _, state, _ = phase.restore(start_state(start, settings.text_encoder.descent, device_mesh()))
    # The shipped weights are float16.
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6),
        model.params["text_encoder"],
        jax.device_get(state.average["text_encoder"]),
    )


def test_a_finished_run_is_left_as_it_is(finished):
    weights = (finished / "model" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phases, "SHOWN_STEPS", 2)
        train(tiny(), str(finished))
    again = (finished / "model" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert again == weights


def test_sigterm_is_told_once_training_is_under_way_and_not_after():
    before = signal.getsignal(signal.SIGTERM)
    with training._preemption() as stopping:
        assert not stopping()
        signal.raise_signal(signal.SIGTERM)
        assert stopping()
    assert signal.getsignal(signal.SIGTERM) == before


def test_bfloat16_is_of_the_arithmetic_not_of_the_weights():
    settings = read_settings(tiny() | {"precision": "bfloat16"})
    run = phases.Run(settings, None, None, None, {}, lambda: False)
    module = run.in_precision(training._autoencoder_module(settings))
    params = module.init(jax.random.key(0), **jax.tree.map(jnp.zeros_like, module_inputs(module)))
    assert {x.dtype.name for x in jax.tree.leaves(params)} == {"float32"}
    assert module.dtype == jnp.bfloat16
    rough = module.apply(params, **module_inputs(module))
    exact = module.clone(dtype=jnp.float32).apply(params, **module_inputs(module))
    # Eight significant bits: not the same numbers, but the same picture.
    assert 0 < float(jnp.abs(rough - exact).max()) < 0.1 * float(jnp.std(exact))


def module_inputs(module):
    return {
        name: jax.random.uniform(jax.random.key(1), shape.shape, shape.dtype)
        for name, shape in module.example_inputs().items()
    }


def test_a_workdir_of_another_run_is_refused(finished):
    other = tiny()
    other["autoencoder"]["descent"]["learning_rate"] = 0.5
    with pytest.raises(UserError, match="autoencoder.descent.learning_rate: 0.003 there, 0.5"):
        train(other, str(finished))


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(UserError, match="is not empty and holds no training"):
        train(tiny(), str(tmp_path))
    assert (tmp_path / "thesis.txt").read_text() == "all of it"


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("data.size", 18, "data.size must be a multiple of 4"),
        ("data.held_out", 24, "data.held_out"),
        ("data.deepest", 30.0, "at most 20, where the world ends, got 30"),
        ("tokenizer.vocabulary", 500, "tokenizer.vocabulary must be at least 514"),
        ("tokenizer.length", 2, "tokenizer.length must be at least 3"),
        ("autoencoder.model.block_out_channels", 64, "block_out_channels must be a list"),
        ("autoencoder.descent.batch", 8.0, "batch: expected a whole number, got 8.0"),
        ("text_encoder.descent.batch", 12, "text_encoder: a batch of 12 does not divide over 8"),
        ("diffusion.unet.cross_attention_dim", 5, "cross_attention_dim is 5, where .* have 8"),
        ("diffusion.unet.in_channels", 3, "in_channels is 3, where the other networks have 4"),
        ("diffusion.descent.batch", 64, "a batch of 64 is more than the 16 pictures"),
        ("text_encoder.descent.batch", 64, "a batch of 64 is more than the 16 pictures"),
        ("text_encoder.descent.optimizer", "sgd", "optimizer must be one of adam, muon"),
        ("text_encoder.model", {}, "text_encoder.model must be a group"),
        ("autoencoder.model.norm_num_groups", 3, "norm_num_groups"),
        ("diffusion.caption_dropout", 1.0, "caption_dropout"),
        ("diffusion.unet", None, "diffusion.unet must be a group"),
        ("text_encoder.model.num_attention_heads", 3, "num_attention_heads"),
        ("text_encoder.model.max_position_embeddings", 8, "160 tokens do not fit"),
        ("autoencoder.descent.batch", "many", "batch: expected a whole number, got 'many'"),
        ("seed", -1, "seed"),
        ("precision", "float8", "precision must be one of auto, float32, bfloat16, got 'float8'"),
        ("colour", "red", "unknown setting 'colour'"),
    ],
)
def test_settings_that_cannot_work_are_one_clear_line(tmp_path, path, value, words):
    config = copy.deepcopy(tiny())
    *groups, last = path.split(".")
    place = config
    for group in groups:
        place = place[group]
    place[last] = value
    with pytest.raises(UserError, match=words) as caught:
        train(config, str(tmp_path / "run"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("recipe", [cosmos64, cosmos64_gpu])
def test_the_recipes_are_valid_and_their_models_small(recipe):
    settings = read_settings(recipe.get_config())
    autoencoder = training._autoencoder_module(settings)
    assert autoencoder.config.downsample_factor == 4
    networks = training._networks(settings, vocab_size=settings.tokenizer.vocabulary)
    diffusion.check_sizes(networks, 16, 4, settings.tokenizer.length)
    count = sum(
        math.prod(x.shape)
        for module in (autoencoder, *networks)
        for x in jax.tree.leaves(abstract_params(module))
    )
    assert 2 * count < 40e6  # bytes in float16, as they ship
