"""One delivery: its body on demand, and at most one acknowledgement.

A message is made for every delivery, so its fields are slots, and nothing is decoded before it is asked for.
A compressed body is inflated by the first look at `body`, under a limit; `decode` asks `accept` before that,
so that what nobody would read costs nothing.
"""

from __future__ import annotations

import sys
from reprlib import Repr
from typing import TYPE_CHECKING, Any, NoReturn

from greenmq import events
from greenmq.compression import decompress
from greenmq.exceptions import (
    DecodeError,
    MessageStateError,
    SerializationError,
    StaleDelivery,
    also,
    reraise,
)
from greenmq.log import get_logger
from greenmq.serialization import loads
from greenmq.utils.functional import dictfilter

__all__ = ('Message',)

logger = get_logger('greenmq.message')

#: What a message may have been settled with. Before: 'RECEIVED'. A delivery of a lost connection: 'STALE'.
ACK_STATES = {'ACK', 'REJECTED', 'REQUEUED'}

IS_PYPY = hasattr(sys, 'pypy_version_info')

#: What a compressed body may inflate to, unless the transport option `max_decoded_bytes` says otherwise.
#: Deflate reaches 1:1000, so a 100 kB "bomb" can already ask for 100 MB.
MAX_DECODED_BYTES = 64 * 1024 * 1024

_UNDECODED: Any = object()

_SHORT = Repr()  # for what a sender made as long as he liked

_settle_listeners = events.listeners('settle')


class _Errors:
    # The list of what went wrong while a message was made: made itself only for those who look. Hardly any
    # message has one, and a list for each would cost more than decoding a small body.
    def __get__(self, message: Any, owner: Any = None) -> list[Any] | None:
        if message is None:
            return None
        message._broken = True  # perhaps: whoever looks may add one
        if '_packed' in message.__dict__ and message._accepted() is None:
            message._unpack()
        errors: list[Any] = message.__dict__.setdefault('errors', [])
        return errors


class Message:
    """One message as it was delivered.

    Arguments:
        body (bytes | str): as delivered.
        delivery_tag (object): names the delivery on its channel.
        content_type (str), content_encoding (str): how to decode the body.
        delivery_info (dict[str, object]): consumer_tag, exchange, routing_key, redelivered, …
        properties (dict[str, object]): AMQP properties.
        headers (dict[str, object]): the publisher's; `compression` names how the body is compressed, and is
            gone once that is inflated.
        postencode (str): encode a str body with this.
        accept (set[str]): content types that may be decoded; None: all that are enabled.
        channel (Channel): where it is to be settled.
    Attributes:
        errors (list[tuple]): `sys.exc_info()` of what failed while it was made (a body that does not
            inflate, properties that cannot be read); `decode()` raises the first.
    Source: kombu.message.Message; differs: `decode` raises what `errors` holds, as a DecodeError.
    """

    MessageStateError = MessageStateError

    errors = _Errors()

    #: Whether it is its properties that cannot be read: then nobody can say what it is.
    unreadable = False

    __slots__ = (
        '_state', 'channel', 'delivery_tag', 'content_type', 'content_encoding', 'delivery_info', 'headers',
        'properties', 'body', '_decoded_cache', 'accept', '_broken', '__dict__',
    )  # fmt: skip

    def __init__(
        self,
        body: Any = None,
        delivery_tag: Any = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        delivery_info: dict[str, Any] | None = None,
        properties: dict[str, Any] | None = None,
        headers: dict[str, Any] | None = None,
        postencode: str | None = None,
        accept: set[str] | None = None,
        channel: Any = None,
        **kwargs: Any,
    ) -> None:
        self._state = 'RECEIVED'
        self._decoded_cache = _UNDECODED
        self._broken = False
        self.channel = channel
        self.delivery_tag = delivery_tag
        self.content_type = content_type
        self.content_encoding = content_encoding
        self.delivery_info = delivery_info if delivery_info is not None else {}
        self.properties = properties if properties is not None else {}
        self.headers = headers if headers is not None else {}
        self.accept = accept
        if headers and 'compression' in headers and headers['compression']:
            # `body` is left unset, so that the first look at it comes to `__getattr__`.
            self._broken = True
            self._packed = body, headers['compression'], postencode
            self.headers = dict(headers)  # changed below, and the transport may deliver its own again
        else:
            self.body = body
            if postencode and isinstance(body, str):
                self._postencode(postencode)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name == 'body' and '_packed' in self.__dict__:
                self._unpack()
                return self.body
            raise AttributeError(f'{type(self).__name__!r} object has no attribute {name!r}')

    def _accepted(self) -> Exception | None:
        """Why this content is not to be decoded, if it is not."""
        try:
            loads(None, self.content_type, self.content_encoding, accept=self.accept)
        except Exception as exc:  # types of content that are none, too
            return exc
        return None

    def _unpack(self) -> None:
        # Decompressing may switch: until it has ended nothing is changed, for the greenlet that looks
        # meanwhile and for the one that is killed there.
        body, compression, postencode = self.__dict__['_packed']
        failure = None
        if not self.__dict__.get('errors'):  # or it is lost already
            try:
                body = decompress(body, compression, limit=_max_decoded_bytes(self.channel))
            except Exception as exc:
                failure = _as_decode_error(exc, f'body compressed as {_SHORT.repr(compression)}')
        if self.__dict__.pop('_packed', None) is None:
            return  # somebody else was faster
        self.body = body
        if failure is not None:
            self._record(failure)
        elif not self.__dict__.get('errors'):
            # It said how the body travelled. Published again with these headers, it is not compressed.
            self.headers.pop('compression', None)
        if postencode and isinstance(self.body, str):
            self._postencode(postencode)

    def _postencode(self, encoding: str) -> None:
        try:
            self.body = self.body.encode(encoding)
        except (LookupError, UnicodeError) as exc:
            self._record(_as_decode_error(exc, f'body in {encoding!r}'))

    def _record(self, failure: Exception) -> None:
        self._broken = True
        self.__dict__.setdefault('errors', []).append((type(failure), failure, failure.__traceback__))

    def raise_error(self) -> None:
        """Raise the first thing that was wrong with the message."""
        self._reraise_error()

    def _reraise_error(self, callback: Any = None) -> Any:
        kind, failure, traceback = self.__dict__['errors'][0]
        if callback is None:
            reraise(kind, failure, traceback)
        return callback(self, failure)

    def ack(self, multiple: bool = False) -> bool | None:
        """Tell the broker that this message is dealt with: at once, or on AMQP and Redis, while more messages
        wait here for their callbacks, with the acks of the next 20 ms.

        Arguments:
            multiple (bool): and all delivered before it on this channel.
        Returns:
            bool | None: False if the connection was lost since: nothing was sent, the broker delivers it
            again (P36).
        Raises:
            MessageStateError: settled before, or no channel. StaleDelivery if the transport is told to raise
                it.
        Switches: yes if the connection's buffer is full.
        Source: kombu Message.ack; differs: the return value.
        """
        channel = self.channel
        if channel is not None:
            no_ack = channel.no_ack_consumers
            if no_ack and self.delivery_info.get('consumer_tag') in no_ack:
                return None  # the broker has forgotten it already
        if channel is None or self._state in ACK_STATES:
            self._refuse()
        # Recorded before the call, which may switch: of two greenlets that settle one message only the first
        # may.
        self._state = 'ACK'
        try:
            sent = channel.basic_ack(self.delivery_tag, multiple=multiple)
        except BaseException as exc:
            self._unsettle(exc)
            raise
        if sent is False:
            return self._unsettle()
        if _settle_listeners:
            events.emit('settle', source=channel, message=self, state=self._state)
        return None

    def reject(self, requeue: bool = False) -> bool | None:
        """Refuse this message: it is dropped or dead-lettered, or with `requeue` delivered again.

        Returns:
            bool | None: as `ack`.
        Raises:
            MessageStateError: as `ack`.
        Switches: yes if the connection's buffer is full.
        Source: kombu Message.reject; differs: the return value.
        """
        return self._reject('REJECTED', requeue)

    def requeue(self) -> bool | None:
        """Give this message back to its queue.

        Returns:
            bool | None: as `ack`.
        Raises:
            MessageStateError: as `ack`.
        Switches: yes if the connection's buffer is full.
        Source: kombu Message.requeue; differs: the return value.
        """
        return self._reject('REQUEUED', True)

    def _reject(self, state: str, requeue: bool) -> bool | None:
        channel = self.channel
        if channel is None or self._state in ACK_STATES:
            self._refuse()
        self._state = state
        try:
            sent = channel.basic_reject(self.delivery_tag, requeue=requeue)
        except BaseException as exc:
            self._unsettle(exc)
            raise
        if sent is False:
            return self._unsettle()
        if _settle_listeners:
            events.emit('settle', source=channel, message=self, state=self._state)
        return None

    def _refuse(self) -> NoReturn:
        if self.channel is None:
            raise self.MessageStateError('This message does not have a receiving channel')
        raise self.MessageStateError(f'Message already acknowledged with state: {self._state}')

    def _unsettle(self, exc: BaseException | None = None) -> bool:
        # Nothing was sent: the caller may try again, unless the tag means nothing any more.
        self._state = 'STALE' if exc is None or isinstance(exc, StaleDelivery) else 'RECEIVED'
        return False

    def ack_log_error(
        self, logger: Any, errors: tuple[type[BaseException], ...], multiple: bool = False
    ) -> None:
        """As `ack`, but log `errors` instead of raising them.

        Arguments:
            logger (logging.Logger): gets a critical record.
            errors (tuple[type, ...]): usually the connection's errors.
        Switches: as `ack`.
        Source: kombu Message.ack_log_error.
        """
        try:
            self.ack(multiple=multiple)
        except errors as exc:
            logger.critical("Couldn't ack %r, reason:%r", self.delivery_tag, exc, exc_info=True)

    def reject_log_error(
        self, logger: Any, errors: tuple[type[BaseException], ...], requeue: bool = False
    ) -> None:
        """As `reject`, but log `errors` instead of raising them.

        Switches: as `reject`.
        Source: kombu Message.reject_log_error.
        """
        try:
            self.reject(requeue=requeue)
        except errors as exc:
            logger.critical("Couldn't reject %r, reason: %r", self.delivery_tag, exc, exc_info=True)

    def decode(self) -> Any:
        """Give the body deserialized; it is done once.

        Raises:
            DecodeError: the bytes are not what the content type says.
            ContentDisallowed: `accept` does not have the content type.
        Switches: if the body is compressed and large, as `compression.decompress`.
        Source: kombu Message.decode.
        """
        value = self._decoded_cache
        if value is _UNDECODED:
            value = self._decoded_cache = self._decode()
        return value

    def _decode(self) -> Any:
        # Looking into `__dict__` would make one for each message.
        if self._broken:
            if '_packed' in self.__dict__ and not self.__dict__.get('errors'):
                refused = self._accepted()
                if refused is not None:
                    raise refused
                self._unpack()
            if self.__dict__.get('errors'):
                self._reraise_error()
        return loads(self.body, self.content_type, self.content_encoding, accept=self.accept)

    @property
    def state(self) -> str:
        """RECEIVED, ACK, REJECTED, REQUEUED or STALE."""
        return self._state

    @property
    def payload(self) -> Any:
        """The body deserialized, as `decode` gives it."""
        value = self._decoded_cache
        return self.decode() if value is _UNDECODED else value

    @property
    def fault(self) -> Exception | None:
        """What is wrong with what it came in (properties, headers, delivery info), or with a body that was
        looked at; None: nothing that is known yet."""
        errors = self.__dict__.get('errors') if self._broken else None
        return errors[0][1] if errors else None

    @property
    def sound(self) -> bool:
        """Whether nothing was found wrong with it, and nothing is left to unpack: `errors` would be empty."""
        return not self._broken

    @property
    def acknowledged(self) -> bool:
        """Whether it was acked, rejected or requeued."""
        return self._state in ACK_STATES

    @property
    def redelivery_expected(self) -> bool:
        """Will the broker deliver it again? So if its connection was lost before it was settled (P36)."""
        if self._state != 'RECEIVED':
            return self._state == 'STALE'
        is_stale = getattr(self.channel, 'is_stale', None)
        if is_stale is None:  # a channel without epochs: once closed, its deliveries have gone back
            return getattr(self.channel, 'closed', False) is True
        return bool(is_stale(self.delivery_tag))

    def __repr__(self) -> str:
        packed = self.__dict__.get('_packed')  # a text for the log inflates nothing
        body = self.body if packed is None else packed[0]
        details = dictfilter(
            state=self._state,
            content_type=self.content_type,
            delivery_tag=self.delivery_tag,
            body_length=len(body) if hasattr(body, '__len__') else None,
            properties=dictfilter(
                correlation_id=self.properties.get('correlation_id'), type=self.properties.get('type')
            ),
            delivery_info=dictfilter(
                exchange=self.delivery_info.get('exchange'), routing_key=self.delivery_info.get('routing_key')
            ),
        )
        return f'<{type(self).__name__} object at {id(self):#x} with details {details!r}>'


def _as_decode_error(exc: Exception, what: str) -> Exception:
    if isinstance(exc, SerializationError):
        return exc
    failure: Exception = also(DecodeError, type(exc))(f'{what}: {type(exc).__name__}: {exc}')
    failure.__cause__ = exc
    return failure


def _max_decoded_bytes(channel: Any) -> int:
    # The channel's own attribute if the transport keeps one, else the connection's option; third-party
    # channels may have neither.
    limit = getattr(channel, 'max_decoded_bytes', None)
    if limit is None:
        client = getattr(getattr(channel, 'connection', None), 'client', None)
        options = getattr(client, 'transport_options', None)
        limit = options.get('max_decoded_bytes') if isinstance(options, dict) else None
    return int(limit) if isinstance(limit, (int, float, str)) else MAX_DECODED_BYTES


def settle_undecodable(
    message: Any, exc: BaseException, dead_letter: bool = False, settled: bool = False, keep: bool = False
) -> None:
    """Settle a message that nobody will be able to read, so that it stops no consumer (P40).

    It is logged, then rejected without requeue where its queue has a place for it, or may have one that no
    client sees (`channel.dead_letters_unseen`: RabbitMQ's policies), else acknowledged: requeued, it would
    come back for ever.

    Arguments:
        message (Message): of any transport.
        exc (BaseException): why it can't be read.
        dead_letter (bool): whether its queue is known to have a dead-letter place; the channel is asked too.
        settled (bool): the broker has forgotten it already (`no_ack`): it is only reported.
        keep (bool): not acknowledged where it would be lost by that: the program is told, and settles
            ``exc.message``.
    Switches: as `Message.ack`.
    """
    channel = message.channel
    settled = settled or message.delivery_info.get('consumer_tag') in (
        getattr(channel, 'no_ack_consumers', None) or ()
    )
    dead_letter = not settled and (dead_letter or getattr(message, 'dead_letter', False) is True)
    if not dead_letter and not settled:
        has_dead_letter = getattr(channel, 'has_dead_letter', None)
        queue = getattr(message, 'queue', None) or message.delivery_info.get('queue')
        dead_letter = bool(has_dead_letter is not None and queue and has_dead_letter(queue))
    keep = keep and not dead_letter and not settled
    unseen = not dead_letter and not settled and getattr(channel, 'dead_letters_unseen', False) is True
    if dead_letter:
        fate = 'rejected without requeue'
    elif keep:
        fate = 'left unacknowledged'
    elif unseen:
        fate = 'rejected without requeue: lost, unless a policy of the broker has a place for it'
    else:
        fate = 'acknowledged, and so lost'
    logger.error('Cannot decode message %r: %r. It is %s.', message.delivery_tag, exc, fate, exc_info=exc)
    events.emit('decode_error', source=channel, message=message, error=exc, dead_letter=dead_letter)
    if settled or keep or message.acknowledged or channel is None:
        return
    if dead_letter or unseen:
        message.reject(requeue=False)
    else:
        message.ack()
