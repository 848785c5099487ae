"""``greenmq ping``, ``queues`` and ``doctor``."""
import sys
import types

import pytest

import greenmq
from greenmq import Connection, Exchange, Queue
from greenmq.cli.commands import run

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
        assert code == 0 and output[0].split() == ['mails', '1', 'messages', '0', 'consumers']
        assert greenmq_says('queues', '--broker', BROKER)[1] == output
        code, output, errors = greenmq_says('queues', '--broker', BROKER, 'mails', 'none')
        assert code == 1 and errors.endswith('no such queue: none')


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
