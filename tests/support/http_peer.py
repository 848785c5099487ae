"""The server's side of HTTP/1.1, played by a test over a real loopback socket, in greenlets of its own.

    with HTTPPeer(lambda request: answer(200, b'hello')) as peer:
        client.request('GET', peer.url + '/a')

The answerer gets each `Asked` and gives the bytes to send; None to hang; or a function that gets the socket.
"""
from __future__ import annotations

import contextlib
from typing import NamedTuple

from tests.support import green


class Asked(NamedTuple):
    """One request: `connection` counts the connections of this peer from 1."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int


def answer(status=200, body=b'', reason='OK', **headers):
    lines = [f'HTTP/1.1 {status} {reason}', f'Content-Length: {len(body)}']
    lines += [f'{name.replace("_", "-")}: {value}' for name, value in headers.items()]
    return '\r\n'.join(lines).encode() + b'\r\n\r\n' + body


class HTTPPeer:
    def __init__(self, answerer, context=None):
        self.answerer = answerer
        self.asked: list[Asked] = []
        self.connections = 0
        self._context = context
        self._socks = []
        self._listener = green.socket.socket()
        self._listener.bind(('127.0.0.1', 0))
        self._listener.listen()
        self.port = self._listener.getsockname()[1]
        self.url = f'{"https" if context else "http"}://127.0.0.1:{self.port}'
        self._greenlets = [green.spawn(self._accept)]

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        green.killall(self._greenlets)
        for sock in [*self._socks, self._listener]:
            sock.close()

    def _accept(self):
        while True:
            sock, _ = self._listener.accept()
            self.connections += 1
            self._socks.append(sock)
            self._greenlets.append(green.spawn(self._serve, sock, self.connections))

    def _serve(self, sock, number):
        with contextlib.suppress(OSError, EOFError):
            data = b''
            while True:
                while b'\r\n\r\n' not in data:
                    data += self._more(sock)
                head, _, data = data.partition(b'\r\n\r\n')
                first, *lines = head.decode('latin-1').split('\r\n')
                method, target, _ = first.split(' ')
                headers = {name.lower(): value.strip() for name, _, value in
                           (line.partition(':') for line in lines)}
                length = int(headers.get('content-length', 0))
                while len(data) < length:
                    data += self._more(sock)
                asked = Asked(method, target, headers, data[:length], number)
                data = data[length:]
                self.asked.append(asked)
                given = self.answerer(asked)
                if given is None:
                    while True:
                        self._more(sock)
                if callable(given):
                    given = given(sock)
                    if given is None:
                        sock.close()
                        return
                sock.sendall(given)

    def _more(self, sock):
        more = sock.recv(65536)
        if not more:
            raise EOFError
        return more
