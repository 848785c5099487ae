"""A plugin, `pytest -p tests.support.mutant`: drivers settle what they deliver before its callback runs."""

from __future__ import annotations

from greenmq.transport.driver.channel import Channel

_consume = Channel.basic_consume


def _consume_early(self, queue, no_ack=False, **kwargs):
    return _consume(self, queue, no_ack=True, **kwargs)


Channel.basic_consume = _consume_early
Channel.basic_ack = Channel.basic_reject = lambda self, *args, **kwargs: None
