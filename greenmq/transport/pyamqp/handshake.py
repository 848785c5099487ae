"""Opening an AMQP connection over a stream: py-amqp's own handshake, under one deadline.

py-amqp negotiates (SASL, capabilities, tuning, virtual host); it never gets a socket and never its own
frame writer, whose ``threading.Lock`` would stop an unpatched process for ever.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from errno import EOVERFLOW
from typing import Any

import amqp
from amqp.exceptions import AMQPError, FrameError, FrameSyntaxError, UnexpectedFrame
from amqp.sasl import AMQPLAIN, PLAIN

from greenmq import runtime
from greenmq.exceptions import ConnectionLost, TimeoutError
from greenmq.utils.text import printable

from . import frames
from .settings import FRAME_MIN

_head = struct.Struct('>BHI')


class Wire:
    """What py-amqp takes for its transport while it shakes hands: frames over our stream."""

    def __init__(self, stream: runtime.Stream, deadline: runtime.Deadline) -> None:
        self.stream = stream
        self.deadline = deadline
        self.connected = False
        self.heard = False
        self.buffer = bytearray()  # one whose beginning goes without a copy of the rest

    def connect(self) -> None:
        self.stream.write(frames.PROTOCOL_HEADER, self.deadline)
        self.connected = True

    @contextmanager
    def having_timeout(self, timeout: float | None) -> Iterator[None]:
        yield  # the one deadline of the opening counts, not py-amqp's

    def read_frame(self) -> tuple[int, int, bytes]:
        # Asked for each frame: a read that finds bytes does not look at the clock, and heartbeats without end
        # would keep us here for as long as the peer likes.
        self.deadline.check(f'{self.stream.name}: the handshake did not end')
        kind, channel_id, size = _head.unpack(self._take(7))
        if kind == ord('A'):
            raise UnexpectedFrame('the peer speaks another protocol version than AMQP 0-9-1')
        if size > 1 << 20:
            raise FrameError(f'frame of {size} bytes during the handshake')
        payload = self._take(size)
        if self._take(1) != b'\xce':
            raise FrameError('frame does not end with 0xce')
        return kind, channel_id, payload

    def _take(self, size: int) -> bytes:
        while len(self.buffer) < size:
            self.deadline.check(f'{self.stream.name}: the handshake did not end')
            self.buffer += self._read()
        taken = bytes(self.buffer[:size])
        del self.buffer[:size]
        return taken

    def _read(self) -> bytes:
        hint = '' if self.heard else '; nothing was heard: is that RabbitMQ'
        if hint:
            hint += '?' if self.stream.encrypted else ', and does the port speak TLS (amqps://)?'
        name = self.stream.name
        try:
            data = self.stream.read(65536, self.deadline)
        except TimeoutError as exc:
            raise TimeoutError(f'{exc}{hint}') from exc
        except ConnectionLost as exc:
            raise ConnectionLost(f'{exc}{hint}') from exc
        if not data:
            text = f'{name}: the broker closed the connection during the handshake{hint}'
            raise amqp.RecoverableConnectionError(text)
        if not self.heard:
            self.heard = True
            found = runtime.speaks(data)
            if found and found != 'AMQP':
                way = ' (amqps://)' if found == 'TLS' else ''
                raise ConnectionLost(f'{name} does not speak AMQP: what answers there speaks {found}{way}')
        return data

    def close(self) -> None:
        self.connected = False
        self.stream.close()


class Handshake(amqp.Connection):  # type: ignore[misc]
    """One opening.

    Attributes:
        wanted_heartbeat (float | None): seconds; None takes what the broker proposes, 0 disables.
    """

    def __init__(
        self,
        stream: runtime.Stream,
        deadline: runtime.Deadline,
        wanted_heartbeat: float | None,
        **settings: Any,
    ) -> None:
        self.wire = Wire(stream, deadline)
        self.wanted_heartbeat = wanted_heartbeat
        self.asked_frame_max: int | None = settings.get('frame_max')
        super().__init__(frame_writer=self._make_writer, heartbeat=wanted_heartbeat or 0, **settings)

    def Transport(self, *args: Any, **kwargs: Any) -> Wire:
        return self.wire

    def _make_writer(self, connection: amqp.Connection, transport: Wire) -> Any:
        def write_frame(
            kind: int, channel_id: int, signature: tuple[int, int], arguments: Any, content: None
        ) -> None:
            encoded = arguments.encode() if isinstance(arguments, str) else bytes(arguments)
            transport.stream.write(frames.method_frame(channel_id, signature, encoded), transport.deadline)

        return write_frame

    def _on_tune(self, channel_max: int, frame_max: int, server_heartbeat: int, argsig: str = 'BlB') -> None:
        if self.wanted_heartbeat is None:
            self.client_heartbeat = server_heartbeat
        if channel_max and self.channel_max:
            channel_max = min(channel_max, self.channel_max)  # amqp forgets what was asked for
        if frame_max and self.asked_frame_max:
            frame_max = min(frame_max, self.asked_frame_max)
        if 0 < frame_max < FRAME_MIN:
            raise FrameError(
                f'the broker proposes frames of at most {frame_max} bytes; AMQP asks for {FRAME_MIN} at least'
            )
        super()._on_tune(channel_max, frame_max, server_heartbeat, argsig)


class Terms:
    """What both sides agreed on when a connection was opened."""

    __slots__ = ('channel_max', 'frame_max', 'heartbeat', 'leftover', 'server_properties')

    def __init__(
        self,
        channel_max: int,
        frame_max: int,
        heartbeat: float,
        server_properties: Mapping[str, Any],
        leftover: bytes,
    ) -> None:
        self.channel_max = channel_max
        self.frame_max = frame_max
        self.heartbeat = heartbeat
        self.server_properties = server_properties
        self.leftover = leftover


def authentication(userid: str | None, password: str | None, login_method: str | None) -> Any:
    """The SASL mechanisms to offer, or None to let py-amqp choose by `login_method`.

    Without a login method a password login offers only what a password can do: py-amqp would pick
    EXTERNAL whenever a TLS server offers it, and be refused.
    """
    if login_method or userid is None or password is None:
        return None
    return (PLAIN(userid, password), AMQPLAIN(userid, password))


def open_connection(
    stream: runtime.Stream,
    deadline: runtime.Deadline,
    *,
    heartbeat: float | None,
    userid: str | None,
    password: str | None,
    login_method: str | None,
    **settings: Any,
) -> Terms:
    """Shake hands on a fresh stream.

    Raises:
        amqp.exceptions.AccessRefused, NotAllowed: the broker refuses the login or the virtual host.
        ConnectionLost, TimeoutError: the stream ended or the deadline passed.
    Switches: yes. Killed: the caller closes the stream.
    """
    offered = authentication(userid, password, login_method)
    if offered is not None:
        settings['authentication'] = offered
    shake = Handshake(
        stream, deadline, heartbeat, userid=userid, password=password, login_method=login_method, **settings
    )
    try:
        shake.connect()
        found = (shake.channel_max, shake.frame_max, shake.heartbeat or 0, shake.server_properties)
        return Terms(*found, bytes(shake.wire.buffer))
    except AMQPError as exc:
        # Of the broker's making, and on its way to a log: its texts are cleaned here, all that there are.
        if exc.reply_text is not None:
            exc.reply_text = exc.message = printable(exc.reply_text)
        exc.args = tuple(printable(each) if isinstance(each, str) else each for each in exc.args)
        raise
    except (
        ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError,
        struct.error,
    ) as exc:  # fmt: skip
        if isinstance(exc, OSError) and exc.errno != EOVERFLOW:
            raise  # the stream's, all but this one: a time that the platform cannot tell
        # py-amqp's decoder trips over arguments that are none: it is the peer's frame that is bad. The cause
        # is not kept: of a table without a bottom it would be thousands of frames.
        raise FrameSyntaxError(f'undecodable method during the handshake: {printable(repr(exc))}') from None
    finally:
        # py-amqp's objects refer to one another; cut loose here, they go without the collector.
        shake.connection = shake._callbacks = None
        shake.__dict__.clear()
