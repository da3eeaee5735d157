"""The original layout of Stable Diffusion (CompVis, Stability AI): one file, one list of tensors.

    model.diffusion_model.*    the UNet, its blocks numbered through
    first_stage_model.*        the autoencoder
    cond_stage_model.*         the text encoder: CLIP's own names (SD 1.x) or OpenCLIP's (SD 2.x)
    conditioner.embedders.*    SDXL's text encoders: 0 in CLIP's own names, 1 in OpenCLIP's

The file describes its networks only by the names and shapes of its tensors. This module derives
from them the configs that a diffusers folder would hold. What they cannot tell is the same in all
of these models, and is a constant here with its origin.
"""

import itertools
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from pot_jax.diffusion.schedule import ScheduleConfig
from pot_jax.errors import UserError, shown
from pot_jax.models.clip import CLIPTextConfig, CLIPTextProjectionConfig
from pot_jax.models.unet import UNetConfig
from pot_jax.models.vae import AutoencoderKLConfig
from pot_jax.weights.layouts.stated import Statement, Statements, agreed

UNET = "model.diffusion_model."
AUTOENCODER = "first_stage_model."
TEXT = "cond_stage_model."
XL = "conditioner.embedders."
# Our components -> the prefixes of their tensors, in SD 1.x and 2.x, and in SDXL.
PREFIXES = {"text_encoder": TEXT, "unet": UNET, "autoencoder": AUTOENCODER}
XL_PREFIXES = PREFIXES | {"text_encoder": f"{XL}0.", "text_encoder_2": f"{XL}1."}
_CROSS_ATTENTION = UNET + "middle_block.1.transformer_blocks.0.attn2"

# What training leaves in a file without any effect on the pictures.
LEFT_OUT = re.compile(
    # Running averages of the weights; diffusers, too, reads the weights themselves.
    r"(model_ema|first_stage_model\.model_ema)\..*"
    # The schedule's tables, which follow from the numbers in `schedule_json`.
    r"|(low_res_model\.)?(betas|alphas_cumprod(_prev)?|sqrt_(one_minus_|recip_|recipm1_)?"
    r"alphas_cumprod|log_one_minus_alphas_cumprod|posterior_(variance|log_variance_clipped"
    r"|mean_coef[12]))"
    r"|lvlb_weights|logvar|global_step|v_pred|ztsnr|denoiser\.(log_)?sigmas"
    r"|first_stage_model\.loss\..*"
    # Constants of the text encoder, and parts of a whole CLIP that have no effect on the pictures.
    r"|(cond_stage_model|conditioner\.embedders\.0)\.transformer\.(text_model\.)?"
    r"embeddings\.position_ids"
    r"|(cond_stage_model|conditioner\.embedders\.[01])\.((transformer|model)\.)?"
    r"(logit_scale|attn_mask)"
    # SDXL's second text encoder does project.
    r"|(cond_stage_model|conditioner\.embedders\.0)\.((transformer|model)\.)?"
    r"text_projection(\.weight)?"
)
# Tensors whose presence says what the weights predict (ComfyUI's convention).
PREDICTS_V = "v_pred"
ZERO_SNR = "ztsnr"

_GROUPS = 32  # of every normalisation (LDM: GroupNorm32 in openaimodel.py, Normalize in model.py)
_HEADS = 8  # SD 1.x and the upscaler: num_heads in their yaml files
# SD 2.x and SDXL: num_head_channels in v2-inference.yaml, sd_xl_base.yaml; both kinds of CLIP
_HEAD_CHANNELS = 64
_WIDTHS = {768: 1, 1024: 2}  # of text states: those of ViT-L/14 and ViT-H/14 -> generation
_OPEN_CLIP_LAYERS = 24  # of ViT-H/14, of which SD 2.x takes the state before the last


class Tower(NamedTuple):
    """Where one text encoder lies in a file."""

    prefix: str  # of its own names
    layers: str  # the module of its layers
    is_open_clip: bool  # whether its names are OpenCLIP's


class Shapes:
    """The shapes of a file's tensors; errors name the file and the tensor."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], where: str):
        self.where, self._shapes = where, shapes
        parts = (name.split(".") for name in shapes)
        self._modules = {".".join(p[:i]) for p in parts for i in range(1, len(p) + 1)}
        self.is_upscaler = f"{UNET}label_emb.weight" in self  # they embed noise levels
        # SDXL embeds sizes and a pooled prompt. So does unCLIP, with one text encoder.
        self.is_xl = XL[:-1] in self or (f"{UNET}label_emb.0.0" in self and TEXT[:-1] not in self)
        self.prefixes = XL_PREFIXES if self.is_xl else PREFIXES
        texts = {name: at for name, at in self.prefixes.items() if at not in (UNET, AUTOENCODER)}
        self.towers = {name: self._tower(at) for name, at in texts.items()}
        self.is_open_clip = self.towers["text_encoder"].is_open_clip

    def _tower(self, prefix: str) -> Tower:
        if f"{prefix}model" in self:
            return Tower(f"{prefix}model.", f"{prefix}model.transformer.resblocks", True)
        clip = f"{prefix}transformer."
        older = f"{clip}text_model."  # of older versions of transformers
        named = older if f"{older}final_layer_norm" in self else clip
        return Tower(named, f"{named}encoder.layers", False)

    def __contains__(self, name: str) -> bool:
        """Returns whether there is a tensor of this name, or a module with tensors."""
        return name in self._modules

    def size(self, name: str, axis: int, rank: int | None = None) -> int:
        """Returns the length of one axis of a tensor, which must have `rank` axes if given."""
        shape = self.shape(name)
        if axis >= len(shape) or rank not in (None, len(shape)):
            expected = f"{rank or axis + 1} axes were expected; get the file again"
            raise UserError(f"{self.where}: {shown(name)} has shape {shown(shape)}; {expected}")
        return shape[axis]

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a tensor."""
        if name not in self._shapes:
            why = "without which the model's sizes are not known; get the file again"
            raise UserError(f"{self.where} lacks {shown(name)}, {why}")
        return self._shapes[name]

    def count(self, module: str) -> int:
        """Counts module.0, module.1, ... up to the first that is missing."""
        return next(number for number in itertools.count() if f"{module}.{number}" not in self)

    @property
    def generation(self) -> int | str:
        """1 for models like SD 1.x, 2 for SD 2.x, which the width of the text states says; "XL".

        Names do not, since programs rewrite them; they only decide for models of other widths.
        """
        if self.is_xl:
            return "XL"
        width = self.size(f"{_CROSS_ATTENTION}.to_k.weight", 1, 2)
        return _WIDTHS.get(width, 2 if self.is_open_clip else 1)

    @property
    def usual_prediction(self) -> str:
        """What the model predicts if no place states it, as in diffusers' from_single_file.

        SD 2.0 and 2.1 each come as two models with the same names and shapes: `v2-inference-v.yaml`
        (768 pixels, v) and `v2-inference.yaml` ("base", 512 pixels, eps). This takes both for the
        first. The models for inpainting and depth predict eps, the upscaler predicts v.
        """
        plain = self.generation == 2 and self.size(f"{UNET}input_blocks.0.0.weight", 1, 4) == 4
        return "v_prediction" if self.is_upscaler or plain else "epsilon"

    @property
    def dropped_layers(self) -> int:
        """How many of the text encoder's last layers are not used: 1 in a whole OpenCLIP, else 0.

        A file written from a diffusers folder holds OpenCLIP without that layer: 23 layers.
        """
        if self.is_xl:
            return 0  # the second encoder's pooled state is that of its last layer
        layers = self.count(self.towers["text_encoder"].layers)
        if self.is_open_clip:
            return int(layers != _OPEN_CLIP_LAYERS - 1)
        return int(self.generation == 2 and layers == _OPEN_CLIP_LAYERS)


class Description(NamedTuple):
    """What a diffusers folder would say: the configs of the networks, and the schedule."""

    text_encoder: CLIPTextConfig
    unet: UNetConfig
    autoencoder: AutoencoderKLConfig
    schedule: ScheduleConfig
    text_encoder_2: CLIPTextConfig | None = None


def describe(
    shapes: Shapes, prediction_type: str | None = None, stated: Statements = MappingProxyType({})
) -> Description:
    """Derives a model's configs from the names and shapes of a file, and from what is said of it.

    `prediction_type` is what the weights predict, as diffusers names it, whatever the files say; by
    default what they state, else `Shapes.usual_prediction`. SD 2.x with "epsilon" counts as the
    model of 512 pixels. `stated` is what metadata and yaml say. Raises UserError if a tensor that
    gives a size is missing or of another rank, no model has these sizes, or two places disagree.
    """
    first, attention = f"{UNET}input_blocks.0.0.weight", f"{_CROSS_ATTENTION}.to_k.weight"
    told = "kind" if shapes.is_xl else "width"
    try:
        places = {
            "generation": [Statement(f"the {told} of its text states", shapes.generation)],
            "in_channels": [Statement(first, shapes.size(first, 1, 4))],
            "context_dim": [Statement(attention, shapes.size(attention, 1, 2))],
        }
        sizes = set(places)  # which the tensors say; others may only agree
        if PREDICTS_V in shapes:
            places["prediction_type"] = [Statement(f"its tensor {PREDICTS_V}", "v_prediction")]
        facts = {
            fact: agreed(fact, [*places.get(fact, ()), *stated.get(fact, ())], shapes.where)
            for fact in {**places, **stated}
            if fact != "prediction_type" or prediction_type is None
        }
        facts = {fact: facts[fact] for fact in facts.keys() - sizes}
        prediction = prediction_type or facts.pop("prediction_type", shapes.usual_prediction)
        unet = unet_config(shapes, prediction == "v_prediction")
        # scale_factor in x4-upscaling.yaml; in v1- and v2-inference.yaml; in sd_xl_base.yaml
        usual = 0.08333 if shapes.is_upscaler else 0.13025 if shapes.is_xl else 0.18215
        scaling = facts.pop("scaling_factor", usual)
        autoencoder = autoencoder_config(shapes, unet.sample_size, scaling)
        schedule = ScheduleConfig.from_json(schedule_json(shapes, prediction) | facts)
        texts = {name: text_config(shapes, name) for name in shapes.towers}
        return Description(unet=unet, autoencoder=autoencoder, schedule=schedule, **texts)
    except ValueError as error:
        prefix = "" if str(error).startswith(shapes.where) else f"{shapes.where}: "
        raise UserError(f"{prefix}{error}") from None


def unet_config(shapes: Shapes, predicts_v: bool) -> UNetConfig:
    """Derives the UNet's config; raises as `describe` does."""
    # The numbers of each level's input blocks; a downsampling separates two levels.
    numbers = range(1, shapes.count(f"{UNET}input_blocks"))
    cuts = [number for number in numbers if f"{UNET}input_blocks.{number}.0.op" in shapes]
    levels = [range(a + 1, b) for a, b in itertools.pairwise([0, *cuts, numbers.stop])]
    if not all(levels):
        raise UserError(f"{shapes.where}: a level of the UNet has no layers; get the file again")
    firsts = [f"{UNET}input_blocks.{level[0]}" for level in levels]
    channels = [shapes.size(f"{first}.0.in_layers.2.weight", 0, 4) for first in firsts]
    # The transformer of each level; the innermost level may have one only in the middle block.
    middle = f"{UNET}middle_block.1"
    transformers = [f"{first}.1" for first in firsts]
    attends = [f"{name}.transformer_blocks" in shapes for name in transformers]
    if not attends[-1]:
        transformers[-1] = middle
    context = shapes.size(f"{_CROSS_ATTENTION}.to_k.weight", 1, 2)
    generation_2, upscales, xl = shapes.generation == 2, shapes.is_upscaler, shapes.is_xl
    by_width = xl or (generation_2 and not upscales)
    heads = [max(1, width // _HEAD_CHANNELS) if by_width else _HEADS for width in channels]
    depths = [max(1, shapes.count(f"{name}.transformer_blocks")) for name in transformers]
    # Whether the first attention, too, is on the text; it is not if both are as wide.
    crossing = [
        attending
        and width != context
        and shapes.size(f"{name}.transformer_blocks.0.attn1.to_k.weight", 1, 2) == context
        for name, attending, width in zip(transformers, attends, channels)
    ]
    # 256: model_channels of sgm's ConcatTimestepEmbedderND in sd_xl_base.yaml
    added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 256}
    if xl:
        given = shapes.size(f"{UNET}label_emb.0.0.weight", 1, 2)
        added["projection_class_embeddings_input_dim"] = given
    return UNetConfig(
        sample_size=128 if upscales or xl else 96 if generation_2 and predicts_v else 64,
        in_channels=shapes.size(f"{UNET}input_blocks.0.0.weight", 1, 4),
        out_channels=shapes.size(f"{UNET}out.2.weight", 0, 4),
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in attends[::-1]),
        block_out_channels=tuple(channels),
        layers_per_block=_one_or_all([len(level) for level in levels]),
        norm_num_groups=_GROUPS,
        cross_attention_dim=context,
        transformer_layers_per_block=_one_or_all(depths),
        attention_head_dim=_one_or_all(heads),
        only_cross_attention=_one_or_all(crossing),
        use_linear_projection=len(shapes.shape(f"{middle}.proj_in.weight")) == 2,
        upcast_attention=by_width and predicts_v and not xl,  # as in diffusers' SD 2.1
        **(added if xl else {}),
        num_class_embeds=shapes.size(f"{UNET}label_emb.weight", 0, 2) if upscales else None,
    )


def _one_or_all(values: list) -> Any:
    return values[0] if len(set(values)) == 1 else tuple(values)


def autoencoder_config(shapes: Shapes, latent_size: int, scaling: float) -> AutoencoderKLConfig:
    """Derives the autoencoder's config; `latent_size` is the height and width of the latents."""
    encoder = f"{AUTOENCODER}encoder."
    levels = max(1, shapes.count(f"{encoder}down"))
    firsts = [f"{encoder}down.{level}.block.0.conv1.weight" for level in range(levels)]
    return AutoencoderKLConfig(
        sample_size=latent_size * 2 ** (levels - 1),
        in_channels=shapes.size(f"{encoder}conv_in.weight", 1, 4),
        out_channels=shapes.size(f"{AUTOENCODER}decoder.conv_out.weight", 0, 4),
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(shapes.size(first, 0, 4) for first in firsts),
        layers_per_block=shapes.count(f"{encoder}down.0.block"),
        latent_channels=shapes.size(f"{AUTOENCODER}post_quant_conv.weight", 1),
        norm_num_groups=_GROUPS,
        scaling_factor=scaling,
    )


def text_config(shapes: Shapes, component: str) -> CLIPTextConfig:
    """Derives a text encoder's config; raises as `describe` does."""
    tower = shapes.towers[component]
    tokens, positions = (f"embeddings.{n}_embedding.weight" for n in ("token", "position"))
    mlp = "mlp.fc1.weight"
    if tower.is_open_clip:
        tokens, positions, mlp = "token_embedding.weight", "positional_embedding", "mlp.c_fc.weight"
    vocabulary, width = (shapes.size(tower.prefix + tokens, axis, 2) for axis in (0, 1))
    projects = f"{tower.prefix}text_projection"  # [in, out], or as transformers has it [out, in]
    pooled = width
    if component == "text_encoder_2":
        named = f"{projects}.weight" in shapes
        pooled = shapes.size(f"{projects}.weight" if named else projects, 1 - named, 2)
    gelu = tower.is_open_clip if shapes.is_xl else shapes.generation == 2
    kind = CLIPTextProjectionConfig if component == "text_encoder_2" else CLIPTextConfig
    return kind(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=shapes.size(f"{tower.layers}.0.{mlp}", 0, 2),
        projection_dim=pooled,
        num_hidden_layers=shapes.count(tower.layers) - shapes.dropped_layers,
        num_attention_heads=max(1, width // _HEAD_CHANNELS),
        max_position_embeddings=shapes.size(tower.prefix + positions, 0, 2),
        hidden_act="gelu" if gelu else "quick_gelu",
        # The last two of CLIP's vocabulary; words that a user added come after them.
        bos_token_id=min(49406, vocabulary - 2),
        eos_token_id=min(49407, vocabulary - 1),
    )


def schedule_json(shapes: Shapes, prediction_type: str) -> dict[str, Any]:
    """Returns the content of the `scheduler_config.json` that diffusers has for such a model."""
    first, last = (1e-4, 0.02) if shapes.is_upscaler else (0.00085, 0.012)
    named, more = "DDIM" if prediction_type == "v_prediction" else "PNDM", {}
    if shapes.is_xl:
        # Leading steps would not begin at the pure noise of a schedule with zero terminal SNR.
        named, spacing = "EulerDiscrete", "trailing" if ZERO_SNR in shapes else "leading"
        more = {"timestep_spacing": spacing}
    return {
        # Selects only the defaults of what the other entries leave out.
        "_class_name": f"{named}Scheduler",
        "beta_start": first,
        "beta_end": last,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "prediction_type": prediction_type,
        "rescale_betas_zero_snr": ZERO_SNR in shapes,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        **more,
    }
