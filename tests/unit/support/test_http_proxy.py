"""The HTTP proxy that stands between clients and emulators in tests."""
import pytest

from greenmq import runtime
from greenmq.transport.http import Client, NoAnswer
from tests.support.http_peer import HTTPPeer, answer
from tests.support.http_proxy import HTTPProxy

AMZ = {'X-Amz-Target': 'AmazonSQS.SendMessage'}


@pytest.fixture
def peer():
    with HTTPPeer(lambda asked: answer(200, b'{"a": 1, "b": 2}')) as peer:
        yield peer


@pytest.fixture
def ask(peer):
    client = Client()
    with HTTPProxy(peer.port) as proxy:
        def ask(target='/q/messages?visibilitytimeout=1', headers=None, body=b'x'):
            return client.request('POST', f'http://127.0.0.1:{proxy.port}{target}', headers, body, 5.0)

        ask.proxy = proxy
        yield ask
        client.close()
        runtime.sleep(0)


def test_it_counts_by_operation(ask, peer):
    ask(headers=AMZ)
    ask()
    ask('/', {'Content-Type': 'application/x-www-form-urlencoded'}, b'Action=Publish&x=1')
    assert ask.proxy.counts == {'SendMessage': 1, 'POST /q/messages?visibilitytimeout': 1, 'Publish': 1}
    assert len(peer.asked) == 3
    assert peer.asked[0].body == b'x'
    ask.proxy.reset()
    assert ask.proxy.total == 0


def test_it_answers_in_place_of_the_server(ask, peer):
    ask.proxy.answer('SendMessage', 403, 'no', {'X-Why': 'because'}, skip=1, times=1)
    answers = [ask(headers=AMZ) for _ in range(3)]
    assert [got.status for got in answers] == [200, 403, 200]
    assert (answers[1].body, answers[1].headers['x-why']) == (b'no', 'because')
    assert len(peer.asked) == 2
    assert ask.proxy.broken == 1


@pytest.mark.parametrize('fault, seen', [('cut_before', 0), ('cut_after', 1), ('cut_middle', 1)])
def test_it_cuts(ask, peer, fault, seen):
    getattr(ask.proxy, fault)('SendMessage', times=1)
    with pytest.raises(NoAnswer):
        ask(headers=AMZ)
    assert len(peer.asked) == seen
    assert ask(headers=AMZ).status == 200


def test_it_changes_a_json_answer(ask):
    ask.proxy.rewrite('SendMessage', {'b': 3})
    assert ask(headers=AMZ).body == b'{"a": 1, "b": 3}'
    ask.proxy.heal()
    assert ask(headers=AMZ).body == b'{"a": 1, "b": 2}'
