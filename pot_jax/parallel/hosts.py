"""Processes of one multi-host run: one writes and speaks for all, and none goes on alone.

All processes run the same program, each on its own devices. What one may do alone (claims, files)
is done `by_first`; where one may fail alone, `together` makes its mistake that of all. A process
that is killed leaves the others waiting inside a collective, until JAX's coordination service says
so. With a single process, nothing here does anything.
"""

import collections
import contextlib
import ctypes
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from pot_jax.checks import differences, require
from pot_jax.errors import ToldElsewhere, UserError, edge, few, one_line, shown

T = TypeVar("T")
LOST = 75  # exit code where another process is lost: no mistake, and the same command resumes
_KEPT: list = []  # what C++ may call
_SHARED: list = []  # true once all processes end for what one of them found wrong


def speaks() -> bool:
    """Returns whether this process writes, and tells the user what all do."""
    return jax.process_index() == 0


def gathered(value: Any) -> list:
    """Returns what every process gives, plain data, in the order of their indices."""
    if jax.process_count() == 1:
        return [value]
    said = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(said)))
    rows = multihost_utils.process_allgather(np.pad(said, (0, max(lengths) - len(said))))
    return [json.loads(bytes(row[:length])) for row, length in zip(rows, lengths)]


def shared(tree: T) -> T:
    """Returns the first process's NumPy arrays, of the same shapes in all."""
    return tree if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(tree)


def end_together() -> None:
    """Says that all processes of the run end now, each with an exception of its own."""
    _SHARED.append(True)


def follows() -> bool:
    """Returns whether another process speaks for this one; starts no backend, unlike `speaks`."""
    from jax._src.distributed import global_state

    return global_state.process_id > 0


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Raises an exception of the block in one process, and `ToldElsewhere` in all others."""
    if jax.process_count() == 1:
        yield
        return
    wrong = None
    try:
        yield
    except Exception as error:
        wrong = error
    if first := [index for index, given in enumerate(gathered(wrong is not None)) if given][:1]:
        end_together()
        if first[0] == jax.process_index():
            raise wrong
        raise ToldElsewhere(f"process {first[0]} says what is wrong") from wrong


def by_first(function: Callable[[], T]) -> T:
    """Returns, in all processes, what `function` returns in the first one: plain data, or None."""
    found = None
    with together():
        if speaks():
            found = function()
    return found if jax.process_count() == 1 else gathered(found)[0]


def require_same(facts: Callable[[], Mapping[str, Any]]) -> None:
    """Raises UserError unless the facts of all processes, plain data by their names, are the same.

    They are not asked for where there is one process.
    """
    if jax.process_count() == 1:
        return
    with together():
        ours = facts()
        for index, others in enumerate(gathered(ours)):
            rows = [f"{name} ({shown(a)}, {shown(b)})" for name, a, b in differences(ours, others)]
            if rows and speaks():
                same = "start all with the same command, files and versions"
                raise UserError(f"--distributed: process {index} has other {few(rows)}; {same}")


def check_devices() -> None:
    """Raises UserError unless all processes have as many devices, as JAX's collectives need."""
    counts = collections.Counter(device.process_index for device in jax.devices())
    expected = "as many devices for each process"
    require(len({*counts.values()}) == 1, "--distributed", expected, dict(counts))


def join(cluster: Mapping[str, Any], patience: int, timeout: int, last: Callable[[], None]) -> None:
    """Joins this process to the others of a run; UserError if that fails for `patience` seconds.

    `cluster` is what `jax.distributed.initialize` takes, or {} if that finds it in the environment.
    From then on, when a process of the run has ended, or is silent for `timeout` seconds, each of
    the others says so in one line, calls `last`, and ends with the code `LOST`.
    """
    from jax._src.distributed import global_state
    from jax._src.lib import _jax

    @ctypes.CFUNCTYPE(None)
    def lost() -> None:
        what = "another process of the run has ended; the same command resumes"
        try:
            said = f"pot-jax: process {global_state.process_id}: {what}"
            print(said, file=sys.stderr, flush=True)
            last()
        finally:
            os._exit(LOST)

    seconds = {"initialization_timeout": patience, "heartbeat_timeout_seconds": timeout}
    # Left alone, JAX ends a process with a stack trace and abort(), when it joins and later. With a
    # callback, whose argument cannot be cast to Python's, it raises instead: here an exception, and
    # later, in a thread of its own, std::terminate (jaxlib 0.10.1).
    client = _jax.get_distributed_runtime_client
    told = functools.partial(client, missed_heartbeat_callback=print)
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM from us
    with edge("joining a cluster", ""):
        try:
            _jax.get_distributed_runtime_client = told
            jax.distributed.initialize(**cluster, **seconds, shutdown_timeout_seconds=timeout)
        except Exception as error:
            _leave()
            if global_state.coordinator_address is None:
                raise
            place = global_state.coordinator_address
            why = "" if "bad_cast" in str(error) else f" ({one_line(error)})"
            how = "start all its processes, each with an index of its own"
            raise UserError(
                f"--coordinator: no run could be joined at {place} within {patience} s{why}; {how}"
            ) from error
        finally:
            _jax.get_distributed_runtime_client = client
    with contextlib.suppress(OSError, AttributeError):  # where C++ has another library
        ctypes.CDLL("libstdc++.so.6")._ZSt13set_terminatePFvvE(lost)
    _KEPT.append(lost)


def _leave() -> None:
    """Sees to it that this process parts from no other, at its end or in a destructor."""
    from jax._src.distributed import global_state

    _KEPT.append(global_state.client)
    global_state.client = None


@contextlib.contextmanager
def lasting(timeout: float) -> Iterator[None]:
    """Lets a failed collective wait until it is known that a process is lost (see `join`)."""
    from jax._src.distributed import global_state

    try:
        yield
    except BaseException as error:
        if global_state.client and not _SHARED:
            if not isinstance(error, UserError | KeyboardInterrupt):
                time.sleep(2 * timeout)
            _leave()  # the others are elsewhere
        raise
