"""Log-ins that many wait for: one is made, and a refusal of it is the answer to all."""

from __future__ import annotations

import time

import pytest

from greenmq import runtime
from greenmq.exceptions import AccessRefused
from greenmq.transport import http
from greenmq.transport.driver import Place
from greenmq.transport.entra import Entra
from greenmq.transport.SLMQ.service import Service
from greenmq.transport.SQS.aws import Keys, Login
from greenmq.transport.SQS.exceptions import AccessDeniedQueueException
from tests.support import green
from tests.support.http_peer import HTTPPeer, answer

SOON = runtime.Deadline.after
WAITERS = 20


class Refused:
    """Whoever is asked for credentials, and has none."""

    def __init__(self):
        self.asked = 0

    def get_token(self, *_scopes):  # of azure-identity, in a thread
        self.asked += 1
        time.sleep(0.1)
        raise RuntimeError('nobody is logged in here')

    def assume(self, _deadline):
        self.asked += 1
        runtime.sleep(0.1)
        raise AccessDeniedQueueException('no such role')


def refusals(log_in):
    outcomes = []

    def one():
        try:
            log_in(SOON(10))
        except AccessRefused as error:
            outcomes.append(error)

    green.joinall([green.spawn(one) for _ in range(WAITERS)], raise_error=True)
    return outcomes


@pytest.mark.parametrize('kind', ['entra', 'sqs'])
def test_a_refusal_is_told_to_all_who_waited(kind):
    given = Refused()
    log_in = Entra(given, 'scope', 'azure').renew if kind == 'entra' else Keys(Login(), given.assume).renew
    assert len(refusals(log_in)) == WAITERS and given.asked == 1
    assert len(refusals(log_in)) == WAITERS and given.asked == 2  # who comes later asks anew


def test_a_refusal_of_slmq_is_told_to_all_who_waited():
    def refuse(_asked):
        runtime.sleep(0.1)
        return answer(401)

    client = http.Client()
    with HTTPPeer(refuse) as peer:
        host, port = peer.url.rpartition('/')[2].split(':')
        place = Place(host, int(port), 'u', 'p', 'account', 'slmq://')
        service = Service(client, place, False)
        assert len(refusals(service.log_in)) == WAITERS and len(peer.asked) == 1
    client.close()
    runtime.sleep(0)
