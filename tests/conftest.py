"""Eight virtual CPU devices, so that sharded code is tested as sharded code everywhere."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
# The tests use no network: a library that would reach for a hub fails here as it would offline.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# The suite tests arithmetic on tiny shapes, and compiling is most of its time: without LLVM's
# optimisations it takes half. `tools/full_size` and `tools/demo` run as users do.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"

import jax
import pytest

from pot_jax.parallel import devices

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# The public functions promote whatever a user has set; here they must not have to.
PROMOTIONS = {n: devices.FIXED.pop(n) for n in ("numpy_dtype_promotion", "numpy_rank_promotion")}


def pytest_collection_modifyitems(items):
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
