"""What MongoDB, ZooKeeper and Pyro are asked alike: the commands, the demo; with AMQP 1.0: a ticker."""
from __future__ import annotations

import re

import pytest

from greenmq import Connection, Queue
from greenmq.cli.commands import run
from tests import patch_matrix
from tests.faults.test_demo import check, demo
from tests.stress import FACTOR
from tests.support import green, process

pytestmark = [pytest.mark.slow, pytest.mark.own_process]

#: Fixture of the URL → lines that the demo counts: few where each takes many calls. FerretDB reads all
#: documents for each command.
LINES = {'mongodb_url': 500, 'zookeeper_url': 1000, 'pyro_url': 1000}

EACH = [
    pytest.param('mongodb_url', marks=pytest.mark.mongodb),
    pytest.param('zookeeper_url', marks=pytest.mark.zookeeper), 'pyro_url',
]
each = pytest.mark.parametrize('fixture', EACH)


@each
def test_the_commands(request, fixture, capfd):
    url = request.getfixturevalue(fixture)
    with Connection(url) as connection:
        dead = {'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'dead'}
        bound = Queue('commands', routing_key='commands', queue_arguments=dead)(connection.default_channel)
        bound.declare()
        for n in range(2):
            connection.Producer().publish(n, routing_key='commands')
        held = bound.get()
        assert run(['queues', '--broker', url]) == 0
        listed = [line.split() for line in capfd.readouterr().out.splitlines()]
        line = next(line for line in listed if line[0] == 'commands')
        assert line[:5] == ['commands', '1', 'messages', '1', 'unacked'], line
        held.ack()
    assert run(['ping', '--broker', url, '--count', '2']) == 0
    assert 'connected in' in capfd.readouterr().out
    assert run(['doctor', '--broker', url]) == 0
    output = capfd.readouterr().out
    assert 'answers: ' in output.splitlines()[-1] and '\nbad' not in output


@each
@pytest.mark.green_timeout(180)
def test_the_demo_has_equal_totals(request, fixture, tmp_path):
    lines = LINES[fixture]
    for number in range(5):
        text = ''.join(f'line {line} of text {number} says hello\n' for line in range(lines // 5))
        (tmp_path / f'{number}.txt').write_text(text)
    check(process.run(demo(request.getfixturevalue(fixture), tmp_path), seconds=120), f'{lines:,}')


#: Orders of patching: two in every run, all in a soak.
ORDERS = [order for hub, order in patch_matrix.ORDERS
          if hub == 'gevent' and (FACTOR > 1 or order in ('before import', 'after the drivers'))]


@pytest.mark.parametrize('fixture', [
    *EACH,
    pytest.param('qpid_url', marks=pytest.mark.rabbitmq),
    pytest.param('artemis_url', marks=pytest.mark.amqp10),
    pytest.param('broker_j_url', marks=pytest.mark.amqp10),
    pytest.param('servicebus_url', marks=pytest.mark.servicebus),
])
@pytest.mark.green_timeout(180)
@pytest.mark.skipif(green.RUNTIME != 'gevent' or green.PATCHED, reason='run in the unpatched process')
def test_a_ticker_goes_on(request, fixture):
    url, actions = request.getfixturevalue(fixture), ['connect', 'publish', 'consume']
    given = {'url': url, 'seconds': 1.0, 'step': 0.05, 'actions': actions, 'ssl': None}
    with patch_matrix.Holes() as holes:
        if url.startswith(('qpid:', 'azureservicebus:')):
            actions += ['black hole', 'silence']
            given |= {'hole': elsewhere(url, holes.hole), 'silent': elsewhere(url, holes.silent)}
        shares = patch_matrix.best_of(('gevent', 'not patched'), given, tries=8)
    assert min(shares.values()) >= patch_matrix.SHARE, shares


def elsewhere(url, port):
    return re.sub(r'@127\.0\.0\.1:\d+', f'@127.0.0.1:{port}', url, count=1)


@pytest.mark.mongodb
@pytest.mark.green_timeout(180)
@pytest.mark.skipif(green.RUNTIME != 'gevent' or green.PATCHED, reason='run in the unpatched process')
@pytest.mark.parametrize('order', ORDERS)
def test_pymongo_in_a_patched_process(mongodb_url, order):
    """Its monitors are greenlets then, of a thread that is not the program's: no error, also at the end."""
    given = {'url': mongodb_url, 'seconds': 0.5, 'step': 0.05, 'actions': ['connect', 'publish', 'consume']}
    assert set(patch_matrix.run(('gevent', order), given)) == set(given['actions'])
