"""The whole public error tree: what went wrong, who is to blame, and whether trying again helps.

kombu's names stand where kombu has them. Every class of our own sits below the kombu class of its place, so
an ``except`` line written for kombu catches it too. Who is to blame shows in the branch:

* `ConnectionError`, `ChannelError`: the broker or the network. `ConnectionLost` may be retried on a new
  connection; `ConnectionClosed` and `Unroutable` must not be.
* `OperationalError`: the time or the room that was given did not suffice. Each subclass says what is known of
  the message.
* `InvalidArgument`, `UnknownOption`, `WrongHub`, `WouldBlock`, `MessageStateError`, `NotBoundError`: the
  calling program.
* `SerializationError`: the content of one message. Never retried: the bytes will be the same the next time.

Every error can be pickled. Objects it carries for the handler (a returned message, a rejected value) may not
survive that: they come out as None or as their shortened repr.

Source: kombu.exceptions; amqp.exceptions for the errors of the protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from reprlib import Repr
from socket import timeout as TimeoutError
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

    # amqp has no hints: these give its classes to type checkers, the other branch to the program.
    class AMQPError(Exception):
        code: int
        message: Any
        reply_code: int
        reply_text: str | None
        method_sig: tuple[int, int] | None
        method_name: str

        def __init__(
            self,
            reply_text: str | None = None,
            method_sig: tuple[int, int] | None = None,
            method_name: str | None = None,
            reply_code: int | None = None,
        ) -> None: ...

        @property
        def method(self) -> str | tuple[int, int] | None: ...

    class MessageNacked(Exception): ...

    class ConnectionError(AMQPError): ...

    class ChannelError(AMQPError): ...

    class RecoverableConnectionError(ConnectionError): ...

    class IrrecoverableConnectionError(ConnectionError): ...

    class RecoverableChannelError(ChannelError): ...

    class IrrecoverableChannelError(ChannelError): ...

    class ConsumerCancelled(RecoverableConnectionError): ...

    class ResourceError(RecoverableConnectionError): ...

    class NotAllowed(IrrecoverableConnectionError): ...

    class NoConsumers(RecoverableChannelError): ...

    class ResourceLocked(RecoverableChannelError): ...

    class NotFound(IrrecoverableChannelError): ...

    class AccessRefused(IrrecoverableChannelError): ...

    class PreconditionFailed(IrrecoverableChannelError): ...
else:
    from amqp.exceptions import (
        AccessRefused,
        AMQPError,
        ChannelError,
        ConnectionError,
        ConsumerCancelled,
        IrrecoverableChannelError,
        IrrecoverableConnectionError,
        MessageNacked,
        NoConsumers,
        NotAllowed,
        NotFound,
        PreconditionFailed,
        RecoverableChannelError,
        RecoverableConnectionError,
        ResourceError,
        ResourceLocked,
    )

__all__ = (
    'NEVER_RETRIED', 'AMQPError', 'AccessRefused', 'BatchPublishError', 'BufferFull', 'ChannelError',
    'ChannelLimitExceeded', 'ConnectionBlocked', 'ConnectionClosed', 'ConnectionError',
    'ConnectionLimitExceeded', 'ConnectionLost', 'ConsumerCancelled', 'ContentDisallowed', 'DecodeError',
    'DecompressionLimit', 'EncodeError', 'Forked', 'HttpError', 'InconsistencyError', 'InvalidArgument',
    'IrrecoverableChannelError', 'IrrecoverableConnectionError', 'KombuError', 'LimitExceeded',
    'MessageNacked', 'MessageStateError', 'NoConsumers', 'NotAllowed', 'NotBoundError', 'NotFound',
    'OperationalError', 'PreconditionFailed', 'PublishNacked', 'PublishUnconfirmed',
    'RecoverableChannelError', 'RecoverableConnectionError', 'ResourceError', 'ResourceLocked',
    'SerializationError', 'SerializerNotInstalled', 'StaleDelivery', 'TimeoutError', 'UnknownOption',
    'Unroutable', 'VersionMismatch', 'WouldBlock', 'WrongHub', 'reraise',
)  # fmt: skip

_SHORT = Repr()
_SHORT.maxstring = 60  # enough to recognise a rejected value, too little to flood a log
_SHORT.maxother = 120


def reraise(tp: type[BaseException], value: BaseException, tb: TracebackType | None = None) -> None:
    """Raise `value`, with the traceback `tb` if that is another one than it has.

    Arguments:
        tp (type): ignored; it is there because `sys.exc_info()` gives three values.
        value (BaseException): the instance to raise.
        tb (traceback): None drops the one that `value` has.
    Source: kombu.exceptions.reraise.
    """
    if value.__traceback__ is not tb:
        raise value.with_traceback(tb)
    raise value


def _clip(value: object) -> str:
    # Repr would write out all of a long bytes before it cuts: 100 MB of body cost more than this is worth.
    # A repr that itself fails does not hide the error that wants to show it: Repr takes care of that.
    return _SHORT.repr(value[: _SHORT.maxother] if isinstance(value, (bytes, bytearray)) else value)


def _rebuild(
    cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]
) -> BaseException:
    exc = cls.__new__(cls, *args)
    exc.args = args
    exc.__dict__.update(state)
    return exc


class _Portable:
    # Our constructors take facts and make the text of them, so pickle's default (calling the class with
    # `args`) would fail or, worse, mix up amqp's arguments, whose order in `args` differs from the
    # constructor's.

    def __repr__(self) -> str:
        return f'{type(self).__name__}({str(self)!r})'

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _rebuild, (type(self), self.args, self._state())  # type: ignore[attr-defined]

    def _state(self) -> dict[str, Any]:
        # A message belongs to a channel of this process.
        return {**self.__dict__, 'message': None} if 'message' in self.__dict__ else self.__dict__


#: (ours, foreign) → the class below both.
_both: dict[tuple[Any, Any], type[Any]] = {}


def also(ours: type[Exception], foreign: type[Exception]) -> type[Any]:
    """The class of an error of ours that stands where kombu lets a foreign one out: each `except` catches it.

    Arguments:
        ours (type): e.g. DecodeError.
        foreign (type): e.g. zlib.error.
    Returns:
        type: below both, with the name, the constructor and the text of `ours`; its objects can be pickled.
            Where `foreign` is an OSError, `ours` itself.
    """
    # An OSError would pass for the loss of the connection, and be taken for one.
    if issubclass(ours, foreign) or issubclass(foreign, OSError):
        return ours
    found = _both.get((ours, foreign))
    if found is not None:
        return found
    members: dict[str, Any] = {
        '__doc__': ours.__doc__, '__module__': ours.__module__, '__str__': ours.__str__,
        '__reduce__': lambda self: (_rebuild_both, (ours, foreign, self.args, _state_of(self))),
    }  # fmt: skip
    if ours.__init__ is Exception.__init__:
        members['__init__'] = Exception.__init__  # a foreign one may want more than a text
    return _both.setdefault((ours, foreign), type(ours.__name__, (ours, foreign), members))


def _state_of(error: Any) -> dict[str, Any]:
    return error._state() if isinstance(error, _Portable) else error.__dict__


def _rebuild_both(
    ours: type[Exception], foreign: type[Exception], args: tuple[Any, ...], state: dict[str, Any]
) -> BaseException:
    return _rebuild(also(ours, foreign), args, state)


class KombuError(Exception):
    """Base of all errors that are neither amqp's nor an HTTP server's.

    Source: kombu.exceptions.KombuError.
    """


class OperationalError(KombuError):
    """The broker could not be used: not reached, gone, or not in time. The program is right; retry later.

    What a transport raises comes out as this (with the transport's error as its cause) from
    `Producer.publish`, `Connection.connect` and other public doors.

    Source: kombu.exceptions.OperationalError.
    """


class BatchPublishError(KombuError):
    """A batch of publishes ended without a confirm for each: some may have arrived, some not.

    Blame: the broker or the network. Publishing the batch again may duplicate messages.

    Source: kombu.exceptions.BatchPublishError.
    """


class SerializationError(KombuError):
    """A body could not be turned into bytes or back. Never retried: the same content fails the same way.

    Source: kombu.exceptions.SerializationError.
    """


class EncodeError(SerializationError):
    """The serializer or compressor refused the body. Blame: the publisher. Nothing was sent.

    Source: kombu.exceptions.EncodeError.
    """


class DecodeError(_Portable, SerializationError):
    """The bytes of a message are not what its content type says. Blame: whoever published it.

    Attributes:
        message (Message): which one; to be settled, unless it is (`Message.acknowledged`). None outside of a
            Consumer or `Queue.get`, and after pickling.

    Source: kombu.exceptions.DecodeError.
    """

    message: Any = None


class DecompressionLimit(DecodeError):
    """A compressed body is larger than `max_decoded_bytes` once inflated. Blame: whoever published it.

    Attributes:
        what (str): what was inflated, e.g. "gzip body of 1043 bytes".
        limit_bytes (int): how many bytes were allowed.
    """

    def __init__(self, what: str, limit_bytes: int) -> None:
        super().__init__(f'{what} inflates to more than {limit_bytes} bytes (max_decoded_bytes)')
        self.what = what
        self.limit_bytes = limit_bytes


class NotBoundError(KombuError):
    """An entity was used that is not bound to a channel. Blame: the caller; bind it first.

    Source: kombu.exceptions.NotBoundError.
    """


class MessageStateError(KombuError):
    """A message was settled twice. Blame: the caller; the first settlement stands.

    Source: kombu.exceptions.MessageStateError.
    """


class StaleDelivery(_Portable, MessageStateError):
    """A delivery of an earlier connection was settled. Nothing was sent; the broker delivers the message
    again.

    Blame: nobody, the connection was lost while the message was in work. Do not retry: the tag means nothing
    now (P36).

    Attributes:
        delivery_tag (object): the tag of the lost delivery, None if not known.
    """

    def __init__(self, text: str, delivery_tag: object = None) -> None:
        super().__init__(text)
        self.delivery_tag = delivery_tag


class LimitExceeded(KombuError):
    """A pool had nothing to give in time. Blame: the size of the pool, or a lease that is held too long.

    `args[0]` is the limit, as in kombu. With a second argument, that is the text: it names the pool and its
    numbers.

    Source: kombu.exceptions.LimitExceeded; differs: may carry a text.
    """

    def __str__(self) -> str:
        return str(self.args[1]) if len(self.args) > 1 else super().__str__()


class ConnectionLimitExceeded(LimitExceeded):
    """A connection pool had nothing to give in time.

    Source: kombu.exceptions.ConnectionLimitExceeded.
    """


class ChannelLimitExceeded(LimitExceeded):
    """A channel pool had nothing to give in time, or the broker allows no more channels on this connection.

    Source: kombu.exceptions.ChannelLimitExceeded.
    """


class VersionMismatch(KombuError):
    """A driver or server has a version that does not fit. Blame: the installation.

    Source: kombu.exceptions.VersionMismatch.
    """


class SerializerNotInstalled(KombuError):
    """No serializer of that name or content type is registered. Blame: the installation or a wrong name.

    Source: kombu.exceptions.SerializerNotInstalled.
    """


class ContentDisallowed(_Portable, SerializerNotInstalled):
    """A message has a content type that this consumer does not accept. Blame: the publisher, or `accept`.

    Attributes:
        message (Message): as in DecodeError.

    Source: kombu.exceptions.ContentDisallowed.
    """

    message: Any = None


class InconsistencyError(ConnectionError):
    """What a broker stores contradicts itself, e.g. an exchange without its table of bindings. Blame: that
    data.

    Source: kombu.exceptions.InconsistencyError.
    """


class HttpError(Exception):
    """A broker that speaks HTTP answered with an error.

    Attributes:
        code (int): the HTTP status. 5xx and 429 may be retried, other 4xx blame the request.
        message (str | None): what the server said.
        response (object): the driver's response, None if there is none.

    Source: kombu.exceptions.HttpError.
    """

    def __init__(self, code: int, message: str | None = None, response: Any = None) -> None:
        self.code = code
        self.message = message
        self.response = response
        super().__init__(code, message, response)

    def __str__(self) -> str:
        return f'HTTP {self.code}: {self.message}'


class ConnectionLost(_Portable, RecoverableConnectionError):
    """The broker or the network ended the connection. Retry: recovery is already under way.

    Every waiting call of that connection gets this one error. What was published and not yet confirmed is
    unknown, what was delivered and not yet settled will be delivered again.
    """


class ConnectionClosed(_Portable, ConnectionError):
    """We closed the connection (`close()`, `release()`), perhaps in another greenlet, while this call used it
    (P2).

    Blame: the program, if at all. Not recoverable: somebody decided that it is over.
    """


class PublishNacked(_Portable, MessageNacked):
    """The broker refused to take responsibility for a message (basic.nack).

    Blame: the broker (a full queue with overflow=reject-publish, or an error inside). May be retried: the
    message is not in the broker. Connection and channel are as good as before.

    Attributes:
        exchange (str), routing_key (str): where it was published.
    """

    def __init__(self, text: str | None = None, exchange: str = '', routing_key: str = '') -> None:
        super().__init__(
            text or f'the broker nacked a message for exchange {exchange!r}, routing key {_clip(routing_key)}'
        )
        self.exchange = exchange
        self.routing_key = routing_key


class Unroutable(_Portable, ChannelError):
    """A message published with `mandatory=True` reached no queue; the broker returned it (P23).

    Blame: the bindings, or the routing key. Not retried: without a new binding the next try ends the same
    way. The channel stays open.

    Attributes:
        message (object): the returned message as the transport gives it; None after pickling.
        exchange (str), routing_key (str): where it was published.
        reply_code (int), reply_text (str): the broker's words: 312 NO_ROUTE, or 313 NO_CONSUMERS for
        `immediate`.
    """

    def __init__(
        self,
        message: Any = None,
        exchange: str = '',
        routing_key: str = '',
        reply_code: int = 312,
        reply_text: str = 'NO_ROUTE',
    ) -> None:
        super().__init__(reply_text, (60, 50), 'Basic.return', reply_code)
        self.message = message
        self.exchange = exchange
        self.routing_key = routing_key

    def __str__(self) -> str:
        return (
            f'Basic.return: ({self.reply_code}) {self.reply_text}: no queue for exchange '
            f'{self.exchange!r}, routing key {_clip(self.routing_key)}'
        )

    def _state(self) -> dict[str, Any]:
        return {**self.__dict__, 'message': None}


class PublishUnconfirmed(_Portable, OperationalError, TimeoutError):
    """The deadline of a publish passed before the broker confirmed it (P17).

    Blame: the broker, the network, or a deadline that is too short. With `sent='no'` it is safe to publish
    again; with `sent='unknown'` the message may have arrived and a second publish may duplicate it.

    Arguments:
        text (str): what was published and within how many seconds.
        sent (str): 'no' (not a byte left this process) or 'unknown'.
    Attributes:
        sent (str): as given.
    """

    def __init__(self, text: str, sent: str = 'unknown') -> None:
        known = 'not sent' if sent == 'no' else 'sent, outcome unknown'
        super().__init__(f'{text} ({known})')
        self.sent = sent


class ConnectionBlocked(_Portable, OperationalError, TimeoutError):
    """The broker has blocked publishing (memory or disk alarm), and did not unblock in time (P18).

    Blame: the broker's operator. The message was not sent; retry when `unblocked` was heard.

    Arguments:
        text (str): which connection, and within how many seconds.
        reason (str): what the broker said.
    Attributes:
        reason (str): as given.
    """

    def __init__(self, text: str, reason: str = '') -> None:
        super().__init__(f'{text}: the broker blocks publishing, reason {reason!r}')
        self.reason = reason


class BufferFull(_Portable, OperationalError):
    """A `_nowait` call met a full buffer. Nothing was taken; wait for room or use the call that waits.

    The text names the buffer, what is in it and its limit.
    """


class Forked(_Portable, KombuError):
    """This greenlet is a copy that a fork made; what it waited for belongs to the parent process (P44).

    Never retried: let it end. The child opens its own connections at their first use.

    Arguments:
        what (str): what was waited for.
    """

    def __init__(self, what: str = 'this call') -> None:
        super().__init__(f'{what} waited when the process forked: it goes on in the parent process only')
        self.what = what


class WouldBlock(_Portable, OperationalError, RuntimeError):
    """A call that must wait was made in a callback of the hub, where nothing can wait. Blame: the caller.

    Arguments:
        what (str): the call that was made.
        instead (str): the call that never waits; the text names it.
    """

    def __init__(self, what: str = 'publish', instead: str = 'publish_nowait') -> None:
        super().__init__(f'{what} waits, which nothing can do in a hub callback: use {instead}() there')
        self.what = what
        self.instead = instead


class WrongHub(_Portable, KombuError, RuntimeError):
    """A connection was used by the hub of another native thread than the one that opened it, for more than a
    publish or an acknowledgement. Blame: the caller.

    Arguments:
        what (str): the connection or channel.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f'{what} belongs to the hub of the thread that opened it: open one in each thread')
        self.what = what


class InvalidArgument(_Portable, KombuError, ValueError):
    """A caller's value can't be used. Raised before anything is sent; correct the value.

    Arguments:
        what (str): the argument, e.g. "routing_key".
        value (object): what was given; the text shows its beginning.
        limit (str): the rest of the sentence, with the limit in it:
            ``InvalidArgument('routing_key', key, 'is 300 bytes long, at most 255 allowed')``.
    Attributes:
        what (str), value (object), limit (str): as given. After pickling, `value` is its shortened repr
            unless it is a str, bytes, number or None.
    """

    def __init__(self, what: str, value: object, limit: str) -> None:
        super().__init__(f'{what} {limit}: {_clip(value)}')
        self.what = what
        self.value = value
        self.limit = limit

    def _state(self) -> dict[str, Any]:
        # Exact types: a subclass of str or int may hold anything.
        plain = self.value is None or type(self.value) in (str, bytes, int, float, bool)
        return {**self.__dict__, 'value': self.value if plain else _clip(self.value)}


class UnknownOption(_Portable, KombuError, ValueError):
    """An option that nobody knows was given, and `strict_options` is set. Blame: the caller (a typing
    mistake?).

    Arguments:
        name (str): the option.
        where (str): what it was given to, e.g. "transport memory".
        nearest (str | None): the known name most like it.
    """

    def __init__(self, name: str, where: str = '', nearest: str | None = None) -> None:
        text = f'unknown option {name!r}'
        if where:
            text += f' for {where}'
        if nearest:
            text += f': did you mean {nearest!r}?'
        super().__init__(text)
        self.name = name
        self.where = where
        self.nearest = nearest


#: What a retry loop lets through although a base class of it may be in a transport's tuple of recoverable
#: errors (`PublishUnconfirmed` and `ConnectionBlocked` are OSErrors, as all time-outs are; their deadline has
#: passed, and a message that may have arrived must not be sent a second time behind the caller's back).
NEVER_RETRIED: tuple[type[BaseException], ...] = (
    PublishUnconfirmed,
    ConnectionBlocked,
    ConnectionClosed,
    Unroutable,
    StaleDelivery,
    Forked,
    WouldBlock,
    WrongHub,
    InvalidArgument,
    UnknownOption,
    SerializationError,
)
