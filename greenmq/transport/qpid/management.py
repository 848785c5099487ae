"""How a broker is told to make, count and delete things: AMQP 1.0 has no verb for it.

`rabbitmq` asks RabbitMQ, over AMQP or over HTTP, `artemis` Apache Artemis, `brokerj` Qpid Broker-J;
`requests` carries what they ask over links.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from greenmq import runtime
from greenmq.transport.amqp10.links import Receiver, Sender
from greenmq.transport.amqp10.performatives import Source, Target
from greenmq.transport.driver import Binding

__all__ = ('ROUTED', 'Management', 'node')


#: Types of exchanges that AMQP 0-9-1 and 0-10 have, but for headers exchanges.
ROUTED = frozenset({'direct', 'topic', 'fanout'})


class Management:
    """What brokers are told.

    Attributes:
        counts (bool): it tells how many messages wait in a queue.
        routes (frozenset[str]): types of exchanges that it makes and binds, and the broker routes by.
        purges (bool): it empties a queue, and leaves what consumers hold.
    """

    counts = False
    routes: frozenset[str] = frozenset()
    purges = True

    def make_queue(self, queue: str, facts: Mapping[str, Any], deadline: runtime.Deadline) -> int | None:
        """Make a queue; return how many messages wait in it, if it tells.

        Raises:
            PreconditionFailed: it is there, and another one. AccessRefused, ChannelError: refused.
        Switches: yes.
        """
        raise NotImplementedError(f'{type(self).__name__}.make_queue')

    def size(self, queue: str, deadline: runtime.Deadline) -> int:
        """How many messages wait in a queue. Raises NotFound. Switches: yes."""
        raise NotImplementedError(f'{type(self).__name__}.size')

    def load(self, queue: str, deadline: runtime.Deadline) -> tuple[int, int]:
        """How many messages wait in a queue, and how many consumers hold. Raises NotFound. Switches: yes."""
        raise NotImplementedError(f'{type(self).__name__}.load')

    def purge(self, queue: str, deadline: runtime.Deadline) -> int:
        """Empty a queue; return how many messages it had, if it tells. Switches: yes."""
        raise NotImplementedError(f'{type(self).__name__}.purge')

    def delete_queue(self, queue: str, deadline: runtime.Deadline) -> None:
        """Delete a queue; none of that name is fine. Switches: yes."""
        raise NotImplementedError(f'{type(self).__name__}.delete_queue')

    def make_exchange(self, exchange: str, kind: str, deadline: runtime.Deadline) -> None:
        """Make an exchange; one that exists is left as it is. Switches: yes."""
        raise NotImplementedError(f'{type(self).__name__}.make_exchange')

    def delete_exchange(self, exchange: str, deadline: runtime.Deadline) -> None:
        """Delete an exchange; none of that name is fine. Switches: yes."""
        raise NotImplementedError(f'{type(self).__name__}.delete_exchange')

    def bind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        """Bind a queue to an exchange. Switches: yes."""
        raise NotImplementedError(f'{type(self).__name__}.bind')

    def unbind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        """Undo `bind`; no such binding is fine. Switches: yes."""
        raise NotImplementedError(f'{type(self).__name__}.unbind')

    def queues(self, deadline: runtime.Deadline) -> list[dict[str, Any]] | None:
        """All queues, for people; None if it does not list them. Switches: yes."""
        return None

    def close(self) -> None:
        """Let go of it."""


def node(address: str) -> Callable[[str, Any], tuple[Sender, Receiver]]:
    """The links to a management node of which each request says where the answer goes: to an address that the
    broker makes up.

    Returns:
        Callable: (name, listener) → the pair, for `Requests`.
    """

    def links(name: str, listener: Any) -> tuple[Sender, Receiver]:
        return (
            Sender(name, listener, Source(name), Target(address)),
            Receiver(name, listener, Source(None, dynamic=True), Target(name)),
        )

    return links
