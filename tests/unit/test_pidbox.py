import pytest

from greenmq.common import maybe_declare
from greenmq.connection import Connection
from greenmq.entity import Exchange, Queue
from greenmq.exceptions import InvalidArgument, TimeoutError
from greenmq.pidbox import Mailbox
from tests.support import green


@pytest.fixture
def connection():
    with Connection('memory://') as connection:
        yield connection


class Worker:
    """A node that takes commands in a greenlet of its own, on a connection of its own."""

    def __init__(self, hostname, kind='fanout'):
        self.connection = Connection('memory://')
        self.node = Mailbox('test', type=kind)(self.connection).Node(hostname, state={'name': hostname})
        self.node.channel = self.connection.channel()
        self.seen = []
        self.node.handler(self.echo)
        self.node.handlers['fail'] = self.fail
        self.consumer = self.node.listen()
        self.task = green.spawn(self.run)

    def echo(self, state, **kwargs):
        self.seen.append(kwargs)
        return {'from': state['name'], **kwargs}

    def fail(self, state):
        raise ValueError('no')

    def run(self):
        while True:
            self.connection.drain_events()

    def stop(self):
        self.task.kill()
        self.consumer.cancel()
        self.connection.close()


@pytest.fixture
def workers():
    workers = [Worker('one'), Worker('two')]
    yield workers
    for worker in workers:
        worker.stop()


@pytest.fixture
def mailbox(connection):
    return Mailbox('test', type='fanout')(connection)


def test_all_nodes_answer(workers, mailbox):
    told = []
    replies = mailbox.multi_call('echo', {'n': 1}, timeout=5, limit=2, callback=told.append)
    assert sorted(reply[name]['from'] for reply in replies for name in reply) == ['one', 'two']
    assert told == replies


def test_some_nodes_answer(workers, mailbox):
    assert mailbox.call(['two'], 'echo', {'n': 1}, timeout=5) == [{'two': {'from': 'two', 'n': 1}}]
    (reply,) = mailbox._broadcast('echo', reply=True, pattern='o*', matcher='glob', limit=1, timeout=5)
    assert list(reply) == ['one']
    for wrong in ({'pattern': 1, 'matcher': 'glob'}, {'pattern': 'o*', 'matcher': 2}):
        with pytest.raises(ValueError, match='is no string'):
            mailbox._broadcast('echo', **wrong)


def test_an_error_is_a_reply(workers, mailbox):
    for command, error in (('fail', "ValueError('no')"), ('unknown', "KeyError('unknown')")):
        assert mailbox.call(['one'], command, timeout=5) == [{'one': {'error': error}}]


def test_without_a_reply(workers, mailbox):
    assert mailbox.cast(['one'], 'echo', {'n': 1}) is None
    assert mailbox.abcast('echo', {'n': 2}) is None
    mailbox.call(['one', 'two'], 'echo', {'n': 3}, timeout=5)  # behind the others, in order
    assert workers[0].seen == [{'n': 1}, {'n': 2}, {'n': 3}]
    assert workers[1].seen == [{'n': 2}, {'n': 3}]


def test_nobody_answers(workers, mailbox):
    assert mailbox.call(['nobody'], 'echo', timeout=0.05) == []
    assert mailbox.multi_call('echo', timeout=0.05, limit=5) != []


def test_greenlets_share_a_mailbox_and_get_their_own_replies(workers, mailbox):
    callers = [green.spawn(mailbox.call, ['one', 'two'], 'echo', {'n': n}, timeout=5) for n in range(10)]
    green.joinall(callers, raise_error=True)
    for n, caller in enumerate(callers):
        assert sorted(reply[name]['n'] for reply in caller.value for name in reply) == [n, n]


def test_a_reply_to_another_ticket_is_kept_for_who_asks(mailbox, connection):
    maybe_declare(mailbox.reply_queue(connection.default_channel))
    mailbox._publish_reply({'h': 1}, mailbox.reply_exchange.name, mailbox.oid, 'other')
    assert mailbox._collect('mine', timeout=0.05) == []
    assert list(mailbox._collect('other', timeout=0.05)) == [{'h': 1}]
    assert not mailbox.unclaimed


def test_names(mailbox):
    assert mailbox.exchange.name == 'test.pidbox'
    assert mailbox.reply_exchange.name == 'reply.test.pidbox'
    assert mailbox.get_queue('host').name == 'host.test.pidbox'
    assert mailbox.reply_queue.name == f'{mailbox.oid}.reply.test.pidbox'
    assert mailbox.reply_queue is mailbox.reply_queue
    assert green.spawn(lambda: mailbox.oid).get() != mailbox.oid


def test_options_reach_the_queues():
    mailbox = Mailbox(
        'x', queue_ttl=3, queue_expires=4, queue_durable=True, queue_exclusive=False, reply_queue_ttl=5
    )
    queue = mailbox.get_queue('h')
    assert (queue.message_ttl, queue.expires, queue.durable, queue.exclusive) == (3.0, 4.0, True, False)
    assert mailbox.get_reply_queue().message_ttl == 5.0
    with pytest.raises(InvalidArgument, match='queue_exclusive'):
        Mailbox('x', queue_durable=True, queue_exclusive=True)


def test_a_destination_is_a_list(mailbox):
    with pytest.raises(ValueError, match='destination must be a list/tuple'):
        mailbox.call('one', 'echo')


def test_calling_a_mailbox_binds_a_copy(connection):
    mailbox = Mailbox('x')
    assert mailbox(connection).connection is connection
    assert mailbox.connection is None


class Pool:
    def acquire(self):
        return self

    def __enter__(self):
        return 'of the pool'

    def __exit__(self, *exc_info):
        return None


def test_producers_come_from_the_pool_if_there_is_one(connection):
    with Mailbox('x', producer_pool=Pool()).producer_or_acquire() as producer:
        assert producer == 'of the pool'
    with Mailbox('x').producer_or_acquire('given') as producer:
        assert producer == 'given'
    with Mailbox('x').producer_or_acquire(channel=connection.channel()) as producer:
        assert producer.auto_declare is False


def test_an_undecodable_command_is_logged_and_stops_nothing(caplog):
    worker = Worker('one')
    try:
        worker.connection.Producer().publish(
            b'{', exchange='test.pidbox', content_type='application/json', content_encoding='utf-8'
        )
        with Connection('memory://') as connection:
            assert Mailbox('test', type='fanout')(connection).call(['one'], 'echo', timeout=5)
    finally:
        worker.stop()
    assert 'Cannot decode message' in caplog.text


def test_two_nodes_of_one_name_are_warned_about(connection):
    mailbox = Mailbox('test', type='fanout')(connection)
    first = mailbox.Node('same', channel=connection.channel()).listen()
    with pytest.warns(UserWarning, match='A node named same'):
        mailbox.Node('same', channel=connection.channel()).listen().cancel()
    first.cancel()


def test_the_clock_moves_with_what_arrives(connection):
    node = Mailbox('x')(connection).Node('n', handlers={'f': lambda state: 'result'})

    class Message:
        headers = {'clock': 41}

    assert node.handle_message({'method': 'f'}, Message()) == 'result'
    assert node.mailbox.clock.value == 42
    assert node.handle_message({'method': 'f', 'destination': ['other']}, Message()) is None
    # a text is one name, and not what contains ours
    assert node.handle_message({'method': 'f', 'destination': 'n'}, Message()) == 'result'
    assert node.handle_message({'method': 'f', 'destination': 'another'}, Message()) is None
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0)


def test_both_queues_follow_the_mailbox():
    for durable, exclusive in ((False, True), (True, False), (False, False)):
        mailbox = Mailbox('m', queue_durable=durable, queue_exclusive=exclusive)
        for queue in (mailbox.get_queue('n'), mailbox.get_reply_queue()):
            assert (queue.durable, queue.exclusive, queue.auto_delete) == (durable, exclusive, not durable)


# ---- what strangers may send

COMMAND = {'method': 'echo', 'arguments': {'n': 1}}
REPLY = {'exchange': 'reply.test.pidbox', 'routing_key': 'k'}
NO_COMMANDS = [
    5, [], 'x', None, True, {}, {'method': 5}, {'arguments': {}},
    *({**COMMAND, name: wrong}
      for name in ('arguments', 'destination', 'pattern', 'matcher', 'reply_to', 'ticket')
      for wrong in (5, 'x', [1], {'a': [1]}, True, 1.5)
      if not (isinstance(wrong, str) and name in ('destination', 'pattern', 'matcher', 'ticket'))
      and not (isinstance(wrong, dict) and name == 'arguments')),
    {**COMMAND, 'pattern': '*', 'matcher': 'nobody has it'},
    {**COMMAND, 'pattern': '(', 'matcher': 'pcre'},
    {**COMMAND, 'pattern': '(a+)+$', 'matcher': 'pcre'},
    {**COMMAND, 'pattern': '*' * 600, 'matcher': 'glob'},
    {**COMMAND, 'reply_to': {**REPLY, 'exchange': 'orders'}},
    {**COMMAND, 'reply_to': {**REPLY, 'routing_key': 'k' * 300}},
]  # fmt: skip


@pytest.mark.parametrize('no_ack', [True, False])
def test_what_is_no_command_is_logged_settled_and_ends_nothing(connection, caplog, no_ack):
    worker = Worker('node')
    if not no_ack:
        worker.consumer.cancel()
        worker.consumer = worker.node.Consumer(no_ack=False, callbacks=[worker.node.handle_message])
        worker.consumer.consume()
    try:
        publish = connection.Producer().publish
        for command in NO_COMMANDS:
            publish(command, exchange='test.pidbox', routing_key='', serializer='json')
        publish({**COMMAND, 'self': 1, 'more': 2}, exchange='test.pidbox', routing_key='', serializer='json')
        with green.Timeout(10):
            while not worker.seen:
                green.sleep(0.005)
        assert worker.seen == [{'n': 1}] and worker.task
        told = [record for record in caplog.records if record.getMessage().startswith('pidbox command error')]
        assert len(told) == len(NO_COMMANDS)
        if not no_ack:
            assert worker.consumer.channel.qos._delivered.keys() - {None} and len(
                worker.consumer.channel.qos._delivered) == 1  # the good one, which its callback settles
    finally:
        worker.stop()


def test_clocks_that_are_none_move_nothing(workers, mailbox, connection):
    for clock in ('x', [], {}, True, -5, 1e300):
        headers = {'clock': clock}
        connection.Producer().publish(COMMAND, exchange='test.pidbox', routing_key='', headers=headers)
    assert len(mailbox.multi_call('echo', {'n': 2}, limit=2, timeout=5)) == 2
    assert mailbox.clock.value < 1000


def test_a_command_that_names_no_matcher_is_answered_by_an_error(workers, mailbox):
    replies = mailbox._broadcast('echo', reply=True, pattern='*', matcher='nobody has it', limit=2, timeout=5)
    assert len(replies) == 2
    assert all('MatcherNotInstalled' in reply['error'] for each in replies for reply in each.values())


def test_a_reply_goes_where_it_is_allowed_only(connection):
    worker = Worker('node')
    try:
        got = []
        Exchange('reply.fan.pidbox', 'fanout')(connection.channel()).declare()
        queue = Queue('answers', Exchange('elsewhere', 'direct', durable=False, delivery_mode=1), 'k')
        with connection.Consumer([queue], callbacks=[lambda body, message: got.append(body)], no_ack=True):
            publish = connection.Producer().publish
            for exchange in ('elsewhere', 'reply.fan.pidbox'):
                place = {'exchange': exchange, 'routing_key': 'k'}
                publish({**COMMAND, 'reply_to': place}, exchange='test.pidbox', routing_key='')
            publish({**COMMAND, 'arguments': {'n': 3}}, exchange='test.pidbox', routing_key='')
            with green.Timeout(10):
                while {'n': 3} not in worker.seen:
                    green.sleep(0.005)
            assert not got and worker.task
            worker.node.mailbox.reply_exchanges = ('elsewhere',)
            place = {'exchange': 'elsewhere', 'routing_key': 'k'}
            publish({**COMMAND, 'reply_to': place}, exchange='test.pidbox', routing_key='')
            connection.drain_events(timeout=10)
        assert got == [{'node': {'from': 'node', 'n': 1}}]
    finally:
        worker.stop()


def test_replies_of_strangers_end_no_collecting(workers, mailbox, connection):
    publish = connection.Producer().publish
    mailbox.reply_queue(connection.channel()).declare()
    for headers in ({'ticket': []}, {'ticket': {'a': 1}}, {'clock': 'x'}, {'expires': 'soon'}):
        headers = {'ticket': 'other', **headers}
        publish('x', exchange='reply.test.pidbox', routing_key=mailbox.oid, headers=headers)
        publish(1, exchange='reply.test.pidbox', routing_key=mailbox.oid, headers=headers, serializer='json')
    assert len(mailbox.multi_call('echo', {'n': 2}, limit=2, timeout=5)) == 2
