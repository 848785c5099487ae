"""Openings that fail: typed, and in time."""

from __future__ import annotations

import pytest
from amqp import exceptions, spec

from greenmq import Connection
from greenmq.exceptions import ConnectionError, OperationalError
from tests.support import green
from tests.support.amqp_frames import frame, method
from tests.wire.conftest import Doing


@pytest.fixture
def refused(peer):
    """How an opening ends when the broker answers it by `script(broker)`."""

    def refused(script, seconds=5, **options):
        connection = Connection(peer.url, heartbeat=0, **options)
        # One attempt: `connect` would make a second one.
        opening = Doing(connection.transport.establish_connection)
        broker = peer.accept()
        script(broker)
        error = opening.error(seconds)
        assert error is not None
        if broker.sock.fileno() >= 0:
            broker.wait_end()
        return error

    return refused


def refuse_login(broker):
    broker.start()
    text = 'ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN'
    broker.send(0, spec.Connection.Close, 'BsBB', (403, text, 0, 0))


def refuse_vhost(broker):
    broker.start()
    broker.tune()
    broker.recv(spec.Connection.Open)
    broker.send(0, spec.Connection.Close, 'BsBB', (530, 'NOT_ALLOWED - vhost nowhere not found', 10, 40))


def test_a_refused_login(refused):
    error = refused(refuse_login)
    assert isinstance(error, exceptions.AccessRefused) and 'Login was refused' in str(error)


def test_an_unknown_virtual_host(refused):
    error = refused(refuse_vhost)
    assert isinstance(error, exceptions.NotAllowed) and 'vhost nowhere not found' in str(error)


@pytest.mark.parametrize('step', ['accept', 'header', 'start-ok', 'tune-ok', 'half'])
@pytest.mark.parametrize('end', ['fin', 'reset'])
def test_the_broker_goes_away(refused, step, end):
    """Old brokers end the socket without a word when they refuse a login."""

    def script(broker):
        if step == 'header':
            broker.read(8)
        elif step != 'accept':
            broker.start()
            if step == 'tune-ok':
                broker.tune()
            elif step == 'half':
                broker.write(method(0, spec.Connection.Tune, 'BlB', (1, 4096, 0))[:9])
        broker.reset() if end == 'reset' else broker.sock.shutdown(green.socket.SHUT_WR)

    assert isinstance(refused(script), (ConnectionError, OperationalError, OSError))


@pytest.mark.parametrize('step', ['accept', 'start-ok', 'half'])
def test_a_silent_broker(refused, step):
    def script(broker):
        if step != 'accept':
            broker.start()
        if step == 'half':
            broker.write(b'\x01\x00\x00')

    assert isinstance(refused(script, connect_timeout=0.1), TimeoutError)


@pytest.mark.parametrize(
    'words',
    [
        b'AMQP\x00\x01\x00\x00',
        b'AMQP\x03\x01\x00\x00',
        b'HTTP/1.1 400 Bad Request\r\n\r\n',
        b'\x15\x03\x01\x00\x02\x02\x16',
        b'-ERR unknown command\r\n' * 3,
        frame(3, 0, b'body'),
        frame(1, 0, b'\x00'),
        frame(1, 0, b'\x00\x0a\x00\x0a' + b'\xff' * 30),
        b'\x01\x00\x00\x7f\xff\xff\xff' + b'x' * 100,
    ],
    ids=['amqp-1.0', 'sasl', 'http', 'tls', 'redis', 'body', 'short', 'garbage', 'huge'],
)
def test_another_protocol(refused, words):
    def script(broker):
        broker.read(8)
        broker.write(words)
        broker.sock.shutdown(green.socket.SHUT_WR)

    error = refused(script, connect_timeout=2)
    assert isinstance(error, (ConnectionError, OperationalError, exceptions.AMQPError, OSError)), repr(error)


def test_credentials_and_terms_reach_the_broker(peer):
    url = f'amqp://me:p%40ss@127.0.0.1:{peer.port}/%2Fdeep'
    connection = Connection(url, heartbeat=7)
    opening = Doing(connection.connect)
    broker = peer.accept()
    sent = broker.start().read('FsSs')
    assert sent[0]['product'] == 'greenmq' and sent[1:] == ['PLAIN', '\0me\0p@ss', 'en_US']
    assert broker.tune(channel_max=9, frame_max=8192, heartbeat=60).read('BlB') == [9, 8192, 7]
    assert broker.recv(spec.Connection.Open).read('s') == ['/deep']
    broker.send(0, spec.Connection.OpenOk, 's', ('',))
    opening.result()
    assert connection.connection.link.frame_max == 8192
    broker.sock.close()
    connection.collect()


@pytest.mark.parametrize(('asked', 'offered', 'agreed'), [
    (8192, 131072, 8192), (131072, 8192, 8192), (8192, 0, 8192), (None, 262144, 262144), (None, 0, 131072),
])  # fmt: skip
def test_the_smaller_frame_counts(peer, asked, offered, agreed):
    connection = Connection(peer.url, heartbeat=0, transport_options={'frame_max': asked} if asked else {})
    opening = Doing(connection.connect)
    broker = peer.accept()
    broker.start()
    assert broker.tune(frame_max=offered).read('BlB')[1] == agreed
    broker.recv(spec.Connection.Open)
    broker.send(0, spec.Connection.OpenOk, 's', ('',))
    opening.result()
    assert connection.connection.link.frame_max == agreed
    broker.sock.close()
    connection.collect()
