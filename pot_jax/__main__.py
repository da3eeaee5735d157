"""`pot-jax`, and `python -m pot_jax`."""

from pot_jax.runs.interrupts import importing


def run() -> None:
    """Runs the command of `sys.argv`."""
    with importing():
        from pot_jax import main
    main.run()


if __name__ == "__main__":
    run()
