"""A broker that goes away and comes back: what a worker says of it, to its log and to whoever looks."""

from __future__ import annotations

import json
import logging
import socket
from urllib.parse import urlsplit

import pytest

from greenmq import Connection, Queue, log, runtime
from greenmq.mixins import ConsumerMixin
from greenmq.worker.health import Health
from tests.support import green
from tests.support.process import wait_until
from tests.support.proxy import Proxy


class Worker(ConsumerMixin):
    def __init__(self, connection):
        self.connection = connection
        self.ready = runtime.Event()

    def get_consumers(self, Consumer, channel):
        return [Consumer([Queue('jobs')], callbacks=[self.on_job])]

    def on_consume_ready(self, connection, channel, consumers, **kwargs):
        self.ready.set()

    def on_job(self, body, message):
        if body == 'bad':
            message.ack()
            raise ValueError('HEADTAIL, the secret of a customer')
        message.ack()


class SingleLoop(Worker):
    """Brings a part of kombu's loop, and so is run by it."""

    def consume(self, *args, **kwargs):
        return super().consume(*args, **kwargs)


@pytest.fixture(params=['amqp', 'redis'])
def proxied(request, monkeypatch):
    """The URL of a broker behind a proxy, and the proxy."""
    monkeypatch.setattr(log, '_outages', {})
    parts = urlsplit(request.getfixturevalue(f'{request.param}_url'))
    if request.param == 'redis':
        parts = parts._replace(netloc=f'default:HEADTAIL@{parts.netloc}')
    with Proxy(parts.port) as proxy:
        place = parts.netloc.replace(f':{parts.port}', f':{proxy.port}')
        yield parts._replace(netloc=place).geturl(), proxy


def told(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING
            and record.name.startswith('greenmq') and 'HEADTAIL, the secret' not in record.getMessage()]


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.green_timeout(90)
@pytest.mark.parametrize('cls', [Worker, SingleLoop])
def test_an_outage_is_told_in_two_lines_and_the_totals_outlive_it(proxied, cls, get, caplog, redis_password):
    caplog.set_level(logging.INFO, 'greenmq')
    url, proxy = proxied
    worker = cls(Connection(url, connect_timeout=1))
    worker.restart_limit.fill_rate = 1000
    task = green.spawn(worker.run)
    worker.ready.wait()
    with Connection(url) as connection:
        # an error of a callback ends kombu's loop
        for body in (1, 2, 3, 4) if cls is SingleLoop else (1, 2, 'bad', 'bad'):
            connection.Producer().publish(body, routing_key='jobs')
    wait_until(lambda: worker.status()['consumers'][0]['handled'] == 4, 10, 'the callbacks')
    green.sleep(0.2)  # the acks have left: that some were not confirmed would be told in a line of its own
    caplog.clear()
    with Health(worker, ('127.0.0.1', 0)).serving() as health:
        base = f'http://127.0.0.1:{health.address[1]}'
        # When nothing answers any more
        proxy.refuse()
        proxy.cut()
        wait_until(lambda: worker.status()['next_try'] is not None, 10, 'a try that fails')
        green.sleep(2)
        # Then what was done is known, and where it is tried again, and when
        status = worker.status()
        [lane] = status['consumers']
        failed = 0 if cls is SingleLoop else 2
        assert (lane['handled'], lane['failed'], lane['state']) == (4, failed, 'away')
        assert not lane['consuming']
        assert status['state'] == 'connecting' and str(proxy.port) in status['connection']
        assert 0 <= status['next_try'] <= 2 and str(proxy.port) in status['error'], status
        code, body, _ = get(f'{base}/readyz')
        facts = json.loads(body)
        assert code == 503 and facts['broker'] == status['connection'] and facts['error']
        shown, counted = get(f'{base}/')[1], get(f'{base}/metrics')[1]
        assert 'next try in' in shown and str(proxy.port) in shown
        assert '<dt>Done</dt><dd>4</dd>' in shown
        assert shown.count('jobs: ValueError in a callback') == failed
        assert 'greenmq_messages_total{outcome="acked",queue="jobs#0"} 4.0' in counted, counted
        assert [text for text in (shown, counted, body) if 'HEADTAIL' in text] == []
        # and one line was written, without a traceback
        assert len(told(caplog)) == 1, told(caplog)
        assert not [record for record in caplog.records if record.exc_info]
        # When it comes back
        worker.ready.clear()
        proxy.accept()
        worker.ready.wait()
        wait_until(lambda: get(f'{base}/readyz')[0] == 200, 10, 'the worker to be ready')
        # Then one line more says so, and the totals go on
        assert [line for line in told(caplog)[1:] if 'connected again after' not in line] == []
        assert len(told(caplog)) == 2, told(caplog)
        with Connection(url) as connection:
            connection.Producer().publish(3, routing_key='jobs')
        wait_until(lambda: worker.status()['consumers'][0]['handled'] == 5, 10, 'the callback')
        status = worker.status()
        assert status['error'] is None and status['next_try'] is None
        assert 'next try in' not in get(f'{base}/')[1]
    worker.stop(0)
    task.join()
    assert 'HEADTAIL' not in ''.join(told(caplog)), told(caplog)


@pytest.fixture
def redis_password(request, proxied):
    """The server asks for one, if it is Redis: so that there is a secret to be shown."""
    url, _ = proxied
    if not url.startswith('redis'):
        yield
        return
    import redis

    server = request.getfixturevalue('redis_server')
    client = redis.Redis.from_url(server.url())
    client.acl_setuser('default', enabled=True, passwords=['+HEADTAIL'], nopass=False)
    try:
        yield
    finally:
        redis.Redis.from_url(server.url(), username='default', password='HEADTAIL').acl_setuser(
            'default', enabled=True, nopass=True, reset_passwords=True)


@pytest.mark.slow
@pytest.mark.faults
def test_a_plain_program_is_told_in_two_lines_too(proxied, caplog):
    caplog.set_level(logging.INFO, 'greenmq')
    url, proxy = proxied
    url = url.replace('default:HEADTAIL@', '')
    with Connection(url, connect_timeout=1) as connection:
        connection.Producer().publish('x', routing_key='jobs', declare=[Queue('jobs')])
        caplog.clear()
        proxy.refuse()
        proxy.cut()
        green.sleep(2)
        assert len(told(caplog)) == 1, told(caplog)
        proxy.accept()
        connection.Producer().publish('y', routing_key='jobs', retry=True, timeout=10)
        wait_until(lambda: len(told(caplog)) == 2, 10, 'the line that says it is back')
    assert 'connected again after' in told(caplog)[-1]
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.slow
def test_the_daemon_makes_the_pauses_of_its_transport(monkeypatch):
    pauses = []

    def note(seconds, jitter):
        pauses.append((seconds, jitter))
        return 0

    monkeypatch.setattr('greenmq.connecting.retrying._jittered', note)
    amqp = [0.05, 0.25, 0.45, 0.65, 0.85, 1.05, 1.25, 1.45, 1.65, 1.85, 2, 2]
    for url, expected in (('amqp://127.0.0.1:1//', amqp),
                          ('redis://127.0.0.1:1/0', [0.05, 0.25, 0.45, 0.65, 0.85, 1, 1, 1]),
                          ('amqp://127.0.0.1:1//?recovery_interval_max=0.1', [0.05, 0.1, 0.1])):
        worker = Worker(Connection(url))
        worker.connect_max_retries = len(expected)
        pauses.clear()
        with pytest.raises(Exception, match='refused'):
            worker.run()
        assert [round(seconds, 2) for seconds, _ in pauses] == expected
        assert {jitter for _, jitter in pauses} == {0.5}
    # what a program opens by itself has kombu's
    pauses.clear()
    with pytest.raises(Exception, match='refused'):
        Connection('amqp://127.0.0.1:1//').ensure_connection(max_retries=3)
    assert pauses == [(2, 0.1), (4, 0.1), (6, 0.1)]


def test_a_worker_without_consumers_says_so(caplog):
    class Idle(Worker):
        def get_consumers(self, Consumer, channel):
            return []

    class Nothing(ConsumerMixin):
        connection = Connection('memory://localhost/nothing')

    worker = Idle(Connection('memory://localhost/idle'))
    task = green.spawn(worker.run)
    worker.ready.wait()
    worker.stop(0)
    task.join()
    assert 'Idle.get_consumers() returned no consumer' in caplog.text
    with pytest.raises(NotImplementedError, match=r'Nothing.get_consumers\(Consumer, channel\) is missing'):
        Nothing().run()


# ------------------------------------------------------------------------------ strangers at the health page


@pytest.fixture
def health():
    with Health(Worker(Connection('memory://localhost/strangers')), ('127.0.0.1', 0)).serving() as health:
        yield health


def ask(address, host='127.0.0.1', path='/healthz'):
    def fetch():
        with socket.create_connection(address, timeout=10) as sock:
            sock.sendall(f'GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n'.encode())
            received = b''
            while data := sock.recv(65536):
                received += data
            return received.decode()

    return runtime.offload(fetch)


@pytest.mark.slow
def test_silent_clients_keep_nobody_from_an_answer(health):
    silent = []
    try:
        for _ in range(250):
            sock = socket.create_connection(health.address, timeout=10)
            sock.sendall(b'GET / HTTP/1.1\r\nX: ')
            silent.append(sock)
            green.sleep(0.001)  # unpatched, a connect waits for the very loop that accepts
        assert ask(health.address).startswith('HTTP/1.1 200')

        def still_open():
            count = 0
            for sock in silent:
                sock.setblocking(False)
                try:
                    count += sock.recv(1, socket.MSG_PEEK) != b''
                except BlockingIOError:
                    count += 1
                except ConnectionError:
                    pass  # closed, with what we had sent unread
            return count

        wait_until(lambda: still_open() <= 64, 5, 'the oldest to be closed')
        wait_until(lambda: still_open() == 0, 10, 'the rest to have had their time')
    finally:
        for sock in silent:
            sock.close()


@pytest.mark.parametrize(('host', 'code'), [
    ('127.0.0.1', 200), ('localhost', 200), ('localhost:8080', 200), ('[::1]:8080', 200), ('', 200),
    ('evil.example', 421), ('evil.example:8080', 421), ('127.0.0.1.evil.example', 421),
])
def test_on_loopback_only_its_own_names_are_answered(health, host, code):
    for path in ('/', '/readyz', '/metrics'):
        answer = ask(health.address, host, path)
        assert answer.startswith(f'HTTP/1.1 {code}') or (code, path) == (200, '/readyz'), answer[:200]
        assert (code == 421) == ('not served under that name' in answer)
