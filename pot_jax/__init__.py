"""Generative Powers of Ten in JAX."""
