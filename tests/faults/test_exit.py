"""A process that ends without `close()`: what it acknowledged is settled, what it did not is back at once."""
from __future__ import annotations

import os
import sys
import time

import pytest

from greenmq import Connection, Queue, runtime
from tests.faults.conftest import SOON
from tests.support import green
from tests.support.process import run

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.own_process, pytest.mark.green_timeout(60)]

PATCHES = {
    'unpatched': '',
    'gevent': 'from gevent import monkey; monkey.patch_all()',
    'eventlet': 'import eventlet; eventlet.monkey_patch()',
}

#: Takes four of five messages: acknowledges the first, has seen two more, and one waits for its callback.
PROGRAM = """
{patch}
import os, signal, sys, threading, time, warnings
warnings.simplefilter('ignore')
from greenmq import Connection, Queue

seen = []
def handle(body, message):
    seen.append(message)
    if body == 0:
        message.ack()

def take():
    global connection, consumer
    connection = Connection(sys.argv[1])
    consumer = connection.Consumer([Queue('exit', routing_key='exit', durable=True)], callbacks=[handle])
    consumer.qos(prefetch_count=4)
    consumer.consume()
    while len(seen) < 3:
        connection.drain_events(timeout=10)

def interrupt():
    # Ctrl-C while it waits for the next one; the rest of the prefetch has come by then.
    os.system(f'(sleep 0.5; kill -INT {{os.getpid()}}) &')
    try:
        while True:
            connection.drain_events(timeout=10)
    except KeyboardInterrupt:
        sys.exit(0)

def in_child(work):
    pid = os.fork()
    if not pid:
        work()
        sys.exit(0)
    os.waitpid(pid, 0)

{ending}
"""

ENDINGS = {
    'end of main': 'take()',
    'sys.exit': 'take(); sys.exit(0)',
    'Ctrl-C': 'take(); interrupt()',
    'child that connected': 'in_child(take)',
    'child of multiprocessing': "import multiprocessing as m; p = m.get_context('fork').Process(target=take);"
                                ' p.start(); p.join()',
    'thread that still runs': "threading.Thread(target=lambda: (take(), connection.ensure_connection(), "
                              "[connection.drain_events() for _ in range(9)]), daemon=True).start()\n"
                              "while len(seen) < 3: time.sleep(0.02)",
}

CASES = [
    ('unpatched', 'end of main'), ('unpatched', 'Ctrl-C'), ('unpatched', 'child that connected'),
    ('unpatched', 'child of multiprocessing'), ('unpatched', 'thread that still runs'),
    ('gevent', 'sys.exit'), ('gevent', 'Ctrl-C'), ('eventlet', 'end of main'), ('eventlet', 'Ctrl-C'),
]  # fmt: skip


@pytest.fixture(params=['amqp_url', 'redis_url'])
def url(request):
    return request.getfixturevalue(request.param)


def fill(url):
    with Connection(url) as connection:
        queue = Queue('exit', routing_key='exit')(connection)
        queue.declare()
        for number in range(5):
            connection.Producer().publish(number, routing_key='exit')


def rest(url, count):
    """What is in the queue now, or comes back soon: a lease of Redis would take a minute."""
    found = []
    with Connection(url) as connection:
        queue = Queue('exit', routing_key='exit')(connection)
        deadline = runtime.Deadline.after(SOON)
        while len(found) < count and not deadline.expired():
            message = queue.get(no_ack=True)
            if message is None:
                green.sleep(0.05)
            else:
                found.append(message.payload)
        assert queue.get() is None
        queue.delete()
    return found


def end_program(url, patch, ending, **options):
    source = PROGRAM.format(patch=PATCHES[patch], ending=ENDINGS.get(ending, ending))
    # Unpatched means what is the default there, whatever the suite runs on.
    environment = {name: value for name, value in os.environ.items() if name != 'GREENMQ_RUNTIME'}
    return run([sys.executable, '-c', source, url], env=environment, **options)


@pytest.mark.parametrize(('patch', 'ending'), CASES, ids=lambda value: value.replace(' ', '-'))
def test_acks_leave_and_the_rest_is_back(url, patch, ending):
    fill(url)
    end_program(url, patch, ending)
    assert rest(url, 4) == [1, 2, 3, 4]


def test_a_forked_child_leaves_its_parents_deliveries_alone(url):
    # Given a parent that holds three messages while its child ends as scripts do
    fill(url)
    printed = end_program(url, 'unpatched', """
take()
in_child(lambda: None)
with Connection(sys.argv[1]) as other:
    print('back:', other.default_channel.queue_declare('exit', passive=True).message_count)
""")
    assert printed in ('back: 0\n', 'back: 1\n')  # the fifth may have been on its way or not
    assert rest(url, 4) == [1, 2, 3, 4]


def test_a_broker_that_does_not_answer_holds_the_exit_no_longer_than_close_timeout(rabbitmq, amqp_url):
    fill(amqp_url)
    began = time.monotonic()
    program = f"""
take()
os.kill({rabbitmq.process.pid}, signal.SIGSTOP)
"""
    try:
        printed = end_program(f'{amqp_url}?close_timeout=1', 'unpatched', program, seconds=20)
    finally:
        rabbitmq.resume()
    assert time.monotonic() - began < 15, printed
    assert rest(amqp_url, 4) == [1, 2, 3, 4]


#: Two transports of a program's own. `Files`: what is taken is in the process only, as with kombu's
#: filesystem. `Leased`: the broker keeps it, and learns of what was settled.
OWN = """
import json, pathlib, sys
from greenmq import Connection
from greenmq.transport import virtual

where = pathlib.Path(sys.argv[1])

class Files(virtual.Channel):
    def _put(self, queue, message, **kwargs):
        (where / f'{{len(list(where.iterdir()))}}.json').write_text(json.dumps(message))
    def _get(self, queue, timeout=None):
        for path in sorted(where.glob('*.json')):
            text = path.read_text()
            path.unlink()
            return json.loads(text)
        raise virtual.Empty()
    def _size(self, queue):
        return len(list(where.glob('*.json')))

class Leased(Files):
    def _settle(self, acks, rejects):
        with (where / 'settled').open('a') as log:
            print(len(acks), [requeue for tag, requeue in rejects], file=log)

class Transport(virtual.Transport):
    Channel = {channel}

connection = Connection(transport=Transport)
simple = connection.SimpleQueue('q')
for number in range(3):
    simple.put(number)
first, second = simple.get(), simple.get()
first.ack()
"""


@pytest.mark.parametrize(('channel', 'files', 'settled'), [
    ('Files', 2, None),  # the second, and the third, which was fetched ahead
    ('Leased', 0, '1'),
])
def test_a_transport_of_ones_own_loses_nothing(tmp_path, channel, files, settled):
    run([sys.executable, '-W', 'ignore', '-c', OWN.format(channel=channel), str(tmp_path)])
    assert len(list(tmp_path.glob('*.json'))) == files
    if settled is not None:
        lines = (tmp_path / 'settled').read_text().splitlines()
        assert sum(int(line.split()[0]) for line in lines) == 1
        assert sum(line.count('True') for line in lines) == 2
