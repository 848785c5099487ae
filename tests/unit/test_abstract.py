import copy
import pickle

import pytest

from greenmq.abstract import MaybeChannelBound, Object, maybe_channel
from greenmq.exceptions import NotBoundError
from greenmq.utils.functional import ChannelPromise


class Value(Object):
    attrs = (('name', None), ('size', int), ('inner', None))


class Bound(MaybeChannelBound):
    times = 0

    def when_bound(self):
        self.times += 1


class Connection:
    default_channel = 'the default channel'


def test_fields_are_taken_by_name_and_converted():
    value = Value(name='a', size='3', unknown=1)
    assert vars(value) == {'name': 'a', 'size': 3, 'inner': None}
    assert value.as_dict() == {'name': 'a', 'size': 3, 'inner': None}


def test_recursive_dictionary():
    value = Value(inner=Value(name='in'))
    assert value.as_dict(recurse=True)['inner'] == {'name': 'in', 'size': None, 'inner': None}
    assert isinstance(value.as_dict()['inner'], Value)


@pytest.mark.parametrize('make', [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_are_equal_in_all_fields(make):
    assert vars(make(Value(name='a', size=3))) == {'name': 'a', 'size': 3, 'inner': None}


def test_a_class_default_is_kept_when_nothing_is_given():
    class Flag(Object):
        attrs = (('on', bool),)
        on = True

    assert Flag(on=None).on is True
    assert Flag(on=0).on is False


def test_binding_makes_a_copy_and_maybe_bind_does_not():
    entity = Bound()
    bound = entity('channel')
    assert not entity.is_bound
    assert (bound.is_bound, bound.channel, bound.times) == (True, 'channel', 1)
    assert entity.maybe_bind('one') is entity
    entity.maybe_bind('two')
    assert entity.channel == 'one'


def test_none_binds_to_nothing():
    assert not Bound().bind(None).is_bound


def test_revive_moves_only_what_is_bound():
    entity = Bound()
    entity.revive('channel')
    assert not entity.is_bound
    entity = entity('one')
    entity.revive('two')
    assert (entity.channel, entity.times) == ('two', 2)


def test_an_unbound_entity_says_so():
    with pytest.raises(NotBoundError, match="Can't call method on Bound not bound to a channel"):
        Bound().channel  # noqa: B018
    assert repr(Bound()) == '<unbound Bound>'


def test_a_connection_stands_for_its_default_channel():
    assert maybe_channel(Connection()) == 'the default channel'
    assert maybe_channel('channel') == 'channel'
    assert Bound()(Connection()).channel == 'the default channel'


def test_a_promised_channel_is_opened_by_use_and_not_by_repr():
    opened = []
    entity = Bound()(ChannelPromise(lambda: opened.append(1) or 'channel'))
    assert repr(entity) == '<Bound bound to chan:(not opened)>'
    assert opened == []
    assert entity.channel == entity.channel == 'channel'
    assert opened == [1]
