"""``memory://``: a broker inside the process, for programs that need no other one, and for tests.

* URL: ``memory://`` or ``memory://localhost/name``. Connections to one virtual host share one broker;
  `reset` empties it.
* Types of exchange: direct, topic, fanout, headers; exchange-to-exchange bindings; alternate-exchange.
* Priorities (higher is sooner, 0 to 9 or x-max-priority), expiration and x-message-ttl, x-expires,
  x-max-length, x-max-length-bytes, x-overflow, dead letters, exclusive and auto_delete queues.
* Nothing is polled: a publish hands the message to a waiting consumer. Nothing is durable: it ends with the
  process, and a forked child begins with an empty broker.

An exclusive queue goes with the connection that declared it, the last one of several. Meanwhile other
connections may use it, as in kombu, whose programs leave connections to the collector; the option
`lock_exclusive` refuses them, as RabbitMQ does.

Options: `lock_exclusive`, `fetch_ahead`, `max_deliveries`, `deadletter_queue`, and the common ones; see
`transport.options`.

Its parts: `broker`, a virtual host, with its `queue` objects; `access`, what one connection may do there;
`deliveries`, what one channel has in hand; `channel` and `transport`, kombu's API.
"""

from __future__ import annotations

from queue import Empty

from greenmq.transport.memory.broker import LocalBroker, broker, reset
from greenmq.transport.memory.channel import Channel
from greenmq.transport.memory.deliveries import LocalMessage
from greenmq.transport.memory.transport import Management, Transport

__all__ = (
    'Channel', 'Empty', 'LocalBroker', 'LocalMessage', 'Management', 'Transport', 'broker', 'reset',
)  # fmt: skip
