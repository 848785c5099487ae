"""The stream: no byte is lost or sent twice by a kill or a timeout, plain and over TLS alike."""

from __future__ import annotations

import _socket
import errno
import gc
import os
import pickle
import ssl
from _socket import socket as Socket

import pytest

from greenmq import runtime
from greenmq.exceptions import ConnectionClosed, ConnectionLost, TimeoutError
from greenmq.runtime.losses import DialError, DialRefused, meaning
from greenmq.runtime.net import Stream
from greenmq.runtime.tls import TLSCodec, TLSOptions

LONG = 20.0
PATTERN = bytes(range(251)) * 8192  # 2 MB, no period that fits a buffer


def start(fun, *args, name='test'):
    task = runtime.spawn(fun, *args, name=name)
    for _ in range(5):
        runtime.sleep(0)
    return task


def plain_pair():
    ours, theirs = _socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, 8192)
    return Stream(ours, 'peer:1'), Stream(theirs, 'us:1')


def server_context(certificates):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server, certificates.server_key)
    return context


def client_codec(certificates, name='localhost'):
    return TLSCodec(TLSOptions(ca_certs=str(certificates.ca)).context(), name)


def tls_pair(certificates):
    ours, theirs = plain_pair()
    server = TLSCodec(server_context(certificates), None, server_side=True)
    task = runtime.spawn(theirs.start_tls, server, LONG, name='server')
    ours.start_tls(client_codec(certificates), LONG)
    assert task.join(LONG) and ours.tls
    return ours, theirs


@pytest.fixture(params=['plain', 'tls'])
def pair(request):
    ours, theirs = (
        plain_pair() if request.param == 'plain' else tls_pair(request.getfixturevalue('certificates'))
    )
    yield ours, theirs
    ours.abandon()
    theirs.abandon()


def read_all(stream, size):
    parts = []
    while size:
        parts.append(stream.read(65536, LONG))
        assert parts[-1]
        size -= len(parts[-1])
    return b''.join(parts)


class TestReading:
    def test_what_is_there_comes_at_once_and_in_order(self, pair):
        ours, theirs = pair
        theirs.write(b'abc')
        theirs.write(b'def')
        assert read_all(ours, 6) == b'abcdef'

    def test_at_most_n(self, pair):
        ours, theirs = pair
        theirs.write(b'abcdef')
        assert [ours.read(4, LONG), ours.read(4, LONG)] == [b'abcd', b'ef']

    def test_into_places_in_their_order(self):
        ours, theirs = plain_pair()
        assert ours.scatters
        memory = bytearray(12)
        places = [memoryview(memory)[:5], memoryview(memory)[5:5], memoryview(memory)[5:]]
        with pytest.raises(TimeoutError, match='nothing to read'):
            ours.read_into(places, 0.001)
        task = start(lambda: ours.read_into(places))
        runtime.sleep(0)
        task.kill()
        assert task.join(LONG)
        theirs.write(b'0123456789')
        assert ours.read_into(places, LONG) == 10 and memory == b'0123456789\0\0'
        theirs.close()
        assert ours.read_into(places, LONG) == 0
        ours.close()

    def test_tls_reads_into_new_memory(self, certificates):
        ours, theirs = tls_pair(certificates)
        assert not ours.scatters
        ours.abandon()
        theirs.abandon()

    def test_a_timeout_loses_nothing(self, pair):
        ours, theirs = pair
        for _ in range(3):
            with pytest.raises(TimeoutError, match='peer:1: nothing to read within 0.001 s'):
                ours.read(10, 0.001)
        theirs.write(b'abc')
        assert ours.read(10, LONG) == b'abc'

    def test_our_own_stall_is_not_the_silence_of_the_peer(self, pair):
        # Given a reader whose time ends while the hub is blocked, and data that came in time
        ours, theirs = pair
        got = []
        task = start(lambda: got.append(ours.read(10, 0.01)))
        theirs.write(b'abc')
        deadline = runtime.Deadline.after(0.02)
        while not deadline.expired():
            pass  # burns, as a busy program does
        assert task.join(LONG) and got == [b'abc']

    def test_a_kill_loses_nothing(self, pair):
        ours, theirs = pair
        for turns in [0, 1, 2, 3] * 5:
            got = []
            task = start(lambda got=got: got.append(ours.read(10)))
            theirs.write(b'abc')
            for _ in range(turns):
                runtime.sleep(0)
            task.kill()  # before or after it was woken: the bytes stay in the kernel until they are taken
            assert task.join(LONG)
            assert (got or [ours.read(10, LONG)]) == [b'abc']

    def test_a_tls_record_that_comes_in_pieces(self, certificates):
        # Given TLS on our side, and the wire in our hands
        ours, theirs = tls_pair(certificates)
        theirs._tls.encrypt(b'message')
        record = theirs._tls.outgoing()
        # When every byte of the record comes alone, and each read before the last times out
        for n in range(len(record)):
            theirs._sock.send(record[n : n + 1])
            if n < len(record) - 1:
                with pytest.raises(TimeoutError):
                    ours.read(100, 0)
        # Then nothing is missing
        assert ours.read(100, LONG) == b'message'
        ours.abandon()
        theirs.abandon()

    def test_end_of_stream(self, pair):
        ours, theirs = pair
        theirs.write(b'last')
        theirs.close()
        assert ours.read(100, LONG) == b'last'
        assert ours.read(100, LONG) == b'' == ours.read(100, LONG)

    def test_end_of_stream_without_a_goodbye(self, pair):
        ours, theirs = pair
        theirs.abandon()
        assert ours.read(100, LONG) == b''

    def test_reset_is_a_loss(self):
        ours, theirs = tcp_pair()
        theirs._sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, b'\1\0\0\0\0\0\0\0')
        theirs.abandon()
        with pytest.raises(ConnectionLost, match='reset') as caught:
            ours.read(100, LONG)
        assert isinstance(caught.value.__cause__, ConnectionResetError)
        ours.abandon()

    def test_two_readers_are_refused(self, pair):
        ours, _theirs = pair
        task = start(ours.read)
        with pytest.raises(RuntimeError, match='two tasks'):
            ours.read(1, LONG)
        task.kill()
        assert task.join(LONG)

    def test_a_fast_peer_does_not_own_the_hub(self, pair):
        ours, theirs = pair
        seen = []
        runtime.run_soon(seen.append, 1)
        for _ in range(100):
            theirs.write(b'x')
            ours.read(1, LONG)
        assert seen


class TestWriting:
    def test_more_than_the_kernel_takes(self, pair):
        ours, theirs = pair
        task = start(ours.write, PATTERN)
        assert not task.done
        assert read_all(theirs, len(PATTERN)) == PATTERN
        assert task.join(LONG)

    def test_both_directions_at_once(self, pair):
        got = {}
        tasks = [start(side.write, PATTERN) for side in pair]
        tasks += [
            start(lambda s=side, n=n: got.update({n: read_all(s, len(PATTERN))}))
            for n, side in enumerate(pair)
        ]
        assert all(task.join(LONG) for task in tasks) and [got[n] == PATTERN for n in (0, 1)] == [True, True]

    def test_some_takes_a_part_and_says_how_much(self, pair):
        ours, theirs = pair
        sent = ours.write_some(PATTERN)
        assert 0 < sent < len(PATTERN)
        assert read_all(theirs, sent) == PATTERN[:sent]

    def test_pieces_go_as_one(self):
        ours, theirs = plain_pair()
        assert ours.gathers
        view = memoryview(PATTERN)
        pieces = [view[start : start + 3000] for start in range(0, 600_000, 3000)]
        sent = ours.write_parts(pieces)
        assert 3000 < sent
        assert read_all(theirs, sent) == PATTERN[:sent]
        with pytest.raises(TimeoutError, match='took no data'):
            while True:
                ours.write_parts(pieces, 0.01)
        theirs.close()
        with pytest.raises(ConnectionLost):
            ours.write_parts(pieces, LONG)
        ours.close()

    def test_a_timeout_of_write_some_takes_nothing(self, pair):
        ours, theirs = pair
        sent = 0
        with pytest.raises(TimeoutError, match='peer:1: the other side took no data within'):
            while True:
                sent += ours.write_some(PATTERN[sent : sent + 1000], 0.01)
        task = start(ours.write, b'end')
        assert read_all(theirs, sent + 3) == PATTERN[:sent] + b'end' and task.join(LONG)

    def test_a_kill_of_write_some_takes_nothing(self, pair):
        ours, theirs = pair
        taken = []

        def write():
            while True:
                taken.append(ours.write_some(PATTERN[sum(taken) : sum(taken) + 1000]))

        for _ in range(3):
            task = start(write)
            task.kill()
            assert task.join(LONG)
        task = start(ours.write, b'end')
        assert read_all(theirs, sum(taken) + 3) == PATTERN[: sum(taken)] + b'end' and task.join(LONG)

    @pytest.mark.parametrize('how', ['kill', 'timeout', 'foreign timeout'])
    def test_a_write_cut_short_closes_the_stream(self, pair, how):
        ours, _theirs = pair
        reader = start(ours.read)
        if how == 'kill':
            task = start(ours.write, PATTERN)
            task.kill()
            assert task.join(LONG)
        elif how == 'timeout':
            with pytest.raises(TimeoutError):
                ours.write(PATTERN, 0.001)
        else:
            with pytest.raises(runtime.timeout_class()), runtime.timeout_class()(0.001):
                ours.write(PATTERN)
        # Half a message cannot be followed by anything: both directions say so.
        assert ours.closed and reader.join(LONG) and isinstance(reader.error, ConnectionLost)
        with pytest.raises(ConnectionLost, match=rf'cut short after \d+ of {len(PATTERN)} bytes'):
            ours.write(b'x')

    def test_a_broken_pipe_leaves_what_can_still_be_read(self):
        # Given a peer that says why, and closes
        ours, theirs = plain_pair()
        theirs.write(b'because')
        theirs.close()
        # When we write
        for _ in range(2):
            with pytest.raises(ConnectionLost, match='closed the connection'):
                ours.write(b'x')
        # Then the reason is not lost
        assert ours.read(100, LONG) == b'because' and ours.read(100, LONG) == b''
        ours.close()

    def test_ciphertext_goes_on_by_itself(self, certificates):
        ours, theirs = tls_pair(certificates)
        sent = ours.write_some(PATTERN)
        assert ours._pending  # more than the kernel took, though the call is over
        assert read_all(theirs, sent) == PATTERN[:sent]
        ours.flush(LONG)
        assert not ours._pending
        ours.abandon()
        theirs.abandon()

    def test_a_loss_while_ciphertext_is_left_wakes_who_waits(self, certificates):
        ours, theirs = tls_pair(certificates)
        ours.write_some(PATTERN)
        task = start(ours.flush)
        theirs.abandon()
        assert task.join(LONG) and isinstance(task.error, ConnectionLost)
        ours.abandon()


class TestEnding:
    @pytest.mark.parametrize('how', ['close', 'abandon'])
    def test_wakes_reader_and_writer(self, pair, how):
        ours, _theirs = pair
        tasks = [start(ours.read), start(ours.write, PATTERN)]
        fd = ours.fileno()
        getattr(ours, how)()
        assert all(task.join(LONG) for task in tasks)
        assert [type(task.error) for task in tasks] == [ConnectionClosed] * 2
        assert ours.closed and ours.fileno() == -1 and 'closed' in repr(ours)
        with pytest.raises(OSError):
            os.fstat(fd)

    def test_twice_is_once(self, pair):
        ours, _theirs = pair
        for _ in range(2):
            ours.close()
            ours.abandon()
        for call in (ours.read, lambda: ours.write(b'x'), lambda: ours.write_some(b'x')):
            with pytest.raises(ConnectionClosed, match='peer:1: we closed'):
                call()

    def test_close_says_goodbye_and_abandon_does_not(self, certificates):
        for how, expected in (('close', True), ('abandon', False)):
            ours, theirs = tls_pair(certificates)
            with pytest.raises(TimeoutError):
                ours.read(1, 0)  # takes the session tickets: a close with unread bytes would be a reset
            getattr(ours, how)()
            assert bool(theirs._receive(Socket.recv, 100, LONG)) is expected
            theirs.abandon()

    def test_dropped_it_closes_its_descriptor(self):
        ours, theirs = plain_pair()
        fd = ours.fileno()
        del ours
        gc.collect()
        with pytest.raises(OSError):
            os.fstat(fd)
        assert theirs.read(1, LONG) == b''
        theirs.close()

    def test_hung_up_without_an_answer_to_wait_for_it_ends_our_side_alone(self, pair):
        ours, theirs = pair
        ours.hang_up(b'bye')
        assert read_all(theirs, 3) == b'bye' and theirs._receive(Socket.recv, 100, LONG) == b''
        if not theirs.tls:  # which answers our end by its own
            theirs.write(b'still heard')
            assert read_all(ours, 11) == b'still heard'

    def test_hung_up_it_stays_open_until_the_answer_however_soon_we_close(self, pair):
        ours, theirs = pair
        reader = start(ours.read)
        ours.hang_up(b'bye', b'good bye')
        ours.close()
        assert reader.join(LONG) and isinstance(reader.error, ConnectionClosed)
        for call in (ours.read, lambda: ours.write(b'x')):
            with pytest.raises(ConnectionClosed, match='peer:1: we'):
                call()
        assert read_all(theirs, 3) == b'bye'
        for part in (b'what comes before is heard' * 1000, b'good', b' bye'):
            with pytest.raises(TimeoutError):
                theirs.read(1, 0.05)  # no end
            theirs.write(part, LONG)
        assert theirs._receive(Socket.recv, 100, LONG) == b''  # not even an alert

    def test_hung_up_upon_one_that_never_answers_it_ends_all_the_same(self, pair, monkeypatch):
        monkeypatch.setattr('greenmq.runtime.net._ANSWER_SECONDS', 0.1)
        ours, theirs = pair
        ours.hang_up(b'bye', b'good bye')
        ours.close()
        assert read_all(theirs, 3) == b'bye' and theirs._receive(Socket.recv, 100, LONG) == b''

    def test_a_descriptor_reused_at_once_is_not_touched(self, pair):
        ours, _theirs = pair
        task = start(ours.read)
        number = ours.fileno()
        ours.close()
        other, peer = plain_pair()
        assert number in (other.fileno(), peer.fileno())
        peer.write(b'abc')
        assert other.read(10, LONG) == b'abc' and task.join(LONG)
        other.close()
        peer.close()


class TestHandshake:
    def test_the_name_is_verified(self, certificates):
        ours, theirs = plain_pair()
        task = start(theirs.start_tls, TLSCodec(server_context(certificates), None, server_side=True))
        with pytest.raises(DialError, match='peer:1: TLS failed:.*certificate verify failed'):
            ours.start_tls(client_codec(certificates, 'other.example'), LONG)
        assert ours.closed
        assert task.join(LONG) and isinstance(task.error, DialError)  # by the alert that we sent

    def test_an_unknown_authority_is_refused(self, certificates):
        ours, theirs = plain_pair()
        task = start(theirs.start_tls, TLSCodec(server_context(certificates), None, server_side=True))
        with pytest.raises(DialError, match='certificate'):
            ours.start_tls(TLSCodec(TLSOptions().context(), 'localhost'), LONG)
        assert task.join(LONG)

    @pytest.mark.parametrize('options', [{'cert_reqs': 'none'}, {'check_hostname': False}])
    def test_switched_off(self, certificates, options):
        ours, theirs = plain_pair()
        task = start(theirs.start_tls, TLSCodec(server_context(certificates), None, server_side=True))
        context = TLSOptions.of({'ca_certs': str(certificates.ca), **options}).context()
        ours.start_tls(TLSCodec(context, 'other.example'), LONG)
        assert task.join(LONG) and task.error is None
        ours.abandon()
        theirs.abandon()

    @pytest.mark.parametrize('how', ['kill', 'timeout'])
    def test_cut_short_it_leaves_no_descriptor(self, certificates, how):
        # Given a peer that never answers our ClientHello
        ours, theirs = plain_pair()
        fd = ours.fileno()
        if how == 'kill':
            task = start(ours.start_tls, client_codec(certificates))
            task.kill()
            assert task.join(LONG) and task.error is None
        else:
            with pytest.raises(TimeoutError):
                ours.start_tls(client_codec(certificates), 0.001)
        with pytest.raises(OSError):
            os.fstat(fd)
        theirs.abandon()

    def test_a_peer_that_speaks_something_else(self, certificates):
        ours, theirs = plain_pair()
        theirs.write(b'AMQP\0\0\x09\x01')
        with pytest.raises(DialError, match='TLS failed'):
            ours.start_tls(client_codec(certificates), LONG)
        theirs.abandon()

    def test_a_peer_that_hangs_up(self, certificates):
        ours, theirs = plain_pair()
        task = start(ours.start_tls, client_codec(certificates))
        theirs.read(65536, LONG)
        theirs.close()
        assert task.join(LONG) and isinstance(task.error, DialError) and 'hung up' in str(task.error)


class TestErrors:
    def test_the_table_says_what_an_error_means(self):
        # A kernel's ETIMEDOUT is Python's TimeoutError: it must not be taken for a deadline of ours.
        assert (
            'gave up' in meaning(OSError(errno.ETIMEDOUT, 'x'))
            and meaning(OSError('own words')) == 'own words'
        )

    def test_dial_errors_are_what_programs_catch(self):
        error = DialRefused('text', errno.ECONNREFUSED)
        assert isinstance(error, (ConnectionLost, OSError)) and isinstance(error, ConnectionRefusedError)
        assert error.errno == errno.ECONNREFUSED and str(error) == 'text'
        assert str(pickle.loads(pickle.dumps(error))) == 'text'


def tcp_pair():
    listener = _socket.socket()
    listener.bind(('127.0.0.1', 0))
    listener.listen(1)
    ours = runtime.dial('127.0.0.1', listener.getsockname()[1], LONG)
    fd, _address = listener._accept()
    theirs = _socket.socket(fileno=fd)
    theirs.setblocking(False)
    listener.close()
    return ours, Stream(theirs, 'us')


def test_the_deadline_of_the_tls_handshake_holds_while_bytes_keep_coming():
    class Endless:
        """A handshake that takes all it is given, and wants more."""

        fed = 0

        def handshake(self):
            return False

        def outgoing(self):
            return b''

        def feed(self, data):
            self.fed += len(data)

    def flood():
        try:
            while True:
                theirs.write(b'\x16\x03\x03\x0f\xfb' + b'x' * 4091)  # records of TLS, as far as can be seen
        except (ConnectionLost, ConnectionClosed):
            return

    ours, theirs = plain_pair()
    codec = Endless()
    task = runtime.spawn(flood, name='flood')
    with pytest.raises(TimeoutError, match='within 0.2 s'):
        ours.start_tls(codec, 0.2)
    assert codec.fed and ours.closed
    assert task.join(LONG)
    theirs.close()
