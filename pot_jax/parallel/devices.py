"""Sets up JAX for a run: its platform, its multi-host job, its cache, and its own settings."""

import contextlib
import hashlib
import logging
import os
import pathlib
import platform as platforms
import tempfile
import warnings
from collections.abc import Callable, Iterator

import jax
import jaxlib
from jax.sharding import AbstractMesh, use_abstract_mesh

from pot_jax.errors import UserError, edge
from pot_jax.parallel import hosts

_CACHE_SIZE = 2 * 2**30  # bytes; the entries that were not used for longest are removed
_PROBE = 2**20  # bytes written to find out whether a disk is full

# Settings of JAX that decide the pictures, or without which the programs do not run -> the value
# that they have within the public functions. A user may have set others for code of his own.
FIXED = {
    "default_prng_impl": "threefry2x32",
    "threefry_partitionable": True,
    "enable_x64": False,
    "numpy_rank_promotion": "allow",
    "numpy_dtype_promotion": "standard",
    "transfer_guard": "allow",
    "disable_jit": False,
    "debug_nans": False,  # a photograph is NaN where it has no pixels
}

# XLA's options for the programs of a run, by platform. On a CPU the time is in libraries, and
# LLVM's further passes change nothing but the start.
COMPILING = {"cpu": {"xla_backend_optimization_level": 1}}


@contextlib.contextmanager
def fixed_settings() -> Iterator[None]:
    """Gives JAX the settings in `FIXED` and no mesh, in this thread; then restores the user's.

    Every public function that computes is decorated with `@fixed_settings()`.
    """
    with contextlib.ExitStack() as stack:
        for name, value in FIXED.items():
            stack.enter_context(getattr(jax, name)(value))
        stack.enter_context(use_abstract_mesh(AbstractMesh((), ())))
        yield


def set_up(
    platform: str | None = None,
    cache: str = "",
    *,
    join: Callable[[], None] | None = None,
) -> None:
    """Chooses the platform, joins a multi-host job, and sets up the cache of compiled programs.

    Call it before any array is made. `platform` is "cpu", "gpu" or "tpu"; None leaves the choice to
    JAX. `cache` is the programs' folder, "" one in the user's cache folder, "none" none; `join`
    joins this process to others (`hosts.join`). UserError without such a platform, or cluster.
    """
    logging.getLogger("jax").setLevel(logging.ERROR)  # it tells of platforms that it tried
    if platform:
        jax.config.update("jax_platforms", {"gpu": "cuda"}.get(platform, platform))
    if join:
        join()
    try:
        with edge("finding devices", platform or "device"):
            running = jax.devices()[0].platform
    except UserError as error:
        if join and "GetKeyValue" in str(error):
            raise UserError(
                "--distributed: another process found no devices; it says why"
            ) from error
        raise
    hosts.check_devices()
    if platform not in (None, running):  # JAX was in use before
        raise UserError(f"--devices: there is no {platform} here: JAX runs on {running} already")
    if cache != "none" and not jax.config.jax_compilation_cache_dir:  # the user's own, by JAX's
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        _use_cache(pathlib.Path(cache or f"{home}/pot_jax/compiled") / _processor())


def _use_cache(folder: pathlib.Path) -> None:
    """Keeps compiled programs in `folder`; warns once if that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, buffering=0) as probe:
            probe.write(bytes(_PROBE))
    except OSError as error:
        why = f"{folder} cannot be written ({error.strerror})"
        logging.warning("compiled programs are not kept: %s; see --compilation_cache", why)
        return
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", _CACHE_SIZE)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # They hold paths, which change keys.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")


def _processor() -> str:
    """Returns a name for this kind of CPU: a program for one need not run on another."""
    try:
        lines = set(pathlib.Path("/proc/cpuinfo").read_text().splitlines())
        kind = sorted(line for line in lines if line.startswith(("flags", "Features", "model")))
    except OSError:  # not Linux
        kind = [platforms.processor()]
    kind = "\n".join((platforms.machine(), *kind, jaxlib.__version__))
    return hashlib.sha256(kind.encode()).hexdigest()[:16]
