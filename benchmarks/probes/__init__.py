"""What runs in each peer's process: the same calls on either package, figures as a line of JSON."""
