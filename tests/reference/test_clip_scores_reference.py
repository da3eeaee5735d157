"""A whole CLIP and its scores against transformers', through the files that transformers writes."""

import json

import numpy as np
import pytest
import torch
import transformers
from pairs import TEXT_TOLERANCE, assert_close, noise, ours, randomised, to_torch
from tiny_models import write_tiny_tokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.clip.modeling_clip import CLIPVisionEmbeddings as TheirEmbeddings

from pot_jax.evaluation.metrics import clip as scores
from pot_jax.models.clip import CLIPVisionConfig, CLIPVisionEmbeddings, CLIPVisionTransformer

PROMPTS = ["a star", "a", "star, star!", "a9 b c"]
VISION = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 18,  # 4 x 4 patches, and 2 pixels that belong to none
    "patch_size": 4,
}
TEXT = {
    "vocab_size": 80,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 8,
    "bos_token_id": 78,
    "eos_token_id": 79,
    "pad_token_id": 79,
}


def save_clip(folder, activation="quick_gelu", text=TEXT, vision=VISION, **saving):
    """Their random model in `folder`, with our tiny tokenizer; and their processor."""
    config = transformers.CLIPConfig(
        text_config=text | {"hidden_act": activation},
        vision_config=vision | {"hidden_act": activation},
        projection_dim=20,
    )
    theirs = randomised(transformers.CLIPModel(config))
    write_tiny_tokenizer(folder)
    theirs.save_pretrained(folder, **saving)
    side = vision["image_size"]
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    processor.save_pretrained(folder)
    return theirs, processor


def opened(folder):
    """What the scorer holds: the compiled model, the tokenizer and the processor."""
    return scores.scorer(folder).args


def tokens(tokenizer, end=79):
    fixed = {"padding": "max_length", "truncation": True, "max_length": 8}
    ids = np.int32(tokenizer(PROMPTS, **fixed)["input_ids"])
    return ids, np.int32((ids == end).argmax(1))


def pictures(count=4, height=40, width=30):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


def assert_same(actual, theirs, processor, ids, images):
    with torch.no_grad():
        pixels = torch.from_numpy(np.stack(processor(list(images))["pixel_values"]))
        expected = theirs(torch.from_numpy(ids).long(), pixels)
    pairs = zip(actual, (expected.text_embeds, expected.image_embeds, expected.logits_per_text))
    for value, other in pairs:
        np.testing.assert_allclose(value, other.numpy(), atol=1e-5)


def test_vision_embeddings():
    config = transformers.CLIPVisionConfig(**VISION)
    theirs, x = randomised(TheirEmbeddings(config)), noise(2, 18, 18, 3)
    module = CLIPVisionEmbeddings(CLIPVisionConfig.from_json(json.loads(config.to_json_string())))
    assert_close(ours(module, theirs, x), theirs(to_torch(x)), TEXT_TOLERANCE)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_vision_tower(activation):
    settings = transformers.CLIPVisionConfig(**VISION, hidden_act=activation)
    theirs, x = randomised(transformers.CLIPVisionModel(settings)), noise(2, 18, 18, 3)
    config = CLIPVisionConfig.from_json(json.loads(theirs.config.to_json_string()))
    expected = theirs(to_torch(x)).pooler_output
    assert_close(ours(CLIPVisionTransformer(config), theirs, x), expected, TEXT_TOLERANCE)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_embeddings_and_logits(tmp_path, activation):
    theirs, processor = save_clip(tmp_path, activation)
    apply, tokenizer, prepare = opened(tmp_path)
    ids, ends = tokens(tokenizer)
    images = pictures()
    actual = apply(ids, ends, scores.prepared(images, prepare))
    assert_same(actual, theirs, processor, ids, images)


def test_half_precision_shards_and_an_old_config(tmp_path):
    """As early models on the hub: position ids, `*_config_dict`, sides as numbers, end token 2."""
    old = TEXT | {"eos_token_id": 2}
    theirs, processor = save_clip(tmp_path, text=old)
    theirs = theirs.half()
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    (tmp_path / "model.safetensors").unlink(missing_ok=True)
    add_position_ids(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config_dict"] = old
    config["text_config"] |= {"hidden_size": 1}
    config["vision_config_dict"] = None
    (tmp_path / "config.json").write_text(json.dumps(config))
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"size": 18, "crop_size": 18}))
    apply, tokenizer, prepare = opened(tmp_path)
    ids, ends = tokens(tokenizer)
    images = pictures()
    actual = apply(ids, ends, scores.prepared(images, prepare))
    assert_same(actual, theirs.float(), processor, ids, images)


def add_position_ids(folder):
    """Adds to a shard, and the index, the constants that transformers saved before 4.31."""
    from safetensors.torch import load_file, save_file

    index = folder / "model.safetensors.index.json"
    places = json.loads(index.read_text())
    shard = sorted(set(places["weight_map"].values()))[0]
    tensors = load_file(folder / shard)
    for name, count in (("text_model", 8), ("vision_model", 17)):
        tensors[f"{name}.embeddings.position_ids"] = torch.arange(count)[None]
        places["weight_map"][f"{name}.embeddings.position_ids"] = shard
    save_file(tensors, folder / shard)
    index.write_text(json.dumps(places))


@pytest.mark.parametrize("size", [(40, 30), (30, 41), (18, 18), (7, 9), (64, 64)])
def test_preprocessing(size):
    images = pictures(2, *size)
    config = {"size": {"shortest_edge": 20}, "crop_size": {"height": 18, "width": 18}}
    theirs = CLIPImageProcessorPil(**config)
    expected = np.stack(theirs(list(images))["pixel_values"]).transpose(0, 2, 3, 1)
    settings = json.loads(theirs.to_json_string())
    actual = scores.prepared(images, scores.CLIPImageProcessorConfig.from_json(settings))
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_scores(tmp_path):
    theirs, processor = save_clip(tmp_path)
    score = scores.scorer(tmp_path)
    images = pictures()
    ids, _ = tokens(score.args[1])
    with torch.no_grad():
        pixels = torch.from_numpy(np.stack(processor(list(images))["pixel_values"]))
        logits = theirs(torch.from_numpy(ids).long(), pixels).logits_per_text
        cosines = (logits / theirs.logit_scale.exp()).numpy()
    expected = {
        "clip_score": np.mean([max(100 * cosines[i, i], 0) for i in range(4)]),
        "clip_retrieval": np.mean([cosines[i].argmax() == i for i in range(4)]),
    }
    assert score(images, PROMPTS) == pytest.approx(expected, abs=1e-3)
