"""The hub goes on while a cloud queue is connected to, asked, and silent, whatever is patched (P43)."""
from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from tests import patch_matrix
from tests.support import green
from tests.support.process import end, popen

SOAK = bool(os.environ.get('GREENMQ_SOAK'))
ACTIONS = ('connect', 'black hole', 'silence', 'slow name', 'publish', 'consume', 'tls', 'tls silence')
#: What a program does first; one of each kind in every run, and all of them in a soak.
FEW = {('gevent', 'not patched'): 'sqs', ('gevent', 'before import'): 'azure',
       ('eventlet', 'before import'): 'sqs', ('eventlet', 'not patched'): 'azure'}
CELLS = [(cell, broker) for cell in patch_matrix.ORDERS for broker in ('sqs', 'azure')
         if SOAK or FEW.get(cell) == broker]

pytestmark = [
    pytest.mark.own_process, pytest.mark.slow, pytest.mark.green_timeout(600 if SOAK else 180),
    pytest.mark.skipif(green.RUNTIME != 'gevent' or green.PATCHED, reason='run in the unpatched process'),
]


def _name(part):
    return part if isinstance(part, str) else '-'.join(part)


class Helper:
    """A program that listens on a port that it prints."""

    def __init__(self, module, *arguments):
        self.process = popen([sys.executable, '-m', module, *map(str, arguments)], stdout=subprocess.PIPE)
        self.port = int(self.process.stdout.readline())

    def __enter__(self):
        return self.port

    def __exit__(self, *exc_info):
        end(self.process)
        self.process.stdout.close()


def cloud_facts(broker, server, tls_port, holes, seconds, actions=ACTIONS):
    query = '?is_secure=0&wait_time_seconds=1' if broker == 'sqs' else '?polling_interval=0.2'
    url, port = server.url(query=query), server.port
    secure = server.url(port=tls_port, query=query).replace('is_secure=0', 'is_secure=1')
    secure = secure.replace('@http://', '@https://').replace('127.0.0.1', 'localhost')
    return {
        'url': url, 'tls': secure, 'ssl': None, 'seconds': seconds, 'step': 0.05, 'actions': list(actions),
        'hole': url.replace(f':{port}/', f':{holes.hole}/'),
        'silent': url.replace(f':{port}/', f':{holes.silent}/'),
        'tls_silent': secure.replace(f':{tls_port}/', f':{holes.silent}/'),
        'named': url.replace('127.0.0.1', 'slow.example'),
    }  # fmt: skip


@pytest.mark.parametrize(('cell', 'broker'), CELLS, ids=_name)
def test_a_ticker_goes_on_beside_a_cloud_queue(cell, broker, request, certificates, monkeypatch):
    if importlib.util.find_spec(cell[0]) is None:
        pytest.skip(f'{cell[0]} is not installed')
    server = request.getfixturevalue('fauxqs' if broker == 'sqs' else 'azurite')
    monkeypatch.setenv('AWS_CA_BUNDLE', str(certificates.ca))
    front = Helper('tests.support.tls_front', server.port, certificates.server, certificates.server_key)
    with patch_matrix.Holes() as holes, front as tls_port:
        given = cloud_facts(broker, server, tls_port, holes, 1.0)
        shares = patch_matrix.best_of(cell, given)
    print(patch_matrix.line(cell, broker, shares))
    assert set(shares) == set(ACTIONS)
    assert min(shares.values()) >= patch_matrix.SHARE, shares


@pytest.mark.parametrize('cell', [('gevent', 'not patched'), ('gevent', 'before import'),
                                  ('eventlet', 'before import')], ids=_name)
def test_a_look_for_credentials_that_takes_seconds_holds_up_nobody(cell, fauxqs, monkeypatch, tmp_path):
    if importlib.util.find_spec(cell[0]) is None:
        pytest.skip(f'{cell[0]} is not installed')
    for name in list(os.environ):
        if name.startswith('AWS_'):
            monkeypatch.delenv(name)
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('AWS_METADATA_SERVICE_TIMEOUT', '20')
    with Helper('tests.support.slow_metadata', 3.0) as port, patch_matrix.Holes() as holes:
        monkeypatch.setenv('AWS_EC2_METADATA_SERVICE_ENDPOINT', f'http://127.0.0.1:{port}')
        given = cloud_facts('sqs', fauxqs, port, holes, 3.0, ['connect'])
        given['url'] = given['url'].replace('key:secret@', '')
        shares = patch_matrix.best_of(cell, given)
    assert shares['connect'] >= patch_matrix.SHARE, shares
