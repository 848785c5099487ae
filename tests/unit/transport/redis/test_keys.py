"""Names of keys: kombu's by default, one slot a queue in a cluster."""

from __future__ import annotations

import pytest
from redis.crc import key_slot

from greenmq.exceptions import InvalidArgument
from greenmq.transport.redis.keys import Keys
from greenmq.transport.redis.scripts import ADOPT, BIND, DELAY, FETCH, RENEW, SETTLE, SWEEP


def test_kombus_layout():
    keys = Keys('c')
    assert keys.lists('q') == ['q', 'q\x06\x163', 'q\x06\x166', 'q\x06\x169']
    assert keys.home('q').unacked == 'unacked' and keys.home('q').times == 'unacked_index'
    assert keys.home('q') is keys.home('other')


@pytest.mark.parametrize(('priority', 'step'), [(0, 0), (2, 0), (3, 3), (5, 3), (9, 9), (255, 9), (-1, 0)])
def test_a_priority_falls_to_the_step_below_it(priority, step):
    assert Keys('c').step(priority) == step


def test_the_prefix_stands_before_every_key():
    keys = Keys('c', prefix='app:')
    home = keys.home('q')
    for key in (*keys.lists('q'), *home, keys.queues, keys.dead('q'), keys.stream('e'), keys.binding('b')):
        assert key.startswith('app:')


def test_in_a_cluster_all_that_a_script_touches_is_in_one_slot():
    keys = Keys('c', prefix='app:', cluster=True)
    for queue in ('q', 'two words', 'grün'):
        names = [*keys.lists(queue), *keys.home(queue)[:7], keys.dead(queue)]
        assert len({key_slot(name.encode()) for name in names}) == 1
    assert keys.home('q') is not keys.home('r') and len(keys.homes()) == 4


def test_a_name_that_would_spoil_the_tag_is_refused():
    with pytest.raises(InvalidArgument, match='cluster'):
        Keys('c', cluster=True).home('}q')


@pytest.mark.parametrize('script', [ADOPT, BIND, DELAY, FETCH, RENEW, SETTLE, SWEEP], ids=repr)
def test_the_scripts_are_found_and_known_by_their_digest(script):
    assert 'redis.call' in script.text and len(script.digest) == 40
