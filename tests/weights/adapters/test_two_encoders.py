"""LoRAs and learned words for SDXL: each text encoder gets its own, however a file spells it."""

import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file
from tiny_models import TEXT, TEXT_2, XL_UNET, tiny_xl

from pot_jax.weights.adapters.lora_names import find, layer_and_part, layer_table
from pot_jax.weights.export import export
from pot_jax.weights.keys import key_table
from pot_jax.weights.layouts.original_names import respelled, unet_names
from pot_jax.weights.load import load
from pot_jax.weights.tokenization import tokenize

MLP = "text_model.encoder.layers.0.mlp.fc1"
# Layers of the tiny model, by component; SDXL's own are the same where numbers allow it.
LAYERS = {
    ("unet", "conv_in"): "input_blocks_0_0",
    ("unet", "add_embedding.linear_1"): "label_emb_0_0",
    ("unet", "add_embedding.linear_2"): "label_emb_0_2",
    ("unet", "time_embedding.linear_1"): "time_embed_0",
    ("unet", "down_blocks.0.resnets.0.conv1"): "input_blocks_1_0_in_layers_2",
    ("unet", "down_blocks.0.downsamplers.0.conv"): "input_blocks_2_0_op",
    ("unet", "down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k"): (
        "input_blocks_3_1_transformer_blocks_1_attn2_to_k"
    ),
    ("unet", "mid_block.attentions.0.proj_in"): "middle_block_1_proj_in",
    ("unet", "up_blocks.0.upsamplers.0.conv"): "output_blocks_1_2_conv",
    ("unet", "conv_out"): "out_2",
    ("text_encoder", MLP): None,
    ("text_encoder_2", MLP): None,
    ("text_encoder_2", "text_model.encoder.layers.2.self_attn.q_proj"): None,
}
PREFIXES = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}


@pytest.fixture(scope="module")
def xl(tmp_path_factory):
    """The model, and the folder that it is in."""
    model = tiny_xl(tmp_path_factory.mktemp("tokenizer"))
    folder = tmp_path_factory.mktemp("exported") / "xl"
    export(model, folder)
    return model, folder


# LoRAs --------------------------------------------------------------------------------------------


def kohya(component, layer, end):
    return f"{PREFIXES[component]}{layer.replace('.', '_')}.lora_{end}.weight"


def kohya_original(component, layer, end):
    return kohya(component, LAYERS[component, layer] or layer, end)


def peft(component, layer, end):
    return f"{component}.{layer}.lora_{'AB'[end == 'up']}.weight"


def diffusers(component, layer, end):
    infix = "lora" if component == "unet" else "lora_linear_layer"
    return f"{component}.{layer}.{infix}.{end}.weight"


SPELLINGS = [kohya, kohya_original, peft, diffusers]


def lora(model, layers, rank=3):
    """Random tensors [(down, up)] of layers, the shapes being those of their weights."""
    rng = np.random.default_rng(5)
    found = {}
    for component, layer in layers:
        table = key_table(model.params[component]).values()
        (shape,) = (e.stored_shape for e in table if e.key == f"{layer}.weight")
        down = rng.normal(size=(rank, *shape[1:])).astype(np.float32)
        up = rng.normal(size=(shape[0], rank, *(1 for _ in shape[2:]))).astype(np.float32)
        found[component, layer] = {"down": down, "up": up}
    return found


def write(path, layers, spell, metadata=None, **more):
    tensors = {spell(*layer, end): t for layer, ends in layers.items() for end, t in ends.items()}
    save_file(tensors | more, path, metadata)
    return path


def test_all_spellings_of_one_lora_give_one_digest(xl, tmp_path):
    model, folder = xl
    layers = lora(model, LAYERS)
    files = [write(tmp_path / f"{s.__name__}.safetensors", layers, s) for s in SPELLINGS]
    digests = {load(folder, loras={file: 0.5}).digest for file in files}
    assert len(digests) == 1
    assert model.digest not in digests
    merged = load(folder, loras={files[0]: 0.5})
    before, after = (flatten_dict(m.params, sep="/") for m in (model, merged))
    for path, value in before.items():
        component, *modules, _ = path.split("/")
        entry = key_table(model.params[component])[tuple(path.split("/")[1:])]
        added = layers.get((component, entry.key.removesuffix(".weight")))
        if added is None or not path.endswith("kernel"):
            np.testing.assert_array_equal(after[path], value, err_msg=path)
            continue
        up, down = (added[end].astype(np.float64) for end in ("up", "down"))
        wanted = 0.5 * np.tensordot(up.reshape(up.shape[:2]), down, 1)
        found = entry.write(np.asarray(after[path], np.float64) - np.asarray(value, np.float64))
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_alphas_by_encoder(xl, tmp_path):
    """Alpha tensors, and PEFT's settings, which are by component, mean the same."""
    model, folder = xl
    layers = lora(model, LAYERS)
    alphas = {"unet": 1.0, "text_encoder": 2.0, "text_encoder_2": 6.0}
    more = {
        kohya(*layer, "down").replace("lora_down.weight", "alpha"): np.array(
            alphas[layer[0]], np.float32
        )
        for layer in layers
    }
    one = write(tmp_path / "a.safetensors", layers, kohya, **more)
    said = {
        f"{name}.{key}": v for name, a in alphas.items() for key, v in (("r", 3), ("lora_alpha", a))
    }
    metadata = {"lora_adapter_metadata": json.dumps(said)}
    two = write(tmp_path / "b.safetensors", layers, peft, metadata)
    digests = [load(folder, loras=[file]).digest for file in (one, two)]
    assert digests[0] == digests[1] != load(folder, loras=[write(one, layers, kohya)]).digest


def test_every_layer_has_its_own_names(xl):
    model, _ = xl
    table, ldm = layer_table(XL_UNET, model.params), unet_names(XL_UNET)
    targets = {target.path for target in table.values()}
    kernels = [path for path in flatten_dict(model.params) if path[-1] == "kernel"]
    assert targets == {path for path in kernels if path[0] != "autoencoder"}
    for target in {t.path: t for t in table.values()}.values():
        component, layer = target.path[0], target.entry.key.removesuffix(".weight")
        names = {layer, respelled(layer, ldm)} if component == "unet" else {layer}
        for name in names:
            for spell in (kohya, peft, diffusers) if name == layer else (kohya,):
                spelled, part = layer_and_part(spell(component, name, "up"))
                assert (find(table, spelled).path, part) == (target.path, "up"), spelled
    # Which encoder's, nothing says.
    assert find(table, MLP) is None
    assert find(table, "mid_block_attentions_0_proj_in") is not None


def test_original_names(xl):
    model, _ = xl
    table = unet_names(XL_UNET)
    for (component, layer), name in LAYERS.items():
        if component == "unet":
            assert respelled(layer, table).replace(".", "_") == name


def wide(width, spell=kohya):
    """A layer that takes text states of a width."""
    layer = ("unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k")
    down, up = (np.zeros(shape, np.float32) for shape in ((1, width), (32, 1)))
    return {spell(*layer, "down"): down, spell(*layer, "up"): up}


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (wide(768), "does not fit the model (it is for SD 1.x): 1 misshapen layers"),
        (wide(1024, peft), "does not fit the model (it is for SD 2.x): 1 misshapen layers"),
        (
            {"lora_te_text_model_encoder_layers_11_mlp_fc1.lora_up.weight": np.zeros((1, 1))},
            "does not fit the model: 1 layers that the model lacks",
        ),
        (
            {"text_model.encoder.layers.0.mlp.fc1.lora_A.weight": np.zeros((1, 1), np.float32)},
            "1 layers that the model lacks",
        ),
        (
            {f"lora_te2_{MLP.replace('.', '_')}.lora_down.weight": np.zeros((1, 24), np.float32)},
            "1 layers without both down and up",
        ),
    ],
)
def test_loras_of_other_models(xl, tmp_path, tensors, words, one_line):
    save_file(tensors, tmp_path / "a.safetensors")
    one_line(lambda: load(xl[1], loras=[tmp_path / "a.safetensors"]), words)


@pytest.mark.parametrize("spell", [kohya, peft])
def test_loras_for_sdxl_on_another_model(exported, tmp_path, spell, one_line):
    ends = {"down": np.zeros((1, 16), np.float32), "up": np.zeros((32, 1), np.float32)}
    file = write(tmp_path / "a.safetensors", {("text_encoder_2", MLP): ends}, spell)
    words = "does not fit the model (it is for SDXL, which has two text encoders): 1 layers that"
    one_line(lambda: load(exported, loras=[file]), words)
    save_file(wide(2048, spell), file)
    one_line(lambda: load(exported, loras=[file]), "does not fit the model (it is for SDXL): 1 mis")


# Learned words ------------------------------------------------------------------------------------

WIDTHS = {"clip_l": TEXT.hidden_size, "clip_g": TEXT_2.hidden_size}


def word(path, count=2, **others):
    """A file with `count` vectors for each encoder."""
    rng = np.random.default_rng(count)
    shapes = {key: (count, width) for key, width in WIDTHS.items()} | others
    tensors = {key: rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}
    save_file(tensors, path)
    return path, tensors


def vocabulary(model, name):
    text = model.params[name]["text_model"]
    return np.asarray(text["embeddings"]["token_embedding"]["embedding"])


@pytest.mark.parametrize("shape", [(1,), (3,), ()])
def test_a_word_for_both_encoders(xl, tmp_path, shape):
    model, folder = xl
    others = {key: (*shape, width) for key, width in WIDTHS.items()}
    file, tensors = word(tmp_path / "toy.safetensors", **others)
    learned = load(folder, embeddings=[file])
    count = shape[0] if shape else 1
    assert [one.token for one in learned.embeddings] == ["toy"]
    for name, key, tokenizer in (
        ("text_encoder", "clip_l", "tokenizer"),
        ("text_encoder_2", "clip_g", "tokenizer_2"),
    ):
        before, after = vocabulary(model, name), vocabulary(learned, name)
        np.testing.assert_array_equal(after[: len(before)], before)
        np.testing.assert_array_equal(after[len(before) :], tensors[key].reshape(count, -1))
        assert getattr(learned, name).config.vocab_size == len(before) + count
        row = tokenize(getattr(learned, tokenizer), ["a toy a"])[0].tolist()
        assert row[2 : 2 + count] == list(range(80, 80 + count))
    named = load(folder, embeddings=[("<toy>", file)])
    assert tokenize(named.tokenizer_2, ["<toy>"])[0, 1] == 80


def test_the_second_encoder_sees_its_vectors(xl, tmp_path):
    """A word that learned another's vectors says the same, in the pooled state, too."""
    model, folder = xl
    star = tokenize(model.tokenizer, ["star"])[0, 1]
    names = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
    save_file(
        {key: vocabulary(model, name)[[star]] for key, name in names.items()},
        tmp_path / "toy.safetensors",
    )
    learned = load(folder, embeddings=[tmp_path / "toy.safetensors"])
    ids = tokenize(learned.tokenizer_2, ["a star", "a toy", "a a"])
    ends = np.full(3, 3, np.int32)
    params = {"params": learned.params["text_encoder_2"]}
    for states in jax.jit(learned.text_encoder_2.apply)(params, ids, ends):
        np.testing.assert_array_equal(states[0], states[1])
        assert np.abs(states[0] - states[2]).max() > 0.01


def test_words_go_to_disk_and_back(xl, tmp_path):
    file, _ = word(tmp_path / "toy.safetensors")
    learned = load(xl[1], embeddings=[file])
    export(learned, tmp_path / "learned")
    again = load(tmp_path / "learned")
    assert again.digest == learned.digest
    for name in ("tokenizer", "tokenizer_2"):
        rows = [tokenize(getattr(m, name), ["a toy star"]) for m in (learned, again)]
        np.testing.assert_array_equal(*rows)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"clip_l": (2, 16)}, ["holds 1 tensors (clip_l)", "two, clip_l and clip_g"]),
        ({"clip_g": (2, 24)}, ["holds 1 tensors (clip_g)", "one for each text encoder"]),
        ({"emb_params": (2, 16)}, ["holds 1 tensors (emb_params)", "two, clip_l and clip_g"]),
        ({"<toy>": (2, 24)}, ["holds 1 tensors (<toy>)"]),
        ({"clip_l": (2, 16), "x": (2, 24)}, ["holds 2 tensors (clip_l, x)"]),
        ({"a": (2, 16), "b": (2, 24)}, ["holds 2 tensors (a, b)"]),
        ({"clip_l": (2, 16), "clip_g": (2, 24), "x": (1,)}, ["holds 3 tensors"]),
        ({"clip_l": (2, 24), "clip_g": (2, 16)}, ["shape [2, 24]", "the text_encoder's width"]),
        ({"clip_l": (2, 16), "clip_g": (2, 16)}, ["expected [24]", "text_encoder_2's width"]),
        (
            {"clip_l": (2, 16), "clip_g": (3, 24)},
            ["2 vectors in clip_l and 3 vectors in clip_g", "get the file again"],
        ),
        ({}, ["holds 0 tensors"]),
    ],
)
def test_words_that_do_not_fit(xl, tmp_path, tensors, words, one_line):
    file = tmp_path / "a.safetensors"
    save_file({key: np.ones(shape, np.float32) for key, shape in tensors.items()}, file)
    one_line(lambda: load(xl[1], embeddings=[file]), str(file), *words)


def test_values_of_one_encoder_that_are_none(xl, tmp_path, one_line):
    file, tensors = word(tmp_path / "toy.safetensors")
    tensors["clip_g"][1, 2] = np.nan
    save_file(tensors, file)
    one_line(lambda: load(xl[1], embeddings=[file]), str(file), "not finite in float32")
