"""`pot-jax convert`: a kept copy of a model, which loads faster."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from pot_jax.weights.export import check_vacant, new_folder, write_settings
from pot_jax.weights.formats.kept import keep_arrays
from pot_jax.weights.load import load


def convert(
    source: str | Path, target: str | Path, *, dtype: DTypeLike = jnp.float32, **how: Any
) -> None:
    """Loads a model and writes a kept copy of it, a folder that `load` then reads faster.

    Args:
      source: a folder, a single-file checkpoint or a name, as for `load`.
      target: a folder that is absent or empty.
      dtype: of the kept arrays: float32, bfloat16 or float16.
      **how: the other arguments of `load`: variant, tokenizer, prediction_type, allow_pickle.

    Raises:
      UserError: the source cannot be loaded, or the target is not empty or cannot be written.
    """
    check_vacant(target)  # before minutes of work
    model = load(source, dtype=dtype, **how)
    with new_folder(target) as place:
        write_settings(model, place)
        keep_arrays(model.params, place)
