"""The shipped model, trained from scratch."""
