"""Which regular expressions of a stranger a node looks for: none that may take for ever."""

from __future__ import annotations

import pytest

from greenmq.core.commands import LONGEST_PATTERN, check_command, check_expression
from greenmq.exceptions import InvalidArgument


@pytest.mark.parametrize(
    'pattern',
    ['celery@.*', r'^worker-[0-9]+@.*\.example\.com$', '(a|b)@host', r'\(\)+', '[)*+?{]+x', 'a{2,3}',
     '(?i)CELERY@.*',
     '(?:a|b)c*', 'a+?b+?c+?', r'a\*\*\*\*\*\*'],
)  # fmt: skip
def test_plain_ones_are_taken(pattern):
    check_expression(pattern)


@pytest.mark.parametrize(
    'pattern',
    ['(a+)+$', '(a|a)*b', '(.*)*x', '((a)){9}', r'(a*)\1+', '(?P<n>a*)(?P=n)', '(?x)(a+) # c\n+', '.*.*.*.*x',
     'a?a?a?a?aaaa', '(a+){2,}', '(a*)(?#c)*', '(?=(a+))b', '(?sx) (a)'],
)  # fmt: skip
def test_those_that_repeat_what_repeats_are_refused(pattern):
    with pytest.raises(InvalidArgument, match='repeats'):
        check_expression(pattern)


@pytest.mark.parametrize('matcher', ['glob', 'pcre', 'another'])
def test_long_ones_are_refused(matcher):
    command = {'method': 'ping', 'matcher': matcher}
    check_command({**command, 'pattern': 'a' * LONGEST_PATTERN}, ())
    with pytest.raises(InvalidArgument, match='longer than 512'):
        check_command({**command, 'pattern': 'a' * (LONGEST_PATTERN + 1)}, ())
