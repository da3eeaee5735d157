"""The shipped models, trained from scratch."""
