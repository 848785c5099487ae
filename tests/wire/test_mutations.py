"""A recorded session of a broker, damaged in a thousand ways: our errors, no hang, bounded memory.

Each seed changes the same bytes in the same way, so a failure names how to have it again.
"""

from __future__ import annotations

import contextlib
import os
import random
import struct

import pytest
from amqp import spec
from amqp.exceptions import AMQPError

from greenmq import Connection
from greenmq.exceptions import ConnectionError, DecodeError, KombuError, OperationalError
from greenmq.transport.pyamqp.properties import encode_properties
from tests.support import green
from tests.support.amqp_frames import content, frame, method
from tests.support.amqp_peer import CAPABILITIES
from tests.support.census import rss_bytes

SEEDS = 20_000 if os.environ.get('GREENMQ_SOAK') else 500
#: A frame, and what one read brings behind it.
HELD = 8192 + 65536
BATCH = SEEDS // 20

pytestmark = [pytest.mark.green_timeout(1200), pytest.mark.once]

PROPERTIES = encode_properties({
    'content_type': 'application/json', 'content_encoding': 'utf-8', 'delivery_mode': 2, 'priority': 3,
    'correlation_id': 'c-1', 'reply_to': 'r', 'message_id': 'm', 'timestamp': 1767312000, 'type': 't',
    'application_headers': {'n': 1, 'deep': {'list': [1, 'two', None, 2.5, 2**40]}, 'text': 'ä' * 30},
})  # fmt: skip


def deliver(tag, body, properties=PROPERTIES):
    arguments = ('t', tag, False, 'e', 'key')
    return method(1, spec.Basic.Deliver, 'sLbss', arguments) + content(1, body, properties)


#: What a broker says to a client that opens a channel, declares, consumes and gets: frame by frame.
SESSION = [
    method(0, spec.Connection.Start, 'ooFSS',
           (0, 9, {'product': 'Script', 'capabilities': CAPABILITIES}, 'PLAIN AMQPLAIN', 'en_US')),
    method(0, spec.Connection.Tune, 'BlB', (2047, 8192, 0)),
    method(0, spec.Connection.OpenOk, 's', ('',)),
    method(1, spec.Channel.OpenOk, 'S', ('',)),
    method(1, spec.Queue.DeclareOk, 'sll', ('q', 3, 0)),
    method(1, spec.Basic.QosOk),
    method(1, spec.Basic.ConsumeOk, 's', ('t',)),
    deliver(1, b'{"a": 1}'), deliver(2, b'x' * 9000), deliver(3, b''),
    method(0, spec.Connection.Blocked, 's', ('memory',)), method(0, spec.Connection.Unblocked),
    frame(8, 0, b''),
    method(1, spec.Channel.Flow, 'b', (True,)),
    method(1, spec.Basic.Return, 'Bsss', (312, 'NO_ROUTE', '', 'q')) + content(1, b'back', PROPERTIES),
    deliver(4, b'{}', b'\0\0'),
    method(1, spec.Basic.Cancel, 'sb', ('t', True)),
    method(1, spec.Channel.Close, 'BsBB', (404, 'NOT_FOUND', 60, 20)),
    method(0, spec.Connection.Close, 'BsBB', (320, 'CONNECTION_FORCED', 0, 0)),
]  # fmt: skip
#: Where the handshake ends in it.
OPENED = sum(map(len, SESSION[:3]))
WHOLE = b''.join(SESSION)
#: Where a broker waits until its client has said something more; the last but one: until it has acked.
PAUSES = [sum(map(len, SESSION[:count])) for count in (1, 2, 3, 4, 5, 6, 7, 17, 18)]


def flip(data, rng):
    for _ in range(rng.choice((1, 1, 2, 5))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def overwrite(data, rng):
    start = rng.randrange(len(data))
    part = bytes(rng.choice((0, 0xFF, 0xCE, rng.randrange(256))) for _ in range(rng.randrange(1, 9)))
    data[start : start + len(part)] = part


def cut(data, rng):
    start = rng.randrange(len(data))
    del data[start : start + rng.choice((1, 2, 7, 8, 100))]


def double(data, rng):
    start = rng.randrange(len(data))
    part = data[start : start + rng.randrange(1, 300)]
    data[start:start] = part * rng.choice((1, 2, 50))


def length(data, rng):
    """A frame that says another size than it has."""
    starts, position = [], 0
    while position < len(data):
        starts.append(position)
        position += 8 + struct.unpack_from('>I', data, position + 3)[0]
    struct.pack_into('>I', data, rng.choice(starts) + 3, rng.choice((0, 1, 7, 8184, 8185, 2**31, 2**32 - 1)))


def swap(data, rng):
    """Frames in another order."""
    frames = SESSION[:]
    rng.shuffle(frames)
    data[:] = b''.join(frames[: rng.randrange(1, len(frames) + 1)])


def within_a_frame(data, rng):
    """A sound frame with other bytes in it."""
    frames = [bytearray(each) for each in SESSION]
    chosen = rng.choice([each for each in frames[3:] if len(each) > 8])
    for _ in range(rng.randrange(1, 6)):
        chosen[rng.randrange(7, len(chosen) - 1)] = rng.choice((0, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    data[:] = b''.join(frames)


MUTATIONS = [flip, overwrite, cut, double, length, swap, within_a_frame]


def mutated(seed):
    rng = random.Random(seed)
    data = bytearray(WHOLE)
    rng.choice(MUTATIONS)(data, rng)
    # Half of them are damaged behind the handshake alone: it would keep most from coming further.
    return WHOLE[:OPENED] + bytes(data[OPENED:]) if seed % 2 else bytes(data)


def use(connection):
    """A program's way through the session; gives the error that it ends with."""
    channel = connection.channel()
    channel.queue_declare('q')
    channel.basic_qos(0, 10, False)
    channel.basic_consume('q', 't', callback=lambda delivery: look(channel.message_to_python(delivery)))
    while True:
        try:
            connection.drain_events(timeout=1)
        except DecodeError:
            continue


def look(message):
    if message.errors:
        message._reraise_error()
    assert repr(message)
    message.ack()


def play(peer, seed):
    """One damaged session: the error of the client, and the link's."""
    connection = Connection(
        peer.url, heartbeat=0, connect_timeout=1,
        transport_options={
            'recover': False, 'close_timeout': 0.2, 'operation_timeout': 1, 'max_message_bytes': 1 << 20,
        },
    )  # fmt: skip
    caught = []

    def client():
        try:
            raw = connection.transport.establish_connection()
            raw_connections.append(raw)
            use(raw)
        except BaseException as exc:
            caught.append(exc)

    raw_connections = []
    running = green.spawn(client)
    broker = peer.accept()
    try:
        with contextlib.suppress(OSError):
            say(broker.sock, mutated(seed))
        with green.Timeout(10, AssertionError(f'seed {seed}: it hangs')):
            running.join()
        for raw in raw_connections:
            assert raw.link is None or raw.link._parser.pending <= HELD, f'seed {seed}'
    finally:
        broker.sock.close()
        peer.brokers.clear()
        for raw in raw_connections:
            raw.collect()
        connection.collect()
    return caught[0], raw_connections[0].link.error if raw_connections and raw_connections[0].link else None


def say(sock, data):
    """Send it as a broker does, each answer after its question; one that does not come is not waited for
    long, since what was damaged may have been its cause."""
    sock.settimeout(0.01)
    for start, stop in zip([0, *PAUSES], [*PAUSES, len(data)], strict=True):
        with contextlib.suppress(TimeoutError):
            sock.recv(65536)
        sock.sendall(data[start:stop])
    sock.shutdown(green.socket.SHUT_WR)


OURS = (AMQPError, ConnectionError, KombuError, OperationalError, TimeoutError)


@pytest.mark.parametrize('batch', range(20))
def test_a_damaged_session(peer, batch):
    for seed in range(batch * BATCH, (batch + 1) * BATCH):
        error, ended = play(peer, seed)
        assert isinstance(error, OURS), f'seed {seed}: {error!r}'
        assert ended is None or 'ended:' not in str(ended), f'seed {seed}: the reader died of it: {ended}'
        assert len(str(error)) < 2000 and str(error).isprintable(), f'seed {seed}: {error}'


def test_memory_stays_flat(peer):
    for seed in range(60):
        play(peer, seed)
    before = rss_bytes()
    for seed in range(60, 60 + SEEDS // 10):
        play(peer, seed)
    assert rss_bytes() - before < 30 * 1024 * 1024


def test_the_session_itself_is_sound(peer, monkeypatch):
    monkeypatch.setattr('tests.wire.test_mutations.mutated', lambda seed: WHOLE)
    error, _ = play(peer, 0)
    assert 'NOT_FOUND' in str(error) or 'CONNECTION_FORCED' in str(error)
