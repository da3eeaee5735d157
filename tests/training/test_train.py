"""A whole training in miniature: a few steps of the smallest networks, on the real world."""

import copy
import importlib.metadata
import json
import math
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import pot_jax.weights.load
from pot_jax.checks import build, to_dict
from pot_jax.config import read
from pot_jax.errors import UserError
from pot_jax.parallel.mesh import device_mesh
from pot_jax.runs.checkpoints import Checkpoints
from pot_jax.runs.record import code_state
from pot_jax.training import diffusion, phases
from pot_jax.training import settings as train_settings
from pot_jax.training import train as training
from pot_jax.training.data import draw_views
from pot_jax.training.loop import make_start
from pot_jax.training.settings import TrainSettings
from pot_jax.training.text_encoder import initialise_heads
from pot_jax.training.train import train
from pot_jax.weights.keys import abstract_params
from pot_jax.world.captions import answers, labels


def tiny() -> dict:
    """A shipped recipe, made small."""
    config = read("cosmos128", "train")
    config["autoencoder"]["pictures"] = 12
    config["data"] |= {"pictures": 24, "held_out": 8, "size": 16, "workers": 1, "phrasings": 2}
    config["tokenizer"] |= {"vocabulary": 640, "captions": 8, "length": 160}
    config["autoencoder"]["model"] |= {"block_out_channels": [8, 8], "norm_num_groups": 4}
    config["autoencoder"]["optimization"] |= {"batch_size": 8, "steps": 2, "minutes": 0.0}
    channels = {f"{half}_block_out_channels": [8, 8] for half in ("encoder", "decoder")}
    blocks = {"num_encoder_blocks": [0, 1], "num_decoder_blocks": [1, 0]}
    config["tiny_vae"]["model"] |= channels | blocks
    config["tiny_vae"]["optimization"] |= {"batch_size": 8, "steps": 2, "minutes": 0.0}
    config["text_encoder"]["optimization"] |= {"batch_size": 8, "steps": 2}
    # A rate near zero, to see what the phase started from.
    config["diffusion"]["optimization"] |= {
        "batch_size": 8,
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
    config["intervals"] |= {"log_steps": 1}
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("training") / "run"
    # optax's Adam raises a float to its integer step count.
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setattr(phases, "PREVIEW_STEPS", 2)
        train(build(TrainSettings, tiny()), str(workdir))
    return workdir


@pytest.fixture(scope="module")
def resumed(finished, tmp_path_factory):
    """The same training, stopped while the denoiser trains, and resumed with less time."""
    workdir = tmp_path_factory.mktemp("resumed") / "run"
    step = phases.diffusion.choose_captions

    def choose_captions(stream, *args, **kwargs):
        choose = step(stream, *args, **kwargs)

        def stopping_after_one(number):
            if stream == "diffusion" and number == 1:
                signal.raise_signal(signal.SIGTERM)
            return choose(number)

        return stopping_after_one

    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setattr(phases, "PREVIEW_STEPS", 2)
        patch.setattr(phases.diffusion, "choose_captions", choose_captions)
        with pytest.raises(KeyboardInterrupt):
            train(build(TrainSettings, tiny()), str(workdir))
        patch.setattr(phases.diffusion, "choose_captions", step)
        assert Checkpoints(workdir / "checkpoints" / "diffusion").latest_step() == 1
        train(build(TrainSettings, tiny()), str(workdir))
    return workdir


def test_a_training_stopped_by_sigterm_ends_in_the_same_bytes(finished, resumed):
    for part in (
        "unet/diffusion_pytorch_model",
        "vae/diffusion_pytorch_model",
        "text_encoder/model",
    ):
        weights = f"model/{part}.safetensors"
        assert (resumed / weights).read_bytes() == (finished / weights).read_bytes()
    assert json.loads((resumed / "scores.json").read_text())["diffusion_steps"] == 2


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
    assert build(TrainSettings, json.loads(settings)) == build(TrainSettings, tiny())


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


def test_the_denoiser_starts_from_the_pretrained_text_encoder(finished):
    model = pot_jax.weights.load.load(finished / "model")
    phase = Checkpoints(finished / "checkpoints" / "text_encoder")
    settings = build(TrainSettings, tiny())
    views = draw_views(settings.data, settings.seed)
    classes, _ = labels(answers(views[:16]))
    start = {
        "text_encoder": model.params["text_encoder"],
        "heads": initialise_heads(8, classes),
    }
    _, state, _ = phase.restore(
        make_start(settings.text_encoder.optimization, device_mesh())(start)
    )
    # The shipped weights are float16.
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6),
        model.params["text_encoder"],
        jax.device_get(state.average["text_encoder"]),
    )


def test_a_finished_run_is_left_as_it_is(finished):
    weights = (finished / "model" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phases, "PREVIEW_STEPS", 2)
        train(build(TrainSettings, tiny()), str(finished))
    again = (finished / "model" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert again == weights


@pytest.mark.loose_promotion("flax and jax promote half precision in norms and attention")
def test_bfloat16_is_of_the_arithmetic_not_of_the_weights():
    settings = build(TrainSettings, tiny() | {"precision": "bfloat16"})
    run = phases.Run(settings, None, None, None, {})
    module = run.in_precision(training._autoencoder_module(settings))
    zeros = jax.tree.map(jnp.zeros_like, module_inputs(module))
    params = jax.jit(module.init)(jax.random.key(0), **zeros)
    assert {x.dtype.name for x in jax.tree.leaves(params)} == {"float32"}
    assert module.dtype == jnp.bfloat16
    # Not jitted: XLA may leave out the rounding between operations.
    rough = module.apply(params, **module_inputs(module))
    exact = jax.jit(module.clone(dtype=jnp.float32).apply)(params, **module_inputs(module))
    # Eight significant bits: not the same numbers, but the same picture.
    assert 0 < float(jnp.abs(rough - exact).max()) < 0.1 * float(jnp.std(exact))


def module_inputs(module):
    return {
        name: jax.random.uniform(jax.random.key(1), shape.shape, shape.dtype)
        for name, shape in module.example_inputs().items()
    }


def test_a_workdir_of_another_run_is_refused(finished):
    other = tiny()
    other["autoencoder"]["optimization"]["learning_rate"] = 0.5
    kept = contents(finished)
    with pytest.raises(
        UserError, match="autoencoder.optimization.learning_rate is 0.003 there, 0.5"
    ) as caught:
        train(build(TrainSettings, other), str(finished))
    assert "\n" not in str(caught.value)
    assert contents(finished) == kept


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_run_resumes_with_other_time_and_workers(finished):
    other = tiny()
    other["data"]["workers"] = 3
    other["intervals"]["log_steps"] = 2
    for phase in ("autoencoder", "text_encoder", "diffusion"):
        other[phase]["optimization"]["minutes"] = 9.0
    training._claim_workdir(finished, build(TrainSettings, other))


def test_a_state_of_another_recipe_is_refused(finished, tmp_path):
    """A state that the settings do not describe, as if the settings were another run's."""
    shutil.copytree(finished, tmp_path / "run")
    other = tiny()
    other["diffusion"]["unet"]["block_out_channels"] = [16]
    record = json.loads((finished / "config.json").read_text())
    record["config"] = to_dict(build(TrainSettings, other))
    (tmp_path / "run" / "config.json").write_text(json.dumps(record))
    kept = contents(tmp_path / "run")
    with pytest.raises(
        UserError, match="none of the steps .2. in .*diffusion can be read"
    ) as caught:
        train(build(TrainSettings, other), str(tmp_path / "run"))
    assert "\n" not in str(caught.value)
    assert contents(tmp_path / "run") == kept


def test_a_run_of_the_first_format_resumes_and_its_record_is_upgraded(finished, tmp_path):
    """The names of that time, no number: what a run left behind before it had a format."""
    path = finished / "config.json"
    today = json.loads(path.read_text())
    assert today["format"] == 2
    path.write_text(json.dumps(in_old_names(today["config"])))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phases, "PREVIEW_STEPS", 2)
        train(build(TrainSettings, tiny()), str(finished))
    assert json.loads(path.read_text()) == today

    other = in_old_names(today["config"]) | {"seed": 5}
    (tmp_path / "config.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match="another training .seed is 5 there, 0 here"):
        train(build(TrainSettings, tiny()), str(tmp_path))
    assert json.loads((tmp_path / "config.json").read_text()) == other
    (tmp_path / "config.json").write_text('{"format": 3, "config": {}}')
    with pytest.raises(UserError, match="format 3, this version of pot_jax reads 1 to 2"):
        train(build(TrainSettings, tiny()), str(tmp_path))
    (tmp_path / "config.json").write_text('{"prompts": ["a leaf"]}')
    with pytest.raises(UserError, match="not of a training: unknown setting 'prompts'"):
        train(build(TrainSettings, tiny()), str(tmp_path))


def in_old_names(config: dict) -> dict:
    config = copy.deepcopy(config)
    for phase in ("autoencoder", "text_encoder", "diffusion"):
        new = config[phase].pop("optimization")
        old = {"batch": "batch_size", "average": "ema_decay", "clip": "clip_norm"}
        config[phase]["descent"] = {name: new.pop(today) for name, today in old.items()} | new
    new = config.pop("intervals")
    config["visits"] = {
        "log_steps": new["log_steps"],
        "save_minutes": new["checkpoint_minutes"],
        "show_minutes": new["preview_minutes"],
    }
    return config


def test_a_config_with_old_names_is_the_same_settings():
    settings = build(TrainSettings, tiny() | {"seed": 3})
    assert build(TrainSettings, in_old_names(to_dict(settings))) == settings


def test_settings_and_rendering_need_no_jax():
    code = (
        "import sys; import pot_jax.training.data  # as each process that renders does\n"
        "from pot_jax.checks import build; from pot_jax.training.settings import TrainSettings\n"
        "try: build(TrainSettings, {'colour': 'red'})\n"
        "except ValueError: assert not {'jax', 'optax', 'transformers'} & set(sys.modules)\n"
        "else: raise AssertionError"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_record_is_a_configuration_and_names_the_code(finished, tmp_path):
    path = finished / "config.json"
    record = json.loads(path.read_text())
    assert record["version"] == importlib.metadata.version("pot_jax")
    assert record["code"] == code_state()
    settings = build(TrainSettings, tiny())
    assert build(TrainSettings, train_settings.read(str(path))) == settings
    # Settings alone make it another run.
    other = json.dumps(record | {"code": {"commit": "0" * 40, "clean": True}})
    (tmp_path / "config.json").write_text(other)
    training._claim_workdir(tmp_path, settings)
    assert (tmp_path / "config.json").read_text() == other


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"format": 2, "config": {"prompts": ["a"]}}, "not of a training: unknown setting"),
        ({"format": 3, "config": {}}, "has format 3, this version of pot_jax reads 1 to 2"),
    ],
)
def test_a_record_of_something_else_is_no_configuration(tmp_path, record, words):
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=f"{path} .*{words}"):
        train_settings.read(str(path))


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(UserError, match="holds other files and no training"):
        train(build(TrainSettings, tiny()), str(tmp_path))
    assert (tmp_path / "thesis.txt").read_text() == "all of it"


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("data.size", 18, "data.size: expected a multiple of 4"),
        ("data.held_out", 24, "data.held_out"),
        ("autoencoder.pictures", 17, "autoencoder.pictures: expected at most 16, got 17"),
        ("autoencoder.pictures", 4, "autoencoder.* a batch of 8 is more than the 4 pictures"),
        ("tokenizer.vocabulary", 40000, "tokenizer.vocabulary: expected below 32768"),
        ("data.deepest", 30.0, "at most 20, where the world ends, got 30"),
        ("tokenizer.vocabulary", 500, "tokenizer.vocabulary: expected at least 514"),
        ("tokenizer.length", 2, "tokenizer.length: expected at least 3"),
        (
            "autoencoder.model.block_out_channels",
            64,
            "autoencoder.model: expected a list as its block_out_channels",
        ),
        (
            "autoencoder.optimization.batch_size",
            8.0,
            "batch_size: expected a whole number, got 8.0",
        ),
        (
            "text_encoder.optimization.batch_size",
            12,
            "text_encoder.optimization.batch_size: a batch of 12 does not divide over 8",
        ),
        ("diffusion.unet.cross_attention_dim", 5, "cross_attention_dim is 5, where .* have 8"),
        ("diffusion.unet.in_channels", 3, "in_channels is 3, where the other networks have 4"),
        ("diffusion.optimization.batch_size", 64, "a batch of 64 is more than the 16 pictures"),
        ("text_encoder.optimization.batch_size", 64, "a batch of 64 is more than the 16 pictures"),
        ("text_encoder.optimization.optimizer", "sgd", "optimizer: expected one of adam, muon"),
        ("text_encoder.model", {}, "text_encoder.model: expected a group"),
        ("autoencoder.model.norm_num_groups", 3, "norm_num_groups"),
        ("diffusion.caption_dropout", 1.0, "caption_dropout"),
        ("diffusion.unet", None, "diffusion.unet: expected a group"),
        ("text_encoder.model.num_attention_heads", 3, "num_attention_heads"),
        ("text_encoder.model.max_position_embeddings", 8, "160 tokens do not fit"),
        (
            "autoencoder.optimization.batch_size",
            "many",
            "batch_size: expected a whole number, got 'many'",
        ),
        ("seed", -1, "seed"),
        ("precision", "float8", "precision: expected one of auto, float32, bfloat16, got 'float8'"),
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
        train(build(TrainSettings, config), str(tmp_path / "run"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "side"), [("cosmos64", 16), ("cosmos128", 32)])
def test_the_recipes_are_valid_and_their_models_small(name, side):
    settings = build(TrainSettings, read(name, "train"))
    autoencoder = training._autoencoder_module(settings)
    assert autoencoder.config.downsample_factor == 4
    networks = training._networks(settings, vocab_size=settings.tokenizer.vocabulary)
    assert networks.unet.config.sample_size == side
    diffusion.check_sizes(networks, side, 4, settings.tokenizer.length)
    count = sum(
        math.prod(x.shape)
        for module in (autoencoder, *networks)
        for x in jax.tree.leaves(abstract_params(module))
    )
    assert 2 * count < 40e6  # bytes in float16, as they ship
