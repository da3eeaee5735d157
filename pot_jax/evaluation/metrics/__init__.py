"""Measures of zooms: arrays in, numbers out."""
