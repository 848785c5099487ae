"""Does the hub go on? A ticker's rate while greenmq connects, looks up, publishes, waits and speaks TLS.

`python -m tests.patch_matrix [seconds]` starts a RabbitMQ and a Redis, tries every order of patching on
gevent and on eventlet, each in a process of its own, and prints the share of its ticks that the ticker made.
What blocks the hub takes the whole of its time out of that share.
"""
from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile

FIRST = 'import greenmq, greenmq.connection\n'
DRIVERS = '''
import redis, amqp
with contextlib.suppress(ImportError):
    import kombu, kombu.transport.pyamqp
'''
GEVENT = 'from gevent import monkey\nmonkey.patch_all({})\n'
EVENTLET = 'import eventlet\neventlet.monkey_patch({})\n'
#: (runtime, order) → the lines that come before greenmq is used. eventlet patches ssl with socket.
ORDERS = {
    ('gevent', 'not patched'): '',
    ('gevent', 'before import'): GEVENT.format(''),
    ('gevent', 'after import'): FIRST + GEVENT.format(''),
    ('gevent', 'without socket'): GEVENT.format('socket=False'),
    ('gevent', 'without threading'): GEVENT.format('thread=False'),
    ('gevent', 'without ssl'): GEVENT.format('ssl=False'),
    ('gevent', 'after the drivers'): DRIVERS + GEVENT.format(''),
    ('eventlet', 'not patched'): '',
    ('eventlet', 'before import'): EVENTLET.format(''),
    ('eventlet', 'after import'): FIRST + EVENTLET.format(''),
    ('eventlet', 'without socket'): EVENTLET.format('socket=False'),
    ('eventlet', 'without threading'): EVENTLET.format('thread=False'),
    ('eventlet', 'after the drivers'): DRIVERS + EVENTLET.format(''),
}
ACTIONS = ('connect', 'black hole', 'silence', 'slow name', 'publish', 'consume', 'tls', 'tls silence')
#: What is asked of every cell.
SHARE = 0.95

PROGRAM = '''
import contextlib, json, sys
{order}
import _socket, importlib
from greenmq import Connection, Queue, runtime
from greenmq.runtime.seam import library

facts = json.loads(sys.argv[1])
SECONDS, STEP = facts['seconds'], facts['step']
lookup = importlib.import_module('greenmq.runtime.lookup')

class Ticker:
    """Notes the steps of time in which it ran, beside a native thread: on a busy machine the whole process
    may stand still for some, and only those count in which the thread ran more than once. Nor does one in
    which, or in the one after it, the hub's thread had work, but for long no processor to do it."""
    def __init__(self):
        self.begun, self.ticked, self.seen, self.over = runtime.monotonic(), set(), {{}}, False
        self.queued = {{}}  # step → seconds that the hub's thread had waited for a processor, at its begin
        self.sched = f'/proc/self/task/{{library.original("_thread", "get_native_id")()}}/schedstat'
        self.task = runtime.spawn(self.run, name='ticker')
        library.original('_thread', 'start_new_thread')(self.watch, ())
    def now(self):
        return int((runtime.monotonic() - self.begun) / STEP)
    def run(self):
        while True:
            self.ticked.add(self.now())
            runtime.sleep((self.now() + 1) * STEP - (runtime.monotonic() - self.begun))
    def watch(self):
        pause = library.original('time', 'sleep')
        while not self.over:
            with open(self.sched) as file:
                self.queued.setdefault(self.now(), int(file.read().split()[1]) / 1e9)
            self.seen[self.now()] = self.seen.get(self.now(), 0) + 1
            pause(STEP / 5)
    def share(self):
        last, self.over = self.now(), True
        self.task.kill()
        whole = [step for step in range(last) if self.seen.get(step, 0) > 1]
        if len(whole) < 4:
            return None  # the machine is too busy to tell
        return sum(step in self.ticked or self.starved(step) for step in whole) / len(whole)
    def starved(self, step):
        if step not in self.queued:
            return False
        later = [when for when in self.queued if when > step + 1] or [max(self.queued)]
        return self.queued[min(later)] - self.queued[step] > STEP / 5

def again_and_again(call):
    deadline = runtime.Deadline.after(SECONDS)
    while not deadline.expired():
        call()

def fails(call, *errors):
    deadline = runtime.Deadline.after(20)
    try:
        call()
    except Exception as exc:
        assert deadline.remaining() < 20 - SECONDS / 2, repr(exc)
        return
    raise AssertionError('it should have failed')

def connecting(url, seconds=20, **options):
    connection = Connection(url, connect_timeout=seconds, **options)
    try:
        connection.connect()
    finally:
        connection.close()

def slow_look_up(*args):
    library.original('time', 'sleep')(SECONDS)
    return [(_socket.AF_INET, _socket.SOCK_STREAM, 6, '', ('127.0.0.1', args[1]))]

def by_name():
    lookup.getaddrinfo, fast = slow_look_up, lookup.getaddrinfo
    try:
        connection = Connection(facts['named'], connect_timeout=20 + SECONDS).connect()
        connection.close()
    finally:
        lookup.getaddrinfo = fast

def tls():
    connecting(facts['tls'], ssl=facts['ssl'])

queue = Queue('matrix', routing_key='matrix', auto_delete=False, durable=False)

def publish():
    with Connection(facts['url']) as connection:
        producer = connection.Producer()
        again_and_again(lambda: producer.publish({{'n': 1}}, routing_key='matrix', declare=[queue]))
        queue(connection.default_channel).purge()

def consume():
    got = []
    def callback(body, message):
        message.ack()
        got.append(body)
    with Connection(facts['url']) as connection, Connection(facts['url']) as other:
        with connection.Consumer([queue], callbacks=[callback], accept=['json']):
            with contextlib.suppress(TimeoutError):
                connection.drain_events(timeout=SECONDS)
            other.Producer().publish({{'n': 2}}, routing_key='matrix')
            while not got:
                connection.drain_events(timeout=10)

DO = {{
    'connect': lambda: again_and_again(lambda: connecting(facts['url'])),
    'black hole': lambda: fails(lambda: connecting(facts['hole'], SECONDS)),
    'silence': lambda: fails(lambda: connecting(facts['silent'], SECONDS)),
    'slow name': by_name,
    'publish': publish,
    'consume': consume,
    'tls': lambda: again_and_again(tls),
    'a stall': lambda: library.original('time', 'sleep')(SECONDS),
    'tls silence': lambda: fails(lambda: connecting(facts['tls_silent'], SECONDS, ssl=facts['ssl'])),
}}
shares = {{}}
for action in facts['actions']:
    connecting(facts['url'])  # what is imported late is no part of it
    runtime.sleep(0.05)
    ticker = Ticker()
    DO[action]()
    shares[action] = ticker.share()
print(json.dumps(shares))
'''


class Holes:
    """Ports that answer nothing: one whose backlog is full, and one that accepts and is silent."""

    def __enter__(self):
        self._silent = self._listen(128)
        self._full = self._listen(0)
        self._waiting = []
        for _ in range(4):  # more than fit: the kernel drops what comes next
            sock = socket.socket()
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect(self._full.getsockname())
            self._waiting.append(sock)
        self.silent = self._silent.getsockname()[1]
        self.hole = self._full.getsockname()[1]
        return self

    def __exit__(self, *exc_info):
        for sock in (self._silent, self._full, *self._waiting):
            sock.close()

    @staticmethod
    def _listen(backlog):
        sock = socket.socket()
        sock.bind(('127.0.0.1', 0))
        sock.listen(backlog)
        return sock


def facts(scheme, server, holes, vhost, certificates, seconds, actions=ACTIONS, step=0.05):
    """What a child has to know of the broker and of the ports that are none."""
    url = server.url(vhost) if scheme == 'amqp' else server.url()
    tls_url = server.tls_url(vhost) if scheme == 'amqp' else server.tls_url()
    port = url.rpartition(':')[2].partition('/')[0]
    tls_port = tls_url.rpartition(':')[2].partition('/')[0]
    return {
        'url': url, 'tls': tls_url, 'ssl': certificates.client_options(), 'seconds': seconds, 'step': step,
        'actions': list(actions),
        'hole': url.replace(f':{port}/', f':{holes.hole}/'),
        'silent': url.replace(f':{port}/', f':{holes.silent}/'),
        'tls_silent': tls_url.replace(f':{tls_port}/', f':{holes.silent}/'),
        'named': url.replace('127.0.0.1', 'slow.example'),
    }  # fmt: skip


def run(cell, given):
    """Run one cell: the share of ticks by action."""
    runtime, _order = cell
    program = PROGRAM.format(order=ORDERS[cell])
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', program, json.dumps(given)], capture_output=True, text=True,
        timeout=90 + 10 * given['seconds'] * len(given['actions']), check=False,
        env={**os.environ, 'GREENMQ_RUNTIME': runtime},
    )  # fmt: skip
    assert done.returncode == 0, f'{cell}:\n{done.stderr[-4000:]}'
    return json.loads(done.stdout.splitlines()[-1])


def best_of(cell, given, tries=4):
    """Run a cell, and again what was low: what blocks the hub does so each time, a busy machine does not."""
    shares = run(cell, given)
    for _ in range(tries - 1):
        low = [action for action, share in shares.items() if (share or 0) < SHARE]
        if not low:
            break
        again = run(cell, {**given, 'actions': low})
        shares.update({action: max(shares[action] or 0, share or 0) for action, share in again.items()})
    return {action: share or 0 for action, share in shares.items()}


def line(cell, scheme, shares):
    numbers = ''.join(f'{shares[action]:>13.1%}' if action in shares else f'{"":>13}' for action in ACTIONS)
    return f'{cell[0]:<9} {cell[1]:<18} {scheme:<6}{numbers}'


HEAD = f'{"hub":<9} {"patched":<18} {"broker":<6}' + ''.join(f'{action:>13}' for action in ACTIONS)


def main(seconds=1.0):
    from tests.support.certificates import Certificates
    from tests.support.rabbitmq import RabbitMQ
    from tests.support.redis_server import Redis

    low = 1.0
    with tempfile.TemporaryDirectory() as directory, Holes() as holes:
        certificates = Certificates(directory)
        with RabbitMQ(certificates) as rabbitmq, Redis(certificates) as redis:
            rabbitmq.create_vhost('matrix')
            print(HEAD)
            for cell in ORDERS:
                for scheme, server in (('amqp', rabbitmq), ('redis', redis)):
                    given = facts(scheme, server, holes, 'matrix', certificates, seconds)
                    shares = best_of(cell, given)
                    low = min(low, *shares.values())
                    print(line(cell, scheme, shares), flush=True)
    print(f'lowest: {low:.1%}')
    return low >= SHARE


if __name__ == '__main__':
    sys.exit(not main(*map(float, sys.argv[1:2])))
