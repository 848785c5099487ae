"""Broker URLs: taken apart, put together, and shown without their password.

Nothing here switches.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlparse  # noqa: F401 - Celery takes the last from here

from greenmq.exceptions import InvalidArgument, also

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

_NO = ('false', '0', 'no', 'off')

#: What a transport may be called in a URL. No dots and colons: those would name code, see `check_scheme`.
_SCHEME = re.compile(r'[A-Za-z][A-Za-z0-9+_-]*')
# Several URLs after each other: a semicolon in a password is not followed by a scheme.
_SEVERAL = re.compile(r';(?=[A-Za-z][A-Za-z0-9+._-]*://)')
# One or several hosts with their ports, and a path, without anything that could be a password.
_HOSTS = re.compile(r'[\w.-]*(:[0-9]{1,5})?(,[\w.-]+(:[0-9]{1,5})?)*(/[^@]*)?')
_V6 = re.compile(r'[0-9A-Fa-f:.]+(%[\w.-]+)?')
_HOST = re.compile(r'(?:\[([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|([^@/?#=:;\[\]\\]+))(?::([0-9]+))?')
_USER = re.compile(r'[\w.%+-]*')
# Schemes in which what stands alone before the @ is no user's name but the key, or a password whose colon
# was forgotten.
_KEY_FOR_USER = ('azurestoragequeues', 'azureservicebus', 'redis', 'rediss', 'sentinel', 'valkey', 'valkeys')
# URLs of which nothing is percent-encoded: what stands before the last @ is secret, slashes and all.
_UNENCODED = ('azurestoragequeues', 'azureservicebus')
# A URL in the middle of a text.
_IN_TEXT = re.compile(r'[A-Za-z][A-Za-z0-9+._-]*://[^\s\'"<>]+')


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
        if query.get('ssl', '').lower() in _NO:
            raise InvalidArgument('ssl in the URL', query['ssl'], f'contradicts {", ".join(tls)}')
        for name in tls:
            del parsed[name]
        parsed['ssl'] = tls
    return parsed


def _tls_option(name: str, value: str) -> Any:
    if name == 'ssl_cert_reqs':
        return parse_ssl_cert_reqs(value)
    if name == 'ssl_check_hostname':
        return value.lower() not in _NO
    return value


def parse_ssl_cert_reqs(query_value: str) -> ssl.VerifyMode:
    """Return the verify mode that a URL names: `CERT_REQUIRED` or `required`, and so on.

    Raises:
        InvalidArgument: no such mode.
    Source: kombu.utils.url.parse_ssl_cert_reqs; differs: the KeyError is an InvalidArgument as well.
    """
    try:
        return _CERT_REQS[query_value]
    except (KeyError, TypeError):
        known = ', '.join(_CERT_REQS)
        refusal = also(InvalidArgument, KeyError)
        raise refusal('ssl_cert_reqs', query_value, f'must be one of {known}') from None


def url_to_parts(url: str) -> urlparts:
    """Take a URL apart; see `urlparts`. A text without `://` is a host (and port, and path).

    An @ stands before the host and nowhere else: in a path, a query or a password it is written %40. Were it
    allowed there, ``user:a/b@host`` would be the host "user", and its password shown in every text.

    Raises:
        InvalidArgument: it cannot be read, or the port is no number up to 65535. The text shows nothing but
            the scheme: which part is the password is not known then.
    Source: kombu.utils.url.url_to_parts; differs: misplaced @ are refused.
    """
    scheme, separator, rest = url.partition('://')
    if not separator:
        scheme, rest = '', url
    authority = re.split('[/?#]', rest, maxsplit=1)[0]
    after = rest[len(authority) :]
    if '@' in after:
        raise _unreadable(
            scheme,
            'has an @ after its host: percent-encode the user name, the password and every other @ '
            '(/ as %2F, ? as %3F, # as %23, @ as %40)',
        )
    user_part, _, place = authority.rpartition('@')
    user, _, password = user_part.partition(':')
    host, port = _host_and_port(scheme, place)
    host = unquote(host.lower())
    if re.search('[@?#\\s]', host):
        raise _unreadable(scheme, 'has a host that is none')
    path, _, query = after.partition('#')[0].partition('?')
    return urlparts(
        scheme.lower(),
        host or None,
        port,
        unquote(user) or None,
        unquote(password) or None,
        unquote(path.removeprefix('/')) or None,
        dict(parse_qsl(query)),
    )


def _host_and_port(scheme: str, place: str) -> tuple[str, int | None]:
    if place.startswith('['):
        host, closed, rest = place[1:].partition(']')
        if not closed or (rest and not rest.startswith(':')):
            raise _unreadable(scheme, 'has a host that is not [address] or [address]:port')
        port = rest[1:]
    else:
        host, _, port = place.partition(':')
    if not port:
        return host, None
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise _unreadable(
            scheme,
            'has a port that is not a number from 0 to 65535 (percent-encode a user name or password with '
            'one of / ? # @ in it)',
        )
    return host, int(port)


def _unreadable(scheme: str, limit: str) -> InvalidArgument:
    shown = f'{scheme}://...' if scheme and _SCHEME.fullmatch(scheme) else '...'
    return InvalidArgument('URL', shown, limit)


def check_scheme(scheme: str) -> str:
    """Refuse a scheme that is none: a path to code in it would be imported.

    Returns:
        str: the scheme.
    Raises:
        InvalidArgument: dots, colons or other characters in it. Shown is only what cannot be a password.
    """
    if _SCHEME.fullmatch(scheme):
        return scheme
    shown = scheme if re.fullmatch(r'[A-Za-z0-9+._-]+', scheme) else '...'
    raise InvalidArgument(
        'Invalid transport scheme in the URL', shown,
        'is no name of a transport (a class is given as transport=, never in a URL)',
    )  # fmt: skip


def split_host(text: str) -> tuple[str, int | None]:
    """Take apart what is no URL: a host name or address, with a port or without, or a path of a socket.

    Returns:
        tuple[str, int | None]: the host, an IPv6 address without brackets, and the port.
    Raises:
        InvalidArgument: it is neither. The text shows nothing of it: it may be a URL, its scheme forgotten,
            and have a password in it.
    """
    if text.startswith('/') and '@' not in text:
        return text, None
    if text.count(':') > 1 and _V6.fullmatch(text):
        return text, None
    found = _HOST.fullmatch(text)
    if found is None or int(found[3] or 0) > 65535:
        raise InvalidArgument(
            'hostname', '...',
            'is no URL and no host or host:port: a URL has a scheme, as in amqp://user:password@host (and '
            'percent-encode the user name and password)',
        )  # fmt: skip
    return found[1] or found[2], int(found[3]) if found[3] else None


#: Name of an older API; Celery's Redis backend uses it.
_parse_url = url_to_parts


def secret(password: Any) -> Any:
    """A password, which may be given as a function: then what it returns now.

    Switches: as that function.
    Source: greenmq's own: kombu 5.7 takes a callable, called at each connect.
    """
    return password() if callable(password) else password


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
        sanitize (bool): show `mask` in place of the password, and of a user that may be one.
    Source: kombu.utils.url.as_url; differs: an IPv6 address stands in brackets.
    """
    location = ''
    if user or password:
        location = safequote(user) if user else ''
        if sanitize and not password and scheme.partition('+')[0] in _KEY_FOR_USER:
            location = mask or ''
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
    """Return the URL, or the several URLs, with `mask` in place of what may be a password, and no query.

    Never fails: of a text that cannot be read as a URL nothing is shown that may be a part of a password.
    Source: kombu.utils.url.sanitize_url.
    """
    return ';'.join(_masked(part, mask or '') for part in _SEVERAL.split(url))


def maybe_sanitize_url(url: Any, mask: str | None = '**') -> Any:
    """Mask the password if that is a URL, or one whose scheme is missing; else it comes back as it is.

    Source: kombu.utils.url.maybe_sanitize_url.
    """
    return sanitize_url(url, mask) if isinstance(url, str) and ('://' in url or '@' in url) else url


def hide_passwords(text: str) -> str:
    """Mask the passwords of all URLs in a text, e.g. an exception's, that somebody else wrote."""
    return _IN_TEXT.sub(lambda found: sanitize_url(found[0]) if _may_hide(found[0]) else found[0], text)


def _may_hide(url: str) -> bool:
    return '@' in url or '?' in url


def _masked(url: str, mask: str) -> str:
    scheme, separator, rest = url.partition('://')
    if not separator:
        scheme, rest = '', url
    start = scheme + separator
    secret, at, place = rest.rpartition('@')
    if scheme.lower() not in _UNENCODED:
        try:
            parts = url_to_parts(url)
        except InvalidArgument:
            pass  # then it is looked at as a text, below
        else:
            shown = as_url(*parts, sanitize=True, mask=mask)
            return shown if separator else shown.removeprefix('://').removesuffix('/')
    if not at:
        # a port or the beginning of a password: nothing tells them apart
        hosts = re.split('[?#]', rest, maxsplit=1)[0]
        return start + (hosts if _HOSTS.fullmatch(hosts) else mask)
    user, colon, _ = secret.partition(':')
    named = colon and scheme.lower() != 'azurestoragequeues' and _USER.fullmatch(user)
    shown = f'{user}:{mask}' if named else mask
    # Behind a question mark the last @ may stand in the value of an option, and what follows be secret. Only
    # a SAS token has one in front of the account's URL.
    if ('?' in secret or '#' in secret) and (not place.startswith(('http:', 'https:')) or '@http' in secret):
        return start + shown
    return f'{start}{shown}@{re.split("[?#]", place, maxsplit=1)[0]}'
