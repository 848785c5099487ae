"""Who we are: the mechanism that a login takes, and what it says first."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from greenmq.exceptions import InvalidArgument
from greenmq.transport.amqp10.errors import LoginRefused
from greenmq.utils.text import printable

__all__ = ('Login', 'choose')

OK = 0
_CODES = {
    1: 'user or password are wrong, or not allowed here',
    2: 'an error inside the broker',
    3: 'an error inside the broker that stays',
    4: 'an error inside the broker that passes',
}


class Login(NamedTuple):
    """As whom to log in.

    Attributes:
        mechanism (str | None): asked for by name; None chooses by what is given.
        encrypted (bool): the connection speaks TLS.
    """

    user: str | None = None
    password: str | None = None
    mechanism: str | None = None
    encrypted: bool = False

    def __repr__(self) -> str:
        return f'<Login of {self.user!r}, {self.mechanism}>'


def _plain(login: Login) -> bytes:
    return f'\0{login.user}\0{login.password}'.encode()


def _anonymous(login: Login) -> bytes:
    return b'greenmq'


def _external(login: Login) -> bytes:
    return (login.user or '').encode()


#: Mechanism → its first and only words.
MECHANISMS: dict[str, Callable[[Login], bytes]] = {
    'PLAIN': _plain, 'ANONYMOUS': _anonymous, 'EXTERNAL': _external,
}  # fmt: skip


def wanted(login: Login) -> str:
    """The mechanism for a login: kombu's rule for Qpid.

    Raises:
        InvalidArgument: no such mechanism, or half a login.
    """
    name = (login.mechanism or '').upper()
    if name:
        if name not in MECHANISMS:
            known = ', '.join(sorted(MECHANISMS))
            raise InvalidArgument('login_method', login.mechanism, f'is none of {known}')
        if name == 'PLAIN' and (login.user is None or login.password is None):
            raise InvalidArgument('login_method', name, 'asks for a user and a password')
        if name == 'EXTERNAL' and not login.encrypted:
            raise InvalidArgument('login_method', name, 'is what TLS says of us: it takes a TLS connection')
        return name
    if login.user is not None and login.password is not None:
        return 'PLAIN'
    if login.user is not None or login.password is not None:
        given, lacks = ('userid', 'password') if login.user is not None else ('password', 'userid')
        raise InvalidArgument(given, '...', f'is given without a {lacks}')
    return 'ANONYMOUS'


def choose(login: Login, offered: tuple[str, ...], name: str) -> tuple[str, bytes]:
    """Return the mechanism and its first words.

    Raises:
        LoginRefused: the peer does not offer it.
    """
    mechanism = wanted(login)
    if mechanism not in offered:
        has = printable(', '.join(offered), 200) or 'nothing'
        raise LoginRefused(f'{name} takes no login by {mechanism}, but {has}', (0, 0), '', 403)
    return mechanism, MECHANISMS[mechanism](login)


def refusal(code: int, login: Login, name: str) -> LoginRefused:
    """The error for a login that was refused."""
    why = _CODES.get(code, f'code {code}')
    return LoginRefused(f'{name} refused the login of {login.user or "nobody"!r} ({why})', (0, 0), '', 403)
