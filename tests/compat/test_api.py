"""Every recorded name, kind, parameter and default of kombu is here too, but for what omissions.txt names."""

import pytest

from tests.compat import table

OMISSIONS = table.Omissions((table.HERE / 'omissions.txt').read_text())


@pytest.mark.parametrize('module', table.TABLE['modules'], ids=lambda name: name or 'the package itself')
def test_a_module_has_what_kombu_has(module):
    problems = list(table.compare_module(module, OMISSIONS))
    assert not problems, '\n'.join(problems)


@pytest.mark.parametrize('hook', table.TABLE['hooks'])
def test_a_private_name_that_others_use_is_there(hook):
    problems = list(table.compare_hook(hook, table.TABLE['hooks'][hook], OMISSIONS))
    assert not problems, '\n'.join(problems)


def test_every_omission_is_needed_and_says_why():
    omissions = table.Omissions((table.HERE / 'omissions.txt').read_text())
    for module in table.TABLE['not_compared']:
        omissions.cover(module)
    for module in table.TABLE['modules']:
        list(table.compare_module(module, omissions))
    for hook, facts in table.TABLE['hooks'].items():
        list(table.compare_hook(hook, facts, omissions))
    assert set(omissions.reasons) == omissions.used
    assert all(omissions.reasons.values())


class TestTheComparison:
    """A comparison that finds nothing wrong anywhere would pass as well; so here is what it must find."""

    @staticmethod
    def signature(recorded, function, omissions=''):
        return list(table.compare_signature('f', recorded, function, 0, table.Omissions(omissions)))

    def test_the_same(self):
        recorded = ['a', 'b=None', '*args', 'c=1', '**kw']
        assert not self.signature(recorded, lambda a, b=None, *args, c=1, **kw: 0)

    def test_more_with_a_default_is_no_harm(self):
        assert not self.signature(['a'], lambda a, b=None: 0)

    @pytest.mark.parametrize('function', [
        lambda: 0, lambda b, a: 0, lambda a: 0, lambda a, c: 0, lambda a, *, b=None: 0, lambda a, b: 0,
        lambda a, b=None, *, c: 0, lambda a, b=3: 0,
    ])
    def test_a_call_that_no_longer_works(self, function):
        assert self.signature(['a', 'b=None'], function)

    def test_star_arguments_that_are_gone(self):
        assert self.signature(['a', '*args'], lambda a: 0)
        assert self.signature(['a', '**kwargs'], lambda a: 0)

    def test_a_name_that_callers_cannot_use(self):
        assert not self.signature(['a', '/'], lambda other: 0)

    def test_an_omitted_parameter(self):
        for function in (lambda a, c=2: 0, lambda a, b=1, c=2: 0):
            assert not self.signature(['a', 'b=None', 'c=2'], function, omissions='f(b)  # for the test')
        assert self.signature(['a', 'b=None', 'c=2'], lambda a, b=1, c=3: 0, omissions='f(b)  # for the test')

    def test_defaults_that_are_sets(self):
        recorded = ["a=frozenset({'x', 'y'})"]
        assert not self.signature(recorded, lambda a=frozenset('yx'): 0)
        assert self.signature(recorded, lambda a=frozenset('x'): 0)

    def test_members(self):
        class Found:
            here = 2
            prop = property(lambda self: 1)

            def method(self, a): ...

        recorded = {'bases': ['x.Base'], 'methods': {'method': [], 'prop': [], 'gone': []},
                    'attributes': {'here': [1]}, 'properties': ['method'], 'special': ['__call__'],
                    'instance': ['never_set']}
        problems = list(table.compare_class('Found', recorded, Found, table.Omissions('')))
        named = {problem.partition(':')[0] for problem in problems}
        assert named == {'Found', 'Found.method', 'Found.prop', 'Found.gone', 'Found.here', 'Found.never_set'}

    def test_a_pattern_covers_what_lies_below(self):
        omissions = table.Omissions('a.b*  # why\n\n# a comment\nc.d(e)  # why\n')
        assert omissions.cover('a.bc.d') and omissions.cover('c.d(e)')
        assert not omissions.cover('a') and not omissions.cover('c.d')
        assert omissions.used == {'a.b*', 'c.d(e)'}
