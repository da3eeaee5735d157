"""The result of sampling: N pictures that agree, and what they were made from."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from pot_jax.config import RunSettings
from pot_jax.zoom.geometry import Geometry


@dataclasses.dataclass(frozen=True)
class Zoom:
    """One sampled zoom."""

    images: np.ndarray  # delivered pictures, [N, H, W, 3], float32 in [-1, 1], agreeing
    before_render: np.ndarray  # as decoded, before the last blend and render, [N, H, W, 3]
    latents: np.ndarray  # [N, h, w, c], float32
    settings: RunSettings  # with this sample's own seed
    geometry: Geometry  # of the pictures
    weights_digest: str
    # compile_seconds, seconds_per_step, and upscaling_seconds of an upscaled zoom
    timings: Mapping[str, float]
    identity: Mapping[str, str]  # digests of all that decided the pictures, by name

    def save(self, folder: str) -> None:
        """Writes pictures, zoom stack, contact sheet, metrics and movie into `folder`.

        Raises:
          UserError: the folder holds something else, or cannot be written.
        """
        from pot_jax.runs.folder import save_zoom

        save_zoom(self, folder)
