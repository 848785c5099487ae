"""The program of the HTTP proxy: `python -m tests.support.http_proxy_process HOST PORT`.

It forwards whole requests to one server, counts them by operation and breaks those that it was told to break.
A process of its own, so that a client that stops its hub does not stop the network too. The first line it
prints is its port; then each line read from stdin is a JSON command and gets one JSON line back. It ends with
its stdin. See tests.support.http_proxy for what the commands mean.
"""
from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import sys
import time
from collections import Counter
from urllib.parse import parse_qsl, urlsplit

LIMIT = 1 << 25
#: Seconds after which a connection to the server is not used again: it may be ending it (node does after 5).
IDLE = 1.0


def operation(method, target, headers, body):
    """What a request asks for: X-Amz-Target's last word, a form's Action, or method, path and query names."""
    if 'x-amz-target' in headers:
        return headers['x-amz-target'].rpartition('.')[2]
    if headers.get('content-type', '').startswith('application/x-www-form-urlencoded'):
        action = dict(parse_qsl(body.decode('utf-8', 'replace'))).get('Action')
        if action:
            return action
    parts = urlsplit(target)
    names = '&'.join(sorted(name for name, _ in parse_qsl(parts.query, keep_blank_values=True)))
    return f'{method} {parts.path}' + (f'?{names}' if names else '')


class Rule:
    """One fault: for which requests, how often, and what."""

    def __init__(self, operation='', skip=0, times=None, chance=1.0, **fault):
        self.pattern = re.compile(operation)
        self.skip = skip
        self.times = times
        self.chance = chance
        self.fault = fault
        self.done = 0

    def takes(self, name, chance):
        if self.times == 0 or not self.pattern.search(name):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if chance >= self.chance:
            return False
        if self.times is not None:
            self.times -= 1
        self.done += 1
        return True


class Message:
    """One request or answer: its head as it came, and its body, chunks joined."""

    def __init__(self, first, head, headers, body):
        self.first = first
        self.head = head
        self.headers = headers
        self.body = body

    @property
    def keeps(self):
        given = self.headers.get('connection', '').lower()
        return given == 'keep-alive' or (given != 'close' and 'HTTP/1.0' not in self.first)

    def bytes(self):
        lines = [self.first]
        lines += [line for line in self.head if line.partition(':')[0].lower() not in
                  ('transfer-encoding', 'content-length')]
        if self.body or not self.first.startswith(('GET', 'HEAD', 'DELETE')):
            lines.append(f'Content-Length: {len(self.body)}')
        return '\r\n'.join(lines).encode('latin-1') + b'\r\n\r\n' + self.body


async def read_message(reader, asked=None):
    """A whole message; None at the end of the connection. `asked` is the method that an answer is to."""
    head = b'\r\n'
    while head == b'\r\n':
        head = await reader.readline()
    if not head:
        return None
    first, lines = head.decode('latin-1').rstrip('\r\n'), []
    while (line := (await reader.readline()).decode('latin-1').rstrip('\r\n')):
        lines.append(line)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(':') for line in lines)}
    if headers.get('transfer-encoding', '').lower() == 'chunked':
        body = b''
        while size := int((await reader.readline()).split(b';')[0], 16):
            body += await reader.readexactly(size)
            await reader.readline()
        while (await reader.readline()).strip():
            pass
    elif 'content-length' in headers:
        length = 0 if asked == 'HEAD' else int(headers['content-length'])
        body = await reader.readexactly(length)
    elif asked is not None and asked != 'HEAD' and not re.match(r'HTTP/1\.. (1|204|304)', first):
        body = await reader.read()
    else:
        body = b''
    return Message(first, lines, headers, body)


class Proxy:
    def __init__(self, host, port):
        self.upstream = (host, port)
        self.counts = Counter()
        self.connections = 0
        self.broken = 0
        self.rules = []
        self.log = []
        self.chance = random.Random()
        self.writers = set()

    async def serve(self, reader, writer):
        self.connections += 1
        self.writers.add(writer)
        server, used = None, 0.0
        try:
            while (request := await read_message(reader)) is not None:
                if server is not None and time.monotonic() - used > IDLE:
                    self.drop(server[1])
                    server = None
                if server is None:
                    server = await asyncio.open_connection(*self.upstream, limit=LIMIT)
                    self.writers.add(server[1])
                keeps = await self.exchange(request, writer, server)
                used = time.monotonic()
                if keeps is None:
                    return
                if not keeps:
                    self.drop(server[1])
                    server = None
                if not request.keeps:
                    return
        except (OSError, EOFError, ValueError):
            return  # one side is gone, and so is the other
        finally:
            self.drop(writer)
            if server is not None:
                self.drop(server[1])

    def drop(self, writer):
        self.writers.discard(writer)
        with contextlib.suppress(OSError):
            writer.transport.abort()

    async def exchange(self, request, writer, server):
        """One request and its answer. None if the client's connection is to end; else whether the server's
        may be used again.
        """
        method, target, _ = request.first.split(' ', 2)
        name = operation(method, target, request.headers, request.body)
        self.counts[name] += 1
        self.log.append((name, request.body.decode('utf-8', 'replace')))
        del self.log[:-2000]
        chance = self.chance.random()
        rule = next((rule for rule in self.rules if rule.takes(name, chance)), None)
        fault = rule.fault if rule is not None else {'do': 'forward'}
        self.broken += rule is not None
        do = fault['do']
        if do == 'hang':
            await asyncio.sleep(fault.get('seconds', 3600))
            return None
        if do == 'cut_before':
            return None
        if do == 'answer':
            await self.answer(writer, fault)
            return True
        if do == 'delay':
            await asyncio.sleep(fault['seconds'])
        server[1].write(request.bytes())
        answer = await read_message(server[0], method)
        if answer is None or do == 'cut_after':
            return None
        if do == 'late':
            await asyncio.sleep(fault['seconds'])
        if do == 'rewrite':
            answer.body = json.dumps({**json.loads(answer.body or b'{}'), **fault['json']}).encode()
        data = answer.bytes()
        if do == 'cut_middle':
            writer.write(data[:len(data) // 2])
            await writer.drain()
            return None
        keeps = answer.keeps and 'HTTP/1.0' not in answer.first
        # The client keeps its connection to us, also where the server closes its own after each answer.
        answer.head = [line for line in answer.head if not line.lower().startswith('connection:')]
        answer.first = answer.first.replace('HTTP/1.0', 'HTTP/1.1')
        writer.write(answer.bytes())
        await writer.drain()
        return keeps

    async def answer(self, writer, fault):
        body = fault.get('body', '').encode()
        lines = [f'HTTP/1.1 {fault.get("status", 500)} Fault', f'Content-Length: {len(body)}']
        lines += [f'{name}: {value}' for name, value in fault.get('headers', {}).items()]
        writer.write('\r\n'.join(lines).encode() + b'\r\n\r\n' + body)
        await writer.drain()

    def obey(self, what, values):
        if what == 'rule':
            self.rules.append(Rule(**values))
        elif what == 'heal':
            self.rules.clear()
        elif what == 'reset':
            self.counts.clear()
            self.log.clear()
            self.broken = 0
        elif what == 'cut':
            for writer in list(self.writers):
                self.drop(writer)
        elif what == 'log':
            return {'log': self.log}
        return {'counts': dict(self.counts), 'connections': self.connections, 'broken': self.broken}


async def main(host, port):
    proxy = Proxy(host, int(port))
    server = await asyncio.start_server(proxy.serve, '127.0.0.1', 0, limit=LIMIT)
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader(limit=LIMIT)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    print(server.sockets[0].getsockname()[1], flush=True)
    while line := await commands.readline():
        command = json.loads(line)
        print(json.dumps(proxy.obey(command.pop('what'), command)), flush=True)


if __name__ == '__main__':
    asyncio.run(main(*sys.argv[1:]))
