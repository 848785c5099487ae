"""The command `greenmq`, and Celery's gevent worker in kombu's place, on Service Bus."""

import json
import os
import sys

import pytest

from tests.alias.child import environ, need_the_pth
from tests.alias.test_celery import EXAMPLE, Worker, shipped
from tests.servicebus.test_queues import depth
from tests.support.cloud import declared, publish
from tests.support.process import end, run, wait_until

pytestmark = [pytest.mark.own_process, pytest.mark.slow, pytest.mark.faults]

ORDERS = 100

SEND = f"""
from tasks import ship
for number in range({ORDERS}):
    ship.delay(number)
"""


def greenmq(command, bus, *arguments):
    return run([sys.executable, '-m', 'greenmq.cli', command, '--broker', bus.url(), *arguments], 90)


def test_its_commands(bus, connect, name, tmp_path):
    connection = connect(bus.url())
    declared(connection, name)
    publish(connection, name, [1, 2])
    assert 'round trip' in greenmq('ping', bus)
    assert any(line.split()[:2] == [name, '2'] for line in greenmq('queues', bus).splitlines())
    assert 'ok   broker' in greenmq('doctor', bus)
    for number in range(2):
        (tmp_path / f'{number}.txt').write_text(''.join(f'line {line} says hello\n' for line in range(300)))
    assert 'equal to a direct count' in greenmq('demo', bus, str(tmp_path))


@pytest.mark.green_timeout(200)
def test_a_worker_of_celery_is_killed_and_nothing_is_lost(bus, tmp_path):
    need_the_pth()
    options = {'peek_lock_seconds': 5, 'max_delivery_count': 100}
    env = environ(
        BROKER_URL=bus.url(), BROKER_OPTIONS=json.dumps(options), RESULT_BACKEND=f'file://{tmp_path}',
        NOTES=str(tmp_path / 'notes'), PYTHONPATH=os.pathsep.join([str(EXAMPLE), os.getcwd()]),
    )
    run([sys.executable, '-c', SEND], 90, env=env, cwd=tmp_path)
    queue = next(name for name, found in bus.ask('snapshot').items() if found['active'] == ORDERS)
    worker = Worker(tmp_path, 'gevent', env)
    try:
        wait_until(lambda: shipped(tmp_path), 60, 'the first order')
        end(worker.process)
        before = len(shipped(tmp_path))
        assert before < ORDERS, 'it was to be killed in the middle'
        worker = Worker(tmp_path, 'gevent', env)
        worker.wait_ready()
        wait_until(lambda: set(shipped(tmp_path)) == set(range(ORDERS)), 60, f'all orders ({before} before)')
        assert worker.terminate() == 0
        wait_until(lambda: depth(bus, queue) == (0, 0), 20, 'all to be settled')
    finally:
        end(worker.process)
    assert len(shipped(tmp_path)) <= ORDERS + 20, 'what was in work when it was killed runs twice'
