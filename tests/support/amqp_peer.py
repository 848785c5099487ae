"""The broker's side of AMQP 0-9-1, spoken by a test over a real loopback socket.

The test plays the broker line by line while the client runs in greenlets of its own:

    opening = green.spawn(connection.connect)
    broker = peer.accept()
    broker.handshake()
    opening.get(timeout=1)

Each step of the broker has a guard of a second, so a client that does not do what the script says fails the
test where it stands. What is sent can be cut anywhere, and can be anything.
"""
from __future__ import annotations

import contextlib
import struct
from typing import Any, NamedTuple

from amqp import spec
from amqp.serialization import loads

from tests.support import green
from tests.support.amqp_frames import BODY, HEADER, HEARTBEAT, METHOD, NAMES, content, method

PROTOCOL_HEADER = b'AMQP\x00\x00\x09\x01'
CAPABILITIES = {
    'publisher_confirms': True, 'consumer_cancel_notify': True, 'connection.blocked': True,
    'basic.nack': True, 'authentication_failure_close': True,
}


class Received(NamedTuple):
    """One method of the client; `body` and `properties` are None if it carries no content."""

    channel: int
    signature: tuple[int, int]
    payload: bytes
    properties: bytes | None = None
    body: bytes | None = None

    def __repr__(self):
        return f'<{NAMES.get(self.signature, self.signature)} on channel {self.channel}>'

    def read(self, types):
        return loads(types, self.payload, 0)[0]


class Broker:
    """One connection, as the broker has it."""

    def __init__(self, sock, guard=1.0):
        self.sock = sock
        self.guard = guard

    @contextlib.contextmanager
    def _guarded(self, what):
        with green.Timeout(self.guard, AssertionError(f'{what}: not within {self.guard} s')):
            yield

    def read(self, size):
        data = b''
        with self._guarded(f'{size} bytes of the client'):
            while len(data) < size:
                more = self.sock.recv(size - len(data))
                assert more, 'the client closed the connection'
                data += more
        return data

    def read_frame(self):
        while True:
            kind, channel, size = struct.unpack('>BHI', self.read(7))
            payload = self.read(size)
            assert self.read(1) == b'\xce', 'the client lost the frame borders'
            if kind != HEARTBEAT:
                return kind, channel, payload

    def recv(self, *expected) -> Received:
        """The client's next method, with its content; must be one of `expected` if that is given."""
        kind, channel, payload = self.read_frame()
        assert kind == METHOD, f'a frame of kind {kind} where a method is due'
        found = Received(channel, struct.unpack_from('>HH', payload), payload[4:])
        assert not expected or found.signature in expected, \
            f'{found!r}, expected {[NAMES.get(each, each) for each in expected]}'
        if found.signature == spec.Basic.Publish:
            found = self._content(found)
        return found

    def _content(self, found):
        kind, channel, header = self.read_frame()
        assert (kind, channel) == (HEADER, found.channel), 'a message is not contiguous'
        size, body = struct.unpack_from('>HHQ', header)[2], b''
        while len(body) < size:
            kind, channel, piece = self.read_frame()
            assert (kind, channel) == (BODY, found.channel), 'a message is not contiguous'
            body += piece
        return found._replace(properties=header[12:], body=body)

    def wait_end(self):
        """Read what the client still says until it closes the socket; gives the bytes."""
        data = b''
        with self._guarded('end of the connection'):
            while True:
                try:
                    more = self.sock.recv(65536)
                except ConnectionError:
                    return data
                if not more:
                    return data
                data += more

    def write(self, data, *cuts):
        """Send bytes; before each position of `cuts` the client gets time to read what came before."""
        borders = [0, *cuts, len(data)]
        for start, stop in zip(borders, borders[1:], strict=False):
            with self._guarded('room for bytes'):
                self.sock.sendall(data[start:stop])
            if stop < len(data):
                green.idle()

    def send(self, channel, signature, types='', arguments=(), body=None):
        """A method, with content if there is a body."""
        data = method(channel, signature, types, arguments)
        self.write(data if body is None else data + content(channel, body))

    def reset(self):
        """RST instead of an orderly end."""
        self.sock.setsockopt(green.socket.SOL_SOCKET, green.socket.SO_LINGER, struct.pack('ii', 1, 0))
        self.sock.close()

    def start(self, mechanisms='PLAIN AMQPLAIN', **properties):
        """The handshake up to the client's credentials: gives its start-ok."""
        assert self.read(8) == PROTOCOL_HEADER
        said = {'product': 'Script', 'capabilities': CAPABILITIES, **properties}
        self.send(0, spec.Connection.Start, 'ooFSS', (0, 9, said, mechanisms, 'en_US'))
        return self.recv(spec.Connection.StartOk)

    def tune(self, channel_max=2047, frame_max=131072, heartbeat=0):
        self.send(0, spec.Connection.Tune, 'BlB', (channel_max, frame_max, heartbeat))
        return self.recv(spec.Connection.TuneOk)

    def handshake(self, **tuning):
        self.start()
        self.tune(**tuning)
        self.recv(spec.Connection.Open)
        self.send(0, spec.Connection.OpenOk, 's', ('',))
        return self

    def open_channel(self) -> int:
        channel = self.recv(spec.Channel.Open).channel
        self.send(channel, spec.Channel.OpenOk, 'S', ('',))
        return channel

    def open_confirms(self) -> int:
        """A publishing channel: opened, and confirms selected."""
        channel = self.open_channel()
        assert self.recv(spec.Confirm.Select).channel == channel
        self.send(channel, spec.Confirm.SelectOk)
        return channel

    def close_channel(self, channel, code, text, signature=(0, 0)):
        """channel.close by the broker, answered by the client."""
        self.send(channel, spec.Channel.Close, 'BsBB', (code, text, *signature))
        while (found := self.recv()).signature != spec.Channel.CloseOk:
            assert found.channel != channel or found.signature == spec.Basic.Publish, found
        assert found.channel == channel


class Peer:
    """Listens on a port of its own; `accept` gives the next client as a `Broker`."""

    def __init__(self, guard=1.0):
        self.guard = guard
        # Not create_server: that one is the stdlib's, and blocks the hub of an unpatched process.
        self._listener = green.socket.socket()
        self._listener.bind(('127.0.0.1', 0))
        self._listener.listen()
        self.port = self._listener.getsockname()[1]
        self.url = f'amqp://guest:guest@127.0.0.1:{self.port}//'
        self.brokers: list[Any] = []

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        for broker in self.brokers:
            broker.sock.close()
        self._listener.close()

    def accept(self) -> Broker:
        with green.Timeout(self.guard, AssertionError(f'nobody came within {self.guard} s')):
            sock, _ = self._listener.accept()
        sock.setsockopt(green.socket.IPPROTO_TCP, green.socket.TCP_NODELAY, 1)
        self.brokers.append(Broker(sock, self.guard))
        return self.brokers[-1]
