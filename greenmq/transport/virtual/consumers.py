"""Who consumes what: subscriptions by (queue, channel, tag), and the board where a push transport finds
them.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

from greenmq import events, runtime
from greenmq.log import get_logger

__all__ = ('Board', 'Callbacks', 'Subscription')

logger = get_logger('greenmq.transport.virtual')


class Subscription:
    """One consumer of one queue on one channel.

    Attributes:
        waiting (int): its messages that no callback has had yet.
    """

    __slots__ = (
        '__weakref__',
        'arguments',
        'callback',
        'cancelled',
        'channel',
        'exclusive',
        'hub',
        'no_ack',
        'posted',
        'queue',
        'tag',
        'waiting',
    )

    def __init__(
        self,
        tag: str,
        queue: str,
        channel: Any,
        no_ack: bool,
        callback: Callable[[Any], Any],
        exclusive: bool = False,
        arguments: Any = None,
    ) -> None:
        self.tag = tag
        self.queue = queue
        self.channel = channel
        self.no_ack = bool(no_ack)
        self.callback = callback
        self.exclusive = exclusive
        self.arguments = arguments
        self.hub: Any = runtime.hub_id()
        self.waiting = 0
        self.cancelled = False
        self.posted: deque[Any] = deque()  # on their way here from another thread

    def room(self) -> bool:
        """May another message come? Within the prefetch; where there is none, at most `fetch_ahead` wait."""
        channel = self.channel
        if not channel.books.flowing:
            return False
        if self.no_ack:
            return bool(self.waiting < channel.fetch_ahead)
        qos = channel.books.qos or channel.qos
        if not qos.prefetch_count and self.waiting >= channel.fetch_ahead:
            return False
        return bool(qos.can_consume())

    def accept(self, message: Any) -> None:
        """Count a message as delivered and leave it to whoever drains."""
        channel = self.channel
        message.delivery_info['consumer_tag'] = self.tag
        if not self.no_ack:
            (channel.books.qos or channel.qos).append(message, message.delivery_tag)
        self.waiting += 1
        channel.connection.events.put(channel, (self, message))

    def handled(self) -> bool:
        """One waiting message was taken; True if it's time to ask for more."""
        self.waiting -= 1
        channel = self.channel
        return bool(channel.books.starved and self.waiting * 2 <= channel.fetch_ahead)

    def lost(self) -> None:
        """The broker ended it. Switches: no, where the channel's `basic_cancel` doesn't."""
        channel = self.channel
        if self.cancelled or channel.closed:
            return
        channel.basic_cancel(self.tag)
        logger.warning('%r: queue %r was deleted, and consumer %r with it', channel, self.queue, self.tag)
        if events.wanted('consumer_lost'):
            events.emit('consumer_lost', source=channel, consumer_tag=self.tag, queue=self.queue)

    def __repr__(self) -> str:
        ack = 'no ack' if self.no_ack else repr(self.channel.qos)
        return f'<Subscription {self.tag} to {self.queue}: {self.waiting} waiting, {ack}>'


class Board:
    """The consumers of all connections to one broker inside this process, for channels that deliver by push.

    A queue's consumers stand in a ring and take messages in turn. `notify` may be called from any native
    thread: a consumer of another thread's hub gets its message through `runtime.post`. Only a consumer's own
    hub changes its books, so a message may reach one without room; it then goes back to its place.

    The ring holds consumers weakly: a connection that nobody has any more ends with all that belongs to it.
    """

    def __init__(self) -> None:
        self.rings: dict[str, deque[weakref.ref[Subscription]]] = {}

    def add(self, sub: Subscription) -> None:
        """Let a consumer take its turn."""
        self.rings.setdefault(sub.queue, deque()).append(weakref.ref(sub))

    def remove(self, sub: Subscription) -> None:
        """Take a consumer out."""
        ring = self.rings.get(sub.queue)
        if ring is None:
            return
        for reference in [reference for reference in ring if reference() in (None, sub)]:
            ring.remove(reference)
        if not ring:
            self.rings.pop(sub.queue, None)

    def consumers(self, queue: str) -> list[Subscription]:
        """Return the consumers of a queue."""
        found = [reference() for reference in list(self.rings.get(queue, ()))]
        return [sub for sub in found if sub is not None]

    def notify(self, queue: str) -> None:
        """Hand messages of `queue` to consumers that have room, in turn."""
        ring = self.rings.get(queue)
        if ring is None:
            return
        here = runtime.hub_id()
        without_room = 0
        while without_room < len(ring):
            sub = ring[0]()
            if sub is None:
                ring.popleft()
                continue
            if not sub.room() or (sub.hub is not here and sub.posted):
                sub.channel.books.starved[queue] = None
                without_room += 1
                ring.rotate(-1)
                continue
            message = sub.channel.next_message(queue, sub)
            if message is None:
                return  # whose turn it was has it the next time
            if sub.hub is here:
                sub.accept(message)
            else:
                self._post(sub, message)
            without_room = 0
            ring.rotate(-1)

    def lost(self, queue: str) -> None:
        """The queue is gone: end its consumers, each in its own hub, and tell of it."""
        for sub in self.consumers(queue):
            if sub.hub is runtime.hub_id():
                sub.lost()
            else:
                runtime.post(sub.hub, sub.lost)

    def _post(self, sub: Subscription, message: Any) -> None:
        # One at a time, so that a thread that is busy doesn't collect what others could work on.
        sub.posted.append(message)
        if not runtime.post(sub.hub, self._arrive, sub):
            # Its thread has ended without closing. Out of the ring first: giving back asks the ring again.
            self.remove(sub)
            sub.channel.put_back([sub.posted.pop()])

    def _arrive(self, sub: Subscription) -> None:
        while sub.posted:
            try:
                message = sub.posted.popleft()
            except IndexError:
                return  # the channel closed in between and took it back
            if sub.cancelled or not sub.room():
                sub.channel.put_back([message])
            else:
                sub.accept(message)
        self.notify(sub.queue)


class Callbacks(MutableMapping[str, Callable[[Any], Any]]):
    """kombu's `Transport._callbacks`: queue → what to call with a raw message. A view of the subscriptions.

    Setting an item overrides the view for that queue, as some channels for kombu do.

    Attributes:
        own (dict[str, Callable]): what was set.
    """

    def __init__(self, channels: list[Any]) -> None:
        self._channels = channels
        self.own: dict[str, Callable[[Any], Any]] = {}

    def __getitem__(self, queue: str) -> Callable[[Any], Any]:
        own = self.own.get(queue)
        if own is not None:
            return own
        for channel in self._channels:
            if queue in channel.active_queues:
                return lambda raw: channel.receive(raw, queue)
        raise KeyError(queue)

    def __setitem__(self, queue: str, callback: Callable[[Any], Any]) -> None:
        self.own[queue] = callback

    def __delitem__(self, queue: str) -> None:
        del self.own[queue]

    def __iter__(self) -> Iterator[str]:
        queues = dict.fromkeys(self.own)
        for channel in self._channels:
            queues.update(dict.fromkeys(channel.active_queues))
        return iter(queues)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f'<Callbacks of {sorted(self)}>'
