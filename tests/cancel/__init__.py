"""A kill and a Timeout at every switch point of each public call; then everything must be sound (P5)."""
