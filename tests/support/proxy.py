"""A TCP proxy to stand between a client and its server, and to fail as networks do."""
from __future__ import annotations

import json
import pathlib
import subprocess
import sys

from tests.support.process import end, popen, wait_until

BOTH = ('up', 'down')
ROOT = pathlib.Path(__file__).parents[2]


class Behind:
    """A proxy in a process of its own, which is told line by line what to do."""

    def __init__(self, module, upstream, *arguments):
        host, port = upstream if isinstance(upstream, tuple) else ('127.0.0.1', upstream)
        self._process = popen(
            [sys.executable, '-m', f'tests.support.{module}', host, str(port), *map(str, arguments)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.port = int(self._process.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def close(self):
        end(self._process)
        self._process.stdin.close()
        self._process.stdout.close()

    def _ask(self, **words):
        self._process.stdin.write(json.dumps(words).encode() + b'\n')
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


class Proxy(Behind):
    """Listens on `port` of 127.0.0.1 and forwards to `upstream`, a port or (host, port).

    A direction is 'up' (client to server), 'down' or 'both'. What is set for a direction holds for every
    connection, present and to come, until `heal()`.

    ============================ ==============================================================
    `cut()`                      RST to both sides of every connection
    `fin(direction)`             orderly end of that direction
    `blackhole(direction)`       connections stay, nothing is forwarded or read; `heal()` delivers
    `half(n, direction, then)`   n bytes more, then 'stall', 'cut' or 'fin'
    `slow(bps, direction)`       bytes a second
    `latency(s, direction)`      each piece is held that long
    `refuse()` / `accept()`      no new connections / again
    ============================ ==============================================================

    `buffer_bytes` shrinks the kernel's buffers at the proxy, so that a stalled reader is felt soon.
    """

    def __init__(self, upstream, buffer_bytes=0):
        super().__init__('proxy_process', upstream, buffer_bytes)

    def _tell(self, do, direction=(), **values):
        directions = BOTH if direction == 'both' else (direction,) if direction else ()
        return self._ask(do=do, directions=directions, **values)

    def cut(self):
        self._tell('cut')

    def fin(self, direction='both'):
        self._tell('fin', direction)

    def blackhole(self, direction='both'):
        self._tell('blackhole', direction)

    def half(self, n, direction='down', then='stall'):
        if n == 0 and then == 'stall':
            return self.blackhole(direction)
        assert n > 0, 'with n = 0 there is no byte to end on: use cut() or fin()'
        self._tell('set', direction, budget=n, then=then)

    def slow(self, bps, direction='both'):
        self._tell('set', direction, bps=bps)

    def latency(self, seconds, direction='both'):
        self._tell('set', direction, latency=seconds)

    def heal(self, direction='both'):
        self._tell('heal', direction)

    def refuse(self):
        self._tell('refuse')

    def accept(self):
        self._tell('accept')

    @property
    def open_connections(self):
        return self._tell('count')['open']

    @property
    def total_connections(self):
        """How many were made since the start."""
        return self._tell('count')['total']

    def forwarded_bytes(self, direction):
        return self._tell('count')['bytes'][direction]

    def wait_open(self, count, seconds=5):
        wait_until(lambda: self.open_connections == count, seconds, f'{count} connections through the proxy')
