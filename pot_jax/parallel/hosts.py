"""Processes of one multi-host run: one writes and speaks for all, and none goes on alone.

All processes run the same program, each on its own devices. What one may do alone (claims, files)
is done `by_first`; where one may fail alone, `together` makes its mistake that of all. A process
that is killed leaves the others waiting inside a collective, until JAX's coordination service says
so. With a single process, nothing here does anything.
"""

import contextlib
import ctypes
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar
from unittest import mock

import jax
import numpy as np
from jax.experimental import multihost_utils

from pot_jax.checks import differences
from pot_jax.errors import ToldElsewhere, UserError, edge, few, shown

T = TypeVar("T")
LOST = 75  # exit code where another process is lost, so that schedulers start the job again
_KEPT: list = []  # what C++ may call


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


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Raises a UserError of the block in one process in all: there what is wrong, and here too."""
    mistake = None
    try:
        yield
    except UserError as error:
        mistake = error
    wrong = [i for i, given in enumerate(gathered(mistake is not None)) if given]
    if wrong and wrong[0] == jax.process_index():
        raise mistake
    if wrong:
        raise ToldElsewhere(f"process {wrong[0]} says what is wrong")


def by_first(function: Callable[[], T]) -> T:
    """Returns, in all processes, what `function` returns in the first one: plain data, or None."""
    found = None
    with together():
        if speaks():
            found = function()
    return found if jax.process_count() == 1 else gathered(found)[0]


def require_same(facts: Mapping[str, Any]) -> None:
    """Raises UserError unless all processes give the same facts, plain data by their names."""
    with together():
        for index, others in enumerate(gathered(dict(facts))):
            rows = [f"{name} ({shown(a)}, {shown(b)})" for name, a, b in differences(facts, others)]
            if rows and speaks():
                same = "start all with the same command, files and versions"
                raise UserError(f"--distributed: process {index} has other {few(rows)}; {same}")


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
        print(f"pot-jax: process {jax.process_index()}: {what}", file=sys.stderr, flush=True)
        last()
        os._exit(LOST)

    seconds = {"initialization_timeout": patience, "heartbeat_timeout_seconds": timeout}
    # Left alone, JAX ends a process with a stack trace and abort(), when it joins and later. With a
    # callback, whose argument cannot be cast to Python's, it raises instead: here an exception, and
    # later, in a thread of its own, std::terminate (jaxlib 0.10.1).
    told = functools.partial(_jax.get_distributed_runtime_client, missed_heartbeat_callback=print)
    patched = mock.patch.object(_jax, "get_distributed_runtime_client", told)
    with edge("joining a cluster", ""), patched:
        try:
            jax.distributed.initialize(**cluster, **seconds, shutdown_timeout_seconds=timeout)
        except Exception as error:
            global_state.client = None  # there is nothing to part from at the end
            if global_state.coordinator_address is None:
                raise
            place = global_state.coordinator_address
            how = "start all its processes, each with an index of its own"
            raise UserError(
                f"--coordinator: no run could be joined at {place} within {patience} s; {how}"
            ) from error
    with contextlib.suppress(OSError, AttributeError):  # where C++ has another library
        ctypes.CDLL("libstdc++.so.6")._ZSt13set_terminatePFvvE(lost)
    _KEPT.append(lost)


@contextlib.contextmanager
def lasting(timeout: float) -> Iterator[None]:
    """Lets a failed collective wait until it is known which process is lost (see `join`)."""
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except Exception:
        if jax.process_count() > 1:
            time.sleep(2 * timeout)
        raise
