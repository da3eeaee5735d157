"""Signals, as processes receive them."""

import os
import signal
import subprocess
import sys
import time

import pytest

from pot_jax.runs.interrupts import Stopped, at_once, at_saved_states, importing, resuming

KINDLY = (signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def heard():
    """Shells ignore signals for what runs in their background, and processes inherit that."""
    usual = dict.fromkeys(KINDLY, signal.SIG_DFL) | {signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", KINDLY)
def test_a_signal_is_noted_until_somebody_asks(number):
    before = signal.getsignal(number)

    def stop():
        with at_saved_states() as stopping:
            assert not stopping()
            signal.raise_signal(number)
            assert stopping()

    with pytest.raises(Stopped) as caught:
        stop()
    assert caught.value.number == number
    assert signal.getsignal(number) == before


def test_without_a_signal_nothing_is_raised():
    with at_once(), importing(), at_saved_states() as stopping:
        assert not stopping()


def test_another_error_is_not_hidden_by_a_signal():
    def fail():
        signal.raise_signal(signal.SIGTERM)
        raise OSError("full")

    with pytest.raises(OSError, match="full"), at_saved_states():
        fail()


@pytest.mark.parametrize("number", [*KINDLY, signal.SIGINT])
def test_it_says_where_it_resumes(number):
    by = "" if number == signal.SIGINT else f" by {number.name}"
    said = pytest.raises(Stopped, match=f"^stopped{by}; from 5$")
    with said as caught, at_once(), resuming(lambda: "from 5"):
        signal.raise_signal(number)
    assert caught.value.number == number


def end(code, *numbers):
    """Runs `code`, sends it signals once it prints; returns its exit code and what it printed."""
    command = [sys.executable, "-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        process.stdout.readline()
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.2)
        out, err = process.communicate(timeout=20)
        return process.returncode, out + err


START = """
import signal, sys, time
from pot_jax.runs import interrupts
def wait():
    print("ready", flush=True)
    time.sleep(15)
"""


@pytest.mark.parametrize("number", [*KINDLY, signal.SIGINT])
def test_imports_that_swallow_exceptions_are_ended(number):
    code = START + "with interrupts.importing():\n try: wait()\n except BaseException: wait()"
    assert end(code, number) == (128 + number, "")


def test_a_second_signal_ends_at_once():
    code = START + "with interrupts.at_saved_states(): wait(); wait()"
    began = time.monotonic()
    assert end(code, signal.SIGTERM, signal.SIGTERM)[0] == -signal.SIGTERM
    assert time.monotonic() - began < 10


def test_what_nohup_ignores_stays_ignored():
    code = START + (
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "with interrupts.at_saved_states() as stopping:\n"
        "    print(flush=True); time.sleep(1); print('stopping', stopping())"
    )
    assert end(code, signal.SIGHUP) == (0, "stopping 0\n")


def test_other_threads_leave_signals_alone():
    code = START + (
        "import threading\n"
        "def f():\n"
        "    with interrupts.at_saved_states() as stopping: print('ok', stopping())\n"
        "t = threading.Thread(target=f); t.start(); t.join()"
    )
    assert "ok 0" in subprocess.check_output([sys.executable, "-c", code], text=True)


def test_ctrl_c_ends_the_command_quietly_at_any_moment_of_its_start():
    command = [sys.executable, "-m", "pot_jax", "evaluate", "--workdir=nowhere"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    for delay in (0.5, 0.9):
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as child:
            time.sleep(delay)
            child.send_signal(signal.SIGINT)
            _, said = child.communicate(timeout=30)
        # On a fast machine it has ended by itself, or has said its line and is in Python's own end.
        ended = (2, -signal.SIGINT) if "no run at nowhere" in said else ()
        assert child.returncode in (130, *ended), said
        assert len(said.splitlines()) <= 1, said
