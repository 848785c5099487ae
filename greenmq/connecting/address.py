"""Where a connection goes: URLs, keywords and alternates turned into one set of parameters.

Nothing here opens anything or waits. What a URL leaves out is filled from the keywords the
caller gave, never from another URL of the list (the second host must not inherit the first one's password).
A host without a scheme is another place of the first URL, and keeps all that this says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from math import inf
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from greenmq.exceptions import InvalidArgument
from greenmq.log import get_logger
from greenmq.transport import TRANSPORT_ALIASES, get_transport_cls
from greenmq.transport.base import Transport as BaseTransport
from greenmq.transport.options import convert, truth
from greenmq.utils.functional import shufflecycle
from greenmq.utils.url import (
    as_url,
    check_scheme,
    maybe_sanitize_url,
    parse_url,
    sanitize_url,
    secret,
    split_host,
    url_to_parts,
)

if TYPE_CHECKING:
    from greenmq.connection import Connection

logger = get_logger('greenmq.connection')

#: what Connection(...) takes beside the URL; a query argument of such a name is that parameter, any other
#: one is a transport option.
PARAMETERS: dict[str, Callable[[Any], Any]] = {
    'heartbeat': float,
    'connect_timeout': float,
    'login_method': str,
    'failover_strategy': str,
}
#: Options of TLS that a URL may name without the ``ssl_`` before them.
TLS_NAMES = frozenset((
    'ca_certs', 'ca_path', 'cafile', 'capath', 'cert_reqs', 'certfile', 'check_hostname', 'ciphers',
    'keyfile', 'keyfile_password', 'server_hostname',
))  # fmt: skip
#: kombu's transports that read their URLs by themselves, which greenmq may not have.
_THEIR_OWN = ('azureservicebus', 'azurestoragequeues', 'gcpubsub', 'mongodb', 'sqla', 'sqlalchemy')
PLACE = ('hostname', 'userid', 'password', 'virtual_host', 'port')

Strategy = Callable[[list[str]], Iterator[str]]

failover_strategies: dict[str, Strategy] = {'round-robin': cycle, 'shuffle': shufflecycle}

#: Names that mean another transport in everything a Connection says about itself.
resolve_aliases = {'pyamqp': 'amqp', 'librabbitmq': 'amqp'}

_warned: set[str] = set()


def warn_unknown(names: Iterable[str], known: Iterable[str]) -> None:
    """Say once for each keyword that nothing reads it, with the nearest name that is read."""
    for name in set(names) - _warned:
        from difflib import get_close_matches  # for those who mistyped; the others need not wait

        _warned.add(name)
        near = get_close_matches(name, list(known), n=1)
        hint = f', did you mean {near[0]!r}?' if near else ''
        logger.warning('Connection() does not know the keyword %r and ignores it%s', name, hint)


def copy_options(value: Any) -> Any:
    """Copy nested dicts and lists; leave what is in them alone.

    Not deepcopy: options hold SSL contexts, callables and driver clients, which can't be copied.
    """
    if isinstance(value, Mapping):
        return {key: copy_options(item) for key, item in value.items()}
    if isinstance(value, list):
        return [copy_options(item) for item in value]
    return value


def split_hosts(hostname: str | Sequence[str] | None) -> list[str]:
    """The URLs or host names in `hostname`: one, several after each other with ``;``, or a list of such."""
    if not hostname:
        return []
    if isinstance(hostname, str):
        # one transport takes a whole list of hosts in its URL and parses it itself: those use commas, not ';'
        return [part.strip() for part in hostname.split(';') if part.strip()]
    return [part for item in hostname for part in split_hosts(item)]


def parse_address(text: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters for one URL or host name.

    Arguments:
        text (str): a URL, a host name, or host:port.
        given (dict[str, Any]): the keywords of Connection(...), or for another host the parameters of the
            first URL: used where the text says nothing.
    Returns:
        dict[str, Any]: hostname, userid, password, virtual_host, port, transport_cls, ssl, uri_prefix and
        those of PARAMETERS that the query named; ``url_options`` holds the rest of the query, as text.
    Raises:
        InvalidArgument: it cannot be read, its scheme names code, or a query argument has no such value.
            The text shows no part that may be a password.
    """
    if '://' not in text:
        host, port = split_host(text)
        more = {'url_options': given.get('url_options', {}), 'uri_prefix': given.get('uri_prefix')}
        return dict(given, hostname=host, port=given.get('port') if port is None else port, **more)
    params = dict(given, url_options={}, uri_prefix=given.get('uri_prefix'))
    scheme = check_scheme(text.partition('://')[0])
    driver = _reader_of(scheme)
    if driver is not None:
        # e.g. sqla+sqlite:///x.db: the transport, or the driver behind the plus, reads the URL by itself
        if scheme.endswith('+socket'):
            url_to_parts(text)  # ours, and read by the same rules
        params.update(hostname=text, transport_cls=driver)
        read = getattr(_class_of(driver), 'url_options', None)
        if read is not None:
            params['url_options'] = read(text)
        if '+' in scheme:
            params['uri_prefix'] = driver
        return params
    found = dict(parse_url(text))
    params['transport_cls'] = found.pop('transport', None) or params.get('transport_cls')
    for name in PLACE:
        value = found.pop(name, None)
        if value is not None and value != '':
            params[name] = value
    _take_query(params, found)
    return params


def _reader_of(scheme: str) -> str | None:
    """Name of the transport that reads URLs of this scheme by itself, lists of hosts and all; or None."""
    prefix, plus, rest = scheme.partition('+')
    if plus and scheme in TRANSPORT_ALIASES:
        return prefix if rest in ('socket', 'srv') else None
    cls = _class_of(prefix)
    if cls is None:
        # It is not here, which is said when it is used. Until then nothing takes the URL apart: what it
        # holds, and where the password stands in it, only its transport knows.
        return prefix if plus or prefix.lower() in _THEIR_OWN else None
    return prefix if getattr(cls, 'can_parse_url', False) else None


def _class_of(name: str) -> Any:
    try:
        return get_transport_cls(name)
    except (KeyError, ImportError):
        return None


def _take_query(params: dict[str, Any], found: dict[str, Any]) -> None:
    tls = found.pop('ssl', None)
    named = dict(tls) if isinstance(tls, Mapping) else {}
    for name, value in found.items():
        convert = PARAMETERS.get(name)
        if name in TLS_NAMES:
            named[name] = value
        elif convert is None:
            params['url_options'][name] = value
        else:
            params[name] = _number(f'{name} in the URL', value, convert)
    wanted = tls_word('ssl in the URL', tls) if isinstance(tls, str) else None
    if named:
        if wanted is False:
            raise InvalidArgument('ssl in the URL', tls, f'contradicts {", ".join(named)}')
        before = params.get('ssl')
        params['ssl'] = {**before, **named} if isinstance(before, Mapping) else named
    elif wanted is not None and not (wanted and params.get('ssl')):
        params['ssl'] = wanted


def tls_word(what: str, value: Any) -> Any:
    """`ssl` as it may be given in a URL or in settings that are texts: true, yes, on, 1 and their opposites.

    Raises:
        InvalidArgument: another word. What is no text comes back as it is.
    """
    if not isinstance(value, str):
        return value
    try:
        return truth(value)
    except ValueError:
        limit = 'is neither true nor false; files and more are named in options of their own, as ssl_ca_certs'
        raise InvalidArgument(what, value, limit) from None


def _number(what: str, value: Any, convert: Callable[[Any], Any] = float) -> Any:
    try:
        number = convert(value)
    except (TypeError, ValueError):
        raise InvalidArgument(what, value, 'is no number of seconds') from None
    if isinstance(number, float) and not 0 <= number < inf:
        raise InvalidArgument(what, value, 'must be a number of seconds, 0 or more and not infinite')
    return number


def resolve_strategy(strategy: str | Strategy) -> Strategy:
    """The function behind a failover strategy: 'round-robin', 'shuffle', or one that the caller wrote.

    Raises:
        InvalidArgument: no strategy of that name.
    """
    if callable(strategy):
        return strategy
    try:
        return failover_strategies[strategy]
    except KeyError:
        known = ', '.join(sorted(failover_strategies))
        raise InvalidArgument('failover_strategy', strategy, f'is none of {known} and no callable') from None


def host_cycle(hosts: list[str], strategy: Strategy) -> Iterator[str] | None:
    """The hosts to try one after the other, without end, after the first; None if there is only one."""
    if len(hosts) < 2:
        return None
    found = strategy(list(hosts))
    if strategy is cycle:
        next(found)  # the first one is in use
    return found


def place_of(params: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells two addresses apart: everything of PLACE but the password."""
    return tuple(params.get(name) for name in PLACE if name != 'password')


class Address:
    """Where a Connection may go: what it was given, its hosts, and the parameters of each.

    Arguments:
        given (dict[str, object]): the keywords of Connection(...), used where a URL says nothing.
        options (Mapping[str, object]): the transport options; copied.
        hosts (list[str]): URLs or host names, the first one first.
        alternates (Sequence[str] | None): more, if there is one host only.
    Attributes:
        alternates (list[str]): the hosts that a copy is to be given.
        hosts (list[str]): all of them, each once, in the order in which they are tried.
    """

    def __init__(
        self, given: dict[str, Any], options: Mapping[str, Any], hosts: list[str],
        alternates: Sequence[str] | None,
    ) -> None:  # fmt: skip
        self.given = given
        self._options = copy_options(options)
        self.alternates = hosts if len(hosts) > 1 else list(alternates or ())
        #: What a host without a scheme, among the alternates or of `switch`, keeps of the first URL.
        self._first: Mapping[str, Any] = given
        self._first = parse_address(hosts[0], given)
        self.hosts = self._all_hosts(hosts[0])

    def _all_hosts(self, first: str) -> list[str]:
        here = place_of(self._parse(first))
        places = [place_of(self._parse(host)) for host in self.alternates]
        if here not in places:
            return [first, *self.alternates]
        # `alternates` of a copy name all the hosts: go on behind the one in use
        at = places.index(here)
        return self.alternates[at:] + self.alternates[:at]

    def _parse(self, text: str) -> dict[str, Any]:
        return parse_address(text, self.given if '://' in text else self._first)

    def parameters(self, text: str) -> dict[str, Any]:
        """The attributes of a Connection that goes to this URL or host. Raises `InvalidArgument`."""
        params = self._parse(text)
        options = {**params.get('url_options', {}), **copy_options(self._options)}
        # One place for every transport: who has it as an option means the same.
        limit, heartbeat = options.get('connect_timeout', params['connect_timeout']), params['heartbeat']
        return {
            'transport_cls': params['transport_cls'] or 'amqp',
            **{name: params[name] for name in ('hostname', 'userid', 'password', 'port', 'login_method')},
            'virtual_host': params['virtual_host'] or '/',
            'uri_prefix': params['uri_prefix'],
            'ssl': tls_word('ssl', params['ssl']),
            'connect_timeout': None if limit is None else _number('connect_timeout', limit),
            'heartbeat': _number('heartbeat', heartbeat) if heartbeat else heartbeat,
            'strategy_given': params['failover_strategy'],
            'failover_strategy': resolve_strategy(params['failover_strategy']),
            'transport_options': options,
        }


def known_transport(connection: Connection) -> Any:
    """The class of its transport, or None.

    None: unknown, or its driver is missing. That is said when the connection is used, as by kombu: programs
    build connections from settings long before.
    """
    try:
        return connection.get_transport_cls()
    except (KeyError, ImportError):
        return None


def converted(connection: Connection, options: dict[str, Any]) -> dict[str, Any]:
    """Transport options as its transport wants them. Raises `UnknownOption`, `InvalidArgument`."""
    cls = known_transport(connection) if options else None
    if cls is None:
        return options
    name = connection.transport_cls or 'amqp'
    shown = resolve_aliases.get(name, name) if isinstance(name, str) else str(name.__name__)
    return convert(options, cls, shown)


def settings_of(connection: Connection, resolve: bool = True) -> dict[str, Any]:
    """The keywords that make another Connection like this one.

    Arguments:
        resolve (bool): with the defaults of the transport, for people.
    """
    name = connection.transport_cls or 'amqp'
    info = {
        'hostname': connection.hostname,
        'userid': connection.userid,
        'password': connection.password,
        'virtual_host': connection.virtual_host,
        'port': connection.port,
        'insist': connection.insist,
        'ssl': connection.ssl,
        'transport': name,
        'connect_timeout': connection.connect_timeout,
        'transport_options': connection.transport_options,
        'login_method': connection.login_method,
        'uri_prefix': connection.uri_prefix,
        'heartbeat': connection.heartbeat,
        'failover_strategy': connection.strategy_given,
        'alternates': connection.alt,
        'credential_provider': connection.credential_provider,
    }
    if resolve:
        info['transport'] = resolve_aliases.get(name, name) if isinstance(name, str) else name
        for key, value in connection.transport.default_connection_params.items():
            if key in info and not info[key]:
                info[key] = value
    return info


def shown_settings(connection: Connection) -> dict[str, Any]:
    """The same, for a text about the connection: that must not fail."""
    try:
        return settings_of(connection)
    except Exception:
        # a transport that cannot be made says so when it is used, not to whoever wants to show it
        return settings_of(connection, resolve=False)


def uri_of(connection: Connection, include_password: bool, mask: str, getfields: Any) -> str:
    """See `Connection.as_uri`."""
    hostname = connection.hostname or 'localhost'
    if '://' in hostname:
        return hostname if include_password else _masked(connection, hostname, mask)
    port, userid, password, virtual_host, transport = getfields(shown_settings(connection))
    scheme = transport if isinstance(transport, str) else transport.__name__
    path = quote(virtual_host or '')
    if not include_password and not _may_be_shown(connection, virtual_host):
        path = mask or ''
    if include_password:
        password = secret(password)
    return as_url(scheme, hostname, port, userid, password, path, sanitize=not include_password, mask=mask)


def host_of(connection: Connection) -> str:
    """See `Connection.host`."""
    hostname = connection.hostname or ''
    if '://' in hostname:
        return sanitize_url(hostname)
    return f'{hostname}:{shown_settings(connection)["port"]}'


def _masked(connection: Connection, url: str, mask: str) -> str:
    # A transport that reads its URL by itself knows best what in it is secret; ours looks once more.
    said = getattr(known_transport(connection), 'as_uri', None)
    if said is not None and said is not BaseTransport.as_uri:
        try:
            url = connection.transport.as_uri(url, False, mask)
        except Exception as exc:  # somebody else's code, and this may be called to show an error
            logger.debug('the transport cannot show its URL: %s', type(exc).__name__)
    return str(maybe_sanitize_url(url, mask))


def _may_be_shown(connection: Connection, virtual_host: Any) -> bool:
    """False if the transport takes no such virtual host: it may be a password, its @ forgotten."""
    check = getattr(known_transport(connection), 'is_virtual_host', None)
    return check is None or bool(check(virtual_host))
