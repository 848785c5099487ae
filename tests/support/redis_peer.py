"""The server's side of RESP, spoken by a test over a real loopback socket, command by command."""
from __future__ import annotations

import contextlib

from greenmq.transport.redis import resp
from tests.support import green


class Peer:
    """Answers the n-th command of one client with `answer(n, command)`, then closes what it is told to.

    Attributes:
        port (int): where it listens.
        done (Event): it has said all that it had to say, or the client was silent for too long.
    """

    def __init__(self, answer, silence=0.3):
        self.answer = answer
        self.silence = silence
        self.done = green.Event()
        self.commands = []
        self._listener = green.socket.socket()
        self._listener.bind(('127.0.0.1', 0))
        self._listener.listen(1)
        self.port = self._listener.getsockname()[1]
        self._task = green.spawn(self._serve)

    @property
    def url(self):
        return f'redis://127.0.0.1:{self.port}/0'

    def _serve(self):
        try:
            sock, _ = self._listener.accept()
            self._listener.close()  # who comes back finds nobody
            with contextlib.closing(sock), contextlib.suppress(OSError):
                self._talk(sock)
        finally:
            self.done.set()

    def _talk(self, sock):
        sock.settimeout(self.silence)
        parser = resp.make_parser()
        while data := sock.recv(65536):
            for command in parser.take(data):
                reply = self.answer(len(self.commands), command)
                self.commands.append(command)
                if reply is None:
                    return
                sock.sendall(reply)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._task.kill()
        self._listener.close()
