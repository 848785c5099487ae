"""Daemons as processes and as greenlets: on memory, and on a broker that the suite starts."""
