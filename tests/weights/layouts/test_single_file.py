"""A checkpoint in one file becomes exactly its model, or one line that says what is wrong."""

import dataclasses

import huggingface_hub.constants
import jax.numpy as jnp
import numpy as np
import pytest
import torch_files
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file
from single_files import TINY_1, TINY_2, TINY_XL, tensors
from tiny_models import write_tiny_tokenizer

import pot_jax
from pot_jax import main
from pot_jax.weights.export import convert, export
from pot_jax.weights.load import load
from pot_jax.weights.tokenization import tokenize

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """An empty Hugging Face cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    return folder


def written(folder, content):
    save_file(content, folder / "tiny.safetensors")
    write_tiny_tokenizer(folder / "tokenizer")
    return folder / "tiny.safetensors"


@pytest.fixture(scope="module")
def content():
    return tensors(TINY_1)


@pytest.fixture(scope="module")
def original(content, tmp_path_factory):
    return written(tmp_path_factory.mktemp("one"), content)


@pytest.fixture(scope="module")
def original_2(tmp_path_factory):
    return written(tmp_path_factory.mktemp("two"), tensors(TINY_2))


@pytest.fixture(scope="module")
def original_xl(tmp_path_factory):
    return written(tmp_path_factory.mktemp("xl"), tensors(TINY_XL))


@pytest.fixture(scope="module")
def loaded(original):
    return load(original)


@pytest.fixture
def damaged(content, tmp_path):
    """Writes the file again after a change."""

    def write(change):
        changed = dict(content)
        change(changed)
        return written(tmp_path, changed)

    return write


GOLDEN = {  # parameter <- tensor; written down by hand from the two code bases
    "unet/conv_in/kernel": f"{UNET}input_blocks.0.0.weight",
    "unet/time_embedding/linear_2/bias": f"{UNET}time_embed.2.bias",
    "unet/down_blocks_0/resnets_0/norm1/scale": f"{UNET}input_blocks.1.0.in_layers.0.weight",
    "unet/down_blocks_0/downsamplers_0/conv/kernel": f"{UNET}input_blocks.2.0.op.weight",
    "unet/down_blocks_1/resnets_0/conv_shortcut/kernel": (
        f"{UNET}input_blocks.3.0.skip_connection.weight"
    ),
    "unet/down_blocks_1/attentions_0/transformer_blocks_0/attn2/to_k/kernel": (
        f"{UNET}input_blocks.3.1.transformer_blocks.0.attn2.to_k.weight"
    ),
    "unet/mid_block/resnets_1/time_emb_proj/kernel": f"{UNET}middle_block.2.emb_layers.1.weight",
    "unet/up_blocks_0/resnets_1/conv2/bias": f"{UNET}output_blocks.1.0.out_layers.3.bias",
    "unet/up_blocks_0/upsamplers_0/conv/kernel": f"{UNET}output_blocks.1.1.conv.weight",
    "unet/up_blocks_1/upsamplers_0/conv/kernel": f"{UNET}output_blocks.3.2.conv.weight",
    "unet/up_blocks_2/attentions_1/proj_out/kernel": f"{UNET}output_blocks.5.1.proj_out.weight",
    "unet/conv_norm_out/bias": f"{UNET}out.0.bias",
    "autoencoder/encoder/down_blocks_1/resnets_0/conv_shortcut/bias": (
        f"{VAE}encoder.down.1.block.0.nin_shortcut.bias"
    ),
    "autoencoder/encoder/mid_block/attentions_0/to_v/kernel": f"{VAE}encoder.mid.attn_1.v.weight",
    "autoencoder/decoder/mid_block/resnets_1/conv1/kernel": (
        f"{VAE}decoder.mid.block_2.conv1.weight"
    ),
    "autoencoder/decoder/up_blocks_0/upsamplers_0/conv/bias": (
        f"{VAE}decoder.up.1.upsample.conv.bias"
    ),
    "autoencoder/decoder/up_blocks_1/resnets_1/norm2/scale": (
        f"{VAE}decoder.up.0.block.1.norm2.weight"
    ),
    "text_encoder/text_model/encoder/layers_1/self_attn/q_proj/kernel": (
        f"{TEXT}text_model.encoder.layers.1.self_attn.q_proj.weight"
    ),
}


def as_param(tensor, shape):
    if len(shape) == 4:
        return tensor.transpose(2, 3, 1, 0)
    return tensor.reshape(tensor.shape[:2]).T if tensor.ndim > 1 else tensor


def test_parameters_are_the_files_tensors(loaded, content):
    params = flatten_dict(loaded.params, sep="/")
    for path, name in GOLDEN.items():
        expected = as_param(content[name], params[path].shape)
        np.testing.assert_array_equal(params[path], expected, err_msg=path)
    wanted = [name for name in content if name.startswith((UNET, VAE, f"{TEXT}text_model."))]
    used = sum(content[name].size for name in wanted if not name.endswith("position_ids"))
    assert sum(param.size for param in params.values()) == used
    assert loaded.name == "tiny.safetensors"


def test_the_text_encoder_in_its_other_spelling(damaged, loaded):
    def rename(tensors):
        for name in [name for name in tensors if name.startswith(TEXT)]:
            if not name.endswith("position_ids"):
                tensors[name.replace("text_model.", "")] = tensors.pop(name)

    assert load(damaged(rename)).digest == loaded.digest


def test_the_autoencoders_attention_as_dense_layers(damaged, loaded):
    def squeeze(tensors):
        for name in [name for name in tensors if ".attn_1." in name and tensors[name].ndim == 4]:
            tensors[name] = tensors[name][:, :, 0, 0].copy()

    assert load(damaged(squeeze)).digest == loaded.digest


def test_there_and_back_through_a_folder_and_a_kept_copy(original, loaded, tmp_path):
    export(loaded, tmp_path / "folder")
    convert(original, tmp_path / "kept")
    for place in ("folder", "kept"):
        again = load(tmp_path / place)
        assert again.digest == loaded.digest
        assert again.schedule == loaded.schedule
        assert again.unet == loaded.unet
        np.testing.assert_array_equal(*(tokenize(m.tokenizer, ["a"]) for m in (again, loaded)))


def test_half_precision_files(tmp_path, content):
    half = {
        name: value.astype(np.float16) if value.dtype == np.float32 else value
        for name, value in content.items()
    }
    model = load(written(tmp_path, half), dtype=jnp.float16)
    expected = half[f"{UNET}out.2.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(model.params["unet"]["conv_out"]["kernel"], expected)


# Stable Diffusion 2 -------------------------------------------------------------------------------


def test_open_clip_is_taken_apart(original_2):
    model, content = load(original_2), load_file(original_2)
    text = model.params["text_encoder"]["text_model"]
    assert sorted(text["encoder"]) == ["layers_0", "layers_1"]  # of three
    layer = "cond_stage_model.model.transformer.resblocks.1."
    for i, part in enumerate("qkv"):
        rows = slice(64 * i, 64 * (i + 1))
        dense = text["encoder"]["layers_1"]["self_attn"][f"{part}_proj"]
        np.testing.assert_array_equal(
            dense["kernel"], content[f"{layer}attn.in_proj_weight"][rows].T
        )
        np.testing.assert_array_equal(dense["bias"], content[f"{layer}attn.in_proj_bias"][rows])
    np.testing.assert_array_equal(
        text["encoder"]["layers_1"]["mlp"]["fc2"]["kernel"],
        content[f"{layer}mlp.c_proj.weight"].T,
    )
    np.testing.assert_array_equal(
        text["embeddings"]["position_embedding"]["embedding"],
        content["cond_stage_model.model.positional_embedding"],
    )


def test_prompts_are_filled_up_as_each_generation_was_trained(loaded, original_2):
    assert tokenize(loaded.tokenizer, ["a"])[0, -1] == 79  # the end
    assert tokenize(load(original_2).tokenizer, ["a"])[0].tolist() == [78, 36, 79] + [76] * 5  # "!"


def test_what_is_predicted_can_be_said(original_2, exported, one_line):
    assert load(original_2).schedule.prediction_type == "v_prediction"
    said = load(original_2, prediction_type="epsilon")
    assert said.schedule.prediction_type == "epsilon"
    assert said.unet.config.sample_size == 64
    folder = load(exported, prediction_type="v_prediction")
    assert folder.schedule.prediction_type == "v_prediction"
    assert folder.digest == load(exported).digest
    one_line(
        lambda: load(original_2, prediction_type="x0"),
        "prediction_type: expected one of",
        "'x0'",
        "epsilon",
    )


# Stable Diffusion XL ------------------------------------------------------------------------------

XL = "conditioner.embedders."
GOLDEN_XL = {  # as above
    "unet/add_embedding/linear_1/kernel": f"{UNET}label_emb.0.0.weight",
    "unet/add_embedding/linear_2/bias": f"{UNET}label_emb.0.2.bias",
    "unet/down_blocks_0/resnets_0/conv1/kernel": f"{UNET}input_blocks.1.0.in_layers.2.weight",
    "unet/down_blocks_1/attentions_0/proj_in/kernel": f"{UNET}input_blocks.3.1.proj_in.weight",
    "unet/mid_block/attentions_0/transformer_blocks_1/attn2/to_v/kernel": (
        f"{UNET}middle_block.1.transformer_blocks.1.attn2.to_v.weight"
    ),
    "unet/up_blocks_0/upsamplers_0/conv/kernel": f"{UNET}output_blocks.1.2.conv.weight",
    "unet/up_blocks_2/resnets_1/conv_shortcut/kernel": (
        f"{UNET}output_blocks.5.0.skip_connection.weight"
    ),
    "text_encoder/text_model/final_layer_norm/scale": (
        f"{XL}0.transformer.text_model.final_layer_norm.weight"
    ),
    "text_encoder_2/text_model/embeddings/position_embedding/embedding": (
        f"{XL}1.model.positional_embedding"
    ),
    "text_encoder_2/text_model/encoder/layers_2/layer_norm2/bias": (
        f"{XL}1.model.transformer.resblocks.2.ln_2.bias"
    ),
    "text_encoder_2/text_model/final_layer_norm/bias": f"{XL}1.model.ln_final.bias",
}


def test_the_tensors_of_stable_diffusion_xl(original_xl):
    model, content = load(original_xl), load_file(original_xl)
    assert model.pipeline == "StableDiffusionXLPipeline"
    params = flatten_dict(model.params, sep="/")
    for path, name in GOLDEN_XL.items():
        value, tensor = params[path], content[name]
        expected = tensor if path.endswith("embedding") else as_param(tensor, value.shape)
        np.testing.assert_array_equal(value, expected, err_msg=path)
    second = "text_encoder_2/text_model/encoder/layers_1/self_attn"
    whole = content[f"{XL}1.model.transformer.resblocks.1.attn.in_proj_weight"]
    for i, part in enumerate("qkv"):
        rows = whole[48 * i : 48 * (i + 1)]
        np.testing.assert_array_equal(params[f"{second}/{part}_proj/kernel"], rows.T)
    # [in, out] here and there, and square: only its values tell.
    projection = content[f"{XL}1.model.text_projection"]
    np.testing.assert_array_equal(params["text_encoder_2/text_projection/kernel"], projection)
    unused = ("position_ids", "logit_scale", "denoiser.sigmas")
    wanted = [name for name in content if name.startswith((UNET, VAE, XL))]
    used = sum(content[name].size for name in wanted if not name.endswith(unused))
    assert sum(param.size for param in params.values()) == used


def test_stable_diffusion_xl_there_and_back(original_xl, tmp_path):
    model = load(original_xl)
    export(model, tmp_path / "folder")
    convert(original_xl, tmp_path / "kept")
    for place in ("folder", "kept"):
        again = load(tmp_path / place)
        assert (again.digest, again.schedule) == (model.digest, model.schedule)
        for name in ("unet", "autoencoder", "text_encoder", "text_encoder_2", "zeros"):
            assert getattr(again, name) == getattr(model, name)
        for name in ("tokenizer", "tokenizer_2"):
            rows = (tokenize(getattr(m, name), ["a"]) for m in (again, model))
            np.testing.assert_array_equal(*rows)


def test_each_text_encoders_prompts_are_filled_up_as_it_was_trained(original_xl):
    """Whatever the folder says that the tokenizer is taken from."""
    model = load(original_xl)
    assert tokenize(model.tokenizer, ["a"])[0].tolist() == [78, 36] + [79] * 6
    assert tokenize(model.tokenizer_2, ["a"])[0].tolist() == [78, 36, 79] + [76] * 5


def test_the_projection_in_its_other_spelling(original_xl, tmp_path):
    content = load_file(original_xl)
    projection = content.pop(f"{XL}1.model.text_projection")
    content[f"{XL}1.model.text_projection.weight"] = projection.T.copy()
    assert load(written(tmp_path, content)).digest == load(original_xl).digest


def test_stable_diffusion_xl_for_inpainting(tmp_path, one_line):
    model = load(written(tmp_path, tensors(dataclasses.replace(TINY_XL, in_channels=9))))
    assert model.pipeline == "StableDiffusionXLInpaintPipeline"
    one_line(lambda: pot_jax.sample(model, ["a"]), "text-to-image", "pot_jax.inpaint")


def test_stable_diffusion_xl_in_a_pickle(original_xl, tmp_path):
    write_tiny_tokenizer(tmp_path / "tokenizer")
    path = torch_files.save(tmp_path / "tiny.ckpt", load_file(original_xl))
    assert load(path, allow_pickle=True).digest == load(original_xl).digest


def drop(*starts):
    return lambda tensors: [tensors.pop(name) for name in [*tensors] if name.startswith(starts)]


def as_refiner(tensors):
    """Its one text encoder is OpenCLIP, and it sees an aesthetic score instead of target sizes."""
    drop(f"{XL}0.")(tensors)
    for name in [name for name in tensors if name.startswith(f"{XL}1.")]:
        tensors[name.replace("embedders.1", "embedders.0")] = tensors.pop(name)


def resized(name, *shape):
    return lambda tensors: tensors.update({name: np.zeros(shape, np.float32)})


PROJECTION = f"{XL}1.model.text_projection"
DAMAGED_XL = {
    "the refiner": (as_refiner, ["is SDXL's refiner", "not supported"]),
    "Playground": (lambda t: t.update(edm_mean=np.ones(4)), ["is Playground v2.5"]),
    "CosXL": (lambda t: t.update({"edm_vpred.sigma_max": np.ones(1)}), ["is CosXL"]),
    "no second encoder": (drop(f"{XL}1."), ["holds no text_encoder_2 (conditioner.embedders.1.*)"]),
    "no encoders": (
        drop(XL),
        ["holds no text_encoder (conditioner.embedders.0.*), no text_encoder_2"],
    ),
    "no sizes": (drop(f"{UNET}label_emb"), ["lacks", "label_emb.0.0.weight"]),
    "no projection": (drop(PROJECTION), [f"lacks {PROJECTION}"]),
    "a narrow projection": (
        resized(PROJECTION, 48, 40),
        ["projection_class_embeddings_input_dim is 1584", "gives 1576"],
    ),
    "ids that do not add up": (
        resized(f"{UNET}label_emb.0.0.weight", 128, 1328),
        ["projection_class_embeddings_input_dim is 1328", "gives 1584"],
    ),
    "an encoder of another width": (
        lambda t: t.update(tensors(dataclasses.replace(TINY_XL, widths=(24, 48)))),
        ["cross_attention_dim is 64", "text_encoder with text_encoder_2 gives 72"],
    ),
    "a lost half of an encoder": (
        drop(f"{XL}1.model.transformer.resblocks.1."),
        ["unexpected", f"{XL}1.model.transformer.resblocks.2."],
    ),
    "channels of no model": (
        resized(f"{UNET}input_blocks.0.0.weight", 32, 5, 3, 3),
        ["in_channels is 5"],
    ),
}


@pytest.mark.parametrize("case", DAMAGED_XL)
def test_files_of_stable_diffusion_xl_that_do_not_fit(original_xl, tmp_path, case, one_line):
    change, words = DAMAGED_XL[case]
    content = load_file(original_xl)
    change(content)
    path = written(tmp_path, content)
    one_line(lambda: load(path), str(path), *words)


# Tokenizers ---------------------------------------------------------------------------------------


def test_the_tokenizer_is_given_beside_or_cached(original, loaded, tmp_path, cache, one_line):
    alone = tmp_path / "alone" / "tiny.safetensors"
    alone.parent.mkdir()
    alone.symlink_to(original)
    one_line(lambda: load(alone), str(alone), "holds no tokenizer", "--tokenizer=FOLDER")
    one_line(lambda: load(alone, tokenizer=tmp_path / "no"), "there is no tokenizer folder")
    one_line(lambda: load(alone, tokenizer=alone.parent), "vocab.json does not exist")
    assert load(alone, tokenizer=original.parent / "tokenizer").digest == loaded.digest
    assert load(alone, tokenizer=original.parent).digest == loaded.digest  # a model's folder
    revision = "0123456789012345678901234567890123456789"
    place = cache / "models--openai--clip-vit-large-patch14"
    write_tiny_tokenizer(place / "snapshots" / revision)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(revision)
    assert load(alone).digest == loaded.digest


def test_a_folder_with_another_tokenizer(exported, tmp_path):
    write_tiny_tokenizer(tmp_path)
    words = (tmp_path / "vocab.json").read_text().replace('"star</w>"', '"moon</w>"')
    (tmp_path / "vocab.json").write_text(words)
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    assert "moon</w>" in load(exported, tokenizer=tmp_path).tokenizer.get_vocab()


# Files that do not fit ----------------------------------------------------------------------------


def test_everything_wrong_is_in_one_message(damaged, one_line):
    def change(tensors):
        del tensors[f"{UNET}output_blocks.1.1.conv.weight"]
        del tensors[f"{VAE}decoder.up.1.block.0.conv1.bias"]
        tensors[f"{UNET}out.2.bias"] = np.zeros(5, np.float32)
        tensors[f"{UNET}surprise"] = tensors["embedding_manager.x"] = np.zeros(3, np.float32)
        tensors[f"{UNET}out.0.bias"] = np.zeros(32, np.int8)

    path = damaged(change)
    message = one_line(
        lambda: load(path),
        f"the weights in {path}",
        "2 missing",
        f"{UNET}output_blocks.1.1.conv.weight",
        f"{VAE}decoder.up.1.block.0.conv1.bias",
        f"1 misshapen ({UNET}out.2.bias (shape (5,), expected (4,)))",
        f"2 unexpected (embedding_manager.x; {UNET}surprise)",
        f"{UNET}out.0.bias (I8)",
        "get the file again",
    )
    assert "model_ema" not in message

    def change_values(tensors):
        tensors[f"{VAE}quant_conv.bias"] = np.full(8, np.nan, np.float32)

    words = f"1 not finite (NaN or infinite) ({VAE}quant_conv.bias)"
    one_line(lambda: load(damaged(change_values)), words)


def test_a_part_of_open_clip_is_lost(original_2, tmp_path, one_line):
    content = load_file(original_2)
    layer = "cond_stage_model.model.transformer.resblocks.0.attn."
    del content[f"{layer}in_proj_bias"]
    content[f"{layer}in_proj_weight"] = np.zeros((190, 64), np.float32)
    path = written(tmp_path, content)
    one_line(lambda: load(path), "6 missing", "in_proj_", "1 unexpected", "in_proj_weight")


WITHOUT = {
    "no autoencoder": (VAE, ["no autoencoder (first_stage_model.*)", "a whole model"]),
    "no text encoder": (TEXT, ["no text_encoder (cond_stage_model.*)"]),
    "no unet": (UNET, ["no unet (model.diffusion_model.*)"]),
}


@pytest.mark.parametrize("case", WITHOUT)
def test_a_file_without_one_of_the_networks(damaged, case, one_line):
    prefix, words = WITHOUT[case]
    path = damaged(lambda tensors: [tensors.pop(n) for n in list(tensors) if n.startswith(prefix)])
    one_line(lambda: load(path), str(path), *words)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lora_unet_down_blocks_0.alpha", "a LoRA"),
        ("conditioner.embedders.0.transformer.x", "no text_encoder_2"),
        ("model.diffusion_model.joint_blocks.0.x", "Stable Diffusion 3"),
        ("control_model.input_blocks.0.0.weight", "a ControlNet"),
        ("emb_params", "textual inversion"),
        ("decoder.conv_in.weight", "an autoencoder alone; give a whole model, and this as --vae"),
        ("model.diffusion_model.out.0.bias", "a UNet alone; give a whole model, and"),
        ("down_blocks.0.x", "a whole model and this as --unet or --vae"),
        ("whatever", "a whole model in the original layout was expected"),
    ],
)
def test_files_of_another_kind(tmp_path, name, words, one_line):
    path = written(tmp_path, {name: np.zeros(3, np.float32)})
    one_line(lambda: load(path), str(path), "holds no", words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["empty"]),
        (b"version https://git-lfs.github.com/spec/v1\n", ["git lfs pull"]),
        (b"<!DOCTYPE html><html></html>", ["web page"]),
        (b"hello hello hello", ["not a safetensors file"]),
    ],
)
@pytest.mark.parametrize("name", ["x.safetensors", "x.ckpt"])
def test_files_that_are_no_weights(tmp_path, name, content, words, one_line):
    (tmp_path / name).write_bytes(content)
    one_line(lambda: load(tmp_path / name), name, *words)


def test_a_truncated_file(original, tmp_path, one_line):
    (tmp_path / "x.safetensors").write_bytes(original.read_bytes()[:-1000])
    one_line(lambda: load(tmp_path / "x.safetensors"), "x.safetensors", "truncated")


def test_one_file_has_no_variants(original, one_line):
    one_line(lambda: load(original, variant="fp16"), str(original), "no variants")


def test_inpainting_is_recognised_and_makes_no_zooms(tmp_path, one_line):
    model = load(written(tmp_path, tensors(dataclasses.replace(TINY_1, in_channels=9))))
    assert model.pipeline == "StableDiffusionInpaintPipeline"
    one_line(lambda: pot_jax.sample(model, ["a"]), "text-to-image", "pot_jax.inpaint")


def test_channels_that_no_model_has(tmp_path, one_line):
    path = written(tmp_path, tensors(dataclasses.replace(TINY_1, in_channels=5)))
    one_line(lambda: load(path), str(path), "in_channels is 5")


# Pickled files ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pickled(content, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pickled")
    write_tiny_tokenizer(folder / "tokenizer")
    return torch_files.save(folder / "tiny.ckpt", content)


def test_a_pickled_file_has_to_be_allowed(pickled, loaded, one_line):
    one_line(lambda: load(pickled), str(pickled), "is a pickle", "--allow_pickle", "safetensors")
    assert load(pickled, allow_pickle=True).digest == loaded.digest


def test_the_name_does_not_matter_but_the_content(pickled, original, loaded, tmp_path, one_line):
    write_tiny_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "a.ckpt").symlink_to(original)
    assert load(tmp_path / "a.ckpt").digest == loaded.digest
    (tmp_path / "b.safetensors").symlink_to(pickled)
    one_line(lambda: load(tmp_path / "b.safetensors"), "is a pickle")
    assert load(tmp_path / "b.safetensors", allow_pickle=True).digest == loaded.digest


def test_a_program_is_refused(tmp_path, one_line):
    system = torch_files.Call(torch_files.Global("os", "system"), (f"touch {tmp_path}/boom",))
    path = torch_files.save(tmp_path / "x.ckpt", {"a": np.zeros(3, np.float32)}, hidden=system)
    one_line(lambda: load(path, allow_pickle=True), "os.system", "nothing was run")
    assert not (tmp_path / "boom").exists()


# The commands -------------------------------------------------------------------------------------


def run(*arguments):
    return main.main(["pot-jax", *map(str, arguments)])


def test_convert_and_export_take_files(pickled, original, loaded, tmp_path, capsys):
    assert run("convert", pickled, tmp_path / "kept") == 2
    assert "--allow_pickle" in capsys.readouterr().err
    assert run("convert", pickled, tmp_path / "kept", "--allow_pickle") == 0
    assert load(tmp_path / "kept").digest == loaded.digest
    tokenizer = original.parent / "tokenizer"
    flags = (f"--tokenizer={tokenizer}", "--prediction_type=v_prediction")
    assert run("export", original, tmp_path / "folder", *flags) == 0
    assert load(tmp_path / "folder").schedule.prediction_type == "v_prediction"
    assert run("export", original, tmp_path / "other", "--prediction_type=x0") == 2
    assert "prediction_type: expected one of '' (unset), epsilon" in capsys.readouterr().err


def test_sample_hands_the_flags_on(pickled, tmp_path, monkeypatch):
    seen = {}

    def stop(name, **how):
        seen.update(how, name=name)
        raise ValueError("enough")

    monkeypatch.setattr("pot_jax.weights.load.open_model", stop)
    monkeypatch.setattr("pot_jax.parallel.devices.set_up", lambda *a, **k: None)
    flags = ("--allow_pickle", "--prediction_type=epsilon", f"--workdir={tmp_path / 'run'}")
    with pytest.raises(ValueError, match="enough"):
        run("sample", "a", f"--model={pickled}", *flags)
    assert seen == {
        "name": str(pickled),
        "dtype": "float32",
        "variant": None,
        "tokenizer": None,
        "prediction_type": "epsilon",
        "allow_pickle": True,
        "unet": None,
        "vae": None,
        "loras": (),
        "embeddings": (),
    }
