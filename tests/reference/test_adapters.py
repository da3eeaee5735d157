"""LoRAs and learned words against diffusers and torch.

diffusers applies LoRAs by way of `peft`, which the tests of SD 1.x and 2.x do without: the keys of
a file go through diffusers' own conversion, and torch's layers get the definition, unmerged, as a
second branch beside them. SDXL's are compared with the weights that it fuses. Textual inversion is
diffusers' own. Errors are relative to the output's deviation (pairs.py).
"""

import zlib
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.loaders.lora_conversion_utils import (
    _convert_non_diffusers_lora_to_diffusers,
    _maybe_map_sgm_blocks_to_diffusers,
)
from diffusers.utils.state_dict_utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from flax.traverse_util import flatten_dict
from pairs import assert_close, noise, to_torch
from safetensors.torch import save_file
from test_loading import pipeline
from test_sdxl_reference import pipeline as pipeline_xl
from test_sdxl_reference import released_unet_config
from tiny_models import POSITIONS
from torch.nn import functional

from pot_jax.models.clip import CLIPTextConfig, CLIPTextModel
from pot_jax.models.unet import UNet2DConditionModel, UNetConfig
from pot_jax.weights.adapters.lora_names import find, layer_and_part, layer_table
from pot_jax.weights.export import export
from pot_jax.weights.keys import abstract_params, key_table
from pot_jax.weights.layouts.original_names import respelled, unet_names
from pot_jax.weights.load import load
from pot_jax.weights.tokenization import tokenize

STRENGTH = 0.8


@pytest.fixture(scope="module")
def theirs(request, tmp_path_factory):
    """diffusers' pipeline, and the folder that it was saved to."""
    pipe = pipeline(request.param, tmp_path_factory.mktemp("tokenizer"))
    folder = tmp_path_factory.mktemp("model") / "model"
    pipe.save_pretrained(folder)
    return pipe, folder


# Files --------------------------------------------------------------------------------------------


def modules_of(pipe, components=("unet", "text_encoder")):
    """Every dense layer and convolution by component and name, text layers as files spell them."""
    return {
        (component, spelled(component, name)): module
        for component in components
        for name, module in getattr(pipe, component).named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    }


def spelled(component, name):
    whole = component == "unet" or name == "text_projection"
    return name if whole else f"text_model.{bare(name)}"


def bare(name):
    return name.removeprefix("text_model.")


def random_lora(pipe, only=lambda component, name: True, components=("unet", "text_encoder")):
    """{layer: (down, up, alpha)} for the pipeline's layers, of ranks 1 to 4."""
    generator = torch.Generator().manual_seed(7)
    layers = {}
    for i, (layer, module) in enumerate(modules_of(pipe, components).items()):
        if not only(*layer):
            continue
        outputs, inputs, *space = module.weight.shape
        rank, ones = 1 + i % 4, [1] * len(space)
        down = 0.2 * torch.randn(rank, inputs, *space, generator=generator)
        up = 0.2 * torch.randn(outputs, rank, *ones, generator=generator)
        layers[layer] = (down, up, 0.5 + i % 3)
    return layers


def kohya(component, name):
    owner = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[component]
    return owner + name.replace(".", "_"), ".lora_down.weight", ".lora_up.weight", ".alpha"


def kohya_ldm(component, name):
    if component == "unet":
        # LDM's names of all layers are compared below.
        name = respelled(name, unet_names(UNetConfig(**LDM_BLOCKS)))
    return kohya(component, name)


LDM_BLOCKS = {  # of test_loading.unet
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 2,
}


def peft(component, name):
    return f"{component}.{name}", ".lora_A.weight", ".lora_B.weight", None


def diffusers(component, name):
    infix = ".lora" if component == "unet" else ".lora_linear_layer"
    return f"{component}.{name}", f"{infix}.down.weight", f"{infix}.up.weight", None


def processors(component, name):
    old = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
    *parents, last = name.removesuffix(".0").split(".")
    name = ".".join([*parents, old.get(last, last)])
    name = name.replace("attn1.", "attn1.processor.").replace("attn2.", "attn2.processor.")
    return f"{component}.{name}", "_lora.down.weight", "_lora.up.weight", None


def attention(component, name):
    return "attn" in name


def convertible(component, name):
    """Not the upsampler that diffusers takes for an attention (below)."""
    return name != "up_blocks.0.upsamplers.0.conv"


def anything(component, name):
    return True


SPELLINGS = {
    "kohya": (kohya, anything),
    "kohya, LDM": (kohya_ldm, convertible),
    "PEFT": (peft, anything),
    "diffusers": (diffusers, anything),
    "processors": (processors, attention),
}


def write(path, layers, spell):
    """A LoRA file, and its tensors."""
    tensors = {}
    for layer, (down, up, alpha) in layers.items():
        name, down_end, up_end, alpha_end = spell(*layer)
        tensors |= {name + down_end: down, name + up_end: up}
        if alpha_end:
            tensors[name + alpha_end] = torch.tensor(float(alpha))
    save_file(tensors, path)
    return tensors


# Their side ---------------------------------------------------------------------------------------


def their_names(tensors):
    """The keys of a file as PEFT names them, by diffusers' conversions, with each one's tensor."""
    tensors = dict(tensors)
    if all(key.startswith("lora_") for key in tensors):
        tensors = _maybe_map_sgm_blocks_to_diffusers(tensors, SimpleNamespace(layers_per_block=1))
        tensors, _ = _convert_non_diffusers_lora_to_diffusers(tensors)
    unet = {k.removeprefix("unet."): t for k, t in tensors.items() if k.startswith("unet.")}
    text = {k.removeprefix("text_encoder."): t for k, t in tensors.items() if k.startswith("text")}
    unet = convert_unet_state_dict_to_peft(unet)
    text = convert_state_dict_to_peft(convert_state_dict_to_diffusers(text))
    return {("unet", k): t for k, t in unet.items()} | {
        ("text_encoder", f"text_model.{bare(k)}"): t for k, t in text.items()
    }


@contextmanager
def branches(pipe, layers, strength):
    """Gives torch's layers a second branch: strength alpha / rank up(mid(down(x)))."""
    modules = modules_of(pipe)

    def branch(module, inputs, output, *, parts, scale):
        down, *mid, up = parts
        if isinstance(module, torch.nn.Linear):
            return output + scale * functional.linear(functional.linear(inputs[0], down), up)
        place = {"stride": module.stride, "padding": module.padding}
        if mid:
            x = functional.conv2d(functional.conv2d(inputs[0], down), mid[0], **place)
        else:
            x = functional.conv2d(inputs[0], down, **place)
        return output + scale * functional.conv2d(x, up)

    hooks = [
        modules[layer].register_forward_hook(
            partial(branch, parts=parts, scale=strength * alpha / len(parts[0]))
        )
        for layer, (*parts, alpha) in layers.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@partial(jax.jit, static_argnums=0)
def apply(module, params, *inputs):
    return module.apply({"params": params}, *inputs)


def compare(model, pipe, prompts=("a star", "")):
    """Tokens, text states and noise predictions of both are the same; returns their prediction."""
    ids = tokenize(model.tokenizer, prompts)
    expected_ids = pipe.tokenizer(
        [pipe.maybe_convert_prompt(prompt, pipe.tokenizer) for prompt in prompts],
        padding="max_length",
        max_length=POSITIONS,
        return_tensors="pt",
    ).input_ids
    np.testing.assert_array_equal(ids, expected_ids.numpy())
    latents, timesteps = noise(2, 8, 8, 4), np.array([1, 500], np.int32)
    params = model.params
    with torch.no_grad():
        states = pipe.text_encoder(expected_ids).last_hidden_state
        assert_close(apply(model.text_encoder, params["text_encoder"], ids), states, 1e-5)
        prediction = pipe.unet(to_torch(latents), torch.from_numpy(timesteps), states).sample
    ours = apply(model.unet, params["unet"], latents, timesteps, states.numpy())
    # Merged or beside the layer, sums come in another order; measured 5e-6.
    assert_close(ours, prediction, 1e-5)
    return prediction


@pytest.mark.parametrize(
    ("theirs", "name"),
    [*(("sd1", name) for name in SPELLINGS), ("sd2", "kohya"), ("sd2", "PEFT")],
    indirect=["theirs"],
)
def test_loras(theirs, tmp_path, name):
    pipe, folder = theirs
    spell, only = SPELLINGS[name]
    layers = random_lora(pipe, only)
    tensors = write(tmp_path / "a.safetensors", layers, spell)
    if spell not in (kohya, kohya_ldm):  # their alpha is the rank
        layers = {layer: (down, up, len(down)) for layer, (down, up, _) in layers.items()}
    # diffusers takes the file's keys for the layers that it was written for.
    for (component, key), tensor in their_names(tensors).items():
        down, up, _ = layers[component, key.split(".lora_")[0]]
        assert tensor is {"lora_A": down, "lora_B": up}[key.split(".")[-2]]
    model = load(folder, loras={tmp_path / "a.safetensors": STRENGTH})
    plain_prediction = compare(load(folder), pipe)
    with branches(pipe, layers, STRENGTH):
        prediction = compare(model, pipe)
    assert (prediction - plain_prediction).std() > 0.1 * plain_prediction.std()


@pytest.mark.parametrize("theirs", ["sd1"], indirect=True)
def test_cp_decomposition(theirs, tmp_path):
    pipe, folder = theirs
    layers, tensors = {}, {}
    generator = torch.Generator().manual_seed(3)
    for (component, name), module in modules_of(pipe).items():
        if not isinstance(module, torch.nn.Conv2d) or module.kernel_size == (1, 1):
            continue
        outputs, inputs, *space = module.weight.shape
        down = torch.randn(3, inputs, 1, 1, generator=generator)
        mid = 0.2 * torch.randn(3, 3, *space, generator=generator)
        up = 0.2 * torch.randn(outputs, 3, 1, 1, generator=generator)
        layers[component, name] = (down, mid, up, 2.0)
        key, *_ = kohya(component, name)
        for part, tensor in (("down", down), ("mid", mid), ("up", up)):
            tensors[f"{key}.lora_{part}.weight"] = tensor
        tensors[f"{key}.alpha"] = torch.tensor(2.0)
    assert len(layers) > 10
    save_file(tensors, tmp_path / "a.safetensors")
    with branches(pipe, layers, STRENGTH):
        compare(load(folder, loras={tmp_path / "a.safetensors": STRENGTH}), pipe)


# Names --------------------------------------------------------------------------------------------

STABLE_DIFFUSION = {
    "1": UNetConfig(cross_attention_dim=768),
    "2": UNetConfig(
        cross_attention_dim=1024, use_linear_projection=True, attention_head_dim=(5, 10, 20, 20)
    ),
}


@pytest.mark.parametrize("version", STABLE_DIFFUSION)
def test_names_of_all_layers_are_those_of_diffusers(version):
    config = STABLE_DIFFUSION[version]
    shapes = {
        "unet": abstract_params(UNet2DConditionModel(config)),
        "text_encoder": abstract_params(CLIPTextModel(CLIPTextConfig())),
    }
    table = layer_table(config, shapes)
    layers = {target.entry.key.removesuffix(".weight") for target in table.values()}
    assert len(layers) == 354  # 72 of them the text encoder's: 12 times 6
    differing, ldm = [], unet_names(config)
    for layer in layers:
        owner = "te" if layer.startswith("text_model") else "unet"
        for name in {layer, respelled(layer, ldm)}:
            key = f"lora_{owner}_{name.replace('.', '_')}.lora_down.weight"
            up = key.replace("down.weight", "up.weight")
            mapped = _maybe_map_sgm_blocks_to_diffusers(
                {key: 0, up: 0}, SimpleNamespace(layers_per_block=2)
            )
            converted, _ = _convert_non_diffusers_lora_to_diffusers(mapped)
            for spelled in (key, *converted):
                found = find(table, layer_and_part(spelled)[0])
                if found is None or found.entry.key != f"{layer}.weight":
                    differing.append(key)
    # Made for SDXL, where every block that enlarges has attention, their map takes the third thing
    # in an output block for its upsampler; in SD's first, which has none, it is the second.
    assert set(differing) == {"lora_unet_output_blocks_2_1_conv.lora_down.weight"}


# Learned words ------------------------------------------------------------------------------------

WORDS = ("a <cat-toy> star", "star", "<cat-toy>")


@pytest.mark.parametrize("theirs", ["sd1"], indirect=True)
@pytest.mark.parametrize("shape", [(16,), (1, 16), (3, 16)])
def test_textual_inversion(theirs, tmp_path, shape):
    _, folder = theirs
    pipe = type(theirs[0]).from_pretrained(folder)
    save_file({"<cat-toy>": torch.randn(shape)}, tmp_path / "a.safetensors")
    pipe.load_textual_inversion(tmp_path, weight_name="a.safetensors")
    model = load(folder, embeddings=[tmp_path / "a.safetensors"])
    compare(model, pipe, WORDS[:2])
    export(model, tmp_path / "exported")
    compare(model, type(pipe).from_pretrained(tmp_path / "exported"), WORDS[1:])


@pytest.mark.parametrize("theirs", ["sd1"], indirect=True)
def test_nameless_vectors_and_two_words(theirs, tmp_path):
    _, folder = theirs
    pipe = type(theirs[0]).from_pretrained(folder)
    for token, name in (("<one>", "a.safetensors"), ("<two>", "b.safetensors")):
        save_file({"emb_params": torch.randn(2, 16)}, tmp_path / name)
        pipe.load_textual_inversion(tmp_path, weight_name=name, token=token)
    words = [("<one>", tmp_path / "a.safetensors"), ("<two>", tmp_path / "b.safetensors")]
    compare(load(folder, embeddings=words), pipe, ("<two> a <one>", "<one><two>"))


# SDXL, whose LoRAs peft merges here ---------------------------------------------------------------

TE = {"text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_", "unet": "lora_unet_"}


def kohya_xl(component, name):
    return TE[component] + name.replace(".", "_"), ".lora_down.weight", ".lora_up.weight", ".alpha"


def kohya_xl_original(component, name):
    if component == "unet":
        name = respelled(name, unet_names(UNetConfig(**released_unet_config(4))))
    return kohya_xl(component, name)


@pytest.fixture(scope="module")
def theirs_xl(tmp_path_factory):
    place = tmp_path_factory.mktemp("xl")
    pipeline_xl("released", place).save_pretrained(place / "model")
    return place / "model"


def some(name):
    """A third of the layers; diffusers takes another layer's rank for the projection's."""
    return zlib.crc32(name.encode()) % 3 == 0 and name != "text_projection"


def test_sdxl_loras_are_those_that_diffusers_fuses(theirs_xl, tmp_path):
    """In kohya's original names; the other spellings give the same digest (test_two_encoders)."""
    pytest.importorskip("peft")
    pytest.importorskip("peft")  # of the extra `reference`
    theirs = StableDiffusionXLPipeline.from_pretrained(theirs_xl)
    layers = random_lora(theirs, lambda _, name: some(name), TE)
    # One alpha of all: peft 0.21 refuses the names that diffusers 0.42 gives to several.
    layers = {layer: (down, up, 2.0) for layer, (down, up, _) in layers.items()}
    assert {component for component, _ in layers} == TE.keys()
    write(tmp_path / "a.safetensors", layers, kohya_xl_original)
    plain_model = load(theirs_xl)
    model = load(theirs_xl, loras={tmp_path / "a.safetensors": STRENGTH})
    theirs.load_lora_weights(tmp_path, weight_name="a.safetensors")
    theirs.fuse_lora(components=[*TE], lora_scale=STRENGTH)
    theirs.unload_lora_weights()
    assert len(layers) > 50
    changed = 0
    for component in TE:
        state = getattr(theirs, component).state_dict()
        for path, entry in key_table(model.params[component]).items():
            (key,) = {entry.key, *entry.aliases} & state.keys()
            ours, before = (flatten_dict(m.params[component])[path] for m in (model, plain_model))
            expected = state[key].numpy().reshape(entry.stored_shape).astype(np.float64)
            error = np.mean((entry.write(np.asarray(ours, np.float64)) - expected) ** 2)
            assert 10 * np.log10(np.mean(expected**2) / max(error, 1e-30)) > 100, (key, component)
            changed += not np.array_equal(ours, before)
    assert changed == len(layers)
