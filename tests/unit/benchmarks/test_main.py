"""The command that runs all benchmarks: what a machine has not is left out, and said."""
import pytest

from benchmarks import __main__ as benchmark
from benchmarks import brokers, cloud, pools


@pytest.fixture
def suites(monkeypatch):
    """Two of them, the first without its broker, the second with a target that is missed."""
    def absent(arguments):
        raise brokers.Missing('no broker to measure against: not built')

    monkeypatch.setattr(cloud, 'main', absent)
    monkeypatch.setattr(pools, 'main', lambda arguments: 1)


def test_the_others_are_measured_without_a_broker(suites, capsys):
    assert benchmark.main(['cloud', 'pools']) == 0
    said = capsys.readouterr().out
    assert 'cloud: no broker to measure against: not built' in said
    assert 'not measured, or not all of it: cloud\n' in said and 'targets missed in: pools\n' in said


@pytest.mark.parametrize('name', ['cloud', 'pools'])
def test_strictly_each_of_both_is_a_failure(suites, name):
    assert benchmark.main([name, '--strict']) == 1
