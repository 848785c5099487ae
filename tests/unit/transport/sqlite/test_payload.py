"""What stands in the file for a message, and what comes back."""
from __future__ import annotations

import sqlite3

import pytest

import greenmq

QUEUE = greenmq.Queue('q', greenmq.Exchange('e', 'direct'), routing_key='q')


@pytest.mark.parametrize('body', [b'{"a": 1}', b'\xff\x00\n{', b'', 'grün', ''])
def test_a_body_stands_there_as_it_is(tmp_path, body):
    with greenmq.Connection(f'file://{tmp_path}') as connection:
        channel = connection.default_channel
        QUEUE(channel).declare()
        channel.basic_publish(channel.prepare_message(body), 'e', 'q')
        with sqlite3.connect(tmp_path / 'broker.db') as db:
            (payload,) = db.execute('SELECT payload FROM message').fetchone()
        length, _, rest = payload.partition(b'\n')
        raw = body if isinstance(body, bytes) else body.encode()
        assert rest[int(length) :] == raw
        assert b'delivery_tag' not in rest  # nobody else reads it
        assert QUEUE(channel).get(no_ack=True).body == raw
