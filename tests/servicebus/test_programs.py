"""The command `greenmq`, and Celery's gevent worker in kombu's place, on Service Bus."""

import sys

import pytest

from tests.alias.celery_app import environment, killed_in_the_middle, order, shipped
from tests.alias.child import need_the_pth
from tests.servicebus.test_queues import depth
from tests.support.cloud import declared, publish
from tests.support.process import run, wait_until

pytestmark = [pytest.mark.own_process, pytest.mark.slow, pytest.mark.faults]

ORDERS = 100

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
    env = environment(tmp_path, bus.url(), options=options)
    order(tmp_path, env, ORDERS)
    queue = next(name for name, found in bus.ask('snapshot').items() if found['active'] == ORDERS)
    with killed_in_the_middle(tmp_path, env, ORDERS):
        pass
    wait_until(lambda: depth(bus, queue) == (0, 0), 20, 'all to be settled')
    assert len(shipped(tmp_path)) <= ORDERS + 20, 'what was in work when it was killed runs twice'
