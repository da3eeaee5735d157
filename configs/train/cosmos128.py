"""cosmos128, the default model: 128 px, latents 32 x 32 x 4, for one large GPU.

  pot-jax train --config=configs/train/cosmos128.py --workdir=runs/cosmos128

On a machine lent for a few minutes at a time, put `timeout --foreground -s TERM 8m` before it: what
is done is saved, and the same command resumes. It compiles nothing anew where
JAX_COMPILATION_CACHE_DIR names a folder, and ends in time with another
--config.diffusion.optimization.minutes.

Hardware: one H100 or H200 with 16 CPU cores, in bfloat16; 5 GB of disk for the renders.
Time: under 13 minutes (autoencoder 1.8, tiny autoencoder 1, text encoder 0.2, denoiser 6.5).
Rendering takes 2 and compilation 2, most of it while the autoencoder trains.
Result: `runs/cosmos128/model` in diffusers' layout, 19 M parameters, 38 MB in float16.
"""

import cosmos64
import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings."""
    config = cosmos64.get_config()
    config.name = "cosmos128"
    config.data.update(size=128, workers=14, phrasings=8)
    # A third of the views is rendered by the time that its step is compiled.
    config.autoencoder.pictures = 32_768
    config.autoencoder.model.update(block_out_channels=[64, 64, 96], norm_num_groups=8)
    config.autoencoder.optimization.update(batch_size=64, minutes=1.8)
    config.tiny_vae = {
        # No residual blocks at full size, where each would cost a third of the whole.
        "model": {
            "encoder_block_out_channels": [40, 40, 40],
            "decoder_block_out_channels": [40, 40, 40],
            "num_encoder_blocks": [0, 2, 3],
            "num_decoder_blocks": [3, 2, 0],
        },
        "optimization": {
            "optimizer": "muon",
            "batch_size": 64,
            "learning_rate": 3e-3,
            "steps": 20_000,
            "minutes": 1.0,
            "ema_decay": 0.995,
        },
    }
    config.text_encoder.model.update(hidden_size=192, intermediate_size=768)
    config.text_encoder.optimization.steps = 800
    config.diffusion.unet.block_out_channels = [96, 160, 224]
    config.diffusion.optimization.update(batch_size=256, steps=200_000, minutes=6.5)
    config.intervals.update(log_steps=100, checkpoint_minutes=60.0, preview_minutes=60.0)
    return config
