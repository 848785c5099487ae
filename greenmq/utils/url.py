"""Broker URLs: taken apart, put together, and shown without their password.

Nothing here switches.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from greenmq.exceptions import InvalidArgument

#: Whether the ssl module is there; Python without it is not supported.
ssl_available = True

#: Percent-encode a part of a URL, slashes included.
safequote = partial(quote, safe='')

_CERT_REQS = {
    'CERT_NONE': ssl.CERT_NONE,
    'none': ssl.CERT_NONE,
    'CERT_OPTIONAL': ssl.CERT_OPTIONAL,
    'optional': ssl.CERT_OPTIONAL,
    'CERT_REQUIRED': ssl.CERT_REQUIRED,
    'required': ssl.CERT_REQUIRED,
}

# `user:password@` of one or of several hosts; the password reaches to the last @ before a slash, or it would
# show
# its tail when someone forgot to encode an @ in it.
_PASSWORD = re.compile(r'(?<=//)([^/:@]*):([^/]*)@')
# The same with an unencoded slash in the password: told by an @ somewhere after it.
_PASSWORD_WITH_SLASH = re.compile(r'(?<=//)([^/:@]*):(.*)@')


class urlparts(NamedTuple):
    """The parts of a URL, percent-decoded; what is empty is None.

    Source: kombu.utils.url.urlparts.
    """

    scheme: str
    hostname: str | None
    port: int | None
    username: str | None
    password: str | None
    path: str | None
    query: dict[str, str]


def parse_url(url: str) -> dict[str, Any]:
    """Turn a URL into the arguments of a Connection.

    Arguments:
        url (str): `transport://userid:password@hostname:port/virtual_host?option=value`.
    Returns:
        dict[str, Any]: transport, hostname, port, userid, password, virtual_host, then each option of the
        query as text. Options that begin with `ssl_` are gathered, converted, in the mapping `ssl`.
    Raises:
        InvalidArgument: the port is no number up to 65535, `ssl_cert_reqs` is unknown, or an option would
            replace a part of the URL (only `virtual_host` may: a socket path leaves no other room for it).
    Switches: no.
    Source: kombu.utils.url.parse_url.
    """
    scheme, hostname, port, userid, password, path, query = url_to_parts(url)
    parsed: dict[str, Any] = {
        'transport': scheme,
        'hostname': hostname,
        'port': port,
        'userid': userid,
        'password': password,
        'virtual_host': path,
    }
    for name, value in query.items():
        if name in parsed and name != 'virtual_host':
            raise InvalidArgument('URL option', name, 'would replace a part of the URL itself')
        parsed[name] = value
    tls = {name: _tls_option(name, query[name]) for name in query if name.startswith('ssl_')}
    if tls:
        for name in tls:
            del parsed[name]
        parsed['ssl'] = tls
    return parsed


def _tls_option(name: str, value: str) -> Any:
    if name == 'ssl_cert_reqs':
        return parse_ssl_cert_reqs(value)
    if name == 'ssl_check_hostname':
        return value.lower() not in ('false', '0', 'no', 'off')
    return value


def parse_ssl_cert_reqs(query_value: str) -> ssl.VerifyMode:
    """Return the verify mode that a URL names: `CERT_REQUIRED` or `required`, and so on.

    Raises:
        InvalidArgument: no such mode.
    Source: kombu.utils.url.parse_ssl_cert_reqs; differs: a typed error where kombu has a KeyError.
    """
    try:
        return _CERT_REQS[query_value]
    except (KeyError, TypeError):
        known = ', '.join(_CERT_REQS)
        raise InvalidArgument('ssl_cert_reqs', query_value, f'must be one of {known}') from None


def url_to_parts(url: str) -> urlparts:
    """Take a URL apart; see `urlparts`. A text without `://` is a host (and port, and path).

    Raises:
        InvalidArgument: the port is no number up to 65535. The text shows no part of the password.
    Source: kombu.utils.url.url_to_parts.
    """
    scheme, separator, rest = url.partition('://')
    if not separator:
        scheme, rest = '', url
    # Under a scheme of its own urlsplit treats some parts differently: all brokers' URLs are read like
    # http's.
    parts = urlsplit(f'http://{rest}')
    path = parts.path.removeprefix('/')
    return urlparts(
        scheme.lower(),
        unquote(parts.hostname or '') or None,
        _port(parts, url),
        unquote(parts.username or '') or None,
        unquote(parts.password or '') or None,
        unquote(path) or None,
        dict(parse_qsl(parts.query)),
    )


def _port(parts: Any, url: str) -> int | None:
    try:
        return parts.port  # type: ignore[no-any-return]
    except ValueError:
        if '@' in parts.path:
            limit = 'cannot be read: percent-encode the user name and password'
        else:
            limit = 'has a port that is not a number from 0 to 65535'
        raise InvalidArgument('URL', _mask(url, '**'), limit) from None


#: Name of an older API; Celery's Redis backend uses it.
_parse_url = url_to_parts


def as_url(
    scheme: str,
    host: str | None = None,
    port: int | None = None,
    user: str | None = None,
    password: str | None = None,
    path: str | None = None,
    query: str | Mapping[str, Any] | None = None,
    sanitize: bool = False,
    mask: str | None = '**',
) -> str:
    """Put a URL together, percent-encoding each part but the path.

    Arguments:
        query (str): accepted, and left out, as in kombu: it may hold secrets.
        sanitize (bool): show `mask` in place of the password.
    Source: kombu.utils.url.as_url; differs: an IPv6 address stands in brackets.
    """
    location = ''
    if user or password:
        location = safequote(user) if user else ''
        if password:
            shown = (mask or '') if sanitize else safequote(password)
            location += f':{shown}'
        location += '@'
    if host:
        location += f'[{host}]' if ':' in host and not host.startswith('[') else safequote(host)
    if port:
        location += f':{port}'
    return f'{scheme}://{location}/{path or ""}'


def sanitize_url(url: str, mask: str | None = '**') -> str:
    """Return the URL with `mask` in place of its password, and without its query.

    Never fails: of a text that is no URL only what looks like a password is masked.
    Source: kombu.utils.url.sanitize_url.
    """
    try:
        return as_url(*url_to_parts(url), sanitize=True, mask=mask)
    except ValueError:
        return _mask(url, mask)


def maybe_sanitize_url(url: Any, mask: str | None = '**') -> Any:
    """Mask the password if that is a URL; anything else comes back as it is.

    Source: kombu.utils.url.maybe_sanitize_url.
    """
    return sanitize_url(url, mask) if isinstance(url, str) and '://' in url else url


def _mask(url: str, mask: str | None) -> str:
    pattern = _PASSWORD if _PASSWORD.search(url) else _PASSWORD_WITH_SLASH
    return pattern.sub(lambda found: f'{found[1]}:{mask or ""}@', url.partition('?')[0])
