"""A run's zoom, its record and its folder."""
