import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pot_jax.media.pixels import from_bytes, to_bytes


def every_byte():
    return np.arange(256, dtype=np.uint8)


def test_ends_and_clipping():
    np.testing.assert_array_equal(to_bytes([-9.0, -1, 1, 9]), [0, 0, 255, 255])


def test_nearest():
    x = np.linspace(-1, 1, 100_001)
    error = to_bytes(x) - (x + 1) * 127.5
    assert np.abs(error).max() <= 0.5 + 1e-5  # float32 on a scale of 255


def test_halfway_goes_to_the_even_byte():
    halfway = from_bytes(every_byte()[:-1]) + np.float32(1 / 255)
    exact = ((halfway + np.float32(1)) * np.float32(127.5)) % 1 == 0.5  # the others are rounded off
    assert exact.sum() > 50
    np.testing.assert_array_equal(to_bytes(halfway[exact]) % 2, 0)


def test_round_trip():
    floats = from_bytes(every_byte())
    assert floats.dtype == np.float32
    assert (floats[0], floats[-1]) == (-1, 1)
    np.testing.assert_array_equal(to_bytes(floats), every_byte())


@pytest.mark.parametrize("traced", [False, True])
def test_arrays_of_jax_are_taken_and_stay_in_jax(traced):
    floats = (jax.jit(from_bytes) if traced else from_bytes)(jnp.asarray(every_byte()))
    assert isinstance(floats, jax.Array)
    # XLA divides by a constant as it multiplies by its reciprocal: one unit in the last place.
    np.testing.assert_allclose(floats, from_bytes(every_byte()), rtol=0, atol=1.2e-7)
    np.testing.assert_array_equal(to_bytes(floats), every_byte())


def test_nan_is_refused():
    with pytest.raises(ValueError, match="1 of 2 picture values are NaN"):
        to_bytes([0.0, np.nan])


def test_a_process_that_only_rounds_starts_without_jax_and_pillow():
    program = (
        "import sys, pot_jax.media.pixels; print([m for m in ('jax', 'PIL') if m in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"
