"""Whatever is patched, and when: nothing that greenmq waits for stops the hub (P43)."""
from __future__ import annotations

import importlib.util
import os

import pytest

from tests import patch_matrix
from tests.support import green

#: One of each kind in every run; all of them, and for longer, in a soak.
FEW = {
    ('gevent', 'not patched'): 'redis',
    ('gevent', 'after the drivers'): 'amqp',
    ('eventlet', 'not patched'): 'amqp',
    ('eventlet', 'after the drivers'): 'redis',
}
SOAK = bool(os.environ.get('GREENMQ_SOAK'))
CELLS = [(cell, broker) for cell in patch_matrix.ORDERS for broker in ('amqp', 'redis')
         if SOAK or FEW.get(cell) == broker]

pytestmark = [
    pytest.mark.own_process,
    pytest.mark.slow,
    # Each cell is a process of its own: once is enough.
    pytest.mark.skipif(green.RUNTIME != 'gevent' or green.PATCHED, reason='run in the unpatched process'),
]


def _name(part):
    return part if isinstance(part, str) else '-'.join(part)


@pytest.mark.parametrize(('cell', 'broker'), CELLS, ids=_name)
def test_a_ticker_goes_on(cell, broker, request, rabbitmq, amqp_vhost, certificates):
    if importlib.util.find_spec(cell[0]) is None:
        pytest.skip(f'{cell[0]} is not installed')
    server = rabbitmq if broker == 'amqp' else request.getfixturevalue('redis_server')
    with patch_matrix.Holes() as holes:
        given = patch_matrix.facts(broker, server, holes, amqp_vhost, certificates, 1.0 if SOAK else 0.5)
        shares = patch_matrix.best_of(cell, given)
    print(patch_matrix.line(cell, broker, shares))
    assert set(shares) == set(patch_matrix.ACTIONS)
    assert min(shares.values()) >= patch_matrix.SHARE, shares


@pytest.mark.parametrize('hub', ['gevent', 'eventlet'])
def test_the_ticker_notices_what_blocks(hub, rabbitmq, amqp_vhost, certificates):
    if importlib.util.find_spec(hub) is None:
        pytest.skip(f'{hub} is not installed')
    with patch_matrix.Holes() as holes:
        given = patch_matrix.facts('amqp', rabbitmq, holes, amqp_vhost, certificates, 1.0, ['a stall'])
        shares = patch_matrix.run((hub, 'not patched'), given)
    assert (shares['a stall'] or 0) < 0.5, shares
