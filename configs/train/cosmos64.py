"""cosmos64, the small shipped model: 64 px, latents 16 x 16 x 4.

  pot-jax train --config=configs/train/cosmos64.py --workdir=runs/cosmos64

Hardware: 2 CPU cores, 8 GiB of memory. One device per core is 5% to 25% faster than one device on
both: XLA_FLAGS=--xla_force_host_platform_device_count=2.
Time: 104 minutes (rendering 4, autoencoder 18, text encoder 2, denoiser 80). Long phases end after
`minutes`, or on a faster machine after `steps`; either way the learning rate has decayed to zero.
Result: `runs/cosmos64/model` in diffusers' layout, 6.8 M parameters. Autoencoder: 28.0 dB on
held-out renders. `tools/score_model --zooms=6`: concept 98.1% (renders 99.8%), attributes 86.7%
(98.8%).
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings."""
    return ml_collections.ConfigDict(
        {
            "name": "cosmos64",
            "seed": 0,
            "renders": "",
            "precision": "auto",  # bfloat16 on a GPU or TPU, float32 on a CPU
            "data": {
                "pictures": 98304,
                "size": 64,
                "held_out": 1024,
                "deepest": 20.0,
                "workers": 2,
                "phrasings": 32,
            },
            "tokenizer": {"vocabulary": 1024, "length": 32},
            "autoencoder": {
                "model": {
                    # Eight channels per group: room for the carriers of `initialise_carriers`.
                    "block_out_channels": [32, 32, 64],
                    "layers_per_block": 1,
                    "latent_channels": 4,
                    "norm_num_groups": 4,
                },
                "loss": {"edges": 0.5, "colour": 1.0, "kl": 3e-4, "zoom": 0.25},
                # Muon: 24.8 dB after 300 steps, where Adam (1.5e-3) reaches 22.7.
                "optimization": {
                    "optimizer": "muon",
                    "batch_size": 8,
                    "learning_rate": 3e-3,
                    "steps": 40_000,
                    "minutes": 18.0,
                    "ema_decay": 0.995,
                },
            },
            "text_encoder": {
                "model": {
                    "hidden_size": 128,
                    "intermediate_size": 512,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 4,
                },
                "optimization": {
                    "batch_size": 128,
                    "learning_rate": 2e-3,
                    "steps": 600,
                    "ema_decay": 0.99,
                },
            },
            "diffusion": {
                # Attention at 8 x 8 and below: at 16 x 16 it costs more than a ResNet block.
                "unet": {
                    "block_out_channels": [64, 96, 128],
                    "down_block_types": [
                        "DownBlock2D",
                        "CrossAttnDownBlock2D",
                        "CrossAttnDownBlock2D",
                    ],
                    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
                    "layers_per_block": 1,
                    "norm_num_groups": 8,
                    "attention_head_dim": 4,
                    "use_linear_projection": True,
                },
                "optimization": {
                    # Muon: after 300 steps of 32 a loss of 0.421; Adam (1.2e-3) reaches 0.470. It
                    # adds a fixed time to every step, so the batch is larger.
                    "optimizer": "muon",
                    "batch_size": 64,
                    "learning_rate": 3e-3,
                    "steps": 60_000,
                    "minutes": 80.0,
                    "ema_decay": 0.999,
                },
                "caption_dropout": 0.1,
            },
            "intervals": {"log_steps": 20, "checkpoint_minutes": 5.0, "preview_minutes": 8.0},
        }
    )
