"""The loop, driven by a problem with a known answer: least squares."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from pot_jax.errors import UserError
from pot_jax.parallel.mesh import device_mesh
from pot_jax.runs.checkpoints import Checkpoints
from pot_jax.training import loop
from pot_jax.training.journal import Journal
from pot_jax.training.loop import (
    AXIS,
    OPTIMIZERS,
    Optimisation,
    Phase,
    learning_rate,
    make_step,
    run_phase,
    start_state,
)

TRUTH = np.array([[1.0, -2.0], [0.5, 3.0], [-1.0, 0.25]], np.float32)
SETTINGS = Optimisation(batch=16, learning_rate=0.1, steps=200, average=0.9)
SHORT = dataclasses.replace(SETTINGS, steps=6)


def load_batch(step):
    x = np.random.default_rng([7, step]).normal(size=(SETTINGS.batch, 3)).astype(np.float32)
    return {"x": x, "y": x @ TRUTH}


def loss(params, batch, key):
    del key
    error = batch["x"] @ params["w"]["kernel"] - batch["y"]
    return jnp.mean(error**2), {"largest": jnp.max(jnp.abs(error))}


def noisy_loss(params, batch, key):
    noise = 0.1 * jax.random.normal(key, batch["y"].shape)
    return loss(params, {"x": batch["x"], "y": batch["y"] + noise}, key)


@pytest.fixture
def mesh():
    return device_mesh(AXIS, jax.devices()[:1])


@pytest.fixture
def start():
    return {"w": {"kernel": jnp.zeros((3, 2))}}  # a kernel, so that Muon takes it


def phase(folder, settings=SETTINGS, visited=None, **changes):
    checkpoints = Checkpoints(folder / "checkpoints")
    return dataclasses.replace(
        Phase(
            name="toy",
            loss=loss,
            load_batch=load_batch,
            settings=settings,
            checkpoints=checkpoints,
            journal=Journal(folder, "toy", checkpoints.latest_step()),
            visit=lambda step, params: visited.append(step),
            seed=0,
        ),
        **changes,
    )


def test_it_finds_the_answer(tmp_path, start, mesh):
    steps, seconds, params = run_phase(phase(tmp_path), start, mesh)
    assert steps == SETTINGS.steps
    assert seconds > 0
    np.testing.assert_allclose(params["w"]["kernel"], TRUTH, atol=1e-3)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_killed_run_ends_in_the_same_bytes(tmp_path, start, mesh, optimizer):
    settings = dataclasses.replace(SHORT, optimizer=optimizer)
    # A state after every step.
    parts = {"settings": settings, "loss": noisy_loss, "save_every": 0.0}
    _, _, whole = run_phase(phase(tmp_path / "a", **parts), start, mesh)

    def stopping(step):
        if step == 4:  # loaded ahead, while step 3 runs
            raise KeyboardInterrupt
        return load_batch(step)

    with pytest.raises(KeyboardInterrupt):
        run_phase(phase(tmp_path / "b", **parts, load_batch=stopping), start, mesh)
    resumed = phase(tmp_path / "b", **parts)
    assert 0 < resumed.checkpoints.latest_step() < SHORT.steps
    _, _, params = run_phase(resumed, start, mesh)
    np.testing.assert_array_equal(params["w"]["kernel"], whole["w"]["kernel"])


def test_a_finished_phase_is_not_run_again(tmp_path, start, mesh):
    _, _, first = run_phase(phase(tmp_path, SHORT), start, mesh)
    again = phase(tmp_path, SHORT, load_batch=None)  # would fail if it were asked
    steps, _, params = run_phase(again, start, mesh)
    assert steps == SHORT.steps
    np.testing.assert_array_equal(params["w"]["kernel"], first["w"]["kernel"])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_eight_devices_agree_with_one(start, optimizer):
    states, settings = [], dataclasses.replace(SETTINGS, optimizer=optimizer)
    for devices in (jax.devices()[:1], jax.devices()):
        mesh = device_mesh(AXIS, devices)
        state = start_state(start, settings, mesh)
        step = make_step(noisy_loss, settings, mesh)
        for number in range(5):
            state, _ = step(state, load_batch(number), number, 0.1, jax.random.key(3))
        states.append(jax.device_get(state))
    # The mean over the batch is summed in another order.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *states)


def test_one_trace_serves_every_step(start, mesh):
    traces = 0

    def counted(params, batch, key):
        nonlocal traces
        traces += 1
        return loss(params, batch, key)

    state, step = start_state(start, SETTINGS, mesh), make_step(counted, SETTINGS, mesh)
    for number in range(4):
        rate = learning_rate(number / 4, SETTINGS)
        state, _ = step(state, load_batch(number), number, rate, jax.random.key(0))
    assert traces == 1


def test_the_learning_rate_rises_and_ends_at_nothing():
    rates = [learning_rate(progress, SETTINGS) for progress in np.linspace(0, 1.2, 61)]
    assert rates[0] == 0
    assert max(rates) == pytest.approx(SETTINGS.learning_rate, rel=1e-3)
    assert np.argmax(rates) == pytest.approx(SETTINGS.warmup * 50, abs=1)
    assert rates[50:] == pytest.approx([0] * 11, abs=1e-9)


def test_the_clock_ends_a_phase_early_and_decayed(tmp_path, start, mesh, monkeypatch):
    ticks = itertools.count(0.0, 0.01)  # a clock that goes on whenever it is looked at
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(ticks))
    settings = dataclasses.replace(SETTINGS, steps=10**9, minutes=1.5 / 60)
    steps, seconds, _ = run_phase(phase(tmp_path, settings, log_every=1), start, mesh)
    assert 10 < steps < 150
    assert 1.5 <= seconds < 1.6
    last = (tmp_path / "toy.csv").read_text().splitlines()[-1].split(",")
    assert float(last[3]) < 0.1 * settings.learning_rate


def test_visits_come_by_the_clock(tmp_path, start, mesh):
    visited = []
    run_phase(phase(tmp_path, SHORT, visited, visit_every=0.0), start, mesh)
    assert visited == list(range(SHORT.steps))


def test_a_machine_to_be_taken_away_costs_nothing(tmp_path, start, mesh):
    _, _, whole = run_phase(phase(tmp_path / "whole", SHORT), start, mesh)
    asked = itertools.count()
    told = phase(tmp_path / "told", SHORT, stopping=lambda: next(asked) == 3)
    with pytest.raises(KeyboardInterrupt):
        run_phase(told, start, mesh)
    assert told.checkpoints.latest_step() == 3
    _, _, resumed = run_phase(phase(tmp_path / "told", SHORT), start, mesh)
    np.testing.assert_array_equal(resumed["w"]["kernel"], whole["w"]["kernel"])


def test_a_loss_gone_wrong_stops_the_run(tmp_path, start, mesh):
    def broken(params, batch, key):
        value, parts = loss(params, batch, key)
        return value / 0.0, parts

    with pytest.raises(UserError, match="toy: the loss is (inf|nan) at step 5"):
        run_phase(phase(tmp_path, loss=broken, log_every=5), start, mesh)


def test_a_batch_that_does_not_divide_is_refused(tmp_path, start):
    settings = dataclasses.replace(SETTINGS, batch=12)
    with pytest.raises(UserError, match="a batch of 12 does not divide over 8 devices"):
        run_phase(phase(tmp_path, settings), start, device_mesh(AXIS))


@pytest.mark.parametrize(
    "change",
    [{"batch": 0}, {"steps": 0}, {"learning_rate": 0.0}, {"average": 1.0}, {"minutes": -1.0}],
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(UserError, match=next(iter(change))):
        dataclasses.replace(SETTINGS, **change)


def test_muon_takes_features_and_leaves_the_rest_to_adam(mesh):
    settings = dataclasses.replace(SETTINGS, optimizer="muon", clip=1e6)
    params = {
        "conv_in": {"kernel": jnp.ones((3, 3, 2, 4))},
        "heads": {"colour": {"kernel": jnp.ones((4, 3))}},
        "conv1": {"kernel": jnp.ones((3, 3, 4, 6)), "bias": jnp.ones(6)},
        "to_q": {"kernel": jnp.ones((4, 6))},
        "token_embedding": {"embedding": jnp.ones((10, 4))},
    }
    rng = np.random.default_rng(0)
    slopes = jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), params)
    optimizer = loop.make_optimizer(settings)
    direction, _ = optimizer.update(slopes, optimizer.init(params), params)
    for name in ("conv1", "to_q"):
        # Orthogonal, as far as five Newton-Schulz steps bring it, and along the gradient.
        found = np.asarray(direction[name]["kernel"])
        values = np.linalg.svd(found.reshape(-1, 6), compute_uv=False)
        assert values.max() / values.min() < 2
        assert np.sum(found * slopes[name]["kernel"]) > 0
    # Adam's first step is the gradient's sign; with Nesterov's momentum, b1 = 0.9, times
    # b1 (1 - b1) / (1 - b1^2) + 1, as optax corrects the bias of the next step's momentum.
    first = 0.9 * 0.1 / 0.19 + 1
    flat, slopes = flatten_dict(direction), flatten_dict(slopes)
    for path in (
        ("conv_in", "kernel"),
        ("heads", "colour", "kernel"),
        ("conv1", "bias"),
        ("token_embedding", "embedding"),
    ):
        found, slope = flat[path], slopes[path]
        np.testing.assert_allclose(found, first * np.sign(slope), rtol=1e-3)


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(UserError, match="one of adam, muon"):
        dataclasses.replace(SETTINGS, optimizer="sgd")
