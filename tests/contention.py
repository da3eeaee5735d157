"""Threads that all want one folder at the same moment."""

import contextlib
import threading
import time

from pot_jax.errors import UserError
from pot_jax.runs.claims import held


def many(take, count=8):
    """Calls `take` in that many threads at once; those that meet a UserError give up."""
    barrier = threading.Barrier(count)

    def begin():
        barrier.wait()
        with contextlib.suppress(UserError):
            take()

    threads = [threading.Thread(target=begin) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def most_at_once(folder):
    """Returns how many of many that want to hold `folder` held it at the same time."""
    inside, most, lock = [], [], threading.Lock()

    def take():
        with held(folder):
            with lock:
                inside.append(1)
                most.append(len(inside))
            time.sleep(0.05)
            with lock:
                inside.pop()

    many(take)
    return max(most)
