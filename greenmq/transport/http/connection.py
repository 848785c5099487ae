"""One connection: httpcore's HTTP/1.1 on a Stream, one exchange at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import httpcore

from greenmq import runtime
from greenmq.exceptions import ConnectionLost, TimeoutError

__all__ = ('Connection', 'NoAnswer', 'NoAnswerInTime', 'Request', 'Response')


class Request(NamedTuple):
    """What is asked.

    Attributes:
        method (str), target (str): "POST" and the path with its query, as it goes on the wire.
        headers (Mapping[str, str]): `Host` is among them; `Content-Length` is set here.
        body (bytes): may be empty.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b''


class Response(NamedTuple):
    """What was answered, whole.

    Attributes:
        status (int), reason (str): 200 and "OK".
        headers (dict[str, str]): names in lower case; of a name that comes twice the values joined by ", ".
        body (bytes): decoded from chunks, not decompressed.
    """

    status: int
    reason: str
    headers: dict[str, str]
    body: bytes


class NoAnswer(ConnectionLost):
    """The connection ended before the answer was whole, or the answer was none.

    Attributes:
        sent (str): 'no' if not a byte of the request left this process, else 'unknown': the server may have
            done what was asked.
        begun (bool): True if a part of the answer had come.
    """

    def __init__(self, text: str, sent: str = 'unknown', begun: bool = False) -> None:
        super().__init__(text)
        self.sent = sent
        self.begun = begun


class NoAnswerInTime(TimeoutError):
    """The deadline passed before the answer was whole.

    Attributes:
        sent (str): as of `NoAnswer`.
    """

    def __init__(self, text: str, sent: str = 'unknown') -> None:
        super().__init__(text)
        self.sent = sent


class _Wire(httpcore.NetworkStream):
    # What httpcore reads from and writes to. The parts of a request gather here and leave in one system call,
    # when httpcore first asks for the answer.

    def __init__(self, stream: runtime.Stream) -> None:
        self.stream = stream
        self.deadline: runtime.Deadline = runtime.NEVER
        self.sent = False
        self.begun = False
        self._parts: list[bytes] = []

    def begin(self, deadline: runtime.Deadline) -> None:
        self.deadline = deadline
        self.sent = self.begun = False
        self._parts.clear()

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._parts:
            data = b''.join(self._parts)
            self._parts.clear()
            self.sent = True
            self.stream.write(data, self.deadline)
        # Also while bytes keep coming: a slow server must not hold the caller longer than it asked for.
        self.deadline.check(f'{self.stream.name}: no whole answer')
        data = self.stream.read(max_bytes, self.deadline)
        self.begun = self.begun or bool(data)
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if buffer:
            self._parts.append(buffer)

    def close(self) -> None:
        self.stream.close()


class Connection:
    """A connection to one server, used by one task at a time. Made by the pool.

    Arguments:
        stream (runtime.Stream): connected, TLS included.
        origin (httpcore.Origin): where to; only httpcore compares it.
    Attributes:
        since (float): when it was last given back, in monotonic seconds.
        exchanges (int): answers that came whole.
    """

    __slots__ = ('__weakref__', '_http', '_origin', '_wire', 'exchanges', 'since', 'stream')

    def __init__(self, stream: runtime.Stream, origin: httpcore.Origin) -> None:
        self.stream = stream
        self.since = runtime.monotonic()
        self.exchanges = 0
        self._origin = origin
        self._wire = _Wire(stream)
        self._http = httpcore.HTTP11Connection(origin, self._wire)

    @property
    def reusable(self) -> bool:
        """True if another exchange may follow: both sides are done and neither has closed."""
        return not self.stream.closed and (self.exchanges == 0 or self._http.is_idle())

    def exchange(self, request: Request, deadline: runtime.Deadline, max_bytes: int) -> Response:
        """Ask, and take the whole answer.

        Arguments:
            deadline (Deadline): of the writing and the whole answer.
            max_bytes (int): largest body that is taken.
        Raises:
            NoAnswerInTime: the deadline passed.
            NoAnswer: the connection was lost, the answer is no HTTP or larger than `max_bytes`.

        Killed, or ended by an error: the connection is closed and not `reusable`.
        """
        self._wire.begin(deadline)
        try:
            answer = self._http.handle_request(self._prepared(request))
            body = self._body(answer, max_bytes)
        except BaseException as exc:
            self.abandon()
            if isinstance(exc, TimeoutError):
                raise NoAnswerInTime(str(exc), self._outcome) from exc
            if isinstance(exc, (ConnectionLost, httpcore.ProtocolError)):
                raise self._no_answer(str(exc)) from exc
            raise
        self.exchanges += 1
        return _response(answer, body)

    def connect(self, request: Request, deadline: runtime.Deadline) -> Response:
        """Ask a proxy for a tunnel (CONNECT). After a 2xx the stream is the other side's, and not ours."""
        self._wire.begin(deadline)
        try:
            answer = self._http.handle_request(self._prepared(request))
        except (ConnectionLost, httpcore.ProtocolError) as exc:
            raise self._no_answer(str(exc)) from exc
        return _response(answer, b'')

    def _prepared(self, request: Request) -> httpcore.Request:
        headers = [
            (name.encode('latin-1'), value.encode('latin-1')) for name, value in request.headers.items()
        ]
        if request.body or request.method in ('POST', 'PUT'):
            headers.append((b'Content-Length', b'%d' % len(request.body)))
        url = httpcore.URL(
            scheme=self._origin.scheme,
            host=self._origin.host,
            port=self._origin.port,
            target=request.target.encode('ascii'),
        )
        return httpcore.Request(request.method, url, headers=headers, content=request.body)

    def _body(self, answer: httpcore.Response, max_bytes: int) -> bytes:
        parts: list[bytes] = []
        length = 0
        for part in answer.iter_stream():
            length += len(part)
            if length > max_bytes:
                raise self._no_answer(f'the answer is larger than {max_bytes} bytes')
            parts.append(part)
        answer.close()
        return parts[0] if len(parts) == 1 else b''.join(parts)

    @property
    def _outcome(self) -> str:
        return 'unknown' if self._wire.sent else 'no'

    def _no_answer(self, text: str) -> NoAnswer:
        return NoAnswer(f'{self.stream.name}: {text}', self._outcome, self._wire.begun)

    def watch(self, ended: Callable[[Connection], Any]) -> None:
        """While it is idle: have `ended` called from the hub when the server closes or says anything."""
        self.stream.watch_idle(lambda: ended(self))

    def unwatch(self) -> None:
        """Undo `watch`."""
        self.stream.unwatch_idle()

    def abandon(self) -> None:
        """Close the descriptor without another byte."""
        self.stream.abandon()

    def __repr__(self) -> str:
        return f'<Connection {self.stream.name}, {self.exchanges} exchanges>'


def _response(answer: httpcore.Response, body: bytes) -> Response:
    reason = _text(answer.extensions['reason_phrase'])
    return Response(answer.status, reason, _headers(answer.headers), body)


def _text(value: bytes) -> str:
    return value.decode('latin-1')


def _headers(raw: list[tuple[bytes, bytes]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in raw:
        key, text = _text(name).lower(), _text(value)
        headers[key] = f'{headers[key]}, {text}' if key in headers else text
    return headers
