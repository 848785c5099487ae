"""Commands to bytes and bytes to replies: RESP2 and RESP3, without a socket.

hiredis does both where it is installed; otherwise the few lines here do. Error replies are values, made by
redis-py's own table of error classes; a push (RESP3) is a `Push`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from redis._parsers.base import BaseParser
from redis.exceptions import InvalidResponse

try:
    import hiredis
except ImportError:
    hiredis = None

__all__ = ('Parser', 'PlainParser', 'Push', 'make_parser', 'pack', 'pack_many')

#: Tells "no whole reply yet" from every value that a reply may have.
MORE = object()

Parser = Any  # has feed(bytes) and gets() -> reply or MORE


class Push(list[Any]):
    """What the server sends unasked: its kind first."""


def _encoded(argument: Any) -> bytes:
    if isinstance(argument, bytes):
        return argument
    if isinstance(argument, str):
        return argument.encode()
    if isinstance(argument, float):
        return repr(argument).encode()
    return str(argument).encode()


def _pack(arguments: Iterable[Any]) -> bytes:
    parts = [_encoded(argument) for argument in arguments]
    out = [b'*%d\r\n' % len(parts)]
    out += [b'$%d\r\n%b\r\n' % (len(part), part) for part in parts]
    return b''.join(out)


#: One command, a tuple of str, bytes, int or float, as the server reads it.
pack: Callable[[tuple[Any, ...]], bytes] = _pack if hiredis is None else hiredis.pack_command


def pack_many(commands: Iterable[tuple[Any, ...]]) -> bytes:
    """Several commands after each other. Switches: no."""
    return b''.join([pack(command) for command in commands])


def make_parser() -> Parser:
    """A fresh parser for one connection. Switches: no."""
    if hiredis is None:
        return PlainParser()
    return hiredis.Reader(
        protocolError=InvalidResponse, replyError=BaseParser.parse_error, notEnoughData=MORE
    )


def is_push(reply: Any) -> bool:
    """Was this sent unasked? Switches: no."""
    return isinstance(reply, _PUSHES)


def _error(text: bytes) -> Any:
    return BaseParser.parse_error(text.decode(errors='replace'))  # type: ignore[no-untyped-call]


class PlainParser:
    """RESP3 in plain Python: feed it what came, take whole replies.

    Source: the RESP3 specification of Redis.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take bytes as they come, cut anywhere. Switches: no."""
        self._buffer += data

    def gets(self) -> Any:
        """The next whole reply, or MORE.

        Raises:
            InvalidResponse: the bytes are no RESP.
        Switches: no.
        """
        reply, end = self._parse(0)
        if reply is not MORE:
            del self._buffer[:end]
        return reply

    def _line(self, start: int) -> tuple[bytes | None, int]:
        end = self._buffer.find(b'\r\n', start)
        return (None, start) if end < 0 else (bytes(self._buffer[start:end]), end + 2)

    def _parse(self, start: int) -> tuple[Any, int]:
        line, at = self._line(start)
        if line is None:
            return MORE, start
        kind, rest = line[:1], line[1:]
        if kind in b'$=!':
            return self._bulk(kind, int(rest), at)
        if kind in b'*~>%|':
            return self._many(kind, int(rest), at)
        simple = _SIMPLE.get(kind)
        if simple is None:
            raise InvalidResponse(f'Protocol error, got {line[:40]!r} as a reply')
        return simple(rest), at

    def _bulk(self, kind: bytes, size: int, at: int) -> tuple[Any, int]:
        if size < 0:
            return None, at
        if len(self._buffer) < at + size + 2:
            return MORE, at
        data = bytes(self._buffer[at : at + size])
        if kind == b'!':
            return _error(data), at + size + 2
        return data[4:] if kind == b'=' else data, at + size + 2

    def _many(self, kind: bytes, count: int, at: int) -> tuple[Any, int]:
        if count < 0:
            return None, at
        items: list[Any] = []
        for _ in range(count * 2 if kind in b'%|' else count):
            item, at = self._parse(at)
            if item is MORE:
                return MORE, at
            items.append(item)
        if kind == b'|':  # attributes of the reply that follows: nobody asked for them
            return self._parse(at)
        if kind == b'%':
            return dict(zip(items[::2], items[1::2], strict=True)), at
        return Push(items) if kind == b'>' else items, at


_SIMPLE: dict[bytes, Callable[[bytes], Any]] = {
    b'+': bytes,
    b'-': _error,
    b':': int,
    b'_': lambda rest: None,
    b'#': lambda rest: rest == b't',
    b',': float,
    b'(': int,
}

_PUSHES: tuple[type, ...] = (Push,) if hiredis is None else (Push, hiredis.PushNotification)
