"""A flipped bit anywhere in a saved state: the state before is taken, with a warning.

`flips` is also what `tools/acceptance robustness` runs, at full size.
"""

import logging
import pathlib
import random
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from pot_jax.diffusion.sampler import SamplerState, keys_of
from pot_jax.errors import UserError
from pot_jax.runs.checkpoints import Checkpoints
from pot_jax.runs.folder import SavedStates, _State1

FORMAT_1 = pathlib.Path(__file__).parent / "format_1"


def flip(path, bit):
    """Flips one bit of a file, counted from its start."""
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def bits(folder, count, seed=0):
    """`count` bits, spread evenly over the files of a folder: [(file, bit)]; bit 276 is one."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    largest = max(files, key=lambda path: path.stat().st_size)
    rng = random.Random(seed)
    chosen = [(largest, 276)]
    for index in range(count - 1):
        file = files[index % len(files)]
        chosen.append((file, rng.randrange(8 * file.stat().st_size)))
    return [(path.relative_to(folder), bit) for path, bit in chosen]


def states():
    """A sampler's states after 5 and 10 steps, and the fresh one: [B, N, h, w, c]."""
    key = jax.random.key(0)
    found = []
    for step in (5, 10, 0):
        latents = jax.random.normal(jax.random.fold_in(key, step), (1, 2, 8, 8, 4))
        history, memory = (latents + 1,), ()
        keys = keys_of(np.uint32([3]))
        found.append(SamplerState(jnp.int32(step), latents, keys, history, memory))
    return found


def flips(folder, count):
    """Flips `count` bits, one at a time, in the newest of two states; returns what went wrong.

    A breach is a line: a state that was taken although it is not byte for byte what was saved, no
    warning, an exception, or a step before that comes back otherwise.
    """
    before, after, fresh = states()
    saved = SavedStates([folder / "sound"], every=5)
    for state in (before, after):
        saved.save(state, int(state.step))
    breaches = []
    for path, bit in bits(folder / "sound" / "state" / "10", count):
        run = shutil.copytree(folder / "sound", folder / "flipped")
        flip(run / "state" / "10" / path, bit)
        warnings = Warnings()
        try:
            found = SavedStates([run], every=5).restore(fresh)
            if not warnings.end():
                breaches.append(f"{path} bit {bit}: silent, step {int(found.step)}")
            if not equal(found, before):
                breaches.append(f"{path} bit {bit}: step {int(found.step)} is not the one before")
        except Exception as error:
            breaches.append(f"{path} bit {bit}: {type(error).__name__}: {error}")
        finally:
            warnings.end()
            shutil.rmtree(run)
    return breaches


class Warnings(logging.Handler):
    """Counts the warnings until `end`."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.count = 0
        logging.getLogger().addHandler(self)

    def emit(self, record):
        self.count += 1

    def end(self):
        logging.getLogger().removeHandler(self)
        return self.count


def equal(one, other):
    return all(
        np.array_equal(jax.random.key_data(a), jax.random.key_data(b))
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key)
        else np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def test_no_flip_is_silent_or_fatal(tmp_path):
    assert flips(tmp_path, 60) == []


def test_a_sound_state_is_taken(tmp_path):
    before, after, fresh = states()
    saved = SavedStates([tmp_path], every=5)
    for state in (before, after):
        saved.save(state, int(state.step))
    assert equal(SavedStates([tmp_path], every=5).restore(fresh), after)


@pytest.mark.parametrize("name", ["state/_METADATA", "facts.json", "SHA256SUMS"])
@pytest.mark.parametrize("damage", ["deleted", "truncated", "empty", "a folder"])
def test_other_damage_is_passed_over_too(tmp_path, name, damage):
    states_ = {"w": jnp.ones(3)}
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, states_, {})
    path = tmp_path / "2" / name
    data = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage != "deleted":
        path.write_bytes(data[:-1] if damage == "truncated" else b"")
    assert Checkpoints(tmp_path).restore(states_)[0] == 1


def old_flips(folder, count):
    """The same in a state of format 1, the only one: it is refused, or exactly what was saved."""
    before = FORMAT_1 / "ddim" / "state"
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
        kept = reader.restore(before / "5" / "state")
    like = _State1(*(jnp.asarray(kept[name]) for name in ("step", "latents", "key")), ())
    _, sound, _ = Checkpoints(before).restore(like)
    breaches = []
    for index, (path, bit) in enumerate(bits(before / "5", count)):
        run = shutil.copytree(before, folder / str(index))
        flip(run / "5" / path, bit)
        try:
            _, found, _ = Checkpoints(run).restore(like)
            if not equal(found, sound):
                breaches.append(f"{path} bit {bit}: another state")
        except UserError:
            continue
        except Exception as error:
            breaches.append(f"{path} bit {bit}: {type(error).__name__}: {error}")
    return breaches


def test_a_flip_in_a_state_of_an_earlier_format_is_never_a_traceback(tmp_path):
    # In a process of its own: Orbax leaves calls of its event loop behind when it fails.
    code = (
        f"import pathlib, test_flips as t; print(t.old_flips(pathlib.Path({str(tmp_path)!r}), 14))"
    )
    here = pathlib.Path(__file__).parent
    said = subprocess.check_output([sys.executable, "-c", code], cwd=here, text=True, timeout=120)
    assert said.strip() == "[]"
