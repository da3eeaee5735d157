"""The loop, driven by a problem with a known answer: least squares."""

import dataclasses
import itertools
import os
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pot_jax.errors import UserError
from pot_jax.parallel.mesh import device_mesh
from pot_jax.runs import interrupts
from pot_jax.runs.checkpoints import Checkpoints
from pot_jax.training import loop
from pot_jax.training.journal import Journal
from pot_jax.training.loop import Phase, PhaseRun, make_start, make_step
from pot_jax.training.optimizers import OPTIMIZERS
from pot_jax.training.settings import IntervalSettings, OptimizationSettings

# All tests but the last take Adam's steps, by default or beside Muon's.
pytestmark = pytest.mark.loose_promotion("optax's Adam raises a float to its integer step count")

TRUTH = np.array([[1.0, -2.0], [0.5, 3.0], [-1.0, 0.25]], np.float32)
SETTINGS = OptimizationSettings(batch_size=16, learning_rate=0.1, steps=200, ema_decay=0.9)
SHORT = dataclasses.replace(SETTINGS, steps=6)
ALWAYS = 1e-9  # minutes: less than a step takes


def load_batch(step):
    x = np.random.default_rng([7, step]).normal(size=(SETTINGS.batch_size, 3)).astype(np.float32)
    return {"x": x, "y": x @ TRUTH}


def loss(params, batch, key):
    del key
    error = batch["x"] @ params["w"]["kernel"] - batch["y"]
    return jnp.mean(error**2), {"largest": jnp.max(jnp.abs(error))}


def as_chosen(data, chosen):
    return chosen


def noisy_loss(params, batch, key):
    noise = 0.1 * jax.random.normal(key, batch["y"].shape)
    return loss(params, {"x": batch["x"], "y": batch["y"] + noise}, key)


@pytest.fixture
def mesh():
    return device_mesh(devices=jax.devices()[:1])


@pytest.fixture
def start():
    return {"w": {"kernel": jnp.zeros((3, 2))}}  # a kernel, so that Muon takes it


def phase(folder, settings=SETTINGS, previewed=None, **changes):
    checkpoints = Checkpoints(folder / "checkpoints")
    return dataclasses.replace(
        Phase(
            name="toy",
            loss=loss,
            choose=load_batch,
            settings=settings,
            checkpoints=checkpoints,
            journal=Journal(folder, "toy", checkpoints.latest_step()),
            preview=lambda step, params: previewed.append(step),
            seed=0,
        ),
        **changes,
    )


def run_phase(phase, params, mesh, data=()):
    return PhaseRun(phase, params, data, mesh).run(lambda: params, data)


def test_it_finds_the_answer(tmp_path, start, mesh):
    steps, seconds, params = run_phase(phase(tmp_path), start, mesh)
    assert steps == SETTINGS.steps
    assert seconds > 0
    np.testing.assert_allclose(params["w"]["kernel"], TRUTH, atol=1e-3)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_killed_run_ends_in_the_same_bytes(tmp_path, start, mesh, optimizer):
    settings = dataclasses.replace(SHORT, optimizer=optimizer)
    # A state after every step.
    parts = {"settings": settings, "loss": noisy_loss}
    parts["intervals"] = IntervalSettings(checkpoint_minutes=ALWAYS)
    _, _, whole = run_phase(phase(tmp_path / "a", **parts), start, mesh)

    def stopping(step):
        if step == 4:  # while step 3 runs
            raise KeyboardInterrupt
        return load_batch(step)

    with pytest.raises(KeyboardInterrupt):
        run_phase(phase(tmp_path / "b", **parts, choose=stopping), start, mesh)
    resumed = phase(tmp_path / "b", **parts)
    assert 0 < resumed.checkpoints.latest_step() < SHORT.steps
    _, _, params = run_phase(resumed, start, mesh)
    np.testing.assert_array_equal(params["w"]["kernel"], whole["w"]["kernel"])


def test_a_finished_phase_is_not_run_again(tmp_path, start, mesh):
    _, _, first = run_phase(phase(tmp_path, SHORT), start, mesh)
    again = phase(tmp_path, SHORT, choose=None)  # would fail if it were asked
    steps, _, params = run_phase(again, start, mesh)
    assert steps == SHORT.steps
    np.testing.assert_array_equal(params["w"]["kernel"], first["w"]["kernel"])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_eight_devices_agree_with_one(start, optimizer):
    states, settings = [], dataclasses.replace(SETTINGS, optimizer=optimizer)
    for devices in (jax.devices()[:1], jax.devices()):
        mesh = device_mesh(devices=devices)
        state = make_start(settings, mesh)(start)
        step = make_step(noisy_loss, settings, mesh, as_chosen)
        for number in range(5):
            state, _ = step(state, (), load_batch(number), number, 0.0, jax.random.key(3))
        states.append(jax.device_get(state))
    # The mean over the batch is summed in another order.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *states)


def test_batches_are_gathered_from_data_on_the_devices(tmp_path, start, mesh):
    whole = [load_batch(step) for step in range(SHORT.steps)]
    data = {name: np.concatenate([batch[name] for batch in whole]) for name in ("x", "y")}
    size = SHORT.batch_size

    def choose(step):
        return np.arange(step * size, (step + 1) * size, dtype=np.int32)

    def gather(data, chosen):
        return jax.tree.map(lambda x: x[chosen], data)

    parts = {"choose": choose, "gather": gather}
    given = run_phase(phase(tmp_path / "a", SHORT), start, mesh)
    for devices in (mesh, device_mesh()):
        folder = tmp_path / f"b{devices.size}"
        _, _, params = run_phase(phase(folder, SHORT, **parts), start, devices, data)
        # Compiled together with the gather, sums may be rounded in another order.
        np.testing.assert_allclose(params["w"]["kernel"], given[2]["w"]["kernel"], atol=1e-6)


def test_a_step_compiles_before_there_are_values_and_the_clock_waits(tmp_path, start, mesh):
    shapes = jax.eval_shape(lambda: start)
    held, slow = threading.Event(), 0.2

    def compiling(self, lowered, compile=loop.Ahead._compile):
        held.wait(10)
        time.sleep(slow)
        compile(self, lowered)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Ahead, "_compile", compiling)
        settings = dataclasses.replace(SHORT, minutes=10.0)
        prepared = PhaseRun(phase(tmp_path, settings), shapes, (), mesh)
        held.set()
        began = time.monotonic()
        steps, seconds, _ = prepared.run(lambda: start, ())
    assert steps == SHORT.steps
    assert seconds < time.monotonic() - began - slow


def test_a_compilation_is_not_waited_for_by_a_run_that_is_to_stop(tmp_path, start, mesh):
    calls = itertools.count()

    def never(self, lowered):
        if next(calls):  # a second signal would come after the handler has gone
            return
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)  # as from outside: to the main thread, which waits

    with pytest.MonkeyPatch.context() as patch, interrupts.at_once():
        patch.setattr(loop.Ahead, "_compile", never)
        with pytest.raises(interrupts.Stopped, match="by SIGTERM"):
            run_phase(phase(tmp_path, SHORT), start, mesh)


def test_a_compilation_that_fails_is_told_to_who_waits(mesh):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.stages.Lowered, "compile", lambda self: 1 / 0)
        ahead = loop.Ahead(jax.jit(jnp.sin), 0.5)
        with pytest.raises(ZeroDivisionError):
            ahead(0.5)


def test_one_trace_serves_every_step(start, mesh):
    traces = 0

    def counted(params, batch, key):
        nonlocal traces
        traces += 1
        return loss(params, batch, key)

    state, step = make_start(SETTINGS, mesh)(start), make_step(counted, SETTINGS, mesh, as_chosen)
    for number in range(4):
        state, _ = step(state, (), load_batch(number), number, number / 4, jax.random.key(0))
    assert traces == 1


def test_the_clock_ends_a_phase_early_and_decayed(tmp_path, start, mesh, monkeypatch):
    ticks = itertools.count(0.0, 0.01)  # a clock that advances whenever it is read
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(ticks))
    settings = dataclasses.replace(SETTINGS, steps=10**9, minutes=1.5 / 60)
    every = IntervalSettings(log_steps=1)
    steps, seconds, _ = run_phase(phase(tmp_path, settings, intervals=every), start, mesh)
    assert 10 < steps < 150
    assert 1.5 <= seconds < 1.6
    last = (tmp_path / "toy.csv").read_text().splitlines()[-1].split(",")
    assert float(last[3]) < 0.1 * settings.learning_rate


def test_previews_come_by_the_clock(tmp_path, start, mesh):
    previewed = []
    often = IntervalSettings(preview_minutes=ALWAYS)
    run_phase(phase(tmp_path, SHORT, previewed, intervals=often), start, mesh)
    assert previewed == list(range(SHORT.steps))


def test_a_machine_about_to_be_taken_away_loses_nothing(tmp_path, start, mesh):
    _, _, whole = run_phase(phase(tmp_path / "whole", SHORT), start, mesh)

    def choose(step):
        if step == 4:  # while step 3 runs
            signal.raise_signal(signal.SIGTERM)
        return load_batch(step)

    stopped = phase(tmp_path / "stopped", SHORT, choose=choose)
    with pytest.raises(KeyboardInterrupt, match="stopped by SIGTERM"):
        run_phase(stopped, start, mesh)
    assert 0 < stopped.checkpoints.latest_step() < SHORT.steps
    _, _, resumed = run_phase(phase(tmp_path / "stopped", SHORT), start, mesh)
    np.testing.assert_array_equal(resumed["w"]["kernel"], whole["w"]["kernel"])


def test_a_loss_gone_wrong_stops_the_run(tmp_path, start, mesh):
    def broken(params, batch, key):
        value, parts = loss(params, batch, key)
        return value / 0.0, parts

    every = IntervalSettings(log_steps=5)
    with pytest.raises(UserError, match="toy: the loss is (inf|nan) at step 5"):
        run_phase(phase(tmp_path, loss=broken, intervals=every), start, mesh)


def test_a_batch_that_does_not_divide_is_refused(tmp_path, start):
    settings = dataclasses.replace(SETTINGS, batch_size=12)
    with pytest.raises(UserError, match="a batch of 12 does not divide over 8 devices"):
        run_phase(phase(tmp_path, settings), start, device_mesh())
