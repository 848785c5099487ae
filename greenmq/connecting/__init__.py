"""How a Connection gets to its broker: its address, the attempts at it, retrying, and other threads."""
