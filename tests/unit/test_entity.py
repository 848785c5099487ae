import copy
import pickle
import subprocess
import sys

import pytest

from greenmq.entity import Exchange, Queue, binding, maybe_delivery_mode, pretty_bindings
from greenmq.exceptions import InvalidArgument, NotBoundError
from tests.unit.recorder import Recorder


@pytest.fixture
def channel():
    return Recorder()


class TestExchange:
    def test_equal_by_what_the_broker_would_make_of_it(self):
        assert Exchange('e') == Exchange('e', passive=True, no_declare=True, channel=Recorder())
        assert hash(Exchange('e')) == hash(Exchange('e'))
        for other in (
            Exchange('f'), Exchange('e', 'topic'), Exchange('e', durable=False),
            Exchange('e', auto_delete=True),
            Exchange('e', delivery_mode=1), Exchange('e', arguments={'a': 1}), 'e',
        ):  # fmt: skip
            assert Exchange('e') != other

    def test_names_of_delivery_modes(self):
        assert Exchange('e', delivery_mode='transient').delivery_mode == 1
        assert [maybe_delivery_mode(mode) for mode in (None, 'persistent', 1)] == [2, 2, 1]
        with pytest.raises(KeyError):
            maybe_delivery_mode('sometimes')

    def test_repr_and_str(self, channel):
        assert repr(Exchange('e', 'topic')) == '<unbound Exchange e(topic)>'
        assert repr(Exchange()) == "<unbound Exchange ''(direct)>"
        assert repr(Exchange('e')(channel)) == '<Exchange e(direct) bound to chan:7>'

    def test_declare(self, channel):
        Exchange('e', 'topic', durable=False, arguments={'a': 1})(channel).declare(nowait=True)
        assert channel.calls == [
            (
                'exchange_declare',
                (),
                {
                    'exchange': 'e', 'type': 'topic', 'durable': False, 'auto_delete': False,
                    'arguments': {'a': 1}, 'nowait': True, 'passive': False,
                },
            )
        ]  # fmt: skip

    @pytest.mark.parametrize(
        'exchange', [Exchange(''), Exchange('amq.topic'), Exchange('e', no_declare=True)]
    )
    def test_what_is_never_declared(self, exchange, channel):
        exchange(channel).declare()
        assert channel.calls == []

    def test_unbound(self):
        with pytest.raises(NotBoundError):
            Exchange('e').delete()
        with pytest.raises(NotBoundError):
            Exchange('e').declare()

    @pytest.mark.parametrize('exchange', [Exchange('n' * 256), Exchange('e', type=5)])
    def test_bad_names_and_types(self, exchange, channel):
        with pytest.raises(InvalidArgument):
            exchange(channel).declare()
        assert channel.calls == []

    def test_bind_to_and_unbind_from(self, channel):
        exchange = Exchange('e')(channel)
        exchange.bind_to(Exchange('source'), 'k', {'a': 1})
        exchange.unbind_from('source', 'k')
        common = {'destination': 'e', 'source': 'source', 'routing_key': 'k', 'nowait': False}
        assert channel.of('exchange_bind') == [{**common, 'arguments': {'a': 1}}]
        assert channel.of('exchange_unbind') == [{**common, 'arguments': None}]

    def test_publish_and_message(self, channel):
        properties = {'x': 1}
        exchange = Exchange('e', delivery_mode=1)(channel)
        exchange.publish('body', 'k', mandatory=True)
        exchange.Message('b', 'persistent', properties, priority=3)
        assert channel.of('prepare_message') == [
            {'properties': {'delivery_mode': 1}, 'content_encoding': 'utf-8'},
            {'properties': {'x': 1, 'delivery_mode': 2}, 'content_encoding': 'utf-8', 'priority': 3},
        ]
        assert properties == {'x': 1}
        ((_, args, kwargs),) = [call for call in channel.calls if call[0] == 'basic_publish']
        assert args == ('result of prepare_message',)
        assert kwargs == {'exchange': 'e', 'routing_key': 'k', 'mandatory': True, 'immediate': False}

    def test_delete_makes_the_next_declaration_ask_again(self, channel):
        exchange = Exchange('e')
        channel.connection.client.declared_entities.add(hash(exchange))
        exchange(channel).delete(if_unused=True)
        assert channel.of('exchange_delete') == [{'exchange': 'e', 'if_unused': True, 'nowait': False}]
        assert channel.connection.client.declared_entities == set()

    def test_can_cache_declaration(self):
        assert Exchange('e').can_cache_declaration
        assert not Exchange('e', auto_delete=True).can_cache_declaration


class TestQueue:
    def test_key_is_the_routing_key(self):
        assert Queue('q', 'e', key='k') == Queue('q', 'e', routing_key='k')

    def test_the_exchange_may_be_a_name_or_bindings(self):
        assert Queue('q', 'e').exchange == Exchange('e')
        one = binding(Exchange('e'), 'k')
        for queue in (Queue('q', one), Queue('q', [one]), Queue('q', bindings=[one])):
            assert (queue.exchange, queue.bindings) == (None, {one})
        assert Queue('q').exchange == Exchange('')

    def test_exclusive_means_auto_delete(self):
        assert Queue('q', exclusive=True).auto_delete

    def test_equality_and_hash(self):
        assert Queue('q', 'e', 'k') == Queue('q', 'e', 'k', no_ack=True, expires=3, alias='x')
        assert hash(Queue('q', 'e', 'k')) == hash(Queue('q', 'e', 'k', no_ack=True))
        for other in (
            Queue('p'), Queue('q', 'e'), Queue('q', key='k'), Queue('q', durable=False),
            Queue('q', exclusive=True),
            Queue('q', queue_arguments={'a': 1}), Queue('q', binding_arguments={'a': 1}), 'q',
        ):  # fmt: skip
            assert Queue('q') != other

    def test_copies_and_pickles(self, channel):
        queue = Queue(
            'q', Exchange('e', 'topic'), 'k', expires=3, on_declared=print, queue_arguments={'x': 1}
        )
        bound = queue(channel)
        assert bound.on_declared is print
        for again in (copy.copy(bound), copy.deepcopy(queue), pickle.loads(pickle.dumps(bound))):
            assert again == queue
            assert not again.is_bound
            assert again.expires == 3.0
        assert [
            str(each) for each in pickle.loads(pickle.dumps(Queue('q', binding(Exchange('e'), 'k')))).bindings
        ] == ['e->k']

    def test_as_dict(self):
        fields = Queue('q', Exchange('e'), 'k', bindings=[binding(Exchange('b'), 'r')]).as_dict(recurse=True)
        assert fields['bindings'][0]['exchange']['name'] == 'b'
        fields = Queue('q', Exchange('e'), 'k', message_ttl=2).as_dict(recurse=True)
        assert (fields['exchange']['name'], fields['message_ttl'], fields['routing_key']) == ('e', 2.0, 'k')

    def test_declare(self, channel):
        queue = Queue('q', Exchange('e', 'topic'), 'k', expires=1.5, message_ttl=2, queue_arguments={'z': 1})
        assert queue(channel).declare() == 'q'
        assert channel.names() == [
            'exchange_declare',
            'prepare_queue_arguments',
            'queue_declare',
            'queue_bind',
        ]
        assert channel.of('queue_declare') == [
            {
                'queue': 'q', 'passive': False, 'durable': True, 'exclusive': False, 'auto_delete': False,
                'arguments': {'z': 1, 'expires': 1.5, 'message_ttl': 2.0}, 'nowait': False,
            }
        ]  # fmt: skip
        assert channel.of('queue_bind') == [
            {'queue': 'q', 'exchange': 'e', 'routing_key': 'k', 'arguments': None, 'nowait': False}
        ]

    def test_the_broker_names_a_nameless_queue(self, channel):
        told = []
        queue = Queue('', Exchange('e'), 'k', on_declared=lambda *args: told.append(args))(channel)
        assert queue.declare() == 'made-up'
        assert queue.name == 'made-up'
        assert told == [('made-up', 3, 2)]
        assert channel.of('queue_bind')[0]['queue'] == 'made-up'

    def test_several_ways_in(self, channel):
        Queue('q', [binding(Exchange('e'), 'k', {'a': 1}), binding('known', 'r')])(channel).declare()
        assert {call['exchange']: call['routing_key'] for call in channel.of('queue_bind')} == {
            'e': 'k',
            'known': 'r',
        }
        assert [call['exchange'] for call in channel.of('exchange_declare')] == ['e']

    def test_no_declare(self, channel):
        assert Queue('q', 'e', no_declare=True)(channel).declare() == 'q'
        assert channel.calls == []

    @pytest.mark.parametrize(
        'options', [{'expires': -1}, {'message_ttl': -1}, {'max_length': -2}, {'max_priority': -1}]
    )
    def test_negative_limits(self, options, channel):
        for declare in ('declare', 'queue_declare'):
            with pytest.raises(InvalidArgument, match=f"{next(iter(options))} of queue 'q'"):
                getattr(Queue('q', 'e', **options)(channel), declare)()
        assert channel.calls == []

    def test_operations_reach_the_channel(self, channel):
        queue = Queue('q', Exchange('e'), 'k', consumer_arguments={'c': 1})(channel)
        queue.consume('tag', print, no_ack=True, on_cancel=len)
        queue.cancel('tag')
        queue.queue_unbind({'a': 1})
        queue.unbind_from(Exchange('x'), 'r')
        queue.delete(if_empty=True)
        assert channel.of('basic_consume') == [
            {
                'queue': 'q', 'no_ack': True, 'consumer_tag': 'tag', 'callback': print, 'nowait': False,
                'arguments': {'c': 1}, 'on_cancel': len,
            }
        ]  # fmt: skip
        assert ('basic_cancel', ('tag',), {}) in channel.calls
        assert [(call['exchange'], call['routing_key']) for call in channel.of('queue_unbind')] == [
            ('e', 'k'), ('x', 'r'),
        ]  # fmt: skip
        assert channel.of('queue_delete') == [
            {'queue': 'q', 'if_unused': False, 'if_empty': True, 'nowait': False}
        ]

    def test_get_of_an_empty_queue(self, channel):
        assert Queue('q', no_ack=True)(channel).get() is None
        assert channel.of('basic_get') == [{'queue': 'q', 'no_ack': True}]

    def test_can_cache_declaration(self):
        assert Queue('q').can_cache_declaration
        for options in (
            {'auto_delete': True},
            {'expires': 3},
            {'queue_arguments': {'x-expires': 3}},
            {'exclusive': True},
        ):
            assert not Queue('q', **options).can_cache_declaration

    def test_from_dict(self):
        queue = Queue.from_dict(
            'q', exchange='e', exchange_type='topic', exchange_durable=False, binding_key='b',
            routing_key='r', queue_durable=True, durable=False, delivery_mode=1, message_ttl=3, unknown=1,
        )  # fmt: skip
        assert queue == Queue('q', Exchange('e', 'topic', durable=False, delivery_mode=1), 'b')
        assert queue.message_ttl == 3.0
        assert Queue.from_dict('q', exchange=Exchange('x', 'fanout')).exchange.type == 'fanout'

    def test_repr(self, channel):
        assert repr(Queue('q', 'e', 'k')) == '<unbound Queue q -> <unbound Exchange e(direct)> -> k>'
        assert repr(Queue('q', binding('e', 'k'))) == '<unbound Queue q -> [e->k]>'
        assert repr(Queue('q', 'e')(channel)).endswith(' bound to chan:7>')


def test_binding(channel):
    way = Exchange('e').binding('k', {'a': 1}, {'b': 2})
    assert (str(way), repr(way), pretty_bindings([way])) == ('e->k', '<binding: e->k>', '[e->k]')
    way.declare(channel)
    way.bind(Queue('q')(channel))
    way.unbind(Queue('q')(channel))
    assert channel.names() == ['exchange_declare', 'queue_bind', 'queue_unbind']
    assert [channel.of(name)[0]['arguments'] for name in ('queue_bind', 'queue_unbind')] == [
        {'a': 1},
        {'b': 2},
    ]
    assert way.as_dict(recurse=True)['exchange']['name'] == 'e'


def test_entities_load_no_transport():
    code = (
        'import sys, greenmq.entity; '
        'print([name for name in sys.modules if name.startswith("greenmq.transport")])'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'
