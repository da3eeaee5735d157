"""A film of a minute in 1920 x 1080, with captions: `cosmos`, from a galaxy to a ladybug.

    pot-jax sample --config=film --workdir=runs/film
    pot-jax sample --config=film --model=path/to/stable-diffusion --workdir=runs/film

Measured with cosmos128 on 2 shared CPU cores: 257 s of processor time, sampling included,
and 1.3 GiB of memory at the peak, while sampling. Expected: 1,800 frames in 41 MB. A model of 128
pixels is enlarged 15 times, so that the film is soft; pictures of 512 pixels are enlarged 3.8
times, and those of an upscaler (--upscaler) not at all. The film costs the same whatever the model;
it takes 0.5 GB with 512 pixels, and three floats for every pixel of every level.

`pot-jax render --workdir=runs/film --output=film.webm` films the same run again.
"""

import cosmos
import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings of `cosmos`, with its pictures filmed at 1920 x 1080."""
    config = cosmos.get_config()
    config.movie = {
        "size": 1080,
        "aspect": "16:9",
        "seconds": 60.0,
        "easing": 2.0,
        "hold": 1.0,
        "captions": True,
    }
    return config
