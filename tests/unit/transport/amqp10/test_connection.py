"""The reader, the writer and the heartbeat, on a socket with Proton's engine behind it."""

import weakref

import pytest

from greenmq import runtime
from greenmq.exceptions import ConnectionClosed, ConnectionLost, TimeoutError
from greenmq.transport.amqp10 import Connection, Limits
from greenmq.transport.amqp10.errors import LoginRefused, PeerFault
from greenmq.transport.amqp10.frames import EMPTY, HEADER, SASL_HEADER, frame
from greenmq.transport.amqp10.links import Receiver, Sender
from greenmq.transport.amqp10.performatives import Close, Error, Mechanisms, Open, Outcome, Source, Target
from greenmq.transport.amqp10.requests import Requests
from greenmq.transport.amqp10.sasl import Login
from tests.support import green
from tests.support.amqp10_proton import ProtonPeer, need_proton
from tests.unit.transport.amqp10.test_engine import Told

GREETING = SASL_HEADER + frame(0, Mechanisms(('ANONYMOUS',)), kind=1) + frame(0, Outcome(0), kind=1) + HEADER


class Served:
    """One accepted connection; `talk` runs in a greenlet of its own."""

    def __init__(self, talk):
        self.listener = green.socket.socket()
        self.listener.bind(('127.0.0.1', 0))
        self.listener.listen(5)
        self.port = self.listener.getsockname()[1]
        self.heard = b''
        self.talk = talk
        self.task = runtime.spawn(self.run, name='peer')

    def run(self):
        while True:
            sock, _ = self.listener.accept()
            try:
                self.talk(self, sock)
            except OSError:
                continue  # the client went away
            finally:
                sock.close()

    def close(self):
        self.task.kill()
        self.task.join(5)
        self.listener.close()


@pytest.fixture
def proton():
    need_proton()


def proton_talk(served, sock):
    peer = ProtonPeer()
    served.peer = peer
    peer.queues['in'].extend(b'%d' % number for number in range(200))
    while data := sock.recv(65536):
        answer = peer.feed(data)
        if answer:
            sock.sendall(answer)


def scripted(*parts):
    def talk(served, sock):
        sock.sendall(GREETING + b''.join(parts))
        while data := sock.recv(65536):
            served.heard += data

    return talk


class Owner:
    def __init__(self):
        self.lost = []

    def on_connection_lost(self, connection, error):
        self.lost.append(error)


@pytest.fixture
def world():
    opened, served = [], []

    class World:
        def __init__(self):
            self.owner = Owner()

        def serve(self, talk):
            served.append(Served(talk))
            return served[-1]

        def dial(self, talk, login=None, seconds=5, **limits):
            server = self.serve(talk)
            stream = runtime.dial('127.0.0.1', server.port, runtime.Deadline.after(5))
            connection = Connection(stream, login or Login(), 'host', Limits(**limits), self.owner)
            opened.append(connection)
            connection.open(runtime.Deadline.after(seconds))
            return connection, server

    world = World()
    yield world
    for connection in opened:
        connection.abandon()
    for server in served:
        server.close()


def until(condition, seconds=10):
    with green.Timeout(seconds):
        while not condition():
            green.sleep(0.005)


def test_messages_go_both_ways(world, proton):
    connection, server = world.dial(proton_talk)
    told, session = Told(), connection.session()
    sender = Sender('out', told, Source('us'), Target('out'))
    receiver = Receiver('in', told, Source('in'), Target('us'))
    session.attach(sender)
    session.attach(receiver)
    until(lambda: sender.credit and receiver.state == 'attached')
    receiver.grant(200)
    for _ in range(50):
        sender.send(b'x' * 1000)
    until(lambda: len(told.outcomes) == 50 and len(told.messages) == 200)
    connection.close(runtime.Deadline.after(5))
    assert isinstance(connection.error, ConnectionClosed) and not world.owner.lost
    assert all(isinstance(error, ConnectionClosed) for _, error in told.detached)


@pytest.mark.parametrize('talk', [scripted(frame(0, Open('peer'))), proton_talk], ids=['links', 'answer'])
def test_who_asks_a_node_is_told_that_we_close_it(world, proton, talk):
    """Whatever it waits for, and long before its deadline."""
    def links(name, listener):
        return (Sender(f'{name}-out', listener, Source('us'), Target('out')),
                Receiver(f'{name}-in', listener, Source('empty'), Target('us')))

    def ask():
        with pytest.raises(ConnectionClosed, match='closed'):
            requests.call(lambda number, reply_to: b'x', 'something', runtime.Deadline.after(20))

    connection, _ = world.dial(talk)
    requests = Requests(connection, links, None)
    task = runtime.spawn(ask, name='asks')
    green.sleep(0.2)
    requests.close()
    assert task.join(5) and task.error is None


def test_a_peer_that_says_nothing_is_given_up(world):
    connection, _ = world.dial(scripted(frame(0, Open('peer'))), idle_timeout=0.4)
    until(lambda: world.owner.lost)
    error, = world.owner.lost
    assert isinstance(error, ConnectionLost) and 'idle timeout' in str(error)
    with pytest.raises(ConnectionLost):
        connection.session()


def test_a_peer_is_told_that_we_live(world):
    connection, server = world.dial(scripted(frame(0, Open('peer', idle_time_out=300))), idle_timeout=0)
    until(lambda: server.heard.count(EMPTY) > 3)
    assert connection.error is None


def test_nobody_is_lost_where_neither_side_asks_for_heartbeats(world):
    connection, _ = world.dial(scripted(frame(0, Open('peer'))), idle_timeout=0)
    green.sleep(0.2)
    assert connection.error is None and not world.owner.lost


def test_heartbeats_of_the_peer_are_enough(world):
    def talk(served, sock):
        sock.sendall(GREETING + frame(0, Open('peer')))
        for _ in range(12):
            green.sleep(0.1)
            sock.sendall(EMPTY)
        served.heard = b'done'
        green.sleep(5)

    connection, server = world.dial(talk, idle_timeout=0.8)
    until(lambda: server.heard)
    assert connection.error is None and not world.owner.lost


@pytest.mark.parametrize('talk, error, said', [
    (scripted(), TimeoutError, 'handshake did not end'),
    (lambda served, sock: sock.sendall(b'HTTP/1.1 400 Bad\r\n'), ConnectionLost, 'does not speak AMQP'),
    (lambda served, sock: sock.sendall(b'AMQP\0\0\x09\1'), ConnectionLost, 'plugin'),
    (lambda served, sock: None, ConnectionLost, 'closed the connection'),
    # Broker-J says nothing of what it takes then
    (scripted(frame(0, Open('peer', max_frame_size=0)), frame(0, Close(Error('amqp:not-allowed', 'idle')))),
     ConnectionLost, 'idle'),
    (scripted(frame(0, Open('peer', max_frame_size=511)), frame(0, Close())), PeerFault, '511 bytes'),
    (scripted(frame(0, Open('peer', max_frame_size=511))), PeerFault, '511 bytes'),
    (scripted(frame(0, Open('peer')), frame(0, Close(Error('amqp:connection:forced', 'no')))), ConnectionLost,
     'forced'),
], ids=['silent', 'http', 'amqp091', 'hangs up', 'of no size', 'small', 'small and silent', 'closes'])
def test_an_opening_that_fails_says_how_and_leaves_nothing(world, talk, error, said):
    with pytest.raises(error, match=said):
        connection, _ = world.dial(talk, seconds=1)
        until(lambda: connection.error is not None)
        raise connection.error
    assert not world.owner.lost or said in ('forced', 'idle')


def test_a_refused_login(world):
    def talk(served, sock):
        sock.sendall(SASL_HEADER + frame(0, Mechanisms(('PLAIN',)), kind=1) + frame(0, Outcome(1), kind=1))
        green.sleep(1)

    with pytest.raises(LoginRefused, match='joe') as caught:
        world.dial(talk, Login('joe', 'secret'))
    assert 'secret' not in str(caught.value)


def test_the_reason_is_the_last_word_to_a_peer_at_fault(world):
    connection, server = world.dial(scripted(frame(0, Open('peer')), b'\xff' * 8))
    until(lambda: connection.error is not None and b'amqp:framing-error' in server.heard)


def test_a_connection_that_nobody_has_any_more_says_goodbye(world):
    connection, server = world.dial(scripted(frame(0, Open('peer'))))
    found = weakref.ref(world.owner)
    world.owner = None
    until(lambda: found() is None and b'\x00\x53\x18' in server.heard)


def test_a_cut_is_told_once_to_everybody(world, proton):
    def talk(served, sock):
        peer = ProtonPeer()
        while data := sock.recv(65536):
            sock.sendall(peer.feed(data))
            if len(peer.links) == 2:
                return

    connection, _ = world.dial(talk)
    told, session = Told(), connection.session()
    session.attach(Sender('out', told, Source('us'), Target('out')))
    session.attach(Receiver('in', told, Source('in'), Target('us')))
    until(lambda: world.owner.lost)
    assert len(told.detached) == 2 and len(world.owner.lost) == 1
    assert {type(error) for _, error in told.detached} == {ConnectionLost}
