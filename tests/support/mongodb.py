"""MongoDB's protocol spoken by FerretDB, a server on SQLite; and by a peer that fails when it is told to."""
from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.support.process import Server, end, free_ports, popen, servers_required

ROOT = pathlib.Path(__file__).parents[2]
FERRETDB = ROOT / '.cache/ferretdb/ferretdb'


class FerretDB(Server):
    """One server. Its data survives `restart()`."""

    def __init__(self):
        if not FERRETDB.exists():
            (pytest.fail if servers_required() and has_go() else pytest.skip)('not built: FerretDB')
        super().__init__('ferretdb')
        self.port, = free_ports(1)

    def command(self):
        # It syncs the disk for each document that it changes, which MongoDB does not.
        place = f'file:{self.directory}/?_pragma=synchronous(off)'
        return [str(FERRETDB), '--handler=sqlite', f'--sqlite-url={place}',
                f'--listen-addr=127.0.0.1:{self.port}', f'--state-dir={self.directory}',
                '--telemetry=disable', '--debug-addr=-', '--log-level=error']

    def answers(self):
        import pymongo

        try:
            with pymongo.MongoClient(self.address, serverSelectionTimeoutMS=200) as client:
                return client.admin.command('ping')['ok'] == 1
        except pymongo.errors.PyMongoError:
            return False

    @property
    def address(self):
        return f'mongodb://127.0.0.1:{self.port}'

    def url(self, database, query=''):
        return f'{self.address}/{database}{query}'


class Peer:
    """The peer: see tests.support.mongodb_peer. `streams`: it is a replica set, with change streams."""

    def __init__(self, streams=True):
        pytest.importorskip('mongomock')
        self.process = popen([sys.executable, '-W', 'ignore', '-m', 'tests.support.mongodb_peer'], cwd=ROOT,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())
        self.streams = streams
        self.tests = 0
        self.fresh()

    def fresh(self):
        """Forget all orders; databases of a name are new ones."""
        self.tests += 1
        self.order(state={'set': self.streams, 'streams': self.streams}, heal=True)

    def order(self, **order):
        """Have it do something; gives how often it got each command so far."""
        self.process.stdin.write(json.dumps(order) + '\n')
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def fail(self, command, how, times=1, seconds=0):
        """Let commands of a name, in small letters, fail.

        `how`: 'before' or 'after' it was done the connection is cut; 'NotWritablePrimary'; 'CursorNotFound';
        'slow'.
        """
        self.order(faults=[[command, how, times, seconds]])

    def counts(self):
        return self.order()

    def url(self, database, query=''):
        return f'mongodb://127.0.0.1:{self.port}/{database}{self.tests}{query}'

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        end(self.process)
        self.process.stdin.close()
        self.process.stdout.close()


def has_go():
    import shutil

    return shutil.which('go') is not None or os.path.exists('/usr/local/go/bin/go')
