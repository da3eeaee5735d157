"""Their network and ours with the same weights, and how far apart two results may be.

Ours gets theirs' random weights through the key table, so that the table is proved with the
arithmetic. Errors are the largest difference relative to the standard deviation of their output.
"""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax.traverse_util import unflatten_dict

from pot_jax.weights.keys import IGNORED, key_table

# Float32 against float32: what is left is the order of summation. Measured: 1e-6 for layers and
# blocks, 1.5e-6 for the text encoder, up to 1.3e-5 for the UNet.
TEXT_TOLERANCE = 1e-5
TOLERANCE = 1e-4


def randomised(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The module with no parameter left at a neutral value: norms start at 1 and 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def params_of(theirs: torch.nn.Module, shapes) -> dict:
    """Their weights as our parameters; no tensor may be missing, left over or of another shape."""
    table = key_table(shapes)
    tensors = {k: v.numpy() for k, v in theirs.state_dict().items() if not IGNORED.fullmatch(k)}
    params = {}
    for path, entry in table.items():
        (found,) = {entry.key, *entry.aliases} & tensors.keys()
        assert tensors[found].shape == entry.stored_shape, found
        params[path] = jnp.asarray(entry.read(tensors.pop(found)))
    assert not tensors
    return unflatten_dict(params)


def ours(module, theirs, *inputs, method=None, **named):
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs, method=method, **named))
    params = params_of(theirs, shapes["params"])
    apply = jax.jit(
        lambda params, inputs, named: module.apply(
            {"params": params}, *inputs, method=method, **named
        )
    )
    return apply(params, inputs, named)


def assert_close(actual, expected: torch.Tensor, tolerance: float = TOLERANCE):
    """Compares NHWC with NCHW, or arrays of other rank as they are."""
    expected = expected.detach().numpy()
    if expected.ndim == 4:
        expected = expected.transpose(0, 2, 3, 1)
    assert actual.shape == expected.shape
    error = np.max(np.abs(np.asarray(actual) - expected)) / np.std(expected)
    assert error < tolerance, f"relative error {error:.1e}"


def noise(*shape, seed=0, scale=1.0):
    return scale * np.random.default_rng((seed, *shape)).normal(size=shape).astype(np.float32)


def to_torch(array):
    """NHWC to NCHW; arrays of other rank as they are."""
    tensor = torch.from_numpy(np.asarray(array))
    return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor


# Small networks of every kind, as diffusers' settings.

UNET = {
    "sample_size": 8,
    "block_out_channels": [16, 32],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "attention_head_dim": 4,
}
THREE_BLOCKS = {
    "block_out_channels": [16, 32, 48],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}
UNETS = {
    "sd1": UNET | {"attention_head_dim": 8},  # a count of heads: 2 and 4 channels each
    "sd2": UNET
    | THREE_BLOCKS
    | {"attention_head_dim": [2, 4, 6], "use_linear_projection": True, "upcast_attention": True},
    "layers_by_block": UNET
    | THREE_BLOCKS
    | {"layers_per_block": [1, 2, 3], "transformer_layers_per_block": [2, 1, 3]},
    "sines_first": UNET | {"flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-6},
    "inpainting": UNET | {"in_channels": 9},
    "upscaler": UNET
    | {"in_channels": 7, "num_class_embeds": 10, "only_cross_attention": [True, False]},
    "noise_level": UNET | {"class_embed_type": "timestep"},
    "consistency": UNET | {"time_cond_proj_dim": 5},
    "only_cross_everywhere": UNET | THREE_BLOCKS | {"only_cross_attention": True},
    "text_in_the_middle": UNET
    | {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2},
}
VAE = {
    "block_out_channels": [8, 16, 24],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "layers_per_block": 2,
    "norm_num_groups": 4,
}
