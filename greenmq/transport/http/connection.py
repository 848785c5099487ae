"""One connection: h11's HTTP/1.1 on a Stream, one exchange at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import h11

from greenmq import runtime
from greenmq.exceptions import ConnectionLost, TimeoutError

__all__ = ('Connection', 'NoAnswer', 'NoAnswerInTime', 'Request', 'Response')

#: Bytes of the head of an answer, or of a line of its chunks, at most; and what one read takes.
_LONGEST_HEAD, _CHUNK = 100 * 1024, 64 * 1024


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


class Connection:
    """A connection to one server, used by one task at a time. Made by the pool.

    Arguments:
        stream (runtime.Stream): connected, TLS included.
    Attributes:
        since (float): when it was last given back, in monotonic seconds.
        exchanges (int): answers that came whole.
    """

    __slots__ = ('__weakref__', '_begun', '_http', '_sent', 'exchanges', 'since', 'stream')

    def __init__(self, stream: runtime.Stream) -> None:
        self.stream = stream
        self.since = runtime.monotonic()
        self.exchanges = 0
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_LONGEST_HEAD)
        self._sent = self._begun = False  # of this exchange: a byte has left; has come

    @property
    def reusable(self) -> bool:
        """True if another exchange may follow: both sides are done and neither has closed."""
        return not self.stream.closed and self._http.our_state is h11.IDLE

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
        try:
            head = self._ask(request, deadline)
            body = self._body(deadline, max_bytes)
        except BaseException as exc:
            self.abandon()
            if isinstance(exc, TimeoutError):
                raise NoAnswerInTime(str(exc), self._outcome) from exc
            if isinstance(exc, (ConnectionLost, h11.ProtocolError)):
                raise self._no_answer(str(exc)) from exc
            raise
        self.exchanges += 1
        # What came after the answer belongs to no request of ours.
        if self._http.their_state is h11.DONE and not self._http.trailing_data[0]:
            self._http.start_next_cycle()
        return _response(head, body)

    def connect(self, request: Request, deadline: runtime.Deadline) -> Response:
        """Ask a proxy for a tunnel (CONNECT). After a 2xx the stream is the other side's, and not ours."""
        try:
            return _response(self._ask(request, deadline), b'')
        except (ConnectionLost, h11.ProtocolError) as exc:
            raise self._no_answer(str(exc)) from exc

    def _ask(self, request: Request, deadline: runtime.Deadline) -> h11.Response:
        # Returns the head of the answer.
        self._sent = self._begun = False
        headers = [
            (name.encode('latin-1'), value.encode('latin-1')) for name, value in request.headers.items()
        ]
        if request.body or request.method in ('POST', 'PUT'):
            headers.append((b'Content-Length', b'%d' % len(request.body)))
        http, asked = self._http, h11.Request(method=request.method, target=request.target, headers=headers)
        parts = [http.send(asked), request.body and http.send(h11.Data(data=request.body)),
                 http.send(h11.EndOfMessage())]  # fmt: skip
        data = b''.join(part for part in parts if part)
        self._sent = True
        self.stream.write(data, deadline)
        while not isinstance(event := self._next(deadline), h11.Response):
            pass  # that it goes on
        return event

    def _next(self, deadline: runtime.Deadline) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            # Also while bytes keep coming: a slow server must not hold the caller longer than it asked for.
            deadline.check(f'{self.stream.name}: no whole answer')
            data = self.stream.read(_CHUNK, deadline)
            if not data and not self._begun:
                raise self._no_answer('the server closed the connection and gave no answer')
            self._begun = True
            self._http.receive_data(data)
        return event

    def _body(self, deadline: runtime.Deadline, max_bytes: int) -> bytes:
        parts: list[bytes] = []
        length = 0
        while isinstance(event := self._next(deadline), h11.Data):
            length += len(event.data)
            if length > max_bytes:
                raise self._no_answer(f'the answer is larger than {max_bytes} bytes')
            parts.append(event.data)
        return b''.join(parts)

    @property
    def _outcome(self) -> str:
        return 'unknown' if self._sent else 'no'

    def _no_answer(self, text: str) -> NoAnswer:
        return NoAnswer(f'{self.stream.name}: {text}', self._outcome, self._begun)

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


def _response(head: h11.Response, body: bytes) -> Response:
    return Response(head.status_code, _text(head.reason), _headers(head.headers), body)


def _text(value: bytes) -> str:
    return value.decode('latin-1')


def _headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in raw:
        key, text = _text(name), _text(value)
        headers[key] = f'{headers[key]}, {text}' if key in headers else text
    return headers
