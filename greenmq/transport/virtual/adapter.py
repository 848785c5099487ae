"""The hooks of a channel written in kombu's style, and the one object through which the base calls them.

`AbstractChannel` is what an author writes; `Adapter` makes of it what the base works with: calls whose errors
are greenmq's, and the answer to what the author has written and what he has left to the base. Nothing else
asks for that. What such a channel leaves out means: without `_settle` acks are local and closing puts back
what is unsettled; that it consumes is proved by its last look; there is no lease.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from queue import Empty
from typing import Any

from greenmq import runtime
from greenmq.exceptions import PublishUnconfirmed, TimeoutError
from greenmq.transport.errors import meaning

__all__ = ('AbstractChannel', 'Adapter', 'Empty', 'in_time')

#: A queue to ask for where none is known: brokers answer that there is none.
NO_QUEUE = 'ping-of-greenmq'


class AbstractChannel:
    """What a broker must give: the contract of a virtual channel. `channel` has the text about it.

    Source: kombu virtual.AbstractChannel.
    """

    #: Takes many payloads in one call: (queues, n, timeout) → pairs (queue, payload).
    _get_many: Any = None
    #: Settles many deliveries in one call: (acks, rejects).
    _settle: Any = None
    #: Renews the leases of many deliveries: (tags, seconds).
    _extend: Any = None

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        """Take the next message from `queue`, or raise `Empty`."""
        raise NotImplementedError('Virtual channels must implement _get')

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        """Put a message into `queue`."""
        raise NotImplementedError('Virtual channels must implement _put')

    def _purge(self, queue: str) -> int:
        """Remove all messages of `queue`; return how many."""
        raise NotImplementedError('Virtual channels must implement _purge')

    def _size(self, queue: str) -> int:
        """Return how many messages wait in `queue`."""
        return 0

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        """Delete `queue`; called once for each of its bindings, with (exchange, routing key, pattern,
        queue).
        """
        self._purge(queue)

    def _new_queue(self, queue: str, **kwargs: Any) -> None:
        """Make `queue`; it may exist."""

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        """Tell whether `queue` exists."""
        return True

    def _queue_bind(self, exchange: str, routing_key: str, pattern: Any, queue: str) -> None:
        """Called after a binding if `supports_fanout`: for brokers that keep bindings too."""

    def get_table(self, exchange: str) -> Any:
        """Return the bindings of an exchange: (routing key, pattern, queue). Override it to keep them at the
        broker.

        Raises:
            KeyError: no such exchange.
        """
        return self.state.exchanges[exchange]['table']  # type: ignore[attr-defined]

    def _poll(self, cycle: Any, callback: Callable[..., Any], timeout: float | None = None) -> Any:
        """Ask the queues in turn until one has a message."""
        return cycle.get(callback)

    def _get_and_deliver(self, queue: str, callback: Callable[..., Any]) -> None:
        """Take one message and give it to `callback(payload, queue)`."""
        callback(self._get(queue), queue)

    def _abandon(self, items: list[tuple[str, Any]]) -> None:
        """Take back (queue, payload) pairs that a fetch brought too late."""
        self.adapter.give_back(items)  # type: ignore[attr-defined]

    def _restore_at_beginning(self, message: Any) -> None:
        """Give back a delivery; override it where the broker has a front, to put it there."""
        self.adapter.give_back_one(message)  # type: ignore[attr-defined]

    def _ping(self, deadline: Any) -> None:
        """Have the broker answer, and change nothing. Without it the size of a queue is asked for."""
        self.adapter.ask(deadline)  # type: ignore[attr-defined]


class Adapter:
    """The hooks of one channel, as the base calls them.

    Arguments:
        channel (AbstractChannel): held weakly: it holds us.
        errors (Mapping): see `Transport.errors`.
    Attributes:
        takes_many (bool): it has `_get_many`, and no `_get` of its own.
        fetches_many (bool): it has `_get_many`.
        settles (bool), extends (bool): it has `_settle`, `_extend`.
        own_routes (bool): its tables are those of its `BrokerState`.
        restores_in_front (bool): what it gives back goes to the front of its queue.
    """

    def __init__(self, channel: Any, errors: Any) -> None:
        self._channel = weakref.ref(channel)
        self._errors = errors
        cls = type(channel)
        self.fetches_many = channel._get_many is not None
        self.takes_many = self.fetches_many and cls._get is AbstractChannel._get
        self.settles = channel._settle is not None
        self.extends = channel._extend is not None
        self.own_routes = cls.get_table is AbstractChannel.get_table
        self.restores_in_front = cls._restore_at_beginning is not AbstractChannel._restore_at_beginning

    def _call(self, hook: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return hook(*args, **kwargs)
        except Exception as error:
            fault = meaning(self._errors, error)
            if fault is None:
                raise
            raise fault.of(error) from error

    def _hook(self, name: str) -> Callable[..., Any]:
        hook: Callable[..., Any] = getattr(self._channel(), name)
        return hook if not self._errors else lambda *args, **kwargs: self._call(hook, *args, **kwargs)

    # ---- what the base asks for, each as the channel's hook

    @property
    def put(self) -> Callable[..., Any]:
        """(queue, payload, **kwargs): put a message."""
        return self._hook('_put')

    def get_one(self, queue: str) -> Any:
        """Take one payload now. Raises `Empty`."""
        if self.takes_many:
            for _, payload in self._hook('_get_many')([queue], 1, 0):
                return payload
            raise Empty()
        return self._hook('_get')(queue)

    def get(self, queue: str, timeout: float | None) -> Any:
        """Take one payload, waiting for it. Raises `Empty`."""
        return self._hook('_get')(queue, timeout=timeout)

    def get_many(self, *args: Any, **kwargs: Any) -> Any:
        """Take payloads of some queues."""
        return self._hook('_get_many')(*args, **kwargs)

    def look(self, cycle: Any, queues: list[str], callback: Callable[..., Any], timeout: float | None) -> Any:
        """Have the channel ask its queues in turn, once. Raises `Empty`."""
        if self.fetches_many:
            return self._hook('_get_many')(queues, timeout=timeout)
        return self._hook('_poll')(cycle, callback, timeout=timeout)

    def size(self, queue: str) -> int:
        """How many messages wait in a queue."""
        return int(self._hook('_size')(queue) or 0)

    def purge(self, queue: str) -> int:
        """Remove the messages of a queue."""
        return int(self._hook('_purge')(queue) or 0)

    def delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        """Delete a queue, for one of its bindings."""
        self._hook('_delete')(queue, *args, **kwargs)

    def make(self, queue: str, **kwargs: Any) -> None:
        """Make a queue."""
        self._hook('_new_queue')(queue, **kwargs)

    def has(self, queue: str, **kwargs: Any) -> bool:
        """Does a queue exist?"""
        return bool(self._hook('_has_queue')(queue, **kwargs))

    def bound(self, exchange: str, routing_key: str, pattern: Any, queue: str) -> None:
        """A queue was bound."""
        self._hook('_queue_bind')(exchange, routing_key, pattern, queue)

    def consumers(self, queue: str) -> int:
        """How many consumers a queue has on the channels of this connection."""
        channel: Any = self._channel()
        return sum(len(each.books.takers.get(queue, ())) for each in channel.connection.channels)

    def table(self, exchange: str) -> Any:
        """The bindings of an exchange, wherever the channel keeps them. Raises `KeyError`."""
        return self._hook('get_table')(exchange)

    def restore(self, message: Any) -> None:
        """Give back a delivery."""
        self._hook('_restore_at_beginning')(message)

    def settle(self, acks: list[Any], rejects: list[tuple[Any, bool]]) -> None:
        """Settle deliveries at the broker."""
        self._hook('_settle')(acks, rejects)

    def extend(self, tags: list[Any], seconds: float) -> None:
        """Renew leases."""
        self._hook('_extend')(tags, seconds)

    def abandon(self, items: list[tuple[str, Any]]) -> None:
        """Give back (queue, payload) pairs that a fetch brought too late."""
        self._hook('_abandon')(items)

    def ping(self, deadline: runtime.Deadline) -> None:
        """Have the broker answer, within the deadline.

        Raises:
            TimeoutError: it did not.
        Switches: as the channel's hooks.
        """
        left = deadline.remaining()
        if left is None or runtime.in_hub():
            self._hook('_ping')(deadline)
            return
        timeout = runtime.timeout_class()
        with timeout(left) as limit:  # type: ignore[attr-defined]
            try:
                self._hook('_ping')(deadline)
            except timeout as error:
                if error is not limit:
                    raise
                raise TimeoutError(str(deadline.error('the broker did not answer'))) from None

    # ---- what the base does where the channel has no hook

    def give_back(self, items: list[tuple[str, Any]]) -> None:
        """`_abandon` without a hook of the channel's own: give back at the broker, or put it again."""
        channel: Any = self._channel()
        for queue, payload in items:
            if not self.settles:
                self.put(queue, payload)
            else:
                # The broker still has it, under the lease: put again, there would be two.
                message = channel.deliveries.message(payload, queue)
                channel.settling.reject(message.delivery_tag, True)

    def give_back_one(self, message: Any) -> None:
        """`_restore_at_beginning` without the channel's own: give back at the broker, or put again."""
        channel: Any = self._channel()
        if self.settles:
            channel.settling.reject(message.delivery_tag, True)
        else:
            self._hook('_restore')(message)

    def ask(self, deadline: runtime.Deadline) -> None:
        """`_ping` without a hook of the channel's own: ask for the size of a queue, one that is known."""
        channel: Any = self._channel()
        known = [*channel.active_queues, *channel.state.queues]
        if known or type(channel)._has_queue is AbstractChannel._has_queue:
            self.size(known[0] if known else NO_QUEUE)
        else:
            self.has(NO_QUEUE)


def in_time(publish: Callable[..., Any]) -> Callable[..., Any]:
    """Hold a publish to its `timeout`, whatever the channel's `_put` does with it, or does not."""

    @functools.wraps(publish)
    def held(channel: Any, message: Any, exchange: str, routing_key: str, **kwargs: Any) -> Any:
        deadline = runtime.Deadline.of(kwargs.get('timeout'))
        left = deadline.remaining()
        if left is None:
            return publish(channel, message, exchange, routing_key, **kwargs)
        timeout = runtime.timeout_class()
        with timeout(left) as limit:  # type: ignore[attr-defined]
            try:
                return publish(channel, message, exchange, routing_key, **kwargs)
            except timeout as error:
                if error is not limit:
                    raise
                raise PublishUnconfirmed(str(deadline.error('the broker did not take the message'))) from None
            except PublishUnconfirmed:
                raise
            except TimeoutError as error:
                if deadline.expired():
                    raise PublishUnconfirmed(str(error)) from error
                raise

    return held
