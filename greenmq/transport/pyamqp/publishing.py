"""What one channel publishes: the wire it goes over, the confirms that come back.

Publishing has a wire channel of its own, so that an exchange that is not there (404 closes a wire channel)
neither requeues the deliveries in hand nor takes other greenlets' confirms along. An exchange is looked up
once an epoch on a third wire channel before the first publish to it; a publish that goes down with a wire
for somebody else's fault is sent again.
"""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING

from amqp import spec
from amqp.serialization import dumps

from greenmq import events, runtime
from greenmq.core.confirms import ConfirmLedger
from greenmq.exceptions import (
    BufferFull,
    ChannelError,
    ConnectionClosed,
    PublishNacked,
    PublishUnconfirmed,
    TimeoutError,
    Unroutable,
)

from . import methods, wire
from .wirechannel import WireChannel

if TYPE_CHECKING:
    from .channel import Channel
    from .link import Link
    from .message import Outgoing

__all__ = ['Pending', 'Publishing']

_named_exchange = re.compile(r"exchange '([^']*)'")


class SentAgain(Exception):
    """The wire went down for another publish's fault: this one is to be sent again."""


class Pending:
    """A publish that the broker has not confirmed yet."""

    __slots__ = ('exchange', 'future', 'mandatory', 'message', 'routing_key', 'start', 'waiter')

    def __init__(
        self,
        message: Outgoing,
        exchange: str,
        routing_key: str,
        mandatory: bool,
        start: int,
        future: runtime.Future | None,
    ) -> None:
        self.message = message
        self.exchange = exchange
        self.routing_key = routing_key
        self.mandatory = mandatory
        self.start = start  # position of its first byte in everything the link ever sent
        self.future = future
        self.waiter = runtime.Waiter() if future is None else None

    def settle(self, error: BaseException | None) -> None:
        """Tell whoever published. No switch."""
        if self.waiter is not None:
            self.waiter.wake(error)
        elif self.future is not None and not self.future.done():
            if error is None:
                self.future.set_result(None)
            else:
                self.future.set_exception(error)


class Publishing:
    """The publishing side of a `Channel`."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.connection = channel.connection
        self.confirm = self.connection.settings.confirm_publish
        self.wire: WireChannel | None = None
        self.ledger: ConfirmLedger[Pending | None] = ConfirmLedger()
        self._opening = runtime.Lock()
        self._frames: dict[tuple[str, str, bool], bytes] = {}
        #: Publishes without waiting that cannot leave yet: (message, exchange, routing key, mandatory,
        #: future).
        self._line: deque[tuple[Outgoing, str, str, bool, runtime.Future]] = deque()
        self._line_bytes = 0

    @property
    def outstanding(self) -> int:
        """Publishes that wait for their confirm."""
        return len(self.ledger) + len(self._line)

    # ---- publish

    def publish(
        self,
        message: Outgoing,
        exchange: str,
        routing_key: str,
        mandatory: bool,
        deadline: runtime.Deadline,
        confirm: bool,
    ) -> None:
        """Send a message and, if `confirm`, wait until the broker has taken responsibility for it.

        Raises:
            PublishUnconfirmed, ConnectionBlocked: not within the deadline.
            PublishNacked, Unroutable: the broker's answer.
            NotFound, AccessRefused: the broker closed the wire channel over this message.
            ConnectionLost: the connection is down and a first try to recover it failed.
        Switches: yes.
        """
        while True:
            pending = self._send(message, exchange, routing_key, mandatory, deadline, confirm, None)
            if pending is None:
                return
            try:
                error = pending.waiter.wait(deadline)  # type: ignore[union-attr]
            except TimeoutError:
                raise self._expired(pending, deadline) from None
            if error is None:
                return
            if not isinstance(error, SentAgain):
                raise error

    def publish_nowait(
        self, message: Outgoing, exchange: str, routing_key: str, mandatory: bool, future: runtime.Future
    ) -> None:
        """Queue a message without waiting for anything; `future` gets the broker's answer.

        What cannot be sent at once (no wire yet, the connection recovers, the broker is blocked) waits here,
        at most
        `publish_timeout` seconds each, while there is room.

        Raises:
            BufferFull: what waits would pass the mark of the out-buffer.
            ConnectionClosed: the connection was closed.
        Switches: no.
        """
        link = self.connection.link
        if (
            not self._line
            and link is not None
            and link.error is None
            and link.has_room()
            and self._ready(link, exchange) is not None
        ):
            self._send(message, exchange, routing_key, mandatory, runtime.NEVER, True, future)
            return
        if self.connection.closed:
            raise ConnectionClosed(f'{self.connection.name} was closed')
        self._stand_in_line(message, exchange, routing_key, mandatory, future)

    def _stand_in_line(
        self, message: Outgoing, exchange: str, routing_key: str, mandatory: bool, future: runtime.Future
    ) -> None:
        size, mark = len(message.body) + 512, self.connection.settings.out_buffer_bytes
        if self._line and self._line_bytes + size > mark:
            raise BufferFull(
                f'{self.channel!r}: {self._line_bytes} bytes wait to be published, at most {mark} may'
            )
        self._line.append((message, exchange, routing_key, mandatory, future))
        self._line_bytes += size
        if len(self._line) == 1:
            runtime.spawn(
                self._send_line, name=f'amqp-publisher {self.connection.name}', owner=self.connection
            )

    def _send_line(self) -> None:
        line = self._line
        try:
            while line:
                message, exchange, routing_key, mandatory, future = line[0]
                try:
                    self._send(
                        message,
                        exchange,
                        routing_key,
                        mandatory,
                        runtime.Deadline.of(self.connection.settings.publish_timeout),
                        True,
                        future,
                    )
                except Exception as exc:
                    future.set_exception(exc)
                line.popleft()
                self._line_bytes -= len(message.body) + 512
        finally:
            # Killed: nobody else would ever answer these.
            while line:
                line.popleft()[4].set_exception(
                    PublishUnconfirmed('the publishing task was ended', sent='no')
                )
            self._line_bytes = 0

    def _send(
        self,
        message: Outgoing,
        exchange: str,
        routing_key: str,
        mandatory: bool,
        deadline: runtime.Deadline,
        confirm: bool,
        future: runtime.Future | None,
    ) -> Pending | None:
        link = self.connection.link
        channel = self._ready(link, exchange) if link is not None and link.error is None else None
        while channel is None or link is None or link.blocked is not None or link.out_bytes > 65536:
            link = self.connection.wait_open(deadline, fail_fast=True)
            channel = self._ready(link, exchange)
            if channel is None:
                self._prepare(link, exchange, deadline)
                channel = self._ready(link, exchange)
                link = self.connection.link
                continue
            link.wait_room(deadline)
            channel = self._ready(link, exchange)
            if link.error is None and channel is not None and link.has_room():
                break
        # no switch from here to the end: what is counted is sent, in this order
        frames = self._publish_frame(channel, exchange, routing_key, mandatory) + wire.content_frames(
            channel.id, message.encoded(), message.body, link.frame_max
        )
        pending = None
        if channel.confirming:
            if confirm or mandatory:
                pending = Pending(
                    message, exchange, routing_key, mandatory, link.bytes_out + link.out_bytes, future
                )
            self.ledger.publish(
                pending, (exchange, routing_key, message.encoded(), message.body) if mandatory else None
            )
        channel.send(frames)
        if pending is None and future is not None:
            future.set_result(None)
        return pending

    def _publish_frame(self, channel: WireChannel, exchange: str, routing_key: str, mandatory: bool) -> bytes:
        key = (exchange, routing_key, mandatory)
        frame = self._frames.get(key)
        if frame is None:
            if len(self._frames) > 1024:
                self._frames.clear()
            arguments = dumps('Bssbb', (0, exchange, routing_key, mandatory, False))
            frame = self._frames[key] = wire.method_frame(channel.id, spec.Basic.Publish, arguments)
        return frame

    def _expired(self, pending: Pending, deadline: runtime.Deadline) -> Exception:
        link = self.connection.link
        if link is not None and link.blocked is not None:
            return link.blocked_error(deadline)
        return PublishUnconfirmed(
            f'publish to exchange {pending.exchange!r}, routing key {pending.routing_key!r}: no confirm from '
            f'{self.connection.name} within {deadline.seconds} s',
            sent='unknown',
        )

    # ---- the wire

    def _ready(self, link: Link, exchange: str) -> WireChannel | None:
        channel = self.channel.consuming.wire if self.channel.single_wire else self.wire
        if channel is None or channel.error is not None or channel.link is not link:
            return None
        if exchange and exchange not in self.connection.known_exchanges:
            return None
        if self.confirm and not channel.confirming and not self.channel.transactional:
            return None
        return channel

    def _prepare(self, link: Link, exchange: str, deadline: runtime.Deadline) -> None:
        if exchange and exchange not in self.connection.known_exchanges:
            self.connection.look_up_exchange(exchange, deadline)
        if not self._opening.acquire(deadline):
            raise PublishUnconfirmed(
                f'{self.channel!r}: no wire channel within {deadline.seconds} s', sent='no'
            )
        try:
            if self.channel.single_wire:
                channel = self.channel.consuming.open(deadline)
            else:
                channel = self.wire  # type: ignore[assignment]
                if channel is None or channel.error is not None or channel.link is not link:
                    channel = WireChannel(link, self)
                    channel.open(deadline)
                    self._adopt(channel)
            if self.confirm and not channel.confirming and not self.channel.transactional:
                channel.call(
                    methods.CONFIRM_SELECT.signature, b'\x00', methods.CONFIRM_SELECT.replies, deadline
                )
                channel.confirming = True
        except TimeoutError as exc:
            raise PublishUnconfirmed(str(exc), sent='no') from exc
        finally:
            self._opening.release()

    def _adopt(self, channel: WireChannel) -> None:
        self.wire = channel
        self._frames.clear()
        self.ledger = ConfirmLedger()

    def close(self, deadline: runtime.Deadline) -> None:
        """Close the publishing wire; what was queued before goes out first."""
        channel, self.wire = self.wire, None
        if channel is not None:
            channel.close(deadline)

    # ---- what comes back (called by the reader: no switch)

    def on_confirm(self, channel: WireChannel, tag: int, multiple: bool, ack: bool) -> None:
        for pending, outcome in self.ledger.confirm(tag, multiple, ack):
            if pending is None:
                continue
            if outcome is True:
                pending.settle(None)
            elif outcome is not False:  # it came back before its confirm
                pending.settle(outcome)
            else:
                events.emit(
                    'nacked',
                    self.connection.source,
                    exchange=pending.exchange,
                    routing_key=pending.routing_key,
                )
                pending.settle(PublishNacked(None, pending.exchange, pending.routing_key))

    def on_return(self, channel: WireChannel, content: wire.Content) -> None:
        code, text, exchange, routing_key = wire.read_arguments('Bsss', content.method)
        error = Unroutable(content, exchange, routing_key, code, text)
        if not self.ledger.returned((exchange, routing_key, content.header[12:], content.body), error):
            self._returned_changed(exchange, routing_key, content.body, error)
        self.channel.returned(error, exchange, routing_key, content)

    def _returned_changed(self, exchange: str, routing_key: str, body: bytes, error: Unroutable) -> None:
        # A broker may take properties away (RabbitMQ: the header BCC); what is left still tells most of them
        # apart.
        for key in self.ledger.keys():
            if isinstance(key, tuple) and (key[0], key[1], key[3]) == (exchange, routing_key, body):
                self.ledger.returned(key, error)
                return

    def on_wire_end(self, channel: WireChannel, error: BaseException) -> None:
        if channel is not self.wire and channel is not self.channel.consuming.wire:
            return
        self.connection.known_exchanges.clear()
        for pending in self.ledger.fail_all():
            if pending is None:
                continue
            verdict = self._verdict(pending, channel, error)
            if pending.future is not None and isinstance(verdict, SentAgain):
                try:
                    self._stand_in_line(
                        pending.message,
                        pending.exchange,
                        pending.routing_key,
                        pending.mandatory,
                        pending.future,
                    )
                    continue
                except BufferFull as full:
                    verdict = full
            pending.settle(verdict)

    def _verdict(self, pending: Pending, channel: WireChannel, error: BaseException) -> BaseException:
        if isinstance(error, ChannelError):
            named = _named_exchange.search(getattr(error, 'reply_text', None) or '')
            if named is not None and named.group(1) == pending.exchange:
                return error
            return SentAgain()
        if isinstance(error, ConnectionClosed) and channel.link.error is not error:
            return error
        sent = 'no' if pending.start >= channel.link.bytes_out else 'unknown'
        unconfirmed = PublishUnconfirmed(
            f'publish to exchange {pending.exchange!r}, routing key {pending.routing_key!r}: {error}',
            sent=sent,
        )
        unconfirmed.__cause__ = error
        return unconfirmed

    # ---- a publishing wire delivers nothing; these complete the owner's interface

    def on_delivery(self, channel: WireChannel, content: wire.Content) -> None:
        self.channel.consuming.on_delivery(channel, content)

    def on_cancel(self, channel: WireChannel, consumer_tag: str) -> None:
        self.channel.consuming.on_cancel(channel, consumer_tag)
