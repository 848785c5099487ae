"""Redis as `driver.contract` has it: the queue verbs, and the parts that do the rest.

What a Redis session does its own way, because it costs fewer steps there than in the base, is in
`publishing`, `settling` and `arrival`; see `session`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import redis

from greenmq import runtime
from greenmq.exceptions import AMQPError, InvalidArgument, OperationalError
from greenmq.log import get_logger
from greenmq.transport.driver import contract
from greenmq.transport.driver.contract import Binding, Taken
from greenmq.transport.options import Option
from greenmq.transport.redis.bindings import Bindings, declaration, pattern_of
from greenmq.transport.redis.blocking import BlockingWaits
from greenmq.transport.redis.expiry import Expiry
from greenmq.transport.redis.fetching import Fetching
from greenmq.transport.redis.handshake import Target, connect
from greenmq.transport.redis.keys import Keys
from greenmq.transport.redis.leases import ConsumerLease
from greenmq.transport.redis.link import Link
from greenmq.transport.redis.options import OPTIONS
from greenmq.transport.redis.pubsub import Fanout, StreamFanout
from greenmq.transport.redis.replies import NUMBERS, expect, is_facts
from greenmq.transport.redis.resp import MAX_BYTES
from greenmq.transport.redis.server import Server, weakly
from greenmq.transport.redis.settling import Settler
from greenmq.transport.virtual.state import BrokerState
from greenmq.utils.text import printable
from greenmq.utils.url import secret
from greenmq.utils.uuid import uuid

__all__ = ('DEFAULT_DB', 'DEFAULT_PORT', 'RedisDriver', 'socket_of')

logger = get_logger('greenmq.transport.redis')

DEFAULT_PORT = 6379
DEFAULT_DB = 0


class RedisDriver(contract.Driver):
    """One Redis database.

    Arguments:
        declared (BrokerState): what this session declared.
    Attributes:
        server (Server): the link for commands.
        keys (Keys): the names of keys. tables (Bindings): the bindings.
        settler (Settler), fetching (Fetching), expiry (Expiry), blocking (BlockingWaits), lease
            (ConsumerLease), fanout (Fanout | StreamFanout): its other parts.
        heard (dict[str, tuple[str, str]]): queue → fanout exchange and key that it is bound to.
    """

    names_tags = True
    writes_times = True
    keeps_deadline = True
    put_direct = True
    shared_bindings = True
    exchange_types = frozenset(('direct', 'fanout', 'topic'))
    understands = frozenset(('ssl', 'login_method', 'credentials'))
    options: ClassVar[dict[str, Option]] = OPTIONS
    #: Is the database spread over a cluster?
    clustered: ClassVar[bool] = False
    default_port = DEFAULT_PORT

    def __init__(
        self,
        place: contract.Place,
        settings: Mapping[str, Any],
        owner: contract.Owner,
        declared: BrokerState,
    ) -> None:
        super().__init__(place, settings, owner)
        self.declared = declared
        self.unix = socket_of(place)
        self.db = database_of(place)
        self.take_batch = max(1, min(settings['fetch_batch'], 1000))
        interval = settings['health_check_interval'] or 0.0
        self.wait_seconds = interval or 15.0
        self.max_message_bytes: int = settings['max_message_bytes'] or MAX_BYTES
        self.fanout_mode: str = settings['fanout_mode']
        self.heard: dict[str, tuple[str, str]] = {}
        prefix = settings['fanout_prefix']
        self.keys = Keys(
            uuid().replace('-', '')[:16],
            settings['global_keyprefix'] or '',
            settings['priority_steps'],
            settings['sep'],
            self.clustered,
            settings['unacked_key'],
            settings['unacked_index_key'],
            str('/{db}.' if prefix is True else prefix or '').format(db=self.db),
            settings['fanout_patterns'],
        )
        self.server = self._make_server()
        self.tables = Bindings(self.server, self.keys, declared, owner)
        self.settler = Settler(self.server, self.keys)
        self.expiry = Expiry(self.server, self.keys, self.tables, declared)
        self.blocking = BlockingWaits(
            self.server.name, self.server.watchers, self.dial_beside, interval
        )
        lease_ms = max(int(self._lease_timeout * 1000), 100)
        self.fetching = Fetching(
            self.server, self.keys, self.settler, self.blocking, settings, lease_ms
        )
        self.fanout: Any = (
            StreamFanout(self.server, self.keys)
            if self.fanout_mode == 'stream'
            else Fanout(weakly(self.dial_plain), self.server.name)
        )
        self.lease: ConsumerLease

    @property
    def _visibility(self) -> float:
        return float(self.settings['visibility_timeout'] or 3600.0)

    @property
    def _lease_timeout(self) -> float:
        return float(self.settings['lease_timeout'] or min(self._visibility, 60.0))

    def serve(self, session: Any) -> None:
        """Belong to a session, which is held weakly and told of losses."""
        interval = self.settings['sweep_interval'] or 5.0
        self.lease = ConsumerLease(session, self, self._lease_timeout, interval, self._visibility)
        self.settler.source = weakref.ref(session)
        self.server.belong_to(session)

    # ---- the connection

    def target(self) -> Target:
        """The server to dial, and how to introduce oneself."""
        place, value, unix = self.place, self.settings, self.unix
        tcp = tuple((6, name, number) for name, number in (value['socket_keepalive_options'] or {}).items())
        return Target(
            host=place.host or 'localhost',
            port=int(place.port or self.default_port),
            path=unquote(unix.path) if unix else '',
            db=self.db,
            username=unquote((unix and unix.username) or '') or place.userid or value['username'],
            password=unquote((unix and unix.password) or '') or secret(place.password),
            client_name=value['client_name'],
            tls=place.ssl,
            tracking=value['tracking'],
            interval=value['health_check_interval'] or 0.0,
            tcp=tcp,
            max_bytes=self.max_message_bytes,
            credentials=place.credentials,
        )

    def dial(self, owner: Any, deadline: runtime.Deadline) -> Link:
        """Open a link for commands. Raises, Switches: as `handshake.connect`."""
        return self.reach(self.target(), owner, deadline)

    def dial_plain(self, owner: Any, deadline: runtime.Deadline) -> Link:
        """Open a link that is told of nothing: for pub/sub. Raises, Switches: as `dial`."""
        return self.reach(self.target()._replace(tracking=False, scripts=False), owner, deadline)

    def dial_beside(self, key: str, owner: Any, deadline: runtime.Deadline) -> Link:
        """Open one more link to the server that has a key. Raises, Switches: as `dial`."""
        return self.dial_plain(owner, deadline)

    def reach(self, target: Target, owner: Any, deadline: runtime.Deadline) -> Link:
        """Open a link to a target; where it's not reached, the next one is tried the next time."""
        # A recovery walks the hosts itself; the first opening is walked by the Connection.
        recovers = bool(self.server.epoch)
        try:
            return connect(target, owner, self.owner.turn(deadline) if recovers else deadline)
        except Exception:
            if recovers:
                self.owner.next_host()
            raise

    def _make_server(self) -> Server:
        unix, place = self.unix, self.place
        name = unix.path if unix else f'{place.host or "localhost"}:{place.port or self.default_port}'
        return Server(weakly(self.dial), f'{name}/{self.db}')

    def open(self, deadline: runtime.Deadline) -> None:
        """See `Driver.open`."""
        self.server.open(deadline)
        runtime.spawn(_look_at_eviction, weakref.ref(self.server), name='redis-eviction')

    def close(self, deadline: runtime.Deadline) -> None:
        """See `Driver.close`: the lease ends, so that what is left comes back at once."""
        ended = False
        try:
            if self.server.connected:
                for home in self.keys.homes():
                    self.server.execute(('DEL', home.lease), home.lease, deadline)
                ended = True
        except (AMQPError, OperationalError, OSError) as error:
            logger.warning('%s: the lease was not ended before the connection: %s', self.server.name, error)
        finally:
            if not ended:
                self.lease.leave()
            self.shut()

    def shut(self) -> None:
        """End all tasks and links. Idempotent."""
        self.lease.stop()
        self.expiry.stop()
        self.fetching.close()
        self.blocking.close()
        self.fanout.close()
        self.server.close()

    def leave(self) -> None:
        """Let go of what belongs to this thread's hub: another thread goes on, see `arrive`."""
        self.fetching.leave()
        self.lease.stop()
        self.expiry.stop()
        self.blocking.leave()
        self.fanout.leave()
        self.server.leave()

    def arrive(self) -> None:
        """Go on in the calling thread."""
        self.server.arrive()
        self.fanout.arrive()

    def lose(self, error: BaseException) -> None:
        """Leave all links for others."""
        if self.server.link is not None:
            self.server.link.lose(error)
        self.fanout.lose(error)
        self.blocking.lose(error)

    def ping(self, deadline: runtime.Deadline) -> None:
        """See `Driver.ping`."""
        self.server.execute(('PING',), None, deadline)

    def version(self) -> str:
        """The version of redis-py."""
        return str(redis.__version__)

    # ---- messages

    def take(self, queues: list[str], n: int, max_bytes: int, seconds: float) -> list[Taken]:
        """See `Driver.take`."""
        return self.fetching.take(queues, n, seconds)

    def begin(
        self, queues: list[str], n: int, max_bytes: int, seconds: float,
        done: Callable[[list[Taken], Exception | None], bool],
    ) -> Any:  # fmt: skip
        """See `Begin`."""
        return self.fetching.begin(queues, n, seconds, done)

    def cut(self, deadline: runtime.Deadline) -> None:
        """See `Driver.cut`."""
        self.fetching.cut(deadline)

    def dropped(self, channel: Any, queue: str) -> None:
        """See `Driver.dropped`."""
        self.fanout.remove(channel, queue)

    def settle(self, done: list[Taken], back: list[tuple[Taken, str]], deadline: runtime.Deadline) -> None:
        """See `Driver.settle`: the settler sends it, and keeps it until the server has it."""
        for taken in done:
            self.settler.done(taken)
        for taken, fate in back:
            self.settler.back(taken, fate)

    # ---- queues

    def make(self, queue: str, facts: Mapping[str, Any], deadline: runtime.Deadline) -> None:
        """See `Driver.make`."""
        key = self.keys.queues
        self.keys.list_of(queue)  # refuses what can be the name of no queue
        self.server.execute(('HSET', key, queue, declaration(facts)), key, deadline)
        expires = (facts.get('arguments') or {}).get('x-expires')
        if expires is not None:
            self.expiry.use(queue, int(expires), deadline)

    def has(self, queue: str, deadline: runtime.Deadline) -> bool:
        """See `Driver.has`."""
        if self.server.execute(('HEXISTS', self.keys.queues, queue), self.keys.queues, deadline):
            return True
        lists = self.keys.lists(queue)
        return bool(self.server.execute(('EXISTS', *lists), lists[0], deadline))

    def size(self, queue: str, deadline: runtime.Deadline) -> int:
        """See `Driver.size`."""
        lists = self.keys.lists(queue)
        commands = [('LLEN', name) for name in lists]
        return sum(self.server.execute_many(commands, lists[0], deadline, int))

    def purge(self, queue: str, deadline: runtime.Deadline) -> int:
        """See `Driver.purge`."""
        lists = self.keys.lists(queue)
        commands = [('LLEN', name) for name in lists] + [('DEL', name) for name in lists]
        words = [('MULTI',), *commands, ('EXEC',)]
        replies = self.server.execute_many(words, lists[0], deadline, (bytes, NUMBERS))
        return sum(expect(replies[-1], NUMBERS, self.server.name)[: len(lists)])

    def delete(self, queue: str, deadline: runtime.Deadline) -> None:
        """See `Driver.delete`."""
        lists = self.keys.lists(queue)
        self.server.execute(('DEL', *lists), lists[0], deadline)
        self.server.execute(('HDEL', self.keys.queues, queue), self.keys.queues, deadline)
        self.expiry.forget(queue, deadline)
        self.heard.pop(queue, None)

    # ---- bindings

    def bindings(self, exchange: str, deadline: runtime.Deadline) -> Iterable[Binding]:
        """See `Driver.bindings`; what the kind of the exchange is, nobody writes down."""
        entries = self.tables.entries(exchange, deadline)
        return [Binding(exchange, '', key, queue) for key, _, queue in entries]

    @property
    def tells_changes(self) -> bool:  # type: ignore[override]
        """See `Driver.tells_changes`: where the server does."""
        return self.server.tracks

    def bind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        """See `Driver.bind`."""
        exchange, kind, key, queue, _ = binding
        if kind == 'fanout' and self.fanout_mode != 'queues':
            # kombu writes '#' out as a star of Redis' patterns.
            self.heard[queue] = exchange, key.replace('#', '*')
        declared = self.declared.queues.get(queue) or {}
        expires = (declared.get('arguments') or {}).get('x-expires')
        self.tables.add(exchange, key, pattern_of(kind, key), queue, expires, deadline)

    def unbind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        """See `Driver.unbind`."""
        exchange, kind, key, queue, _ = binding
        self.tables.remove(exchange, key, pattern_of(kind, key), queue, deadline)

    def restore(self, deadline: runtime.Deadline) -> None:
        """Declare again what was declared here, if it is gone: the server may have kept nothing."""
        key, queues = self.keys.queues, dict(self.declared.queues)
        if queues and not self.server.execute(('EXISTS', key), key, deadline):
            words = [word for queue, facts in queues.items() for word in (queue, declaration(facts))]
            self.server.execute(('HSET', key, *words), key, deadline)
            for queue in queues:
                expires = self.expiry.of(queue)
                if expires is not None:
                    self.expiry.use(queue, expires, deadline)
        self.tables.restore(deadline)


def socket_of(place: contract.Place) -> SplitResult | None:
    """The parts of the URL if it names a unix socket: a Connection leaves those to the transport."""
    name = str(place.host or '')
    if name.startswith('/'):
        name = f'socket://{name}'
    if not name.startswith(('redis+socket://', 'valkey+socket://', 'socket://', 'unix://')):
        return None
    return urlsplit(name)


def database_of(place: contract.Place) -> int:
    """The number of the database.

    Raises:
        InvalidArgument: what stands in its place is no number.
    """
    unix = socket_of(place)
    name = place.virtual_host if unix is None else dict(parse_qsl(unix.query)).get('virtual_host')
    text = str(name or '').strip('/')
    if not text:
        return DEFAULT_DB
    try:
        return int(text)
    except ValueError:
        # not shown: it may be a password, if that is where a @ was forgotten
        raise InvalidArgument('database', '...', 'must be a number, as in redis://localhost/0') from None


def _look_at_eviction(ref: weakref.ref[Server]) -> None:
    server = ref()
    if server is None or server.closed:
        return
    try:
        question = ('CONFIG', 'GET', 'maxmemory-policy')
        found = server.execute(question, None, runtime.Deadline.after(5.0), is_facts)
    except (AMQPError, OperationalError, OSError):
        return  # an ACL may forbid to ask; nothing depends on the answer
    values = list(found.values()) if isinstance(found, dict) else found[1::2]
    policy = printable(values[0].decode(errors='replace')) if values and isinstance(values[0], bytes) else ''
    if policy and policy != 'noeviction':
        logger.warning(
            'redis %s evicts keys when it is full (maxmemory-policy %s): messages and bindings may vanish; '
            'set it to noeviction',
            server.name,
            policy,
        )
