"""What is measured of finished runs."""
