"""Inpainting with a model of a few thousand random parameters."""

import jax
import numpy as np
import pytest
from tiny_models import tiny_inpainting_model, tiny_model

import pot_jax
from pot_jax.errors import UserError

GIVEN = {"steps": 2, "guidance_scale": 3.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_inpainting_model(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (2, 16, 12, 3)).astype(np.float32)
    masks = np.zeros((2, 16, 12), np.float32)
    masks[:, 4:12, 2:10] = 1
    return images, masks


def paint(model, prompt, image, mask, **given):
    return pot_jax.inpaint(model, prompt, image, mask, devices=jax.devices()[:1], **GIVEN | given)


def test_what_the_mask_covers_is_never_seen(model, pictures):
    images, masks = pictures
    painted = paint(model, ["star", "a"], images, masks)
    assert painted.shape == images.shape
    assert np.abs(painted).max() <= 1
    assert painted.std() > 0.05
    covered = np.where(masks[..., None] > 0, -images, images)
    np.testing.assert_array_equal(paint(model, ["star", "a"], covered, masks), painted)
    around = np.where(masks[..., None] > 0, images, -images)
    assert np.abs(paint(model, ["star", "a"], around, masks) - painted).max() > 1e-2
    assert np.abs(paint(model, ["star", "a"], images, 1 - masks) - painted).max() > 1e-2


def test_a_mask_that_reaches_no_cell_is_said_to_paint_nothing(model, pictures, caplog):
    images, masks = pictures
    thin = np.zeros(masks.shape, bool)
    thin[0] = masks[0] > 0
    thin[1, 1::2, 1::2] = True  # no cell's first pixel
    paint(model, "star", images, thin)
    assert "nothing is painted in the pictures [1]" in caplog.text
    caplog.clear()
    paint(model, "star", images, masks)
    assert "nothing is painted" not in caplog.text


def test_a_batch_is_its_pictures(model, pictures):
    images, masks = pictures
    both = paint(model, ["star", "a"], images, masks[0])
    alone = paint(model, "star", images[0], masks[0] > 0)
    assert alone.shape == (16, 12, 3)
    np.testing.assert_allclose(alone, both[0], atol=1e-5)
    changed = paint(model, ["star", "st"], images, masks)
    np.testing.assert_array_equal(changed[0], both[0])
    assert np.abs(changed[1] - both[1]).max() > 1e-3


def test_seeds_latents_and_progress(model, pictures):
    images, masks = pictures
    seen = []

    def noted(*steps):
        seen.append(steps)

    first = paint(model, "a", images, masks, progress=noted)
    assert seen == [(0, 2), (2, 2)]
    assert np.abs(paint(model, "a", images, masks, seed=1) - first).max() > 1e-3
    noise = np.random.default_rng(1).normal(size=(2, 8, 6, 4)).astype(np.float32)
    given = [paint(model, "a", images, masks, latents=noise, seed=seed) for seed in (0, 1)]
    np.testing.assert_array_equal(*given)


def test_mistakes_are_one_line(model, pictures, tmp_path):
    (image, _), (mask, _) = pictures

    def message(call, *arguments, **named):
        with pytest.raises(UserError) as raised:
            call(*arguments, **named)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    sd = tiny_model(tmp_path)
    text = message(pot_jax.sample, model, ["a"])
    assert "is for inpainting (StableDiffusionInpaintPipeline); use it with pot_jax" in text
    assert "is for text-to-image" in message(paint, sd, "a", image, mask)
    large = image / np.abs(image).max() * 2
    assert "got float32 from -2 to" in message(paint, model, "a", large, mask)
    assert "got float32 from nan to nan" in message(paint, model, "a", image * np.nan, mask)
    assert "[H, W, 3]" in message(paint, model, "a", image[..., :1], mask)
    assert "multiples of 2" in message(paint, model, "a", image[:15], mask[:15])
    assert "mask: expected (16, 12)" in message(paint, model, "a", image, mask[:8])
    assert "prompt: expected one string, or 1" in message(paint, model, ["a", "b"], image, mask)
    assert "one of ddpm" in message(paint, model, "a", image, mask, solver="dpm_fast")
    wrong = np.zeros((1, 4, 4, 4))
    assert "latents: expected" in message(paint, model, "a", image, mask, latents=wrong)


def test_what_a_user_should_know_is_logged(model, pictures, caplog):
    (image, _), (mask, _) = pictures
    paint(model, "a zz", image, mask, guidance_scale=1.0)
    told = [record.getMessage() for record in caplog.records if "pot_jax" in record.name]
    assert "words that the model does not know: zz" in told
    assert any("guidance_scale 1, being 1 or less" in text for text in told)


def test_prompts_are_read_in_chunks_and_with_weights_if_asked(model, pictures):
    image, mask = pictures[0][0], pictures[1][0]
    long = " ".join(["star", "a"] * 60)
    with pytest.raises(UserError, match="would be cut"):
        paint(model, long, image, mask)
    assert paint(model, long, image, mask, long_prompts=True).shape == image.shape
    light, heavy = (
        paint(model, f"(star:{weight}) a", image, mask, prompt_weights=True) for weight in (1, 1.5)
    )
    assert np.abs(heavy - light).max() > 1e-4
