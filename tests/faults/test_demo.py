"""The demo counts what is there, also while its broker is killed and started again."""
from __future__ import annotations

import os
import sys

import pytest

from greenmq import Connection
from tests.support import brokers
from tests.support.process import end, popen, run, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.green_timeout(180),
              pytest.mark.own_process]


@pytest.fixture
def corpus(tmp_path):
    """Texts of 5,000 lines: more than are counted before a broker can be killed."""
    path = tmp_path / 'corpus'
    path.mkdir()
    for number in range(5):
        text = ''.join(f'line {line} of text {number} says hello\n' for line in range(1000))
        (path / f'{number}.txt').write_text(text)
    return path


def demo(broker, corpus, *more):
    return [sys.executable, '-m', 'greenmq.cli', 'demo', '--broker', broker, str(corpus), *more]


def check(text, lines='5,000'):
    assert lines in text, text
    assert 'NOT equal' not in text and 'equal to a direct count' in text, text


#: Those that two processes can share: one of each mechanism, and with GREENMQ_SOAK all.
ROWS = [row for row in brokers.TABLE if row.brisk is not None
        and (row.name in brokers.IN_FULL or os.environ.get('GREENMQ_SOAK'))]


@pytest.mark.parametrize('row', [
    pytest.param(row, id=row.name, marks=[getattr(pytest.mark, row.mark)] if row.mark else [])
    for row in ROWS
])
def test_the_demo_has_equal_totals(request, row, corpus):
    check(run(demo(request.getfixturevalue(row.url), corpus), seconds=90))


@pytest.mark.parametrize('url', ['sqs_url', 'azure_url'])
def test_the_demo_ends_in_time_on_a_service_that_is_called_for_each_message(request, url, corpus):
    text = run(demo(request.getfixturevalue(url), corpus, '--seconds', '1'), seconds=60)
    assert 'equal to a direct count' in text and 'NOT equal' not in text and 'no time' in text, text


def test_the_demo_outlives_a_crash_of_rabbitmq(rabbitmq, amqp_url, amqp_vhost, corpus, tmp_path):
    outlive(rabbitmq, amqp_url, corpus, tmp_path / 'output',
            lambda: consumed(amqp_url, rabbitmq.api('GET', f'queues/{amqp_vhost}')))


def test_the_demo_outlives_a_crash_of_redis(redis_server, redis_url, corpus, tmp_path):
    with redis_server.client() as client:
        outlive(redis_server, redis_url, corpus, tmp_path / 'output', lambda: client.dbsize() > 2)


def consumed(url, queues):
    """Does anybody consume from one of them? At once: rabbitmqctl takes seconds on a slow machine."""
    with Connection(url) as connection:
        declare = connection.default_channel.queue_declare
        return any(declare(each['name'], passive=True).consumer_count
                   for each in queues if not each['exclusive'])


def outlive(server, url, corpus, path, begun):
    with open(path, 'wb') as output:
        child = popen(demo(url, corpus), stdout=output, stderr=output)
    try:
        wait_until(begun, 30, 'the demo to begin')
        assert child.poll() is None, path.read_text()
        server.restart()
        wait_until(lambda: child.poll() is not None, 120, 'the demo to end')
    finally:
        end(child)
    assert child.returncode == 0, path.read_text()
    check(path.read_text())
