"""Dialling: one deadline for everything, all addresses, the last good one, and no descriptor left behind."""

from __future__ import annotations

import _socket
import os
import ssl
import sys

import pytest

from greenmq import runtime
from greenmq.exceptions import InvalidArgument, TimeoutError
from greenmq.runtime.losses import DialError, DialRefused
from greenmq.runtime.net import Stream
from greenmq.runtime.tls import TLSCodec, TLSOptions

module, lookup = sys.modules['greenmq.runtime.dial'], sys.modules['greenmq.runtime.lookup']
LONG = 20.0
GUARD = 10  # seconds until a native thread that stands in for a slow resolver gives up by itself


def start(fun, *args, name='test', **kw):
    task = runtime.spawn(lambda: fun(*args, **kw), name=name)
    for _ in range(5):
        runtime.sleep(0)
    return task


def descriptors():
    return set(os.listdir('/proc/self/fd'))


class Listener:
    """A server's socket, whose connections the kernel accepts, up to `backlog`."""

    def __init__(self, family=_socket.AF_INET, host='127.0.0.1', port=0, backlog=16):
        self.sock = _socket.socket(family)
        self.sock.bind((host, port))
        self.sock.listen(backlog)
        self.host, self.port = self.sock.getsockname()[:2]
        self.address = (family, self.sock.getsockname())
        self.sock.setblocking(False)

    def accept(self):
        fd, _address = self.sock._accept()
        sock = _socket.socket(fileno=fd)
        sock.setblocking(False)
        return Stream(sock, 'client')

    def close(self):
        self.sock.close()


@pytest.fixture
def listener():
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture
def closed_port():
    listener = Listener()
    listener.close()
    return listener.port


@pytest.fixture
def deaf():
    """An address that answers to nothing: its backlog is full."""
    listener = Listener(backlog=0)
    clients = []
    for _ in range(4):
        sock = _socket.socket()
        sock.setblocking(False)
        sock.connect_ex((listener.host, listener.port))
        clients.append(sock)
    yield listener
    for sock in clients:
        sock.close()
    listener.close()


@pytest.fixture(autouse=True)
def names(monkeypatch):
    """The resolver of this test: name → list of addresses, or error, or NativeLock to wait for."""
    names = {}

    def getaddrinfo(host, port, family=0, kind=0):
        answer = names[host.decode()]
        if isinstance(answer, BaseException):
            raise answer
        if not isinstance(answer, list):
            if answer.acquire(True, GUARD):
                answer.release()  # a gate: once open, all pass
            return []
        return [(family, kind, 6, '', address) for family, address in answer]

    monkeypatch.setattr(lookup, 'getaddrinfo', getaddrinfo)
    monkeypatch.setattr(module, '_good', {})
    monkeypatch.setattr(lookup, '_lookups', {})
    return names


@pytest.fixture
def stuck(names):
    """A name whose look-up does not end before the test does."""
    lock = runtime.NativeLock()
    lock.acquire()
    names['stuck'] = lock
    yield 'stuck'
    lock.release()


def test_numeric_addresses_are_not_looked_up(listener):
    stream = runtime.dial(listener.host, listener.port, LONG)
    assert stream.peername == (listener.host, listener.port) and stream.name == f'127.0.0.1:{listener.port}'
    peer = listener.accept()
    stream.write(b'abc')
    assert peer.read(10, LONG) == b'abc'
    for end in (stream, peer):
        end.close()


def test_ipv6_in_brackets():
    try:
        listener = Listener(_socket.AF_INET6, '::1')
    except OSError:
        pytest.skip('no IPv6 here')
    stream = runtime.dial('[::1]', listener.port, LONG)
    assert stream.name == f'[::1]:{listener.port}'
    stream.close()
    listener.close()


def test_the_real_resolver(listener, monkeypatch):
    monkeypatch.setattr(lookup, 'getaddrinfo', _socket.getaddrinfo)
    stream = runtime.dial('localhost', listener.port, LONG)
    assert stream.peername[1] == listener.port
    stream.close()


def test_options_of_the_socket(listener):
    stream = runtime.dial(
        listener.host, listener.port, LONG, socket_options=[(_socket.SOL_SOCKET, _socket.SO_RCVBUF, 20000)]
    )
    option = stream._sock.getsockopt
    assert option(_socket.IPPROTO_TCP, _socket.TCP_NODELAY) and option(
        _socket.SOL_SOCKET, _socket.SO_KEEPALIVE
    )
    assert option(_socket.SOL_SOCKET, _socket.SO_RCVBUF) >= 20000
    stream.close()


def test_refused(closed_port):
    before = descriptors()
    with pytest.raises(DialRefused, match=f'cannot connect to 127.0.0.1:{closed_port}: .*refused'):
        runtime.dial('127.0.0.1', closed_port, LONG)
    assert descriptors() == before


def test_every_address_is_tried_and_named(names, listener, closed_port):
    dead = (_socket.AF_INET, ('127.0.0.1', closed_port))
    names['host'] = [dead, (_socket.AF_INET, ('127.0.0.2', closed_port))]
    with pytest.raises(DialError, match=r'127\.0\.0\.1:.*refused; 127\.0\.0\.2:.*refused'):
        runtime.dial('host', 1, LONG)
    names['host'] = [dead, listener.address]
    stream = runtime.dial('host', 1, LONG)
    assert stream.peername == listener.address[1]
    stream.close()


@pytest.mark.slow
def test_a_silent_address_gets_company(names, listener, deaf):
    before = descriptors()
    names['host'] = [deaf.address, listener.address]
    stream = runtime.dial('host', 1, LONG)
    assert stream.peername == listener.address[1]
    # The last good one is first the next time: the deaf one is not even tried.
    again = runtime.dial('host', 1, module.STAGGER / 2)
    assert again.peername == listener.address[1]
    for end in (stream, again):
        end.close()
    assert descriptors() == before


def test_families_take_turns():
    four = [(_socket.AF_INET, (str(n), 1)) for n in range(3)]
    six = [(_socket.AF_INET6, (str(n), 1, 0, 0)) for n in range(3)]
    assert module._in_turn([*six, *four], None) == [six[0], four[0], six[1], four[1], six[2], four[2]]
    assert module._in_turn([*six, four[0]], four[0])[:2] == [four[0], six[0]]
    assert module._in_turn([], four[0]) == []


@pytest.mark.parametrize('how', ['kill', 'timeout'])
def test_cut_short_while_it_connects(deaf, how):
    before = descriptors()
    if how == 'kill':
        task = start(runtime.dial, deaf.host, deaf.port, LONG)
        assert descriptors() != before
        task.kill()
        assert task.join(LONG) and task.error is None
    else:
        with pytest.raises(TimeoutError, match=f'127.0.0.1:{deaf.port}: no connection within 0.001 s'):
            runtime.dial(deaf.host, deaf.port, 0.001)
    assert descriptors() == before


class TestNames:
    def test_failed_look_up(self, names):
        names['host'] = _socket.gaierror(_socket.EAI_NONAME, 'Name or service not known')
        with pytest.raises(DialError, match='cannot connect to host:1: look-up of the name failed') as caught:
            runtime.dial('host', 1, LONG)
        assert isinstance(caught.value.__cause__, _socket.gaierror)

    def test_names_beyond_ascii(self, names, listener):
        names['xn--bcher-kva.example'] = [listener.address]
        runtime.dial('bücher.example', 1, LONG).close()
        with pytest.raises(InvalidArgument, match='host must be a name of the DNS'):
            runtime.dial('b' * 64 + 'ü', 1, LONG)

    def test_no_address(self, names):
        names['host'] = []
        with pytest.raises(DialError, match='no address'):
            runtime.dial('host', 1, LONG)

    def test_the_deadline_covers_the_look_up(self, stuck):
        with pytest.raises(
            TimeoutError, match='stuck:1: no answer to the look-up of the name within 0.001 s'
        ):
            runtime.dial(stuck, 1, 0.001)

    def test_the_hub_runs_and_a_kill_ends_the_wait(self, stuck):
        task = start(runtime.dial, stuck, 1, LONG)
        task.kill()
        assert task.join(LONG)

    def test_stuck_look_ups_starve_nobody(self, names, stuck, listener):
        # Given more of them than any pool has threads
        tasks = []
        for n in range(40):
            names[f'stuck{n}'] = names[stuck]
            tasks.append(start(runtime.dial, f'stuck{n}', 1, LONG))
        # When another name is looked up, then it is
        names['host'] = [listener.address]
        runtime.dial('host', 1, LONG).close()
        for task in tasks:
            task.kill()
        assert all(task.join(LONG) for task in tasks)

    def test_a_hundred_dials_ask_once(self, names, listener, monkeypatch):
        asked = []
        names['host'] = [listener.address]
        plain = lookup.getaddrinfo
        # (A thread of a test before may ask only now.)
        monkeypatch.setattr(lookup, 'getaddrinfo', lambda *args: asked.append(args[0]) or plain(*args))
        tasks = [runtime.spawn(lambda: runtime.dial('host', 1, LONG).close(), name='t') for _ in range(10)]
        assert all(task.join(LONG) and task.error is None for task in tasks)
        assert asked.count(b'host') == 1
        assert lookup._lookups == {}

    @pytest.mark.slow
    def test_the_last_good_address_stands_in_for_a_slow_resolver(self, names, stuck, listener):
        module._remember((stuck, 1), listener.address)
        stream = runtime.dial(stuck, 1, LONG)
        assert stream.peername == listener.address[1]
        stream.close()

    def test_and_for_a_failing_one(self, names, listener):
        module._remember(('host', 1), listener.address)
        names['host'] = _socket.gaierror(_socket.EAI_AGAIN, 'try again')
        runtime.dial('host', 1, LONG).close()

    @pytest.mark.slow
    def test_what_a_slow_look_up_finds_joins_the_race(self, names, listener, closed_port, monkeypatch):
        # Given a remembered address that is dead by now, and a look-up that ends after it was tried
        module._remember(('host', 1), (_socket.AF_INET, ('127.0.0.1', closed_port)))
        lock = runtime.NativeLock()
        lock.acquire()
        names['host'] = lock
        plain = lookup.getaddrinfo

        def slow(*args):
            plain(*args)
            return [(_socket.AF_INET, 1, 6, '', listener.address[1])]

        monkeypatch.setattr(lookup, 'getaddrinfo', slow)
        task = start(lambda: runtime.dial('host', 1, LONG).close())
        runtime.call_later(module.STAGGER * 1.5, lock.release)
        assert task.join(LONG) and task.error is None

    def test_memory_of_good_addresses_is_bounded(self):
        for n in range(module._REMEMBERED + 10):
            module._remember((str(n), 1), (2, ('127.0.0.1', 1)))
        assert len(module._good) == module._REMEMBERED and ('0', 1) not in module._good


class TestTLS:
    def serve(self, listener, certificates):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.server, certificates.server_key)

        def echo():
            while True:
                try:
                    peer = listener.accept()
                    break
                except BlockingIOError:
                    runtime.sleep(0)
            try:
                peer.start_tls(TLSCodec(context, None, server_side=True), LONG)
                peer.write(peer.read(100, LONG), LONG)
            finally:
                peer.abandon()

        return runtime.spawn(echo, name='server')

    @pytest.mark.parametrize('make', [TLSOptions, lambda ca_certs: TLSOptions(ca_certs=ca_certs).context()])
    def test_whole_way(self, listener, certificates, names, make):
        names['localhost'] = [listener.address]
        server = self.serve(listener, certificates)
        stream = runtime.dial('localhost', listener.port, LONG, tls=make(ca_certs=str(certificates.ca)))
        stream.write(b'abc')
        assert stream.read(10, LONG) == b'abc' and 'TLS' in repr(stream) and server.join(LONG)
        stream.close()

    def test_the_name_in_the_certificate(self, listener, certificates, names):
        names['broker'] = [listener.address]
        options = TLSOptions(ca_certs=str(certificates.ca))
        server = self.serve(listener, certificates)
        with pytest.raises(DialError, match='certificate'):
            runtime.dial('broker', listener.port, LONG, tls=options)
        assert server.join(LONG)
        server = self.serve(listener, certificates)
        stream = runtime.dial(
            'broker',
            listener.port,
            LONG,
            tls=TLSOptions(ca_certs=str(certificates.ca), server_hostname='localhost'),
        )
        stream.close()
        assert server.join(LONG)

    def test_the_deadline_covers_the_handshake(self, listener, certificates):
        before = descriptors()
        with pytest.raises(TimeoutError):
            runtime.dial(listener.host, listener.port, 0.05, tls=TLSOptions(ca_certs=str(certificates.ca)))
        assert descriptors() == before

    def test_unreadable_authorities(self, listener):
        before = descriptors()
        with pytest.raises(InvalidArgument, match=r"ca_certs .*'/nowhere/ca.pem', which cannot be read"):
            runtime.dial(listener.host, listener.port, LONG, tls=TLSOptions(ca_certs='/nowhere/ca.pem'))
        assert descriptors() == before


class TestUnix:
    def test_connects(self, tmp_path):
        path = str(tmp_path / 'socket')
        server = _socket.socket(_socket.AF_UNIX)
        server.bind(path)
        server.listen(1)
        stream = runtime.dial_unix(path, LONG)
        assert stream.name == f'unix:{path}'
        stream.close()
        server.close()

    def test_nobody_there(self, tmp_path):
        before = descriptors()
        with pytest.raises(DialError, match='No such file'):
            runtime.dial_unix(str(tmp_path / 'nothing'), LONG)
        server = _socket.socket(_socket.AF_UNIX)
        server.bind(str(tmp_path / 'deaf'))
        with pytest.raises(DialRefused):
            runtime.dial_unix(str(tmp_path / 'deaf'), LONG)
        server.close()
        assert descriptors() == before

    def test_full_backlog_ends_at_the_deadline(self, tmp_path):
        path = str(tmp_path / 'socket')
        server = _socket.socket(_socket.AF_UNIX)
        server.bind(path)
        server.listen(0)
        first = runtime.dial_unix(path, LONG)
        before = descriptors()
        with pytest.raises(TimeoutError, match='no connection within'):
            runtime.dial_unix(path, 0.02)
        assert descriptors() == before
        first.close()
        server.close()
