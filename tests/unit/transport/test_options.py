"""Transport options: types, unknown names, and the dict of the caller that stays as it is."""

from __future__ import annotations

import warnings

import pytest

from greenmq.exceptions import InvalidArgument, UnknownOption
from greenmq.transport import memory, virtual
from greenmq.transport import options as options_module
from greenmq.transport.options import (
    Option,
    UnknownOptionWarning,
    convert,
    defaults,
    options_table,
    seconds,
    truth,
    whole,
)


@pytest.fixture(autouse=True)
def nothing_warned_yet(monkeypatch):
    monkeypatch.setattr(options_module, '_warned', set())


def test_text_of_a_url_is_converted():
    given = {'fetch_ahead': '7', 'strict_options': 'no', 'publish_timeout': '2.5', 'close_timeout': 'none'}
    converted = convert(given, memory.Transport)
    assert converted == {
        'fetch_ahead': 7,
        'strict_options': False,
        'publish_timeout': 2.5,
        'close_timeout': None,
    }
    assert given['fetch_ahead'] == '7'


def test_an_unknown_name_warns_once_with_the_nearest():
    with pytest.warns(
        UnknownOptionWarning, match="memory has no transport option 'fetch_ahed'.*'fetch_ahead'"
    ):
        assert convert({'fetch_ahed': 1}, memory.Transport) == {'fetch_ahed': 1}
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        convert({'fetch_ahed': 1}, memory.Transport)


def test_a_transport_without_a_table_may_read_what_it_likes():
    class Theirs(virtual.Transport):
        pass

    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert convert({'data_folder_in': 'x'}, Theirs) == {'data_folder_in': 'x'}
    with pytest.raises(UnknownOption):
        convert({'data_folder_in': 'x', 'strict_options': True}, Theirs)


def test_strict_options_refuse():
    with pytest.raises(UnknownOption, match="'fetch_ahed'.*did you mean 'fetch_ahead'"):
        convert({'fetch_ahed': 1, 'strict_options': '1'}, memory.Transport)


@pytest.mark.parametrize(
    ('name', 'value'),
    [('fetch_ahead', 'many'), ('fetch_ahead', -1), ('strict_options', 'perhaps'), ('publish_timeout', -1),
     ('publish_timeout', 'nan')],
)  # fmt: skip
def test_a_value_of_the_wrong_kind_names_option_and_value(name, value):
    with pytest.raises(InvalidArgument, match=name) as caught:
        convert({name: value}, memory.Transport)
    assert caught.value.value == value


def test_tables_of_bases_are_joined_and_kombus_names_count():
    class Mine(memory.Transport):
        options = {'mine': Option(whole, 3, 'of mine')}

    table = options_table(Mine)
    assert table['mine'].default == 3 and 'fetch_ahead' in table and 'deadletter_queue' in table
    assert defaults(Mine)['publish_timeout'] == 30.0
    assert 'mine' not in options_table(memory.Transport)


def test_every_option_of_ours_says_what_it_is():
    for name, option in options_table(memory.Transport).items():
        assert option.doc or name in memory.Channel.from_transport_options, name


@pytest.mark.parametrize(
    ('text', 'value'),
    [('1', True), ('Yes', True), ('on', True), ('0', False), ('off', False), (1, True), (None, False)],
)  # fmt: skip
def test_truth(text, value):
    assert truth(text) is value


def test_seconds():
    assert seconds('0') == 0 and seconds(None) is None and seconds('None') is None
    assert seconds(float('inf')) == float('inf')
