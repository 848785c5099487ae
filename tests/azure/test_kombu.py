"""kombu's transport and greenmq's on one queue, both ways."""

from __future__ import annotations

import json
import sys

import pytest

from tests.azure.test_calls import publish
from tests.sqs.test_kombu import BODIES, same
from tests.support import green
from tests.support.azurite import Azurite
from tests.support.cloud import Seen, declared
from tests.support.process import run

pytestmark = pytest.mark.once

KOMBU = """
import json, sys
from kombu import Connection
url, mode, name = sys.argv[1:]
with Connection(url, transport_options={'polling_interval': 0.1}) as connection:
    queue = connection.SimpleQueue(name, serializer='json')
    if mode == 'put':
        for body in ['text', {'a': [1, None]}, '\\u00e4', [], 1.5]:
            queue.put(body, headers={'h': 'v'})
        queue.put(b'\\x00\\xff', serializer='raw')
        queue.put('packed', compression='gzip')
        queue.put('<&>\\x01', headers={'h': '<&>'})
    elif mode == 'requeue':
        queue.get(timeout=10).requeue()
    else:
        found = []
        while True:
            try:
                message = queue.get(timeout=2)
            except queue.Empty:
                break
            body = message.payload
            found.append([body.hex() if isinstance(body, bytes) else body, message.headers.get('h')])
            message.ack()
        print('FOUND' + json.dumps(found))
    queue.close()
"""


@pytest.fixture(scope='module')
def azurite():
    """One that takes the newest versions of the API, which kombu's SDK asks for."""
    pytest.importorskip('azure.storage.queue')
    with Azurite('--skipApiVersionCheck', name='azurite-new') as server:
        yield server


def kombu(server, mode, name):
    # kombu knows Azurite by this account.
    url = server.url(account='devstoreaccount1')
    return run([sys.executable, '-c', KOMBU, url, mode, name], 60)


@pytest.mark.slow
class TestBothWays:

    def test_kombus_messages_are_read_here(self, connect, azurite, name):
        connection = connect(azurite.url(account='devstoreaccount1'))
        kombu(azurite, 'put', name)
        seen = Seen(connection, declared(connection, name))
        seen.until(lambda: len(seen.bodies) == 8)
        green.sleep(0.2)
        seen.stop()
        same(seen.bodies, [*BODIES, b'\x00\xff', 'packed', '<&>\x01'])
        assert {message.headers.get('h') for message in seen.messages} == {'v', None, '<&>'}

    @pytest.mark.parametrize('encoding', ['base64', 'none'])
    def test_ours_are_read_by_kombu(self, connect, azurite, name, encoding):
        connection = connect(azurite.url(account='devstoreaccount1'), body_encoding=encoding)
        declared(connection, name)
        producer = connection.Producer(routing_key=name)
        for body in BODIES:
            producer.publish(body, serializer='json', headers={'h': 'v'})
        producer.publish(b'\x00\xff', serializer='raw')
        producer.publish('packed', serializer='json', compression='gzip')
        producer.publish('<&>\x01', serializer='json', headers={'h': '<&>'})
        found = json.loads(kombu(azurite, 'get', name).partition('FOUND')[2])
        expected = [*([body, 'v'] for body in BODIES), ['00ff', None], ['packed', None], ['<&>\x01', '<&>']]
        same(found, expected)

    def test_requeued_there_and_settled_here(self, connect, azurite, name):
        connection = connect(azurite.url(account='devstoreaccount1'))
        queue = declared(connection, name)
        publish(connection, name, ['x'])
        kombu(azurite, 'requeue', name)
        seen = Seen(connection, queue)
        seen.until(lambda: seen.bodies == ['x'])
        green.sleep(0.2)
        seen.stop()
        assert connection.default_channel.queue_declare(name, passive=True).message_count == 0

    def test_requeued_here_and_settled_there(self, connect, azurite, name):
        connection = connect(azurite.url(account='devstoreaccount1'))
        queue = declared(connection, name)
        publish(connection, name, ['x'])
        queue.get().requeue()
        connection.close()
        assert json.loads(kombu(azurite, 'get', name).partition('FOUND')[2]) == [['x', None]]
