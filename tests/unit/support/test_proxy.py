"""Each fault of the proxy looks to both sides as the fault it is named for."""
from __future__ import annotations

import gevent.server
import pytest

from tests.support import green
from tests.support.proxy import Proxy

pytestmark = pytest.mark.faults


def echo(sock, address):
    try:
        while data := sock.recv(65536):
            sock.sendall(data)
    except OSError:
        return  # the test cut it


@pytest.fixture
def upstream():
    server = gevent.server.StreamServer(('127.0.0.1', 0), echo)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def proxy(upstream):
    with Proxy(upstream.server_port) as proxy:
        yield proxy


@pytest.fixture
def connect(proxy):
    socks = []

    def connect():
        sock = green.socket.create_connection(('127.0.0.1', proxy.port), timeout=5)
        socks.append(sock)
        return sock

    yield connect
    for sock in socks:
        sock.close()


def ask(sock, data=b'ping'):
    sock.sendall(data)
    received = b''
    while len(received) < len(data):
        part = sock.recv(65536)
        if not part:
            break
        received += part
    return received


def nothing_comes(sock):
    sock.settimeout(0.05)
    try:
        sock.recv(1)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(5)
    return False


def test_healthy_it_forwards_and_counts(proxy, connect):
    a, b = connect(), connect()
    assert ask(a) == b'ping' and ask(b, b'x' * 300_000) == b'x' * 300_000
    assert (proxy.open_connections, proxy.total_connections) == (2, 2)
    assert proxy.forwarded_bytes('up') == proxy.forwarded_bytes('down') == 300_004
    a.close()
    proxy.wait_open(1)
    assert proxy.total_connections == 2


def test_cut_resets_the_client(proxy, connect):
    sock = connect()
    ask(sock)
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        sock.recv(1)
    assert proxy.open_connections == 0
    assert ask(connect()) == b'ping'  # a new connection is not concerned


def test_fin_ends_one_direction_and_leaves_the_other(proxy, connect):
    sock = connect()
    ask(sock)
    proxy.fin('down')
    assert sock.recv(1) == b''
    sock.sendall(b'still heard')
    assert proxy.open_connections == 1


def test_blackhole_keeps_the_connection_and_delivers_when_healed(proxy, connect):
    sock = connect()
    ask(sock)
    proxy.blackhole()
    sock.sendall(b'late')
    assert nothing_comes(sock)
    proxy.heal()
    assert sock.recv(4) == b'late'


def test_a_blackhole_down_lets_the_request_through(proxy, connect):
    sock = connect()
    ask(sock)
    before = proxy.forwarded_bytes('up')
    proxy.blackhole('down')
    sock.sendall(b'12345')
    assert nothing_comes(sock)
    assert proxy.forwarded_bytes('up') == before + 5


@pytest.mark.parametrize('n', [1, 3])
def test_half_forwards_so_many_bytes_and_stalls(proxy, connect, n):
    sock = connect()
    ask(sock)
    proxy.half(n, 'down')
    sock.sendall(b'abcd')
    assert sock.recv(10) == b'abcd'[:n]
    assert nothing_comes(sock)
    proxy.heal('down')
    assert sock.recv(10) == b'abcd'[n:]


def test_half_may_end_in_a_cut_or_a_fin(proxy, connect):
    sock = connect()
    proxy.half(2, 'down', then='fin')
    sock.sendall(b'abcd')
    assert (sock.recv(10), sock.recv(10)) == (b'ab', b'')
    sock = connect()
    proxy.half(2, 'down', then='cut')
    sock.sendall(b'abcd')
    with pytest.raises(ConnectionResetError):
        while sock.recv(10):
            pass


def test_slow_and_latency_hold_bytes_back(proxy, connect):
    sock = connect()
    proxy.slow(1000, 'down')
    sock.sendall(b'x' * 300)
    received = sock.recv(1000)
    assert 0 < len(received) < 300
    proxy.heal()
    while len(received) < 300:
        received += sock.recv(1000)
    proxy.latency(0.2, 'up')
    sock.sendall(b'held')
    assert nothing_comes(sock)
    assert sock.recv(4) == b'held'


def test_refuse_turns_new_connections_away_only(proxy, connect):
    sock = connect()
    ask(sock)
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect()
    assert ask(sock) == b'ping'
    proxy.accept()
    assert ask(connect()) == b'ping'


def test_a_server_that_is_gone_is_passed_on_as_a_reset(upstream, proxy, connect):
    upstream.stop()
    with pytest.raises(ConnectionResetError):
        connect().recv(1)


def test_a_stalled_reader_is_felt_by_the_writer(upstream):
    with Proxy(upstream.server_port, buffer_bytes=4096) as proxy:
        sock = green.socket.socket()
        sock.setsockopt(green.socket.SOL_SOCKET, green.socket.SO_SNDBUF, 4096)
        sock.connect(('127.0.0.1', proxy.port))
        proxy.blackhole('up')
        sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            sock.sendall(b'x' * 1_000_000)
        sock.close()
