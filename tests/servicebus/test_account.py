"""URLs, connection strings, names, tokens: without a server."""

from __future__ import annotations

import time
from urllib.parse import parse_qs

import pytest

from greenmq import Connection
from greenmq.exceptions import InvalidArgument
from greenmq.transport import get_transport_cls
from greenmq.transport.azureservicebus import Transport
from greenmq.transport.azureservicebus.account import account_of
from greenmq.transport.azureservicebus.names import Names, canonical
from greenmq.transport.azureservicebus.tokens import Tokens, signed

SUFFIX = 'servicebus.windows.net'


@pytest.mark.parametrize('url, expected', [
    ('azureservicebus://pol:k/e+y=@ns', (f'ns.{SUFFIX}', 5671, True, 'key', 'pol', 'k/e+y=')),
    ('azureservicebus://pol:k%2Fy=@ns', (f'ns.{SUFFIX}', 5671, True, 'key', 'pol', 'k/y=')),
    (f'azureservicebus://pol:key@ns.{SUFFIX}', (f'ns.{SUFFIX}', 5671, True, 'key', 'pol', 'key')),
    ('azureservicebus://p:k@ns.servicebus.chinacloudapi.cn',
     ('ns.servicebus.chinacloudapi.cn', 5671, True, 'key', 'p', 'k')),
    ('azureservicebus://p:k@ns:5673', (f'ns.{SUFFIX}', 5673, True, 'key', 'p', 'k')),
    ('azureservicebus://p:k@localhost:7?tls=0', ('localhost', 7, True, 'key', 'p', 'k')),
    ('azureservicebus://defaultazurecredential@ns',
     (f'ns.{SUFFIX}', 5671, True, 'identity', '', 'DefaultAzureCredential')),
    ('azureservicebus://ManagedIdentityCredential@ns',
     (f'ns.{SUFFIX}', 5671, True, 'identity', '', 'ManagedIdentityCredential')),
])
def test_urls(url, expected):
    assert account_of(url)[:6] == expected


def test_where_it_is_managed():
    assert account_of('azureservicebus://p:k@ns').management == f'https://ns.{SUFFIX}'
    assert account_of('azureservicebus://p:k@127.0.0.1', tls=False).management == 'http://127.0.0.1:5300'
    assert account_of('azureservicebus://p:k@ns', management_url='http://h:1/').management == 'http://h:1'


@pytest.mark.parametrize('text, expected', [
    (f'Endpoint=sb://ns.{SUFFIX}/;SharedAccessKeyName=p;SharedAccessKey=k=;EntityPath=q',
     (f'ns.{SUFFIX}', 5671, True, 'key', 'p', 'k=', 'q')),
    (f'Endpoint=sb://ns.{SUFFIX}/;SharedAccessSignature=SharedAccessSignature sr=x&sig=y&se=9&skn=p',
     (f'ns.{SUFFIX}', 5671, True, 'sas', '', 'SharedAccessSignature sr=x&sig=y&se=9&skn=p', '')),
    ('Endpoint=sb://localhost;SharedAccessKeyName=p;SharedAccessKey=k;UseDevelopmentEmulator=true;',
     ('localhost', 5672, False, 'key', 'p', 'k', '')),
    ('Endpoint=sb://127.0.0.1:7;SharedAccessKeyName=p;SharedAccessKey=k;UseDevelopmentEmulator=true;',
     ('127.0.0.1', 7, False, 'key', 'p', 'k', '')),
])
def test_connection_strings(text, expected):
    assert account_of('azureservicebus://', text)[:7] == expected


@pytest.mark.parametrize('url', [
    'azureservicebus://', 'azureservicebus://ns', 'azureservicebus://policy@ns', 'azureservicebus://:key@ns',
    'azureservicebus://p:secret@ns:port',
])
def test_what_is_no_url_is_refused_without_a_secret(url):
    with pytest.raises(InvalidArgument) as caught:
        account_of(url)
    assert 'secret' not in str(caught.value)


def test_without_tls_only_on_the_loopback():
    with pytest.raises(InvalidArgument, match='loopback'):
        account_of('azureservicebus://p:k@ns', tls=False)
    assert not account_of('azureservicebus://p:k@127.0.0.1:1', tls=False).tls


def test_the_url_of_a_connection_hides_the_key():
    connection = Connection('azureservicebus://policy:K/EY=@ns')
    assert connection.as_uri() == 'azureservicebus://policy:**@ns'
    assert connection.as_uri(include_password=True) == 'azureservicebus://policy:K/EY=@ns'
    assert Transport.as_uri('azureservicebus://DefaultAzureCredential@ns') == (
        'azureservicebus://DefaultAzureCredential@ns')


def test_a_url_is_taken_apart_as_by_kombu():
    assert Transport.parse_uri('azureservicebus://p:some/key@ns') == (f'ns.{SUFFIX}', 'p:some/key')
    with pytest.raises(ValueError, match='URL'):
        Transport.parse_uri('azureservicebus://ns')
    assert get_transport_cls('azureservicebus') is Transport


def facts_of(token):
    head, _, rest = token.partition(' ')
    return head, parse_qs(rest, strict_parsing=True)


class TestNames:

    @pytest.mark.parametrize('name, found', [
        ('celery', 'celery'), ('a.b-c_d', 'a.b-c_d'), ('celery@host.pidbox', 'celery_host.pidbox'),
        ('a/b$c', 'a_b_c'), ('x' * 260, 'x' * 260),
    ])
    def test_as_kombu_has_them(self, name, found):
        assert canonical(name) == found
        assert canonical(name, 'p.') == f'p.{found}' if len(name) < 200 else True

    def test_dots_as_up_to_kombu_5_6(self):
        assert canonical('a.b_c', 'p.', 'dash') == 'p-a-b_c'

    def test_two_that_would_be_one_are_refused(self):
        names = Names('', 'keep')
        assert names.of('a/b') == 'a_b'
        for other in ('a_b', 'A/b', 'a$b'):
            with pytest.raises(InvalidArgument, match='would be'):
                names.of(other)
        assert names.of('a/b') == 'a_b' and names.back('a_b') == 'a/b'

    def test_the_dead_letters_of_a_queue(self):
        names = Names('p-', 'keep')
        assert names.of('q/$DeadLetterQueue') == 'p-q/$DeadLetterQueue'
        assert names.of('q/$deadletterqueue') == 'p-q/$DeadLetterQueue'

    def test_what_no_queue_can_be_called(self):
        for name in ('', 'x' * 261):
            with pytest.raises(InvalidArgument):
                canonical(name)


class TestTokens:

    def test_one_is_signed_as_by_the_vendors_client(self):
        theirs = pytest.importorskip('azure.servicebus._pyamqp.utils').generate_sas_token
        for resource, policy, key in (('sb://ns/q', 'pol', 'a2V5'), ('sb://ns/a b/$x', 'p-q', 'k/+=')):
            ours = signed(resource, policy, key, 1000)
            assert facts_of(ours) == facts_of(theirs(resource, policy, key, 1000))

    def test_a_given_one_is_shown_as_it_is(self):
        text = 'SharedAccessSignature sr=x&sig=y&se=1234&skn=p'
        account = account_of('azureservicebus://', f'Endpoint=sb://ns;SharedAccessSignature={text}')
        assert Tokens(account, None, 60).of('sb://ns/q', None)[1:] == (text, 1234.0)

    def test_those_that_a_key_signs_last_as_long_as_asked(self):
        account = account_of('azureservicebus://p:k@ns')
        assert 50 < Tokens(account, None, 60).of('sb://ns/q', None)[2] - time.time() <= 60
