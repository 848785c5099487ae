"""Requests over HTTP: one deadline, a bounded pool, stale connections, proxies, and every way to fail."""
from __future__ import annotations

import gc
import os
import urllib.parse

import pytest

from greenmq import runtime
from greenmq.exceptions import InvalidArgument
from greenmq.runtime import DialError, DialRefused, TLSOptions
from greenmq.transport.http import Client, NoAnswer, NoAnswerInTime, Settings
from tests.support import green
from tests.support.http_peer import HTTPPeer, answer

SOON = 5.0


@pytest.fixture
def client():
    client = Client(Settings(proxies={}))
    yield client
    client.close()


def echo(asked):
    return answer(200, asked.body, X_Target=asked.target)


def test_a_request_and_its_answer(client):
    with HTTPPeer(echo) as peer:
        got = client.request('POST', peer.url + '/a/b?c=d', {'X-One': '1'}, b'hello', SOON)
    assert (got.status, got.reason, got.body, got.headers['x-target']) == (200, 'OK', b'hello', '/a/b?c=d')
    asked = peer.asked[0]
    assert asked.headers['host'] == f'127.0.0.1:{peer.port}'
    assert asked.headers['x-one'] == '1' and asked.headers['content-length'] == '5'
    assert asked.headers['user-agent'] == 'greenmq'


def test_what_the_caller_says_goes_before_our_own(client):
    with HTTPPeer(echo) as peer:
        client.request('GET', peer.url, {'host': 'other', 'USER-AGENT': 'mine', 'Content-Length': '9'},
                       deadline=SOON)
    assert peer.asked[0].headers['host'] == 'other' and peer.asked[0].headers['user-agent'] == 'mine'
    assert peer.asked[0].headers.get('content-length') in (None, '0')


def test_a_connection_is_used_again(client):
    with HTTPPeer(echo) as peer:
        for n in range(5):
            assert client.request('POST', peer.url, {}, b'%d' % n, SOON).body == b'%d' % n
        assert peer.connections == 1
        assert client.stats() == {peer.url: {'used': 0, 'idle': 1, 'waiting': 0}}


def chunked(asked):
    return b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nspam\r\n3\r\negg\r\n0\r\n\r\n'


def to_the_end(asked):
    def send(sock):
        sock.sendall(b'HTTP/1.0 200 OK\r\n\r\nspameggs')

    return send


@pytest.mark.parametrize(('answerer', 'body', 'connections'), [
    (chunked, b'spamegg', 1),
    (to_the_end, b'spameggs', 2),
    (lambda asked: answer(200, b'x', Connection='close'), b'x', 2),
    (lambda asked: answer(204, reason='No Content'), b'', 1),
    (lambda asked: b'HTTP/1.1 100 Continue\r\n\r\n' + answer(200, b'y'), b'y', 1),
], ids=['chunked', 'http-1.0', 'close', 'empty', 'continue'])
def test_kinds_of_answers(client, answerer, body, connections):
    with HTTPPeer(answerer) as peer:
        for _ in range(2):
            assert client.request('GET', peer.url, deadline=SOON).body == body
        assert peer.connections == connections


# deadlines


def test_the_deadline_holds_while_nothing_comes(client):
    with HTTPPeer(lambda asked: None) as peer:
        with pytest.raises(NoAnswerInTime) as caught:
            client.request('GET', peer.url, deadline=0.1)
        assert caught.value.sent == 'unknown'
        assert client.stats()[peer.url] == {'used': 0, 'idle': 0, 'waiting': 0}


def test_the_deadline_holds_while_bytes_keep_coming(client):
    def dribble(asked):
        def send(sock):
            sock.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n')
            while True:
                sock.sendall(b'x')
                green.sleep(0.01)

        return send

    with HTTPPeer(dribble) as peer, pytest.raises(NoAnswerInTime):
        client.request('GET', peer.url, deadline=0.2)


def test_a_place_in_the_pool_is_in_the_deadline_too():
    client = Client(Settings(pool_size=1, proxies={}))
    with HTTPPeer(lambda asked: None) as peer:
        first = green.spawn(client.request, 'GET', peer.url, deadline=SOON)
        green.sleep(0.05)
        with pytest.raises(NoAnswerInTime) as caught:
            client.request('GET', peer.url, deadline=0.1)
        assert caught.value.sent == 'no' and 'all 1 connections' in str(caught.value)
        first.kill()
        assert client.stats()[peer.url] == {'used': 0, 'idle': 0, 'waiting': 0}


def test_who_waits_first_is_served_first():
    client, order = Client(Settings(pool_size=1, proxies={})), []

    def slow(asked):
        green.sleep(0.01)
        return answer(200, asked.body)

    def ask(n):
        order.append(int(client.request('POST', peer.url, {}, b'%d' % n, SOON).body))

    with HTTPPeer(slow) as peer:
        green.joinall([green.spawn(ask, n) for n in range(20)])
        assert order == list(range(20)) and peer.connections == 1


# failures


def test_nobody_listens(client):
    with green.socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        port = sock.getsockname()[1]
    with pytest.raises(DialRefused):
        client.request('GET', f'http://127.0.0.1:{port}/', deadline=SOON)
    assert client.stats()[f'http://127.0.0.1:{port}'] == {'used': 0, 'idle': 0, 'waiting': 0}


@pytest.mark.parametrize('given', [
    b'garbage\r\n\r\n', b'HTTP/1.1 200 OK\r\nContent-Length: nine\r\n\r\n', b'\x16\x03\x01' * 50,
    b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n',
    b'HTTP/1.1 200 OK\r\nX: ' + b'y' * 200_000,
], ids=['garbage', 'length', 'tls', 'chunk', 'header'])
def test_what_is_no_http_is_an_error_of_ours(client, given):
    with HTTPPeer(lambda asked: given) as peer, pytest.raises(NoAnswer) as caught:
        client.request('GET', peer.url, deadline=SOON)
    assert str(peer.port) in str(caught.value)


def test_an_answer_that_is_cut_is_no_answer(client):
    def cut(asked):
        return lambda sock: sock.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf')

    with HTTPPeer(cut) as peer, pytest.raises(NoAnswer) as caught:
        client.request('GET', peer.url, deadline=SOON, repeatable=True)
    assert caught.value.begun and caught.value.sent == 'unknown' and len(peer.asked) == 1


def test_a_large_answer_is_refused_before_it_fills_the_memory():
    client = Client(Settings(max_body_bytes=100_000, proxies={}))

    def endless(asked):
        def send(sock):
            sock.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n')
            for _ in range(100):
                sock.sendall(b'x' * 10_000)

        return send

    with HTTPPeer(endless) as peer, pytest.raises(NoAnswer, match='larger than 100000 bytes'):
        client.request('GET', peer.url, deadline=SOON)


class Closing:
    """Answers the first request of each connection and closes at the next, without an answer."""

    def __init__(self):
        self.seen = set()

    def __call__(self, asked):
        if asked.connection in self.seen:
            return lambda sock: None
        self.seen.add(asked.connection)
        return answer(200, asked.body)


def test_a_stale_connection_costs_a_repeatable_request_nothing(client):
    with HTTPPeer(Closing()) as peer:
        client.request('POST', peer.url, {}, b'1', SOON)
        assert client.request('POST', peer.url, {}, b'2', SOON, repeatable=True).body == b'2'
        assert peer.connections == 2 and len(peer.asked) == 3


def test_a_request_that_must_not_be_done_twice_is_not_made_twice(client):
    with HTTPPeer(Closing()) as peer:
        client.request('POST', peer.url, {}, b'1', SOON)
        with pytest.raises(NoAnswer) as caught:
            client.request('POST', peer.url, {}, b'2', SOON)
        assert caught.value.sent == 'unknown' and len(peer.asked) == 2


def test_a_new_connection_that_fails_is_not_tried_again(client):
    with HTTPPeer(lambda asked: lambda sock: None) as peer:
        with pytest.raises(NoAnswer):
            client.request('GET', peer.url, deadline=SOON, repeatable=True)
        assert len(peer.asked) == 1


def test_an_idle_connection_that_the_server_closes_is_dropped_at_once(client):
    def last(asked):
        def send(sock):
            sock.sendall(answer(200))
            green.sleep(0.05)

        return send

    with HTTPPeer(last) as peer:
        client.request('GET', peer.url, deadline=SOON)
        assert client.stats()[peer.url]['idle'] == 1
        green.sleep(0.2)
        assert client.stats()[peer.url]['idle'] == 0
        client.request('GET', peer.url, deadline=SOON)
        assert peer.connections == 2


def test_an_idle_connection_is_closed_after_its_time():
    client = Client(Settings(idle_seconds=0.1, proxies={}))
    with HTTPPeer(echo) as peer:
        client.request('GET', peer.url, deadline=SOON)
        green.sleep(0.3)
        assert client.stats()[peer.url]['idle'] == 0


def test_a_killed_request_leaves_nothing_behind(client):
    with HTTPPeer(lambda asked: None) as peer:
        asking = green.spawn(client.request, 'GET', peer.url, deadline=SOON)
        while not peer.asked:
            green.sleep(0.01)
        asking.kill()
        assert client.stats()[peer.url] == {'used': 0, 'idle': 0, 'waiting': 0}


def test_a_client_that_nobody_holds_is_gone_with_its_connections():
    client = Client(Settings(proxies={}))
    with HTTPPeer(echo) as peer:
        client.request('GET', peer.url, deadline=SOON)
        fd = next(iter(client._pools.values()))._idle[0].stream.fileno()
        del client
        gc.collect()
        green.sleep(0.01)
        with pytest.raises(OSError):
            os.fstat(fd)


@pytest.mark.parametrize('url', ['ftp://h/', 'http:///x', 'nothing', 'https://'])
def test_what_is_no_url(client, url):
    with pytest.raises(InvalidArgument):
        client.request('GET', url)


@pytest.mark.parametrize('rest, target', [
    ('', '/'), ('/', '/'), ('/a/b?c=d', '/a/b?c=d'), ('/a?', '/a'), ('?c=d', '/?c=d'), ('/a#b', '/a'),
    ('/a?b=/c?d', '/a?b=/c?d'), ('/a\r\nHost:b', '/aHost:b'), ('//a', '//a'),
])  # fmt: skip
def test_a_target_is_the_same_whether_its_server_is_known_or_not(client, rest, target):
    with HTTPPeer(echo) as peer:
        for _ in range(2):
            assert client.request('GET', peer.url + rest, deadline=SOON).headers['x-target'] == target


def test_urls_of_a_known_server_are_not_given_to_who_keeps_them(client, monkeypatch):
    with HTTPPeer(echo) as peer:
        client.request('GET', peer.url, deadline=SOON)
        split = []
        monkeypatch.setattr(urllib.parse, 'urlsplit', split.append)
        monkeypatch.setattr('greenmq.transport.http.client.urlsplit', split.append)
        client.request('GET', f'{peer.url}/messages/1?sig=secret', deadline=SOON)
        assert split == []


def test_a_secret_in_a_bad_url_is_not_shown(client):
    with pytest.raises(InvalidArgument) as caught:
        client.request('GET', 'ftp://me:secret@host/?sig=hidden')
    assert 'secret' not in str(caught.value) and 'hidden' not in str(caught.value)


# TLS and proxies


def tls_context(certificates):
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server, certificates.server_key)
    return context


class Tunnel:
    """A proxy: passes on what it is asked for, to an upstream HTTPPeer or by CONNECT to any port."""

    def __init__(self, refuse=False):
        self.refuse = refuse

    def __call__(self, asked):
        if self.refuse:
            return answer(407, reason='Proxy Authentication Required')
        if asked.method != 'CONNECT':
            return answer(200, asked.target.encode())
        port = asked.target.rpartition(':')[2]

        def join(sock):
            other = green.socket.socket()
            other.connect(('127.0.0.1', int(port)))
            sock.sendall(b'HTTP/1.1 200 Connection established\r\n\r\n')
            back = green.spawn(self._copy, other, sock)
            try:
                self._copy(sock, other)
            finally:
                back.kill()
                other.close()

        return join

    @staticmethod
    def _copy(one, other):
        while data := one.recv(65536):
            other.sendall(data)


def test_https_through_a_proxy(certificates, https_port):
    with HTTPPeer(Tunnel()) as proxy:
        client = Client(Settings(
            proxies={'https': f'http://me:p%40ss@127.0.0.1:{proxy.port}'},
            tls=TLSOptions(ca_certs=str(certificates.ca)),
        ))
        got = client.request('GET', f'https://localhost:{https_port}/x', deadline=SOON)
        assert got.status == 200
        assert proxy.asked[0].method == 'CONNECT'
        assert proxy.asked[0].headers['proxy-authorization'] == 'Basic bWU6cEBzcw=='


@pytest.fixture
def https_port(certificates):
    """The port of a little HTTPS server, on runtime's own streams."""
    listener = green.socket.socket()
    listener.bind(('127.0.0.1', 0))
    listener.listen()
    tasks = []

    def serve(sock):
        stream = runtime.Stream(sock, 'test client')
        stream.start_tls(runtime.TLSCodec(tls_context(certificates), None, server_side=True), SOON)
        while stream.read(65536, SOON):
            stream.write(answer(200, b'over TLS'), SOON)
        stream.close()

    def accept():
        import _socket

        while True:
            sock, _ = listener.accept()
            own = _socket.socket(fileno=sock.detach())
            own.setblocking(False)
            tasks.append(runtime.spawn(serve, own, name='https-peer'))

    accepting = green.spawn(accept)
    yield listener.getsockname()[1]
    green.killall([accepting])
    for task in tasks:
        task.kill()
        task.join(SOON)
    listener.close()


def test_https_verifies_the_certificate(certificates, https_port):
    url = f'https://localhost:{https_port}/'
    trusting = Client(Settings(proxies={}, tls=TLSOptions(ca_certs=str(certificates.ca))))
    assert trusting.request('GET', url, deadline=SOON).body == b'over TLS'
    trusting.close()
    with pytest.raises(DialError, match='TLS failed'):
        Client(Settings(proxies={})).request('GET', url, deadline=SOON)


def test_plain_http_through_a_proxy_names_the_whole_url():
    with HTTPPeer(Tunnel()) as proxy:
        client = Client(Settings(proxies={'http': f'http://127.0.0.1:{proxy.port}'}))
        assert client.request('GET', 'http://example.test/a?b', deadline=SOON).body == b'http://example.test/a?b'


def test_a_proxy_that_refuses_is_named():
    with HTTPPeer(Tunnel(refuse=True)) as proxy:
        client = Client(Settings(proxies={'https': f'http://127.0.0.1:{proxy.port}'}))
        with pytest.raises(DialError, match=f'127.0.0.1:{proxy.port} answered 407'):
            client.request('GET', 'https://example.test/', deadline=SOON)


def test_the_environment_names_the_proxy_and_who_needs_none(monkeypatch):
    with HTTPPeer(Tunnel()) as proxy:
        monkeypatch.setenv('http_proxy', f'http://127.0.0.1:{proxy.port}')
        monkeypatch.setenv('no_proxy', 'inside.test')
        client = Client()
        assert client.request('GET', 'http://example.test/', deadline=SOON).status == 200
        assert client._where('http://inside.test/')[0].proxy == ''
        assert client._where('http://127.0.0.1:9/')[0].proxy == ''
