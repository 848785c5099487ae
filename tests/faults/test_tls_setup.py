"""TLS as users set it up: options by URL and by `ssl=`, files that are missing, ports of other protocols."""

from __future__ import annotations

import re
import ssl
import subprocess
import time

import gevent
import pytest
from gevent.server import StreamServer

from greenmq import Connection
from greenmq.exceptions import (
    AccessRefused,
    ConnectionError,
    InvalidArgument,
    NotAllowed,
    OperationalError,
    UnknownOption,
)
from greenmq.runtime import TLSOptions

pytestmark = [pytest.mark.slow, pytest.mark.faults]


@pytest.fixture
def tls_urls(rabbitmq, redis_server):
    """A URL of each server's TLS port, without options."""
    return {'amqp': f'amqps://guest:guest@localhost:{rabbitmq.tls_port}//',
            'redis': f'rediss://localhost:{redis_server.tls_port}/0'}


@pytest.fixture
def plain_urls(rabbitmq, redis_server):
    return {'amqp': f'amqp://guest:guest@localhost:{rabbitmq.port}//',
            'redis': f'redis://localhost:{redis_server.port}/0'}


@pytest.fixture
def other_key(tmp_path):
    """A key in a file, of no certificate here, and one that needs the password "secret"."""
    plain, locked = tmp_path / 'other.key', tmp_path / 'locked.key'
    subprocess.run(['openssl', 'genrsa', '-out', plain, '2048'], check=True, capture_output=True)
    subprocess.run(['openssl', 'rsa', '-aes128', '-passout', 'pass:secret', '-in', plain, '-out', locked],
                   check=True, capture_output=True)
    return plain, locked


def works(url, **kwargs):
    with Connection(url, connect_timeout=5, **kwargs) as connection:
        assert connection.connect().ping() >= 0


def refused(url, error, **kwargs):
    """The text of the error that a first attempt gives, which is not repeated."""
    began, tries = time.monotonic(), []
    connection = Connection(url, connect_timeout=5, **kwargs)
    with pytest.raises(error) as caught:
        connection.ensure_connection(errback=lambda exc, seconds: tries.append(exc), max_retries=5)
    connection.release()
    assert not tries, tries
    assert time.monotonic() - began < 5
    return str(caught.value)


@pytest.mark.parametrize('transport', ['amqp', 'redis'])
@pytest.mark.parametrize('prefix', ['', 'ssl_'])
def test_a_private_authority_and_a_client_certificate_by_url(tls_urls, certificates, transport, prefix):
    own = f'{prefix}certfile={certificates.client}&{prefix}keyfile={certificates.client_key}'
    works(f'{tls_urls[transport]}?{prefix}ca_certs={certificates.ca}&{own}&{prefix}cert_reqs=required')
    works(f'{tls_urls[transport]}?{own}&{prefix}cert_reqs=none&{prefix}check_hostname=false')


def test_a_server_that_wants_a_client_certificate_is_understood(tls_urls, certificates):
    assert 'wants a client certificate' in told(f'{tls_urls["amqp"]}?ca_certs={certificates.ca}')
    works(f'{tls_urls["redis"]}?ca_certs={certificates.ca}')


@pytest.mark.parametrize('transport', ['amqp', 'redis'])
@pytest.mark.parametrize('prefix', ['', 'ssl_'])
def test_the_same_by_keyword(tls_urls, certificates, transport, prefix):
    options = {f'{prefix}ca_certs': str(certificates.ca), f'{prefix}certfile': certificates.client,
               f'{prefix}keyfile': certificates.client_key, f'{prefix}cert_reqs': ssl.CERT_REQUIRED}
    works(tls_urls[transport], ssl=options)
    works(tls_urls[transport].replace('s://', '://'), ssl=options)
    context = ssl.create_default_context(cafile=str(certificates.ca))
    context.load_cert_chain(certificates.client, certificates.client_key)
    works(tls_urls[transport], ssl=context)


@pytest.mark.parametrize('transport', ['amqp', 'redis'])
def test_words_of_a_url_speak_tls_or_not(tls_urls, plain_urls, certificates, transport):
    plain = tls_urls[transport].replace('s://', '://')
    works(f'{plain}?ssl=true', ssl=certificates.client_options())
    works(f'{plain_urls[transport]}?ssl=false')


@pytest.mark.parametrize('transport', ['amqp', 'redis'])
def test_files_that_cannot_be_used_are_named_with_their_option_and_not_tried_again(
    tls_urls, certificates, other_key, tmp_path, transport
):
    url, (key, locked) = tls_urls[transport], other_key
    ca, none, broken = certificates.ca, tmp_path / 'none.pem', tmp_path / 'broken.pem'
    broken.write_text('nothing of the kind')
    own = f'ca_certs={ca}&certfile={certificates.client}'
    for query, text in (
        (f'ca_certs={none}', f"ca_certs names the file '{none}', which cannot be read .No such file"),
        (f'ca_certs={broken}', 'ca_certs holds no certificates'),
        (f'ca_path={none}', 'ca_path is no directory'),
        (f'ca_certs={ca}&certfile={none}', f"certfile names the file '{none}'"),
        (f'{own}&keyfile={none}', f"keyfile names the file '{none}'"),
        (f'{own}&keyfile={broken}', f"keyfile '{broken}' cannot be used with certfile"),
        (f'{own}&keyfile={key}', f"keyfile '{key}' is not the key of the certificate"),
        (f'{own}&keyfile={locked}', 'is encrypted, and its password is not given'),
        (f'ca_certs={ca}&keyfile={key}', 'certfile is missing'),
        (f'ca_certs={ca}&ciphers=NONSENSE', 'ciphers names no cipher'),
        (f'ca_certs={ca}&ssl_cert_reqs=sometimes', 'cert_reqs must be'),
    ):
        assert re.search(text, refused_or_never_made(f'{url}?{query}')), query
    wrong = f'{url}?{own}&keyfile={locked}&keyfile_password=secretwrong'
    assert 'secret' not in refused(wrong, InvalidArgument)


def refused_or_never_made(url):
    try:
        Connection(url)
    except InvalidArgument as exc:
        return str(exc)
    return refused(url, InvalidArgument)


@pytest.mark.parametrize('transport', ['amqp', 'redis'])
@pytest.mark.parametrize('given', ['maybe', 5, ['x'], object()])
def test_ssl_must_be_something_that_it_can_be(plain_urls, transport, given):
    with pytest.raises(InvalidArgument, match='ssl'):
        Connection(plain_urls[transport], ssl=given).connect()


@pytest.mark.parametrize('transport', ['amqp', 'redis'])
def test_an_unknown_option_is_named_with_the_nearest(tls_urls, transport):
    assert 'ca_certs' in refused(f'{tls_urls[transport]}?ssl_ca_cert=x', UnknownOption)
    assert 'ca_certs' in refused(tls_urls[transport], UnknownOption, ssl={'cacerts': 'x'})


def test_no_password_in_the_repr_of_options():
    assert 'secret' not in repr(TLSOptions.of({'keyfile_password': 'secret'}))


# ------------------------------------------------------------------------------ other protocols than expected


def told(url, seconds=1, **kwargs):
    """Text of the error of connecting, and its first cause's."""
    connection = Connection(url, connect_timeout=seconds, **kwargs)
    with pytest.raises((OperationalError, ConnectionError, OSError)) as caught:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=2 * seconds)
    connection.release()
    return str(caught.value)


def test_plain_to_a_tls_port(rabbitmq, redis_server):
    for url in (f'amqp://localhost:{rabbitmq.tls_port}', f'amqp://localhost:{redis_server.tls_port}',
                f'redis://localhost:{redis_server.tls_port}', f'redis://localhost:{rabbitmq.tls_port}'):
        text = told(url)
        assert 'TLS' in text and ('amqps://' if url.startswith('amqp') else 'rediss://') in text, text


def test_tls_to_a_plain_port(rabbitmq, redis_server):
    for scheme in ('amqps', 'rediss'):
        for port in (rabbitmq.port, redis_server.port):
            text = told(f'{scheme}://localhost:{port}')
            assert re.search('does that port speak TLS|that port does not speak TLS', text), text


def test_redis_to_rabbitmq_and_the_other_way_round(rabbitmq, redis_server):
    assert 'speaks AMQP' in told(f'redis://localhost:{rabbitmq.port}')
    assert 'is that RabbitMQ' in told(f'amqp://localhost:{redis_server.port}')


@pytest.mark.parametrize(('said', 'meant'), [
    (b'\x15\x03\x03\x00\x02\x02\x28', 'speaks TLS'),
    (b'HTTP/1.1 400 Bad Request\r\n\r\n', 'speaks HTTP'),
    (b'SSH-2.0-OpenSSH\r\n', 'speaks SSH'),
    (b'-ERR unknown command\r\n', 'speaks the protocol of Redis'),
    (b'AMQP\x00\x00\x09\x01', 'AMQP'),
])
@pytest.mark.parametrize('scheme', ['amqp', 'redis', 'amqps', 'rediss'])
def test_who_answers_in_another_protocol_is_recognised(scheme, said, meant):
    if (scheme, said[:1]) == ('redis', b'-') or said[:1] == b'\x15' and scheme.endswith('s'):
        pytest.skip('that is the protocol which is spoken')

    def handle(sock, address):
        sock.sendall(said)
        gevent.sleep(0.2)

    server = StreamServer(('127.0.0.1', 0), handle)
    server.start()
    try:
        text = told(f'{scheme}://127.0.0.1:{server.server_port}', 5)
    finally:
        server.stop()
    assert meant in text, text
    assert scheme in ('amqp', 'redis') or 'does not speak TLS' in text, text


# ------------------------------------------------------------------------------------------- wrong passwords


def test_a_refused_login_names_host_and_user_and_no_password(rabbitmq, redis_server):
    port = rabbitmq.port
    text = refused(f'amqp://nobody:HEADTAIL@localhost:{port}//', AccessRefused)
    assert f'localhost:{port} refused user \'nobody\'' in text and '(0, 0)' not in text
    assert 'HEADTAIL' not in text
    text = refused(f'amqp://guest:guest@localhost:{port}/nowhere', NotAllowed)
    assert f'localhost:{port}' in text and 'nowhere' in text
    text = refused(f'redis://nobody:HEADTAIL@localhost:{redis_server.port}/0', NotAllowed)
    assert f'localhost:{redis_server.port} refused the login of user \'nobody\'' in text, text
    assert 'HEADTAIL' not in text


@pytest.mark.parametrize(('url', 'option'), [
    ('amqp://localhost?socket_settings=x', 'socket_settings'),
    ('redis://localhost?socket_keepalive_options=x', 'socket_keepalive_options'),
])
def test_socket_options_are_mappings_of_numbers(url, option):
    with pytest.raises(InvalidArgument, match=option):
        Connection(url)
    base = url.partition('?')[0]
    for wrong in ({'TCP_NONSENSE': 1}, {18: 'x'}, {None: 1}, [1]):
        with pytest.raises(InvalidArgument, match=option):
            Connection(base, transport_options={option: wrong})


def test_a_socket_option_that_the_system_refuses_is_named(plain_urls):
    for transport, option in (('amqp', 'socket_settings'), ('redis', 'socket_keepalive_options')):
        works(plain_urls[transport], transport_options={option: {'TCP_USER_TIMEOUT': 10_000}})
        text = refused(plain_urls[transport], InvalidArgument, transport_options={option: {9999: 1}})
        assert '9999' in text, text
