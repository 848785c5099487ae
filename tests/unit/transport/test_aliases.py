"""Names and paths of transports, and what is said of those that aren't there."""

from __future__ import annotations

import sys

import pytest

from greenmq import transport
from greenmq.transport import base, get_transport_cls, memory, resolve_transport, virtual


def test_by_name_path_and_class():
    assert get_transport_cls('memory') is resolve_transport('memory') is memory.Transport
    assert resolve_transport('greenmq.transport.memory:Transport') is memory.Transport
    assert resolve_transport('greenmq.transport.memory.Transport') is memory.Transport
    assert resolve_transport(memory.Transport) is memory.Transport
    assert resolve_transport(None) is None
    assert transport.supports_librabbitmq() is None


def test_an_unknown_name_says_the_nearest():
    with pytest.raises(KeyError, match='No such transport: memroy.  Did you mean memory?'):
        get_transport_cls('memroy')
    with pytest.raises(KeyError, match="No such transport: zzz'$"):
        get_transport_cls('zzz')
    with pytest.raises(KeyError, match='kombu has it'):
        get_transport_cls('etcd')


def test_one_of_ours_that_this_version_lacks(monkeypatch):
    monkeypatch.setitem(transport.TRANSPORT_ALIASES, 'soon', 'greenmq.transport.soon:Transport')
    with pytest.raises(KeyError, match="'soon' is not available in this version"):
        resolve_transport('soon')


def test_a_missing_driver_is_told_as_it_is(monkeypatch, tmp_path):
    (tmp_path / 'driverless.py').write_text('import no_such_driver\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match='no_such_driver'):
        resolve_transport('driverless:Transport')
    monkeypatch.setitem(transport.TRANSPORT_ALIASES, 'driverless', 'driverless:Transport')
    with pytest.raises(ModuleNotFoundError, match='no_such_driver'):
        resolve_transport('driverless')
    assert 'driverless' not in sys.modules


def test_queue_arguments():
    given = {'x': 1}
    prepared = base.to_rabbitmq_queue_arguments(
        given, expires=1.5, message_ttl=2, max_length=3.0, max_length_bytes=None, max_priority=5
    )
    assert prepared == {
        'x': 1,
        'x-expires': 1500,
        'x-message-ttl': 2000,
        'x-max-length': 3,
        'x-max-priority': 5,
    }
    assert given == {'x': 1}
    with pytest.raises(KeyError):
        base.to_rabbitmq_queue_arguments({}, bogus=1)


def test_capabilities():
    implements = base.Implements(a=1)
    more = implements.extend(b=2)
    assert (more.a, more.b, dict(implements)) == (1, 2, {'a': 1})
    with pytest.raises(AttributeError, match='c'):
        _ = more.c
    assert not memory.Transport(None).supports_heartbeats and not memory.Transport(None).supports_ev


@pytest.mark.parametrize(
    'call',
    [
        lambda t: t.establish_connection(),
        lambda t: t.close_connection(t),
        lambda t: t.create_channel(t),
        lambda t: t.close_channel(t),
        lambda t: t.drain_events(t),
        lambda t: t.manager.get_bindings(),
    ],
)
def test_what_a_transport_must_give(call):
    with pytest.raises(NotImplementedError, match='Transport greenmq.transport.base.* does not implement'):
        call(base.Transport(None))


def test_defaults_of_a_transport():
    bare = base.Transport('client')
    assert bare.client == 'client' and bare.default_connection_params == {}
    assert bare.driver_version() == 'N/A' and bare.verify_connection(None)
    assert bare.get_heartbeat_interval(None) == 0 and bare.heartbeat_check(None) is None
    assert bare.qos_semantics_matches_spec(None)
    with pytest.raises(NotImplementedError):
        bare.as_uri('x://')


def test_a_channel_must_give_get_put_and_purge():
    channel = virtual.AbstractChannel()
    for call in (lambda: channel._get('q'), lambda: channel._put('q', {}), lambda: channel._purge('q')):
        with pytest.raises(NotImplementedError, match='must implement'):
            call()
    assert channel._size('q') == 0 and channel._has_queue('q')


class NowaitChannel(base.StdChannel):
    def __init__(self, error=None):
        self.error, self.closed = error, False

    def basic_publish(self, message, exchange, routing_key, **kwargs):
        if self.error:
            raise self.error
        return message, exchange, routing_key, kwargs

    def close(self):
        self.closed = True


def test_publish_nowait_of_a_channel_that_does_not_wait():
    with NowaitChannel() as channel:
        future = channel.basic_publish_nowait('m', 'e', 'k', mandatory=True)
        assert future.result(0) == ('m', 'e', 'k', {'mandatory': True})
    assert channel.closed
    failed = NowaitChannel(OSError('full')).basic_publish_nowait('m', 'e', 'k')
    assert isinstance(failed.exception(0), OSError)


@pytest.mark.parametrize(
    'product, scheme', [('rabbitmq', 'amqp'), ('rabbitmqs', 'amqps'), ('postgres', 'postgresql')]
)
def test_the_name_of_a_product_is_told_its_scheme(product, scheme):
    with pytest.raises(KeyError, match=f'mean {scheme}[?]'):
        resolve_transport(product)
