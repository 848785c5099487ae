"""States move as their tables say, and no other way."""

import pytest

from greenmq.core.lifecycle import (
    CHANNEL,
    CONNECTION,
    ChannelState,
    ConnectionState,
    IllegalTransition,
    Lifecycle,
)

TABLES = {'connection': (CONNECTION, ConnectionState), 'channel': (CHANNEL, ChannelState)}


def _states(kind):
    return {value for name, value in vars(kind).items() if name.isupper()}


@pytest.mark.parametrize('name', TABLES)
def test_a_table_knows_every_state_and_no_other(name):
    table, kind = TABLES[name]
    assert set(table) == _states(kind)
    assert {new for allowed in table.values() for new in allowed} <= set(table)


@pytest.mark.parametrize('name', TABLES)
def test_every_pair_is_allowed_or_raises_and_leaves_the_state(name):
    table, _ = TABLES[name]
    for old in table:
        for new in table:
            life = Lifecycle(table, old, 'thing')
            assert life.may(new) is (new in table[old])
            if new in table[old]:
                assert life.to(new) == old
                assert life.state == new
            else:
                with pytest.raises(IllegalTransition, match=f'thing is {old}: it can not become {new}'):
                    life.to(new)
                assert life.state == old


@pytest.mark.parametrize('name', TABLES)
def test_the_end_can_be_reached_from_everywhere(name):
    table, kind = TABLES[name]
    for start in table:
        seen, todo = {start}, [start]
        while todo:
            for new in table[todo.pop()] - seen:
                seen.add(new)
                todo.append(new)
        assert kind.CLOSED in seen


def test_what_we_have_begun_to_close_is_never_called_lost():
    assert CONNECTION[ConnectionState.CLOSING] == {ConnectionState.CLOSED}
    assert CHANNEL[ChannelState.CLOSING] == {ChannelState.CLOSED}


def test_a_connection_recovers_and_opens_again_after_close():
    life = Lifecycle(CONNECTION, ConnectionState.NEW, 'amqp://h')
    for new in ('connecting', 'open', 'blocked', 'open', 'lost', 'connecting', 'lost', 'connecting', 'open',
                'closing', 'closed', 'connecting'):  # fmt: skip
        life.to(new)
    assert repr(life) == '<Lifecycle amqp://h: connecting>'


def test_an_unknown_start_is_refused():
    with pytest.raises(IllegalTransition, match='no such state'):
        Lifecycle(CONNECTION, 'opne')
