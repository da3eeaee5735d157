"""Eight virtual CPU devices, so that sharded code is tested as sharded code everywhere."""

import atexit
import gc
import os
import shutil
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
# The tests use no network: a library that would reach for a hub fails here as it would offline.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# The suite tests arithmetic on tiny shapes, and compiling is most of its time: without LLVM's
# optimisations it takes half. `tools/full_size` and `tools/demo` run as users do.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"

import jax
import pytest

from pot_jax.parallel import devices

gc.set_threshold(50_000, 20, 50)  # as the commands have it: traces are many objects, little garbage
devices.COMPILING.clear()  # that level again, for the programs of runs
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# A program that several tests or files need is compiled once a session: its processes share a
# folder, which only they use. JAX opens its cache when it first compiles, and keeps that one. Its
# setting is taken back, since traces (pipelines/traces.py) would be kept there too, and a test
# could be served the trace of another.
if "POT_JAX_TEST_PROGRAMS" not in os.environ:  # or the process that started this one made it
    os.environ["POT_JAX_TEST_PROGRAMS"] = tempfile.mkdtemp(prefix="pot_jax-programs-")
    atexit.register(shutil.rmtree, os.environ["POT_JAX_TEST_PROGRAMS"], ignore_errors=True)
jax.config.update("jax_compilation_cache_dir", os.environ["POT_JAX_TEST_PROGRAMS"])
jax.config.update("jax_compilation_cache_max_size", 2**30)  # with a limit, JAX locks its files
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)  # below, files cost more
jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
jax.jit(lambda: 0)()
jax.config.update("jax_compilation_cache_dir", None)

# The public functions promote whatever a user has set; here they must not have to.
PROMOTIONS = {n: devices.FIXED.pop(n) for n in ("numpy_dtype_promotion", "numpy_rank_promotion")}

# The files that take longest, longest first: each goes to one process whole (`tools/test`), and one
# that begins late is waited for.
LONGEST = (
    "test_readme",
    "test_sweep",
    "test_sample",
    "test_bits",
    "test_train",
    "test_continued",
    "test_model_defaults",
    "test_upscale",
    "test_sequential",
    "test_traces",
)


def pytest_collection_modifyitems(items):
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))
    if jax.default_backend() != "cpu":
        return
    skip = pytest.mark.skip(reason="needs a GPU or TPU")
    for item in items:
        if item.get_closest_marker("accelerator"):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def promotion(request, monkeypatch):
    """No silent promotion of dtypes or ranks, but in tests marked `loose_promotion(reason)`."""
    if request.node.get_closest_marker("loose_promotion") is None:
        yield
        return
    for name, value in PROMOTIONS.items():
        monkeypatch.setitem(devices.FIXED, name, value)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
