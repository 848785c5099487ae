"""As whom SQS is called: keys that end, keys of a role, keys of the environment; and where calls go."""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta, timezone

import pytest

from greenmq import Connection, runtime
from greenmq.exceptions import InvalidArgument
from greenmq.transport import http
from greenmq.transport.SQS.aws import AWS, Keys, Login
from greenmq.transport.SQS.names import canonical, region_of, where
from tests.support import green
from tests.support.cloud import Seen, declared
from tests.support.http_peer import HTTPPeer, answer

pytestmark = pytest.mark.once

SOON = runtime.Deadline.after


def key_of(asked):
    return asked.headers['authorization'].partition('Credential=')[2].partition('/')[0]


@pytest.fixture
def peer():
    with HTTPPeer(lambda asked: answer(200, b'{"QueueUrl": "http://x/1/q"}')) as peer:
        yield peer


@pytest.fixture
def calls(peer):
    client = http.Client()

    def calls(keys):
        return AWS(client, keys, 'us-east-1', {'sqs': peer.url}, {}, {})

    yield calls
    client.close()
    runtime.sleep(0)


def ask(aws):
    return aws.call('sqs', 'get_queue_url', SOON(10), QueueName='q')


class Role:
    """Gives keys that end soon."""

    def __init__(self, seconds, takes=0.0):
        self.given = 0
        self._seconds = seconds
        self._takes = takes

    def __call__(self, deadline):
        self.given += 1
        runtime.sleep(self._takes)
        until = datetime.now(timezone.utc) + timedelta(seconds=self._seconds)
        key = f'key{self.given}'
        return {'Credentials': {'AccessKeyId': key, 'SecretAccessKey': 's', 'SessionToken': 't',
                                'Expiration': until}}


class TestKeys:

    def test_they_are_fetched_once_for_all_who_call(self, calls, peer):
        role = Role(3600, takes=0.1)
        aws = calls(Keys(Login('k', 's'), role))
        green.joinall([green.spawn(ask, aws) for _ in range(50)], raise_error=True)
        assert role.given == 1
        assert {key_of(asked) for asked in peer.asked} == {'key1'}
        assert {asked.headers['x-amz-security-token'] for asked in peer.asked} == {'t'}

    def test_they_are_renewed_in_the_background_before_they_end(self, calls, peer):
        role = Role(30)
        aws = calls(Keys(Login('k', 's'), role))
        ask(aws)
        ask(aws)
        runtime.sleep(0.05)
        assert role.given == 2
        ask(aws)
        assert key_of(peer.asked[-1]) == 'key2'
        runtime.sleep(0.05)

    def test_a_call_waits_for_keys_where_the_old_ones_have_ended(self, calls, peer):
        role = Role(1)
        aws = calls(Keys(Login('k', 's'), role))
        ask(aws)
        ask(aws)
        assert [key_of(asked) for asked in peer.asked] == ['key1', 'key2']

    def test_an_expired_token_is_renewed_once(self, calls, peer):
        role = Role(3600)
        aws = calls(Keys(Login('k', 's'), role))
        expired = json.dumps({'__type': 'com.amazon#ExpiredTokenException', 'message': 'over'}).encode()
        peer.answerer = lambda asked: answer(403, expired) if key_of(asked) == 'key1' else answer(
            200, b'{"QueueUrl": "u"}')
        assert ask(aws)['QueueUrl'] == 'u'
        assert role.given == 2

    def test_a_slow_look_up_blocks_nobody(self, calls, peer, monkeypatch):
        from greenmq.transport.SQS import aws as module

        look_up = module._look_up

        def slow(source):
            time.sleep(0.5)
            return look_up(source)

        monkeypatch.setattr(module, '_look_up', slow)
        monkeypatch.setenv('AWS_ACCESS_KEY_ID', 'from-env')
        monkeypatch.setenv('AWS_SECRET_ACCESS_KEY', 's')
        task = green.spawn(ask, calls(Keys(Login())))
        ticks = 0
        while not task.ready():
            green.sleep(0.01)
            ticks += 1
        task.get()
        assert ticks > 20
        assert key_of(peer.asked[-1]) == 'from-env'


class TestWhere:

    @pytest.mark.parametrize('given, found', [
        (('', None, None, None), (None, None)),
        (('', None, 'eu-west-1', None), (None, 'eu-west-1')),
        (('127.0.0.1', 4566, None, None), ('http://127.0.0.1:4566', None)),
        (('localhost', 4566, None, True), ('https://localhost:4566', None)),
        (('sqs.eu-west-1.amazonaws.com', None, None, None),
         ('https://sqs.eu-west-1.amazonaws.com', 'eu-west-1')),
        (('vpce-1.sqs.us-gov-west-1.vpce.amazonaws.com', 443, None, None),
         ('https://vpce-1.sqs.us-gov-west-1.vpce.amazonaws.com:443', 'us-gov-west-1')),
        (('localstack', 4566, 'us-east-1', False), ('http://localstack:4566', 'us-east-1')),
    ])
    def test_a_url_leads_to(self, given, found):
        assert tuple(where(*given)) == found

    def test_a_host_of_another_region_is_refused(self):
        with pytest.raises(InvalidArgument, match='eu-west-1'):
            where('sqs.eu-west-1.amazonaws.com', None, 'us-east-1', None)

    def test_regions(self):
        assert region_of('eu-central-1.queue.amazonaws.com') == 'eu-central-1'
        assert region_of('example.com') is None

    @pytest.mark.parametrize('given, found', [
        ('celery', 'celery'), ('a.b', 'a-b'), ('a@b c', 'a_b_c'), ('x.fifo', 'x.fifo'),
        ('a.b.fifo', 'a-b.fifo'), ('\u00e4', '_'),
    ])
    def test_names(self, given, found):
        assert canonical(given) == found
        assert canonical(given, 'p.') == f'p-{found}'

    def test_a_name_that_is_too_long(self):
        assert len(canonical('x' * 80)) == 80
        with pytest.raises(InvalidArgument, match='81 characters'):
            canonical('x' * 76 + '.fifo')

    @pytest.mark.parametrize('url, host', [
        ('sqs://', ''), ('sqs://key:se%2Fcret@', ''), ('SQS://', ''),
        ('sqs://a:b@localhost:4566', 'localhost'),
    ])
    def test_without_a_host_it_is_amazons_own(self, url, host):
        for connection in (Connection(url), Connection(url).clone()):
            assert connection.transport.place().host == host

    def test_a_wrong_wait_is_refused(self):
        with pytest.raises(InvalidArgument, match='0 to 20'):
            Connection('sqs://', transport_options={'wait_time_seconds': 21}).connect()


def test_the_keys_of_a_role(connect, moto, name, monkeypatch):
    client = moto.client()
    url = client.create_queue(QueueName=name)['QueueUrl']
    options = {'predefined_queues': {name: {'url': url}}, 'sts_role_arn': 'arn:aws:iam::123456789012:role/r',
               'sts_endpoint': f'http://127.0.0.1:{moto.port}'}
    connection = connect(moto.url(), **options)
    queue = declared(connection, name)
    connection.Producer(routing_key=name, serializer='json').publish('by a role')
    seen = Seen(connection, queue)
    seen.until(lambda: seen.bodies == ['by a role'])
    seen.stop()
