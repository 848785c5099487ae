"""What goes wrong with an AMQP 1.0 peer, and the classes of ours that its conditions stand for."""

from __future__ import annotations

from typing import Any

from greenmq.exceptions import (
    AccessRefused,
    ChannelError,
    ConnectionLost,
    DecodeError,
    IrrecoverableConnectionError,
    NotAllowed,
    NotFound,
    OperationalError,
    PreconditionFailed,
    ResourceError,
    ResourceLocked,
)
from greenmq.utils.text import printable

__all__ = ('Detached', 'LoginRefused', 'Malformed', 'PeerFault', 'SessionEnded', 'error_of')


class Malformed(DecodeError):
    """Bytes that are no AMQP 1.0."""


class PeerFault(ConnectionLost):
    """The peer broke a rule of the protocol, and the connection with it.

    Attributes:
        condition (str): what we tell it in our close.
    """

    def __init__(self, text: str, condition: str = 'amqp:framing-error') -> None:
        super().__init__(text)
        self.condition = condition


class LoginRefused(AccessRefused, IrrecoverableConnectionError):
    """The peer refused the login, or offers no mechanism that we can use."""


class Detached(OperationalError):
    """The peer ended a link without a reason that has a class of its own.

    Attributes:
        condition (str): its symbol for why; '' if it gave none.
    """

    def __init__(self, text: str, condition: str = '') -> None:
        super().__init__(text)
        self.condition = condition


class SessionEnded(Detached):
    """A link ended for no fault of its own: with its session, or as it lay idle. It may be made anew."""


#: Conditions of a link that ended because it lay idle.
_IDLE = ('amqp:link:detach-forced', 'amqp:connection:forced')

#: Condition → class of ours; all take (text, method, method name, code).
_CONDITIONS: dict[str, tuple[type[Exception], int]] = {
    'amqp:not-found': (NotFound, 404),
    'amqp:unauthorized-access': (AccessRefused, 403),
    'amqp:not-allowed': (NotAllowed, 530),
    'amqp:precondition-failed': (PreconditionFailed, 406),
    'amqp:resource-locked': (ResourceLocked, 405),
    'amqp:resource-deleted': (NotFound, 404),
    'amqp:resource-limit-exceeded': (ResourceError, 506),
    'amqp:not-implemented': (ChannelError, 540),
    'amqp:invalid-field': (ChannelError, 502),
}


def error_of(error: Any, what: str) -> Exception:
    """The exception for an error of the peer, its texts cleaned.

    Arguments:
        error (Error | None): as a detach, end or rejected outcome carries it.
        what (str): what failed, to begin the text with.
    """
    condition = printable(str(getattr(error, 'condition', '') or ''), 120)
    description = printable(str(getattr(error, 'description', '') or ''), 500)
    text = f'{what}: {condition or "no reason given"}' + (f' ({description})' if description else '')
    found = _CONDITIONS.get(condition)
    if found is None:
        return SessionEnded(text, condition) if condition in _IDLE else Detached(text, condition)
    cls, code = found
    return cls(text, (0, 0), '', code)
