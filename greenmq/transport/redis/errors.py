"""What the server's error replies mean here: each gets a class below kombu's of its place and below
redis-py's.

Which of them end the connection stands in `FATAL`: a server that cannot take writes any more is no server for
us, so the link is given up and a better one is looked for (P33).
"""

from __future__ import annotations

import socket
from typing import Any

from redis import exceptions as driver

from greenmq.exceptions import (
    AccessRefused,
    AMQPError,
    ChannelError,
    ConnectionError,
    ConnectionLost,
    InconsistencyError,
    NotAllowed,
    OperationalError,
    PreconditionFailed,
    TimeoutError,
)
from greenmq.runtime import DialError, DialRefused, again, speaks
from greenmq.utils.text import printable

__all__ = (
    'AuthenticationFailed', 'CommandFailed', 'LinkLost', 'NotPermitted', 'OutOfMemory', 'Refused',
    'ServerUnfit', 'Unreachable', 'WrongReply', 'WrongType', 'channel_errors', 'connection_errors',
    'not_reached', 'translate',
)  # fmt: skip


class _Told:
    # The server's words are the whole text; amqp's classes would put codes around them.
    def __str__(self) -> str:
        args = self.args  # type: ignore[attr-defined]
        return str(getattr(self, 'reply_text', None) or (args[0] if args else type(self).__name__))

    def __repr__(self) -> str:
        return f'{type(self).__name__}({str(self)!r})'


class OutOfMemory(_Told, OperationalError, driver.ResponseError):
    """The server has reached `maxmemory` and refuses to store. Not retried: only an operator or time
    helps.
    """


class AuthenticationFailed(_Told, NotAllowed, driver.AuthenticationError):
    """NOAUTH or WRONGPASS: no or wrong user and password. Not retried."""


class NotPermitted(_Told, AccessRefused, driver.NoPermissionError):
    """NOPERM: the ACL of our user forbids the command, key or channel. Not retried."""


class WrongType(_Told, PreconditionFailed, driver.ResponseError):
    """WRONGTYPE: a key of ours holds something else. Blame: who shares the database."""


class CommandFailed(_Told, ChannelError, driver.ResponseError):
    """The server refused a command for another reason; its words are the text."""


class ServerUnfit(_Told, ConnectionLost, driver.ReadOnlyError):
    """READONLY, LOADING, MASTERDOWN, CLUSTERDOWN, …: this server can't serve us now. Recovery is under
    way.
    """


class LinkLost(ConnectionLost, driver.ConnectionError):
    """The server or the network ended the connection."""


class WrongReply(LinkLost):
    """A command was answered with what is no answer to it. The connection was given up: what follows on it
    could not be believed.
    """


class Unreachable(DialError, driver.ConnectionError):
    """No connection could be made."""


class Refused(DialRefused, driver.ConnectionError):
    """Nobody listens there."""


def stranger(name: str, data: bytes) -> LinkLost | None:
    """An error if the first bytes of a server say that it is no Redis."""
    found = speaks(data)
    if not found or 'Redis' in found:
        return None
    way = ' (rediss://)' if found == 'TLS' else ''
    return LinkLost(f'{name} is no Redis: what answers there speaks {found}{way}')


def silent(error: Exception, encrypted: bool) -> Exception:
    """The same for one that said nothing at all during the handshake."""
    more = '' if encrypted else ', and does the port speak TLS (rediss://)'
    text = f'{error}; nothing was heard: is that Redis{more}?'
    return TimeoutError(text) if isinstance(error, TimeoutError) else LinkLost(text)


def not_reached(error: DialError) -> DialError:
    """An error of dialling, as a class that is redis-py's too."""
    cls = Refused if isinstance(error, DialRefused) else Unreachable
    return cls(str(error), error.errno)


#: First word of an error reply → what it means.
MEANINGS: dict[str, type[Exception]] = {
    'OOM': OutOfMemory,
    'NOAUTH': AuthenticationFailed,
    'WRONGPASS': AuthenticationFailed,
    'NOPERM': NotPermitted,
    'WRONGTYPE': WrongType,
    'READONLY': ServerUnfit,
    'LOADING': ServerUnfit,
    'MASTERDOWN': ServerUnfit,
    'CLUSTERDOWN': ServerUnfit,
    'TRYAGAIN': ServerUnfit,
    'MOVED': ServerUnfit,
    'ASK': ServerUnfit,
    'UNBLOCKED': ServerUnfit,
    'NOREPLICAS': ServerUnfit,
}

#: Of those, what makes a link useless. In a cluster it is the slot that is elsewhere, not the server that is
#: bad.
FATAL = frozenset(('READONLY', 'LOADING', 'MASTERDOWN', 'UNBLOCKED', 'NOREPLICAS'))

#: redis-py strips the first word of the errors it knows: its class then tells it.
_WORDS: dict[str, str] = {
    'OutOfMemoryError': 'OOM',
    'AuthenticationError': 'NOAUTH',
    'AuthenticationWrongNumberOfArgsError': 'NOAUTH',
    'NoPermissionError': 'NOPERM',
    'ReadOnlyError': 'READONLY',
    'BusyLoadingError': 'LOADING',
    'MasterDownError': 'MASTERDOWN',
    'ClusterDownError': 'CLUSTERDOWN',
    'TryAgainError': 'TRYAGAIN',
    'MovedError': 'MOVED',
    'AskError': 'ASK',
}


def word_of(error: BaseException) -> str:
    """The first word of an error reply: what kind it is."""
    told = getattr(error, 'status_code', None)  # redis-py 6 and later
    return told or _WORDS.get(type(error).__name__) or str(error).partition(' ')[0]


def translate(error: BaseException, where: str = '') -> BaseException:
    """Turn an error reply, as redis-py's table made it, into ours. What is ours already stays as it is.
    """
    if isinstance(error, (AMQPError, OperationalError)):
        return error
    word = word_of(error)
    text = printable(error)
    # A script's error carries the command's: "... script: x, on @user_script:1." around "-OOM ..."
    for known in MEANINGS:
        if word == known or f'{known} ' in text[:80]:
            made = MEANINGS[known](f'{where}: {known} {text.removeprefix(known + " ")}')
            break
    else:
        if isinstance(error, driver.ConnectionError):
            made = LinkLost(f'{where}: {text}')  # e.g. "max number of clients reached"
        else:
            made = CommandFailed(f'{where}: {text}')
    made.__cause__ = error
    return made


def is_fatal(error: BaseException) -> bool:
    """Does this reply mean that the link is of no more use?"""
    return isinstance(error, driver.RedisError) and (
        word_of(error) in FATAL or any(f'{word} ' in str(error)[:80] for word in ('READONLY', 'MASTERDOWN'))
    )


connection_errors: tuple[type[BaseException], ...] = (
    ConnectionError,
    InconsistencyError,
    OSError,
    EOFError,
    socket.timeout,
    driver.ConnectionError,
    driver.BusyLoadingError,
    driver.AuthenticationError,
    driver.TimeoutError,
)
channel_errors: tuple[type[BaseException], ...] = (
    ChannelError,
    driver.DataError,
    driver.InvalidResponse,
    driver.ResponseError,
)


def raised(reply: Any, where: str) -> Any:
    """The reply, unless it is an error: then that is raised, in our words."""
    if isinstance(reply, Exception):
        error = translate(reply, where)
        try:
            # One error may be told to many, whose frames have it.
            raise again(error) if error is reply else error
        finally:
            del error  # its traceback holds this frame: each would keep the other until the collector comes
    return reply
