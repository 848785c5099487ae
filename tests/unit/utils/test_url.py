"""Broker URLs."""

from __future__ import annotations

import ssl

import pytest

from greenmq.exceptions import InvalidArgument
from greenmq.utils.url import (
    as_url,
    maybe_sanitize_url,
    parse_ssl_cert_reqs,
    parse_url,
    safequote,
    sanitize_url,
    url_to_parts,
)


def parsed(transport, hostname=None, port=None, userid=None, password=None, virtual_host=None, **options):
    return {
        'transport': transport,
        'hostname': hostname,
        'port': port,
        'userid': userid,
        'password': password,
        'virtual_host': virtual_host,
        **options,
    }


@pytest.mark.parametrize(
    ('url', 'expected'),
    [
        ('amqp://', parsed('amqp')),
        ('amqp://u:p@h:5/v', parsed('amqp', 'h', 5, 'u', 'p', 'v')),
        ('amqp://h//', parsed('amqp', 'h', virtual_host='/')),
        ('amqp://h/%2Fa', parsed('amqp', 'h', virtual_host='/a')),
        ('amqp://h/', parsed('amqp', 'h')),
        ('amqp://us%40r:p%3Aw@h', parsed('amqp', 'h', None, 'us@r', 'p:w')),
        ('amqp://u:@h', parsed('amqp', 'h', userid='u')),
        ('amqp://[::1]:5672/v', parsed('amqp', '::1', 5672, virtual_host='v')),
        ('AMQP://Host.NAME:1/V', parsed('amqp', 'host.name', 1, virtual_host='V')),
        ('redis://:pw@h:6379/1?a=1&a=2', parsed('redis', 'h', 6379, None, 'pw', '1', a='2')),
        ('redis+socket:///tmp/x.sock', parsed('redis+socket', virtual_host='tmp/x.sock')),
        ('redis+socket:///tmp/x.sock?virtual_host=3', parsed('redis+socket', virtual_host='3')),
        ('sqs://a%2F:b%2F@', parsed('sqs', None, None, 'a/', 'b/')),
        ('memory://localhost/name', parsed('memory', 'localhost', virtual_host='name')),
        ('amqp://h?ssl=true&x=%20y', parsed('amqp', 'h', ssl='true', x=' y')),
        ('amqp://h/v#x', parsed('amqp', 'h', virtual_host='v')),
        (
            'redis://localhost:6379/0?confirm_publish=0',
            parsed('redis', 'localhost', 6379, virtual_host='0', confirm_publish='0'),
        ),
        (
            'rediss://h/0?ssl_cert_reqs=required&ssl_ca_certs=%2Ffoo&ssl_check_hostname=False',
            parsed(
                'rediss',
                'h',
                virtual_host='0',
                ssl={
                    'ssl_cert_reqs': ssl.CERT_REQUIRED,
                    'ssl_ca_certs': '/foo',
                    'ssl_check_hostname': False,
                },
            ),
        ),
        ('localhost:5672/v', parsed('', 'localhost', 5672, virtual_host='v')),
        ('', parsed('')),
    ],
)
def test_parse_url(url, expected):
    assert parse_url(url) == expected
    assert list(parse_url(url))[:6] == list(expected)[:6]


@pytest.mark.parametrize(
    'url', ['amqp://u:secret@h:99999/', 'amqp://u:secret@h:ab/', 'amqp://u:secret@h:-1/']
)
def test_a_bad_port_is_named_and_the_password_is_not(url):
    with pytest.raises(InvalidArgument, match='port') as caught:
        parse_url(url)
    assert 'secret' not in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize('url', ['sqs://key:sec/ret@', 'azureservicebus://pol:sec/ret=@ns'])
def test_an_unencoded_slash_in_the_password_is_explained_without_showing_it(url):
    with pytest.raises(InvalidArgument, match='percent-encode') as caught:
        parse_url(url)
    assert 'sec' not in str(caught.value)
    assert 'ret' not in str(caught.value)


def test_an_option_may_not_replace_a_part_of_the_url():
    with pytest.raises(InvalidArgument, match='hostname'):
        parse_url('redis://h?hostname=evil')


@pytest.mark.parametrize(
    ('text', 'mode'),
    [
        ('CERT_NONE', ssl.CERT_NONE),
        ('none', ssl.CERT_NONE),
        ('optional', ssl.CERT_OPTIONAL),
        ('CERT_REQUIRED', ssl.CERT_REQUIRED),
    ],
)
def test_parse_ssl_cert_reqs(text, mode):
    assert parse_ssl_cert_reqs(text) is mode


def test_unknown_cert_reqs_name_the_known():
    with pytest.raises(InvalidArgument, match='CERT_REQUIRED.*sometimes'):
        parse_ssl_cert_reqs('sometimes')


@pytest.mark.parametrize(
    ('args', 'url'),
    [
        (('amqp', 'h', 5, 'u', 'p', 'v/a', None), 'amqp://u:p@h:5/v/a'),
        (('amqp', None), 'amqp:///'),
        (('redis', 'h', 1, None, 'p', '0', 'a=1'), 'redis://:p@h:1/0'),
        (('a', 'b', None, 'x@y', 'z:', None), 'a://x%40y:z%3A@b/'),
        (('amqp', '::1', 5), 'amqp://[::1]:5/'),
    ],
)
def test_as_url(args, url):
    assert as_url(*args) == url


def test_as_url_masks():
    assert as_url('amqp', 'h', password='p', user='u', sanitize=True) == 'amqp://u:**@h/'
    assert as_url('amqp', 'h', user='u', sanitize=True) == 'amqp://u@h/'


@pytest.mark.parametrize(
    ('url', 'expected'),
    [
        ('amqp://u:p@h/v?x=1', 'amqp://u:**@h/v'),
        ('amqp://h', 'amqp://h/'),
        ('mongodb://u:p@h1:1,h2:2/db?password=x', 'mongodb://u:**@h1:1,h2:2/db'),
        ('sqs://key:sec/ret@', 'sqs://key:**@'),
        ('amqp://u:p@ss@h:bad/', 'amqp://u:**@h:bad/'),
        ('sentinel://:pw@a:1;sentinel://:pw@b:2', 'sentinel://:**@a:1/;sentinel://:**@b:2/'),
    ],
)
def test_sanitize_url(url, expected):
    assert sanitize_url(url) == maybe_sanitize_url(url) == expected


def test_sanitize_url_with_another_mask():
    assert sanitize_url('amqp://u:p@h/v', mask='XX') == 'amqp://u:XX@h/v'
    assert sanitize_url('amqp://u:p@h/v', mask=None) == 'amqp://u:@h/v'


def test_maybe_sanitize_url_leaves_other_things():
    assert maybe_sanitize_url('localhost') == 'localhost'
    assert maybe_sanitize_url(None) is None


def test_parts_are_named():
    parts = url_to_parts('amqp://u:p@h:5/v?a=b')
    assert (parts.scheme, parts.hostname, parts.port, parts.username) == ('amqp', 'h', 5, 'u')
    assert (parts.password, parts.path, parts.query) == ('p', 'v', {'a': 'b'})


def test_safequote():
    assert safequote('a/b:c') == 'a%2Fb%3Ac'
