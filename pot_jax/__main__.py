"""`pot-jax`, and `python -m pot_jax`."""

import os
import signal
import sys

from pot_jax.runs.interrupts import importing


def run() -> None:
    """Runs the command of `sys.argv`."""
    with importing():
        from pot_jax.main import main
    try:
        code = main(sys.argv)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    sys.exit(code)


if __name__ == "__main__":
    run()
