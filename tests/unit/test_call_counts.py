"""How many Python functions a message takes: what is recorded holds, without a clock.

More calls than recorded: something was put on the way of every message. A quarter fewer: record the gain with
`python -m benchmarks.calls --record`, or the next loss hides in it.
"""
from __future__ import annotations

import platform

import pytest

from benchmarks import calls
from tests.support import green

pytestmark = pytest.mark.skipif(green.RUNTIME != 'gevent', reason='recorded on gevent')

#: How far a count may be off; a broker groups its deliveries as it likes, which the last read shows.
MARGIN = {'memory': 0.02, 'amqp': 0.06, 'redis': 0.06}
#: Calls a message that a few batches more or less may cost.
SLACK = 0.5


def check(name, url):
    known = calls.recorded()
    found = calls.figures(calls.measure(url))
    assert set(found) == set(calls.STAGES)
    same_python = known['python'] == '.'.join(platform.python_version_tuple()[:2])
    for stage, count in found.items():
        expected = known[calls.key(name)][stage]
        margin = expected * MARGIN[name] + SLACK
        assert count <= expected + margin, f'{name} {stage}: {count} calls a message, recorded {expected}'
        # Other versions inline what this one calls.
        assert not same_python or count >= 0.75 * expected - SLACK, \
            f'{name} {stage}: only {count} calls a message, recorded {expected}: record it'


def test_memory():
    check('memory', 'memory://')


@pytest.mark.slow
def test_amqp(amqp_url):
    check('amqp', amqp_url)


@pytest.mark.slow
def test_redis(redis_url):
    check('redis', redis_url)


def test_the_counter_counts_exactly_and_in_every_greenlet():
    def work():
        for _ in range(10):
            step()

    def step():
        green.sleep(0)

    with calls.Counter() as counter:
        green.joinall([green.spawn(work), green.spawn(work)])
    assert counter.calls[step.__code__] == 20
    assert counter.calls[work.__code__] == 2
    step()
    assert counter.calls[step.__code__] == 20
