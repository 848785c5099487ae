"""The scripted broker itself: it must notice what a client does wrong, and send what it is told."""
from __future__ import annotations

import pytest
from amqp import spec

from tests.support import green
from tests.support.amqp_frames import HEARTBEAT, content, frame, method
from tests.support.amqp_peer import Peer


@pytest.fixture
def pair():
    """A broker, and the client's raw socket."""
    with Peer(guard=0.2) as peer:
        sock = green.socket.create_connection(('127.0.0.1', peer.port))
        yield peer.accept(), sock
        sock.close()


def test_a_message_is_read_whole_with_its_content(pair):
    broker, sock = pair
    sock.sendall(frame(HEARTBEAT, 0, b''))
    sock.sendall(method(3, spec.Basic.Publish, 'Bssbb', (0, 'e', 'k', True, False)) + content(3, b'x' * 9000))
    found = broker.recv(spec.Basic.Publish)
    assert (found.channel, found.body, found.properties) == (3, b'x' * 9000, b'\x00\x00')
    assert found.read('Bssbb') == [0, 'e', 'k', True, False]
    assert repr(found) == '<Basic.Publish on channel 3>'


def test_another_method_than_expected_is_named(pair):
    broker, sock = pair
    sock.sendall(method(1, spec.Channel.Open, 's', ('',)))
    with pytest.raises(AssertionError, match=r'Channel.Open on channel 1.*Basic.Get'):
        broker.recv(spec.Basic.Get)


def test_frames_of_two_messages_must_not_interleave(pair):
    broker, sock = pair
    publish = method(1, spec.Basic.Publish, 'Bssbb', (0, '', 'k', False, False))
    sock.sendall(publish + content(2, b'other'))
    with pytest.raises(AssertionError, match='not contiguous'):
        broker.recv()


def test_a_lost_frame_border_is_seen(pair):
    broker, sock = pair
    sock.sendall(method(1, spec.Channel.Open, 's', ('',))[:-1] + b'\x00')
    with pytest.raises(AssertionError, match='frame borders'):
        broker.recv()


def test_every_step_is_guarded(pair):
    broker, sock = pair
    for step in (broker.recv, broker.wait_end):
        with pytest.raises(AssertionError, match=r'not within 0.2 s'):
            step()
    with Peer(guard=0.05) as peer, pytest.raises(AssertionError, match='nobody came'):
        peer.accept()
    sock.close()
    assert broker.wait_end() == b''


def test_cuts_arrive_as_portions(pair):
    broker, sock = pair
    portions = []

    def read():
        while sum(map(len, portions)) < 6:
            portions.append(sock.recv(100))

    reader = green.spawn(read)
    broker.write(b'abcdef', 1, 4)
    reader.get(timeout=1)
    assert portions == [b'a', b'bcd', b'ef']


@pytest.mark.skipif(green.RUNTIME == 'eventlet', reason="eventlet's sockets take a reset for an end")
def test_a_reset_is_no_orderly_end(pair):
    broker, sock = pair
    broker.reset()
    with pytest.raises(ConnectionResetError):
        sock.recv(1)
