"""The text of a message: kombu's, whatever it holds, and the ready-made form is the same text."""

from __future__ import annotations

import datetime
import json

import pytest

from greenmq.exceptions import DecodeError
from greenmq.transport.redis.envelope import Envelopes, opened

pytestmark = pytest.mark.once


def message(body=b'body', headers=None, **properties):
    return {
        'body': body,
        'content-encoding': 'utf-8',
        'content-type': 'application/json',
        'headers': headers or {},
        'properties': {'delivery_mode': 2, 'priority': 0, **properties},
    }


@pytest.mark.parametrize('key', ['plain', 'quo"te', 'back\\slash', 'grün', '\x00', ''])
def test_the_ready_made_text_says_what_the_long_way_says(key):
    quick, slow = Envelopes('t-'), Envelopes('t-')
    for body in (b'', b'one', b'\xff\x00' * 40):
        text = quick.write(message(body), 'ex"', key, 'base64')
        longer = slow.write(message(body, x=1), 'ex"', key, 'base64')
        expected = json.loads(longer)
        del expected['properties']['x']
        assert json.loads(text) == expected
        assert json.loads(text)['properties']['delivery_info'] == {'exchange': 'ex"', 'routing_key': key}


def test_each_message_has_a_tag_of_its_own():
    envelopes = Envelopes('t-')
    tags = {
        json.loads(envelopes.write(message(), '', 'q', 'base64'))['properties']['delivery_tag']
        for _ in range(9)
    }
    assert len(tags) == 9


def test_the_message_given_is_not_changed():
    given = message(headers={'a': 1}, correlation_id='c')
    before = json.dumps(given, default=repr)
    Envelopes('t-').write(given, 'e', 'k', 'base64')
    assert json.dumps(given, default=repr) == before


def test_times_in_headers_come_back_as_times():
    when = datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)
    text = Envelopes('t-').write(message(headers={'when': when}), '', 'q', 'base64')
    assert opened(text.encode(), 'tag')['headers'] == {'when': when}


def test_bodies_without_encoding_stay_text_if_they_are_text():
    text = json.loads(Envelopes('t-').write(message('grün'.encode()), '', 'q', None))
    assert text['body'] == 'grün' and text['properties']['body_encoding'] is None
    text = json.loads(Envelopes('t-').write(message(b'\xff'), '', 'q', None))
    assert text['properties']['body_encoding'] == 'base64'


def test_how_often_it_was_given_back_stands_in_front():
    text = Envelopes('t-').write(message(), '', 'q', 'base64')
    found = opened(('{"redelivered":3,' + text[1:]).encode(), 'tag')
    assert found['redelivered'] == 3 and found['headers']['x-delivery-count'] == 3
    assert not opened(text.encode(), 'tag').get('redelivered')


def test_what_kombu_restored_is_known_as_such():
    text = Envelopes('t-').write(message(), '', 'q', 'base64')
    text = text.replace('"delivery_info": {', '"delivery_info": {"redelivered": true, ')
    assert opened(text.encode(), 'tag')['redelivered'] is True


WRONG = [5, [], 'x', True, 1.5, {'a': 1}, [[1]]]


def spoilt():
    yield from [b'', b'[]', b'{"a": 1}', b'not json', b'\xff', b'{"properties": 7}', b'[' * 100_000]
    yield b'{"body": "", "properties": {}, "headers": {"a": ' + b'[' * 50_000 + b']' * 50_000 + b'}}'
    whole = {'body': 'YQ==', 'content-type': 'text/plain', 'content-encoding': 'utf-8', 'headers': {},
             'properties': {'body_encoding': 'base64', 'delivery_info': {'exchange': '', 'routing_key': 'q'}}}
    maps = (whole, whole['properties'], whole['properties']['delivery_info'])
    for fields in maps:
        for name, value in list(fields.items()):
            for wrong in WRONG:
                if type(wrong) is not type(value):
                    fields[name] = wrong
                    yield json.dumps(whole).encode()
            fields[name] = value


@pytest.mark.parametrize('raw', list(spoilt()), ids=lambda raw: repr(raw)[:60])
def test_what_is_no_message_is_said(raw):
    with pytest.raises(DecodeError):
        opened(raw, 'tag')


def test_what_is_known_of_other_messages_changes_nothing():
    envelopes = Envelopes('t-')
    texts = [
        envelopes.write(message(body, **more), 'e', 'k', 'base64').encode()
        for body in (b'', b'one', b'"two"')
        for more in ({}, {'correlation_id': 'c'}, {'x': [1]})
    ]
    once = [opened(text, f'tag{n}') for n, text in enumerate(texts)]
    again = [opened(text, f'tag{n}') for n, text in enumerate(texts)]
    assert (
        once
        == again
        == [
            {**json.loads(text), 'properties': {**json.loads(text)['properties'], 'delivery_tag': f'tag{n}'}}
            for n, text in enumerate(texts)
        ]
    )
    again[0]['headers']['a'] = again[0]['properties']['a'] = again[0]['properties']['delivery_info']['a'] = 1
    assert opened(texts[0], 'tag0') == once[0]


@pytest.mark.parametrize(
    'spoil',
    [
        lambda text: text[:-1],
        lambda text: text + ' ',
        lambda text: text.replace('"}}', '", "more": 1}}'),
        lambda text: text.replace('"}}', '"}, "redelivered": 2}'),
    ],
)
def test_a_text_that_only_begins_like_a_known_one_is_read_as_it_is(spoil):
    text = Envelopes('t-').write(message(b'one'), 'e', 'k', 'base64')
    opened(text.encode(), 'tag')
    spoilt = spoil(text)
    try:
        expected = json.loads(spoilt)
    except ValueError:
        with pytest.raises(DecodeError):
            opened(spoilt.encode(), 'tag')
        return
    expected['properties']['delivery_tag'] = 'tag'
    if 'redelivered' in expected:
        expected['headers']['x-delivery-count'] = 2
    assert opened(spoilt.encode(), 'tag') == expected
