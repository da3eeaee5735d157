"""Files in the original layout of Stable Diffusion, from the layout's own rules.

The names and shapes here follow the construction of the modules in the original code, block after
block, from the numbers that its yaml files hold; they know nothing of diffusers' names.
"""

import dataclasses

import numpy as np
from tiny_models import POSITIONS

Shapes = dict[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The numbers of a yaml file; by default those of a tiny model."""

    in_channels: int = 4
    model_channels: int = 32
    channel_mult: tuple[int, ...] = (1, 2, 2)
    num_res_blocks: int = 1
    attention_resolutions: tuple[int, ...] = (1, 2)
    context_dim: int = 16
    depths: tuple[int, ...] = (1, 1, 1, 1)  # transformer_depth, by level
    adm: int | None = None  # adm_in_channels: SDXL's pooled prompt and sizes
    linear: bool = False  # use_linear_in_transformer
    num_classes: int | None = None
    disable_self_attentions: tuple[bool, ...] = ()
    ch: int = 32  # of the autoencoder
    ch_mult: tuple[int, ...] = (1, 2)
    vae_res_blocks: int = 1
    open_clip: bool = False
    text_layers: int = 2  # those that are used
    vocabulary: int = 80
    positions: int = POSITIONS
    # SDXL's text encoders: widths, and layers of the second.
    widths: tuple[int, int] | None = None
    text_layers_2: int = 3


TINY_1 = Recipe()
TINY_2 = Recipe(linear=True, open_clip=True, model_channels=64, context_dim=64)
SD15 = Recipe(
    model_channels=320,
    channel_mult=(1, 2, 4, 4),
    num_res_blocks=2,
    attention_resolutions=(4, 2, 1),
    context_dim=768,
    ch=128,
    ch_mult=(1, 2, 4, 4),
    vae_res_blocks=2,
    text_layers=12,
    vocabulary=49408,
    positions=77,
)
SD21 = dataclasses.replace(SD15, linear=True, context_dim=1024, open_clip=True, text_layers=23)
UPSCALER = dataclasses.replace(
    SD21,
    in_channels=7,
    model_channels=256,
    channel_mult=(1, 2, 2, 4),
    attention_resolutions=(2, 4, 8),
    num_classes=1000,
    disable_self_attentions=(True, True, True, False),
    ch_mult=(1, 2, 4),
)


TINY_XL = Recipe(
    linear=True,
    channel_mult=(1, 2, 2),
    attention_resolutions=(2, 4),
    depths=(1, 1, 2),
    context_dim=64,
    adm=48 + 6 * 256,
    widths=(16, 48),
)
SDXL = dataclasses.replace(
    SD15,
    linear=True,
    channel_mult=(1, 2, 4),
    attention_resolutions=(4, 2),
    depths=(1, 2, 10),
    context_dim=2048,
    adm=2816,
    widths=(768, 1280),
    text_layers_2=32,
)


def affine(shapes: Shapes, name: str, *shape: int) -> None:
    shapes[f"{name}.weight"] = shape
    shapes[f"{name}.bias"] = shape[:1]


def unet(recipe: Recipe) -> Shapes:
    """`UNetModel` of ldm/modules/diffusionmodules/openaimodel.py."""
    shapes: Shapes = {}
    first = recipe.model_channels
    embedded = 4 * first

    def res_block(name, inputs, outputs):
        affine(shapes, f"{name}.in_layers.0", inputs)
        affine(shapes, f"{name}.in_layers.2", outputs, inputs, 3, 3)
        affine(shapes, f"{name}.emb_layers.1", outputs, embedded)
        affine(shapes, f"{name}.out_layers.0", outputs)
        affine(shapes, f"{name}.out_layers.3", outputs, outputs, 3, 3)
        if inputs != outputs:
            affine(shapes, f"{name}.skip_connection", outputs, inputs, 1, 1)

    def transformer(name, width, only_text=False, depth=1):
        projection = (width, width) if recipe.linear else (width, width, 1, 1)
        affine(shapes, f"{name}.norm", width)
        affine(shapes, f"{name}.proj_in", *projection)
        for block in (f"{name}.transformer_blocks.{i}" for i in range(depth)):
            for attention, context in (
                ("attn1", recipe.context_dim if only_text else width),
                ("attn2", recipe.context_dim),
            ):
                shapes[f"{block}.{attention}.to_q.weight"] = (width, width)
                shapes[f"{block}.{attention}.to_k.weight"] = (width, context)
                shapes[f"{block}.{attention}.to_v.weight"] = (width, context)
                affine(shapes, f"{block}.{attention}.to_out.0", width, width)
            affine(shapes, f"{block}.ff.net.0.proj", 8 * width, width)
            affine(shapes, f"{block}.ff.net.2", width, 4 * width)
            for norm in ("norm1", "norm2", "norm3"):
                affine(shapes, f"{block}.{norm}", width)
        affine(shapes, f"{name}.proj_out", *projection)

    affine(shapes, "time_embed.0", embedded, first)
    affine(shapes, "time_embed.2", embedded, embedded)
    if recipe.num_classes is not None:
        shapes["label_emb.weight"] = (recipe.num_classes, embedded)
    if recipe.adm is not None:
        affine(shapes, "label_emb.0.0", embedded, recipe.adm)
        affine(shapes, "label_emb.0.2", embedded, embedded)
    affine(shapes, "input_blocks.0.0", first, recipe.in_channels, 3, 3)
    kept, channels, resolution, number = [first], first, 1, 1
    last = len(recipe.channel_mult) - 1
    only_text = recipe.disable_self_attentions or (False,) * (last + 1)
    for level, factor in enumerate(recipe.channel_mult):
        for _ in range(recipe.num_res_blocks):
            res_block(f"input_blocks.{number}.0", channels, factor * first)
            channels = factor * first
            if resolution in recipe.attention_resolutions:
                place = f"input_blocks.{number}.1"
                transformer(place, channels, only_text[level], recipe.depths[level])
            kept.append(channels)
            number += 1
        if level < last:
            affine(shapes, f"input_blocks.{number}.0.op", channels, channels, 3, 3)
            kept.append(channels)
            resolution *= 2
            number += 1
    res_block("middle_block.0", channels, channels)
    transformer("middle_block.1", channels, depth=recipe.depths[last])
    res_block("middle_block.2", channels, channels)
    number = 0
    for level in range(last, -1, -1):
        for i in range(recipe.num_res_blocks + 1):
            outputs = recipe.channel_mult[level] * first
            res_block(f"output_blocks.{number}.0", channels + kept.pop(), outputs)
            channels, place = outputs, 1
            if resolution in recipe.attention_resolutions:
                place = f"output_blocks.{number}.1"
                transformer(place, channels, only_text[level], recipe.depths[level])
                place = 2
            if level and i == recipe.num_res_blocks:
                name = f"output_blocks.{number}.{place}.conv"
                affine(shapes, name, channels, channels, 3, 3)
                resolution //= 2
            number += 1
    affine(shapes, "out.0", channels)
    affine(shapes, "out.2", 4, channels, 3, 3)
    return shapes


def autoencoder(recipe: Recipe) -> Shapes:
    """`AutoencoderKL` of ldm/models/autoencoder.py, z_channels = embed_dim = 4."""
    shapes: Shapes = {}

    def res_block(name, inputs, outputs):
        affine(shapes, f"{name}.norm1", inputs)
        affine(shapes, f"{name}.conv1", outputs, inputs, 3, 3)
        affine(shapes, f"{name}.norm2", outputs)
        affine(shapes, f"{name}.conv2", outputs, outputs, 3, 3)
        if inputs != outputs:
            affine(shapes, f"{name}.nin_shortcut", outputs, inputs, 1, 1)

    def middle(name, width):
        res_block(f"{name}.block_1", width, width)
        affine(shapes, f"{name}.attn_1.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            affine(shapes, f"{name}.attn_1.{part}", width, width, 1, 1)
        res_block(f"{name}.block_2", width, width)

    last = len(recipe.ch_mult) - 1
    channels = recipe.ch
    affine(shapes, "encoder.conv_in", channels, 3, 3, 3)
    for level, factor in enumerate(recipe.ch_mult):
        for i in range(recipe.vae_res_blocks):
            res_block(f"encoder.down.{level}.block.{i}", channels, factor * recipe.ch)
            channels = factor * recipe.ch
        if level < last:
            affine(shapes, f"encoder.down.{level}.downsample.conv", channels, channels, 3, 3)
    middle("encoder.mid", channels)
    affine(shapes, "encoder.norm_out", channels)
    affine(shapes, "encoder.conv_out", 8, channels, 3, 3)
    affine(shapes, "decoder.conv_in", channels, 4, 3, 3)
    middle("decoder.mid", channels)
    for level in range(last, -1, -1):
        for i in range(recipe.vae_res_blocks + 1):
            outputs = recipe.ch_mult[level] * recipe.ch
            res_block(f"decoder.up.{level}.block.{i}", channels, outputs)
            channels = outputs
        if level:
            affine(shapes, f"decoder.up.{level}.upsample.conv", channels, channels, 3, 3)
    affine(shapes, "decoder.norm_out", channels)
    affine(shapes, "decoder.conv_out", 3, channels, 3, 3)
    affine(shapes, "quant_conv", 8, 8, 1, 1)
    affine(shapes, "post_quant_conv", 4, 4, 1, 1)
    return shapes


def clip(recipe: Recipe) -> Shapes:
    """`CLIPTextModel` of transformers 4, as FrozenCLIPEmbedder holds it."""
    shapes: Shapes = {}
    width = recipe.context_dim
    shapes["text_model.embeddings.token_embedding.weight"] = (recipe.vocabulary, width)
    shapes["text_model.embeddings.position_embedding.weight"] = (recipe.positions, width)
    for i in range(recipe.text_layers):
        layer = f"text_model.encoder.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            affine(shapes, f"{layer}.self_attn.{part}", width, width)
        affine(shapes, f"{layer}.layer_norm1", width)
        affine(shapes, f"{layer}.mlp.fc1", 4 * width, width)
        affine(shapes, f"{layer}.mlp.fc2", width, 4 * width)
        affine(shapes, f"{layer}.layer_norm2", width)
    affine(shapes, "text_model.final_layer_norm", width)
    return shapes


def open_clip(recipe: Recipe) -> Shapes:
    """`CLIP` of open_clip without its vision tower, as FrozenOpenCLIPEmbedder holds it."""
    shapes: Shapes = {}
    width = recipe.context_dim
    shapes["positional_embedding"] = (recipe.positions, width)
    shapes["text_projection"] = (width, width)
    shapes["logit_scale"] = ()
    shapes["token_embedding.weight"] = (recipe.vocabulary, width)
    for i in range(recipe.text_layers + 1):
        layer = f"transformer.resblocks.{i}"
        affine(shapes, f"{layer}.ln_1", width)
        shapes[f"{layer}.attn.in_proj_weight"] = (3 * width, width)
        shapes[f"{layer}.attn.in_proj_bias"] = (3 * width,)
        affine(shapes, f"{layer}.attn.out_proj", width, width)
        affine(shapes, f"{layer}.ln_2", width)
        affine(shapes, f"{layer}.mlp.c_fc", 4 * width, width)
        affine(shapes, f"{layer}.mlp.c_proj", width, 4 * width)
    affine(shapes, "ln_final", width)
    return shapes


def weights(recipe: Recipe) -> Shapes:
    """All the weights of a file, without what training leaves beside them."""
    if recipe.widths:
        change = dataclasses.replace
        first, second = (change(recipe, context_dim=width) for width in recipe.widths)
        second = change(second, text_layers=recipe.text_layers_2 - 1)
        texts = [("conditioner.embedders.0.transformer.", clip(first))]
        texts += [("conditioner.embedders.1.model.", open_clip(second))]
    elif recipe.open_clip:
        texts = [("cond_stage_model.model.", open_clip(recipe))]
    else:
        texts = [("cond_stage_model.transformer.", clip(recipe))]
    parts = [
        ("model.diffusion_model.", unet(recipe)),
        ("first_stage_model.", autoencoder(recipe)),
        *texts,
    ]
    return {prefix + name: shape for prefix, shapes in parts for name, shape in shapes.items()}


def tensors(recipe: Recipe, seed: int = 0, dtype=np.float32) -> dict[str, np.ndarray]:
    """A file's content, with random weights and what training leaves beside them."""
    rng = np.random.default_rng(seed)
    values = {
        name: np.asarray(0.1 * rng.normal(size=shape), dtype)
        for name, shape in weights(recipe).items()
    }
    extras = {
        "betas": np.linspace(0.0, 0.01, 1000, dtype=np.float32),
        "alphas_cumprod": np.ones(1000, np.float32),
        "sqrt_recipm1_alphas_cumprod": np.ones(1000, np.float32),
        "posterior_mean_coef2": np.ones(1000, np.float32),
        "lvlb_weights": np.ones(1000, np.float32),
        "logvar": np.zeros(1000, np.float32),
        "model_ema.decay": np.array(0.9999, np.float32),
        "model_ema.num_updates": np.array(5, np.int32),
        "model_ema.diffusion_modelout2bias": np.full(4, np.nan, np.float32),
    }
    if not recipe.open_clip:
        place = "conditioner.embedders.0" if recipe.widths else "cond_stage_model"
        extras[f"{place}.transformer.text_model.embeddings.position_ids"] = np.arange(
            recipe.positions
        )[None]
    if recipe.widths:
        extras["denoiser.sigmas"] = np.ones(1000, np.float32)
    return values | extras
