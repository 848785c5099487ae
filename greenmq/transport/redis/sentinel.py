"""``sentinel://``: sentinels are asked who the primary is, at each dial; who answers is then made to prove
it.

URL: ``sentinel://user:password@host:26379/db``, several after each other with ``;``; the transport option
`master_name` says which primary. User and password are the primary's; the sentinels' own stand in
`sentinel_kwargs`.

A failover shows as a closed connection, or as READONLY from a server that is none any more (P33): either ends
the link, and the next dial asks the sentinels again. But an old primary may go on serving for ten seconds,
and what it takes meanwhile is lost: so one more connection hears ``+switch-master`` from a sentinel.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any, ClassVar

from redis.sentinel import SentinelManagedSSLConnection

from greenmq import runtime
from greenmq.exceptions import AMQPError, ConnectionLost, InvalidArgument, OperationalError
from greenmq.transport.driver import contract
from greenmq.transport.options import Option
from greenmq.transport.redis import resp
from greenmq.transport.redis.channel import SentinelChannel
from greenmq.transport.redis.driver import RedisDriver
from greenmq.transport.redis.errors import AuthenticationFailed, NotPermitted, ServerUnfit, raised
from greenmq.transport.redis.handshake import Target, connect
from greenmq.transport.redis.link import Link
from greenmq.transport.redis.options import SENTINEL_OPTIONS
from greenmq.transport.redis.replies import TEXTS, expect, is_facts
from greenmq.transport.redis.server import Server, ServerOwner, weakly
from greenmq.transport.redis.transport import Transport
from greenmq.utils.url import parse_url

__all__ = ('SentinelDriver', 'SentinelManagedSSLConnection', 'SentinelTransport')

DEFAULT_PORT = 26379
#: Seconds that one sentinel may take: the others are there to be asked.
PATIENCE = 1.0


class SentinelDriver(RedisDriver):
    """A Redis primary that sentinels name.

    Attributes:
        master_name (str): what they call it.
    """

    options: ClassVar[dict[str, Option]] = SENTINEL_OPTIONS
    default_port = DEFAULT_PORT

    def __init__(self, place: contract.Place, settings: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        self.master_name: str = settings['master_name'] or settings['service_name'] or ''
        if not self.master_name:
            raise InvalidArgument('master_name', None, 'is missing: sentinel:// needs that transport option')
        self._sentinels = _sentinels(place)
        self._own = _sentinel_options(settings['sentinel_kwargs'])
        self._watch: SwitchWatch | None = None
        super().__init__(place, settings, *args, **kwargs)

    def open(self, deadline: runtime.Deadline) -> None:
        """See `RedisDriver.open`."""
        super().open(deadline)
        if self._watch is None:
            self._watch = SwitchWatch(self)

    def shut(self) -> None:
        """See `RedisDriver.shut`."""
        super().shut()
        if self._watch is not None:
            self._watch.close()

    def switched(self) -> None:
        """There is another primary: leave the old one, whatever it still answers."""
        self.lose(ServerUnfit(f'the sentinels named another primary {self.master_name!r}'))

    def dial_sentinel(self, owner: Any, deadline: runtime.Deadline) -> Link:
        """Open a link to any of the sentinels. Raises, Switches: as `dial`."""
        met: list[str] = []
        for host, port in self._sentinels:
            try:
                link = connect(self.sentinel_target(host, port, 1.0), owner, deadline.within(PATIENCE))
            except (AMQPError, OSError, OperationalError) as error:
                met.append(f'{host}:{port}: {error}')
                continue
            link.subscriber = not link.resp3
            return link
        raise ConnectionLost(f'no sentinel of {self.master_name!r} can be reached: {"; ".join(met)}')

    def reach(self, target: Target, owner: Any, deadline: runtime.Deadline) -> Link:
        """See `RedisDriver.reach`: where the sentinels say the primary is, if that says so too."""
        host, port = self._ask_sentinels(deadline)
        return connect(target._replace(host=host, port=port, role='master'), owner, deadline)

    def _ask_sentinels(self, deadline: runtime.Deadline) -> tuple[str, int]:
        met: list[str] = []
        refused: Exception | None = None
        for number, (host, port) in enumerate(self._sentinels):
            try:
                found = self._ask(host, port, deadline.within(PATIENCE))
            except (AMQPError, OSError, OperationalError) as error:
                if isinstance(error, (AuthenticationFailed, NotPermitted)):
                    refused = error
                met.append(f'{host}:{port}: {error}')
                deadline.check(f'sentinels of {self.master_name!r}: no answer ({"; ".join(met)})')
                continue
            if found is None:
                met.append(f'{host}:{port}: knows no such primary')
                continue
            # Who answered is asked first the next time.
            self._sentinels.insert(0, self._sentinels.pop(number))
            return found
        text = f'no sentinel names a primary {self.master_name!r}: {"; ".join(met)}'
        # What one says of our login is its word, and no dial in a second's time changes that.
        raise ConnectionLost(text) if refused is None else type(refused)(text)

    def sentinel_target(self, host: str, port: int, interval: float = 0.0) -> Target:
        """A sentinel, and how to introduce oneself to it."""
        given = self._own
        return Target(
            host=host,
            port=port,
            username=given['username'],
            password=given['password'],
            tls=self.place.ssl if given['ssl'] is None else given['ssl'],
            tracking=False,
            scripts=False,
            interval=interval,
        )

    def _ask(self, host: str, port: int, deadline: runtime.Deadline) -> tuple[str, int] | None:
        link = connect(self.sentinel_target(host, port), _NOBODY, deadline)
        try:
            if self.settings['min_other_sentinels']:
                reply = link.call(('SENTINEL', 'MASTER', self.master_name), deadline)
                facts = _pairs(raised(link.expect(reply, is_facts), link.name))
                if _number(facts.get(b'num-other-sentinels')) < self.settings['min_other_sentinels']:
                    return None
            reply = link.call(('SENTINEL', 'GET-MASTER-ADDR-BY-NAME', self.master_name), deadline)
            reply = link.expect(reply, _is_place)
            answer = raised(reply, link.name)
        finally:
            link.close()
        return None if not answer else (bytes(answer[0]).decode(), int(answer[1]))


class SwitchWatch(ServerOwner):
    """Hears from a sentinel that there is another primary."""

    def __init__(self, driver: SentinelDriver) -> None:
        self._driver = weakref.ref(driver)
        self._server = Server(weakly(driver.dial_sentinel), f'sentinels of {driver.master_name}', self)
        # Nothing waits for it: until it is there, a failover shows as it does without.
        self._server.begin()
        self._known: list[str] = []

    def close(self) -> None:
        """End it."""
        self._server.close()

    def on_recovered(self, server: Server) -> None:
        """Subscribe."""
        if server.link is not None:
            server.link.send(resp.pack(('SUBSCRIBE', '+switch-master')), _ignore, 0)

    def on_pushed(self, server: Server, push: Any) -> None:
        """See `ServerOwner`."""
        driver = self._driver()
        if driver is None or push[0] != b'message':
            return
        texts = expect(list(push[2:3]), TEXTS, server.name)
        words = texts[0].decode(errors='replace').split() if texts else []
        if words and words[0] == driver.master_name and words != self._known:
            self._known = words
            driver.switched()


def _ignore(reply: Any) -> None:
    """A subscription is answered by a push, not by a reply."""


class _Nobody:
    def on_push(self, link: Link, push: Any) -> None: ...

    def on_link_end(self, link: Link, error: BaseException) -> None: ...


_NOBODY = _Nobody()


def _pairs(reply: Any) -> dict[Any, Any]:
    return reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=False))


def _number(text: Any) -> int:
    return int(text) if isinstance(text, bytes) and text.isdigit() and len(text) < 20 else 0


def _is_place(reply: Any) -> bool:
    # Host and port, or that there is no such primary.
    return reply is None or (
        reply.__class__ is list
        and list(map(type, reply)) == [bytes, bytes]
        and reply[0].isascii()
        and 0 < _number(reply[1]) < 65536
    )


def _sentinel_options(given: Any) -> dict[str, Any]:
    """`sentinel_kwargs`: username, password and ssl. redis-py's ``ssl_…`` stand beside ``ssl`` or in it."""
    if given is not None and not isinstance(given, Mapping):
        raise InvalidArgument('sentinel_kwargs', None, 'must be a mapping: username, password, ssl, ssl_…')
    found: dict[str, Any] = {'username': None, 'password': None, 'ssl': None}
    words: dict[str, Any] = {}
    for name, value in (given or {}).items():
        if name in found:
            found[name] = value
        elif isinstance(name, str) and name.startswith('ssl_'):
            words[name] = value
        else:
            raise InvalidArgument('sentinel_kwargs', name, 'is none of username, password, ssl, ssl_…')
    if words and found['ssl'] in (None, True):
        found['ssl'] = words
    elif words and isinstance(found['ssl'], Mapping):
        found['ssl'] = {**found['ssl'], **words}
    runtime.TLSOptions.of(found['ssl'])
    return found


def _sentinels(place: contract.Place) -> list[tuple[str, int]]:
    places = [(place.host or 'localhost', int(place.port or DEFAULT_PORT))]
    for text in place.alternates:
        found = parse_url(text if '://' in text else f'sentinel://{text}')
        places.append((found['hostname'] or 'localhost', int(found['port'] or DEFAULT_PORT)))
    return list(dict.fromkeys(places))


class SentinelTransport(Transport):
    """A Redis primary that sentinels name.

    Source: kombu redis SentinelTransport.
    """

    Driver: ClassVar[Any] = SentinelDriver
    default_port = DEFAULT_PORT
    Channel: ClassVar[Any] = SentinelChannel
    options: ClassVar[dict[str, Option]] = SENTINEL_OPTIONS
