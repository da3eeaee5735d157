"""Signals: a run that is told to stop saves its state first, and says where it resumes.

    Ctrl-C (SIGINT)   ends at once                                       exit code 130
    SIGTERM           saves a state after the chunk of steps that runs   exit code 143
    SIGHUP            likewise: the terminal is gone                     exit code 129

Where there is no state to save, all end at once. So does a second signal while the state is saved.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

_KINDLY = [signal.SIGTERM, signal.SIGHUP]


class Stopped(KeyboardInterrupt):
    """The program was told to stop by the signal `number`; the text says where it resumes."""

    def __init__(self, number: int, where: str = ""):
        by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
        super().__init__(f"stopped{by}{where and '; '}{where}")
        self.number = number


def importing() -> contextlib.AbstractContextManager:
    """Ends the program quietly at any signal: libraries swallow exceptions while imported."""
    return _handled([signal.SIGINT, *_KINDLY], lambda number, _: os._exit(128 + number))


def at_once() -> contextlib.AbstractContextManager:
    """Raises `Stopped` where SIGTERM or SIGHUP comes, so that nothing half-written is left."""

    def stop(number, _):
        raise Stopped(number)

    return _handled(_KINDLY, stop)


@contextlib.contextmanager
def at_saved_states() -> Iterator[Callable[[], int]]:
    """Notes SIGTERM and SIGHUP; yields a function that returns the number of the first, 0 if none.

    Whoever asks saves its state and raises `Stopped` with it.
    """
    came: list[int] = []

    def note(number, _):
        came.append(number)
        for each in _KINDLY:
            signal.signal(each, signal.SIG_DFL)  # a second one ends the program

    try:
        with _handled(_KINDLY, note):
            yield lambda: came[0] if came else 0
    except KeyboardInterrupt as error:
        known = came or [getattr(error, "number", signal.SIGINT)]
        raise Stopped(known[0]) from None
    if came:
        raise Stopped(came[0])


@contextlib.contextmanager
def resuming(where: Callable[[], str]) -> Iterator[None]:
    """Raises `Stopped` if the block is interrupted, with what `where` returns: where it resumes."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Stopped(getattr(error, "number", signal.SIGINT), where()) from None


@contextlib.contextmanager
def _handled(numbers: list[int], handler: Callable) -> Iterator[None]:
    # Only the main thread may; and what nohup ignores stays ignored.
    free = threading.current_thread() is threading.main_thread()
    heeded = [n for n in numbers if free and signal.getsignal(n) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
