"""Memory: what compiled programs need, and what the devices have."""

import logging
import resource
import sys
from pathlib import Path

import jax
import psutil

from pot_jax.errors import UserError

ADVICE = (
    "use fewer levels or samples, smaller pictures (zoom.height, zoom.width), batch_rows=1, "
    "space=latent, or more devices"
)
# A container's limit, where cgroups (version 2 or 1) state one.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def needs(program: jax.stages.Compiled) -> tuple[int, int]:
    """Returns the bytes of a call's arguments on each device, and what it needs besides them."""
    m = program.memory_analysis()
    if not m:  # the backend does not say
        return 0, 0
    beyond = m.temp_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes
    return m.argument_size_in_bytes, beyond


def size(tree) -> int:
    """Returns the bytes of all arrays, or shapes, in a pytree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def free_and_total(device: jax.Device) -> tuple[int, int]:
    """Returns the free and all bytes of a device's memory; a CPU's is what this process may use."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"], stats["bytes_limit"]
    machine = psutil.virtual_memory()
    limits = [Path(file).read_text().strip() for file in _LIMITS if Path(file).is_file()]
    limit = min([machine.total, *(int(text) for text in limits if text.isdigit())])
    used = psutil.Process().memory_info().rss
    return min(machine.available, limit - used), limit


def peak_bytes(device: jax.Device) -> int:
    """Returns the most memory that a device has had in use; on a CPU, that this process has."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def require_room(needed: int, device: jax.Device, what: str) -> None:
    """Raises UserError if a device can never have `needed` bytes more; warns if it now has not."""
    free, total = free_and_total(device)
    message = f"{what} needs {gigabytes(needed)} of memory; {device.device_kind} has "
    if needed > total:
        raise UserError(f"{message}{gigabytes(total)}: {ADVICE}")
    if needed > free:
        logging.warning("%s%s free: %s", message, gigabytes(free), ADVICE)


def gigabytes(count: int) -> str:
    """Returns a number of bytes in words: 3 digits of GiB."""
    return f"{count / 2**30:.3g} GiB"
