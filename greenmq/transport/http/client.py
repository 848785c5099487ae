"""The client: a request to a URL, answered within one deadline, through the pool of its server."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import environ
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

from greenmq import runtime
from greenmq.exceptions import InvalidArgument
from greenmq.runtime import DialError, TLSOptions
from greenmq.transport.http.connection import Connection, NoAnswer, NoAnswerInTime, Request, Response
from greenmq.transport.http.pool import Pool

if TYPE_CHECKING:
    import ssl

__all__ = ('Client', 'Settings', 'settings_for')

_PORTS = {'http': 80, 'https': 443}
#: In a path and query: what does not go on the wire as it stands.
_SPLIT_WITH_CARE = re.compile(r'[^!-~]|#|\?\Z')


@dataclass(frozen=True)
class Settings:
    """How a client behaves.

    Attributes:
        pool_size (int): most connections to one server at a time; further requests wait in line.
        idle_seconds (float): how long a connection may lie unused.
        connect_timeout (float): seconds to dial one connection, never longer than the request's deadline.
        max_body_bytes (int): largest answer that is taken.
        tls (TLSOptions): for https. The certificate is always verified unless this says otherwise.
        context (ssl.SSLContext | None): the program's own, in place of what `tls` says.
        proxies (Mapping[str, str] | None): scheme → "http://[user:password@]host:port". None: those of
            `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`; empty: none.
        user_agent (str): how we introduce ourselves, where the request does not say.
    """

    pool_size: int = 50
    idle_seconds: float = 20.0
    connect_timeout: float = 5.0
    max_body_bytes: int = 64 * 1024 * 1024
    tls: TLSOptions = field(default_factory=TLSOptions)
    context: ssl.SSLContext | None = None
    proxies: Mapping[str, str] | None = None
    user_agent: str = 'greenmq'


def settings_for(ssl: Any, pool_size: int, connect_timeout: float) -> Settings:
    """Return how a client behaves, of what users pass as `ssl=` (see `TLSOptions.of`).

    Raises:
        InvalidArgument, UnknownOption: it is nothing of that.
    """
    tls = TLSOptions.of(ssl)
    if isinstance(tls, TLSOptions):
        return Settings(pool_size=pool_size, connect_timeout=connect_timeout, tls=tls)
    return Settings(pool_size=pool_size, connect_timeout=connect_timeout, context=tls)


class Place(NamedTuple):
    """One server as the pool knows it.

    Attributes:
        scheme (str): "http" or "https".
        host (str), port (int): without brackets.
        proxy (str): URL of the proxy on the way; '' for none.
    """

    scheme: str
    host: str
    port: int
    proxy: str = ''

    @property
    def authority(self) -> str:
        """Host and port as in a `Host` header; the port only where it is not the scheme's own."""
        host = f'[{self.host}]' if ':' in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f'{host}:{self.port}'


class Client:
    """Requests over HTTP/1.1. One client serves all tasks of one hub.

    Arguments:
        settings (Settings): the defaults if None.

    Redirects are not followed, and nothing is decompressed.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self._pools: dict[Place, Pool] = {}
        self._context = self.settings.context
        self._places: dict[tuple[str, str], Place] = {}

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b'',
        deadline: runtime.Deadline | float | None = None,
        repeatable: bool = False,
    ) -> Response:
        """Make one request and take its whole answer, whatever its status.

        Arguments:
            method (str): "GET", "POST", …
            url (str): absolute, percent-encoded.
            headers (Mapping[str, str]): `Host`, `User-Agent` and `Content-Length` need not be among them.
            body (bytes): may be empty.
            deadline (Deadline | float): of all of it: a place in the pool, look-up of the name, TCP, TLS,
                writing, and the answer. No limit if None.
            repeatable (bool): it does no harm if the server does it twice. An idle connection may have been
                closed by the server in the moment in which we used it; then the request is made once more,
                on a new connection. Not repeatable ones are made once more only if not a byte was sent.
        Raises:
            InvalidArgument: no http or https URL.
            DialError: not connected: nothing was sent.
            NoAnswerInTime, NoAnswer: `sent` tells whether the server may have done it.

        Killed: the connection is closed, never used again.
        """
        deadline = runtime.Deadline.of(deadline)
        place, target = self._where(url)
        pool = self._pool(place)
        asked = self._asked(method, place, target, headers, body)
        connection = self._take(pool, deadline)
        used_before = connection.exchanges > 0
        try:
            return self._exchange(pool, connection, asked, deadline)
        except NoAnswer as exc:
            if not used_before or exc.begun or (exc.sent != 'no' and not repeatable):
                raise
        connection = self._take(pool, deadline, fresh=True)
        return self._exchange(pool, connection, asked, deadline)

    def _exchange(
        self, pool: Pool, connection: Connection, asked: Request, deadline: runtime.Deadline
    ) -> Response:
        try:
            return connection.exchange(asked, deadline, self.settings.max_body_bytes)
        finally:
            pool.give(connection)

    def _take(self, pool: Pool, deadline: runtime.Deadline, fresh: bool = False) -> Connection:
        try:
            return pool.take(deadline, fresh)
        except TimeoutError as exc:
            raise NoAnswerInTime(str(exc), 'no') from exc

    def _asked(
        self, method: str, place: Place, target: str, headers: Mapping[str, str] | None, body: bytes
    ) -> Request:
        sent = {'Host': place.authority, 'User-Agent': self.settings.user_agent}
        for name, value in (headers or {}).items():
            if name.lower() == 'host':
                sent['Host'] = value
            elif name.lower() == 'user-agent':
                sent['User-Agent'] = value
            elif name.lower() != 'content-length':
                sent[name] = value
        if place.proxy and place.scheme == 'http':
            target = f'http://{place.authority}{target}'
            sent.update(_proxy_login(place.proxy))
        return Request(method, target, sent, body)

    # where to

    def _where(self, url: str) -> tuple[Place, str]:
        # The place is remembered by scheme and authority: a broker's URLs differ in path and query only. The
        # library would remember those whole, with receipts and signatures, and is not asked again.
        scheme, _, rest = url.partition('://')
        authority, slash, target = rest.partition('/')
        known = self._places.get((scheme, authority))
        if known is not None and slash and not _SPLIT_WITH_CARE.search(target):
            return known, slash + target
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise InvalidArgument('url', _plain(url), 'must begin with http:// or https:// and name a host')
        place = self._places.get((parts.scheme, parts.netloc))
        if place is None:
            port = parts.port or _PORTS[parts.scheme]
            place = Place(parts.scheme, parts.hostname, port, self._proxy(parts.scheme, parts.hostname, port))
            self._places[parts.scheme, parts.netloc] = place
        return place, (parts.path or '/') + (f'?{parts.query}' if parts.query else '')

    def _proxy(self, scheme: str, host: str, port: int) -> str:
        proxies: Mapping[str, str]
        if self.settings.proxies is not None:
            proxies = self.settings.proxies
        else:
            proxies = urllib.request.getproxies_environment()
            bypass = urllib.request.proxy_bypass_environment(f'{host}:{port}')  # type: ignore[attr-defined]
            if bypass or _is_loopback(host):
                return ''
        proxy = proxies.get(scheme) or proxies.get('all') or ''
        if proxy and urlsplit(proxy).scheme not in ('http', ''):
            raise InvalidArgument('proxy', _plain(proxy), 'must be an http:// URL')
        return proxy

    def _pool(self, place: Place) -> Pool:
        pool = self._pools.get(place)
        if pool is None:
            settings, name = self.settings, f'{place.scheme}://{place.authority}'
            # The pool must not hold the client: both would live until the collector runs.
            dial = _Dial(place, settings, self._tls(place))
            pool = self._pools[place] = Pool(name, dial, settings.pool_size, settings.idle_seconds)
        return pool

    def _tls(self, place: Place) -> ssl.SSLContext | None:
        if place.scheme != 'https':
            return None
        if self._context is None:
            tls = self.settings.tls
            if not tls.ca_certs and not tls.ca_path and environ.get('AWS_CA_BUNDLE'):
                tls = TLSOptions(**{**tls.__dict__, 'ca_certs': environ['AWS_CA_BUNDLE']})
            self._context = tls.context()
        return self._context

    def close(self) -> None:
        """Close the connections that lie idle; those in use when their exchange has ended."""
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()

    def stats(self) -> dict[str, dict[str, int]]:
        """Connections by server: "used", "idle", and "waiting" tasks."""
        return {
            pool.name: {'used': pool.used, 'idle': pool.idle, 'waiting': pool.waiting}
            for pool in self._pools.values()
        }

    def __repr__(self) -> str:
        return f'<Client {list(self._pools.values())}>'


class _Dial:
    # Connects to one place, through its proxy where there is one.

    def __init__(self, place: Place, settings: Settings, context: ssl.SSLContext | None) -> None:
        self._place = place
        self._settings = settings
        self._context = context

    def __call__(self, deadline: runtime.Deadline) -> Connection:
        place = self._place
        deadline = deadline.within(self._settings.connect_timeout)
        if not place.proxy:
            name = self._settings.tls.server_hostname
            stream = runtime.dial(place.host, place.port, deadline, tls=self._context, server_hostname=name)
            return Connection(stream)
        parts = urlsplit(place.proxy if '://' in place.proxy else f'http://{place.proxy}')
        stream = runtime.dial(parts.hostname or '', parts.port or 80, deadline)
        if self._context is not None:
            try:
                self._tunnel(stream, self._context, deadline)
            except BaseException:
                stream.abandon()
                raise
        return Connection(stream)

    def _tunnel(
        self, stream: runtime.Stream, context: ssl.SSLContext, deadline: runtime.Deadline
    ) -> None:
        place = self._place
        host = f'[{place.host}]' if ':' in place.host else place.host
        target = f'{host}:{place.port}'
        asked = Request('CONNECT', target, {'Host': target, **_proxy_login(place.proxy)})
        try:
            answer = Connection(stream).connect(asked, deadline)
        except NoAnswer as exc:
            raise DialError(f'the proxy gave no tunnel to {target}: {exc}') from exc
        if answer.status // 100 != 2:
            raise DialError(f'the proxy {stream.name} answered {answer.status} {answer.reason} for {target}')
        name = self._settings.tls.server_hostname or place.host
        stream.start_tls(runtime.TLSCodec(context, name), deadline)


def _proxy_login(proxy: str) -> dict[str, str]:
    from base64 import b64encode

    parts = urlsplit(proxy if '://' in proxy else f'http://{proxy}')
    if parts.username is None:
        return {}
    login = f'{unquote(parts.username)}:{unquote(parts.password or "")}'
    return {'Proxy-Authorization': f'Basic {b64encode(login.encode()).decode()}'}


def _is_loopback(host: str) -> bool:
    return host == 'localhost' or host == '::1' or host.startswith('127.')


def _plain(url: str) -> str:
    # For error texts: neither user nor password nor a query that may carry a signature.
    parts = urlsplit(url)
    return f'{parts.scheme}://{parts.netloc.rpartition("@")[2]}{parts.path}'


