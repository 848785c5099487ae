"""How sentinels are dialled: by the words that primaries are dialled by, and no others."""

from __future__ import annotations

import ssl

import pytest

from greenmq import Connection, runtime
from greenmq.exceptions import AMQPError, InvalidArgument


def place(sentinel_kwargs=None, **kwargs):
    options = {'master_name': 'm', 'sentinel_kwargs': sentinel_kwargs}
    connection = Connection('sentinel://h/0', transport_options=options, **kwargs)
    return connection.transport.driver.sentinel_target('h', 1)


def test_without_words_of_their_own_they_are_dialled_like_the_primary():
    given = runtime.TLSOptions.of(place(ssl={'ssl_cert_reqs': ssl.CERT_NONE}).tls)
    assert given is not None and given.verify is False
    assert not place().tls


@pytest.mark.parametrize(
    'words',
    [{'ssl': True, 'ssl_cert_reqs': 'none'}, {'ssl_cert_reqs': 'none'}, {'ssl': {'cert_reqs': 'none'}},
     {'ssl': {'ssl_check_hostname': False}, 'ssl_cert_reqs': 'none'}],
)  # fmt: skip
def test_the_words_of_redis_py_stand_beside_ssl_or_in_it(words):
    assert runtime.TLSOptions.of(place(words).tls).verify is False


def test_user_and_password_are_their_own():
    found = place({'username': 'u', 'password': 'p'})
    assert (found.username, found.password) == ('u', 'p')


@pytest.mark.parametrize(
    'words', [{'socket_tiemout': 1}, {'user': 'u'}, 'x', {5: 1}, {'ssl_certreq': 'none', 'ssl': True}]
)
def test_what_is_unknown_is_named(words):
    with pytest.raises((InvalidArgument, AMQPError, ValueError)) as caught:
        place(words)
    named = words if isinstance(words, dict) else ['sentinel_kwargs']
    assert any(str(name) in str(caught.value) for name in named)
