"""The table says what the figures say."""
from __future__ import annotations

import sys

import pytest

from benchmarks import __main__ as listing
from benchmarks import options, runner
from benchmarks.peers import Peer
from benchmarks.runner import Figure, Row


def row(ours, theirs, met):
    return Row('what', Figure(tuple(ours)), Figure(tuple(theirs)), 'a target', met)


def test_a_figure_is_the_median_with_its_spread():
    figure = Figure.of([{'us': 30.0, 'x': 0}, {'us': 10.0, 'x': 0}, {'us': 500.0, 'x': 0}], 'us')
    assert figure.median == 30.0
    assert str(figure) == '30.0 [10.0–500]'


@pytest.mark.parametrize(('ours', 'theirs', 'met', 'verdict'), [
    ([5.0], [10.0], runner.at_most_ratio(0.5), 'met'),
    ([5.1], [10.0], runner.at_most_ratio(0.5), 'NOT MET'),
    ([1.9], [0.1], runner.below(2.0), 'met'),
    ([2.0], [9.0], runner.below(2.0), 'NOT MET'),
    ([2.0], [9.0], None, ''),
])
def test_a_target_is_met_or_not(ours, theirs, met, verdict):
    assert row(ours, theirs, met).verdict == verdict


def test_one_missed_target_is_the_exit_status(capsys, monkeypatch):
    monkeypatch.setattr(Peer, 'version', lambda peer: '1.0')
    peers = Peer('ours', sys.executable), Peer('theirs', sys.executable)
    good, bad = row([1.0], [9.0], runner.below(2.0)), row([3.0], [9.0], runner.below(2.0))
    assert runner.show('t', peers, [good], 5) == 0
    assert runner.show('t', peers, [good, bad], 5) == 1
    assert 'NOT MET' in capsys.readouterr().out


def test_the_peers_take_turns(monkeypatch):
    turns = []
    monkeypatch.setattr(runner, 'once', lambda peer, *_: turns.append(peer.package) or {'us': 1.0})
    results = runner.rounds([Peer('a', ''), Peer('b', '')], 'probe', [], 3)
    assert turns == ['a', 'b'] * 3
    assert [len(results[name]) for name in 'ab'] == [3, 3]


def test_a_slow_peer_may_have_arguments_of_its_own(monkeypatch):
    monkeypatch.setattr(runner, 'once', lambda peer, probe, arguments: {peer.package: arguments})
    results = runner.rounds([Peer('a', ''), Peer('b', '')], 'probe', {'a': ['aa'], 'b': ['bb']}, 1)
    assert results == {'a': [{'a': ['aa']}], 'b': [{'b': ['bb']}]}


def test_every_benchmark_says_what_it_measures(capsys):
    assert all(listing.described().values())
    with pytest.raises(SystemExit) as ended:
        listing.main(['nonsense'])
    assert ended.value.code == 2
    assert 'there are clients' in capsys.readouterr().err


def test_a_benchmark_gets_the_options_that_it_takes(monkeypatch):
    given = {}
    for name in ('redis', 'import'):
        monkeypatch.setattr(listing.module(name), 'main',
                            lambda arguments, name=name: given.setdefault(name, arguments) and 0)
    url = 'redis://localhost:1/0'
    listing.main(['redis', 'import', '--quick', '--rounds', '2', '--redis-url', url, '--peers', 'pika'])
    assert given == {'redis': ['--rounds', '2', '--quick', '--redis-url', url], 'import': ['--rounds', '2']}


def test_options_survive_being_handed_on():
    names = ('rounds', 'messages', 'quick', 'peers', 'amqp_url')
    first = options.parse('x', None, names, ['--peers', 'a', 'b', '--rounds', '7', '--messages', '50'])
    assert options.parse('x', None, names, options.given(first, names)) == first
    assert options.parse('x', None, names, ['--quick', '--messages', '50']).messages == 5
