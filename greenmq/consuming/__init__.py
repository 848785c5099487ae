"""How messages are received: the Consumer, and the greenlets that run the callbacks of a ConsumerMixin."""
