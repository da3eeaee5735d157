"""`pot-jax convert`: a model kept with Orbax, so that the next start skips the work."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
from jax.typing import DTypeLike

from pot_jax.weights.export import check_vacant, new_folder, write_settings
from pot_jax.weights.kept import keep_arrays
from pot_jax.weights.load import load


def convert(
    source: str | Path,
    target: str | Path,
    *,
    dtype: DTypeLike = jnp.float32,
    variant: str | None = None,
) -> None:
    """Loads a model and keeps it in `target`, a folder that `load` then reads without the work.

    Args:
      source: what `load` takes: a name, a diffusers folder, or another kept copy.
      target: a new folder.
      dtype: of the arrays kept: float32, bfloat16 or float16.
      variant: which of several copies of the source's weights to read.

    Raises:
      UserError: the source cannot be loaded, or the target exists or cannot be written.
    """
    check_vacant(target)  # before minutes of work
    model = load(source, dtype=dtype, variant=variant)
    with new_folder(target) as place:
        write_settings(model, place)
        keep_arrays(model.params, place)
