"""The deliveries of one channel: a place in a queue becomes a message, and goes back there."""

from __future__ import annotations

from itertools import count
from typing import Any

from greenmq.message import Message
from greenmq.transport import virtual
from greenmq.transport.memory.broker import LocalBroker
from greenmq.transport.memory.queue import Record
from greenmq.transport.virtual.books import Books
from greenmq.transport.virtual.envelope import DELIVERY_COUNT
from greenmq.transport.virtual.unmade import tell_unmade

__all__ = ('Deliveries', 'LocalMessage', 'payload_of')


def payload_of(record: Record, tag: Any) -> dict[str, Any]:
    """Return the message as a virtual channel of kombu would get it from its broker."""
    message: dict[str, Any] = record.message
    properties = dict(message['properties'])
    properties['delivery_tag'] = tag
    properties['delivery_info'] = {'exchange': record.exchange, 'routing_key': record.routing_key}
    return {
        'body': message['body'],
        'content-type': message.get('content-type'),
        'content-encoding': message.get('content-encoding'),
        'headers': _headers(record),
        'properties': properties,
        'redelivered': record.redelivered,
    }


def _headers(record: Record) -> dict[str, Any]:
    headers = dict(record.message.get('headers') or ())
    if record.count:
        headers[DELIVERY_COUNT] = record.count
    return headers


class LocalMessage(virtual.Message):
    """A delivery out of a queue in this process, made without the payload that nobody asks for.

    Arguments:
        record (Record): the message and its place.
        channel (Channel): where it is settled.
        tag (int): its number there.
    """

    __slots__ = ()

    def __init__(self, record: Record, channel: Any, tag: int) -> None:
        self.queue = record.queue.name
        self.place = record
        message = record.message
        info = {
            'exchange': record.exchange,
            'routing_key': record.routing_key,
            'redelivered': record.redelivered,
        }
        properties = message['properties'].copy()
        properties['delivery_info'] = info
        properties['delivery_tag'] = tag
        Message.__init__(
            self,
            message['body'],
            tag,
            message.get('content-type'),
            message.get('content-encoding'),
            info,
            properties,
            _headers(record),
            'utf-8',
            None,
            channel,
        )

    @property
    def _raw(self) -> dict[str, Any]:  # type: ignore[override]
        return payload_of(self.place, self.delivery_tag)


class Deliveries:
    """What one channel has in hand.

    Arguments:
        broker (LocalBroker): where it came from.
        books (Books): the channel's.
        limit (int): deliveries of one message before it's dead-lettered; 0 for any number.
    No method switches.
    """

    def __init__(self, broker: LocalBroker, books: Books, limit: int) -> None:
        self.limit = limit
        self._broker = broker
        self._books = books
        self._tags = count(1)

    def next_tag(self) -> int:
        """A number for the next delivery."""
        return next(self._tags)

    def message(self, channel: Any, record: Record) -> Any:
        """Make the Message of a place; None if it can be made into none, and is dropped."""
        try:
            if channel.Message is virtual.Message:
                return LocalMessage(record, channel, next(self._tags))
            # A subclass brought a Message of its own, and expects a payload.
            message = channel.Message(payload_of(record, next(self._tags)), channel=channel)
        except Exception as error:  # told, and the next one follows
            tell_unmade(channel, record.queue.name, error, 'It is dropped.')
            return None
        message.queue = record.queue.name
        message.place = record
        return message

    def goes_back(self, message: Any, requeue: bool) -> bool:
        """Does a refused message go back to its queue? Else it is among the dead letters by now."""
        place = message.place
        if place is None:
            return False  # made of a payload by the program: it is in no queue
        if requeue and not (self.limit and place.count + 1 >= self.limit):
            return True
        self._broker.dead_letter(place, 'delivery_limit' if requeue else 'rejected')
        return False

    def restore(self, message: Any) -> None:
        """Put a message back in its place."""
        if message.place is not None:
            self._broker.put_back([message.place], not hasattr(message, 'unseen'), self.limit)

    def put_back(self, messages: list[Any]) -> None:
        """Put back what no callback has had: it does not count as delivered."""
        qos = self._books.qos
        for message in messages:
            if qos is not None:
                qos.ack(message.delivery_tag)
        self._broker.put_back([message.place for message in messages], seen=False)

    def give_back_all(self) -> None:
        """The channel ends: put back all that is unsettled."""
        qos, self._books.qos = self._books.qos, None  # it knows the channel: a ring of two would wait (P47)
        if qos is None:
            return
        messages = [message for message in qos.unsettled.values() if message.place is not None]
        qos.unsettled.clear()
        unseen = [message.place for message in messages if hasattr(message, 'unseen')]
        seen = [message.place for message in messages if not hasattr(message, 'unseen')]
        self._broker.put_back(unseen, False)
        self._broker.put_back(seen, True, self.limit)

    def places(self) -> list[Record]:
        """The places of all that is unsettled."""
        qos = self._books.qos
        unsettled = () if qos is None else qos.unsettled.values()
        return [message.place for message in unsettled if message.place is not None]
