"""What idles stays small: bytes that Python allocates for each, in a process of its own, without a clock."""
import sys

import pytest

from benchmarks import footprint, runner
from benchmarks.peers import Peer
from tests.support import green

pytestmark = pytest.mark.skipif(green.RUNTIME != 'gevent', reason='measured on gevent')

#: How far above the benchmark's target: other versions of Python lay objects out differently.
MARGIN = 1.5


def check(scheme, url):
    for what, most in footprint.TARGETS[scheme].items():
        arguments = [url, what, str(footprint.NUMBER)]
        found = runner.once(Peer('greenmq', sys.executable), footprint.PROBE, arguments)['allocated']
        assert 0 < found <= MARGIN * most, f'{scheme} {what}: {found:.2f} KB each, target {most}'


def test_memory():
    check('memory', 'memory://')


@pytest.mark.slow
def test_amqp(amqp_url):
    check('amqp', amqp_url)


@pytest.mark.slow
def test_redis(redis_url):
    check('redis', redis_url)
