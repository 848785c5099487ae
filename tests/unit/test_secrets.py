"""No password in any text, whatever the URL looks like and whatever transport it names."""

from __future__ import annotations

import logging
import pickle
import warnings

import pytest

from greenmq import Connection, doctor, pools
from greenmq.exceptions import InvalidArgument, KombuError
from greenmq.transport import _ELSEWHERE, TRANSPORT_ALIASES
from greenmq.utils.url import hide_passwords, maybe_sanitize_url, sanitize_url

pytestmark = pytest.mark.once

#: Every scheme that kombu knows, and ours; and how users write the rest.
SCHEMES = sorted({*TRANSPORT_ALIASES, *_ELSEWHERE, 'rediss+socket', 'sqla+postgresql', 'nosuch'})
SHAPES = (
    '{s}://user:{p}@127.0.0.1:1/0',
    '{s}://:{p}@127.0.0.1:1/0',
    '{s}://user:{p}@',
    '{s}://user:{p}@127.0.0.1:99999/0',
    '{s}://user:{p}@h1:1,h2:2/db',
    '{s}://user:{p}@h1:1,user:{p}@h2:2/db',
    '{s}://user:{p}@127.0.0.1:1/0;{s}://user:{p}@127.0.0.2:1/0',
    '{s}://user:{p}@https://account.example.net/?sig={p}',
    '{s}://127.0.0.1:1/0?password_x={p}',
    '{s}:///user:{p}@127.0.0.1:1/0',
    '{s}:/user:{p}@127.0.0.1:1',
    '{s}:user:{p}@127.0.0.1:1',
    'user:{p}@127.0.0.1:1',
    'user:{p}@[::1]:1',
    'user:{p}',
    '{s}://user:{p}',
    '127.0.0.1;user:{p}@127.0.0.1',
    'DefaultEndpointsProtocol=https;AccountName=a;AccountKey={p};EndpointSuffix=x',
    '{s}://Endpoint=sb://ns.example.net/;SharedAccessKeyName=k;SharedAccessKey={p}',
)
KEYS = ('azurestoragequeues://{p}@https://account.queue.example.net', 'redis://{p}@127.0.0.1:1/0',
        'azureservicebus://{p}@ns', 'redis://127.0.0.1:1/{p}', 'redis+socket:///run/no.sock?virtual_host={p}')
#: Written as they are, not percent-encoded. `TAIL` and `HEAD` are what a cut in the middle would show.
PASSWORDS = ('HEADxTAIL', 'HEAD/TAIL', 'HEAD?TAIL', 'HEAD#TAIL', 'HEAD@TAIL', 'HEAD:TAIL', 'HEAD+/TAIL==',
             'HEAD;TAIL', 'HEAD%2FTAIL', 'HEAD@/?TAIL', '[HEAD]TAIL', 'HEAD TAIL',
             'HEAD?a=b&TAIL', 'HEAD\u2100TAIL')


def urls(scheme, shapes, passwords=PASSWORDS):
    for shape in shapes:
        for password in passwords:
            # Without a host of its own, such a URL says that the password's end is the host; and what stands
            # alone before the @ is a user, if it has a colon in it.
            if ('@' not in password or '@' in shape) and (':' not in password or '//{p}@' not in shape):
                yield shape.format(s=scheme, p=password)


def secret_in(*texts):
    return [text for text in texts if 'HEAD' in text.upper() or 'TAIL' in text.upper()]


@pytest.fixture(autouse=True)
def no_sleep_between_tries(monkeypatch):
    monkeypatch.setattr('greenmq.connecting.retrying._jittered', lambda seconds, jitter: 0)


def texts_of(url, attempt, **kwargs):
    """All that is said of a connection to this URL."""
    try:
        connection = Connection(url, transport_options={'max_retries': 0}, **kwargs)
    except KombuError as exc:
        return [str(exc), repr(exc), repr(pickle.loads(pickle.dumps(exc)))]
    texts = [repr(connection), connection.as_uri(), str(connection), connection.host,
             repr(pools.producers[connection]), repr(connection.Pool(1)), repr(connection.ChannelPool(1))]
    if not attempt:
        return texts
    try:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=1)
    except (KombuError, KeyError, ValueError, OSError, ImportError) as exc:
        texts += [str(exc), repr(exc), str(exc.__cause__), repr(exc.__cause__)]
    finally:
        connection.release()
    return [*texts, repr(connection)]


@pytest.mark.parametrize('scheme', SCHEMES)
def test_no_password_in_any_text_of_a_connection(scheme, caplog):
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # unknown options: not what this is about
        for url in urls(scheme, SHAPES):
            assert not secret_in(*texts_of(url, attempt=False)), url
    assert not secret_in(*(record.getMessage() for record in caplog.records))


@pytest.mark.parametrize('shape', [*SHAPES[:3], *KEYS])
@pytest.mark.parametrize('password', ['HEADxTAIL', 'HEAD/TAIL'])
@pytest.mark.parametrize('scheme', ['amqp', 'redis', 'rediss', 'rediss+socket', 'azureservicebus'])
def test_no_password_in_what_is_said_of_an_attempt(scheme, password, shape, caplog):
    caplog.set_level(logging.DEBUG)
    url = shape.format(s=scheme, p=password)
    assert not secret_in(*texts_of(url, attempt=True))
    assert not secret_in(*(record.getMessage() for record in caplog.records), caplog.text)


@pytest.mark.parametrize('scheme', SCHEMES)
def test_no_password_in_a_masked_url(scheme):
    for url in urls(scheme, (*SHAPES, *KEYS[:3])):
        if '@' in url:
            assert not secret_in(sanitize_url(url), maybe_sanitize_url(url)), url
        if '@' in url and '://' in url and ' ' not in url:
            assert not secret_in(hide_passwords(f'failed at ({url}), so it is')), url


def test_kombus_azure_urls_are_shown_without_their_keys():
    shown = Connection('azurestoragequeues://KE/Y==@https://acc.queue.example.net').as_uri()
    assert shown == 'azurestoragequeues://**@https://acc.queue.example.net'
    assert Connection('azureservicebus://policy:K/EY=@ns').as_uri() == 'azureservicebus://policy:**@ns'
    assert Connection('sqs://id:secret@').as_uri() == 'sqs://id:**@localhost//'
    given = 'azureservicebus://policy:K/EY=@ns'
    assert Connection(given).as_uri(include_password=True) == given


@pytest.mark.parametrize(
    'url',
    ['u:pw@host:5673', 'amqp:/u:pw@h', 'amqp://u:p?w@h', 'amqp://u:p#w@h', 'amqp://u:p/w@h', 'amqp://u:1/w@h',
     'amqp://u:1?w@h', 'amqp:///u:pw@h', 'amqp://u:1?a=b@h'],
)
def test_what_may_hide_a_password_is_refused_and_says_what_to_do(url):
    with pytest.raises(InvalidArgument, match='percent-encode') as caught:
        Connection(url)
    assert 'w' not in caught.value.args[0].rpartition(': ')[2]


def test_doctor_shows_none():
    for url in ('amqp://u:HEADTAIL@127.0.0.1:1//', 'u:HEADTAIL@h', 'redis://127.0.0.1:1/HEADTAIL',
                'azurestoragequeues://HEADTAIL@https://x'):
        assert not secret_in(str(doctor(url))), url


def test_urls_within_a_text_are_masked():
    text = "cannot reach 'amqp://u:pw@h:1/v' nor http://example.net/page."
    assert hide_passwords(text) == "cannot reach 'amqp://u:**@h:1/v' nor http://example.net/page."


@pytest.mark.parametrize('url', ['redis://h/abc', 'sentinel://h', 'nosuch://h', 'amqp://h', 'mongodb://h1,h2'])
def test_repr_never_raises(url):
    connection = Connection(url)
    assert repr(connection) and connection.as_uri() and connection.host
