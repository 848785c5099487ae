"""Where a connection goes: what a URL may name, and what another host keeps of the first."""

from __future__ import annotations

import pickle
import sys
import warnings

import pytest

from greenmq import Connection
from greenmq.exceptions import InvalidArgument, UnknownOption
from greenmq.transport import memory

pytestmark = pytest.mark.once


@pytest.fixture
def bait(tmp_path, monkeypatch):
    (tmp_path / 'greenmq_bait.py').write_text('raise SystemExit("code was run")\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    assert 'greenmq_bait' not in sys.modules


@pytest.mark.parametrize(
    'scheme', ['greenmq_bait.x', 'greenmq_bait:x', 'greenmq_bait.x+y', 'amqp+greenmq_bait.x']
)
def test_no_url_names_code(bait, scheme):
    url = f'{scheme}://h'
    good = Connection('memory://')
    for attempt in (lambda: Connection(url), lambda: Connection(f'memory://;{url}'), lambda: good.switch(url),
                    lambda: Connection('memory://', alternates=[url])):
        with pytest.raises(InvalidArgument, match='Invalid transport scheme'):
            attempt()
    assert repr(good).startswith('<Connection: memory://localhost')


def test_a_dotted_path_is_a_transport_by_keyword():
    for name in ('greenmq.transport.memory:Transport', 'greenmq.transport.memory.Transport'):
        assert Connection('somewhere', transport=name).get_transport_cls() is memory.Transport


@pytest.mark.parametrize('make', [
    lambda: Connection('amqp://me:pw@one:5673/vh?heartbeat=7&operation_timeout=9&ssl_ca_certs=ca.pem;two'),
    lambda: Connection('amqp://me:pw@one:5673/vh?heartbeat=7&operation_timeout=9&ssl_ca_certs=ca.pem',
                       alternates=['two']),
])
def test_a_host_without_a_scheme_keeps_what_the_first_url_said(make):
    connection = make()
    connection.maybe_switch_next()
    assert connection.as_uri(include_password=True) == 'amqp://me:pw@two:5673/vh'
    assert connection.heartbeat == 7 and connection.ssl == {'ssl_ca_certs': 'ca.pem'}
    assert connection.transport_options == {'operation_timeout': 9}
    copied = pickle.loads(pickle.dumps(connection))
    assert copied.as_uri(include_password=True) == 'amqp://me:pw@two:5673/vh'


def test_a_switch_without_a_scheme_keeps_it_too():
    connection = Connection('redis://:pw@one:7000/3')
    connection.switch('two')
    assert connection.as_uri(include_password=True) == 'redis://:pw@two:7000/3'
    connection.switch('three:8000')
    assert connection.as_uri(include_password=True) == 'redis://:pw@three:8000/3'


def test_another_url_inherits_nothing():
    connection = Connection('amqp://me:pw@one:5673/vh;amqp://two')
    connection.maybe_switch_next()
    assert (connection.userid, connection.password, connection.port, connection.virtual_host) == (
        None, None, None, '/')


def test_the_transport_of_a_bare_connection_is_amqp():
    assert Connection().transport_cls == Connection('somehost').transport_cls == 'amqp'


@pytest.mark.parametrize(('text', 'expected'), [
    ('[::1]:5673', ('::1', 5673)),
    ('[::1]', ('::1', None)),
    ('::1', ('::1', None)),
    ('fe80::1%eth0', ('fe80::1%eth0', None)),
    ('host:5673', ('host', 5673)),
    ('bücher.example', ('bücher.example', None)),
    ('/run/redis.sock', ('/run/redis.sock', None)),
])
def test_addresses_without_a_scheme(text, expected):
    connection = Connection(text)
    assert (connection.hostname, connection.port) == expected
    assert pickle.loads(pickle.dumps(connection)).hostname == expected[0]


@pytest.mark.parametrize('text', ['user:pw@host:5673', 'host:prt', 'host:70000', 'host/vhost', 'a=b', '[::1'])
def test_what_is_no_host_is_refused_unshown(text):
    with pytest.raises(InvalidArgument, match='no host or host:port') as caught:
        Connection(text)
    assert text not in str(caught.value)


def test_the_time_of_an_implicit_connect_is_an_option_of_every_transport():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for url in ('amqp://', 'redis://', 'memory://'):
            options = {'connect_retries_timeout': '5', 'strict_options': True}
            found = Connection(url, transport_options=options).transport_options
            assert found['connect_retries_timeout'] == 5
    with pytest.raises(InvalidArgument, match='connect_retries_timeout'):
        Connection('amqp://', transport_options={'connect_retries_timeout': -1})


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -1, 'often', [1]])
@pytest.mark.parametrize('name', ['heartbeat', 'connect_timeout'])
def test_times_are_numbers(name, value):
    with pytest.raises(InvalidArgument, match=name):
        Connection('amqp://h', **{name: value})
    if not isinstance(value, list):
        with pytest.raises(InvalidArgument, match=name):
            Connection(f'amqp://h?{name}={value}')


@pytest.mark.parametrize(('word', 'meant'), [
    ('true', True), ('1', True), ('yes', True), ('on', True), ('True', True),
    ('false', False), ('0', False), ('no', False), ('off', False),
])
@pytest.mark.parametrize('scheme', ['amqp', 'redis'])
def test_words_for_tls(scheme, word, meant):
    assert Connection(f'{scheme}://h?ssl={word}').ssl is meant
    assert Connection(f'{scheme}://h', ssl=word).ssl is meant


def test_other_words_for_tls_are_refused():
    for make in (lambda: Connection('amqp://h?ssl=maybe'), lambda: Connection('redis://h', ssl='maybe')):
        with pytest.raises(InvalidArgument, match='ssl'):
            make()
    with pytest.raises(InvalidArgument, match='contradicts ssl_ca_certs'):
        Connection('amqp://h?ssl=no&ssl_ca_certs=x')
    with pytest.raises(InvalidArgument, match='contradicts ca_certs'):
        Connection('amqp://h?ssl=no&ca_certs=x')


def test_a_url_names_options_of_tls_with_and_without_their_prefix():
    for query in ('ca_certs=ca.pem&certfile=me.pem', 'ssl_ca_certs=ca.pem&ssl_certfile=me.pem',
                  'ssl=true&ssl_ca_certs=ca.pem&certfile=me.pem'):
        found = Connection(f'amqps://h?{query}').ssl
        assert {name.removeprefix('ssl_'): value for name, value in found.items()} == {
            'ca_certs': 'ca.pem', 'certfile': 'me.pem'}
    kept = Connection('amqps://h?ca_certs=ca.pem', ssl={'certfile': 'me.pem'}).ssl
    assert kept == {'ca_certs': 'ca.pem', 'certfile': 'me.pem'}
    assert Connection('amqps://h?ssl=true', ssl={'certfile': 'me.pem'}).ssl == {'certfile': 'me.pem'}


def test_a_scheme_with_a_plus_is_no_driver_of_a_transport_that_has_none():
    connection = Connection('rediss+socket://:secret@/run/r.sock')
    with pytest.raises(KeyError, match='No such transport: rediss.socket') as caught:
        connection.ensure_connection(max_retries=1)
    assert 'secret' not in str(caught.value)


def test_strict_options_name_what_is_unknown_in_a_url():
    with pytest.raises(UnknownOption, match='cacerts'):
        Connection('amqps://h?cacerts=x&strict_options=1')
