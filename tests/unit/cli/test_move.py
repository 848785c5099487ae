"""`greenmq move`: nothing is lost, and what died goes back to where it died."""
from __future__ import annotations

import sys

import pytest

from greenmq import Connection, Queue
from greenmq.cli.commands import run
from greenmq.transport import memory

MEMORY = 'memory://localhost/move'


@pytest.fixture(params=['memory', 'file'])
def broker(request, tmp_path):
    memory.reset()
    yield MEMORY if request.param == 'memory' else f'file://{tmp_path}/broker'
    memory.reset()


@pytest.fixture
def says(capfd, monkeypatch):
    def say(*arguments):
        code = run(arguments)
        output, errors = capfd.readouterr()
        return code, output.strip(), errors.strip()

    monkeypatch.setattr(sys, 'stdin', None)
    return say


def fill(broker, queue, *bodies, arguments=None, **options):
    with Connection(broker) as connection:
        bound = Queue(queue, routing_key=queue, queue_arguments=arguments)
        for body in bodies:
            connection.Producer().publish(body, routing_key=queue, declare=[bound], **options)


def declare(broker, *names):
    with Connection(broker) as connection:
        for name in names:
            Queue(name, routing_key=name)(connection.default_channel).declare()


def contents(broker, queue):
    with Connection(broker) as connection:
        found, bound = [], Queue(queue)(connection.default_channel)
        accept = ['json', 'text/plain', 'application/data']
        while (message := bound.get(no_ack=True, accept=accept)) is not None:
            found.append(message)
        return found


def test_from_one_queue_to_another(broker, says):
    fill(broker, 'a', {'n': 1}, 'text', headers={'h': 'x'}, correlation_id='c', compression='gzip')
    fill(broker, 'a', b'\xff\x00')
    declare(broker, 'b')
    code, _, errors = says('move', 'a', 'b', '--broker', broker)
    assert (code, errors) == (0, '3 moved')
    found = contents(broker, 'b')
    assert [message.payload for message in found] == [{'n': 1}, 'text', b'\xff\x00']
    assert found[0].headers == {'h': 'x'} and found[0].properties['correlation_id'] == 'c'
    assert contents(broker, 'a') == []


def test_no_more_than_asked_for(broker, says):
    fill(broker, 'a', 1, 2, 3)
    declare(broker, 'b')
    assert says('move', 'a', 'b', '--count', '2', '--broker', broker)[0] == 0
    assert [message.payload for message in contents(broker, 'b')] == [1, 2]
    assert [message.payload for message in contents(broker, 'a')] == [3]


def test_dead_letters_go_back_to_where_they_died(broker, says):
    dead = {'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'dead'}
    declare(broker, 'dead')
    for queue in ('one', 'two'):
        fill(broker, queue, queue, arguments=dead)
        with Connection(broker) as connection:
            bound = Queue(queue, routing_key=queue, queue_arguments=dead)(connection.default_channel)
            bound.declare()
            bound.get(accept=['text/plain']).reject()
    fill(broker, 'dead', 'a stranger')
    code, _, errors = says('move', 'dead', '--broker', broker)
    assert code == 1 and errors == '2 moved, 1 left: they do not say where they came from'
    for queue in ('one', 'two'):
        found = contents(broker, queue)
        assert [message.payload for message in found] == [queue]
        assert not any(name.startswith('x-') for name in found[0].headers)
    assert [message.payload for message in contents(broker, 'dead')] == ['a stranger']


def test_a_target_that_is_not_there_keeps_the_message(broker, says):
    fill(broker, 'a', 'x')
    code, _, errors = says('move', 'a', 'nowhere', '--broker', broker)
    assert code == 1 and 'NO_ROUTE' in errors
    assert [message.payload for message in contents(broker, 'a')] == ['x']


def test_a_source_that_is_not_there(broker, says):
    code, _, errors = says('move', 'nowhere', 'b', '--broker', broker)
    assert code == 1 and 'nowhere' in errors


def test_onto_itself(broker, says):
    assert says('move', 'a', 'a', '--broker', broker)[0] == 2
