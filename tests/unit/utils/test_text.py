"""What a stranger wrote, made fit for a line of a log."""

from __future__ import annotations

import pytest

from greenmq.utils.text import printable


@pytest.mark.parametrize(('text', 'shown'), [
    ('NOT_FOUND - no queue “q”', 'NOT_FOUND - no queue “q”'),
    ('\x1b[31mred\x1b[0m', '\\x1b[31mred\\x1b[0m'),
    ('line\r\nERROR forged', 'line\\r\\nERROR forged'),
    ('a\0b\x7f\x9bc', 'a\\x00b\\x7f\\x9bc'),
    ('gnp\u202eexe', 'gnp\\u202eexe'),
    ('\u2028', '\\u2028'),
    ('\ud800', '\\ud800'),
    (b'\xff\x1b', '\\xff\\x1b'),
    (b'caf\xc3\xa9', 'café'),
    (None, 'None'),
    ('x' * 2000, 'x' * 1000 + '… (2000 long)'),
])  # fmt: skip
def test_what_a_stranger_wrote_fits_a_line_and_moves_no_cursor(text, shown):
    assert printable(text) == shown
    assert printable(text).isprintable()
