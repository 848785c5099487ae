"""Brokers that mean harm, or are broken: one typed error in time, and little in the log."""

from __future__ import annotations

import contextlib
import logging
import struct

import pytest
from amqp import exceptions, spec

from greenmq import Connection
from greenmq.exceptions import ConnectionError, InvalidArgument, TimeoutError
from tests.support import green
from tests.support.amqp_frames import HEARTBEAT, frame, method
from tests.support.amqp_peer import PROTOCOL_HEADER
from tests.wire.conftest import Doing

BEATS = frame(HEARTBEAT, 0, b'') * 1000


def refused(peer, script, seconds=5, **options):
    """How one opening ends when the broker answers it by `script(broker)`."""
    connection = Connection(peer.url, heartbeat=0, **options)
    opening = Doing(connection.transport.establish_connection)
    broker = peer.accept()
    with contextlib.suppress(OSError):
        script(broker)
    error = opening.error(seconds)
    broker.sock.close()
    return error


def flood(broker, data, until):
    """Send without a pause until the client goes; it must go by itself."""
    with green.Timeout(10, AssertionError('the client listens for ever')):
        while not until():
            broker.sock.sendall(data)


@pytest.mark.parametrize('step', ['header', 'start'])
@pytest.mark.parametrize(
    'data', [BEATS, method(0, spec.Connection.Blocked, 's', ('no',)) * 100], ids=['heartbeats', 'blocked']
)
def test_the_deadline_of_the_handshake_holds_while_bytes_keep_coming(peer, step, data):
    connection = Connection(peer.url, heartbeat=0, connect_timeout=0.3)
    opening = Doing(connection.transport.establish_connection)
    broker = peer.accept()
    if step == 'start':
        broker.start()
    else:
        broker.read(len(PROTOCOL_HEADER))
    with contextlib.suppress(OSError):
        flood(broker, data, lambda: opening.done)
    assert isinstance(opening.error(1), (TimeoutError, ConnectionError))
    assert 'within 0.3 s' in str(opening.error(1)) or data is not BEATS


def deep_table(depth, innermost=b''):
    inner = innermost
    for _ in range(depth):
        inner = b'\x01aF' + struct.pack('>I', len(inner)) + inner
    return struct.pack('>I', len(inner)) + inner


@pytest.mark.parametrize(
    'table',
    [
        deep_table(20_000),
        deep_table(0, b'\x01aT' + b'\xff' * 8),
        deep_table(0, b'\x01aT' + (1 << 62).to_bytes(8, 'big')),
        b'\x00\x00\x00\xff\x01a',
        deep_table(0, b'\x01a!'),
    ],
    ids=['deep', 'no such time', 'no such year', 'cut short', 'no such type'],
)
def test_a_start_that_cannot_be_read(peer, table):
    def script(broker):
        broker.read(len(PROTOCOL_HEADER))
        start = b'\x00\x0a\x00\x0a\x00\x09' + table + b'\0\0\0\x05PLAIN\0\0\0\x05en_US'
        broker.write(frame(1, 0, start))

    error = refused(peer, script)
    assert isinstance(error, exceptions.FrameSyntaxError), repr(error)
    assert len(str(error)) < 300


@pytest.mark.parametrize('frame_max', [1, 7, 8, 9, 4095])
def test_frames_smaller_than_the_protocol_allows_are_refused(peer, frame_max):
    def script(broker):
        broker.start()
        broker.send(0, spec.Connection.Tune, 'BlB', (0, frame_max, 0))

    error = refused(peer, script)
    assert isinstance(error, exceptions.FrameError), repr(error)
    assert f'at most {frame_max} bytes' in str(error) and '4096' in str(error)


ESCAPES = 'NOT_\x1b[31mALLOWED\r\nCRITICAL forged \u202e'


def test_texts_of_a_refusal_are_cleaned(peer):
    def script(broker):
        broker.start()
        broker.send(0, spec.Connection.Close, 'BsBB', (403, ESCAPES, 0, 0))

    error = refused(peer, script)
    assert isinstance(error, exceptions.AccessRefused)
    assert str(error).isprintable() and error.reply_text.isprintable() and 'forged' in str(error)


def test_texts_of_mechanisms_are_cleaned(peer):
    def script(broker):
        broker.read(len(PROTOCOL_HEADER))
        broker.send(0, spec.Connection.Start, 'ooFSS', (0, 9, {}, '\x1b[31m', 'en_US'))

    error = refused(peer, script)
    assert isinstance(error, ConnectionError) and str(error).isprintable()


def test_texts_of_later_are_cleaned(talk, caplog):
    channel, broker = talk()
    caplog.set_level(logging.DEBUG)
    asking = Doing(channel.queue_declare, 'q')
    broker.recv(spec.Queue.Declare)
    broker.send(0, spec.Connection.Blocked, 's', (ESCAPES,))
    broker.send(1, spec.Channel.Close, 'BsBB', (404, ESCAPES, 50, 10))
    assert str(asking.error(1)).isprintable()
    assert channel.connection.blocked.isprintable()
    broker.recv(spec.Channel.CloseOk)
    broker.send(0, spec.Connection.Close, 'BsBB', (320, ESCAPES, 0, 0))
    broker.wait_end()
    green.idle()
    assert str(channel.connection.link.error).isprintable()
    said = [record.getMessage() for record in caplog.records if record.name.startswith('greenmq')]
    assert said and all(each.isprintable() for each in said), said


def test_methods_that_nobody_asked_for_are_said_once(talk, caplog):
    channel, broker = talk()
    caplog.set_level(logging.INFO)
    broker.write(method(1, spec.Queue.BindOk) * 2000)
    broker.write(method(1, spec.Channel.CloseOk) * 2000)
    asking = Doing(channel.queue_purge, 'q')
    broker.recv(spec.Queue.Purge)
    broker.send(1, spec.Queue.PurgeOk, 'l', (7,))
    assert asking.result() == 7
    said = [record for record in caplog.records if 'nobody asked for' in record.getMessage()]
    assert len(said) == 1


@pytest.mark.parametrize('size', [1, 4095, -1])
def test_nor_do_we_propose_frames_that_small(size):
    with pytest.raises(InvalidArgument, match='frame_max'):
        Connection('amqp://localhost:1//', transport_options={'frame_max': size}).connect()
