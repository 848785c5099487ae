"""A private MariaDB on a free port, a database a test."""
from __future__ import annotations

import os
import subprocess
import uuid

from tests.support.process import Server, die_with_parent, free_ports, need


class MariaDB(Server):
    """One server. Its data survives `restart()`: what it commits it gives to the system at once."""

    def __init__(self):
        self.program, self.installer = need('mariadbd', 'mariadb-install-db')
        super().__init__('mariadb')
        self.port, = free_ports(1)
        self.data = self.directory / 'data'
        self._user = ['--user=root'] if os.getuid() == 0 else []
        subprocess.run(
            [self.installer, '--no-defaults', f'--datadir={self.data}', '--skip-test-db',
             '--skip-name-resolve', '--auth-root-authentication-method=normal', *self._user],
            preexec_fn=die_with_parent, check=True, stdout=subprocess.DEVNULL, timeout=60,
        )

    def command(self):
        return [self.program, '--no-defaults', f'--datadir={self.data}', f'--port={self.port}',
                '--bind-address=127.0.0.1', f'--socket={self.directory}/mariadb.sock', '--skip-name-resolve',
                '--innodb-flush-log-at-trx-commit=2', '--innodb-buffer-pool-size=32M',
                '--performance-schema=OFF', '--skip-log-bin', *self._user]

    def answers(self):
        import pymysql

        try:
            with self.client():
                return True
        except pymysql.err.OperationalError:
            return False

    def client(self, database=None):
        """A connection for the test, each statement a transaction."""
        import pymysql

        return pymysql.connect(
            host='127.0.0.1', port=self.port, user='root', database=database, autocommit=True,
            connect_timeout=5,
        )

    def run(self, statement, *values, database=None):
        """Run a statement, and return its rows."""
        with self.client(database) as client, client.cursor() as cursor:
            cursor.execute(statement, values or None)
            return list(cursor.fetchall())

    def create_database(self):
        name = f'test_{uuid.uuid4().hex[:12]}'
        self.run(f'CREATE DATABASE {name}')
        return name

    def drop_database(self, name):
        if not self.running:
            self.start()
        self.run(f'DROP DATABASE IF EXISTS {name}')

    def url(self, database, scheme='sqla+mysql+pymysql'):
        return f'{scheme}://root@127.0.0.1:{self.port}/{database}'
