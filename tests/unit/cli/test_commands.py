"""What the commands print and return, without a process of their own."""

import json
import os
import sys

import pytest

import greenmq
from greenmq import Connection, Exchange, Queue, runtime
from greenmq.cli.commands import run
from greenmq.exceptions import OperationalError
from greenmq.transport import memory

BROKER = 'memory://localhost/command-line'
#: What is said of a broker that ends with its process.
GONE = ', and gone: memory:// is a broker within this process'


@pytest.fixture(autouse=True)
def empty_broker():
    memory.reset()
    yield
    memory.reset()


@pytest.fixture
def greenmq_says(capfd, monkeypatch):
    """Runs a command; gives its exit code, the lines of standard output, and standard error as one line."""
    def say(*arguments, stdin=b''):
        ours, its = os.pipe()
        os.write(its, stdin)
        os.close(its)
        with open(ours) as standard_input:
            monkeypatch.setattr(sys, 'stdin', standard_input)
            code = run(arguments)
        output, errors = capfd.readouterr()
        return code, output.splitlines(), errors.strip()
    return say


def contents(queue):
    """The messages of a queue, which is empty afterwards."""
    with Connection(BROKER) as connection, connection.channel() as channel:
        bound, found, accept = Queue(queue)(channel), [], ['json', 'text/plain', 'application/data']
        while (message := bound.get(no_ack=True, accept=accept)) is not None:
            found.append(message)
        return found


class TestAsking:

    @pytest.mark.parametrize('arguments', [(), ('--help',), ('-h',)])
    def test_help(self, greenmq_says, arguments):
        code, output, errors = greenmq_says(*arguments)
        assert (code, errors) == (0, '')
        assert {line.split()[0] for line in output if line.startswith('  ')} >= {'demo', 'publish', 'consume'}

    @pytest.mark.parametrize('command', ['demo', 'publish', 'consume'])
    def test_help_of_a_command(self, greenmq_says, command):
        code, output, _ = greenmq_says(command, '--help')
        assert code == 0
        assert 'GREENMQ_BROKER' in '\n'.join(output)

    def test_version(self, greenmq_says):
        code, output, _ = greenmq_says('--version')
        assert code == 0 and greenmq.__version__ in output[0]

    @pytest.mark.parametrize('arguments, words', [
        (['demmo'], 'demmo'),
        (['demo', '--wrong'], '--wrong'),
        (['demo', '/no/such/path'], "'/no/such/path' does not exist"),
        (['demo', '--producers', '0'], '--producers'),
        (['demo', '--broker', 'carrier-pigeon://'], 'No such transport: carrier-pigeon'),
        (['publish', '--queue', 'q'], '--broker'),
        (['publish', '--broker', BROKER, 'body'], '--queue, --exchange or --routing-key'),
        (['publish', '--broker', BROKER, '--queue', 'q', '--header', 'novalue', 'body'], "'novalue'"),
        (['publish', '--broker', BROKER, '--queue', 'q', '--priority', '256', 'body'], '--priority'),
        (['publish', '--broker', BROKER, '--queue', 'q', '--serializer', 'json', '{'], 'message 1 is not'),
        (['publish', '--broker', BROKER, '--queue', 'q', '--exchange-type', 'topic', 'x'], '--exchange-type'),
        (['publish', '--broker', BROKER, '--queue', 'q', '--routing-key', 'k' * 256, 'x'], '256'),
        (['consume', '--broker', BROKER], 'QUEUE'),
    ])
    def test_wrongly_is_answered_in_one_line(self, greenmq_says, arguments, words):
        code, output, errors = greenmq_says(*arguments)
        assert code == 2
        assert output == []
        last = errors.splitlines()[-1]
        assert words in last and last.startswith('greenmq')
        assert 'Traceback' not in errors

    @pytest.mark.parametrize('arguments', [
        ['demo'], ['publish', '--queue', 'q', 'body'], ['consume', 'q'],
    ])
    def test_a_broker_that_does_not_answer(self, greenmq_says, arguments, monkeypatch):
        def ensure_connection(connection, *args, **kwargs):
            raise OperationalError('[Errno 111] Connection refused')

        monkeypatch.setattr(Connection, 'ensure_connection', ensure_connection)
        code, output, errors = greenmq_says(arguments[0], '--broker', BROKER, *arguments[1:])
        assert (code, output) == (1, [])
        assert errors.splitlines()[-1] == (
            f'greenmq {arguments[0]}: {Connection(BROKER).as_uri()} cannot be reached: '
            '[Errno 111] Connection refused')

    def test_a_routing_key_alone_is_a_queue_that_is_there(self, greenmq_says):
        with Connection(BROKER) as connection:
            queue = Queue('has arguments', max_length=5)
            queue(connection).declare()
            arguments = ('publish', '--broker', BROKER, '--routing-key', 'has arguments', 'x')
            code, _, errors = greenmq_says(*arguments)
            assert code == 0 and errors.startswith('1 published')
            assert queue(connection).get(no_ack=True).payload == 'x'
        code, _, errors = greenmq_says('publish', '--broker', BROKER, '--routing-key', 'not there', 'x')
        assert code == 1 and 'no queue for' in errors

    def test_a_password_is_not_shown(self, greenmq_says, monkeypatch):
        def ensure_connection(connection, *args, **kwargs):
            raise OperationalError('refused')

        monkeypatch.setattr(Connection, 'ensure_connection', ensure_connection)
        _, _, errors = greenmq_says('consume', '--broker', 'memory://user:secret@host//', 'q')
        assert 'refused' in errors and 'secret' not in errors


class TestDemo:

    @pytest.fixture
    def texts(self, tmp_path):
        (tmp_path / 'a.txt').write_text('to be or not to be\n\nthat is the question\n' * 20)
        (tmp_path / 'b.txt').write_bytes(b'caf\xe9 or not\n')
        (tmp_path / 'c.bin').write_bytes(b'to be\0')
        return tmp_path

    @pytest.mark.parametrize('publishers, consumers', [(1, 1), (4, 4), (50, 3)])
    def test_counts_what_is_there(self, greenmq_says, texts, publishers, consumers):
        code, output, errors = greenmq_says('demo', str(texts), '--broker', BROKER, '--producers',
                                            str(publishers), '--consumers', str(consumers))
        assert (code, errors) == (0, '')
        facts = {line.split(maxsplit=1)[0]: line.split(maxsplit=1)[1] for line in output}
        assert facts['messages'] == '61, a line each, out of 2 files'
        assert facts['40'] == 'to' or facts['40'] == 'be'
        assert facts['21'] in ('or', 'not')
        assert facts['totals'] == 'equal to a direct count'
        assert 'p99' in facts['latency'] and 'messages/s' in facts['rate']

    def test_leaves_nothing_in_the_broker_and_no_pool(self, greenmq_says, texts):
        with Connection(BROKER) as connection:
            before = set(connection.default_channel.state.queue_index)
            greenmq_says('demo', str(texts), '--broker', BROKER)
            assert set(connection.default_channel.state.queue_index) == before

    def test_without_text_there_is_nothing_to_publish(self, greenmq_says, tmp_path):
        code, output, errors = greenmq_says('demo', str(tmp_path))
        assert (code, output) == (1, [])
        assert errors == f'greenmq demo: no text in {tmp_path}: nothing to publish'

    def test_totals_that_differ_are_a_failure(self, greenmq_says, texts, monkeypatch):
        # Given consumers that cannot count: they see no word "be"
        from greenmq.cli import demo
        monkeypatch.setattr(demo, 'words', lambda line: [word for word in line.split() if word != 'be'])
        # When the demo runs
        code, output, errors = greenmq_says('demo', str(texts / 'a.txt'), '--broker', BROKER)
        # Then it says so, and how much is missing
        assert code == 1
        assert 'totals    NOT equal to a direct count' in output
        assert errors == 'greenmq demo: 40 words missing, 0 too many'

    def test_a_daemon_that_breaks_ends_the_run(self, greenmq_says, texts, monkeypatch):
        from greenmq.cli import demo

        def on_line(daemon, body, message):
            raise OperationalError('no more lines today')

        monkeypatch.setattr(demo.Counting, 'on_line', on_line)
        code, output, errors = greenmq_says('demo', str(texts), '--broker', BROKER)
        assert (code, output) == (1, [])
        assert errors.endswith('greenmq demo: OperationalError: no more lines today')


class TestPublish:

    def test_bodies_as_text(self, greenmq_says):
        code, output, errors = greenmq_says('publish', '--broker', BROKER, '--queue', 'q', 'one', 'zwölf')
        assert (code, output, errors) == (0, [], f'2 published{GONE}')
        messages = contents('q')
        assert [message.payload for message in messages] == ['one', 'zwölf']
        assert {message.content_type for message in messages} == {'text/plain'}

    def test_lines_of_standard_input(self, greenmq_says):
        code, _, errors = greenmq_says('publish', '--broker', BROKER, '--queue', 'q',
                                       stdin=b'first\n\nno utf8: \xff\nlast')
        assert (code, errors) == (0, f'4 published{GONE}')
        assert [message.payload for message in contents('q')] == ['first', '', b'no utf8: \xff', 'last']

    def test_many_lines_arrive_whole_and_in_order(self, greenmq_says):
        lines = [f'{number:06}' * 3 for number in range(3_000)]
        greenmq_says('publish', '--broker', BROKER, '--queue', 'q', stdin='\n'.join(lines).encode())
        assert [message.payload for message in contents('q')] == lines

    def test_with_all_that_a_message_carries(self, greenmq_says):
        code, _, _ = greenmq_says(
            'publish', '--broker', BROKER, '--queue', 'q', '--serializer', 'json', '--compression', 'gzip',
            '--header', 'a=1', '--header', 'b=x=y', '--priority', '7', '--count', '2', '{"n": [1, 2]}')
        assert code == 0
        first, second = contents('q')
        for message in (first, second):
            assert message.payload == {'n': [1, 2]}
            assert message.content_type == 'application/json'
            assert (message.headers['a'], message.headers['b']) == ('1', 'x=y')
            assert message.properties['priority'] == 7

    def test_to_an_exchange_with_a_queue_bound_to_it(self, greenmq_says):
        code, _, _ = greenmq_says('publish', '--broker', BROKER, '--exchange', 'logs', '--exchange-type',
                                  'topic', '--queue', 'q', '--routing-key', 'app.error', 'boom')
        assert code == 0
        [message] = contents('q')
        assert message.delivery_info['exchange'] == 'logs'
        assert message.delivery_info['routing_key'] == 'app.error'

    def test_to_an_exchange_that_others_declared(self, greenmq_says):
        with Connection(BROKER) as connection:
            Queue('q', Exchange('logs', type='fanout'))(connection.default_channel).declare()
        code, _, _ = greenmq_says('publish', '--broker', BROKER, '--exchange', 'logs', 'boom')
        assert code == 0
        assert [message.payload for message in contents('q')] == ['boom']

    @pytest.mark.parametrize('arguments, error', [
        (['--exchange', 'nowhere'], 'nowhere'),
        (['--exchange', 'unbound', '--exchange-type', 'topic'], 'NO_ROUTE'),
        (['--exchange', 'odd', '--exchange-type', 'odd'], 'odd'),
    ])
    def test_what_reaches_no_queue_is_an_error(self, greenmq_says, arguments, error):
        code, _, errors = greenmq_says('publish', '--broker', BROKER, *arguments, 'lost')
        assert code in (1, 2)
        assert error in errors and len(errors.splitlines()) == 1

    @pytest.mark.parametrize('option, value', [('--serializer', 'yamml'), ('--compression', 'zipp')])
    def test_what_is_not_installed(self, greenmq_says, option, value):
        code, _, errors = greenmq_says('publish', '--broker', BROKER, '--queue', 'q', option, value, '1')
        assert code in (1, 2)
        assert value in errors.splitlines()[-1] and 'Traceback' not in errors
        assert contents('q') == []


class TestConsume:

    @pytest.fixture
    def three(self, greenmq_says):
        greenmq_says('publish', '--broker', BROKER, '--queue', 'q', 'one', 'two')
        greenmq_says('publish', '--broker', BROKER, '--queue', 'q', '--serializer', 'json', '--header', 'h=1',
                     '{"n": "drei"}')

    def test_prints_a_line_each_and_ends_when_nothing_comes(self, greenmq_says, three):
        code, output, errors = greenmq_says('consume', '--broker', BROKER, '--timeout', '0.05', 'q')
        assert (code, errors) == (0, '3 consumed')
        assert output == ['one', 'two', '{"n": "drei"}']
        assert contents('q') == []

    def test_no_more_than_asked_for(self, greenmq_says, three):
        code, output, _ = greenmq_says('consume', '--broker', BROKER, '--count', '1', 'q')
        assert (code, output) == (0, ['one'])
        assert len(contents('q')) == 2

    def test_with_its_envelope(self, greenmq_says, three):
        _, output, _ = greenmq_says('consume', '--broker', BROKER, '--timeout', '0.05', '--envelope', 'q')
        last = json.loads(output[-1])
        assert last['body'] == {'n': 'drei'} and last['headers']['h'] == '1' and last['routing_key'] == 'q'

    def test_what_is_not_accepted_is_refused_and_the_rest_goes_on(self, greenmq_says, three):
        code, output, errors = greenmq_says('consume', '--broker', BROKER, '--timeout', '0.05', '--accept',
                                            'json', 'q')
        assert code == 1
        assert output == ['{"n": "drei"}']
        assert errors.splitlines()[-1] == '1 consumed, 2 refused'
        assert errors.count('greenmq consume: not decoded:') == 2

    def test_follow_waits_for_more(self, greenmq_says):
        # Given somebody who publishes once the consumer waits
        def later():
            with Connection(BROKER) as connection, connection.Producer() as producer:
                for n in range(2):
                    runtime.sleep(0)
                    producer.publish(f'late {n}', routing_key='q', declare=[Queue('q')])

        runtime.call_later(0.05, lambda: runtime.spawn(later, name='publishes later'))
        # When two messages are asked for, however long it takes
        code, output, _ = greenmq_says('consume', '--broker', BROKER, '--follow', '--count', '2', 'q')
        # Then both are printed
        assert (code, output) == (0, ['late 0', 'late 1'])

    def test_bound_to_an_exchange(self, greenmq_says):
        # Given a queue that a first run has bound
        bind = ['consume', '--broker', BROKER, '--exchange', 'logs', '--exchange-type', 'topic',
                '--routing-key', 'app.#', '--timeout', '0.05', 'q']
        assert greenmq_says(*bind)[1] == []
        # When something is published that the binding matches
        greenmq_says('publish', '--broker', BROKER, '--exchange', 'logs', '--routing-key', 'app.error.disk',
                     'boom')
        # Then the next run prints it
        assert greenmq_says(*bind)[1] == ['boom']
