"""The demo counts what is there on RabbitMQ, also while the broker is killed and started again."""
from __future__ import annotations

import sys

import pytest

from tests.support.process import end, popen, run, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.green_timeout(180)]


@pytest.fixture
def corpus(tmp_path):
    """Texts of 5,000 lines: more than are counted before a broker can be killed."""
    path = tmp_path / 'corpus'
    path.mkdir()
    for number in range(5):
        text = ''.join(f'line {line} of text {number} says hello\n' for line in range(1000))
        (path / f'{number}.txt').write_text(text)
    return path


def demo(broker, corpus):
    return [sys.executable, '-m', 'greenmq.cli', 'demo', '--broker', broker, str(corpus)]


def check(text):
    assert '5,000' in text, text
    assert 'NOT equal' not in text and 'equal to a direct count' in text, text


def test_the_demo_has_equal_totals_on_rabbitmq(amqp_url, corpus):
    check(run(demo(amqp_url, corpus), seconds=90))


def test_the_demo_outlives_a_crash_of_the_broker(rabbitmq, amqp_url, amqp_vhost, corpus, tmp_path):
    path = tmp_path / 'output'
    with open(path, 'wb') as output:
        child = popen(demo(amqp_url, corpus), stdout=output, stderr=output)
    try:
        wait_until(lambda: rabbitmq.list('consumers', 'queue_name', vhost=amqp_vhost), 30,
                   'the demo to begin')
        assert child.poll() is None, path.read_text()
        rabbitmq.restart()
        wait_until(lambda: child.poll() is not None, 120, 'the demo to end')
    finally:
        end(child)
    assert child.returncode == 0, path.read_text()
    check(path.read_text())
