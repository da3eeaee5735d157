"""Schedules, solvers, guidance and the joint sampler: arrays and callables."""
