"""``greenmq ping``, ``queues`` and ``doctor``."""
import sys
import types

import pytest

import greenmq
from greenmq import Connection, Exchange, Queue
from greenmq.cli.commands import greenmq_command, run

BROKER = 'memory://localhost/test_looking'


@pytest.fixture
def greenmq_says(capfd):
    """Runs a command; gives its exit code, the lines of standard output, and standard error as one line."""
    def say(*arguments):
        code = run(arguments)
        output, errors = capfd.readouterr()
        return code, output.splitlines(), errors.strip()
    return say


def test_ping_tells_how_long_it_took(greenmq_says):
    code, output, errors = greenmq_says('ping', '--broker', BROKER, '--count', '2')
    assert code == 0 and 'connected in' in output[0] and len(output) == 3


def test_ping_of_nobody(greenmq_says):
    code, output, errors = greenmq_says('ping', '--broker', 'amqp://127.0.0.1:1')
    assert (code, output) == (1, []) and 'cannot be reached' in errors


@pytest.mark.parametrize('arguments, code, said', [
    (['ping', '--broker', ''], 2, 'the URL of the broker is empty'),
    (['ping', '--broker', 'ampq://here'], 2, 'No such transport: ampq. Did you mean amqp?'),
    (['ping', '--broker', 'amqp://here:there'], 2, 'a port that is not a number'),
    (['ping', '--count', '0'], 2, "'--count': 0 is not in the range"),
    (['queues', '--broker', 'redis://127.0.0.1:1/nine', 'x'], 2, 'database must be a number'),
    (['queues', '--broker', 'amqp://127.0.0.1:1', 'x'], 1, 'cannot be reached'),
    (['ping', 'what'], 2, 'unexpected extra argument'),
    (['worker', 'nowhere:Worker', '--health', '127.0.0.1'], 2, 'not of the form HOST:PORT'),
])
def test_what_was_asked_for_wrongly_is_said_in_a_line(greenmq_says, arguments, code, said):
    found, output, errors = greenmq_says(*arguments)
    assert (found, output) == (code, []) and said in errors and '\n' not in errors


def test_queues_by_name_and_all(greenmq_says):
    with Connection(BROKER) as connection:
        queue = Queue('mails', Exchange('shop'), routing_key='mails')
        connection.Producer().publish({}, exchange='shop', routing_key='mails', declare=[queue])
        code, output, errors = greenmq_says('queues', '--broker', BROKER, 'mails')
        assert code == 0 and output[0].split() == ['mails', '1', 'messages']
        assert greenmq_says('queues', '--broker', BROKER)[1] == output
        code, output, errors = greenmq_says('queues', '--broker', BROKER, 'mails', 'none')
        assert code == 1 and errors.endswith('no such queue: none')


@pytest.mark.slow
def test_rabbitmq_tells_of_consumers_everywhere(greenmq_says, amqp_url):
    with Connection(amqp_url) as connection:
        queue = Queue('watched', auto_delete=True)
        with connection.Consumer(queue, callbacks=[lambda body, message: None]):
            code, output, _ = greenmq_says('queues', '--broker', amqp_url, 'watched')
    assert code == 0 and output[0].split() == ['watched', '0', 'messages', '1', 'consumers']


def test_queues_that_no_exchange_knows_are_listed_too(greenmq_says, redis_url):
    for broker in ('memory://localhost/unbound', redis_url):
        with Connection(broker) as connection:
            channel = connection.channel()
            Queue('alone')(channel).declare()
            Queue('bound', Exchange('shop'), routing_key='bound')(channel).declare()
            connection.Producer().publish('x', routing_key='alone')
            code, output, errors = greenmq_says('queues', '--broker', broker)
            assert (code, [line.split()[:2] for line in output]) == (0, [['alone', '1'], ['bound', '0']])


def test_queues_that_kombu_bound_are_listed(greenmq_says, redis_url, redis_server):
    redis = pytest.importorskip('redis').Redis.from_url(redis_server.url())
    redis.sadd('_kombu.binding.shop', 'key\x06\x16\x06\x16theirs')
    redis.lpush('theirs', '{}')
    code, output, errors = greenmq_says('queues', '--broker', redis_url)
    assert (code, [line.split()[:2] for line in output]) == (0, [['theirs', '1']]), errors


@pytest.mark.slow
@pytest.mark.parametrize('transport', ['amqp', 'redis'])
def test_many_of_the_same_are_on_their_way_at_once(greenmq_says, request, transport, monkeypatch):
    url = request.getfixturevalue(f'{transport}_url')
    waited, plain = [], greenmq.Producer.publish
    monkeypatch.setattr(greenmq.Producer, 'publish', lambda *a, **k: waited.append(1) or plain(*a, **k))
    code, output, errors = greenmq_says('publish', '--broker', url, '--queue', 'many', '--count', '3000', 'x')
    assert (code, output) == (0, []) and errors == '3,000 published'
    assert len(waited) == 1, 'each of the others would be a round trip'
    assert greenmq_says('queues', '--broker', url, 'many')[1][0].split()[1] == '3,000'
    nowhere = ['--exchange', 'nobody', '--exchange-type', 'direct', '--routing-key', 'x']
    code, output, errors = greenmq_says('publish', '--broker', url, *nowhere, '--count', '9', 'x')
    assert code == 1 and 'no queue' in errors, errors


def test_doctor_is_content(greenmq_says):
    code, output, errors = greenmq_says('doctor', '--broker', BROKER)
    assert code == 0 and not [line for line in output if line.startswith('bad')]
    assert {'versions', 'patching', 'drivers', 'broker'} <= {line.split()[1] for line in output}
    assert 'answers: memory' in output[-1]


def test_doctor_says_what_is_wrong_with_a_url():
    assert str(greenmq.doctor('ampq://here').findings[-1]).endswith(
        'broker    No such transport: ampq. Did you mean amqp?')


def test_doctor_names_what_blocks_and_who_does_not_answer(monkeypatch):
    monkeypatch.setitem(sys.modules, 'psycopg2', types.ModuleType('psycopg2'))
    diagnosis = greenmq.doctor('amqp://127.0.0.1:1')
    assert not diagnosis
    bad = [finding.about for finding in diagnosis.findings if finding.verdict == 'bad']
    assert bad == ['drivers', 'broker'] and 'psycopg2' in str(diagnosis)


def test_queues_of_a_file_say_what_is_in_hand(tmp_path, capfd):
    from greenmq import Connection, Queue

    url = f'file://{tmp_path}/broker'
    dead = {'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'dead'}
    with Connection(url) as connection:
        bound = Queue('q', routing_key='q', queue_arguments=dead)(connection.default_channel)
        bound.declare()
        for delay in (0, 0, 60_000):
            connection.Producer().publish('x', routing_key='q', headers={'x-delay': delay} if delay else {})
        held = bound.get()
        assert run(['queues', '--broker', url]) == 0
        held.ack()
    line = capfd.readouterr().out.strip()
    assert line.startswith('q ') and '1 messages' in line and '1 unacked' in line and '1 delayed' in line
    assert 'oldest 0 s' in line and line.endswith('dead letters to dead')


#: URLs, written well and badly, whose password begins with HEAD and ends with TAIL.
SECRETS = (
    'amqp://user:HEADxTAIL@h', 'redis://:HEAD/TAIL@h:1/0', 'amqp://user:HEAD TAIL@h', "amqp://u:HEAD'TAIL@h",
    'user:HEADTAIL@127.0.0.1:1', 'redis://h/0?password=HEADTAIL', 'amqps://user:HEAD@TAIL@h//',
)
#: What the command needs besides, so that it is the stray URL that is wrong.
NEEDED = {'worker': ['nowhere:Worker'], 'kombu': ['status']}


@pytest.mark.parametrize('command', sorted(greenmq_command.commands))
@pytest.mark.parametrize('stray', [
    ['{}', '--nonsense'], ['--brokr={}'], ['--{}'], ['--count', '{}', '--count', '{}'],
    ['--broker', '{}', '--nonsense'], ['--broker', 'memory://', '{}', '--nonsense'],
])
def test_no_password_of_a_url_that_stands_where_none_belongs(greenmq_says, command, stray):
    needed = NEEDED.get(command, [])
    # `run` hands all that follows to its command: the URL is that.
    for url in SECRETS if command != 'run' else SECRETS[:1]:
        given = [word.format(url) for word in stray] if command != 'run' else [url]
        for arguments in ([*needed, *given], [*given, *needed]):
            code, output, errors = greenmq_says(command, *arguments)
            assert code in (1, 2) and errors and '\n' not in errors, (arguments, output)
            assert 'HEAD' not in errors and 'TAIL' not in errors, arguments


@pytest.mark.parametrize('url', SECRETS)
def test_no_password_of_a_url_in_the_place_of_a_command(greenmq_says, url):
    for arguments in ([url], [f'--broker={url}'], ['consume', url], ['worker', url], ['demo', url]):
        code, output, errors = greenmq_says(*arguments)
        assert code in (1, 2) and 'HEAD' not in errors and 'TAIL' not in errors, errors
