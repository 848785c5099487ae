"""The deliveries of a channel that are out, and the acks and rejects on their way back.

Delivery tags that users see grow over all epochs: each wire channel adds what was used before it (`base`).
So a tag of an epoch that ended is known by its number alone; settling it is dropped here and reported, never
sent to the broker, which would close the channel over it (P36).
"""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING

from amqp import spec
from amqp.serialization import dumps

from greenmq import events
from greenmq.core.ledger import AckBuffer, DeliveryLedger
from greenmq.exceptions import ConnectionClosed, ConnectionError, StaleDelivery

from . import frames

if TYPE_CHECKING:
    from .channel import Channel
    from .consuming import Consumer
    from .wirechannel import WireChannel

__all__ = ['Settling']

log = logging.getLogger('greenmq.transport.pyamqp')


class Settling:
    """The part of `Consuming` that keeps the books."""

    def __init__(self, channel: Channel) -> None:
        self._channel = weakref.ref(channel)  # which has us: a closed channel goes without the collector
        self.connection = channel.connection
        self.wire: WireChannel | None = None
        self.ledger: DeliveryLedger[Consumer | None] = DeliveryLedger()
        self.acks: AckBuffer[Consumer | None] = AckBuffer(self.ledger)
        self.last_tag = 0
        self.stale = 0
        self._dirty = False  # the link will ask for the acks
        self._spare = 0  # so many more acks, and it shall ask at once

    @property
    def channel(self) -> Channel:
        channel = self._channel()
        if channel is None:
            raise ConnectionClosed('the channel was closed')
        return channel

    def ack(self, tag: int, multiple: bool) -> bool:
        """Settle deliveries. False: the tag is of a lost epoch.

        The broker is told at once if it could be waiting for that, and a little later, with the acks that
        follow, while more deliveries wait here for their callbacks than were acked.
        """
        ledger, channel = self.ledger, self.wire
        if (
            not self._dirty and not multiple and channel is not None and channel.error is None
            and len(ledger) == 1
        ):
            # Nothing else is out that could join it: so it is for each message of who takes one at a time.
            try:
                ledger.pop(tag)
            except KeyError:
                return self._unknown(tag)
            channel.link.send(frames.ack_frame(channel.id, tag - channel.base, False))
            return True
        try:
            if multiple:
                self.acks.ack_multiple(tag)
            else:
                self.acks.ack(tag)
        except KeyError:
            return self._unknown(tag)
        if self._dirty:
            self._spare -= 1
            if self._spare == 0 and channel is not None:
                channel.link.hurry()
        elif channel is not None:
            if not len(ledger):
                self.flush()  # nothing is out that could join it
                return True
            self._dirty = True
            self._spare = 0 if multiple else self.connection.drain.waiting(self.channel) // 2
            if self._spare:
                channel.link.flush_later(self)
            else:
                channel.link.flush_soon(self)
        return True

    def reject(self, tag: int, requeue: bool) -> bool:
        """basic.reject; in order with the acks given before it."""
        try:
            self.ledger.pop(tag)
        except KeyError:
            return self._unknown(tag)
        channel = self.wire
        if channel is not None and channel.error is None:
            channel.send(
                frames.method_frame(channel.id, spec.Basic.Reject, dumps('Lb', (tag - channel.base, requeue)))
            )
        return True

    def nack(self, tag: int, multiple: bool, requeue: bool) -> bool:
        """basic.nack (RabbitMQ): as `reject`, for all up to a tag with `multiple`."""
        if not multiple:
            return self.reject(tag, requeue)
        if tag and tag not in self.ledger:
            return self._unknown(tag)
        # Or the broker would take back what was acked before and not yet told. While all that is refused is
        # still out: acks that are told together are so up to what is out, and would take it along.
        self.flush()
        self.ledger.settle(tag, multiple=True)
        channel = self.wire
        if channel is not None and channel.error is None:
            arguments = dumps('Lbb', (tag - channel.base if tag else 0, True, requeue))
            channel.send(frames.method_frame(channel.id, spec.Basic.Nack, arguments))
        return True

    def _unknown(self, tag: int) -> bool:
        """A tag that is not out: of a lost epoch (dropped), or settled before (the caller's fault)."""
        channel = self.wire
        base = self.last_tag if channel is None or channel.error is not None else channel.base
        self.stale += 1
        if tag <= base:
            log.info(
                '%r: settling delivery %s of a lost connection is dropped; the broker delivers it again',
                self.channel,
                tag,
            )
            events.emit('stale_ack', self.connection.source, delivery_tag=tag)
            if self.connection.settings.raise_stale:
                raise StaleDelivery(
                    f'delivery {tag} of {self.channel!r} belongs to a connection that was lost', tag
                )
        else:
            log.warning('%r: delivery %s is not outstanding (settled twice?)', self.channel, tag)
        return False

    def flush(self) -> None:
        """Queue the acks that were held back. No switch."""
        self._dirty = False
        channel = self.wire
        if channel is not None and channel.error is None:
            self._flush(channel)

    def _flush(self, channel: WireChannel) -> None:
        base = channel.base
        acks = [frames.ack_frame(channel.id, tag - base, multiple) for tag, multiple in self.acks.flush()]
        if acks:
            try:
                channel.send(acks[0] if len(acks) == 1 else b''.join(acks))
            except ConnectionError as exc:
                log.debug('%r: %d acks went with the connection: %s', self.channel, len(acks), exc)
