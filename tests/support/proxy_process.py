"""The program of the TCP proxy: `python -m tests.support.proxy_process HOST PORT [BUFFER_BYTES]`.

A process of its own, so that a client that stops its hub does not stop the network too. The first line it
prints is its port; then each line read from stdin is a JSON command and gets one JSON line back. It ends with
its stdin. See tests.support.proxy for what the commands mean.
"""
from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import sys

CHUNK = 65536
RESET = struct.pack('ii', 1, 0)  # SO_LINGER on, 0 s: close() sends RST


class Direction:
    """What happens to the bytes that go one way, over all connections."""

    def __init__(self):
        self.bytes = 0
        self.heal()

    def heal(self):
        self.latency = 0.0
        self.bps = None
        self.budget = None
        self.then = 'stall'
        self.flowing = getattr(self, 'flowing', None) or asyncio.Event()
        self.flowing.set()


class Link:
    """One client's connection and ours to the server behind it."""

    def __init__(self, client, server):
        self.socks = {'up': (client, server), 'down': (server, client)}
        self.tasks = []

    def close(self, reset):
        for task in self.tasks:
            task.cancel()
        for sock in self.socks['up']:
            with contextlib.suppress(OSError):  # the peer may have been quicker
                if reset:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                sock.close()

    def fin(self, direction):
        with contextlib.suppress(OSError):
            self.socks[direction][1].shutdown(socket.SHUT_WR)


class Proxy:
    def __init__(self, upstream, buffer_bytes):
        self.upstream = upstream
        self.buffer_bytes = buffer_bytes
        self.directions = {'up': Direction(), 'down': Direction()}
        self.links = set()
        self.total = 0
        self.listener = None
        self.port = 0
        self.accepting = None
        self.listen()

    def listen(self):
        self.listener = sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.buffer_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.buffer_bytes)
        sock.bind(('127.0.0.1', self.port))
        sock.listen(1024)
        sock.setblocking(False)
        self.port = sock.getsockname()[1]
        self.accepting = asyncio.ensure_future(self.accept(sock))

    async def accept(self, listener):
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(listener)
            asyncio.ensure_future(self.serve(client))

    async def serve(self, client):
        self.total += 1
        server = socket.socket()
        link = Link(client, server)
        self.links.add(link)
        for sock in (client, server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if self.buffer_bytes:
                server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.buffer_bytes)
            await asyncio.get_running_loop().sock_connect(server, self.upstream)
            link.tasks = [asyncio.ensure_future(self.pump(link, name)) for name in self.directions]
            await asyncio.gather(*link.tasks)
            link.close(reset=False)
        except OSError:
            link.close(reset=True)  # what one side suffered, the other shall see
        except asyncio.CancelledError:
            return  # cut by command, and closed there
        finally:
            self.links.discard(link)

    async def pump(self, link, name):
        loop, way = asyncio.get_running_loop(), self.directions[name]
        source, sink = link.socks[name]
        while True:
            await way.flowing.wait()
            data = await loop.sock_recv(source, CHUNK)
            await way.flowing.wait()
            if not data:
                link.fin(name)
                return
            if way.latency:
                await asyncio.sleep(way.latency)
            await self.forward(link, name, sink, data)

    async def forward(self, link, name, sink, data):
        loop, way = asyncio.get_running_loop(), self.directions[name]
        while data:
            await way.flowing.wait()
            part = data if way.budget is None else data[:way.budget]
            if way.bps:
                part = part[:max(1, way.bps // 50)]
                await asyncio.sleep(len(part) / way.bps)
                await way.flowing.wait()
            if part:
                await loop.sock_sendall(sink, part)
                way.bytes += len(part)
                data = data[len(part):]
            if way.budget is not None:
                way.budget -= len(part)
                if not way.budget:
                    self.spent(link, name, way)

    def spent(self, link, name, way):
        way.budget = None
        if way.then == 'stall':
            way.flowing.clear()
        elif way.then == 'fin':
            link.fin(name)
        else:
            asyncio.get_running_loop().call_soon(link.close, True)

    def obey(self, do, directions=(), **values):
        ways = [self.directions[name] for name in directions]
        if do == 'cut':
            for link in list(self.links):
                link.close(reset=True)
        elif do == 'fin':
            for link in list(self.links):
                for name in directions:
                    link.fin(name)
        elif do == 'refuse':
            self.accepting.cancel()
            self.listener.close()
        elif do == 'accept':
            self.listen()
        elif do == 'blackhole':
            for way in ways:
                way.flowing.clear()
        elif do == 'heal':
            for way in ways:
                way.heal()
        elif do == 'set':
            for way in ways:
                vars(way).update(values)
        return {'open': len(self.links), 'total': self.total,
                'bytes': {name: way.bytes for name, way in self.directions.items()}}


async def main(host, port, buffer_bytes=0):
    proxy = Proxy((host, int(port)), int(buffer_bytes))
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    print(proxy.port, flush=True)
    while line := await commands.readline():
        answer = proxy.obey(**json.loads(line))
        await asyncio.sleep(0)  # what was cancelled ends before we answer
        print(json.dumps(answer), flush=True)


if __name__ == '__main__':
    asyncio.run(main(*sys.argv[1:]))
