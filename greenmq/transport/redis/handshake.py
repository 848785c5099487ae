"""How a link comes to be: where to, TLS or a unix socket, who we are, and what the server can do."""

from __future__ import annotations

import socket
from typing import Any, NamedTuple

from greenmq import runtime
from greenmq.exceptions import ConnectionLost, TimeoutError
from greenmq.log import get_logger
from greenmq.transport.credentials import provided
from greenmq.transport.redis.errors import (
    AuthenticationFailed,
    ServerUnfit,
    not_reached,
    raised,
    silent,
    translate,
)
from greenmq.transport.redis.link import Link
from greenmq.transport.redis.replies import is_facts
from greenmq.transport.redis.resp import MAX_BYTES
from greenmq.transport.redis.scripts import FETCH, RENEW, SETTLE, SWEEP
from greenmq.utils.text import printable

__all__ = ('Target', 'connect', 'greet')

logger = get_logger('greenmq.transport.redis')


class Target(NamedTuple):
    """One server and how to introduce oneself to it.

    Attributes:
        host (str), port (int): or `path`, of a unix socket.
        db (int), username, password, client_name (str | None): for the handshake.
        tls: what `runtime.TLSOptions.of` takes.
        tracking (bool): ask for CLIENT TRACKING.
        interval (float): seconds between health checks.
        tcp (tuple): for setsockopt.
        scripts (bool): load them.
        max_bytes (int): longest text that a reply may hold.
        role (str): what the server must be, 'master'; '' for anything.
        credentials (object): a `credential_provider`, asked at each dial.
    """

    host: str = 'localhost'
    port: int = 6379
    path: str = ''
    db: int = 0
    username: str | None = None
    password: str | None = None
    client_name: str | None = None
    tls: Any = None
    tracking: bool = True
    interval: float = 15.0
    tcp: tuple[tuple[int, int, int], ...] = ()
    role: str = ''
    scripts: bool = True
    max_bytes: int = MAX_BYTES
    credentials: Any = None

    @property
    def name(self) -> str:
        """Host and port, or the path, for texts."""
        if self.path:
            return self.path
        return f'[{self.host}]:{self.port}' if ':' in self.host else f'{self.host}:{self.port}'


def connect(target: Target, owner: Any, deadline: runtime.Deadline) -> Link:
    """Connect and say hello, within one deadline.

    Raises:
        ConnectionLost, OSError, TimeoutError: not reached, or it does not answer.
        AuthenticationFailed: the password is wrong. ServerUnfit: it is loading, or no primary.
    Switches: yes. Killed: nothing stays open.
    """
    try:
        if target.path:
            stream = runtime.dial_unix(target.path, deadline)
        else:
            tls = runtime.TLSOptions.of(target.tls)
            stream = runtime.dial(target.host, target.port, deadline, tls=tls, socket_options=target.tcp)
    except runtime.DialError as error:
        raise not_reached(error) from error
    try:
        link = Link(stream, target.name, owner, target.interval, target.max_bytes)
        link.node = target.name
        link.start()
    except BaseException:
        stream.abandon()
        raise
    try:
        greet(link, target, deadline)
    except AuthenticationFailed as error:
        link.close()
        raise _refused(error, target) from error
    except (TimeoutError, ConnectionLost) as error:
        link.close()
        if link.bytes_in:
            raise
        raise silent(error, stream.encrypted) from error
    except BaseException:
        link.close()
        raise
    return link


def _refused(error: AuthenticationFailed, target: Target) -> AuthenticationFailed:
    # The server's own sentence explains its protocol, and names neither itself nor the user.
    provided = target.credentials is not None
    user = 'the user of the credential provider' if provided else f'user {target.username or "default"!r}'
    given = '' if target.password or provided else ' without a password'
    word = 'WRONGPASS' if 'WRONGPASS' in str(error) or given == '' else 'NOAUTH'
    return AuthenticationFailed(f'redis {target.name} refused the login of {user}{given} ({word})')


def greet(link: Link, target: Target, deadline: runtime.Deadline) -> None:
    """The handshake: RESP3 if the server knows it, user and password, database, tracking.

    Raises, Switches: as `connect`.
    """
    username, password = target.username, target.password
    if target.credentials is not None:
        username, password = provided(target.credentials)
    auth = ('AUTH', username or 'default', password) if password else ()
    hello = link.expect(link.call(('HELLO', '3', *auth), deadline), is_facts)
    if isinstance(hello, Exception):
        _greet_old(link, hello, username, password, deadline)
    facts = hello if isinstance(hello, dict) else {}
    link.resp3 = bool(facts)
    link.version = _version(facts.get(b'version'))
    commands: list[tuple[Any, ...]] = [('PING',)]
    if target.db:
        commands.append(('SELECT', target.db))
    if target.role:
        commands.append(('ROLE',))
    replies = link.call_many(commands, deadline)
    shapes = [bytes, *([bytes] if target.db else []), _is_role]
    for reply, shape in zip(replies, shapes, strict=False):
        raised(link.expect(reply, shape), target.name)
    if target.role and replies[-1][0] != target.role.encode():
        raise ServerUnfit(f'redis {target.name} is a {printable(replies[-1][0], 40)}, not a {target.role}')
    _introduce(link, target, deadline)


def _greet_old(
    link: Link, refusal: Exception, username: str | None, password: str | None, deadline: runtime.Deadline
) -> None:
    error = translate(refusal, link.name)
    text = str(refusal).lower()
    if 'unknown command' not in text and 'noproto' not in text and 'unsupported protocol' not in text:
        raise error
    if password:
        words = ('AUTH', username, password) if username else ('AUTH', password)
        raised(link.expect(link.call(words, deadline), bytes), link.name)


def _is_role(reply: Any) -> bool:
    return reply.__class__ is list and bool(reply) and reply[0].__class__ is bytes


def _introduce(link: Link, target: Target, deadline: runtime.Deadline) -> None:
    # Nothing of this is needed to work, and an ACL may forbid it.
    name = (target.client_name or f'greenmq@{socket.gethostname()}').replace(' ', '_')
    commands: list[tuple[Any, ...]] = [('CLIENT', 'SETNAME', name)]
    tracking = target.tracking and link.resp3
    if tracking:
        commands.append(('CLIENT', 'TRACKING', 'ON'))
    if target.scripts:
        # Known beforehand, the first settlements keep their target among the commands around them.
        commands += [('SCRIPT', 'LOAD', script.text) for script in (FETCH, SETTLE, RENEW, SWEEP)]
    replies = link.call_many(commands, deadline)
    if link.error is not None:
        raise runtime.again(link.error)
    if tracking:
        refusal = replies[1]
        link.tracks = not isinstance(refusal, Exception)
    if target.tracking and not link.tracks:
        logger.warning(
            'redis %s does not tell of new messages (%s): consumers wait with BLMOVE instead',
            link.name,
            replies[1] if tracking else 'no RESP3',
        )


def _version(text: Any) -> tuple[int, ...]:
    parts = text[:40].split(b'.') if isinstance(text, bytes) else []
    return tuple(int(part) for part in parts if part.isdigit())
