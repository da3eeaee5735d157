"""File formats that hold tensors or settings."""
