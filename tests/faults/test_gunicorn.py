"""The example application under the real gunicorn: load, a killed broker, a reload, the end (P21, P44)."""
from __future__ import annotations

import collections
import contextlib
import http.client
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys

import gevent
import gevent.socket
import pytest

from greenmq import Connection, Exchange, Queue
from greenmq.runtime import monotonic
from tests.support.process import end, free_ports, popen, servers_required, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.own_process]

EXAMPLE = pathlib.Path(__file__).parents[2] / 'examples' / 'gunicorn_app'
#: Seconds that the application gives a request; ours is that with room for a machine that is busy.
TIMEOUT = 2
ANSWERED = TIMEOUT + 3
CLIENTS = 40

#: The master publishes before it forks: its workers inherit a connection that they must not touch.
PRELOADED = """
from app import application, publish
publish({'number': 'from the master'})
"""


class Request(http.client.HTTPConnection):
    """HTTP on a cooperative socket."""

    def connect(self):
        self.sock = gevent.socket.create_connection((self.host, self.port), timeout=self.timeout)


class Gunicorn:
    """The server as a child process."""

    def __init__(self, directory, url):
        self.port, = free_ports(1)
        self.log = directory / 'gunicorn.log'
        (directory / 'preloaded.py').write_text(PRELOADED)
        env = os.environ | {
            'BROKER_URL': url, 'PUBLISH_TIMEOUT': str(TIMEOUT),
            'PYTHONPATH': os.pathsep.join(map(str, (directory, EXAMPLE, EXAMPLE.parents[1]))),
        }
        with open(self.log, 'wb') as output:
            self.process = popen(
                [sys.executable, '-m', 'gunicorn', '-k', 'gevent', '--preload', '--workers', '2',
                 '--bind', f'127.0.0.1:{self.port}', '--graceful-timeout', '10', 'preloaded:application'],
                env=env, cwd=directory, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)

    def signal(self, number):
        self.process.send_signal(number)

    def workers(self):
        """Process ids, by what the kernel says."""
        pid = self.process.pid
        try:
            with open(f'/proc/{pid}/task/{pid}/children') as children:
                return {int(child) for child in children.read().split()}
        except FileNotFoundError:
            return set()

    def post(self, document, timeout=ANSWERED):
        """The status, and the body."""
        request = Request('127.0.0.1', self.port, timeout=timeout)
        with contextlib.closing(request):
            request.request('POST', '/orders', json.dumps(document))
            answer = request.getresponse()
            return answer.status, json.loads(answer.read())

    def serves(self):
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.post({'first': True})[0] == 202
        except OSError:
            return False


class Load:
    """Clients that order one thing after the other, and the books of what they were told."""

    def __init__(self, server):
        self.server = server
        self.told = collections.Counter()
        self.accepted = set()
        self.slowest = 0.0
        self.broken = []
        self.stopping = False
        self.clients = [gevent.spawn(self.run) for _ in range(CLIENTS)]

    def run(self):
        while not self.stopping:
            began = monotonic()
            try:
                status, document = self.server.post({'item': 'tea'})
            except (OSError, http.client.HTTPException) as exc:
                self.broken.append(exc)
                gevent.sleep(0.05)
                continue
            self.slowest = max(self.slowest, monotonic() - began)
            self.told[status] += 1
            if status == 202:
                self.accepted.add(document['number'])
            gevent.sleep(0.02)

    def wait_more(self, status, number):
        """Until so many more were told this."""
        goal = self.told[status] + number
        wait_until(lambda: self.told[status] >= goal, 30, f'{number} more of {status}, {self.told} so far')

    def stop(self):
        self.stopping = True
        gevent.joinall(self.clients, timeout=2 * ANSWERED)
        assert all(client.dead for client in self.clients), 'a request hangs'


def sockets_to(pid, port):
    """How many connections a process has to a port of this machine."""
    mine = set()
    for name in os.listdir(f'/proc/{pid}/fd'):
        with contextlib.suppress(FileNotFoundError):
            mine.add(os.readlink(f'/proc/{pid}/fd/{name}'))
    with open('/proc/net/tcp') as table:
        rows = [line.split() for line in table.readlines()[1:]]
    return sum(f'socket:[{row[9]}]' in mine and int(row[2].rpartition(':')[2], 16) == port for row in rows)


def numbers(url, seconds=20):
    """What the queue has."""
    found, orders = [], Queue('orders', Exchange('orders'), routing_key='orders')
    with Connection(url) as connection:
        channel = connection.default_channel
        count = channel.queue_declare('orders', passive=True)[1]
        callbacks = [lambda body, message: found.append(body['number'])]
        with connection.Consumer([orders], callbacks=callbacks, accept=['json'], no_ack=True):
            while len(found) < count:
                connection.drain_events(timeout=seconds)
    return found


@pytest.fixture
def server(tmp_path, amqp_url):
    if importlib.util.find_spec('gunicorn') is None:
        (pytest.fail if servers_required() else pytest.skip)('gunicorn is not installed')
    found = Gunicorn(tmp_path, amqp_url)
    yield found
    for worker in found.workers():
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
    end(found.process)


@pytest.mark.green_timeout(150)
def test_gunicorn_with_gevent_workers(server, rabbitmq, amqp_url, amqp_vhost):
    wait_until(server.serves, 30, 'the first order')
    rabbitmq.sync()  # the queue of the first order is to survive the kill
    first = server.workers()
    assert len(first) == 2

    # Given load from many clients
    load = Load(server)
    load.wait_more(202, 300)
    sockets = [sockets_to(worker, rabbitmq.port) for worker in first]
    assert max(sockets) <= 2 and sum(sockets) >= 1
    census = [found for found in rabbitmq.list_connections() if found['vhost'] == amqp_vhost]
    assert len(census) <= 2 * 2 + 1  # and one of the master
    assert set(load.told) == {202} and not load.broken

    # When the broker is killed, requests are answered all the same
    rabbitmq.kill()
    load.wait_more(503, CLIENTS)
    rabbitmq.start()
    # and when it is back they are served again, by the same workers
    load.wait_more(202, 300)
    assert server.workers() == first and set(load.told) == {202, 503}

    # When the workers are replaced, nobody notices
    server.signal(signal.SIGHUP)
    wait_until(lambda: len(server.workers()) == 2 and not server.workers() & first, 30, 'new workers')
    load.wait_more(202, 300)
    assert max(sockets_to(worker, rabbitmq.port) for worker in server.workers()) <= 2
    assert set(load.told) == {202, 503} and not load.broken

    # When the server is stopped under load, it ends
    server.signal(signal.SIGTERM)
    wait_until(lambda: server.process.poll() is not None, 20, 'the end of gunicorn')
    load.stop()
    assert server.process.returncode == 0, server.log.read_text()
    assert {type(exc) for exc in load.broken} <= {ConnectionRefusedError, ConnectionResetError}
    wait_until(
        lambda: not [found for found in rabbitmq.list_connections() if found['vhost'] == amqp_vhost], 30,
        'that no connection is left at the broker')

    # Then every order that was accepted is there, and every client was answered in time
    assert load.accepted <= set(numbers(amqp_url))
    assert load.slowest < ANSWERED
