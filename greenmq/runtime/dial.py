"""Dialling: one deadline for look-up, TCP and TLS; all addresses of a host, the last good one remembered."""

from __future__ import annotations

import _socket
import errno
import os
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from greenmq.exceptions import InvalidArgument, TimeoutError
from greenmq.runtime.clock import Deadline, Timeoutish
from greenmq.runtime.future import Future
from greenmq.runtime.lookup import Address, look_up
from greenmq.runtime.losses import DialError, DialRefused, meaning
from greenmq.runtime.net import Stream
from greenmq.runtime.seam import Watcher, library
from greenmq.runtime.tls import TLSCodec, TLSOptions
from greenmq.runtime.waiter import Waiter, sleep

if TYPE_CHECKING:
    import ssl

__all__ = ('addresses_of', 'dial', 'dial_unix')

SocketOption = tuple[int, int, int | bytes]

# Seconds between the starts of two attempts, and the head start of the look-up; RFC 8305, section 5.
STAGGER = 0.25
_REMEMBERED = 512  # hosts
_BACKLOG_POLL = 0.01  # a unix socket cannot say when its backlog has room again

# (host, port) → the address that answered last. Tried first, and used when the look-up is slow or fails.
_good: dict[tuple[str, int], Address] = {}


def dial(
    host: str,
    port: int,
    deadline: Timeoutish = None,
    tls: TLSOptions | ssl.SSLContext | None = None,
    server_hostname: str | None = None,
    socket_options: Iterable[SocketOption] = (),
) -> Stream:
    """Connect to a host, trying all its addresses, IPv6 and IPv4 in turn.

    An attempt that does not answer gets company after 0.25 s; the first to answer wins. The look-up runs in a
    thread of its own; if it is slow or fails, the address that answered last is tried.

    Arguments:
        host (str): name or address.
        port (int): TCP port.
        deadline (Deadline | float): for look-up, TCP and TLS together; no limit if None.
        tls (TLSOptions | ssl.SSLContext): speak TLS; the certificate is verified unless this says otherwise.
        server_hostname (str): the name in the certificate, if not `host`.
        socket_options (Iterable[tuple[int, int, int | bytes]]): for setsockopt. TCP_NODELAY and SO_KEEPALIVE
            are set.
    Returns:
        Stream: connected.
    Raises:
        TimeoutError: no connection in time.
        DialRefused: every address refused.
        DialError: no address, none reachable, or TLS failed; the text says what each attempt met.
    Switches: yes. Killed on the way: no descriptor stays open.
    Source: greenmq's own; the staggered attempts are RFC 8305's.
    """
    deadline = Deadline.of(deadline)
    context = tls.context() if isinstance(tls, TLSOptions) else tls
    host = host[1:-1] if host.startswith('[') else host
    name = f'[{host}]:{port}' if ':' in host else f'{host}:{port}'
    race = _Race(name, tuple(socket_options))
    try:
        _find_addresses(race, host, port, deadline)
        sock, address = race.run(deadline)
    finally:
        race.close()
    _remember((host, port), address)
    stream = Stream(sock, name)
    if context is not None:
        if server_hostname is None and isinstance(tls, TLSOptions):
            server_hostname = tls.server_hostname
        try:
            codec = TLSCodec(context, server_hostname or host)
        except BaseException:
            stream.abandon()
            raise
        stream.start_tls(codec, deadline)
    return stream


def dial_unix(path: str, deadline: Timeoutish = None, socket_options: Iterable[SocketOption] = ()) -> Stream:
    """Connect to a unix socket.

    Arguments:
        path (str): of the socket; a leading NUL means Linux' abstract names.
        deadline (Deadline | float): no limit if None.
        socket_options (Iterable[tuple[int, int, int | bytes]]): for setsockopt.
    Raises:
        TimeoutError: the server's backlog had no room in time.
        DialRefused, DialError: nobody listens, no such path, no permission.
    Switches: only if the backlog is full. Killed on the way: no descriptor stays open.
    """
    deadline = Deadline.of(deadline)
    name = f'unix:{path}'
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        _set(sock, socket_options)
        while True:
            try:
                sock.connect(path)
                return Stream(sock, name)
            except BlockingIOError:
                deadline.check(f'{name}: no connection')
                sleep(_BACKLOG_POLL)
    except OSError as exc:
        sock.close()
        if isinstance(exc, TimeoutError):
            raise
        raise _dial_error(name, [(path, exc)]) from exc
    except BaseException:
        sock.close()
        raise


def addresses_of(host: str, port: int, deadline: Timeoutish = None) -> list[str]:
    """Look a name up in a thread, for a client that connects by itself and would block the hub with it.

    Arguments:
        host (str): name or address.
        port (int): TCP port.
        deadline (Deadline | float): no limit if None.
    Returns:
        list[str]: addresses in the order in which to try them.
    Raises:
        TimeoutError: no answer in time. DialError: no such name.
    Switches: yes, unless it is an address. Killed: the look-up ends in its thread, for nobody.
    """
    host = host[1:-1] if host.startswith('[') else host
    race = _Race(f'{host}:{port}', ())
    _find_addresses(race, host, port, Deadline.of(deadline))
    return [target[0] for _, target in race.addresses]


def _set(sock: _socket.socket, options: Iterable[SocketOption]) -> None:
    for option in options:
        try:
            sock.setsockopt(*option)
        except (OSError, TypeError, OverflowError) as exc:
            limit = f'is refused by the system ({exc})'
            raise InvalidArgument('socket option (level, name, value)', option, limit) from None


def _dial_error(name: str, met: list[tuple[str, OSError]]) -> DialError:
    texts = '; '.join(f'{where}: {meaning(error)}' for where, error in met)
    refused = met and all(error.errno == errno.ECONNREFUSED for _, error in met)
    error = (DialRefused if refused else DialError)(
        f'cannot connect to {name}: {texts or "no address"}', met[-1][1].errno if met else None
    )
    error.__cause__ = met[-1][1] if met else None
    return error


def _remember(host: tuple[str, int], address: Address) -> None:
    _good.pop(host, None)
    _good[host] = address
    while len(_good) > _REMEMBERED:
        del _good[next(iter(_good))]


# names


def _find_addresses(race: _Race, host: str, port: int, deadline: Deadline) -> None:
    # Puts into the race what is known in time; what the look-up finds later joins by itself.
    numeric = _numeric(host, port)
    if numeric is not None:
        race.add([numeric])
        return
    known = _good.get((host, port))
    lookup = look_up(host, port)
    if not lookup.waited(deadline if known is None else deadline.within(STAGGER)):
        if known is None:
            raise deadline.error(f'{race.name}: no answer to the look-up of the name')
        race.add([known])
        race.expect(lookup)
        return
    error = lookup.exception()
    if error is None:
        race.add(_in_turn(lookup.result(), known))
    elif known is not None:
        race.add([known])
    elif isinstance(error, OSError):
        text = f'cannot connect to {race.name}: look-up of the name failed: {error}'
        raise DialError(text, error.errno) from error
    else:
        raise error


def _numeric(host: str, port: int) -> Address | None:
    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            _socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return family, (host, port)
    return None


def _in_turn(addresses: list[Address], first: Address | None) -> list[Address]:
    # The one that answered last, then the families in turn, beginning with the one that the system prefers: a
    # network whose IPv6 leads nowhere costs one stagger and not one for each IPv6 address.
    preferred = addresses[0][0] if addresses else None
    one = deque(address for address in addresses if address[0] == preferred)
    other = deque(address for address in addresses if address[0] != preferred)
    ordered: list[Address] = []
    while one or other:
        for line in (one, other):
            if line:
                ordered.append(line.popleft())
    if first in ordered:
        ordered.remove(first)
        ordered.insert(0, first)
    return ordered


# connections


class _Race:
    # Attempts at several addresses, run by one task: the hub's callbacks only note what became of them.

    __slots__ = (
        '_attempts',
        '_errors',
        '_expecting',
        '_left',
        '_options',
        '_tried',
        '_waiter',
        '_winner',
        'name',
    )

    def __init__(self, name: str, options: tuple[SocketOption, ...]) -> None:
        self.name = name
        self._options = options
        self._left: deque[Address] = deque()
        self._tried: list[Address] = []
        self._expecting = False
        self._attempts: dict[Any, tuple[Watcher, Address]] = {}
        self._errors: list[tuple[str, OSError]] = []
        self._winner: tuple[Any, Address] | None = None
        self._waiter: Waiter | None = None

    def add(self, addresses: Iterable[Address]) -> None:
        self._left.extend(address for address in addresses if address not in self._tried)

    @property
    def addresses(self) -> list[Address]:
        return list(self._left)

    def expect(self, lookup: Future) -> None:
        self._expecting = True
        lookup.add_done_callback(self._looked_up)

    def _looked_up(self, lookup: Future) -> None:
        self._expecting = False
        if lookup.exception() is None:
            self.add(_in_turn(lookup.result(), None))
        self._wake()

    def run(self, deadline: Deadline) -> tuple[Any, Address]:
        start_next = True
        while True:
            while start_next and self._left and self._winner is None:
                start_next = not self._start(self._left.popleft())
            if self._winner is not None:
                # Taken out, so that `close` leaves it alone.
                winner, self._winner = self._winner, None
                return winner
            if not (self._attempts or self._left or self._expecting):
                raise _dial_error(self.name, self._errors)
            running = len(self._attempts)
            if self._pause(deadline):
                # An attempt that failed, or none running: the next starts at once, else after the stagger.
                start_next = len(self._attempts) < running or not running
            else:
                if deadline.expired():
                    # Perhaps it was the hub that was late: what came meanwhile gets its turn before we judge.
                    sleep(0)
                    if self._winner is None:
                        raise deadline.error(f'{self.name}: no connection')
                start_next = True

    def _pause(self, deadline: Deadline) -> bool:
        # Until something happened (True), or it is time for the next attempt or over (False).
        waiter = self._waiter = Waiter(f'{self.name}: no connection')
        try:
            waiter.wait(deadline.within(STAGGER) if self._left else deadline)
        except TimeoutError:
            if not waiter.expired:
                raise
            return False
        finally:
            self._waiter = None
        return True

    def _start(self, address: Address) -> bool:
        # True if it is under way or has won.
        family, target = address
        self._tried.append(address)
        sock = None
        try:
            sock = _socket.socket(family, _socket.SOCK_STREAM)
            sock.setblocking(False)
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_KEEPALIVE, 1)
            _set(sock, self._options)
            number = sock.connect_ex(target)
        except OSError as exc:
            self._errors.append((_text(target), exc))
            if sock is not None:
                sock.close()
            return False
        except InvalidArgument:
            if sock is not None:
                sock.close()
            raise
        if number == errno.EINPROGRESS:
            watcher = library.watch(library.get_hub(), sock.fileno(), True)
            self._attempts[sock] = (watcher, address)
            watcher.start(self._on_writable, sock)
            return True
        return self._ended(sock, address, number)

    def _on_writable(self, sock: Any) -> None:
        # In the hub.
        watcher, address = self._attempts.pop(sock)
        watcher.stop()
        watcher.close()
        self._ended(sock, address, sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR))
        self._wake()

    def _ended(self, sock: Any, address: Address, number: int) -> bool:
        if number == 0 and self._winner is None:
            self._winner = (sock, address)
            return True
        if number:
            self._errors.append((_text(address[1]), OSError(number, os.strerror(number))))
        sock.close()
        return False

    def _wake(self) -> None:
        if self._waiter is not None:
            self._waiter.wake()

    def close(self) -> None:
        # no switch: runs in a finally
        attempts, self._attempts = self._attempts, {}
        for sock, (watcher, _address) in attempts.items():
            watcher.stop()
            watcher.close()
            sock.close()
        if self._winner is not None:
            self._winner[0].close()


def _text(target: Any) -> str:
    host, port = target[0], target[1]
    return f'[{host}]:{port}' if ':' in host else f'{host}:{port}'
