"""cosmos64 for one large GPU: up to twice as wide, with many times more examples.

  pot-jax train --config=configs/train/cosmos64_gpu.py --workdir=runs/cosmos64_gpu

Hardware: one H100 or H200 with 16 CPU cores, in bfloat16.
Time: under 25 minutes (rendering 2, autoencoder 6, text encoder 1, denoiser 14).
Result: `runs/cosmos64_gpu/model` in diffusers' layout, 38 MB in float16.
This config has not been run to its end yet. The shipped model was trained with `cosmos64.py` on two
CPU cores.
"""

import cosmos64
import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings."""
    config = cosmos64.get_config()
    config.data.pictures = 262_144
    config.data.workers = 16
    config.autoencoder.model.block_out_channels = [64, 64, 96]
    config.autoencoder.model.norm_num_groups = 8
    config.autoencoder.optimization.update(batch_size=64, minutes=6.0, ema_decay=0.999)
    config.text_encoder.model.update(hidden_size=192, intermediate_size=768)
    config.diffusion.unet.block_out_channels = [96, 160, 224]
    config.diffusion.optimization.update(
        batch_size=512, steps=200_000, minutes=14.0, ema_decay=0.9995
    )
    config.intervals.update(log_steps=200, checkpoint_minutes=3.0, preview_minutes=5.0)
    return config
