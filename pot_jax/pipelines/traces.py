"""Keeps traced programs beside the compiled ones (`jax.export`): a second start traces nothing."""

import contextlib
import hashlib
import pathlib
from typing import Any

import jax
import jaxlib
from jax import export

from pot_jax.diffusion import guidance
from pot_jax.diffusion.sampler import SamplerState, Seen, key_data, typed_keys
from pot_jax.diffusion.solvers import Plan
from pot_jax.errors import UserError
from pot_jax.media.files import write_atomically
from pot_jax.zoom import agreement

_KEPT = 64  # traces in the folder, half a megabyte each; the oldest are removed

for _kind in (SamplerState, Seen, Plan, guidance.Numbers, agreement.Numbers):
    _name = f"{_kind.__module__}.{_kind.__qualname__}"
    export.register_namedtuple_serialization(_kind, serialized_name=_name)


def lowered(function: Any, key: str, arguments: tuple) -> jax.stages.Lowered:
    """Returns a jitted function lowered for arguments, or shapes, like these.

    Its trace is kept where compiled programs are; `key` tells it from other functions in every
    process alike, and "" keeps no trace. A state's memory is given to the results.
    """
    folder = jax.config.jax_compilation_cache_dir
    if not (key and folder) or "://" in folder:
        return function.lower(*arguments)
    sources = sorted(pathlib.Path(__file__).parents[1].rglob("*.py"))  # of this package
    code = hashlib.sha256(b"".join(file.read_bytes() for file in sources)).hexdigest()
    settings = {name: value for name, value in jax.config.values.items() if "cache" not in name}
    types = jax.tree.map(jax.typeof, arguments)
    devices = [(device, device.device_kind) for device in jax.devices()]
    known = code, jax.__version__, jaxlib.__version__, devices, settings, key, types
    path = pathlib.Path(folder, "traced", hashlib.sha256(repr(known).encode()).hexdigest())
    if (trace := _read(path)) is None:
        on_data = jax.jit(lambda *given: key_data(function(*typed_keys(given))))
        trace = export.export(on_data)(*jax.eval_shape(key_data, arguments))
        _write(path, trace)

    def again(*given):
        return typed_keys(trace.call(*key_data(given)))

    again.__name__ = function.__name__  # for profilers
    states = [i for i, argument in enumerate(arguments) if isinstance(argument, SamplerState)]
    return jax.jit(again, donate_argnums=states).lower(*arguments)


def _read(path: pathlib.Path) -> export.Exported | None:
    with contextlib.suppress(OSError):
        content = path.read_bytes()
        if hashlib.sha256(content[32:]).digest() == content[:32]:  # else damaged: traced again
            return export.deserialize(bytearray(content[32:]))
    return None


def _write(path: pathlib.Path, trace: export.Exported) -> None:
    content = trace.serialize()
    with contextlib.suppress(OSError, UserError):  # the folder's own check has warned
        with write_atomically(path) as temporary:
            temporary.write_bytes(hashlib.sha256(content).digest() + content)
        kept = sorted(path.parent.iterdir(), key=lambda other: other.stat().st_mtime)
        for old in kept[:-_KEPT]:
            old.unlink()
