"""`python -m pot_jax` is `pot-jax`."""

from pot_jax.main import run

run()
