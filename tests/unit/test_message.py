import logging
import random

import pytest

from greenmq.compression import compress, decompress
from greenmq.exceptions import (
    ContentDisallowed,
    DecodeError,
    DecompressionLimit,
    MessageStateError,
    StaleDelivery,
)
from greenmq.message import Message, settle_undecodable
from tests.support import green
from tests.unit.recorder import Recorder


@pytest.fixture
def channel():
    return Recorder()


def make(channel=None, body=b'{"a": 1}', **options):
    options = {
        'content_type': 'application/json',
        'content_encoding': 'utf-8',
        'delivery_tag': 't',
        **options,
    }
    return Message(body, channel=channel, **options)


def test_the_payload_is_decoded_once():
    message = make(body=b'{}')
    assert message.payload == {}
    assert message.payload is message.payload is message.decode()


def test_nothing_is_decoded_before_it_is_asked_for(channel):
    message = make(channel, body=b'{')
    message.ack()
    with pytest.raises(DecodeError, match='application/json'):
        message.payload  # noqa: B018


def test_accept_limits_what_is_decoded():
    with pytest.raises(ContentDisallowed):
        make(accept={'application/x-yaml'}).payload  # noqa: B018
    assert make(accept={'application/json'}).payload == {'a': 1}


@pytest.mark.parametrize(
    'method, args, call, state',
    [
        ('ack', (), ('basic_ack', ('t',), {'multiple': False}), 'ACK'),
        ('ack', (True,), ('basic_ack', ('t',), {'multiple': True}), 'ACK'),
        ('reject', (), ('basic_reject', ('t',), {'requeue': False}), 'REJECTED'),
        ('reject', (True,), ('basic_reject', ('t',), {'requeue': True}), 'REJECTED'),
        ('requeue', (), ('basic_reject', ('t',), {'requeue': True}), 'REQUEUED'),
    ],
)
def test_settling(channel, method, args, call, state):
    message = make(channel)
    assert getattr(message, method)(*args) is None
    assert channel.calls == [call]
    assert message.acknowledged
    for again in ('ack', 'reject', 'requeue'):
        with pytest.raises(MessageStateError, match=f'already acknowledged with state: {state}'):
            getattr(message, again)()
    assert len(channel.calls) == 1


@pytest.mark.parametrize('method', ['ack', 'reject', 'requeue'])
def test_without_a_channel(method):
    with pytest.raises(MessageStateError, match='receiving channel'):
        getattr(make(), method)()


def test_no_ack_deliveries_need_none(channel):
    channel.no_ack_consumers = {'c'}
    message = make(channel, delivery_info={'consumer_tag': 'c'})
    assert message.ack() is None
    assert (channel.calls, message.acknowledged) == ([], False)


@pytest.mark.parametrize('method, name', [('ack', 'basic_ack'), ('reject', 'basic_reject')])
def test_a_settlement_that_failed_may_be_tried_again(channel, method, name):
    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    message = make(channel)
    setattr(channel, name, fail)
    with pytest.raises(KeyboardInterrupt):
        getattr(message, method)()
    assert not message.acknowledged
    delattr(channel, name)
    getattr(message, method)()
    assert message.acknowledged


def test_only_the_first_of_two_greenlets_settles(channel):
    message = make(channel)

    def slow_ack(*args, **kwargs):
        # While the first one waits for room in the buffer, another greenlet comes.
        with pytest.raises(MessageStateError):
            message.ack()

    channel.basic_ack = slow_ack
    message.ack()
    assert message.acknowledged


def test_a_stale_delivery_is_dropped_and_said(channel):
    channel.answers['basic_ack'] = channel.answers['basic_reject'] = False
    channel.is_stale = lambda tag: True
    message = make(channel)
    assert message.redelivery_expected
    assert message.ack() is False
    assert message.reject() is False
    assert message.redelivery_expected
    assert not message.acknowledged


def test_a_stale_delivery_may_be_an_error(channel):
    def stale(*args, **kwargs):
        raise StaleDelivery('its connection was lost', 't')

    channel.basic_ack = stale
    message = make(channel)
    with pytest.raises(StaleDelivery):
        message.ack()
    assert message.redelivery_expected


def test_redelivery_is_not_expected_of_a_message_in_hand(channel):
    channel.is_stale = lambda tag: False
    message = make(channel)
    assert not message.redelivery_expected
    message.ack()
    assert not message.redelivery_expected


def test_log_error(channel, caplog):
    def fail(*args, **kwargs):
        raise OSError('gone')

    channel.basic_ack = channel.basic_reject = fail
    message = make(channel)
    log = logging.getLogger('test')
    message.ack_log_error(log, (OSError,))
    message.reject_log_error(log, (OSError,), requeue=True)
    assert [record.getMessage().split(',')[0] for record in caplog.records] == [
        "Couldn't ack 't'", "Couldn't reject 't'",
    ]  # fmt: skip
    with pytest.raises(OSError, match='gone'):
        message.ack_log_error(log, (KeyError,))


def counted(monkeypatch):
    calls = []

    def counting(body, *args, **options):
        calls.append(body)
        return decompress(body, *args, **options)

    monkeypatch.setattr('greenmq.message.decompress', counting)
    return calls


def test_what_nobody_would_read_is_not_inflated(monkeypatch):
    calls = counted(monkeypatch)
    body, compression = compress(b'{"a": 1}', 'zlib')
    message = make(
        body=body,
        headers={'compression': compression},
        content_type='application/x-yaml',
        accept={'application/json'},
    )
    assert not message.errors and 'body_length' in repr(message)
    with pytest.raises(ContentDisallowed):
        message.decode()
    assert calls == []
    assert message.body == b'{"a": 1}' and message.body  # who looks at it himself gets it, once
    assert calls == [body]


def test_a_body_is_inflated_once_and_late(monkeypatch):
    calls = counted(monkeypatch)
    body, compression = compress(b'{"a": 1}', 'zlib')
    message = make(body=body, headers={'compression': compression})
    assert calls == []
    assert message.payload == {'a': 1} and message.payload and message.body and message.errors == []
    assert calls == [body]


def test_what_is_unreadable_already_is_not_inflated(monkeypatch):
    calls = counted(monkeypatch)
    message = make(body=b'zz', headers={'compression': 'application/x-gzip'})
    assert message.fault is None
    message._record(DecodeError('its properties'))
    assert 'its properties' in str(message.fault) and len(message.errors) == 1
    with pytest.raises(DecodeError, match='its properties'):
        message.decode()
    assert message.body == b'zz' and calls == []


def test_a_compression_that_is_no_name():
    for wrong in ({'a': 1}, ['zlib'], 5, 'x' * 10_000):
        message = make(body=b'zz', headers={'compression': wrong})
        with pytest.raises(DecodeError) as caught:
            message.decode()
        assert len(str(caught.value)) < 11_000


def test_settling_what_the_broker_has_forgotten_only_reports(channel, caplog):
    message = make(channel)
    settle_undecodable(message, DecodeError('bad'), settled=True)
    assert 'bad' in caplog.text and not message.acknowledged
    assert not [each for each in channel.calls if 'ack' in each[0] or 'reject' in each[0]]


def test_a_compressed_body_is_inflated():
    body, compression = compress(b'{"a": 1}', 'zlib')
    message = make(body=body, headers={'compression': compression})
    assert message.body == b'{"a": 1}'
    assert message.payload == {'a': 1}
    assert message.errors == []


@pytest.mark.parametrize('compression', ['application/x-gzip', 'application/x-nosuch'])
def test_a_body_that_does_not_inflate_is_an_error_of_decode(compression):
    message = make(body=b'zz', headers={'compression': compression})
    assert len(message.errors) == 1
    with pytest.raises(DecodeError):
        message.decode()
    told = []
    message._reraise_error(lambda *args: told.append(args))
    assert told == [(message, message.errors[0][1])]


def test_a_bomb_meets_the_limit(channel):
    channel.connection.client.transport_options['max_decoded_bytes'] = 1000
    body, compression = compress(b'0' * 100_000, 'zlib')
    message = make(channel, body=body, headers={'compression': compression})
    with pytest.raises(DecompressionLimit, match='1000 bytes'):
        message.decode()
    assert len(message.body) == len(body)


def test_postencode():
    assert make(body='ä', postencode='utf-8').body == 'ä'.encode()
    assert make(body='\udc80', postencode='utf-8').errors


def test_repr_states_the_facts(channel):
    message = make(
        channel, delivery_info={'exchange': 'e', 'routing_key': 'k'}, properties={'correlation_id': 'c'}
    )
    text = repr(message)
    for fact in ("'RECEIVED'", "'t'", 'body_length', "'e'", "'k'", "'c'"):
        assert fact in text
    assert repr(Message()).startswith('<Message object at 0x')


@pytest.mark.parametrize(
    'known, place, name', [(True, False, 'reject'), (False, True, 'reject'), (False, False, 'ack')]
)
def test_settle_undecodable(channel, known, place, name):
    channel.answers['has_dead_letter'] = place
    message = make(channel, delivery_info={'queue': 'q'})
    settle_undecodable(message, DecodeError('bad'), dead_letter=known)
    assert channel.names()[-1] == f'basic_{name}'
    assert message.acknowledged


def test_settle_undecodable_where_a_policy_may_have_a_place(channel, caplog):
    channel.dead_letters_unseen = True
    channel.answers['has_dead_letter'] = False
    message = make(channel, delivery_info={'queue': 'q'})
    settle_undecodable(message, DecodeError('bad'))
    assert channel.names()[-1] == 'basic_reject' and 'policy' in caplog.text


#: Half a second of work for the decompressor of bz2, in bytes before compression.
LONG = random.Random(1).randbytes(6_000_000)


@pytest.fixture(scope='module')
def packed():
    return compress(LONG, 'bzip2')


@pytest.fixture
def turns():
    """The turns that another greenlet had, counted."""
    count = [0]

    def counting():
        while True:
            count[0] += 1
            green.sleep(0.001)

    other = green.spawn(counting)
    yield count
    other.kill()


def test_inflating_a_large_body_leaves_others_their_turns(packed, turns):
    body, compression = packed
    message = make(body=body, headers={'compression': compression})
    assert message.body == LONG
    assert turns[0] > 2
    assert 'compression' not in message.headers


def test_killed_while_it_inflates_a_message_is_as_before(packed, turns):
    body, compression = packed
    message = make(body=body, headers={'compression': compression}, content_type='application/data')
    reader = green.spawn(lambda: message.body)
    green.sleep(0)
    reader.kill()
    assert message.headers == {'compression': compression}
    assert message.body == LONG


def test_two_greenlets_that_look_at_one_body_see_the_same(packed, turns):
    body, compression = packed
    message = make(body=body, headers={'compression': compression})
    readers = [green.spawn(lambda: message.body) for _ in range(2)]
    green.joinall(readers)
    assert [reader.value == LONG for reader in readers] == [True, True]
