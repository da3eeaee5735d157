"""alpha and rank from every place that can state them, and contradictions between places."""

import json

import numpy as np
import pytest
from lora_files import CONV, DENSE, OUT, TEXT, kohya, parts, peft, write
from tiny_models import UNET

from pot_jax.errors import UserError
from pot_jax.weights.adapters.lora import notices, read_loras
from pot_jax.weights.load import load

RANK = 3  # of `parts`


@pytest.fixture
def scales(model, tmp_path):
    """Reads a LoRA with what is said beside it; returns alpha / rank by layer, and the notices."""

    def call(layers, spelling=peft, metadata=None, beside=None, name="adapter_model"):
        file = write(tmp_path / f"{name}.safetensors", layers, spelling, metadata)
        if beside is not None:
            text = json.dumps({"peft_type": "LORA", **beside})
            (tmp_path / "adapter_config.json").write_text(text, encoding="utf-8-sig")
        (lora,) = read_loras([file], UNET, model.params)
        keys = {layer.target.entry.key.removesuffix(".weight"): layer for layer in lora.layers}
        return {key: round(layer.scale * RANK, 6) for key, layer in keys.items()}, notices(
            [lora], "epsilon"
        )

    return call


def silent(*layers):
    return {layer: parts(layer, alpha=None) for layer in layers}


def test_the_config_beside_a_file(scales):
    beside = {"r": RANK, "lora_alpha": 6, "alpha_pattern": {"to_out.0": 1.5}, "rank_pattern": {}}
    assert scales(silent(DENSE, OUT), beside=beside) == ({DENSE: 6, OUT: 1.5}, ())
    beside["use_rslora"] = True
    found, _ = scales(silent(DENSE), beside=beside)
    assert found[DENSE] == pytest.approx(6 * RANK**0.5, abs=1e-5)
    assert scales(silent(DENSE), beside={"r": RANK}) == ({DENSE: 8}, ())  # PEFT's default


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("to_out.0", True),
        (r".*attn\d\.to_out\.0", True),
        ("^mid_block.*", True),
        ("attn2.to_(out.0|q)", True),
        ("o_out.0", False),  # not at a dot
        ("to_out", False),  # not the end
        ("^to_out.0", False),
        ("up_blocks.*", False),
    ],
)
@pytest.mark.parametrize("place", ["metadata", "beside"])
def test_patterns_are_regular_expressions_as_pefts(scales, place, pattern, fits):
    settings = {"lora_alpha": 6, "alpha_pattern": {pattern: 1.5, ".*": 2.0}}
    if place == "metadata":
        prefixed = {f"unet.{key}": value for key, value in settings.items()}
        said = {"metadata": {"lora_adapter_metadata": json.dumps(prefixed)}}
    else:
        said = {"beside": settings}
    found, _ = scales(silent(OUT), **said)
    assert found == {OUT: 1.5 if fits else 2.0}


def test_a_config_belongs_to_the_file_of_its_name(scales):
    assert scales(silent(DENSE), name="mine", beside={"lora_alpha": 6}) == ({DENSE: 6}, ())
    assert scales(silent(DENSE), beside={"lora_alpha": 6}) == ({DENSE: 6}, ())
    found, (notice,) = scales(silent(DENSE), name="mine", beside={"lora_alpha": 6})
    assert found == {DENSE: RANK}
    assert "no place states the alpha of" in notice


def test_kohyas_metadata_stand_in_for_tensors(scales):
    said = {"ss_network_alpha": "1.5", "ss_network_dim": str(RANK), "ss_network_module": "lora"}
    assert scales(silent(DENSE), kohya, said) == ({DENSE: 1.5}, ())
    layers = {DENSE: parts(DENSE, alpha=1.5), CONV: parts(CONV, alpha=1.0)}
    assert scales(layers, kohya, said) == ({DENSE: 1.5, CONV: 1}, ())
    loose = {"ss_network_alpha": "None", "ss_network_dim": "Dynamic"}
    assert scales(layers, kohya, loose) == ({DENSE: 1.5, CONV: 1}, ())


def test_a_default_is_said(scales):
    found, (notice,) = scales(silent(DENSE, TEXT))
    assert set(found.values()) == {RANK}
    assert notice.endswith("adapter_model.safetensors; its rank is assumed")


@pytest.mark.parametrize(
    ("alpha", "metadata", "beside", "words"),
    [
        (
            2.0,
            None,
            {"lora_alpha": 6},
            "stated differently by alpha tensor and adapter_config.json",
        ),
        (
            None,
            {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 2})},
            {"lora_alpha": 6},
            "differently by lora_adapter_metadata and adapter_config.json",
        ),
        (None, None, {"r": 4}, "layers of another rank than adapter_config.json says"),
        (None, None, {"r": RANK, "rank_pattern": {"to_q": 9}}, "layers of another rank"),
        (2.0, {"ss_network_alpha": "8"}, None, "ss_network_alpha = 8"),
        (2.0, {"ss_network_dim": "64"}, None, "ss_network_dim = 64"),
        (None, None, {"alpha_pattern": {"(": 1}}, "layers with an unusable alpha_pattern"),
        (None, None, {"alpha_pattern": [1]}, "layers with an unusable alpha_pattern"),
        (None, None, {"lora_alpha": "6"}, "layers with an unusable alpha"),
        (None, None, {"use_dora": True}, "adapter_config.json says use_dora = True, which is not"),
        (None, None, {"fan_in_fan_out": True}, "says fan_in_fan_out = True"),
        (None, None, {"bias": "all"}, "says bias = all"),
        (None, None, {"peft_type": "LOHA"}, "says peft_type = LOHA"),
        (None, None, {"init_lora_weights": "pissa_niter_4"}, "init_lora_weights = pissa_niter_4"),
        (
            None,
            {"lora_adapter_metadata": json.dumps({"unet.use_dora": True})},
            None,
            "lora_adapter_metadata says use_dora",
        ),
        (
            None,
            {"modelspec.prediction_type": "v", "ss_v_parameterization": "False"},
            None,
            "what the model predicts",
        ),
    ],
)
def test_contradictions_and_what_cannot_be_done(scales, alpha, metadata, beside, words):
    spelling = kohya if alpha else peft
    with pytest.raises(UserError) as raised:
        scales({DENSE: parts(DENSE, alpha=alpha)}, spelling, metadata, beside)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_lora_for_another_kind_of_model_is_said(exported, tmp_path):
    file = write(
        tmp_path / "a.safetensors", {DENSE: parts(DENSE)}, kohya, {"ss_v_parameterization": "True"}
    )
    (notice,) = load(exported, loras=[file]).notices
    assert "was trained on a model of v_prediction, this one is of epsilon" in notice
    assert load(exported, loras=[file], prediction_type="v_prediction").notices == ()


def test_every_dtype_of_alpha(scales):
    layers = {DENSE: parts(DENSE) | {"alpha": np.asarray(6)}}
    assert scales(layers, kohya, {"ss_network_alpha": "6"})[0] == {DENSE: 6}
