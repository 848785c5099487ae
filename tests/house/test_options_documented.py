"""The manual of a transport names each of its options, with its default."""

from __future__ import annotations

import pathlib
import re

import pytest

from greenmq.transport import get_transport_cls
from greenmq.transport.options import options_table

DOCS = pathlib.Path(__file__).parents[2] / 'docs'
ROW = re.compile(r'^``(\w+)``  +(.*?)  +\S')


def rows(page):
    """Option → default, as the table of a page has them."""
    text = (DOCS / page).read_text().partition('\nOptions\n')[2]
    return {found[1]: found[2] for found in map(ROW.match, text.splitlines()) if found}


def shown(default):
    if default is None:
        return ''
    if isinstance(default, bool) or not isinstance(default, int):
        return f'{default:g}' if isinstance(default, float) else str(default)
    return f'{default:,}'


@pytest.mark.parametrize(('page', 'transport'), [('amqp.rst', 'amqp')])
def test_the_manual_has_every_option_and_its_default(page, transport):
    table = options_table(get_transport_cls(transport))
    assert rows(page) == {name: shown(option.default) for name, option in table.items()}
