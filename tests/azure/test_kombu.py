"""kombu's transport and greenmq's on one queue, both ways."""

from __future__ import annotations

import pytest

from tests.support import green
from tests.support.azurite import Azurite
from tests.support.cloud import BODIES, CloudKombu, Seen, all_seen, declared, publish, put_as_kombu, same

pytestmark = pytest.mark.once


@pytest.fixture(scope='module')
def azurite():
    """One that takes the newest versions of the API, which kombu's SDK asks for."""
    pytest.importorskip('azure.storage.queue')
    with Azurite('--skipApiVersionCheck', name='azurite-new') as server:
        yield server


@pytest.fixture
def kombu(azurite):
    # kombu knows Azurite by this account.
    return CloudKombu(azurite.url(account='devstoreaccount1'), ('<&>\x01', {'headers': {'h': '<&>'}}),
                      polling_interval=0.1)


@pytest.mark.slow
class TestBothWays:

    def test_kombus_messages_are_read_here(self, connect, azurite, kombu, name):
        connection = connect(azurite.url(account='devstoreaccount1'))
        kombu.put(name)
        seen = all_seen(connection, declared(connection, name), 8)
        same(seen.bodies, [*BODIES, b'\x00\xff', 'packed', '<&>\x01'])
        assert {message.headers.get('h') for message in seen.messages} == {'v', None, '<&>'}

    @pytest.mark.parametrize('encoding', ['base64', 'none'])
    def test_ours_are_read_by_kombu(self, connect, azurite, kombu, name, encoding):
        connection = connect(azurite.url(account='devstoreaccount1'), body_encoding=encoding)
        declared(connection, name)
        put_as_kombu(connection, name, '<&>\x01', headers={'h': '<&>'})
        found = kombu.get(name)
        expected = [*([body, 'v'] for body in BODIES), ['00ff', None], ['packed', None], ['<&>\x01', '<&>']]
        same(found, expected)

    def test_requeued_there_and_settled_here(self, connect, azurite, kombu, name):
        connection = connect(azurite.url(account='devstoreaccount1'))
        queue = declared(connection, name)
        publish(connection, name, ['x'])
        kombu.requeue(name)
        seen = Seen(connection, queue)
        seen.until(lambda: seen.bodies == ['x'])
        green.sleep(0.2)
        seen.stop()
        assert connection.default_channel.queue_declare(name, passive=True).message_count == 0

    def test_requeued_here_and_settled_there(self, connect, azurite, kombu, name):
        connection = connect(azurite.url(account='devstoreaccount1'))
        queue = declared(connection, name)
        publish(connection, name, ['x'])
        queue.get().requeue()
        connection.close()
        assert kombu.get(name) == [['x', None]]
