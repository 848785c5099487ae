"""Exchanges route, queues count, and what isn't there is said."""

from __future__ import annotations

import re

import pytest

from greenmq import Exchange, Queue
from greenmq.cli.commands import run
from greenmq.exceptions import ChannelError, NotFound, PreconditionFailed, Unroutable
from tests.contract.conftest import text
from tests.support import green


@pytest.fixture
def here(channel, bench):
    return bench(channel)


@pytest.fixture
def exchange(channel, name):
    """Declare an exchange of some type, bind queues to it; all deleted at the end."""
    made = []

    def exchange(kind, **queues):
        exchange = f'{name}-{kind}'
        channel.exchange_declare(exchange=exchange, type=kind, durable=False, auto_delete=False)
        made.append(exchange)
        for queue, keys in queues.items():
            channel.queue_declare(queue=f'{name}-{queue}', durable=False, auto_delete=False)
            for key in keys:
                channel.queue_bind(queue=f'{name}-{queue}', exchange=exchange, routing_key=key)
        return exchange

    yield exchange
    for queue in 'abc':
        channel.queue_delete(queue=f'{name}-{queue}')
    for each in made:
        channel.exchange_delete(exchange=each)


def test_direct_routes_by_key(here, exchange, name):
    direct = exchange('direct', a=['red', 'green'], b=['green'])
    for key in ('red', 'green', 'blue'):
        here.publish(key, direct, key)
    assert here.get_all(f'{name}-a') == ['red', 'green']
    assert here.get_all(f'{name}-b') == ['green']


def test_topic_routes_by_word(here, exchange, name):
    topic = exchange('topic', a=['sport.#'], b=['*.news', 'sport.*'])
    for key in ('sport', 'sport.chess', 'sport.chess.news', 'world.news', 'world'):
        here.publish(key, topic, key)
    assert here.get_all(f'{name}-a') == ['sport', 'sport.chess', 'sport.chess.news']
    assert here.get_all(f'{name}-b') == ['sport.chess', 'world.news']


def test_a_queue_gets_a_message_once_however_many_bindings_match(here, exchange, name):
    topic = exchange('topic', a=['#', 'x.*', '*.y'])
    here.publish('one', topic, 'x.y')
    assert here.get_all(f'{name}-a') == ['one']


@pytest.mark.core
def test_fanout_reaches_every_queue(here, exchange, name):
    fanout = exchange('fanout', a=[''], b=['whatever'])
    here.publish('all', fanout, 'any')
    assert here.get_all(f'{name}-a') == here.get_all(f'{name}-b') == ['all']


def test_headers_route_by_header(connection, here, channel, exchange, name):
    if not connection.supports_exchange_type('headers'):
        pytest.skip('this broker has no headers exchange')
    headers = exchange('headers', a=[], b=[])
    channel.queue_bind(f'{name}-a', headers, '', arguments={'x-match': 'all', 'kind': 'pdf', 'page': 1})
    channel.queue_bind(f'{name}-b', headers, '', arguments={'x-match': 'any', 'kind': 'pdf', 'page': 2})
    here.publish('both', headers, headers={'kind': 'pdf', 'page': 1})
    here.publish('any', headers, headers={'page': 2})
    here.publish('none', headers, headers={'kind': 'txt'})
    assert here.get_all(f'{name}-a') == ['both']
    assert here.get_all(f'{name}-b') == ['both', 'any']


def test_requeue_returns_to_the_one_queue(here, exchange, name):
    fanout = exchange('fanout', a=[''], b=[''])
    here.publish('x', fanout)
    message = here.get(f'{name}-a')
    message.requeue()
    assert here.get_all(f'{name}-a') == ['x']
    assert here.get_all(f'{name}-b') == ['x']


def test_both_copies_are_settled_apart(here, exchange, name):
    fanout = exchange('fanout', a=[''], b=[''])
    here.publish('x', fanout)
    one, two = here.get(f'{name}-a'), here.get(f'{name}-b')
    assert one.delivery_tag != two.delivery_tag
    one.ack()
    two.requeue()
    assert here.get_all(f'{name}-a') == []
    assert here.get_all(f'{name}-b') == ['x']


def test_unbound_gets_nothing_more(here, channel, exchange, name):
    direct = exchange('direct', a=['k'])
    channel.queue_unbind(queue=f'{name}-a', exchange=direct, routing_key='k')
    here.publish('x', direct, 'k')
    assert here.get_all(f'{name}-a') == []


def test_mandatory_and_no_queue_raises(here, exchange):
    direct = exchange('direct', a=['k'])
    here.publish('fine', direct, 'k', mandatory=True)
    with pytest.raises(Unroutable, match='NO_ROUTE') as caught:
        here.publish('lost', direct, 'other', mandatory=True)
    assert (caught.value.exchange, caught.value.routing_key) == (direct, 'other')


def test_mandatory_to_a_missing_queue_raises(here, name):
    with pytest.raises(Unroutable):
        here.publish('lost', '', name, mandatory=True)


@pytest.mark.core
def test_declaring_counts(here, queue):
    here.put(queue, 1)
    here.put(queue, 2)
    declared = here.channel.queue_declare(queue=queue, passive=True)
    assert (declared.queue, declared.message_count, declared.consumer_count) == (queue, 2, 0)
    here.consume(queue, lambda message: None)
    assert here.channel.queue_declare(queue=queue, passive=True).consumer_count == 1


def test_a_queue_without_a_name_gets_one(channel):
    declared = channel.queue_declare(queue='', exclusive=True)
    assert declared.queue.startswith('amq.gen')
    channel.queue_delete(queue=declared.queue)


def test_passive_declaration_of_what_is_not_there(connection, name):
    with pytest.raises(NotFound, match=name) as caught:
        connection.channel().queue_declare(queue=name, passive=True)
    assert caught.value.code == 404 and isinstance(caught.value, ChannelError)
    with pytest.raises(NotFound, match=name):
        connection.channel().exchange_declare(exchange=name, type='direct', passive=True)


def test_another_declaration_of_an_exchange_is_refused(connection, exchange):
    direct = exchange('direct')
    with pytest.raises(ChannelError) as caught:
        connection.channel().exchange_declare(exchange=direct, type='topic', durable=False, auto_delete=False)
    assert caught.value.code == 406


def test_purge_counts_and_empties(here, queue):
    for n in range(3):
        here.put(queue, n)
    assert here.channel.queue_purge(queue=queue) == 3
    assert here.get(queue) is None


def test_purge_leaves_what_is_unsettled(here, queue):
    here.put(queue, 'mine')
    message = here.get(queue)
    here.put(queue, 'other')
    assert here.channel.queue_purge(queue=queue) == 1
    message.requeue()
    assert here.get_all(queue) == ['mine']


def test_deleting_a_queue_ends_its_bindings(here, channel, exchange, name):
    direct = exchange('direct', a=['k'])
    channel.queue_delete(queue=f'{name}-a')
    channel.queue_declare(queue=f'{name}-a', durable=False, auto_delete=False)
    here.publish('x', direct, 'k')
    assert here.get_all(f'{name}-a') == []


def test_delete_counts(here, connection, queue):
    here.put(queue, 1)
    assert here.channel.queue_delete(queue=queue) == 1
    with pytest.raises(NotFound):
        connection.channel().queue_declare(queue=queue, passive=True)


def test_dead_letters(here, channel, exchange, name):
    dead = exchange('direct', a=['dead'])
    channel.queue_declare(
        queue=f'{name}-b',
        durable=False,
        auto_delete=False,
        arguments={'x-dead-letter-exchange': dead, 'x-dead-letter-routing-key': 'dead'},
    )
    assert channel.has_dead_letter(f'{name}-b') and not channel.has_dead_letter(f'{name}-a')
    here.publish('x', '', f'{name}-b', headers={'mine': 1})
    here.get(f'{name}-b').reject()
    message = here.wait_get(f'{name}-a')
    assert text(message) == 'x' and message.headers['mine'] == 1
    assert message.headers['x-first-death-reason'] == 'rejected'
    assert message.headers['x-first-death-queue'] == f'{name}-b'
    message.ack()


class Declared:
    """Counts how often a new queue is declared, and may hold the first that does it."""

    def __init__(self, monkeypatch, channel, name):
        self.times = 0
        self.before = None
        self.queue = Queue(name, Exchange(f'{name}-e', durable=False), 'k', durable=False)
        self.producer = channel.connection.client.Producer()
        declare = Queue.declare

        def counted(queue, *args, **kwargs):
            self.times += 1
            if self.before is not None:
                self.before()
            return declare(queue, *args, **kwargs)

        monkeypatch.setattr(Queue, 'declare', counted)

    def publish(self, body):
        exchange, declare = self.queue.exchange, [self.queue]
        self.producer.publish(body, 'k', exchange=exchange, declare=declare, mandatory=True, timeout=20)

    def delete(self):
        self.queue(self.producer.channel).delete()
        self.queue.exchange(self.producer.channel).delete()


@pytest.fixture
def declared(monkeypatch, channel, name):
    declared = Declared(monkeypatch, channel, f'{name}-new')
    yield declared
    declared.delete()


def test_greenlets_that_publish_to_a_new_queue_at_once_declare_it_once(declared, channel):
    tasks = [green.spawn(declared.publish, str(n)) for n in range(300)]
    green.joinall(tasks, raise_error=True)
    assert declared.times == 1
    assert channel.queue_declare(declared.queue.name, passive=True).message_count == 300


def test_the_one_that_declares_is_killed_and_another_does_it(declared, channel):
    def hold():
        if declared.times == 1:
            green.sleep(60)

    declared.before = hold
    tasks = [green.spawn(declared.publish, str(n)) for n in range(10)]
    while not declared.times:
        green.sleep(0.001)
    tasks[0].kill()
    green.joinall(tasks[1:], raise_error=True)
    assert declared.times == 2
    assert channel.queue_declare(declared.queue.name, passive=True).message_count == 9


def test_a_declaration_that_is_refused_is_refused_to_all(declared):
    def refuse():
        green.sleep(0.01)
        raise PreconditionFailed('PRECONDITION_FAILED - made otherwise')

    def publish():
        with pytest.raises(PreconditionFailed):
            declared.publish('x')
        refused.append(1)

    declared.before, refused = refuse, []
    green.joinall([green.spawn(publish) for _ in range(10)], raise_error=True)
    assert len(refused) == 10 and declared.times == 1


def test_greenmq_queues_shows_what_waits(here, broker_url, queue, capfd):
    for number in range(3):
        here.publish(number, '', queue)
    assert run(['queues', '--broker', broker_url, queue]) == 0
    line = capfd.readouterr().out.strip()
    assert line.split()[:3] == [queue, '3', 'messages']
    # Without names all of them, where the broker lists them
    code = run(['queues', '--broker', broker_url])
    out, told = capfd.readouterr()
    if code:
        assert 'does not list its queues: name them' in told
    else:
        # By their names at the service, which may have other punctuation.
        found = [(re.sub(r'\W|_', '-', words[0]), *words[1:3]) for words in map(str.split, out.splitlines())]
        assert (queue, '3', 'messages') in found, out
