"""The error tree: what catches what, what the texts say, and that every error survives a pickle."""

import builtins
import inspect
import lzma
import pickle
import socket
import zlib

import amqp
import pytest

from greenmq import compression, exceptions, serialization
from greenmq.connection import ConnectionPool
from greenmq.exceptions import (
    BufferFull,
    ConnectionBlocked,
    ConnectionClosed,
    ConnectionLost,
    DecodeError,
    DecompressionLimit,
    Forked,
    HttpError,
    InconsistencyError,
    InvalidArgument,
    KombuError,
    LimitExceeded,
    MessageStateError,
    OperationalError,
    PublishNacked,
    PublishUnconfirmed,
    StaleDelivery,
    UnknownOption,
    Unroutable,
    WouldBlock,
    WrongHub,
    reraise,
)
from greenmq.message import Message
from greenmq.utils.url import parse_ssl_cert_reqs

pytestmark = pytest.mark.once

OURS = [
    (ConnectionLost('amqp://h: reset by peer'), (amqp.RecoverableConnectionError,), ['amqp://h']),
    (ConnectionClosed('amqp://h was closed'), (amqp.ConnectionError,), ['amqp://h']),
    (PublishNacked(exchange='news', routing_key='k'), (amqp.exceptions.MessageNacked,), ["'news'", "'k'"]),
    (PublishNacked('said otherwise'), (amqp.exceptions.MessageNacked,), ['said otherwise']),
    (Unroutable(lambda: 0, 'news', 'k'), (amqp.ChannelError,), ['NO_ROUTE', '312', "'news'", "'k'"]),
    (Unroutable(None, 'news', 'k', 313, 'NO_CONSUMERS'), (amqp.ChannelError,), ['NO_CONSUMERS', '313']),
    (PublishUnconfirmed('publish to news: 5.0 s'), (OperationalError, socket.timeout),
     ['outcome unknown', '5.0 s']),
    (PublishUnconfirmed('publish', 'no'), (OperationalError, builtins.TimeoutError), ['publish (not sent)']),
    (ConnectionBlocked('amqp://h', 'low on disk'), (OperationalError, socket.timeout),
     ['amqp://h', "'low on disk'"]),
    (BufferFull('out-buffer of amqp://h: 8 of 8 MiB'), (OperationalError,), ['8 of 8 MiB']),
    (StaleDelivery('delivery 3 of epoch 1', 3), (MessageStateError,), ['delivery 3 of epoch 1']),
    (Forked('drain_events of amqp://h'), (KombuError,), ['drain_events of amqp://h']),
    (WouldBlock(), (OperationalError, RuntimeError), ['publish', 'publish_nowait()']),
    (WrongHub('amqp://h'), (KombuError, RuntimeError), ['amqp://h', 'thread']),
    (InvalidArgument('priority', -1, 'must be 0 to 255'), (KombuError, ValueError),
     ['priority must be 0 to 255: -1']),
    (InvalidArgument('headers', lambda: 0, 'must be a mapping'), (KombuError, ValueError), ['<lambda>']),
    (UnknownOption('timeuot', 'transport memory', 'timeout'), (KombuError, ValueError),
     ["'timeuot'", "'timeout'?"]),
    (UnknownOption('x'), (KombuError, ValueError), ["unknown option 'x'"]),
    (DecompressionLimit('gzip body of 99 bytes', 1024), (DecodeError,),
     ['gzip', '1024 bytes', 'max_decoded_bytes']),
]  # fmt: skip


def _id(case):
    return type(case[0]).__name__


@pytest.mark.parametrize('case', OURS, ids=_id)
def test_an_except_line_for_kombu_catches_it_and_the_text_names_object_and_limit(case):
    error, bases, words = case
    assert isinstance(error, bases[0])
    assert all(isinstance(error, base) for base in bases)
    for word in words:
        assert word in str(error)
    assert repr(error) == f'{type(error).__name__}({str(error)!r})'


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize('case', OURS, ids=_id)
def test_it_survives_a_pickle(case, protocol):
    error = case[0]
    copy = pickle.loads(pickle.dumps(error, protocol))
    assert type(copy) is type(error)
    assert (str(copy), repr(copy), copy.args) == (str(error), repr(error), error.args)
    changed = {name for name, value in vars(error).items() if vars(copy)[name] != value}
    assert changed <= {'message', 'value'}
    with pytest.raises(type(error)):
        raise copy


def _kombu_style():
    for name in exceptions.__all__:
        kind = getattr(exceptions, name)
        if inspect.isclass(kind) and kind.__module__ == 'greenmq.exceptions' and kind not in map(_type, OURS):
            yield kind


def _type(case):
    return type(case[0])


@pytest.mark.parametrize('kind', list(_kombu_style()), ids=lambda kind: kind.__name__)
def test_kombus_own_survive_a_pickle_too(kind):
    error = kind(404, 'text') if kind is HttpError else kind('text')
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error)


def test_every_class_of_ours_is_public_and_tested():
    defined = {
        name
        for name, kind in inspect.getmembers(exceptions, inspect.isclass)
        if issubclass(kind, BaseException) and kind.__module__ == 'greenmq.exceptions'
    }
    assert defined <= set(exceptions.__all__)
    assert defined == {kind.__name__ for kind in _kombu_style()} | {_id(case) for case in OURS}


def test_amqps_classes_are_amqps():
    for name in ('ConnectionError', 'ChannelError', 'ResourceError', 'NotFound', 'MessageNacked'):
        assert getattr(exceptions, name) is getattr(amqp.exceptions, name)
    assert exceptions.TimeoutError is socket.timeout
    assert issubclass(InconsistencyError, amqp.ConnectionError)


def test_a_time_out_is_an_os_error_without_taking_its_arguments_for_an_errno():
    error = PublishUnconfirmed('a', 'no')
    assert isinstance(error, OSError)
    assert error.errno is None
    assert error.args == ('a (not sent)',)
    assert error.sent == 'no'
    assert PublishUnconfirmed('a').sent == 'unknown'
    assert ConnectionBlocked('a', 'low on memory').reason == 'low on memory'


def test_connection_closed_is_not_taken_for_a_loss():
    assert not issubclass(ConnectionClosed, amqp.RecoverableConnectionError)
    assert not issubclass(Unroutable, amqp.RecoverableChannelError)


@pytest.mark.parametrize(
    'kind', [PublishUnconfirmed, ConnectionBlocked, ConnectionClosed, Unroutable, Forked]
)
def test_what_must_not_be_sent_twice_is_never_retried(kind):
    assert issubclass(kind, exceptions.NEVER_RETRIED)


@pytest.mark.parametrize(
    'kind', [ConnectionLost, PublishNacked, OperationalError, OSError, amqp.ConnectionForced]
)
def test_what_may_pass_by_itself_is_retried(kind):
    assert not issubclass(kind, exceptions.NEVER_RETRIED)


def test_unroutable_carries_the_message_but_not_through_a_pickle():
    message = object()
    error = Unroutable(message, 'news', 'k')
    assert error.message is message
    assert (error.exchange, error.routing_key) == ('news', 'k')
    assert (error.reply_code, error.reply_text) == (312, 'NO_ROUTE')
    copy = pickle.loads(pickle.dumps(error))
    assert copy.message is None
    assert copy.routing_key == 'k'


def test_connection_errors_take_the_arguments_of_amqp():
    error = ConnectionLost('CONNECTION_FORCED', (10, 50), 'Connection.close', 320)
    assert (error.reply_code, error.reply_text) == (320, 'CONNECTION_FORCED')
    assert error.method == 'Connection.close'
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.reply_code, copy.reply_text, copy.method_sig) == (320, 'CONNECTION_FORCED', (10, 50))


@pytest.mark.parametrize(
    'value',
    ['a' * 300, b'a' * 300, bytearray(300), list(range(10**6)), {'k': 'a' * 10**6}],
    ids=['str', 'bytes', 'bytearray', 'list', 'dict'],
)
def test_a_large_value_is_shown_shortened(value):
    error = InvalidArgument('routing_key', value, 'is 300 bytes long, at most 255 allowed')
    assert str(error).startswith('routing_key is 300 bytes long, at most 255 allowed: ')
    assert len(str(error)) < 300
    assert error.value is value
    assert (error.what, error.limit) == ('routing_key', 'is 300 bytes long, at most 255 allowed')


def test_a_value_that_can_not_be_pickled_is_replaced_by_its_repr():
    for value, kept in [(3, 3), ('k', 'k'), (None, None), ([1], '[1]')]:
        copy = pickle.loads(pickle.dumps(InvalidArgument('x', value, 'is bad')))
        assert copy.value == kept


def test_a_value_whose_repr_fails_does_not_hide_the_error():
    class Broken:
        def __repr__(self):
            raise ZeroDivisionError

    error = InvalidArgument('headers', Broken(), 'must be a mapping')
    assert str(error).startswith('headers must be a mapping: <Broken instance')


def test_limit_exceeded_keeps_the_limit_first_and_may_tell_more():
    assert LimitExceeded(10).args == (10,)
    assert str(LimitExceeded(10)) == '10'
    error = LimitExceeded(10, 'pool redis://h/0 (10 of 10 in use): nothing free within 5.0 s')
    assert error.args[0] == 10
    assert str(error) == 'pool redis://h/0 (10 of 10 in use): nothing free within 5.0 s'


def test_http_error_reads_as_in_kombu():
    error = HttpError(500, 'boo', 'response')
    assert (str(error), error.args) == ('HTTP 500: boo', (500, 'boo', 'response'))
    assert (error.code, error.message, error.response) == (500, 'boo', 'response')
    assert str(HttpError(404)) == 'HTTP 404: None'


def test_reraise_sets_the_traceback_that_it_is_given():
    def caught(raiser):
        with pytest.raises(ValueError, match='x') as info:
            raiser()
        return info.value, info.value.__traceback__

    error, tb = caught(lambda: int('x'))
    again, tb_again = caught(lambda: reraise(ValueError, error, tb))
    assert again is error
    assert tb in _chain(tb_again)
    _, tb_last = caught(lambda: reraise(ValueError, error))
    assert tb not in _chain(tb_last)


def _chain(tb):
    while tb is not None:
        yield tb
        tb = tb.tb_next


@pytest.mark.parametrize(
    'do, kind, kombus', [
        (lambda: parse_ssl_cert_reqs('bad'), exceptions.InvalidArgument, KeyError),
        (lambda: serialization.registry.enable('nope'), exceptions.SerializerNotInstalled, KeyError),
        (lambda: serialization.registry.disable('nope'), exceptions.SerializerNotInstalled, KeyError),
        (
            lambda: serialization.disable_insecure_serializers(['nope']),
            exceptions.SerializerNotInstalled, KeyError,
        ),
        (lambda: compression.get_encoder('nope'), exceptions.InvalidArgument, KeyError),
        (lambda: compression.get_decoder('nope'), exceptions.DecodeError, KeyError),
        (lambda: compression.decompress(b'xx', 'zlib'), exceptions.DecodeError, zlib.error),
        (lambda: compression.decompress(b'', 'zlib'), exceptions.DecodeError, zlib.error),
        (lambda: compression.decompress(b'x', 'lzma'), exceptions.DecodeError, lzma.LZMAError),
        (lambda: Message(b'x', headers={'compression': 'zlib'}).decode(), exceptions.DecodeError, zlib.error),
        (lambda: Message('x', postencode='nope').decode(), exceptions.DecodeError, LookupError),
        (lambda: Message('\udcff', postencode='ascii').decode(), exceptions.DecodeError, UnicodeEncodeError),
        (lambda: ConnectionPool(None, True), exceptions.InvalidArgument, TypeError),
    ],
)  # fmt: skip
def test_an_except_line_written_for_kombu_catches_it(do, kind, kombus):
    registered = set(serialization.registry._disabled_content_types)
    try:
        with pytest.raises(kombus) as caught:
            do()
    finally:
        serialization.registry._disabled_content_types = registered
    error = caught.value
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(error, kind) and type(error).__name__ == kind.__name__
    assert type(copy) is type(error) and str(copy) == str(error) and vars(copy) == vars(error)


def test_a_bad_message_is_never_an_error_of_the_connection():
    # bz2 raises OSError, which is what a lost connection is: the loop would take it for one.
    with pytest.raises(exceptions.DecodeError) as caught:
        compression.decompress(b'xx', 'bzip2')
    assert not isinstance(caught.value, OSError)
