"""Messages of ours as AMQP 1.0, and what strangers put into a queue."""

import datetime
import uuid

import pytest

from greenmq.exceptions import DecodeError, InvalidArgument
from greenmq.transport.amqp10 import message as sections
from greenmq.transport.qpid import envelope
from tests.support.amqp10_proton import need_proton, proton


def message(body=b'x', headers=None, **properties):
    return {'body': body, 'content-type': 'application/json', 'content-encoding': 'utf-8',
            'headers': headers or {}, 'properties': {'delivery_info': {'exchange': 'e', 'routing_key': 'k'},
                                                     **properties}}


def test_all_of_it_comes_back():
    moment = datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
    headers = {'text': 'ä', 'number': -5, 'none': None, 'yes': True, 'half': 0.5, 'raw': b'\0',
               'map': {'a': [1, 'b']}, 'list': [1, 2], 'large': 1 << 70, 'moment': moment}
    given = message(b'\0\xff', headers, priority=7, delivery_mode=2, correlation_id='c', reply_to='r',
                    message_id='m', app_id='app', type='t', expiration='60000')
    found = envelope.decode(envelope.encode(given), 'q')
    assert (found['body'], found['content-type'], found['content-encoding']) == (
        b'\0\xff', 'application/json', 'utf-8')
    assert found['headers'] == headers
    properties = found['properties']
    assert {name: properties[name] for name in ('priority', 'delivery_mode', 'correlation_id', 'reply_to',
                                                'message_id', 'app_id', 'type')} == {
        'priority': 7, 'delivery_mode': 2, 'correlation_id': 'c', 'reply_to': 'r', 'message_id': 'm',
        'app_id': 'app', 'type': 't'}
    assert properties['delivery_info'] == {'exchange': 'e', 'routing_key': 'k'}
    assert found['redelivered'] is False


@pytest.mark.parametrize('body, encoding', [('text', None), (b'raw', None), ('AP8=', 'base64'), (None, None)])
def test_bodies_go_as_they_are(body, encoding):
    raw = sections.read(envelope.encode(message(body, body_encoding=encoding)))
    assert raw.is_data
    assert raw.body == {'text': b'text', b'raw': b'raw', 'AP8=': b'\0\xff', None: b''}[body]


def test_other_clients_read_it():
    need_proton()
    theirs = proton.Message()
    theirs.decode(envelope.encode(message(b'body', {'h': 1}, priority=3, delivery_mode=1, expiration='1500')))
    assert (bytes(theirs.body), theirs.subject, theirs.content_type) == (b'body', 'k', 'application/json')
    assert (theirs.priority, theirs.durable, theirs.ttl, theirs.properties['h']) == (3, False, 1.5, 1)


@pytest.mark.parametrize('given, said', [
    ({}, 0), ({'priority': None}, 0), ({'priority': 0}, 0), ({'priority': 3}, 3)])
def test_no_priority_is_the_lowest_one(given, said):
    # To AMQP 1.0 what is not said is 4
    assert sections.read(envelope.encode(message(**given))).header['priority'] == said


def test_what_brokers_count_is_counted():
    raw = sections.write(b'x', {'delivery_count': 3, 'first_acquirer': False})
    found = envelope.decode(raw, 'q')
    assert found['headers']['x-delivery-count'] == 3 and found['redelivered']
    assert envelope.decode(sections.write(b'x', {'first_acquirer': False}), 'q')['redelivered']


@pytest.mark.parametrize('body, read, kind', [
    ('text', b'text', 'text/plain'), ({'a': 1}, b'{"a": 1}', 'application/json'),
    ([1, 2], b'[1, 2]', 'application/json'), (b'raw', b'raw', None)])
def test_bodies_of_strangers(body, read, kind):
    need_proton()
    found = envelope.decode(proton.Message(body=body, properties={'s': proton.symbol('y')}).encode(), 'queue')
    assert (found['body'].replace(b' ', b''), found['content-type']) == (read.replace(b' ', b''), kind)
    assert found['properties']['delivery_info'] == {'exchange': '', 'routing_key': 'queue'}
    assert found['headers'] == {'s': 'y'}


def test_names_of_messages_may_be_anything():
    need_proton()
    name = uuid.uuid4()
    found = envelope.decode(proton.Message(body='x', id=name, correlation_id=proton.ulong(7)).encode(), 'q')
    assert found['properties']['message_id'] == str(name) and found['properties']['correlation_id'] == 7


def test_what_kombu_wrote_on_python_2_is_read():
    need_proton()
    old = {'body': 'eA==', 'content-type': 'text/plain', 'content-encoding': 'utf-8', 'headers': {},
           'properties': {'body_encoding': 'base64', 'delivery_info': {'exchange': '', 'routing_key': 'q'}}}
    found = envelope.decode(proton.Message(body=old).encode(), 'q')
    assert found['body'] == 'eA==' and found['properties']['body_encoding'] == 'base64'


@pytest.mark.parametrize('raw', [
    b'', b'garbage', sections.write(b'x', program={envelope.JSON: '{'}),
    sections.write(b'x', program={envelope.JSON: '[1]'}),
    sections.write(b'x', program={envelope.JSON: '{"headers": 1}'})])
def test_what_is_no_message_is_told(raw):
    with pytest.raises(DecodeError):
        envelope.decode(raw, 'q')


def test_a_life_that_amqp_cannot_say():
    with pytest.raises(InvalidArgument, match='49 days'):
        envelope.encode(message(expiration=str(1 << 32)))
