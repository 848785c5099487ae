"""The daemon of ``greenmq pyro-broker``: one object, to any number of connections.

It keeps its queues in greenmq's store: in a file, so that nothing is lost when it is killed, or without a
folder to keep that in, in memory. What a connection was given is its own until it is
settled or the connection ends: then it goes back at once.
"""

from __future__ import annotations

import _socket
from collections.abc import Callable, Iterable
from itertools import count
from os import makedirs, path
from typing import Any

from Pyro5 import errors, protocol

from greenmq import runtime
from greenmq.exceptions import AMQPError, InvalidArgument, KombuError
from greenmq.log import get_logger
from greenmq.transport import get_transport_cls
from greenmq.transport.driver import REQUEUE, UNSEEN, Binding, Place, Put, Taken
from greenmq.transport.driver.options import settings_of
from greenmq.transport.pyro.driver import OBJECT
from greenmq.transport.pyro.frames import Frames, frame, serializer_of

__all__ = ('NAMES', 'Broker')

logger = get_logger('greenmq.transport.pyro')

#: What the object may be called: kombu's programs know it by the second.
NAMES = (OBJECT, 'kombu.broker')
#: Seconds for one operation of the store, and longest wait of a fetch.
_OPERATION, _LONGEST = 30.0, 300.0
_BACKLOG = 1024
_SWEEP = 2.0
#: Seconds of silence, then between questions, and how many may stay unanswered: so soon the system tells that
#: a machine is gone, and what its connections held goes back.
_ALIVE = {'TCP_KEEPIDLE': 20, 'TCP_KEEPINTVL': 5, 'TCP_KEEPCNT': 4}


class _Told:
    """What the store's driver tells; it tells in the hub, and none of this waits."""

    def __init__(self) -> None:
        self.dropped: list[Taken] = []

    def refused(self, taken: Taken, reason: str) -> None:
        self.dropped.append(taken)

    def arrived(self, takens: Iterable[Taken]) -> None:
        """Nothing comes that was not asked for."""

    def look(self, queue: str | None = None) -> None:
        """Fetches wait at the store itself."""

    def changed(self, exchange: str | None = None) -> None:
        """Clients ask for bindings when they need them."""

    def lost(self, error: Exception) -> None:
        logger.error('the store failed: %s', error)


class Broker:
    """The daemon.

    Arguments:
        host (str), port (int): where to listen; port 0 takes a free one.
        store (str | None): a folder to keep the queues in; None keeps them as long as the daemon lives.
    Attributes:
        address (tuple[str, int]): where it listens.
    """

    def __init__(self, host: str = '127.0.0.1', port: int = 9090, store: str | None = None) -> None:
        file = ':memory:'
        if store is not None:
            makedirs(store, 0o700, exist_ok=True)
            file = path.join(path.abspath(store), 'broker.db')
        transport = get_transport_cls('file')
        settings = settings_of(transport.options, {'durability': 'disk'})
        place = Place('localhost', None, None, None, file, '')
        self.told = _Told()
        self.store = transport.Driver(place, settings, self.told)
        family = _socket.AF_INET6 if ':' in host else _socket.AF_INET
        self._listener = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        self._listener.setblocking(False)
        self._listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        self._listener.bind((host, port))
        self._listener.listen(_BACKLOG)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self._guests: set[_Guest] = set()

    def serve(self) -> None:
        """Serve until killed. Switches: yes."""
        self.store.open(runtime.Deadline.after(_OPERATION))
        sweeper = runtime.every(self, _SWEEP, _sweep, name='pyro-sweep')
        try:
            while True:
                runtime.wait_ready(self._listener)
                try:
                    sock, peer = _accept(self._listener)
                except BlockingIOError:
                    continue
                guest = _Guest(self, runtime.Stream(sock, f'{peer[0]}:{peer[1]}'))
                self._guests.add(guest)
                guest.start()
        finally:
            sweeper.kill()
            self.close()

    def gone(self, guest: _Guest) -> None:
        """A connection has ended."""
        self._guests.discard(guest)

    def close(self) -> None:
        """End all connections, and the store. Switches: yes."""
        self._listener.close()
        for guest in list(self._guests):
            guest.end()
        self.store.close(runtime.Deadline.after(_OPERATION))


def _accept(listener: _socket.socket) -> tuple[_socket.socket, Any]:
    descriptor, peer = listener._accept()  # type: ignore[attr-defined]
    sock = _socket.socket(listener.family, listener.type, listener.proto, fileno=descriptor)
    sock.setblocking(False)
    sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_KEEPALIVE, 1)
    for name, value in _ALIVE.items():
        if hasattr(_socket, name):  # not every system has them all
            sock.setsockopt(_socket.IPPROTO_TCP, getattr(_socket, name), value)
    return sock, peer


def _sweep(broker: Broker) -> None:
    broker.store.sweep(runtime.Deadline.after(_OPERATION))


class _Guest:
    """One connection, and what it holds."""

    def __init__(self, broker: Broker, stream: runtime.Stream) -> None:
        self._broker = broker
        self._stream = stream
        self._object = Object(broker.store, broker.told)
        self._fetches: dict[int, runtime.Task] = {}
        self._turn = runtime.Lock()
        self._task: runtime.Task | None = None

    def start(self) -> None:
        self._task = runtime.spawn(self._serve, name=f'pyro-guest {self._stream.name}')

    def end(self) -> None:
        self._stream.close()

    def _serve(self) -> None:
        try:
            frames = Frames(self._stream)
            if self._greet(frames.next(runtime.Deadline.after(_OPERATION))):
                while (message := frames.next()) is not None:
                    self._handle(message)
        except (AMQPError, OSError, errors.PyroError) as error:
            logger.info('%s: %s', self._stream.name, error)
        finally:
            self._stream.close()
            for task in self._fetches.values():
                task.kill()
            self._broker.gone(self)
            self._object.leave()

    def _greet(self, message: Any) -> bool:
        if message is None or message.type != protocol.MSG_CONNECT:
            return False
        serializer = serializer_of(message.serializer_id)
        wanted = serializer.loads(message.data)
        name = wanted.get('object') if isinstance(wanted, dict) else None
        known = name in NAMES
        meta = {'methods': sorted(METHODS), 'oneway': ['cancel'], 'attrs': []}
        answer: Any = {'handshake': 'hello', 'meta': meta} if known else f'unknown object {name!r}'
        kind = protocol.MSG_CONNECTOK if known else protocol.MSG_CONNECTFAIL
        self._write(frame(kind, message.seq, serializer, serializer.dumps(answer)))
        return known

    def _write(self, data: bytes) -> None:
        with self._turn:
            self._stream.write(data, runtime.Deadline.after(_OPERATION))

    def _handle(self, message: Any) -> None:
        serializer = serializer_of(message.serializer_id)
        if message.type == protocol.MSG_PING:
            self._write(frame(protocol.MSG_PING, message.seq, serializer, b'pong'))
            return
        if message.type != protocol.MSG_INVOKE or message.flags & protocol.FLAGS_BATCH:
            raise errors.ProtocolError(f'a message of type {message.type} is not served')
        _, method, args, kwargs = serializer.loadsCall(message.data)
        if method == 'cancel':
            task = self._fetches.get(args[0])
            if task is not None:
                task.kill()
        elif method == 'fetch':
            # It may wait, and what is asked meanwhile is answered before it.
            self._fetches[message.seq] = runtime.spawn(
                self._answer, message, serializer, method, args, kwargs, name='pyro-fetch',
                on_exit=lambda task, error: self._cancelled(message.seq, serializer),
            )
        else:
            self._answer(message, serializer, method, args, kwargs)

    def _answer(self, message: Any, serializer: Any, method: str, args: Any, kwargs: Any) -> None:
        flags = 0
        try:
            if method not in METHODS:
                raise AttributeError(f'the broker has no method {method!r}')
            result = getattr(self._object, method)(*args, **kwargs)
        except Exception as error:  # the caller's, who gets it
            flags, result = protocol.FLAGS_EXCEPTION, _portable(error)
        if message.flags & protocol.FLAGS_ONEWAY:
            return
        data = frame(protocol.MSG_RESULT, message.seq, serializer, serializer.dumps(result), flags)
        if self._fetches.pop(message.seq, None) is None:
            self._reply(data)
        else:
            # A kill may be on its way to this task, and half an answer would end the connection.
            runtime.spawn(self._reply, data, name='pyro-reply')

    def _cancelled(self, number: int, serializer: Any) -> None:
        # A fetch that was killed has nothing; the caller still waits to know.
        if self._fetches.pop(number, None) is not None and not self._stream.closed:
            data = frame(protocol.MSG_RESULT, number, serializer, serializer.dumps([]))
            runtime.spawn(self._reply, data, name='pyro-reply')

    def _reply(self, data: bytes) -> None:
        try:
            self._write(data)
        except (AMQPError, OSError) as error:  # the connection ends, and what it holds goes back
            logger.info('%s: %s', self._stream.name, error)
            self._stream.close()


def _portable(error: Exception) -> Exception:
    # What every Pyro client can make again.
    if isinstance(error, (AMQPError, KombuError)) or type(error).__module__ != 'builtins':
        kind: Callable[[str], Exception] = ValueError if isinstance(error, InvalidArgument) else RuntimeError
        return kind(f'{type(error).__name__}: {error}')
    return error


#: The methods that may be called: batches, and kombu's own.
METHODS = frozenset((
    'bind', 'bindings', 'cancel', 'declare', 'delete', 'facts', 'fetch', 'get', 'get_queue_names',
    'has_queue', 'new_queue', 'ping', 'publish', 'purge', 'put', 'queues', 'settle', 'size', 'unbind',
))  # fmt: skip


class Object:
    """The broker, as one connection sees it: its methods are called from outside."""

    def __init__(self, store: Any, told: _Told) -> None:
        self._store = store
        self._told = told
        self._held: dict[int, Taken] = {}
        self._numbers = count(1)
        self._exclusive: set[str] = set()
        self._left = False

    def leave(self) -> None:
        """The connection has ended: what it held goes back, its exclusive queues go. Switches: yes."""
        self._left = True
        held, self._held = list(self._held.values()), {}
        deadline = runtime.Deadline.after(_OPERATION)
        if held:
            self._store.settle([], [(taken, REQUEUE) for taken in held], deadline)
        for queue in self._exclusive:
            self._store.delete(queue, deadline)

    @property
    def _deadline(self) -> runtime.Deadline:
        return runtime.Deadline.after(_OPERATION)

    def _lend(self, takens: Iterable[Taken]) -> list[list[Any]]:
        rows = []
        for taken in takens:
            number = next(self._numbers)
            self._held[number] = taken
            rows.append([number, taken.queue, bytes(taken.payload).decode(), taken.deliveries or 0])
        return rows

    # ---- batches

    def ping(self) -> bool:
        """Have the store answer."""
        self._store.ping(self._deadline)
        return True

    def publish(self, rows: list[list[Any]]) -> list[list[Any]]:
        """Put messages: [queue, payload, priority, seconds of delay, when it expires or None] each.

        Returns:
            list: [number in the batch, 'NotFound' or 'PublishNacked', text] of each that was refused; and
                what fell out of full queues, as `fetch` gives it, to be settled.
        """
        items = [
            Put(str(queue), '', '', payload.encode(), {}, float(delay or 0), int(priority or 0), expires)
            for queue, payload, priority, delay, expires in rows
        ]
        outcomes = list(self._store.put(items, self._deadline))
        dropped, self._told.dropped = self._told.dropped, []
        refused = [
            [number, type(error).__name__, str(error)]
            for number, error in enumerate(outcomes) if error is not None
        ]  # fmt: skip
        return [refused, self._lend(dropped)]

    def fetch(
        self, queues: list[str], n: int = 1, max_bytes: int = 1 << 25, seconds: float = 0
    ) -> list[list[Any]]:
        """Take up to n messages, waiting for the first: [number, queue, payload, deliveries before] each."""
        takens = self._store.take(list(queues), int(n), int(max_bytes), min(float(seconds), _LONGEST))
        if self._left and takens:
            # By another task: a kill may be on its way to this one, and would cut it short.
            runtime.spawn(self._give_back, takens, name='pyro-give-back')
            return []
        return self._lend(takens)

    def _give_back(self, takens: list[Taken]) -> None:
        self._store.settle([], [(taken, UNSEEN) for taken in takens], self._deadline)

    def settle(self, done: list[int], back: list[list[Any]]) -> list[int]:
        """Forget what is done, give back the rest: [number, whether it counts as delivered] each.

        Returns:
            list: the numbers that were not this connection's.
        """
        held = self._held
        finished = [held[number] for number in done if number in held]
        returned = [
            (held[number], REQUEUE if counted else UNSEEN) for number, counted in back if number in held
        ]
        unknown = [number for number in (*done, *(number for number, _ in back)) if number not in held]
        self._store.settle(finished, returned, self._deadline)
        for number in (*done, *(number for number, _ in back)):
            held.pop(number, None)
        return unknown

    # ---- queues

    def declare(self, queue: str, facts: dict[str, Any]) -> None:
        """Make a queue: durable, exclusive, auto_delete, arguments as AMQP has them."""
        self._store.make(queue, {**facts, 'exclusive': False}, self._deadline)
        if facts.get('exclusive'):
            self._exclusive.add(queue)

    def facts(self, queue: str) -> dict[str, Any] | None:
        """What a queue was made with."""
        found = self._store.facts(queue, self._deadline)
        return None if found is None else dict(found)

    def queues(self) -> list[dict[str, Any]]:
        """All queues, with what waits in them."""
        return [dict(each) for each in self._store.queues(self._deadline)]

    def bindings(self, exchange: str) -> list[list[Any]]:
        """The bindings of an exchange: [exchange, its type, routing key, queue, arguments] each."""
        return [list(binding) for binding in self._store.bindings(exchange, self._deadline)]

    def bind(self, row: list[Any]) -> None:
        """Keep a binding."""
        self._store.bind(Binding(*row), self._deadline)

    def unbind(self, row: list[Any]) -> None:
        """Forget a binding."""
        self._store.unbind(Binding(*row), self._deadline)

    # ---- kombu's

    def get_queue_names(self) -> list[str]:
        """The names of all queues."""
        return [each['name'] for each in self._store.queues(self._deadline)]

    def new_queue(self, queue: str) -> None:
        """Make a queue."""
        self._store.make(queue, {}, self._deadline)

    def has_queue(self, queue: str) -> bool:
        """Is there such a queue?"""
        return bool(self._store.has(queue, self._deadline))

    def get(self, queue: str) -> Any:
        """Take and remove a message.

        Raises:
            LookupError: none waits.
        """
        from greenmq.utils.json import loads

        takens = self._store.take([queue], 1, 1 << 25, 0)
        if not takens:
            raise LookupError(f'queue {queue!r} is empty')
        self._store.settle(takens, [], self._deadline)
        return loads(bytes(takens[0].payload).decode())

    def put(self, queue: str, message: Any) -> None:
        """Put a message, made of what JSON has; the queue is made if need be."""
        from greenmq.utils.json import dumps

        if not self.has_queue(queue):
            self.new_queue(queue)
        (refused, _) = self.publish([[queue, dumps(message), 0, 0, None]])
        if refused:
            raise RuntimeError(refused[0][2])

    def size(self, queue: str) -> int:
        """How many messages wait."""
        return int(self._store.size(queue, self._deadline))

    def delete(self, queue: str) -> None:
        """Delete a queue with its messages."""
        self._exclusive.discard(queue)
        self._store.delete(queue, self._deadline)

    def purge(self, queue: str) -> int:
        """Remove what waits; return how many."""
        return int(self._store.purge(queue, self._deadline))
