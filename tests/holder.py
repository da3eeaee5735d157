"""A process that holds a folder, as a run does."""

# Takes the folder; says "held", and stays until it is killed.
HOLD = """
import sys, time
from pot_jax.runs.claims import held
with held(sys.argv[1]):
    print("held", flush=True)
    time.sleep(100)
"""
