"""A private PostgreSQL: TCP and unix socket on a free port, a database a test."""
from __future__ import annotations

import contextlib
import functools
import glob
import os
import pathlib
import pwd
import shutil
import signal
import uuid

import pytest

from tests.support.process import (
    LIBC,
    PR_SET_PDEATHSIG,
    Server,
    free_ports,
    runs,
    servers_required,
    stat,
    wait_until,
)


def programs():
    """The folder of the server's programs, which Debian keeps off the path. None: skips, and in CI fails."""
    found = sorted(glob.glob('/usr/lib/postgresql/*/bin/postgres'), key=_version)
    path = found[-1] if found else shutil.which('postgres')
    if path is None:
        (pytest.fail if servers_required() else pytest.skip)('not installed: postgresql')
    return pathlib.Path(path).parent


def _version(path):
    return [int(part) if part.isdigit() else 0 for part in path.split('/')[4].split('.')]


@functools.cache
def account():
    """Whose process it is: it refuses to be root's."""
    if os.getuid() != 0:
        return None
    try:
        return pwd.getpwnam('postgres')
    except KeyError:
        return pwd.getpwnam('nobody')


def become():
    """In the child: another user first, since that clears the wish to die with the parent."""
    user = account()
    if user is not None:
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGINT)


class PostgreSQL(Server):
    """One server. Its data survives `restart()`. `settings` are of its configuration."""

    def __init__(self, **settings):
        self.bin = programs()
        super().__init__('postgresql')
        self.settings = settings
        self._pgmq_template = None
        self.port, = free_ports(1)
        self.data = self.directory / 'data'
        user = account()
        if user is not None:
            os.chown(self.directory, user.pw_uid, user.pw_gid)
        self._initialise()

    def _initialise(self):
        import subprocess

        subprocess.run(
            [str(self.bin / 'initdb'), '-D', str(self.data), '-U', 'postgres', '-A', 'trust', '-E', 'UTF8',
             '--locale=C.UTF-8', '--no-sync'],
            preexec_fn=become, cwd=self.directory, check=True, stdout=subprocess.DEVNULL, timeout=60,
        )

    def command(self):
        return [str(self.bin / 'postgres'), '-D', str(self.data), '-p', str(self.port),
                '-k', str(self.directory),
                # Processes are killed here, never the machine: what the system was given is not lost.
                '-c', 'fsync=off',
                '-c', 'listen_addresses=127.0.0.1', '-c', 'max_connections=200', '-c', 'lc_messages=C',
                *(word for name, value in self.settings.items() for word in ('-c', f'{name}={value}'))]

    preexec = staticmethod(become)

    def answers(self):
        import psycopg

        try:
            with self.client():
                return True
        except psycopg.OperationalError:
            return False

    def client(self, database='postgres'):
        """A connection for the test, each statement a transaction."""
        import psycopg

        return psycopg.connect(
            host=str(self.directory), port=self.port, user='postgres', dbname=database, autocommit=True,
            connect_timeout=5,
        )

    def run(self, statement, *values, database='postgres'):
        """Run a statement, and return its rows."""
        with self.client(database) as client:
            cursor = client.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def create_database(self, template='template1', more=''):
        name = f'test_{uuid.uuid4().hex[:12]}'
        # Without it all pages of the template are written to the log, since version 15.
        quick = ' STRATEGY file_copy' if self.run('SHOW server_version_num')[0][0] >= '150000' else ''
        self.run(f'CREATE DATABASE {name} TEMPLATE {template}{quick} {more}')
        return name

    def pgmq_template(self):
        """The name of a database to be copied that has pgmq, as its client's package installs it."""
        if self._pgmq_template is None:
            from pgmq.install import get_embedded_install_sql, install_pgmq_sql

            name = self.create_database()
            install_pgmq_sql(get_embedded_install_sql(), dsn=self.url(name))
            self._pgmq_template = name
        return self._pgmq_template

    def drop_database(self, name):
        if not self.running:
            self.start()
        self.run(f'DROP DATABASE IF EXISTS {name} WITH (FORCE)')

    def terminate(self, database):
        """End the server's side of every connection to a database, as an administrator would."""
        return len(self.run(
            'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s', database
        ))

    def sessions(self, database):
        """How many connections the server has to a database."""
        statement = 'SELECT count(*)::int FROM pg_stat_activity WHERE datname = %s'
        return self.run(statement, database)[0][0]

    def url(self, database='postgres', scheme='postgresql'):
        return f'{scheme}://postgres@127.0.0.1:{self.port}/{database}'

    def pause(self):
        """Freeze the server and all its backends."""
        self._signal_all(signal.SIGSTOP)

    def resume(self):
        self._signal_all(signal.SIGCONT)

    def kill(self):
        """SIGKILL to all of it: no new one starts while a process of the old one has its shared memory."""
        others = self._processes() if self.running else []
        super().kill()
        for pid in others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(map(runs, others)), 10, 'the processes of the server to end')

    def _processes(self):
        """The first, and its children."""
        first = self.process.pid
        found = {int(path.name): stat(path.name) for path in pathlib.Path('/proc').glob('[0-9]*')}
        return [first, *(pid for pid, fields in found.items() if fields and int(fields[1]) == first)]

    def _signal_all(self, number):
        for pid in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
