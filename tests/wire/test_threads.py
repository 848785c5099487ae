"""A connection belongs to one native thread: another is refused before anything of its call is queued."""

from __future__ import annotations

import pytest
from amqp import spec

from greenmq import runtime
from greenmq.exceptions import WrongHub
from tests.wire.conftest import SOON, Doing

CALLS = {
    'publish': lambda channel: channel.basic_publish(channel.prepare_message(b'x'), '', 'q', timeout=1),
    'publish_nowait': lambda channel: channel.basic_publish_nowait(channel.prepare_message(b'x'), '', 'q'),
    'declare': lambda channel: channel.queue_declare('q'),
    'get': lambda channel: channel.basic_get('q'),
    'drain': lambda channel: channel.connection.drain_events(timeout=0),
}


@pytest.mark.parametrize('call', CALLS.values(), ids=CALLS)
def test_a_call_from_another_thread_is_refused_and_harms_nothing(talk, publishers, call):
    channel, broker = talk()
    crowd = publishers(channel, broker)
    (first,), _ = crowd.publish([b'first'])
    with pytest.raises(WrongHub, match='AMQP Connection'):
        runtime.offload(call, channel, own_thread=True, deadline=SOON)
    # Then: the thread that has the connection goes on with it, and nothing of the other call went out
    (second,), found = crowd.publish([b'second'])
    assert found[0].body == b'second'
    broker.send(crowd.wire, spec.Basic.Ack, 'Lb', (2, True))
    assert [first.error(), second.error()] == [None, None]
    doing = Doing(channel.queue_purge, 'q')
    broker.recv(spec.Queue.Purge)
    broker.send(1, spec.Queue.PurgeOk, 'l', (0,))
    assert doing.result() == 0
