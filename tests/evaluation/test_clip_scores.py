import json
import logging
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_models import CLIP, POSITIONS, tiny_model, write_tiny_clip

from pot_jax.errors import UserError
from pot_jax.evaluation.metrics import clip as scores
from pot_jax.models.clip import CLIPModel
from pot_jax.weights.export import export

PROMPTS = ["a star", "star b", "9 star a", "b", "c d"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    write_tiny_clip(folder)
    return folder


@pytest.fixture(scope="module")
def score(whole):
    return scores.scorer(whole)


@pytest.fixture
def folder(whole, tmp_path):
    """A copy, to be damaged."""
    return shutil.copytree(whole, tmp_path / "clip")


def pictures(count=5, height=20, width=24, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def cosines(score, images, prompts):
    """What the scores are made of, one pair at a time."""
    apply, tokenizer, processor = score.args
    table = np.empty((len(prompts), len(images)))
    for i, prompt in enumerate(prompts):
        ids = np.full((1, POSITIONS), tokenizer.pad_token_id, np.int32)
        own = tokenizer(prompt)["input_ids"]
        ids[0, : len(own)] = own
        for j, image in enumerate(images):
            prepared = scores.prepared(image[None], processor)
            text, seen, _ = apply(ids, np.array([len(own) - 1]), prepared)
            table[i, j] = np.dot(text[0], seen[0])
    return table


def test_against_a_slow_oracle(score):
    images = pictures()
    table = cosines(score, images, PROMPTS)
    found = [max(range(5), key=lambda j, row=row: row[j]) for row in table]
    expected = {
        "clip_score": sum(max(100 * table[i, i], 0) for i in range(5)) / 5,
        "clip_retrieval": sum(j == i for i, j in enumerate(found)) / 5,
    }
    assert score(images, PROMPTS) == pytest.approx(expected, abs=1e-4)


def test_retrieval_is_of_each_prompts_own_level(score):
    """Two pictures of which each prompt prefers another: all found in their order, none swapped."""
    images, prompts = pictures(60), PROMPTS[:2]
    first, second = cosines(score, images, prompts)
    pairs = [(i, j) for i in range(60) for j in range(60) if first[i] > first[j] + 1e-4]
    i, j = next(pair for pair in pairs if second[pair[1]] > second[pair[0]] + 1e-4)
    assert score(images[[i, j]], prompts)["clip_retrieval"] == 1
    assert score(images[[j, i]], prompts)["clip_retrieval"] == 0


@pytest.mark.parametrize("levels", [1, 2, 5])
def test_equal_pictures_find_one_in_n(score, levels):
    images = np.repeat(pictures(1), levels, axis=0)
    assert score(images, PROMPTS[:levels])["clip_retrieval"] == pytest.approx(1 / levels)
    grey = np.full((levels, 16, 16, 3), 128, np.uint8)
    assert score(grey, PROMPTS[:levels])["clip_retrieval"] == pytest.approx(1 / levels)


def toy(score, texts, images):
    """Scores of given embeddings [N, E], in the place of the towers'."""
    rows = zip(np.float32(texts)[:, None], np.float32(images)[:, None], np.zeros((9, 1, 1)))
    _, *rest = score.args
    return score.func(lambda *_: next(rows), *rest, pictures(len(texts)), PROMPTS[: len(texts)])


def test_negative_cosines_count_as_zero(score):
    # Prompt 0 finds its picture; prompt 1 is nearer to the other, 0.8, than to its own, 0.6.
    found = toy(score, np.eye(2), [[0.6, 0.8], [-0.8, 0.6]])
    assert found == pytest.approx({"clip_score": 60, "clip_retrieval": 0.5})
    # Level 0 has the cosine -1, level 1 has 0.6: the mean is of 0 and 60, not of -100 and 60.
    found = toy(score, np.eye(2), [[-1, 0], [0.8, 0.6]])
    assert found == pytest.approx({"clip_score": 30, "clip_retrieval": 0.5})


def test_ties_share_a_hit(score):
    """Prompt 0 ties with all three, prompt 1 misses, prompt 2 ties with one other."""
    texts, images = np.eye(3), [[1, 0, 1], [1, 0, 0], [1, 0.2, 1]]
    found = toy(score, texts, images)["clip_retrieval"]
    assert found == pytest.approx((1 / 3 + 0 + 1 / 2) / 3)


def test_one_program_for_zooms_of_any_length(score):
    apply = score.args[0].func
    score(pictures(3), PROMPTS[:3])
    programs = apply._cache_size()
    score(pictures(5, 40, 32), PROMPTS)
    assert apply._cache_size() == programs


def test_jit_equals_eager(score):
    apply, tokenizer, processor = score.args
    ids = np.int32(tokenizer(["a star"], padding="max_length", max_length=POSITIONS)["input_ids"])
    inputs = ids, np.array([2], np.int32), scores.prepared(pictures(1), processor)
    eager = CLIPModel(CLIP).apply(*apply.args, *inputs)
    for a, b in zip(apply(*inputs), eager):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_embeddings_have_length_one_and_gradients_are_finite(score):
    apply, _, processor = score.args
    ids, ends = np.zeros((3, 4), np.int32), np.array([3, 1, 0], np.int32)
    prepared = scores.prepared(pictures(2), processor)
    texts, images, logits = apply(ids, ends, prepared)
    assert logits.shape == (3, 2)
    for values in (texts, images):
        np.testing.assert_allclose(np.linalg.norm(values, axis=-1), 1, atol=1e-6)
    slopes = jax.grad(lambda x: apply(ids, ends, x)[2].sum())(prepared)
    assert np.isfinite(slopes).all()
    assert np.any(slopes)


def test_a_long_prompt_is_cut_with_a_notice(score, caplog):
    long = "a b c d e f g h i"
    with caplog.at_level(logging.WARNING):
        cut = score(pictures(1), [long])
    assert caplog.messages == ["the prompt of level 0 has 9 tokens; CLIP scores its first 6"]
    caplog.clear()
    assert score(pictures(1), ["a b c d e f"]) == cut
    assert not caplog.messages


@pytest.mark.parametrize(
    ("images", "prompts", "word"),
    [
        (pictures(2), PROMPTS[:3], "uint8 [3, H, W, 3]"),
        (pictures(2).astype(np.float32), PROMPTS[:2], "uint8 [2, H, W, 3]"),
        (pictures(2)[..., 0], PROMPTS[:2], "got (2, 20, 24)"),
        (pictures(0), [], "uint8 [0, H, W, 3]"),
    ],
)
def test_inputs_that_do_not_fit(score, images, prompts, word):
    with pytest.raises(UserError) as caught:
        score(images, prompts)
    assert word in str(caught.value)


# Folders that do not fit. -----------------------------------------------------------------------


def refused(folder, *words):
    with pytest.raises(UserError) as caught:
        scores.scorer(folder)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def change(path, **entries):
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_folders_of_other_classes(tmp_path, folder):
    refused(tmp_path / "nowhere", "nowhere holds no known model", "expected a CLIPModel")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no known model", "expected a CLIPModel")
    refused(folder / "config.json", "holds no known model")
    for kind in ("clip_text_model", "siglip", "clip_vision_model"):
        change(folder / "config.json", model_type=kind)
        refused(folder, f"holds {kind}, expected a CLIPModel")
    export(tiny_model(tmp_path / "tokens"), tmp_path / "sd")
    refused(tmp_path / "sd", "holds StableDiffusionPipeline, expected a CLIPModel")
    refused(tmp_path / "sd" / "text_encoder", "holds CLIPTextModel, expected a CLIPModel")


def test_all_tensors_that_do_not_fit_are_named_at_once(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors.pop("vision_model.embeddings.class_embedding")
    tensors.pop("logit_scale")
    tensors["classifier.weight"] = np.zeros((2, 12), np.float32)
    tensors["text_projection.weight"] = np.zeros((12, 5), np.float32)
    save_file(tensors, path)
    missing = "2 missing (logit_scale; vision_model.embeddings.class_embedding)"
    refused(folder, missing, "1 misshapen (text_projection", "1 unexpected (classifier.weight")


def test_files_that_are_missing_or_damaged(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin", "save the model as safetensors")
    (folder / "model.safetensors").write_bytes(whole[:-10])
    refused(folder, "model.safetensors", "truncated")
    (folder / "model.safetensors").write_bytes(whole)
    (folder / "vocab.json").rename(folder / "words.json")
    refused(folder, "vocab.json", "does not exist")
    (folder / "preprocessor_config.json").unlink()
    refused(folder, "preprocessor_config.json", "does not exist")
    (folder / "config.json").write_text("{")
    refused(folder, "config.json", "not usable JSON")


@pytest.mark.parametrize(
    ("file", "entries", "words"),
    [
        ("config.json", {"text_config": 3}, ["CLIPModel's text_config", "got 3"]),
        ("config.json", {"projection_dim": 0}, ["projection_dim is 0"]),
        ("config.json", {"auto_map": {}}, ["asks to run code"]),
        ("config.json", {"vision_config": {"hidden_act": "relu"}}, ["CLIPVisionModel: hidden_act"]),
        ("config.json", {"vision_config": {"num_channels": 4}}, ["num_channels is 4"]),
        ("preprocessor_config.json", {"crop_size": 15}, ["16 pixels", "(16, 15)"]),
        ("preprocessor_config.json", {"size": 10}, ["16 pixels", "(10, 16)"]),
        ("preprocessor_config.json", {"size": {"height": 16, "width": 16}}, ["size is {'height'"]),
        ("preprocessor_config.json", {"crop_size": {"height": 16, "width": 9}}, ["crop_size is"]),
        ("preprocessor_config.json", {"size": {"shortest_edge": [16]}}, ["preprocessor_config"]),
        ("preprocessor_config.json", {"resample": 2}, ["resample is 2", "one of [3]"]),
        ("preprocessor_config.json", {"do_center_crop": False}, ["do_center_crop is False"]),
        ("preprocessor_config.json", {"image_std": [1, 1, 0]}, ["image_std is"]),
        ("preprocessor_config.json", {"image_mean": [1, 1]}, ["image_mean is"]),
    ],
)
def test_settings_that_do_not_fit(folder, file, entries, words):
    change(folder / file, **entries)
    refused(folder, file, *words)


def test_a_tokenizer_of_another_model(folder):
    change(folder / "config.json", text_config={"vocab_size": 300, "max_position_embeddings": 8})
    refused(folder, "the tokenizer in", "do not belong together")


def test_a_prepared_picture_is_its_middle(folder):
    processor = scores.CLIPImageProcessorConfig.from_json(
        {"size": 8, "crop_size": 8, "image_mean": [0, 0, 0.5], "image_std": [1, 1, 0.5]}
    )
    picture = np.zeros((1, 8, 20, 3), np.uint8)
    picture[:, :, 6:14] = (255, 51, 255)
    expected = np.broadcast_to(np.float32([1, 0.2, 1]), (1, 8, 8, 3))
    np.testing.assert_allclose(scores.prepared(picture, processor), expected, atol=1e-6)
