"""Rows of tools/acceptance model whose verdict is more than a test's or a command's."""

import json
import pathlib

import pytest

import pot_jax
from pot_jax.checks import build
from pot_jax.config import read
from pot_jax.training.settings import TrainSettings

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def topic():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tools")
        from acceptance_topics import model

        yield model


@pytest.fixture(scope="module")
def digests():
    return {name: pot_jax.load(name).digest for name in ("cosmos64", "cosmos128")}


@pytest.fixture
def scores(digests, tmp_path, monkeypatch):
    """Writes scores as tools/score_model leaves them, of the models as they ship."""
    monkeypatch.setenv("SCORES", str(tmp_path))

    def write(model, digest=None, concept=0.99, attribute=0.91, **zooms):
        folder = tmp_path / f"{model}_30_4"
        folder.mkdir(exist_ok=True)
        record = {"weights": digest or digests[model]}
        (folder / "model.json").write_text(json.dumps(record))
        zooms = {"own": 0.96, "pixel": 0.96, "latent": 0.9} | zooms
        zooms = {way: {"concept": value, "overlap": 30.0} for way, value in zooms.items()}
        samples = {"concept": concept, "attribute": attribute}
        values = {"samples": samples, "zooms": zooms}
        (folder / "scores.json").write_text(json.dumps(values))

    return write


@pytest.mark.parametrize(
    ("found", "reached"),
    [({}, True), ({"concept": 0.979}, False), ({"attribute": 0.899}, False)],
)
def test_cosmos128s_scores_are_held_to_the_target(topic, scores, found, reached):
    scores("cosmos128", **found)
    scores("cosmos64", concept=0.98, attribute=0.867)
    outcome = topic.scores(1, None)
    assert outcome.reached == reached
    assert "cosmos64: concepts 98.0%, attributes 86.7%" in outcome.figure


@pytest.mark.parametrize(
    ("own", "small", "plain", "reached"),
    [(0.96, 0.958, 0.97, True), (0.957, 0.958, 0.96, False), (0.96, 0.958, 0.981, False)],
)
def test_joint_zooms_are_held_to_both(topic, scores, own, small, plain, reached):
    scores("cosmos128", own=own, **{"pixel, 50 steps": plain})
    scores("cosmos64", pixel=small)
    assert topic.joint(1, None).reached == reached


def test_scores_of_other_weights_are_not_taken(topic, scores, monkeypatch):
    ran = []

    def run(command, **_):
        ran.append(command[2:])
        scores("cosmos64")

    monkeypatch.setattr(topic.subprocess, "run", run)
    scores("cosmos64", digest="0" * 64, concept=0.5)
    assert topic.scored("cosmos64")["samples"]["concept"] == 0.99
    assert topic.scored("cosmos64")["samples"]["concept"] == 0.99
    ((model, _),) = ran
    assert model == "--model=cosmos64"


@pytest.mark.loose_promotion("optax's Adam raises a float to its integer step count")
def test_the_hosts_share_is_measured_in_miniature(topic):
    config = read("cosmos128", "train")
    config["autoencoder"]["pictures"], config["tiny_vae"] = 0, None
    config["data"] |= {"pictures": 24, "held_out": 8, "size": 16, "phrasings": 2}
    for phase in ("autoencoder", "text_encoder", "diffusion"):
        config[phase]["optimization"] |= {"batch_size": 8, "optimizer": "adam"}
    config["text_encoder"]["model"] |= {"hidden_size": 8, "intermediate_size": 8}
    config["text_encoder"]["model"] |= {"num_hidden_layers": 1, "num_attention_heads": 2}
    config["diffusion"]["unet"] |= {"block_out_channels": [8], "norm_num_groups": 4}
    config["diffusion"]["unet"] |= {"down_block_types": ["DownBlock2D"]}
    config["diffusion"]["unet"] |= {"up_block_types": ["UpBlock2D"], "attention_head_dim": 2}
    config["intervals"]["log_steps"] = 2
    loop, bare = topic.measure_host_share(build(TrainSettings, config), 4)
    # Two cores have much else to do: seconds a step, and neither of nothing.
    assert 0 < bare < 10
    assert 0 < loop < 10
