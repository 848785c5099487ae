"""Names of hosts to addresses: libc's look-up in native threads of its own, and a fork that waits for it.

libc has a lock of its own around the configuration of its resolver, and a fork copies it as it is: a child
that was forked while a look-up of the parent began would wait for it for ever, at its own first look-up.
"""

from __future__ import annotations

import _socket
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from greenmq.exceptions import InvalidArgument
from greenmq.runtime.clock import post
from greenmq.runtime.future import Future
from greenmq.runtime.offload import start_thread
from greenmq.runtime.seam import library
from greenmq.runtime.sync import LateLock, NativeLock

__all__ = ('Address', 'forget_lookups', 'inside_libc', 'look_up')

Address = tuple[int, Any]  # family, and the address as the system wants it

getaddrinfo = _socket.getaddrinfo  # the original whatever is patched; runs in native threads only

# Look-ups under way, so that a hundred dials to one host cost one thread: (hub, host, port) → future of
# addresses.
_lookups: dict[tuple[Any, str, int], Future] = {}

# Seconds that a fork waits for the look-ups under way. One that takes longer waits for the network, and there
# it holds no lock of libc.
FORK_WAITS = 1.0


class _InsideLibc:
    # Who of the native threads is in libc's resolver; a fork closes the way in and waits for who is there.

    __slots__ = ('_closed', '_gate', '_inside')

    def __init__(self) -> None:
        self._gate = LateLock()
        self._closed: Any = None  # the gate that a fork holds
        self._inside: set[Any] = set()  # a lock for each thread, which that one holds

    def __len__(self) -> int:
        return len(self._inside)

    @contextmanager
    def entered(self) -> Iterator[None]:
        lock = NativeLock()
        with lock:
            with self._gate.get():
                self._inside.add(lock)
            try:
                yield
            finally:
                self._inside.discard(lock)

    def close(self) -> None:
        gate = self._gate.get()
        gate.acquire()
        self._closed = gate
        end = monotonic() + FORK_WAITS
        for lock in list(self._inside):
            lock.acquire(timeout=max(0.0, end - monotonic()))

    def open(self) -> None:
        gate, self._closed = self._closed, None
        if gate is not None:
            gate.release()

    def forget(self) -> None:
        self._gate.forget()
        self._inside.clear()


inside_libc = _InsideLibc()


def look_up(host: str, port: int) -> Future:
    """Look a name up in a thread; who asks while it is under way shares it.

    Arguments:
        host (str): name; one that is not ASCII is encoded by IDNA.
        port (int): TCP port.
    Returns:
        Future: of a list of addresses, each (family, address as the system wants it); or of OSError.
    Raises:
        InvalidArgument: no name of the DNS.
    Source: socket.getaddrinfo.
    """
    hub = library.get_hub()
    key = (hub, host, port)
    future = _lookups.get(key)
    if future is None:
        encoded = _encode(host)
        future = _lookups[key] = Future()
        handle = library.hold(hub)
        future.add_done_callback(lambda _future: handle.close())
        start_thread(lambda: _look_up(key, encoded, future))
    return future


def _encode(host: str) -> bytes:
    # Not left to getaddrinfo: it would import the codec in its thread, and a process that forks in that
    # moment has a child with half a codec.
    try:
        return host.encode('ascii' if host.isascii() else 'idna')
    except UnicodeError:
        raise InvalidArgument('host', host, 'must be a name of the DNS') from None


def _look_up(key: tuple[Any, str, int], encoded: bytes, future: Future) -> None:
    # In a native thread.
    hub, _, port = key
    found: list[Address] = []
    error: BaseException | None = None
    try:
        with inside_libc.entered():
            answers = getaddrinfo(encoded, port, 0, _socket.SOCK_STREAM)
        for family, _kind, _proto, _name, address in answers:
            if (family, address) not in found:
                found.append((family, address))
    except BaseException as exc:
        error = exc
    if not post(hub, _looked_up, key, future, found, error):
        _lookups.pop(key, None)


def _looked_up(
    key: tuple[Any, str, int], future: Future, found: list[Address], error: BaseException | None
) -> None:
    # The future is done even if it is no longer the one to ask: it holds the hub's loop until then.
    if _lookups.get(key) is future:
        del _lookups[key]
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(found)


def forget_lookups() -> None:
    """In a forked child: the threads that would answer do not exist here."""
    _lookups.clear()
    inside_libc.forget()
