"""Which account a URL means, how requests are signed, how queues are called."""

from __future__ import annotations

import hashlib
import hmac
import string
import time
from base64 import b64decode, b64encode
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenmq import Connection, runtime
from greenmq.exceptions import AccessRefused, InvalidArgument
from greenmq.transport import http
from greenmq.transport.azurestoragequeues.account import account_of, options_of
from greenmq.transport.azurestoragequeues.names import Names, canonical, poison
from greenmq.transport.azurestoragequeues.service import Service
from greenmq.transport.azurestoragequeues.signing import Bearer, signer_of
from greenmq.transport.entra import RENEW_EARLY
from tests.support import green
from tests.support.http_peer import HTTPPeer, answer

pytestmark = pytest.mark.once

KEY = b64encode(bytes(range(180, 230))).decode()  # with slashes and plus signs
HOST = 'https://acc.queue.core.windows.net'
SOON = runtime.Deadline.after


class TestURL:

    @pytest.mark.parametrize('url, found', [
        (f'{KEY}@{HOST}', (HOST, 'acc', 'key', KEY)),
        (f'azurestoragequeues://{KEY}@{HOST}/', (HOST, 'acc', 'key', KEY)),
        (f'azurestoragequeues://{quote(KEY, safe="")}@{HOST}', (HOST, 'acc', 'key', KEY)),
        (f'azurestoragequeues://{KEY}@acc.queue.core.windows.net', (HOST, 'acc', 'key', KEY)),
        (f'azurestoragequeues://{KEY}@https://acc.queue.core.chinacloudapi.cn',
         ('https://acc.queue.core.chinacloudapi.cn', 'acc', 'key', KEY)),
        (f'azurestoragequeues://{KEY}@https://acc.z01.queue.storage.azure.net',
         ('https://acc.z01.queue.storage.azure.net', 'acc', 'key', KEY)),
        (f'azurestoragequeues://{KEY}@http://127.0.0.1:10001/other?polling_interval=3',
         ('http://127.0.0.1:10001/other', 'other', 'key', KEY)),
        (f'azurestoragequeues://{KEY}@http://azurite:10001/devstoreaccount1',
         ('http://azurite:10001/devstoreaccount1', 'devstoreaccount1', 'key', KEY)),
        (f'azurestoragequeues://?sv=2021&sig=a%2Fb@{HOST}', (HOST, 'acc', 'sas', 'sv=2021&sig=a%2Fb')),
        (f'azurestoragequeues://defaultazurecredential@{HOST}',
         (HOST, 'acc', 'identity', 'DefaultAzureCredential')),
        (f'azurestoragequeues://ManagedIdentityCredential@{HOST}',
         (HOST, 'acc', 'identity', 'ManagedIdentityCredential')),
    ])
    def test_leads_to(self, url, found):
        assert tuple(account_of(url, None)) == found

    @pytest.mark.parametrize('text, found', [
        (f'DefaultEndpointsProtocol=https;AccountName=acc;AccountKey={KEY};EndpointSuffix=core.windows.net',
         (HOST, 'acc', 'key', KEY)),
        (f'AccountName=acc;AccountKey={KEY};QueueEndpoint=http://127.0.0.1:1/acc;',
         ('http://127.0.0.1:1/acc', 'acc', 'key', KEY)),
        (f'QueueEndpoint={HOST}/;SharedAccessSignature=sv=1&sig=x', (HOST, 'acc', 'sas', 'sv=1&sig=x')),
    ])
    def test_a_connection_string_leads_to(self, text, found):
        assert tuple(account_of('azurestoragequeues://', text)) == found

    def test_the_emulators_word(self):
        account = account_of('azurestoragequeues://', 'UseDevelopmentStorage=true')
        assert (account.url, account.name) == ('http://127.0.0.1:10001/devstoreaccount1', 'devstoreaccount1')

    @pytest.mark.parametrize('url, text', [
        ('azurestoragequeues://', 'shape'),
        (f'azurestoragequeues://secret!@{HOST}', 'neither an account key'),
        (f'azurestoragequeues://{KEY}@http://example.net', 'names no account'),
        (f'azurestoragequeues://{KEY}@ftp://acc.queue.x', 'neither http'),
        ('azurestoragequeues://DefaultAzureCredential@http://acc.queue.x', 'use https'),
    ])
    def test_what_leads_nowhere(self, url, text):
        with pytest.raises(InvalidArgument, match=text) as caught:
            Connection(url).connect()
        assert 'secret!' not in str(caught.value) and KEY not in str(caught.value)

    def test_a_connection_string_that_lacks_its_key_shows_nothing(self):
        with pytest.raises(InvalidArgument, match='lacks') as caught:
            account_of('azurestoragequeues://', 'AccountName=hush')
        assert 'hush' not in str(caught.value)

    def test_its_query_holds_options(self):
        url = f'azurestoragequeues://{KEY}@{HOST}?polling_interval=3&queue_name_prefix=p-'
        assert options_of(url) == {'polling_interval': '3', 'queue_name_prefix': 'p-'}
        assert Connection(url).transport_options['polling_interval'] == 3.0
        with pytest.raises(InvalidArgument, match='before the @'):
            Connection(f'azurestoragequeues://{KEY}@{HOST}?sv=1&sig=hush')

    def test_shows_no_secret(self):
        url = f'azurestoragequeues://{KEY}@{HOST}?polling_interval=3'
        connection = Connection(url)
        assert connection.as_uri() == f'azurestoragequeues://**@{HOST}'
        assert KEY in connection.as_uri(include_password=True)
        account = account_of(url, None)
        for text in (repr(connection), repr(connection.transport), repr(account), account.shown):
            assert KEY not in text


class TestSigning:

    def test_a_key_signs_as_the_service_documents(self, monkeypatch):
        monkeypatch.setattr('greenmq.transport.azurestoragequeues.signing.formatdate',
                            lambda usegmt: 'Fri, 26 Jun 2015 23:39:12 GMT')
        signer = signer_of(account_of(f'{KEY}@{HOST}', None), None)
        params = [('visibilitytimeout', '5'), ('messagettl', '-1')]
        query, headers = signer.sign('POST', '/q/messages', params, 12, SOON(1))
        text = ('POST\n\n\n12\n\napplication/xml\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\n'
                'x-ms-version:2021-02-12\n/acc/q/messages\nmessagettl:-1\nvisibilitytimeout:5')
        digest = b64encode(hmac.new(b64decode(KEY), text.encode(), hashlib.sha256).digest()).decode()
        assert headers['Authorization'] == f'SharedKey acc:{digest}'
        assert query == 'visibilitytimeout=5&messagettl=-1'

    def test_a_sas_token_joins_the_query(self):
        signer = signer_of(account_of(f'sv=1&sig=x@{HOST}', None), None)
        assert signer.sign('GET', '/', [], 0, SOON(1))[0] == 'sv=1&sig=x'
        assert signer.sign('GET', '/', [('comp', 'list')], 0, SOON(1))[0] == 'comp=list&sv=1&sig=x'


class Identity:
    """A credential as azure-identity has them: it blocks its thread."""

    def __init__(self, seconds=3600.0, takes=0.0):
        self.given = 0
        self.seconds, self.takes = seconds, takes

    def get_token(self, *scopes):
        assert scopes == ('https://storage.azure.com/.default',)
        time.sleep(self.takes)
        self.given += 1
        return SimpleNamespace(token=f'token{self.given}', expires_on=int(time.time() + self.seconds))


class TestEntraID:

    @pytest.fixture
    def peer(self):
        with HTTPPeer(lambda asked: answer(200, x_ms_request_id='1')) as peer:
            yield peer

    @pytest.fixture
    def service(self, peer):
        client = http.Client()
        account = account_of(f'x@{peer.url}/acc', None, given=True)
        yield lambda identity: Service(client, account, signer_of(account, identity))
        client.close()
        runtime.sleep(0.01)

    def test_a_token_is_fetched_once_for_all_and_blocks_nobody(self, service, peer):
        identity = Identity(takes=0.5)
        made = service(identity)
        tasks = [green.spawn(made.count, 'queue', SOON(10)) for _ in range(20)]
        ticks = 0
        while not all(task.ready() for task in tasks):
            green.sleep(0.01)
            ticks += 1
        green.joinall(tasks, raise_error=True)
        assert identity.given == 1 and ticks > 20
        assert {asked.headers['authorization'] for asked in peer.asked} == {'Bearer token1'}

    def test_it_is_renewed_in_the_background_before_it_ends(self, service, peer):
        identity = Identity(RENEW_EARLY / 2)
        made = service(identity)
        made.count('queue', SOON(10))
        made.count('queue', SOON(10))
        with green.Timeout(5):
            while identity.given < 2:
                green.sleep(0.01)
        green.sleep(0.05)
        made.count('queue', SOON(10))
        assert peer.asked[-1].headers['authorization'] == 'Bearer token2'
        green.sleep(0.05)

    def test_an_identity_that_gives_none_is_told(self, service):
        class Broken:
            def get_token(self, *scopes):
                raise RuntimeError('no identity here')

        with pytest.raises(AccessRefused, match='no identity here'):
            service(Broken()).count('queue', SOON(10))

    def test_the_word_in_a_url_makes_it_of_azure_identity(self, monkeypatch):
        identity = pytest.importorskip('azure.identity')
        made = []
        monkeypatch.setattr(identity, 'DefaultAzureCredential', lambda: made.append(Identity()) or made[0])
        bearer = Bearer('DefaultAzureCredential')
        for _ in range(2):
            assert bearer.sign('GET', '/', [], 0, SOON(5))[1]['Authorization'] == 'Bearer token1'
        assert len(made) == 1


class TestNames:

    @pytest.mark.parametrize('name, found', [
        ('celery', 'celery'), ('a.b_c', 'a-b-c'), ('Tasks', 'tasks'), ('a..b', 'a-b'), ('.abc.', 'abc'),
        ('celery@host.celery.pidbox', 'celery-host-celery-pidbox'), ('x' * 63, 'x' * 63),
    ])
    def test_of_queues(self, name, found):
        assert canonical(name) == found

    def test_what_would_be_illegal_gets_a_hash(self):
        for name in ('q', 'x' * 64, '\u00e4bc', '...', 'a' * 62 + '.b'):
            found = canonical(name)
            assert 3 <= len(found) <= 63 and found != name
        assert canonical('\u00e4bc') != canonical('\u00f6bc')
        assert poison('x' * 60, '-poison') != poison('x' * 59, '-poison')

    @settings(max_examples=50)
    @given(st.text(min_size=1), st.text(string.ascii_lowercase + '-_.', max_size=10))
    def test_any_name_is_legal(self, name, prefix):
        found = canonical(name, prefix)
        assert 3 <= len(found) <= 63 and '--' not in found
        assert set(found) <= set(string.ascii_lowercase + string.digits + '-')
        assert found[0] != '-' != found[-1]
        assert canonical(name, prefix) == found

    def test_two_queues_that_would_be_one_are_refused(self):
        names = Names('p.')
        assert names.of('a.b') == 'p-a-b' == names.of('a.b')
        with pytest.raises(InvalidArgument, match=r"would be 'p-a-b' at the service, as 'a.b' is"):
            names.of('a_b')
        assert names.back('p-a-b') == 'a.b' and names.back('p-zz') == 'zz'
