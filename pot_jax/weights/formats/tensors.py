"""Where a tensor lies in a file, and how its values are read."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from pot_jax.errors import UserError, shown

# Bytes per element of the dtypes whose size the header check knows; the library knows the rest.
ITEM_BYTES = {
    **{"F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4},
    **{"F16": 2, "BF16": 2, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1},
}
# The dtypes weights may have.
FLOATS = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


class Tensor(NamedTuple):
    """A tensor in a file: its name, dtype and shape, and where its bytes lie."""

    file: Path
    name: str
    dtype: str  # as safetensors names it: "F32", "BF16", ...
    shape: tuple[int, ...]
    start: int  # first byte, from the beginning of the file
    nbytes: int
    axes: tuple[int, ...] | None = None  # their order in the file, slowest first; None: row-major


def read_tensor(tensor: Tensor, dtypes: Mapping[str, np.dtype] = FLOATS) -> np.ndarray:
    """Reads a tensor's values, in the file's own dtype, into a new array.

    Raises:
      UserError: the dtype is none of `dtypes`, or the file has shrunk since its header was read.
    """
    where = f"{shown(tensor.file)}: tensor {shown(tensor.name)}"
    if tensor.dtype not in dtypes:
        raise UserError(f"{where} has dtype {shown(tensor.dtype)}; expected one of {list(dtypes)}")
    values = np.fromfile(tensor.file, np.uint8, tensor.nbytes, offset=tensor.start)
    if len(values) < tensor.nbytes:
        raise UserError(f"{where} is cut off: the file became shorter while it was read")
    axes = range(len(tensor.shape)) if tensor.axes is None else tensor.axes
    values = values.view(dtypes[tensor.dtype]).reshape([tensor.shape[axis] for axis in axes])
    return values.transpose(np.argsort(axes))
