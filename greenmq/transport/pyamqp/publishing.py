"""What one channel publishes: the wire it goes over, the confirms that come back.

Publishing has a wire channel of its own, so that an exchange that is not there (404 closes a wire channel)
neither requeues the deliveries in hand nor takes other greenlets' confirms along. An exchange is looked up
once an epoch on a third wire channel before the first publish to it; a publish that goes down with a wire
for somebody else's fault is sent again.
"""

from __future__ import annotations

import itertools
import re
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from amqp import spec

from greenmq import events, runtime
from greenmq.exceptions import (
    BufferFull,
    ConnectionClosed,
    InvalidArgument,
    PublishNacked,
    PublishUnconfirmed,
    TimeoutError,
    Unroutable,
)
from greenmq.transport.waiters import WaitingLine
from greenmq.utils.text import printable

from . import frames, methods
from .wirechannel import NotSent, WireChannel

if TYPE_CHECKING:
    from .channel import Channel
    from .link import Link
    from .message import Outgoing

__all__ = ['Pending', 'Publishing']

#: How often a publish is sent again after its wire went down over a message that the broker did not name.
MAX_TRIES = 3

_confirmed_listeners = events.listeners('confirmed')


#: A publish without waiting that cannot leave yet: message, exchange, routing key, mandatory, deadline,
#: future, tries.
_InLine = tuple['Outgoing', str, str, bool, runtime.Deadline, runtime.Future, int]


class SentAgain(Exception):
    """The wire went down for another publish's fault: this one is to be sent again."""


class Pending:
    """A publish that the broker has not confirmed yet."""

    __slots__ = (
        'exchange', 'future', 'mandatory', 'message', 'queued_at', 'routing_key', 'start', 'tries', 'waiter',
    )  # fmt: skip

    def __init__(
        self,
        message: Outgoing,
        exchange: str,
        routing_key: str,
        mandatory: bool,
        start: int,
        future: runtime.Future | None,
        tries: int,
    ) -> None:
        self.message = message
        self.exchange = exchange
        self.routing_key = routing_key
        self.mandatory = mandatory
        self.start = start  # position of its first byte in everything the link ever sent
        self.future = future
        self.tries = tries  # how often it was sent before
        self.waiter = runtime.Waiter() if future is None else None
        self.queued_at = runtime.monotonic() if _confirmed_listeners else None

    def settle(self, error: BaseException | None) -> None:
        """Tell whoever published. No switch."""
        if self.waiter is not None:
            self.waiter.wake(error)
        elif self.future is not None and not self.future.done():
            if error is None:
                self.future.set_result(None)
            else:
                self.future.set_exception(error)


#: What the broker names in the text of a channel error, and what a publish has of that.
_NAMED: tuple[tuple[re.Pattern[str], Callable[[Pending], object]], ...] = (
    (re.compile(r"exchange '([^']*)'"), lambda pending: pending.exchange),
    (re.compile(r"user_id property set to '([^']*)'"), lambda pending: pending.message.get('user_id')),
    (re.compile(r"invalid expiration '([^']*)'"), lambda pending: pending.message.get('expiration')),
    (re.compile(r'message size (\d+)'), lambda pending: len(pending.message.body)),
)


class Publishing:
    """The publishing side of a `Channel`."""

    def __init__(self, channel: Channel) -> None:
        self._channel = weakref.ref(channel)  # which has us: a closed channel goes without the collector
        self.connection = channel.connection
        self.consuming = channel.consuming
        self.single_wire = False  # publish over the wire that consumes
        self.confirm = self.connection.settings.confirm_publish
        self.wire: WireChannel | None = None
        self._opening = runtime.Lock()
        #: Made by the first of them: an empty one is a quarter of a channel.
        self._line: deque[_InLine] | None = None
        self._line_bytes = 0
        self._quiet = WaitingLine()  # for who closes: nothing waits for its confirm

    @property
    def channel(self) -> Channel:
        channel = self._channel()
        if channel is None:
            raise ConnectionClosed('the channel was closed')
        return channel

    @property
    def outstanding(self) -> int:
        """Publishes that wait for their confirm."""
        wires = (self.wire, self.consuming.wire)
        return sum(len(each.ledger) for each in wires if each is not None) + len(self._line or ())

    @property
    def in_use(self) -> bool:
        """Does a greenlet open the wire, or is something on its way to its confirm?"""
        return self._opening.locked() or bool(self.outstanding) or bool(len(self._quiet))

    @property
    def confirms_alone(self) -> bool:
        """True if confirms are on, and nothing is under way here that the next must not overtake."""
        if not self.confirm or self.single_wire or self._line:
            return False
        return self.wire is None or not len(self.wire.ledger)

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
        for tries in itertools.count():
            pending = self._send(message, exchange, routing_key, mandatory, deadline, confirm, None, tries)
            if pending is None:
                return
            try:
                error = pending.waiter.wait(deadline)  # type: ignore[union-attr]
            except TimeoutError:
                if not pending.waiter.expired:  # type: ignore[union-attr]
                    raise  # a caller's own, thrown into us
                raise self._expired(pending, deadline) from None
            if error is None:
                return
            if not isinstance(error, SentAgain):
                try:
                    raise error
                finally:
                    del error  # or the error would hold this frame, and this frame the error

    def publish_nowait(
        self, message: Outgoing, exchange: str, routing_key: str, mandatory: bool, future: runtime.Future
    ) -> None:
        """Queue a message without waiting for anything; `future` gets the broker's answer.

        What cannot be sent at once (no wire yet, the connection recovers, the broker is blocked) waits here,
        at most `publish_timeout` seconds each, while there is room.

        Raises:
            BufferFull: what waits would pass the mark of the out-buffer.
            ConnectionClosed: the connection was closed.
        """
        link = self.connection.link
        if not self._line and link is not None and link.error is None and link.has_room():
            channel = self._ready(link, exchange)
            if channel is not None:
                self._emit(channel, message, exchange, routing_key, mandatory, True, future, 0)
                return
        if self.connection.closed:
            raise ConnectionClosed(f'{self.connection.name} was closed')
        self._stand_in_line(message, exchange, routing_key, mandatory, future, 0)

    def _stand_in_line(
        self,
        message: Outgoing,
        exchange: str,
        routing_key: str,
        mandatory: bool,
        future: runtime.Future,
        tries: int,
    ) -> None:
        size, mark = len(message.body) + 512, self.connection.settings.out_buffer_bytes
        if self._line and self._line_bytes + size > mark:
            raise BufferFull(
                f'{self.channel!r}: {self._line_bytes} bytes wait to be published, at most {mark} may'
            )
        line = self._line
        if line is None:
            line = self._line = deque()
        deadline = runtime.Deadline.of(self.connection.settings.publish_timeout)
        line.append((message, exchange, routing_key, mandatory, deadline, future, tries))
        self._line_bytes += size
        if len(line) == 1:
            runtime.spawn(
                self._send_line, line, name=f'amqp-publisher {self.connection.name}', owner=self.connection
            )

    def _send_line(self, line: deque[_InLine]) -> None:
        try:
            while line:
                message, exchange, routing_key, mandatory, deadline, future, tries = line[0]
                try:
                    self._send(message, exchange, routing_key, mandatory, deadline, True, future, tries)
                except Exception as exc:
                    future.set_exception(exc)
                line.popleft()
                self._line_bytes -= len(message.body) + 512
        finally:
            # Killed: nobody else would ever answer these.
            while line:
                line.popleft()[5].set_exception(
                    PublishUnconfirmed('the publishing task was ended', sent='no')
                )
            self._line_bytes = 0
            self._quiet.wake()

    def _send(
        self,
        message: Outgoing,
        exchange: str,
        routing_key: str,
        mandatory: bool,
        deadline: runtime.Deadline,
        confirm: bool,
        future: runtime.Future | None,
        tries: int,
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
        return self._emit(channel, message, exchange, routing_key, mandatory, confirm, future, tries)

    def _emit(
        self,
        channel: WireChannel,
        message: Outgoing,
        exchange: str,
        routing_key: str,
        mandatory: bool,
        confirm: bool,
        future: runtime.Future | None,
        tries: int,
    ) -> Pending | None:  # no switch: what is counted is sent, in this order
        link = channel.link
        properties = message.encoded
        body, parts, content = message.body, None, b''
        if len(properties) > link.frame_max - frames.HEADER_OVERHEAD:
            # Nothing was sent or counted yet. The broker would close the connection, which others use too.
            raise InvalidArgument(
                'headers and properties',
                message.properties,
                f'take {len(properties)} bytes, at most {link.frame_max - frames.HEADER_OVERHEAD} fit into a '
                f'frame of this connection (frame_max {link.frame_max})',
            )
        method = channel.frames.get((exchange, routing_key, mandatory))
        if method is None:
            method = self._publish_frame(channel, exchange, routing_key, mandatory)
        if len(body) > frames.PARTED_BYTES:
            parts = [method, *frames.content_parts(channel.id, properties, body, link.frame_max)]
        else:
            content = method + frames.content_frames(channel.id, properties, body, link.frame_max)
        pending = None
        if channel.confirming:
            if confirm or mandatory:
                start = link.bytes_out + link.out_bytes
                pending = Pending(message, exchange, routing_key, mandatory, start, future, tries)
            key = (exchange, routing_key, properties, body) if mandatory else None
            channel.ledger.publish(pending, key)
        # The wire is open, or it would not be here.
        if parts is None:
            link.send(content)
        else:
            link.send_parts(parts)
        if pending is None and future is not None:
            future.set_result(None)
        return pending

    def _publish_frame(self, channel: WireChannel, exchange: str, routing_key: str, mandatory: bool) -> bytes:
        if len(channel.frames) > 1024:
            channel.frames.clear()
        arguments = methods.encode(methods.BASIC_PUBLISH, (0, exchange, routing_key, mandatory, False))
        frame = frames.method_frame(channel.id, spec.Basic.Publish, arguments)
        channel.frames[exchange, routing_key, mandatory] = frame
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
        channel = self.consuming.ready_wire if self.single_wire else self.wire
        if channel is None or channel.error is not None or channel.link is not link:
            return None
        if exchange and exchange not in self.connection.known_exchanges:
            return None
        if self.confirm and not channel.confirming and not self.consuming.transactional:
            return None
        return channel

    def _prepare(self, link: Link, exchange: str, deadline: runtime.Deadline) -> None:
        try:
            if exchange and exchange not in self.connection.known_exchanges:
                self.connection.look_up_exchange(exchange, deadline)
            if not self._opening.acquire(deadline):
                raise TimeoutError(f'{self.channel!r}: no wire channel within {deadline.seconds} s')
            try:
                self._select(self._open(link, deadline), deadline)
            finally:
                self._opening.release()
        except NotSent:
            return  # it ended over somebody else's call; the caller looks again
        except TimeoutError as exc:
            raise PublishUnconfirmed(str(exc), sent='no') from exc

    def _open(self, link: Link, deadline: runtime.Deadline) -> WireChannel:
        if self.single_wire:
            return self.consuming.open(deadline)
        channel = self.wire
        if channel is None or channel.error is not None or channel.link is not link:
            self.channel.check_open()
            channel = self.wire = WireChannel(link, self).open(deadline)
            if not self.channel.is_open:
                channel.close_soon()  # closed by another greenlet meanwhile, which could not see this wire
            self.channel.check_open()
        return channel

    def _select(self, channel: WireChannel, deadline: runtime.Deadline) -> None:
        if self.confirm and not channel.confirming and not self.consuming.transactional:
            channel.call(
                methods.CONFIRM_SELECT.signature, b'\x00', methods.CONFIRM_SELECT.replies, deadline
            )
            channel.confirming = True

    def wait_confirmed(self, deadline: runtime.Deadline) -> bool:
        """Wait until nothing waits for its confirm; False: not within the deadline. Switches: yes."""
        while self.outstanding:
            try:
                self._quiet.wait(deadline)
            except TimeoutError:
                if not deadline.expired():
                    raise  # a caller's own, thrown into us
                return False
        return True

    def close_soon(self) -> None:
        """Close the publishing wire behind what was queued before."""
        if self.wire is not None:
            self.wire.close_soon()

    def close(self, deadline: runtime.Deadline) -> None:
        """Close the publishing wire behind what was queued before. Switches: yes."""
        channel, self.wire = self.wire, None
        if channel is not None:
            channel.close(deadline)

    # ---- what comes back (called by the reader: no switch)

    def on_confirm(self, channel: WireChannel, tag: int, multiple: bool, ack: bool) -> None:
        ledger = channel.ledger
        for pending, outcome in ledger.confirm(tag, multiple, ack):
            if pending is None:
                continue
            if outcome is True:
                if pending.queued_at is not None:
                    self._tell_confirmed(pending, pending.queued_at)
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
        if not len(ledger):
            self._quiet.wake()

    def _tell_confirmed(self, pending: Pending, queued_at: float) -> None:
        events.emit(
            'confirmed',
            self.connection.source,
            exchange=pending.exchange,
            routing_key=pending.routing_key,
            seconds=runtime.monotonic() - queued_at,
        )

    def on_return(self, channel: WireChannel, content: frames.Content) -> None:
        code, text, exchange, routing_key = frames.read_arguments('Bsss', content.method)
        error = Unroutable(content, exchange, routing_key, code, printable(text))
        if not channel.ledger.returned((exchange, routing_key, content.header[12:], content.body), error):
            self._returned_changed(channel, exchange, routing_key, content.body, error)
        self.channel.returned(error, exchange, routing_key, content)

    def _returned_changed(
        self, channel: WireChannel, exchange: str, routing_key: str, body: bytes, error: Unroutable
    ) -> None:
        # A broker may take properties away (RabbitMQ: the header BCC); what is left still tells most of them
        # apart.
        for key in channel.ledger.keys():
            if isinstance(key, tuple) and (key[0], key[1], key[3]) == (exchange, routing_key, body):
                channel.ledger.returned(key, error)
                return

    def on_wire_end(self, channel: WireChannel, error: BaseException) -> None:
        failed = [pending for pending in channel.ledger.fail_all() if pending is not None]
        guilty: set[Pending] = set()
        if channel.refused:
            self.connection.known_exchanges.clear()
            guilty = _named_in(getattr(error, 'reply_text', None) or '', failed)
        for pending in failed:
            self._settle_lost(pending, channel, error, pending in guilty)
        self._quiet.wake()

    def _settle_lost(
        self, pending: Pending, channel: WireChannel, error: BaseException, guilty: bool
    ) -> None:
        verdict = error if guilty else self._verdict(pending, channel, error)
        if pending.future is not None and isinstance(verdict, SentAgain):
            try:
                self._stand_in_line(
                    pending.message,
                    pending.exchange,
                    pending.routing_key,
                    pending.mandatory,
                    pending.future,
                    pending.tries + 1,
                )
                return
            except BufferFull as full:
                verdict = full
        pending.settle(verdict)

    def _verdict(self, pending: Pending, channel: WireChannel, error: BaseException) -> BaseException:
        if channel.refused:
            return SentAgain() if pending.tries < MAX_TRIES else error
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

    def on_delivery(self, channel: WireChannel, content: frames.Content) -> None:
        self.consuming.on_delivery(channel, content)

    def on_cancel(self, channel: WireChannel, consumer_tag: str) -> None:
        self.consuming.on_cancel(channel, consumer_tag)


def _named_in(text: str, failed: list[Pending]) -> set[Pending]:
    """The publishes that the text of a channel error speaks of."""
    for pattern, value_of in _NAMED:
        named = pattern.search(text)
        if named is not None:
            return {pending for pending in failed if str(value_of(pending)) == named.group(1)}
    return set()
