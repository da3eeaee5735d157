"""cosmos64 for one large GPU: twice as wide, and many times as many examples.

  pot-jax train --config=configs/train/cosmos64_gpu.py --workdir=runs/cosmos64_gpu

Meant for one H100 or H200 with 16 CPU cores: under 25 minutes by the clock, rendering 2,
autoencoder 6, text encoder 1, denoiser 14, in bfloat16. Expected: `runs/cosmos64_gpu/model`, 38 MB.
Not run yet: the model that ships is from `cosmos64.py`, on two CPU cores.
"""

import ml_collections

from configs.train import cosmos64


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings."""
    config = cosmos64.get_config()
    config.data.pictures = 262_144
    config.data.workers = 16
    config.autoencoder.model.block_out_channels = [64, 64, 96]
    config.autoencoder.model.norm_num_groups = 8
    config.autoencoder.descent.update(batch=64, minutes=6.0, average=0.999)
    config.text_encoder.model.update(hidden_size=192, intermediate_size=768)
    config.diffusion.unet.block_out_channels = [96, 160, 224]
    config.diffusion.descent.update(batch=512, steps=200_000, minutes=14.0, average=0.9995)
    config.visits.update(log_steps=200, save_minutes=3.0, show_minutes=5.0)
    return config
