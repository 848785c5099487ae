"""What strangers can put into a queue, by transport: each field of a message with a wrong type.

A transport joins by a class that `sender` gives for its scheme: its `cases` are names and what `send` takes,
`send` puts one into a queue as any other program could, and `undecodable` says of how many cases at least
nobody could read the message.
"""

from __future__ import annotations

import base64
import json
import struct
from typing import Any
from urllib.parse import unquote, urlsplit

from amqp import spec
from amqp.serialization import dumps

from greenmq.transport.pyamqp.properties import encode_table
from tests.support import green
from tests.support.amqp_frames import content, frame, method

# ---------------------------------------------------------------- AMQP


def short(raw: bytes) -> bytes:
    return bytes((len(raw),)) + raw


def table(fields: bytes) -> bytes:
    return struct.pack('>I', len(fields)) + fields


def nested(depth: int, kind: bytes = b'F') -> bytes:
    inner = b''
    for _ in range(depth):
        inner = (b'\x01a' if kind == b'F' else b'') + kind + table(inner)
    return table(inner if kind == b'F' else b'\x01a' + inner)


def headers(raw: bytes) -> bytes:
    return b'\x20\x00' + raw


def typed(**given: Any) -> bytes:
    """Headers of another client that are sound, and not what we would have sent."""
    return headers(encode_table('headers', given))


#: Flag bits of the properties that are short strings.
TEXTS = {
    'content_type': 0x8000, 'content_encoding': 0x4000, 'correlation_id': 0x0400, 'reply_to': 0x0200,
    'message_id': 0x0080, 'type': 0x0020, 'app_id': 0x0008, 'cluster_id': 0x0004,
}  # fmt: skip


class AMQP:
    """Another client: a socket, and frames that this library would not write."""

    undecodable = 15
    #: (routing key, properties); b'' is the queue's name, over the default exchange.
    cases: dict[str, tuple[bytes, bytes]] = {
        **{
            f'{name} is no text': (b'', bit.to_bytes(2, 'big') + short(b'\xff\xfe'))
            for name, bit in TEXTS.items()
        },
        'content_encoding with a NUL': (b'', b'\x40\x00' + short(b'a\0b')),
        'content_encoding punycode': (b'', b'\x40\x00' + short(b'punycode')),
        'a time of 2^63': (b'', headers(table(b'\x01kT' + (2**63).to_bytes(8, 'big')))),
        'a time of the year 10^11': (b'', headers(table(b'\x01kT' + (2**61).to_bytes(8, 'big')))),
        'tables, 1000 deep': (b'', headers(nested(1000))),
        'lists, 1000 deep': (b'', headers(nested(1000, b'A'))),
        'a name that is no text': (b'', headers(table(b'\x02\xff\xfeV'))),
        'a value that is no text': (b'', headers(table(b'\x01kS' + table(b'\xff')))),
        'compression is a table': (b'', typed(compression={'a': 1})),
        'compression is a list': (b'', typed(compression=['zlib'])),
        'compression of another body': (b'', typed(compression='application/x-gzip')),
        'x-death is a text': (b'', typed(**{'x-death': 'often'})),
        'x-delivery-count is a text': (b'', typed(**{'x-delivery-count': 'often'})),
        'a routing key that is no text': (b'\xff\xfe', b'\x00\x00'),
    }

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.sock = green.socket.socket()
        self.sock.connect((parts.hostname, parts.port))
        self.sock.sendall(b'AMQP\x00\x00\x09\x01')
        self._answer(spec.Connection.Start)
        login = f'\0{unquote(parts.username or "guest")}\0{unquote(parts.password or "guest")}'
        self._call(spec.Connection.StartOk, 'FsSs', ({}, 'PLAIN', login, 'en_US'), spec.Connection.Tune, 0)
        self.sock.sendall(method(0, spec.Connection.TuneOk, 'BlB', (2047, 131072, 0)))
        vhost = unquote(parts.path[1:]) or '/'
        self._call(spec.Connection.Open, 'sbs', (vhost, False, ''), spec.Connection.OpenOk, 0)
        self._call(spec.Channel.Open, 's', ('',), spec.Channel.OpenOk)
        self._call(spec.Confirm.Select, 'b', (False,), spec.Confirm.SelectOk)

    def _call(self, signature: Any, types: str, arguments: Any, answer: Any, channel: int = 1) -> None:
        self.sock.sendall(method(channel, signature, types, arguments))
        self._answer(answer)

    def _read(self, size: int) -> bytes:
        data = b''
        while len(data) < size:
            more = self.sock.recv(size - len(data))
            assert more, 'the broker closed the connection of the raw client'
            data += more
        return data

    def _answer(self, *expected: Any) -> None:
        with green.Timeout(10):
            while True:
                kind, _, size = struct.unpack('>BHI', self._read(7))
                payload = self._read(size + 1)
                if kind == 1:
                    found = struct.unpack_from('>HH', payload)
                    assert found in expected, f'{found} {payload!r}, expected {expected}'
                    return

    def send(self, queue: str, case: Any, body: bytes) -> None:
        key, properties = case
        if key:
            exchange = f'{queue}-x'
            self._call(
                spec.Exchange.Declare, 'BssbbbbbF', (0, exchange, 'fanout', 0, 0, 1, 0, 0, {}),
                spec.Exchange.DeclareOk,
            )  # fmt: skip
            self._call(spec.Queue.Bind, 'BsssbF', (0, queue, exchange, '', False, {}), spec.Queue.BindOk)
        else:
            exchange, key = '', queue.encode()
        arguments = b'\0\0' + dumps('s', (exchange,)) + short(key) + b'\0'
        publish = frame(1, 1, struct.pack('>HH', *spec.Basic.Publish) + arguments)
        self.sock.sendall(publish + content(1, body, properties))
        self._answer(spec.Basic.Ack)

    def close(self) -> None:
        self.sock.close()


# ---------------------------------------------------------------- brokers that keep kombu's envelope

WRONG: dict[str, Any] = {
    'null': None, 'true': True, 'number': 5, 'fraction': 1.5, 'text': 'x', 'list': [1], 'table': {'a': 1},
    'deep': 'DEEP',
}  # fmt: skip
#: Fields of the envelope, as paths.
FIELDS = (
    'body', 'headers', 'content-type', 'content-encoding', 'properties', 'redelivered',
    'properties.delivery_tag', 'properties.delivery_info', 'properties.delivery_info.exchange',
    'properties.delivery_info.routing_key',
    'properties.body_encoding', 'properties.priority', 'properties.delivery_mode',
    'properties.correlation_id', 'properties.reply_to', 'properties.expiration', 'properties.expires_at',
    'properties.timestamp',
    'headers.compression', 'headers.x-death', 'headers.x-delivery-count',
)  # fmt: skip


def envelope(body: bytes) -> dict[str, Any]:
    return {
        'body': base64.b64encode(body).decode(), 'headers': {}, 'content-type': 'application/json',
        'content-encoding': 'utf-8',
        'properties': {
            'delivery_tag': 'stranger', 'body_encoding': 'base64', 'delivery_mode': 2, 'priority': 0,
            'delivery_info': {'exchange': '', 'routing_key': 'q'},
        },
    }  # fmt: skip


def bent(path: str, wrong: Any, body: bytes) -> dict[str, Any]:
    made = envelope(body)
    *places, last = path.split('.')
    place: Any = made
    for each in places:
        place = place[each]
    place[last] = wrong
    return made


ENVELOPES: dict[str, Any] = {
    f'{path} is {name}': (path, wrong) for path in FIELDS for name, wrong in WRONG.items()
}
DEEP = '[' * 5000 + ']' * 5000


class Redis:
    """LPUSH of JSON that somebody wrote by hand, or of anything."""

    undecodable = 10
    cases: dict[str, Any] = {
        **ENVELOPES,
        **{f'all of it is {name}': json.dumps(wrong) for name, wrong in WRONG.items() if name != 'deep'},
        'no JSON': '{"body":', 'no text': b'\xff\xfe', 'empty': '', 'deep': '[' * 100_000,
        'a list of nothing': '[]', 'a table of nothing': '{}', 'a number of 10^5 digits': '1' * 100_000,
        'not a number': '{"body": NaN}', 'a lone surrogate': '{"body": "\\ud800", "properties": {}}',
    }  # fmt: skip

    def __init__(self, url: str, channel: Any) -> None:
        self.channel = channel

    def send(self, queue: str, case: Any, body: bytes) -> None:
        if isinstance(case, tuple):
            case = json.dumps(bent(*case, body)).replace('"DEEP"', DEEP)
        key = self.channel.session.driver.keys.list_of(queue)
        self.channel.session.driver.server.execute(('LPUSH', key, case), key)

    def close(self) -> None:
        pass


class Insider:
    """Nobody else can write to it: what the public doors take of a message in the very process."""

    undecodable = 10
    cases: dict[str, Any] = ENVELOPES

    def __init__(self, url: str, channel: Any) -> None:
        self.channel = channel

    def send(self, queue: str, case: Any, body: bytes) -> None:
        path, wrong = case
        made = bent(path, [[]] if wrong == 'DEEP' else wrong, body)
        message = self.channel.prepare_message(
            body if path != 'body' else wrong, 0, made['content-type'], made['content-encoding'],
            made['headers'], made['properties'],
        )  # fmt: skip
        self.channel.basic_publish(message, '', queue)

    def close(self) -> None:
        pass


def sender(url: str, channel: Any) -> Any:
    """The stranger who can write to this broker."""
    scheme = url.partition(':')[0].partition('+')[0]
    if scheme in ('amqp', 'amqps'):
        return AMQP(url)
    return (Redis if scheme.startswith(('redis', 'sentinel')) else Insider)(url, channel)
