"""The peer is held against the vendor's client; kombu's transport and greenmq's on one queue, both ways."""

from __future__ import annotations

import sys

import pytest

from tests.support.cloud import BODIES, CloudKombu, Seen, all_seen, declared, publish, put_as_kombu, same
from tests.support.process import run

pytestmark = [pytest.mark.once, pytest.mark.slow]

VENDOR = """
import datetime, sys, time
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusClient, ServiceBusMessage
text, queue, sessions = sys.argv[1:]

def receive(receiver, count):
    found = []
    while len(found) < count:
        found += receiver.receive_messages(count, max_wait_time=5)
    return found

with ServiceBusClient.from_connection_string(text) as client:
    with client.get_queue_sender(queue) as sender, client.get_queue_receiver(queue) as receiver:
        for number in range(3):
            sender.send_messages(ServiceBusMessage(f'one {number}'))
        sender.send_messages([ServiceBusMessage(f'batch {number}') for number in range(3)])
        got = receive(receiver, 6)
        assert sorted(map(str, got)) == sorted([f'{w} {n}' for w in ('one', 'batch') for n in range(3)])
        receiver.renew_message_lock(got[0])
        receiver.abandon_message(got[5])
        receiver.dead_letter_message(got[4], reason='why')
        for message in got[:4]:
            receiver.complete_message(message)
        again, = receive(receiver, 1)
        assert again.delivery_count == 1 and str(again) == str(got[5])
        receiver.complete_message(again)
        due = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=0.3)
        sender.schedule_messages(ServiceBusMessage('later'), due)
        later, = receive(receiver, 1)
        assert time.time() >= due.timestamp() - 0.1
        receiver.complete_message(later)
        with client.get_queue_receiver(queue, sub_queue='deadletter') as dead:
            message, = receive(dead, 1)
            assert message.dead_letter_reason == 'why'
            dead.complete_message(message)
    with client.get_queue_sender(sessions) as sender:
        for number in range(4):
            sender.send_messages(ServiceBusMessage(str(number), session_id=f's{number % 2}'))
    with client.get_queue_receiver(sessions, session_id=NEXT_AVAILABLE_SESSION) as receiver:
        assert receiver.session.session_id == 's0' and list(map(str, receive(receiver, 2))) == ['0', '2']
        receiver.session.set_state(b'x')
        assert receiver.session.get_state() == b'x' and receiver.session.renew_lock()
print('ALL WELL')
"""

#: kombu can speak to its own management over https alone: the queue is there already.
KOMBU = """
import sys
from azure.core.exceptions import ResourceExistsError
from kombu.transport import azureservicebus
from tests.support import cloud_kombu

class Management:
    def create_queue(self, queue_name, lock_duration):
        raise ResourceExistsError('it is there')
    def get_queue_runtime_properties(self, queue):
        return type('Facts', (), {'total_message_count': 0})

def parse(self):
    self._namespace, self._connection_string = 'peer', sys.argv[1]

azureservicebus.Channel._try_parse_connection_string = parse
azureservicebus.Channel.queue_mgmt_service = Management()
cloud_kombu.main('azureservicebus://p:k@peer', *sys.argv[2:])
"""


@pytest.fixture(autouse=True)
def vendor():
    pytest.importorskip('azure.servicebus')


@pytest.fixture
def kombu(bus):
    return CloudKombu(bus.connection_string(), ('<&>\x01', {'headers': {'h': '<&>'}}), patience=3,
                      command=[sys.executable, '-W', 'ignore', '-c', KOMBU], wait_time_seconds=2)


def test_the_vendors_client_is_content_with_the_peer(bus, name):
    bus.ask('create', name=name, facts={'LockDuration': 'PT5S'})
    bus.ask('create', name=f'{name}-s', facts={'RequiresSession': 'true'})
    said = run([sys.executable, '-W', 'ignore', '-c', VENDOR, bus.connection_string(), name, f'{name}-s'], 60)
    assert 'ALL WELL' in said


class TestKombu:

    def test_its_messages_are_read_here(self, connect, bus, kombu, name):
        connection = connect(bus.url())
        queue = declared(connection, name)
        kombu.put(name)
        seen = all_seen(connection, queue, 8)
        same(seen.bodies, [*BODIES, b'\x00\xff', 'packed', '<&>\x01'])
        assert {message.headers.get('h') for message in seen.messages} == {'v', None, '<&>'}

    @pytest.mark.parametrize('encoding', ['base64', 'none'])
    def test_ours_are_read_by_it(self, connect, bus, kombu, name, encoding):
        connection = connect(bus.url(), body_encoding=encoding)
        declared(connection, name)
        put_as_kombu(connection, name, '<&>\x01', headers={'h': '<&>'})
        found = kombu.get(name)
        expected = [*([body, 'v'] for body in BODIES), ['00ff', None], ['packed', None], ['<&>\x01', '<&>']]
        same(found, expected)

    def test_requeued_there_and_settled_here(self, connect, bus, kombu, name):
        connection = connect(bus.url(), peek_lock_seconds=2)
        queue = declared(connection, name)
        publish(connection, name, ['x'])
        kombu.requeue(name)  # which tells the service nothing: it comes when its lock ends
        seen = Seen(connection, queue)
        seen.until(lambda: seen.bodies == ['x'])
        seen.stop()
        assert seen.messages[0].headers['x-delivery-count'] == 1

    def test_requeued_here_and_settled_there(self, connect, bus, kombu, name):
        connection = connect(bus.url())
        queue = declared(connection, name)
        publish(connection, name, ['x'])
        queue.get().requeue()
        connection.close()
        assert kombu.get(name) == [['x', None]]
