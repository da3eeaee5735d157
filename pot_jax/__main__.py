"""`pot-jax`, and `python -m pot_jax`."""

import atexit
import errno
import gc
import os
import signal
import sys

from pot_jax.runs.interrupts import importing


def run() -> None:
    """Runs the command of `sys.argv`."""
    # Imports and traces make objects by the million and few that are to be collected: with Python's
    # own 700, collecting takes a fifth of the start.
    gc.set_threshold(50_000, 20, 50)
    with importing():
        from pot_jax.main import main
    try:
        code = main(sys.argv)
        print(end="", flush=True)
    except BrokenPipeError:  # the reader, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO) or error.filename:  # of a file
            raise
        print(f"pot-jax: cannot write to standard output: {error.strerror}", file=sys.stderr)
        code = 2
    if sys.stderr:  # it may be closed
        sys.stderr.flush()
    atexit._run_exitfuncs()
    os._exit(code)  # taking JAX's objects apart would need half a second more


if __name__ == "__main__":
    run()
