"""Files of weights, in and out of parameters."""
