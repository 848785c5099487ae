"""The one table of what the system's errors mean for a connection, and the errors of dialling."""

from __future__ import annotations

import errno

from greenmq.exceptions import ConnectionLost

__all__ = ('DialError', 'DialRefused', 'meaning')

# What the kernel's errors mean. Everything that is not listed is a loss too, in the kernel's own words.
_LOST = {
    errno.ECONNRESET: 'the other side reset the connection',
    errno.ECONNABORTED: 'the connection was aborted',
    errno.EPIPE: 'the other side closed the connection',
    errno.ESHUTDOWN: 'the connection was shut down',
    errno.ENOTCONN: 'the connection is gone',
    # No deadline of ours: the kernel gave up. Python's TimeoutError for it would mean the opposite.
    errno.ETIMEDOUT: 'the other side has not answered for so long that the system gave up',
    errno.EHOSTUNREACH: 'no route to the host',
    errno.ENETUNREACH: 'no route to the network',
    errno.ENETDOWN: 'the network is down',
    errno.ECONNREFUSED: 'refused',
}


# What TLS says by an alert, where OpenSSL's word for it does not help.
_ALERTS = {
    'TLSV13_ALERT_CERTIFICATE_REQUIRED': 'the other side wants a client certificate (certfile, keyfile)',
    'TLSV1_ALERT_UNKNOWN_CA': "the other side does not know our certificate's authority",
}


class DialError(ConnectionLost, OSError):
    """No connection could be made to any address of a host. May be retried.

    Attributes:
        errno (int | None): of the last attempt, if it was the system's.
    Source: greenmq's own; an OSError too, as programs written for kombu expect of `connect()`.
    """

    def __init__(self, text: str, number: int | None = None) -> None:
        super().__init__(text)
        self.errno = number


class DialRefused(DialError, ConnectionRefusedError):
    """Nobody listens there: each attempt was refused.

    Source: greenmq's own; a ConnectionRefusedError too.
    """


def meaning(error: OSError) -> str:
    """Say what an error of the system means for a connection.

    Source: the table in this module.
    """
    alert = _ALERTS.get(getattr(error, 'reason', None) or '')
    if alert:
        return f'{alert}: {error}'
    return _LOST.get(error.errno or 0) or str(error) or type(error).__name__
