import errno
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pot_jax.errors import UserError
from pot_jax.runs.checkpoints import Checkpoints


@pytest.fixture
def state():
    params = {"dense": {"kernel": jnp.arange(600.0).reshape(20, 30), "bias": jnp.zeros(30)}}
    return {"params": params, "optimizer": optax.adam(1e-3).init(params)}


def test_a_state_comes_back_bit_for_bit(tmp_path, state):
    state["params"]["dense"]["bias"] = jax.random.normal(jax.random.key(0), (30,))
    checkpoints = Checkpoints(tmp_path / "phase")
    checkpoints.save(7, state, {"seconds": 1.5})
    step, found, facts = Checkpoints(tmp_path / "phase").restore(
        jax.tree.map(jnp.zeros_like, state)
    )
    assert (step, facts) == (7, {"seconds": 1.5})
    jax.tree.map(np.testing.assert_array_equal, found, state)


def test_nothing_saved_is_none(tmp_path, state):
    assert Checkpoints(tmp_path / "phase").restore(state) is None


def test_the_last_two_steps_are_kept(tmp_path, state):
    checkpoints = Checkpoints(tmp_path / "phase")
    for step in (1, 2, 3):
        checkpoints.save(step, state, {})
    names = {path.name for path in (tmp_path / "phase").iterdir()}
    assert names == {"2", "3"}


def flip_array_bytes(folder):
    """Damages the stored arrays, not their names: the largest file of the step."""
    files = (path for path in folder.rglob("*") if path.is_file())
    victim = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 0x01
    victim.write_bytes(data)


def test_a_damaged_step_is_passed_over(tmp_path, state, caplog):
    checkpoints = Checkpoints(tmp_path / "phase")
    checkpoints.save(1, state, {})
    checkpoints.save(2, jax.tree.map(lambda x: x + 1, state), {})
    flip_array_bytes(tmp_path / "phase" / "2")
    step, found, _ = Checkpoints(tmp_path / "phase").restore(state)
    assert step == 1
    assert "step 2" in caplog.text
    jax.tree.map(np.testing.assert_array_equal, found, state)


def test_only_damaged_steps_is_a_clear_error(tmp_path, state):
    Checkpoints(tmp_path / "phase").save(1, state, {})
    flip_array_bytes(tmp_path / "phase" / "1")
    with pytest.raises(UserError, match=r"none of the steps \[1\]"):
        Checkpoints(tmp_path / "phase").restore(state)


def full(*arguments, **keywords):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_names_the_step_to_go_on_from(tmp_path, state, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "phase")
    checkpoints.save(1, state, {})
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(UserError, match=r"step 2: .*the disk is full.* from step 1") as caught:
        checkpoints.save(2, state, {})
    assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "phase").iterdir()] == ["1"]
    assert checkpoints.restore(state)[0] == 1


def test_a_disk_that_refuses_fsync_keeps_states(tmp_path, state, monkeypatch):
    def refused(file):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refused)
    Checkpoints(tmp_path / "phase").save(1, state, {})
    assert Checkpoints(tmp_path / "phase").restore(state)[0] == 1


def test_a_damaged_step_is_saved_anew(tmp_path, state):
    checkpoints = Checkpoints(tmp_path / "phase")
    for step in (1, 2):
        checkpoints.save(step, state, {"seconds": step})
    flip_array_bytes(tmp_path / "phase" / "2")
    checkpoints = Checkpoints(tmp_path / "phase")
    assert checkpoints.restore(state)[0] == 1
    checkpoints.save(2, state, {"seconds": 9})
    assert Checkpoints(tmp_path / "phase").restore(state)[::2] == (2, {"seconds": 9})


@pytest.mark.parametrize("name", ["7", "7.bak", "07"])
def test_a_renamed_step_is_not_that_step(tmp_path, state, name):
    checkpoints = Checkpoints(tmp_path / "phase")
    for step in (1, 2):
        checkpoints.save(step, state, {})
    (tmp_path / "phase" / "2").rename(tmp_path / "phase" / name)
    assert Checkpoints(tmp_path / "phase").restore(state)[0] == 1


def test_the_state_of_something_else_is_not_taken(tmp_path, state):
    Checkpoints(tmp_path / "phase").save(1, state, {})
    for other in ({"params": state["params"]}, jax.tree.map(lambda x: x[..., None], state)):
        with pytest.raises(UserError, match="none of the steps"):
            Checkpoints(tmp_path / "phase").restore(other)


def test_half_precision_comes_back(tmp_path):
    state = {"w": jnp.arange(6, dtype=jnp.bfloat16), "b": jnp.zeros((), jnp.float16)}
    Checkpoints(tmp_path / "phase").save(1, state, {})
    _, found, _ = Checkpoints(tmp_path / "phase").restore(state)
    jax.tree.map(np.testing.assert_array_equal, found, state)
    assert jax.tree.map(lambda x: x.dtype, found) == jax.tree.map(lambda x: x.dtype, state)
