"""Commands to bytes and bytes to replies: RESP2 and RESP3, without a socket.

The server, or whoever speaks in its place, decides how long a reply is and how deep. So the parser looks at
each byte once and keeps its place between two reads, and what is too much is refused where it is announced:
at the header, before anything is kept for it. hiredis packs commands where it is installed; it does not read
replies, because it keeps none of these limits (a header that announces 2,000,000,000 items makes it allocate
them). Error replies are values, made by redis-py's own table of error classes; a push (RESP3) is a `Push`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from redis._parsers.base import BaseParser
from redis.exceptions import InvalidResponse, ResponseError

from greenmq import runtime

try:
    import hiredis
except ImportError:
    hiredis = None

__all__ = (
    'MAX_BYTES', 'MAX_DEPTH', 'MAX_ITEMS', 'MAX_LINE', 'MORE', 'Parser', 'Push', 'make_parser', 'pack',
    'pack_many',
)  # fmt: skip

#: Tells "no whole reply yet" from every value that a reply may have.
MORE = object()

#: Bytes of one bulk, as `max_message_bytes` has it by default; the server's own limit is as high.
MAX_BYTES = 512 * 1024 * 1024
#: A whole reply may be so many bytes longer than the longest bulk: a fetch takes several messages.
MARGIN = 64 * 1024 * 1024
#: Items of one reply, those within its aggregates included.
MAX_ITEMS = 2**20
#: Aggregates within each other. Redis itself has four.
MAX_DEPTH = 32
#: Bytes of a number with its kind and sign: 64 bits have 20 digits at most. What is longer would fit no time
#: and no float.
MAX_NUMBER = 22
#: Bytes of a line: a number, a status, an error.
MAX_LINE = 64 * 1024


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
    """Several commands after each other."""
    return b''.join([pack(command) for command in commands])


def make_parser(max_bytes: int = MAX_BYTES) -> Parser:
    """A fresh parser for one connection."""
    return Parser(max_bytes)


def _error(text: bytes) -> Any:
    words = text.decode(errors='replace')
    try:
        return BaseParser.parse_error(words)  # type: ignore[no-untyped-call]
    except Exception:  # redis-py's MovedError takes the text apart, and trips over what it does not expect
        return ResponseError(words)


_LONG_LINE = f'Protocol error, a line of more than {MAX_LINE} bytes'
_NO_END = 'Protocol error, a bulk that does not end where it should'


class _Open:
    """An aggregate whose items are on their way: `left` of them are missing."""

    __slots__ = ('items', 'kind', 'left')

    def __init__(self, kind: int, left: int) -> None:
        self.kind = kind
        self.left = left
        self.items: list[Any] = []


class Parser:
    """RESP3: give it what came, cut anywhere, and take the whole replies.

    Arguments:
        max_bytes (int): longest bulk that is accepted.
    Attributes:
        failure (InvalidResponse | None): why it can read no more.
    Source: the RESP3 specification of Redis.
    """

    __slots__ = (
        '_bulk', '_items', '_kind', '_line', '_missing', '_ready', '_spent', '_stack', 'failure', 'max_bytes',
    )  # fmt: skip

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self._line = bytearray()  # of a line that is not whole
        self._bulk = bytearray()  # of a bulk that is not whole:
        self._kind = 0  # its kind
        self._missing = 0  # how many of its bytes are missing, CR LF included; 0: there is none
        self._stack: list[_Open] = []
        self._items = 0  # announced by the aggregates of this reply
        self._spent = 0  # bytes of this reply in what was taken before
        self._ready: deque[Any] = deque()
        self.failure: InvalidResponse | None = None

    def feed(self, data: bytes) -> None:
        """Take bytes as they come, cut anywhere; `gets` gives the replies."""
        self._ready += self.take(data)

    def gets(self) -> Any:
        """The next whole reply of what was fed, or MORE.

        Raises:
            InvalidResponse: the bytes are no RESP, or more than is accepted. Nothing can follow.
        """
        if self._ready:
            return self._ready.popleft()
        if self.failure is not None:
            raise runtime.again(self.failure)
        return MORE

    def take(self, data: bytes) -> list[Any]:
        """Take bytes as they come, cut anywhere; return the replies that are whole now.

        What comes behind bytes that are no RESP, or more than is accepted, can't be read: then `failure` is
        set, and the replies before them are still returned.
        """
        replies: list[Any] = []
        if self.failure is not None:
            return replies
        line = b''
        try:
            at = began = 0
            if self._missing or self._line:
                data, at = self._resumed(data, replies)
                began = at if replies else 0
            stack, find, end = self._stack, data.find, len(data)
            top = stack[-1] if stack else None
            while at < end:
                stop = find(b'\r\n', at)
                if stop < 0:
                    self._keep_line(data[at:])
                    break
                line = data[at:stop]
                at = stop + 2
                kind = line[0]
                if kind == 36:  # $
                    size = int(line[1:])
                    stop = at + size
                    if 0 <= size <= self.max_bytes and stop + 2 <= end:
                        if data[stop] != 13 or data[stop + 1] != 10:
                            raise InvalidResponse(_NO_END)
                        value: Any = data[at:stop]
                        at = stop + 2
                    elif size == -1:
                        value = None
                    else:
                        self._begin(kind, size, data, at, replies)
                        break
                elif kind == 58:  # :
                    value = _number(line[1:])
                elif kind in _BULKS:
                    at = self._begin(kind, int(line[1:]), data, at, replies)
                    top = stack[-1] if stack else None
                    began = began if top or self._missing else at
                    continue
                else:
                    value = self._other(kind, line)
                    if value is MORE:  # the items follow
                        top = stack[-1] if stack else None
                        continue
                if top is None:
                    replies.append(value)
                    self._items = self._spent = 0
                    began = at
                    continue
                top.items.append(value)
                top.left -= 1
                if not top.left:
                    top = self._close(replies)
                    began = began if stack else at
            if end > began:
                self._spend(end - began)
        except (InvalidResponse, ValueError, KeyError, IndexError) as error:
            self.failure = _told(error, line)
        return replies

    def _begin(self, kind: int, size: int, data: bytes, at: int, replies: list[Any]) -> int:
        """A bulk that is not whole, or is no text; the position behind what there is of it."""
        if size < 0:
            raise ValueError
        if size > self.max_bytes:
            raise InvalidResponse(
                f'Protocol error, a bulk of {size} bytes; max_message_bytes is {self.max_bytes}'
            )
        self._kind, self._missing = kind, size + 2
        return self._fill(data, at, replies)

    def _fill(self, data: bytes, at: int, replies: list[Any]) -> int:
        """Add to the bulk that is not whole; the position behind it."""
        stop = min(at + max(self._missing - 2, 0), len(data))
        self._bulk += data if stop - at == len(data) else data[at:stop]
        self._missing -= stop - at
        # CR LF follows, at once or in what comes next.
        while stop < len(data) and self._missing:
            if data[stop] != (13 if self._missing == 2 else 10):
                raise InvalidResponse(_NO_END)
            stop += 1
            self._missing -= 1
        if self._missing:
            return stop
        value: Any = bytes(self._bulk)
        self._bulk = bytearray()
        if self._kind != 36:
            value = _error(value) if self._kind == 33 else value[4:]
        if not self._stack:
            replies.append(value)
            self._items = self._spent = 0
            return stop
        top = self._stack[-1]
        top.items.append(value)
        top.left -= 1
        if not top.left:
            self._close(replies)
        return stop

    def _other(self, kind: int, line: bytes) -> Any:
        """The value of a line of a rarer kind; MORE if it only announces items."""
        if kind not in _AGGREGATES:
            if len(line) > MAX_LINE:
                raise InvalidResponse(_LONG_LINE)
            return _SIMPLE[kind](line[1:])
        count = int(line[1:])
        if count < 0:
            if line != b'*-1':
                raise ValueError
            return None
        if not count:
            return MORE if kind == 124 else _closed(kind, [])
        if kind == 37 or kind == 124:  # pairs
            count *= 2
        self._items += count
        if self._items > MAX_ITEMS:
            raise InvalidResponse(f'Protocol error, a reply of more than {MAX_ITEMS} items')
        if len(self._stack) >= MAX_DEPTH or (kind == 62 and self._stack):
            raise InvalidResponse(f'Protocol error, nested more than {MAX_DEPTH} deep, or a push in a reply')
        self._stack.append(_Open(kind, count))
        return MORE

    def _close(self, replies: list[Any]) -> _Open | None:
        """The innermost aggregate is whole, perhaps that around it as well; the one that goes on."""
        stack = self._stack
        while stack and not stack[-1].left:
            done = stack.pop()
            if done.kind == 124:
                break  # attributes of the value that follows: nobody asked for them
            value = _closed(done.kind, done.items)
            if not stack:
                replies.append(value)
                self._items = self._spent = 0
            else:
                stack[-1].items.append(value)
                stack[-1].left -= 1
        return stack[-1] if stack else None

    def _resumed(self, data: bytes, replies: list[Any]) -> tuple[bytes, int]:
        """Go on with the bulk or line that was cut; what to read on in, and from where."""
        if self._missing:
            return data, self._fill(data, 0, replies)
        if b'\n' not in data:
            self._keep_line(data)
            return b'', 0
        # Joined once for what is read at once, and a line is short.
        line, self._line = bytes(self._line), bytearray()
        return line + data, 0

    def _keep_line(self, part: bytes) -> None:
        self._line += part
        if len(self._line) > MAX_LINE:
            raise InvalidResponse(_LONG_LINE)

    def _spend(self, count: int) -> None:
        self._spent += count
        if self._spent + self._missing > self.max_bytes + MARGIN:
            raise InvalidResponse(f'Protocol error, a reply of more than {self.max_bytes + MARGIN} bytes')


def _closed(kind: int, items: list[Any]) -> Any:
    if kind == 42:
        return items
    if kind == 62:
        return Push(items)
    if kind == 37:
        try:
            return dict(zip(items[::2], items[1::2], strict=True))
        except TypeError:
            raise InvalidResponse('Protocol error, a map with a key that is an aggregate') from None
    return items


def _told(error: Exception, line: bytes) -> InvalidResponse:
    if isinstance(error, InvalidResponse):
        return error
    return InvalidResponse(f'Protocol error, got {line[:40]!r} as a reply')


def _truth(rest: bytes) -> bool:
    return {b't': True, b'f': False}[rest]


def _number(rest: bytes) -> int:
    if len(rest) >= MAX_NUMBER:
        raise ValueError
    return int(rest)


def _null(rest: bytes) -> None:
    if rest:
        raise ValueError


#: Kinds of one line, by their first byte: + - _ # , (
_SIMPLE: dict[int, Callable[[bytes], Any]] = {
    43: bytes,
    45: _error,
    95: _null,
    35: _truth,
    44: float,
    40: _number,
}
#: ! and =, which are read like a text.
_BULKS = frozenset(b'!=')
#: * ~ > % |
_AGGREGATES = frozenset(b'*~>%|')
