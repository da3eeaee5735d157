"""The mathematics of a zoom: arrays only."""
