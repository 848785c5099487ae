"""The engine against Proton's, both in memory: a whole dialogue, every cut point of it, and hostile bytes."""

import random

import pytest

from greenmq.exceptions import ConnectionLost, InvalidArgument, NotFound
from greenmq.transport.amqp10 import Limits
from greenmq.transport.amqp10.engine import Engine
from greenmq.transport.amqp10.errors import LoginRefused, Malformed, PeerFault
from greenmq.transport.amqp10.frames import EMPTY, HEADER, SASL_HEADER, Parser, frame
from greenmq.transport.amqp10.links import OVERRUN, Receiver, Sender
from greenmq.transport.amqp10.performatives import (
    Accepted,
    Begin,
    Close,
    Error,
    Flow,
    Mechanisms,
    Modified,
    Open,
    Outcome,
    Rejected,
    Released,
    Source,
    Target,
    Transfer,
)
from greenmq.transport.amqp10.sasl import Login
from tests.support.amqp10_proton import ProtonPeer, proton

pytestmark = pytest.mark.once


class Told:
    """Owner and listener: remembers what it was told."""

    def __init__(self):
        self.out = b''
        self.opened = 0
        self.closed = None
        self.attached, self.detached, self.flows, self.messages, self.outcomes = [], [], [], [], []

    def send(self, data):
        self.out += data

    def on_open(self):
        self.opened += 1

    def on_close(self, error):
        self.closed = error

    def on_attached(self, link):
        self.attached.append(link)

    def on_detached(self, link, error):
        self.detached.append((link, error))

    def on_flow(self, link):
        self.flows.append(link.credit)

    def on_message(self, link, delivery):
        self.messages.append(delivery)

    def on_outcome(self, link, number, state):
        self.outcomes.append((number, state))


class Pair:
    """Our engine and a peer, wired together."""

    def __init__(self, peer=None, login=None, piece=None, **limits):
        self.told = Told()
        self.peer = ProtonPeer() if peer is None else peer
        self.piece = piece
        self.engine = Engine('peer', self.told, login or Login(), 'host', Limits(**limits))
        self.heard = b''
        self.engine.start()
        self.talk()

    def talk(self):
        """Until neither has anything to say."""
        while True:
            out, self.told.out = self.told.out, b''
            answer = self.peer.feed(out) if out else self.peer.output()
            if not answer and not self.told.out:
                return
            self.heard += answer
            piece = self.piece or len(answer) or 1
            for at in range(0, len(answer), piece):
                self.engine.feed(answer[at:at + piece])

    def session(self):
        session = self.engine.session()
        self.talk()
        return session

    def sender(self, session, address='q', **options):
        link = Sender(self.engine.link_name(), self.told, Source('us'), Target(address), **options)
        session.attach(link)
        self.talk()
        return link

    def receiver(self, session, address='q', **options):
        link = Receiver(self.engine.link_name(), self.told, Source(address), Target('us'), **options)
        session.attach(link)
        self.talk()
        return link


def dialogue(pair):
    """A little of everything."""
    session = pair.session()
    sender = pair.sender(session)
    for size in (10, 100_000, 0, 20_000):
        sender.send(b's' * size)
    pair.talk()
    for size in (10, 100_000, 30_000):
        pair.peer.queues['in'].append(b'r' * size)
    receiver = pair.receiver(session, 'in')
    receiver.grant(10)
    pair.talk()
    session.settle([each.id for each in pair.told.messages], Accepted())
    pair.talk()
    receiver.detach()
    pair.talk()
    session.end()
    pair.talk()
    pair.engine.close()
    pair.talk()
    return sender, receiver


class TestWithProton:

    @pytest.mark.parametrize('piece', [None, 1, 2, 3, 7, 8, 9, 64])
    def test_messages_go_both_ways_in_whatever_pieces_they_come(self, piece):
        pair = Pair(piece=piece)
        dialogue(pair)
        told = pair.told
        assert [len(each) for each in pair.peer.received] == [10, 100_000, 0, 20_000]
        assert [len(each.payload) for each in told.messages] == [10, 100_000, 30_000]
        assert [number for number, state in told.outcomes if state == Accepted()] == [0, 1, 2, 3]
        assert pair.peer.outcomes == [(proton.Delivery.ACCEPTED, True)] * 3
        assert pair.engine.state == 'ended' and 'was closed' in str(told.closed)

    def test_it_knows_who_the_peer_is(self):
        pair = Pair()
        assert pair.engine.product() == ('proton', '')
        assert pair.peer.connection.remote_container == pair.engine.container
        assert pair.peer.connection.remote_hostname == 'host'

    def test_a_small_frame_of_the_peer_is_kept_to(self):
        pair = Pair(ProtonPeer(max_frame=512))
        sender = pair.sender(pair.session())
        sender.send(bytes(range(256)) * 20)
        pair.talk()
        assert pair.peer.received == [bytes(range(256)) * 20]

    def test_what_the_peers_window_has_no_room_for_waits(self):
        peer = ProtonPeer(max_frame=512)
        pair = Pair(peer)
        session = pair.session()
        sender = pair.sender(session)
        # Given a window of three frames
        session.on_frame(Flow(session._next_out, 3, 0, 2048), b'')
        # When much more is sent
        numbers = [sender.send(b'x' * 1000) for _ in range(5)]
        assert session.held
        # Then all of it arrives as the window opens
        session.on_frame(Flow(session._next_out, 2000, 0, 2048), b'')
        pair.talk()
        assert not session.held and [number for number, _ in pair.told.outcomes] == numbers

    def test_credit_is_what_comes_and_no_more(self):
        pair = Pair()
        pair.peer.queues['in'].extend(b'%d' % number for number in range(10))
        receiver = pair.receiver(pair.session(), 'in')
        receiver.grant(4)
        pair.talk()
        assert (len(pair.told.messages), receiver.credit) == (4, 0)
        receiver.grant(3)
        pair.talk()
        assert [each.payload for each in pair.told.messages] == [b'%d' % number for number in range(7)]

    def test_a_drain_ends_the_credit(self):
        pair = Pair()
        pair.peer.queues['in'].extend([b'1', b'2'])
        receiver = pair.receiver(pair.session(), 'in')
        receiver.grant(10, drain=True)
        pair.talk()
        assert (len(pair.told.messages), receiver.credit) == (2, 0)

    def test_the_peer_may_drain_us(self):
        pair = Pair()
        sender = pair.sender(pair.session())
        pair.peer.links[0].drain(50)
        pair.talk()
        assert sender.credit == 0 and pair.peer.links[0].credit == 0

    def test_runs_of_deliveries_are_settled_in_one_frame_each(self):
        pair = Pair()
        pair.peer.queues['in'].extend([b'x'] * 100)
        session = pair.session()
        receiver = pair.receiver(session, 'in')
        receiver.grant(100)
        pair.talk()
        assert session.settle(range(50), Accepted()) == 1
        assert session.settle([60, 61, 70], Released()) == 2
        assert session.settle([60, 80], Modified(True)) == 1
        assert session.settle([90], Rejected(Error('amqp:internal-error', 'no'))) == 1
        pair.talk()
        states = [state for state, _ in pair.peer.outcomes]
        assert states.count(proton.Delivery.ACCEPTED) == 50 and states.count(proton.Delivery.RELEASED) == 3
        assert states.count(proton.Delivery.MODIFIED) == 1 and states.count(proton.Delivery.REJECTED) == 1
        assert len(session.unsettled_in) == 100 - 55

    @pytest.mark.parametrize('answer, cls', [('ACCEPTED', Accepted), ('REJECTED', Rejected),
                                             ('RELEASED', Released), ('MODIFIED', Modified)])
    def test_a_sender_hears_what_became_of_its_message(self, answer, cls):
        peer = ProtonPeer()
        peer.answer = getattr(proton.Delivery, answer)
        pair = Pair(peer)
        pair.sender(pair.session()).send(b'x')
        pair.talk()
        assert [type(state) for _, state in pair.told.outcomes] == [cls]

    def test_a_link_that_is_refused_says_why(self):
        peer = ProtonPeer()
        peer.refuse['none'] = 'amqp:not-found'
        pair = Pair(peer)
        session = pair.session()
        link = pair.receiver(session, 'none')
        (found, error), = pair.told.detached
        assert found is link and isinstance(error, NotFound) and not pair.told.attached
        # And its number is free for the next
        assert pair.receiver(session, 'some').handle == link.handle

    def test_links_and_sessions_come_and_go_without_a_trace(self):
        pair = Pair()
        for _ in range(50):
            session = pair.session()
            pair.receiver(session).detach()
            pair.sender(session).detach()
            pair.talk()
            assert not session.links and session.channel == 0
            session.end()
            pair.talk()
        assert not pair.engine.sessions

    def test_nothing_is_said_in_a_session_after_its_end(self):
        pair = Pair()
        pair.peer.queues['q'].extend([b'a', b'b'])
        session = pair.session()
        sender, receiver = pair.sender(session), pair.receiver(session, 'q')
        receiver.grant(1)
        pair.talk()
        session.end()
        said = pair.told.out
        receiver.grant(10)
        receiver.flow(echo=True)
        sender.send(b'x')
        sender.detach()
        assert session.settle(list(session.unsettled_in), Accepted()) == 0
        assert pair.told.out == said and not receiver.holds

    def test_a_session_may_end_before_the_peer_has_agreed_to_it(self):
        pair = Pair()
        kept = pair.session()
        for _ in range(5):
            session = pair.engine.session()
            session.end()
            assert not session.usable()
            pair.talk()
        assert pair.told.closed is None and list(pair.engine.sessions.values()) == [kept]

    def test_a_detach_of_the_peer_is_answered_and_told(self):
        pair = Pair()
        link = pair.receiver(pair.session())
        theirs = pair.peer.links[0]
        theirs.condition = proton.Condition('amqp:resource-deleted', 'gone')
        theirs.close()
        pair.talk()
        (found, error), = pair.told.detached
        assert found is link and isinstance(error, NotFound) and 'gone' in str(error)
        assert theirs.state & proton.Endpoint.REMOTE_CLOSED

    def test_a_close_of_the_peer_ends_all_and_is_answered(self):
        pair = Pair()
        pair.receiver(pair.session())
        pair.peer.connection.condition = proton.Condition('amqp:connection:forced', 'maintenance')
        pair.peer.connection.close()
        pair.talk()
        assert isinstance(pair.told.closed, ConnectionLost) and 'maintenance' in str(pair.told.closed)
        assert len(pair.told.detached) == 1
        assert pair.peer.connection.state & proton.Endpoint.REMOTE_CLOSED

    def test_a_message_larger_than_we_take_ends_its_link_alone(self):
        pair = Pair()
        session = pair.session()
        pair.peer.queues['in'].append(b'x' * 50_000)
        small = pair.receiver(session, 'in', max_message=20_000)
        other = pair.receiver(session, 'other', max_message=20_000)
        small.grant(1)
        pair.talk()
        (found, error), = pair.told.detached
        assert found is small and 'message-size-exceeded' in str(error) and other.state == 'attached'
        assert not pair.told.messages and not small.partial

    def test_a_message_larger_than_the_peer_takes_is_refused_before_anything_is_sent(self):
        pair = Pair()
        sender = pair.sender(pair.session())
        sender.peer = sender.peer._replace(max_message_size=100)
        with pytest.raises(InvalidArgument, match='100 bytes'):
            sender.send(b'x' * 101)
        assert not pair.told.out and sender.credit == 100


class TestLogin:

    @pytest.mark.parametrize('login, mechanism', [
        (Login(), 'ANONYMOUS'), (Login('u', 'p'), 'PLAIN'), (Login('u', 'p', 'ANONYMOUS'), 'ANONYMOUS'),
        (Login('u', None, 'external', True), 'EXTERNAL')])
    def test_the_mechanism_is_what_the_login_can_do(self, login, mechanism):
        told = Told()
        engine = Engine('peer', told, login, 'host', Limits())
        engine.start()
        told.out = b''
        engine.feed(SASL_HEADER + frame(0, Mechanisms(('PLAIN', 'ANONYMOUS', 'EXTERNAL')), kind=1))
        assert mechanism.encode() in told.out and (b'\0u\0p' in told.out) == (mechanism == 'PLAIN')

    @pytest.mark.parametrize('login, named', [
        (Login('u'), 'password'), (Login(None, 'p'), 'userid'), (Login('u', 'p', 'GSSAPI'), 'GSSAPI'),
        (Login(None, None, 'PLAIN'), 'password'), (Login('u', None, 'EXTERNAL'), 'TLS')])
    def test_half_a_login_is_refused_before_anything_is_sent(self, login, named):
        told = Told()
        with pytest.raises(InvalidArgument, match=named):
            Engine('peer', told, login, 'host', Limits()).start()
        assert not told.out

    def test_a_mechanism_that_is_not_offered(self):
        with pytest.raises(LoginRefused, match='takes no login by PLAIN'):
            Pair(ProtonPeer(mechanisms='ANONYMOUS'), Login('u', 'secret'))

    def test_a_refusal_names_the_user_and_hides_the_password(self):
        told = Told()
        engine = Engine('peer', told, Login('joe', 'secret'), 'host', Limits())
        engine.start()
        engine.feed(SASL_HEADER + frame(0, Mechanisms(('PLAIN',)), kind=1))
        with pytest.raises(LoginRefused, match='joe') as caught:
            engine.feed(frame(0, Outcome(1), kind=1))
        assert 'secret' not in repr(caught.value) + repr(Login('joe', 'secret'))

    @pytest.mark.parametrize('data, said', [
        (b'HTTP/1.1 400', 'does not speak AMQP'), (b'AMQP\x00\x00\x09\x01', '0.9.1'), (HEADER, '1.0.0')])
    def test_another_protocol_is_named(self, data, said):
        engine = Engine('peer', Told(), Login(), 'host', Limits())
        engine.start()
        with pytest.raises(PeerFault, match=said):
            engine.feed(data)


def opened(**limits):
    told = Told()
    engine = Engine('peer', told, Login(), 'host', Limits(**limits))
    engine.start()
    engine.feed(SASL_HEADER + frame(0, Mechanisms(('ANONYMOUS',)), kind=1) + frame(0, Outcome(0), kind=1))
    engine.feed(HEADER + frame(0, Open('peer')))
    return told, engine


def with_session(**limits):
    told, engine = opened(**limits)
    session = engine.session()
    engine.feed(frame(0, Begin(0, 0, 100, 100)))
    return told, engine, session


class TestWhatAPeerMustNot:

    @pytest.mark.parametrize('data, said', [
        (b'\xff\xff\xff\xff\x02\x00\x00\x00', 'agreed'),
        (b'\x00\x00\x00\x04\x02\x00\x00\x00', 'no frame'),
        (b'\x00\x00\x00\x0c\x01\x00\x00\x00\0\0\0\0', 'no frame'),
        (b'\x00\x00\x00\x09\x02\x00\x00\x00\x40', 'no performative'),
        (frame(0, Open('again')), 'twice'),
        (frame(0, Begin(None, 0, 1, 1)), 'of its own'),
        (frame(5, Flow(0, 1, 0, 1)), 'that there is not'),
        (frame(0, Begin(0, 0, 1, 1)), 'twice|of its own'),
        (frame(0, Transfer(0), b'x') , 'window|means nothing|delivery'),
        (frame(0, Mechanisms(('A',)), kind=1), 'kind'),
    ])
    def test_it_is_told_why_and_the_connection_ends(self, data, said):
        told, engine, _ = with_session(window=0)
        told.out = b''
        with pytest.raises(PeerFault, match=said):
            engine.feed(data)
        assert engine.state == 'closing' and b'amqp:' in told.out

    def test_more_messages_than_there_is_credit(self):
        told, engine, session = with_session()
        link = Receiver('l', told, Source('q'), Target())
        session.attach(link)
        engine.feed(frame(0, link.attach_frame()._replace(role=False, initial_delivery_count=0)))
        link.grant(1)
        for number in range(1 + OVERRUN):
            engine.feed(frame(0, Transfer(0, number, b't', 0), b'm'))
        with pytest.raises(PeerFault, match='without credit'):
            engine.feed(frame(0, Transfer(0, 1 + OVERRUN, b't', 0), b'm'))

    def test_more_frames_than_the_window_has(self):
        told, engine, session = with_session(window=4)
        link = Receiver('l', told, Source('q'), Target())
        session.attach(link)
        engine.feed(frame(0, link.attach_frame()._replace(role=False, initial_delivery_count=0)))
        link.grant(100)
        session._window = 0  # so that none is given back
        for number in range(4):
            session._room = 4 - number
            engine.feed(frame(0, Transfer(0, number, b't', 0), b'm'))
        session._room = 0
        with pytest.raises(PeerFault, match='window'):
            engine.feed(frame(0, Transfer(0, 9, b't', 0), b'm'))

    def test_a_range_of_four_billion_takes_no_time(self):
        told, engine, session = with_session()
        link = Sender('l', told, Source('q'), Target('q'))
        session.attach(link)
        engine.feed(frame(0, link.attach_frame()._replace(role=True)))
        engine.feed(frame(0, Flow(0, 100, 0, 100, 0, 0, 10)))
        link.send(b'x')
        link.send(b'y')
        from greenmq.transport.amqp10.performatives import Disposition
        engine.feed(frame(0, Disposition(True, 0, 2 ** 32 - 1, True, Accepted())))
        assert told.outcomes == [(0, Accepted()), (1, Accepted())]

    def test_a_heartbeat_is_no_news(self):
        told, engine = opened()
        assert engine.feed(EMPTY) == 1 and engine.state == 'open'

    def test_what_comes_after_our_close_hurts_nobody(self):
        told, engine, _ = with_session()
        engine.close()
        engine.feed(frame(7, Flow(0, 1, 0, 1)) + frame(0, Close()))
        assert 'was closed' in str(told.closed)


def test_any_byte_of_a_dialogue_may_be_wrong():
    # Given what a peer says in a whole dialogue
    pair = Pair()
    dialogue(pair)
    heard = pair.heard[:3000]
    rng = random.Random(17)
    outcomes = set()
    for _ in range(400):
        # When some bytes of it are others
        data = bytearray(heard)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        told = Told()
        engine = Engine('peer', told, Login(), 'host', Limits(max_message=1 << 20))
        engine.start()
        # Then it is heard, or the connection ends with a word of ours; nothing else happens
        try:
            engine.feed(bytes(data))
            outcomes.add('heard')
        except (PeerFault, LoginRefused) as error:
            outcomes.add(type(error).__name__)
    assert {'heard', 'PeerFault'} <= outcomes


def test_the_parser_keeps_no_more_than_a_frame():
    parser = Parser(1000)
    parser.feed(b'\x00\x00\x03\xe8\x02\x00\x00\x00' + b'x' * 500)
    assert parser.frame() is None and parser.waiting == 508
    parser.feed(b'x' * 492 + EMPTY)
    assert parser.frame()[2] == b'x' * 992 and parser.frame() == (0, 0, b'') and parser.waiting == 0
    parser.feed(b'\x00\x00\x03\xe9\x02\x00\x00\x00')
    with pytest.raises(Malformed, match='1001'):
        parser.frame()
