"""The bytes of AMQP 0-9-1: frames out, frames in; no socket, no clock, no switch.

Everything that leaves is built here as immutable ``bytes``, everything that arrives passes
`Parser.feed`. A parser keeps what it has of a frame across any cut, so a timeout or a kill elsewhere
never tears the stream, and it refuses what the protocol forbids before it is buffered.
"""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any, Protocol

from amqp.exceptions import FrameError, FrameSyntaxError, UnexpectedFrame
from amqp.serialization import loads

from greenmq.exceptions import DecodeError

__all__ = [
    'HEARTBEAT',
    'PROTOCOL_HEADER',
    'Parser',
    'Sink',
    'ack_frame',
    'content_frames',
    'content_parts',
    'method_frame',
    'read_arguments',
    'read_place',
]

METHOD, HEADER, BODY, BEAT = 1, 2, 3, 8
FRAME_END = 0xCE
#: What a frame adds to its payload: type, channel, size (7 bytes) and the end octet.
FRAME_OVERHEAD = 8
#: What a method's frame adds to its arguments: its signature too.
METHOD_OVERHEAD = FRAME_OVERHEAD + 4
#: What a content header's frame adds to the properties: class, weight and size of the body too.
HEADER_OVERHEAD = FRAME_OVERHEAD + 12
PROTOCOL_HEADER = b'AMQP\x00\x00\x09\x01'
HEARTBEAT = b'\x08\x00\x00\x00\x00\x00\x00\xce'
#: RabbitMQ's own ceiling for one message; a header that announces more is refused at once.
MAX_BODY_BYTES = 512 * 1024 * 1024
#: Bodies above this are sent from where they are, and body frames above `STREAMED_BYTES` taken as they come:
#: for small ones a copy is the cheaper way.
PARTED_BYTES = 32 * 1024
STREAMED_BYTES = 2048
#: From so much that is missing of a body on, a read brings that alone, where it belongs: less comes with what
#: follows it, or each body of some kilobytes would take a read. Measured: with 32 KiB bodies of 64 and 200 KB
#: took a tenth more CPU.
DIRECT_BYTES = 128 * 1024
#: Room that a body may have beyond what has come of it, or three times that if it is more; `SCANT_BYTES` if
#: bodies under way have `SPARE_BYTES` together that nothing came for.
AHEAD_BYTES = 1024 * 1024
SCANT_BYTES = 8 * 1024
SPARE_BYTES = 16 * 1024 * 1024
#: Room for what follows a body: the end of its frame, and method, header and the body's head of the next one.
AFTER_BYTES = 512
#: How many more frames of a body one read may bring.
MOST_FRAMES = 16

_frame_head = struct.Struct('>BHI')
_header_head = struct.Struct('>HHQ')
_signature = struct.Struct('>HH')
_next_head = struct.Struct('>BBHI')  # the end of a frame and the head of the next
_content_head = struct.Struct('>BHIHHQ')
_ack = struct.Struct('>BHIHHQ?B')

BASIC = 60
DELIVER, GET_OK, RETURN = (60, 60), (60, 71), (60, 50)
_DELIVER = _signature.pack(*DELIVER)
_WITH_CONTENT = frozenset([DELIVER, GET_OK, RETURN])


# ---------------------------------------------------------------- out


def method_frame(channel_id: int, signature: tuple[int, int], arguments: bytes = b'') -> bytes:
    """One method frame, whole."""
    return b''.join(
        (
            _frame_head.pack(METHOD, channel_id, len(arguments) + 4),
            _signature.pack(*signature),
            arguments,
            b'\xce',
        )
    )


def ack_frame(channel_id: int, tag: int, multiple: bool) -> bytes:
    """A basic.ack, whole: as `method_frame`, for what is said most often."""
    return _ack.pack(METHOD, channel_id, 13, BASIC, 80, tag, multiple, FRAME_END)


def content_frames(channel_id: int, properties: bytes, body: bytes, frame_max: int) -> bytes:
    """The header frame and the body frames of one message, whole, each body frame within `frame_max`."""
    size = len(body)
    head = _content_head.pack(HEADER, channel_id, len(properties) + 12, BASIC, 0, size)
    room = frame_max - FRAME_OVERHEAD
    if size == 0:
        return b''.join((head, properties, b'\xce'))
    if size <= room:
        return b''.join((head, properties, b'\xce', _frame_head.pack(BODY, channel_id, size), body, b'\xce'))
    return b''.join(content_parts(channel_id, properties, body, frame_max))


def content_parts(
    channel_id: int, properties: bytes, body: bytes, frame_max: int
) -> list[bytes | memoryview]:
    """The same frames in pieces that follow each other; those of the body are views of it, not copies."""
    size = len(body)
    room = frame_max - FRAME_OVERHEAD
    parts: list[bytes | memoryview] = []
    view = memoryview(body)
    before = b''.join(
        (_content_head.pack(HEADER, channel_id, len(properties) + 12, BASIC, 0, size), properties, b'\xce')
    )
    for start in range(0, size, room):
        piece = view[start : start + room]
        parts += (before + _frame_head.pack(BODY, channel_id, len(piece)), piece)
        before = b'\xce'
    parts.append(before)
    return parts


# ---------------------------------------------------------------- in


def read_arguments(signature: str, payload: bytes, offset: int = 4) -> list[Any]:
    """The arguments of a method frame's payload, by their type letters (as in `amqp.serialization`)."""
    if not signature:
        return []
    try:
        return loads(signature, payload, offset)[0]  # type: ignore[no-any-return]
    except Exception as exc:
        raise FrameSyntaxError(f'undecodable method arguments: {exc!r}') from exc


def read_place(data: bytes, offset: int) -> tuple[str, str, DecodeError | None]:
    """Exchange and routing key, as they lie in a delivery, and what is wrong with them.

    They are words of whoever published: what is no text is readable all the same, and an error of the one
    message.

    Raises:
        FrameSyntaxError: they are cut short, which only the broker can do.
    """
    middle = offset + 1 + data[offset]
    end = middle + 1 + data[middle]
    if end > len(data):
        raise FrameSyntaxError('a delivery whose routing key is cut short')
    exchange, routing_key = data[offset + 1 : middle], data[middle + 1 : end]
    try:
        return str(exchange, 'utf-8'), str(routing_key, 'utf-8'), None
    except UnicodeDecodeError as exc:
        return (
            exchange.decode('utf-8', 'backslashreplace'),
            routing_key.decode('utf-8', 'backslashreplace'),
            DecodeError(f'exchange or routing key of the message is no UTF-8: {exc}'),
        )


class Gathering:
    """A body that comes in parts: one buffer, which becomes the body without a copy.

    It grows with what has come: what a peer only announces costs little.

    Attributes:
        filled (int): bytes that have come.
        view (memoryview): the buffer, in bytes; of the whole size only at the end.
    """

    __slots__ = ('_file', '_size', 'filled', 'view')

    def __init__(self, size: int) -> None:
        self._size = size
        self._file = BytesIO()
        self.view = memoryview(bytearray())
        self.filled = 0

    def grow(self, come: int, ahead: int) -> None:
        """Make room for `come` bytes in all and for some more, `ahead` or three times that."""
        # These bytes belong to the file alone, so neither its buffer nor its value is a copy of them.
        self._file = file = BytesIO(bytes(min(self._size, come + max(3 * come, ahead))))
        view = file.getbuffer()
        view[: self.filled] = self.view[: self.filled]
        self.view = view

    def body(self) -> bytes:
        """The whole of it. Nobody may have a part of the view any more, or it would be a copy."""
        self.view.release()
        return self._file.getvalue()


class Content:
    """A message that arrives: its method, and of its content what has come so far."""

    __slots__ = ('body', 'gathering', 'header', 'method', 'missing', 'signature', 'size')

    def __init__(self, signature: tuple[int, int], method: bytes) -> None:
        self.signature = signature
        self.method = method
        self.header = b''
        self.size = 0
        self.missing = -1
        self.gathering: Gathering | None = None  # if it comes in parts
        self.body = b''


class Sink(Protocol):
    """Who takes what the parser found; it must not switch and must not raise but protocol errors."""

    def on_method(self, channel_id: int, signature: tuple[int, int], payload: bytes) -> None: ...

    def on_content(self, channel_id: int, content: Content) -> None: ...


class Parser:
    """Bytes in any portion → whole methods and messages for a `Sink`.

    Attributes:
        limit (int): the largest payload the peer may send in one frame, in bytes (frame_max − 8).
    """

    # `_streamed`: the message of a large body frame under way, whose bytes go straight to the others of its
    # body, `_gathered`; `_due` bytes of that frame are still to come, the end octet with them.
    # `_places`: what `wanted` gave; `_expected`: the heads of the frames for which it gave room, and how long
    # they are; `_quick`: the last one to take it filled the first place.
    __slots__ = (
        '_channel_id',
        '_contents',
        '_due',
        '_expected',
        '_gathered',
        '_places',
        '_quick',
        '_streamed',
        '_tail',
        '_taken',
        'limit',
        'max_body',
    )  # fmt: skip

    def __init__(self, frame_max: int, max_body: int = MAX_BODY_BYTES) -> None:
        self.limit = frame_max - FRAME_OVERHEAD
        self.max_body = max_body
        self._tail = b''
        self._contents: dict[int, Content] = {}
        self._streamed: Content | None = None
        self._gathered = Gathering(0)
        self._places: list[memoryview] = []
        self._expected: list[tuple[bytes, int]] = []
        self._quick = True
        self._due = self._taken = self._channel_id = 0

    @property
    def pending(self) -> int:
        """Bytes of a frame that is not whole yet."""
        return len(self._tail) if self._streamed is None else self._taken

    def forget(self, channel_id: int) -> None:
        """Drop what is half read of a channel that was closed."""
        self._contents.pop(channel_id, None)

    def feed(self, data: bytes, sink: Sink) -> int:
        """Parse all whole frames of what is there; returns how many, without those after which more of a
        large body is to come: of these nobody hears.

        Raises:
            FrameError: a frame is larger than negotiated, or does not end where it should.
            UnexpectedFrame: a frame of a kind that cannot come now.
        """
        buffer = self._tail + data if self._tail else data
        position, end, count = 0, len(buffer), 0
        if self._streamed is not None:
            if end < self._due:
                self._stream(buffer)
                return 0
            position = self._due
            count = self._end_streamed(buffer, sink)
        unpack = _frame_head.unpack_from
        try:
            while end - position >= FRAME_OVERHEAD - 1:
                kind, channel_id, size = unpack(buffer, position)
                stop = position + 7 + size
                if stop >= end:
                    self._check_head(kind, size)
                    if kind == BODY and size > STREAMED_BYTES:
                        self._begin_streamed(channel_id, size, memoryview(buffer)[position + 7 :])
                        position = end
                    break
                if size > self.limit or buffer[stop] != FRAME_END:
                    self._check_head(kind, size)
                    raise FrameError(f'frame ends with {buffer[stop]:#04x} where 0xce is due')
                payload = buffer[position + 7 : stop]
                position = stop + 1
                count += 1
                if kind == METHOD:
                    if payload[:4] == _DELIVER:
                        position = self._deliver(buffer, position, channel_id, payload, sink)
                    else:
                        self._method(channel_id, payload, sink)
                elif kind == HEADER:
                    self._header(channel_id, payload, sink)
                elif kind == BODY:
                    self._body(channel_id, payload, sink)
                elif kind != BEAT:
                    self._check_head(kind, size)
        finally:
            self._tail = buffer[position:]
        return count

    def _deliver(self, buffer: bytes, position: int, channel_id: int, payload: bytes, sink: Sink) -> int:
        """A delivery whose header and one body frame are all there, which is nearly every one: no state is
        needed.

        Returns the position behind what was taken; whatever is unusual is left to the frame-by-frame way.
        """
        end = len(buffer)
        if end - position > 21 and channel_id not in self._contents:
            kind, number, size = _frame_head.unpack_from(buffer, position)
            body = position + 8 + size
            if (
                kind == HEADER
                and number == channel_id
                and 14 <= size <= self.limit
                and end - body > 7
                and buffer[body - 1] == FRAME_END
            ):
                kind, number, length = _frame_head.unpack_from(buffer, body)
                stop: int = body + 7 + length
                if (
                    kind == BODY
                    and number == channel_id
                    and stop < end
                    and length <= self.limit
                    and buffer[stop] == FRAME_END
                ):
                    header = buffer[position + 7 : body - 1]
                    if length <= self.max_body and int.from_bytes(header[4:12], 'big') == length:
                        content = Content(DELIVER, payload)
                        content.header = header
                        content.size = length
                        content.body = buffer[body + 7 : stop]
                        sink.on_content(channel_id, content)
                        return stop + 1
        self._method(channel_id, payload, sink)
        return position

    def _check_head(self, kind: int, size: int) -> None:
        if kind not in (METHOD, HEADER, BODY, BEAT):
            raise UnexpectedFrame(f'frame of unknown type {kind:#04x}')
        if size > self.limit:
            raise FrameError(f'frame of {size} bytes, at most {self.limit} negotiated')

    def _method(self, channel_id: int, payload: bytes, sink: Sink) -> None:
        if channel_id in self._contents:
            raise UnexpectedFrame(f'method frame on channel {channel_id} in the middle of a message')
        if len(payload) < 4:
            raise FrameSyntaxError(f'method frame of {len(payload)} bytes')
        signature = _signature.unpack_from(payload)
        if signature in _WITH_CONTENT:
            self._contents[channel_id] = Content(signature, payload)
        else:
            sink.on_method(channel_id, signature, payload)

    def _header(self, channel_id: int, payload: bytes, sink: Sink) -> None:
        content = self._contents.get(channel_id)
        if content is None or content.missing >= 0:
            raise UnexpectedFrame(f'content header on channel {channel_id} without a method')
        if len(payload) < 14:
            raise FrameSyntaxError(f'content header of {len(payload)} bytes')
        size: int = _header_head.unpack_from(payload)[2]
        if size > self.max_body:
            raise FrameError(f'message of {size} bytes, at most {self.max_body} allowed')
        content.header = payload
        content.size = content.missing = size
        if not size:
            del self._contents[channel_id]
            sink.on_content(channel_id, content)

    def _body(self, channel_id: int, payload: bytes, sink: Sink) -> None:
        size = len(payload)
        content = self._expect_body(channel_id, size)
        if size == content.size and content.gathering is None:  # all in one frame: the common case
            content.body = payload
        elif not size:
            return  # allowed
        else:
            self._add(self._gathering(content), payload)
            content.missing -= size
            if content.missing:
                return
            self._complete(content)
        del self._contents[channel_id]
        sink.on_content(channel_id, content)

    def _expect_body(self, channel_id: int, size: int) -> Content:
        content = self._contents.get(channel_id)
        if content is None or content.missing < 0:
            raise UnexpectedFrame(f'content body on channel {channel_id} without a header')
        if size > content.missing:
            raise UnexpectedFrame(f'{size - content.missing} bytes more than the header announced')
        return content

    def _gathering(self, content: Content) -> Gathering:
        if content.gathering is None:
            content.gathering = Gathering(content.size)
        return content.gathering

    def _add(self, body: Gathering, data: bytes | memoryview) -> None:
        come = body.filled + len(data)
        if come > len(body.view):
            body.grow(come, self._ahead())
        body.view[body.filled : come] = data
        body.filled = come

    def _ahead(self) -> int:
        bodies = [each.gathering for each in self._contents.values() if each.gathering is not None]
        spare = sum([len(body.view) - body.filled for body in bodies])
        return AHEAD_BYTES if spare < SPARE_BYTES else SCANT_BYTES

    def _complete(self, content: Content) -> None:
        assert content.gathering is not None
        content.body = content.gathering.body()
        content.gathering = None

    # ---- large body frames, which are taken as they come

    def _begin_streamed(self, channel_id: int, size: int, beginning: bytes | memoryview) -> None:
        content = self._expect_body(channel_id, size)
        content.missing -= size
        self._gathered = self._gathering(content)
        self._streamed, self._channel_id = content, channel_id
        self._due, self._taken = size + 1, FRAME_OVERHEAD - 1
        self._stream(beginning)

    def _stream(self, data: bytes | memoryview) -> None:
        self._add(self._gathered, data)
        self._due -= len(data)
        self._taken += len(data)

    def _end_streamed(self, buffer: bytes, sink: Sink) -> bool:
        content, due = self._streamed, self._due
        assert content is not None
        if buffer[due - 1] != FRAME_END:
            raise FrameError(f'frame ends with {buffer[due - 1]:#04x} where 0xce is due')
        if due > 1:
            self._add(self._gathered, memoryview(buffer)[: due - 1])
        self._streamed = None
        if content.missing:
            return False
        self._complete(content)
        if self._contents.pop(self._channel_id, None) is content:  # or the channel was closed
            sink.on_content(self._channel_id, content)
        return True

    def wanted(self) -> list[memoryview] | None:
        """Where the bytes that come next belong, if they do so somewhere: to be filled in this order, as far
        as there are some, and told by `filled`. None: have them anywhere, and `feed` them.

        It is the rest of a body, with the heads of its frames between if the next ones are as long as this.
        Where they are not, what was read is put where it belongs all the same, for a copy more.
        """
        content = self._streamed
        if content is None or self._due + content.missing < DIRECT_BYTES:
            return None
        body = self._gathered
        if body.filled == len(body.view):
            body.grow(body.filled, self._ahead())
        room, size, missing = body.view[body.filled :], self._due - 1, content.missing
        frame = self._taken + size - (FRAME_OVERHEAD - 1)
        places = self._places = [room[:size]]
        expected = self._expected = list[tuple[bytes, int]]()
        # For a peer that sends a little at a time, room for many frames would cost more than what comes.
        most = MOST_FRAMES if self._quick or not size else 0
        while len(room) > size and len(expected) < most:
            room = room[size:]
            size = min(frame, missing)
            missing -= size
            expected.append((_next_head.pack(FRAME_END, BODY, self._channel_id, size), size))
            places += (memoryview(bytearray(_next_head.size)), room[:size])
        if len(room) == size and not missing:
            places.append(memoryview(bytearray(AFTER_BYTES)))
        return places

    def filled(self, size: int, sink: Sink) -> int:
        """`size` bytes came to where they were `wanted`. Returns and raises as `feed`."""
        content, places = self._streamed, self._places
        assert content is not None
        self._quick = size >= len(places[0])
        came = took = min(size, len(places[0]))
        due, taken = self._due - took, self._taken + took
        size -= took
        position = 1
        for head, length in self._expected:
            if size < len(head) or places[position] != head:
                break
            if self._contents.get(self._channel_id) is not content:
                break  # its channel was closed
            content.missing -= length
            took = min(size - len(head), len(places[position + 1]))
            due, taken = length + 1 - took, FRAME_OVERHEAD - 1 + took
            came += took
            size -= len(head) + took
            position += 2
        self._gathered.filled += came
        self._due, self._taken = due, taken
        rest = b''.join(places[position:])[:size] if size else b''
        for place in places:
            place.release()
        self._places = []
        return self.feed(rest, sink) if rest else 0
