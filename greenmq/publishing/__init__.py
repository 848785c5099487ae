"""How messages are sent: the Producer, batches, and what was published without waiting."""
